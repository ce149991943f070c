"""Since when something exists, for many objects: those of one moment share one number, so that each costs a reference."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Moments", "shared_ms"]

SHARED_MS = 100  # how long one number serves: what began together on a full process shares it


class Moments:
    """The time of day in unix milliseconds, as one object for all that ask within SHARED_MS: at most that much too early."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def now_ms(self) -> int:
        now = int(self._clock() * 1000)
        if not 0 <= now - self._last < SHARED_MS:
            self._last = now
        return self._last


shared_ms = Moments().now_ms  # of this process
