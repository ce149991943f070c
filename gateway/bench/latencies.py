"""Latencies in a histogram: its ranges, and the value below which a share of them lies."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BOUNDS", "add", "percentile"]

FIRST, LAST = 50.0, 60e6  # µs
STEP = 1.05  # a range is 5 % wide, so a percentile is right to 2.5 %


def _bounds() -> tuple[float, ...]:
    bounds = [FIRST]
    while bounds[-1] < LAST:
        bounds.append(bounds[-1] * STEP)
    return tuple(bounds)


BOUNDS = _bounds()  # upper ends, µs


def percentile(counts: Sequence[int], share: float) -> float:
    """The value, in µs, that ``share`` (0 to 1) of the values do not pass; 0 where there are none.

    ``counts`` are those of a ``Histogram(BOUNDS)``: of each range, and of all that is above.
    """
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return 0.0
    for bound, count in zip(BOUNDS, counts, strict=False):
        seen += count
        if seen >= wanted:
            return float(bound / STEP**0.5)
    return LAST


def add(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The counts of both; either may be empty."""
    return [a + b for a, b in zip(one, other, strict=True)] if one and other else list(one or other)
