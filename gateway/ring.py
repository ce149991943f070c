"""Rings: each channel's newest publications, kept in this process so that most catch-ups read nothing from Valkey.

A ring is an unbroken run that ends at the hub's position. It holds no more than history does: as many publications as
the rules keep, and none after history expired. All rings of a process share one budget of bytes; when it is used up,
the ring that has been quiet longest is emptied.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from .publication import Publication

__all__ = ["RING_LENGTH", "Ring", "Rings"]

RING_LENGTH = 512  # publications of one channel: two pages of history


class Rings:
    """The budget that all rings of a process share. ``bytes`` and ``peak`` can be asked for."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._by_age: OrderedDict[Ring, None] = OrderedDict()
        self.bytes = 0
        self.peak = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def grew(self, ring: Ring, size: int) -> None:
        self._by_age[ring] = None
        self._by_age.move_to_end(ring)
        self.bytes += size
        while self.bytes > self._budget and self._by_age:
            oldest = next(iter(self._by_age))
            oldest.clear()
        if self.bytes > self.peak:
            self.peak = self.bytes

    def shrank(self, size: int) -> None:
        self.bytes -= size

    def emptied(self, ring: Ring) -> None:
        self._by_age.pop(ring, None)


class Ring:
    """One channel's newest publications. ``now`` is any clock in seconds, the same in all calls."""

    __slots__ = ("_bytes", "_expires", "_publications", "_rings")

    def __init__(self, rings: Rings) -> None:
        self._rings = rings
        self._publications: deque[Publication] = deque()
        self._bytes = 0
        self._expires = 0.0

    def __len__(self) -> int:
        return len(self._publications)

    def append(self, publication: Publication, size: int, expires: float) -> None:
        """Takes the next publication. ``size`` is how many history keeps (-1: all), ``expires`` when it forgets them."""
        publications = self._publications
        publications.append(publication)
        grown = publication.size
        self._bytes += grown
        self._expires = expires
        limit = RING_LENGTH if size < 0 or size > RING_LENGTH else size
        while len(publications) > limit:
            self._drop(publications.popleft())
        self._rings.grew(self, grown)

    def extend_back(self, publications: list[Publication], top: int, size: int, expires: float) -> None:
        """Takes a run that was read from history, as far as it joins the ring's own, or ends at ``top`` if that is empty."""
        first = self._publications[0].offset if self._publications else top + 1
        limit = RING_LENGTH if size < 0 or size > RING_LENGTH else size
        if not self._publications:
            self._expires = expires
        grown = 0
        for publication in reversed(publications):
            if publication.offset < first:
                if publication.offset != first - 1 or len(self._publications) >= limit:
                    break
                self._publications.appendleft(publication)
                first = publication.offset
                grown += publication.size
        if grown:
            self._bytes += grown
            self._rings.grew(self, grown)

    def after(self, offset: int, max_bytes: int, now: float) -> list[Publication] | None:
        """The publications that follow ``offset``, at least one and about ``max_bytes``; None if the ring does not reach back so far."""
        publications = self._publications
        if publications and now >= self._expires:
            self.clear()
        if not publications or offset + 1 < publications[0].offset:
            return None
        run, taken = [], 0
        for publication in islice(publications, offset + 1 - publications[0].offset, None):
            run.append(publication)
            taken += len(publication.data)
            if taken >= max_bytes:
                break
        return run

    def clear(self) -> None:
        self._publications.clear()
        self._rings.shrank(self._bytes)
        self._bytes = 0
        self._rings.emptied(self)

    def _drop(self, publication: Publication) -> None:
        size = publication.size
        self._bytes -= size
        self._rings.shrank(size)
