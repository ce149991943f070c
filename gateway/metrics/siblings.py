"""The workers of one process group ask each other for their figures, so that one scrape answers for all of them.

Each worker answers on a Unix socket of its own in a private folder that their parent made. A worker that is asked by Prometheus asks all
others; one that is gone, or hangs, is reported as down. A worker that takes the place of one that died has its number: its counters
begin at 0, as Prometheus expects of a counter whose process was started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from .figures import Figures

__all__ = ["ALONE", "Siblings", "WorkerGroup"]

log = logging.getLogger("gateway.metrics")

ANSWER_SECONDS = 1.0

_decode = msgspec.msgpack.Decoder(Figures).decode


class WorkerGroup(NamedTuple):
    """The group of a worker process, as this worker has it: its own ``number`` from 0, how many ``workers`` there are, and the ``folder`` of
    their sockets, None if it is alone.
    """

    number: int
    workers: int
    folder: Path | None


ALONE = WorkerGroup(0, 1, None)


class Siblings:
    """The other workers of the group, as one of them sees them. ``own`` makes this worker's figures."""

    def __init__(self, group: WorkerGroup, own: Callable[[], Awaitable[Figures]]) -> None:
        self._group = group
        self._own = own
        self._silent: set[int] = set()  # those that did not answer last time

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answers the others while it is entered. A socket that cannot be made is logged: this worker is reported as down then."""
        async with contextlib.AsyncExitStack() as stack:
            if self._group.folder is not None:
                try:
                    await stack.enter_async_context(await self._listen(self._group.folder / str(self._group.number)))
                except OSError as error:
                    log.error("metrics: the other workers cannot ask this one: %s", error)
            yield

    async def _listen(self, path: Path) -> asyncio.Server:
        path.unlink(missing_ok=True)  # of the worker whose place this one takes
        return await asyncio.start_unix_server(self._answer, path)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):  # the one that asked is gone
            writer.write(msgspec.msgpack.encode(await self._own()))
            await writer.drain()

    async def ask(self) -> dict[int, Figures | None]:
        """Every worker of the group → its figures; None for one that did not answer in ANSWER_SECONDS."""
        numbers = range(self._group.workers)
        answers = await asyncio.gather(*[self._own() if number == self._group.number else self._ask(number) for number in numbers])
        return dict(zip(numbers, answers, strict=True))

    async def _ask(self, number: int) -> Figures | None:
        try:
            figures = await self._figures_of(number)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            if number not in self._silent:
                log.warning("metrics: worker %d does not answer: %s", number, str(error) or f"not within {ANSWER_SECONDS:g} s")
            self._silent.add(number)
            return None
        if number in self._silent:
            self._silent.discard(number)
            log.info("metrics: worker %d answers again", number)
        return figures

    async def _figures_of(self, number: int) -> Figures:
        assert self._group.folder is not None
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(self._group.folder / str(number))
            with contextlib.closing(writer):
                return _decode(await reader.read())
