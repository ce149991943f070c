"""A histogram in plain numbers: cheap to add to, and read as a whole when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Histogram"]


class Histogram:
    """How many values lay in which range. ``bounds`` are the upper ends of the ranges, rising; a value above all of them is counted too.

    ``counts`` has one number for each range and one more for the values above all, ``total`` is the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
