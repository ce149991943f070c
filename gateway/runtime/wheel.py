"""One timer for all connections of a process.

Pings, expiries and time limits are due at most once a second per connection, and there may be a hundred thousand
connections: a timer handle each would cost more than what they wait for. The wheel has one bucket a second; an item is in
the bucket of the first second in which it has something to do, and its ``tick`` returns when it is due again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

__all__ = ["NEVER", "Timed", "Wheel"]

NEVER = float("inf")
TICKED_AT_ONCE = 125  # items of one turn of the loop, most of them with a ping to send: about 3 ms

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
        self._due: deque[Timed] = deque()  # the items of the bucket ``_turned`` that were not ticked yet

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
        while self.tick_some(now):
            continue

    def tick_some(self, now: float) -> bool:
        """As ``turn``, but ticks TICKED_AT_ONCE items at most. True if more may be due."""
        for _ in range(TICKED_AT_ONCE):
            item = self._take_due(int(now))
            if item is None:
                return False
            try:
                due = item.tick(now)
                if due is not None and due < NEVER:
                    self.set(item, due)
            except Exception:  # one connection's fault must not stop the clock of all others
                log.exception("a timer failed")
        return True

    def _take_due(self, second: int) -> Timed | None:
        """Takes out the next item that is due by then; None if there is none."""
        while True:
            while self._due:
                item = self._due.popleft()
                if item.bucket == self._turned:  # otherwise it was removed meanwhile
                    item.bucket = 0
                    return item
            bucket = min(self._buckets, default=second + 1)
            if bucket > second:
                return None
            self._turned = bucket
            self._due.extend(self._buckets.pop(bucket))

    async def run(self) -> None:
        """Ticks what is due once a second, TICKED_AT_ONCE items in a turn of the loop. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1 - loop.time() % 1)
            while self.tick_some(loop.time()):
                await asyncio.sleep(0)
