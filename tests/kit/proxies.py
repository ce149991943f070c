"""A way to a Valkey that holds back, delays or loses what is sent over it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["ANSWER", "ASK", "Proxy"]

ASK, ANSWER = "ask", "answer"  # the two ways through it: from a client, from the server


class _Carried:
    """One connection. ``silent`` are its ways on which nothing arrives any more."""

    def __init__(self) -> None:
        self.subscribed = False
        self.silent: set[str] = set()


class Proxy:
    """In front of a Valkey: a Unix socket's path, or a port of 127.0.0.1.

    hold        what the server sends to subscribed connections does not arrive until ``release``
    swallow     everything sent one way is lost until ``pass_on``, on connections that stay open; so it is for them afterwards, too,
                as when a firewall forgot them; ``links_only``: on those alone that are subscribed
    silenced    in its block, ``swallow``
    delayed     in its block everything arrives so many seconds later
    """

    def __init__(self, target: Path | int) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._swallowed: dict[str, bool] = {}  # way → whether of links only
        self._delay = 0.0
        self._carried: set[_Carried] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def swallow(self, way: str, *, links_only: bool = False) -> None:
        """``way`` is ASK or ANSWER."""
        self._swallowed[way] = links_only
        for carried in self._carried:
            self._is_silent(carried, way)

    def pass_on(self) -> None:
        self._swallowed.clear()

    def _is_silent(self, carried: _Carried, way: str) -> bool:
        """Whether nothing arrives that way; from then on nothing ever does."""
        if way in self._swallowed and (carried.subscribed or not self._swallowed[way]):
            carried.silent.add(way)
        return way in carried.silent

    @contextlib.contextmanager
    def silenced(self, way: str) -> Iterator[None]:
        self.swallow(way)
        try:
            yield
        finally:
            self._swallowed.pop(way, None)

    @contextlib.contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    async def _far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, int):
            return await asyncio.open_connection("127.0.0.1", self._target)
        return await asyncio.open_unix_connection(str(self._target))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        carried = _Carried()
        try:
            far_reader, far_writer = await self._far()
        except OSError:  # the server is away
            writer.close()
            return
        self._carried.add(carried)
        ways = [
            asyncio.create_task(self._pass_on(carried, ASK, reader, far_writer)),
            asyncio.create_task(self._pass_on(carried, ANSWER, far_reader, writer)),
        ]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # asyncio's server does not expect it
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._carried.discard(carried)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, far_writer):
                end.close()

    async def _pass_on(self, carried: _Carried, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(2**16):
            if way == ASK:
                carried.subscribed = carried.subscribed or b"SUBSCRIBE\r\n" in part
            elif carried.subscribed:
                await self._flows.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            if not self._is_silent(carried, way):
                writer.write(part)
