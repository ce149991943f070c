"""Which turn of the loop it is: for tests of how much work one turn does."""

from __future__ import annotations

import asyncio
from collections import Counter

__all__ = ["TurnCounter"]


class TurnCounter:
    """Counts the turns of the loop while it is open as a context; ``note`` adds to what is done in the turn of now."""

    def __init__(self) -> None:
        self.now = 0
        self.work: Counter[int] = Counter()
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> TurnCounter:
        self._next()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _next(self) -> None:
        self.now += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def note(self, *_: object) -> None:
        self.work[self.now] += 1

    @property
    def most(self) -> int:
        """The most work of one turn."""
        return max(self.work.values(), default=0)

    @property
    def total(self) -> int:
        return self.work.total()
