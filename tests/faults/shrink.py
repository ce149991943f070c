"""Shrinking: the fewest faults of a failing schedule that still fail. Delta debugging, as Zeller and Hildebrandt (2002) describe it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

__all__ = ["shrink"]

Item = TypeVar("Item")


async def shrink(items: Sequence[Item], fails: Callable[[list[Item]], Awaitable[bool]], *, tries: int) -> list[Item]:
    """The smallest list found, in order. ``fails`` runs once for each list that is tried, at most ``tries`` times in all."""
    smallest, parts = list(items), 2
    while len(smallest) > 1:
        for some, next_parts in _candidates(smallest, parts):
            if tries == 0:
                return smallest
            tries -= 1
            if await fails(some):
                smallest, parts = some, next_parts
                break
        else:
            if parts >= len(smallest):
                return smallest
            parts = min(2 * parts, len(smallest))
    return smallest


def _candidates(items: list[Item], parts: int) -> Iterator[tuple[list[Item], int]]:
    """Each part alone, then everything but each part, with the number of parts to go on with. With two parts both are the same lists."""
    bounds = [len(items) * number // parts for number in range(parts + 1)]
    cuts = list(pairwise(bounds))
    for start, end in cuts:
        yield items[start:end], 2
    if parts > 2:
        for start, end in cuts:
            yield items[:start] + items[end:], parts - 1
