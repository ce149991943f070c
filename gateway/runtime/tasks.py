"""Tasks that nobody waits for. One that nobody holds may be collected while it runs, and its error is told to nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..errors import StoreError

__all__ = ["Tasks", "keep_writing"]

log = logging.getLogger("gateway.tasks")

GATHER_SECONDS = 0.1
AGAIN_SECONDS = 1.0

Result = TypeVar("Result")


class Tasks:
    """Holds tasks while they run, and logs what they raise."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_coro().__qualname__, exc_info=task.exception())

    async def finish(self) -> None:
        """Returns when all have ended, those included that are spawned meanwhile."""
        while self._running:
            await asyncio.wait(self._running)

    async def cancel(self) -> None:
        """Returns when all have ended, those included that are spawned meanwhile."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)


async def keep_writing(more: asyncio.Event, write: Callable[[], Awaitable[None]]) -> None:
    """Calls ``write`` a moment after ``more`` is set, so that much goes at once; again if Valkey does not take it. Until cancelled.

    ``write`` keeps what it could not write, and raises StoreError.
    """
    while True:
        await more.wait()
        await asyncio.sleep(GATHER_SECONDS)
        more.clear()
        try:
            await write()
        except StoreError as error:
            log.debug("%s waits: %s", write.__qualname__, error)
            more.set()
            await asyncio.sleep(AGAIN_SECONDS)
