"""Since when something exists, for many objects: those of one moment share one number, so that each costs a reference."""

from __future__ import annotations

import time

__all__ = ["Moments", "shared_ms"]

SHARED_SECONDS = 0.1  # how long one number serves: what began together on a full process shares it


class Moments:
    """The time of day in unix milliseconds, as one object for all that ask within SHARED_SECONDS: at most that much too early.

    Every subscription asks, so it costs a tenth of a microsecond: the number is computed where the last one serves no longer.
    """

    def __init__(self) -> None:
        self._from = self._until = 0.0  # seconds in which the last number serves
        self._last = 0

    def now_ms(self) -> int:
        now = time.time()
        if not self._from <= now < self._until:
            self._from, self._until, self._last = now, now + SHARED_SECONDS, int(now * 1000)
        return self._last


shared_ms = Moments().now_ms  # of this process
