"""A clock that a test moves."""

from __future__ import annotations

__all__ = ["FrozenClock"]


class FrozenClock:
    """Returns ``now``, in the unit of the clock it is given instead of: seconds, or milliseconds. It moves only by ``pass_time``."""

    def __init__(self, now: float = 1000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_time(self, duration: float) -> float:
        self.now += duration
        return self.now
