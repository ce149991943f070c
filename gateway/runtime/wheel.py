"""One timer for all connections of a process.

Pings, expiries and time limits are due at most once a second per connection, and there may be a hundred thousand
connections: a timer handle each would cost more than what they wait for. The wheel has one bucket a second; an item is in
the bucket of the first second in which it has something to do, and its ``tick`` returns when it is due again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

__all__ = ["NEVER", "Timed", "Wheel"]

NEVER = float("inf")

log = logging.getLogger("gateway.timers")


class Timed(Protocol):
    """An item of a wheel. ``bucket`` belongs to the wheel: the second in whose bucket the item is, 0 at first and in none."""

    bucket: int

    def tick(self, now: float) -> float | None:
        """Does what is due. Returns when it is due again in seconds of the loop's clock, None for never."""
        ...


class Wheel:
    """Items by the second in which they are due. Times are seconds of the loop's clock, ``loop.time()``."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._turned = 0

    def set(self, item: Timed, when: float) -> None:
        """Its next tick comes within the second after ``when``, unless one is set that comes earlier."""
        bucket = max(int(when) + 1, self._turned + 1)
        if item.bucket:
            if item.bucket <= bucket:
                return
            self.remove(item)
        self._buckets.setdefault(bucket, {})[item] = None
        item.bucket = bucket

    def remove(self, item: Timed) -> None:
        """It is ticked no more until it is set again. Does nothing for an item that is not set."""
        if item.bucket:
            items = self._buckets.get(item.bucket)
            if items is not None:
                items.pop(item, None)
            item.bucket = 0

    def turn(self, now: float) -> None:
        """Ticks everything that is due by ``now``. What an item raises is logged, and the others go on."""
        second = int(now)
        for bucket in sorted(bucket for bucket in self._buckets if bucket <= second):
            self._turned = bucket
            for item in self._buckets.pop(bucket):
                item.bucket = 0
                try:
                    due = item.tick(now)
                    if due is not None and due < NEVER:
                        self.set(item, due)
                except Exception:  # one connection's fault must not stop the clock of all others
                    log.exception("a timer failed")

    async def run(self) -> None:
        """Turns once a second until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1 - loop.time() % 1)
            self.turn(loop.time())
