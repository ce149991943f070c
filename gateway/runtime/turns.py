"""Turns: callers that name the same thing enter one after another, in the order in which they asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """``async with turns.of(name): …``. Unlike locks by name, nothing is left of a name that nobody uses."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}  # name → done when the last one that asked has left

    def __contains__(self, name: str) -> bool:
        """Whether anybody has entered or waits."""
        return name in self._last

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        before = self._last.get(name)
        mine = self._last[name] = asyncio.get_running_loop().create_future()
        try:
            while before is not None and not before.done():
                await asyncio.wait((before,))  # unlike await alone it does not cancel what it waits for
            yield
        finally:
            if before is None or before.done():
                self._leave(name, mine)
            else:  # it was cancelled while it waited: those after it wait for the one before it
                before.add_done_callback(lambda _: self._leave(name, mine))

    def _leave(self, name: str, mine: asyncio.Future[None]) -> None:
        mine.set_result(None)
        if self._last.get(name) is mine:
            del self._last[name]
