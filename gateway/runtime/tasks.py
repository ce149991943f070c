"""Tasks that no code awaits. asyncio itself holds no reference to a task, so it may be collected while it runs, and its error is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from typing import Any, TypeVar

from ..errors import StoreError

__all__ = ["Tasks", "end", "run_endlessly", "shared", "to_its_end", "write_changes"]

log = logging.getLogger("gateway.tasks")

GATHER_SECONDS = 0.1
AGAIN_SECONDS = 1.0
CANCEL_AGAIN_SECONDS = 0.5

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Tasks:
    """Holds tasks while they run, and logs what they raise. ``len()`` is how many run now."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Runs ``work`` in the background, from the next turn of the loop on."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", _name_of(task), exc_info=task.exception())

    async def finish(self) -> None:
        """Returns when all have ended, those included that are spawned meanwhile."""
        while self._running:
            await asyncio.wait(self._running)

    async def cancel(self) -> None:
        """Cancels all, those included that are spawned meanwhile, and returns when they have ended."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and returns when they have ended, whatever they raise.

    One whose cancellation is lost is cancelled again: ``asyncio.wait_for`` of Python 3.11, with which valkey-py writes, may swallow it.
    """
    while left := {task for task in tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


def run_endlessly(work: Coroutine[Any, Any, None], part_of: str) -> asyncio.Task[None]:
    """Runs ``work``, which ends only when it is cancelled; if it ends otherwise, that is logged as critical: ``part_of`` has lost a part."""
    task = asyncio.create_task(work)
    task.add_done_callback(partial(_must_not_end, part_of))
    return task


def _must_not_end(part_of: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("a part of %s ended that must not: %s", part_of, _name_of(task), exc_info=task.exception())


def _name_of(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "a task")


async def write_changes(more: asyncio.Event, write: Callable[[], Awaitable[None]]) -> None:
    """Calls ``write`` each time ``more`` is set, GATHER_SECONDS later, so that one write carries much. Runs until cancelled.

    ``write`` raises StoreError where it could not write, and holds what is left: it is called again after AGAIN_SECONDS.
    """
    while True:
        await more.wait()
        await asyncio.sleep(GATHER_SECONDS)
        more.clear()
        try:
            await write()
        except StoreError as error:
            log.debug("%s did not write: %s; trying again", getattr(write, "__qualname__", "a writer"), error)
            more.set()
            await asyncio.sleep(AGAIN_SECONDS)


async def shared(under_way: dict[Key, asyncio.Task[Result]], key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """The result of ``work()``, or of the same work that is under way for ``key`` already; raises what it raises.

    ``under_way`` has each task until it ends. A caller that takes one out earlier lets the next caller begin anew. A caller that
    is cancelled does not cancel the work, for which others may wait.
    """
    task = under_way.get(key)
    if task is None:
        task = under_way[key] = asyncio.create_task(work())
        task.add_done_callback(partial(_no_longer_shared, under_way, key))
    return await asyncio.shield(task)


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is not interrupted where the caller is cancelled: that is raised when ``work`` has ended. A second
    cancellation does not wait."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its error has no caller any more
        await asyncio.wait([task])
        raise


def _no_longer_shared(under_way: dict[Key, asyncio.Task[Result]], key: Key, task: asyncio.Task[Result]) -> None:
    if under_way.get(key) is task:
        del under_way[key]
    if not task.cancelled():
        task.exception()  # marks the error as seen: every caller that waited may have been cancelled
