"""Valkey's clock, as this process can know it: when, on the loop's clock, a publication was made.

Each announcement carries the time of its publish on Valkey's clock, and arrives a little later. The least difference that
was seen lately is taken for the difference of the two clocks. An announcement with a greater one has waited for the rest of the time: on the
network, for the end of a round, or because this process was stopped.
"""

from __future__ import annotations

__all__ = ["ServerClock"]

WINDOW_SECONDS = 60.0  # the least difference is that of two windows: so a clock that was set, or runs at another pace, is followed
UNKNOWN = float("inf")


class ServerClock:
    """The difference of the two clocks, in seconds, from the announcements of all channels."""

    __slots__ = ("_before", "_difference", "_least", "_since")

    def __init__(self) -> None:
        self._before = UNKNOWN  # the least difference of the window before this one
        self._least = UNKNOWN
        self._difference = UNKNOWN  # the lesser of the two
        self._since = -UNKNOWN

    def made_at(self, ms: int, now: float) -> float:
        """The time on the loop's clock when Valkey's clock showed ``ms``, unix milliseconds. ``now`` is when the announcement with this time is handled."""
        at = ms / 1000
        if now - at < self._least or now - self._since >= WINDOW_SECONDS:
            self._learn(now - at, now)
        return at + self._difference

    def _learn(self, difference: float, now: float) -> None:
        if now - self._since >= WINDOW_SECONDS:
            self._before, self._since = self._least, now
        self._least = difference
        self._difference = min(difference, self._before)
