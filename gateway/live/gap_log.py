"""The log of histories that are gone: one line for all channels that lose theirs together, as when Valkey comes back empty."""

from __future__ import annotations

import asyncio
import logging

from ..publication import Position

__all__ = ["GapLog"]

log = logging.getLogger("gateway.hub")

GATHER_SECONDS = 1.0  # without another one: then the line is written
GATHER_MOST_SECONDS = 10.0


class GapLog:
    """Counts channels whose history is gone, and writes the line when no more of them are found."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._first = ""
        self._count = self._counted = 0
        self._until = 0.0

    def add(self, channel: str, before: Position, now: Position) -> None:
        """The history of ``channel`` after the position ``before`` is gone; it goes on from ``now``."""
        if not self._count:
            self._first = f"channel {channel}: history after {before} is gone; it is at {now} now"
            self._until = self._loop.time() + GATHER_MOST_SECONDS
            self._loop.call_later(GATHER_SECONDS, self._write)
        self._count += 1

    def _write(self) -> None:
        if self._count > max(self._counted, 1) and self._loop.time() < self._until:
            self._counted = self._count
            self._loop.call_later(GATHER_SECONDS, self._write)
            return
        others = self._count - 1
        log.info("%s%s", self._first, f", and that of {others} other channels" if others else "")
        self._count = self._counted = 0
