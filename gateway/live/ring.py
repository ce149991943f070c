"""Rings: each channel's newest publications, held in this process so that most catch-ups read nothing from Valkey.

A ring is an unbroken run that ends at the channel's position. It holds no more than history does: as many publications as
the rules allow, and none after history expired. It may end a little earlier than history, never later. All rings of a
process share one budget of bytes; when it is used up, the ring that got no publication for longest is emptied.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice

from ..publication import Publication
from .server_clock import ServerClock

__all__ = ["RING_LENGTH", "Ring", "Rings"]

RING_LENGTH = 512  # publications of one channel: two pages of history
EARLY_SECONDS = 0.1  # a ring ends so much earlier than history: more than an announcement takes when nothing holds it up
FOREVER = float("inf")


def weight(publication: Publication) -> int:
    """About how many bytes a publication takes: the object, its data and up to two encoded forms, its tags raw and parsed."""
    tags = 0 if publication.tags is None else 300 + 4 * len(publication.tags)
    return 400 + 3 * len(publication.data) + tags


class Rings:
    """The budget of bytes that all rings of a process share. ``bytes`` is what they hold now, ``peak`` the most they ever held.

    ``clock`` is Valkey's, by which history expires.

    Which ring is emptied first is found by the clock algorithm: a ring that got a publication since the hand last passed
    it is passed once more. So a publication sets a mark, and no list is reordered.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rings: OrderedDict[Ring, None] = OrderedDict()  # a plain dict's first key takes ever longer to find as it turns
        self.bytes = 0
        self.peak = 0
        self.clock = ServerClock()

    def __len__(self) -> int:
        return len(self._rings)

    def filled(self, ring: Ring) -> None:
        """An empty ring got its first publication."""
        self._rings[ring] = None

    def emptied(self, ring: Ring) -> None:
        """The ring holds nothing any more; calling it twice changes nothing."""
        self._rings.pop(ring, None)

    def make_room(self) -> None:
        """Empties rings until all of them are within the budget."""
        while self.bytes > self._budget and self._rings:
            ring = next(iter(self._rings))
            if ring.hot and len(self._rings) > 1:
                ring.hot = False
                self._rings.move_to_end(ring)
            else:
                ring.clear()

    def grew(self, size: int) -> None:
        """A ring holds ``size`` bytes more, or less if it is negative."""
        self.bytes += size
        if self.bytes > self.peak:
            self.peak = self.bytes
        if self.bytes > self._budget:
            self.make_room()


class Ring:
    """One channel's newest publications. ``now`` and ``expires`` are of any clock in seconds, the same in all calls.

    ``expires`` is when history forgets all that it holds. What it forgot before it got another publication is dropped with that.
    """

    __slots__ = ("_bytes", "_expires", "_publications", "_rings", "hot")

    def __init__(self, rings: Rings) -> None:
        self._rings = rings
        self._publications: deque[Publication] | None = None  # an empty deque holds 600 bytes, and most channels are quiet
        self._bytes = 0
        self._expires = FOREVER
        self.hot = False

    def __len__(self) -> int:
        return len(self._publications) if self._publications is not None else 0

    def expiry(self, ms: int, ttl: int, now: float) -> float:
        """``expires`` after an announcement that is handled ``now``: of a publication made at ``ms``, kept for ``ttl`` seconds (0: forever).

        In Valkey it may share the expiry of a publication that was made a thousandth of the ttl earlier, a second at most."""
        return self._rings.clock.made_at(ms, now) + ttl - min(ttl / 1000, 1) - EARLY_SECONDS if ttl else FOREVER

    def append(self, publication: Publication, size: int, expires: float, now: float) -> None:
        """Adds the next publication. ``size`` is how many history holds then (-1: all)."""
        if now >= self._expires:
            self.clear()
        publications = self._publications
        if publications is None:
            publications = self._publications = deque()
            self._rings.filled(self)
        publications.append(publication)
        self._expires = expires
        self.hot = True
        grown = weight(publication)
        limit = RING_LENGTH if size < 0 or size > RING_LENGTH else size
        while len(publications) > limit:
            grown -= weight(publications.popleft())
        self._bytes += grown
        self._rings.grew(grown)

    def extend_back(self, publications: list[Publication], top: int, size: int, expires: float, now: float) -> None:
        """Adds a run that was read from history, as far as it joins the ring's own, or ends at ``top`` if the ring is empty."""
        if now >= self._expires:
            self.clear()
        if now >= expires:
            return  # forgotten since it was read; what the ring holds is newer
        if self._publications is None:
            self._publications = deque()
            self._expires = expires
            self._rings.filled(self)
        mine = self._publications
        first = mine[0].offset if mine else top + 1
        limit = RING_LENGTH if size < 0 or size > RING_LENGTH else size
        grown = 0
        for publication in reversed(publications):
            if publication.offset < first:
                if publication.offset != first - 1 or len(mine) >= limit:
                    break
                mine.appendleft(publication)
                first = publication.offset
                grown += weight(publication)
        self.hot = True
        self._bytes += grown
        self._rings.grew(grown)

    def after(self, offset: int, max_bytes: int, now: float, *, strictly: bool = False) -> list[Publication] | None:
        """The publications that follow ``offset``, at least one and about ``max_bytes``; ``strictly``: no more than these, and perhaps none. None if
        the ring does not reach back so far."""
        if now >= self._expires:
            self.clear()
        publications = self._publications
        if not publications or offset + 1 < publications[0].offset:
            return None
        run, taken = [], 0
        for publication in islice(publications, offset + 1 - publications[0].offset, None):
            run.append(publication)
            taken += len(publication.data)
            if taken >= max_bytes:
                if strictly and taken > max_bytes:
                    run.pop()
                break
        return run

    def ms(self, offset: int) -> int:
        """When the publication at this offset was made, unix milliseconds; 0 if the ring does not hold it."""
        publications = self._publications
        if not publications or not publications[0].offset <= offset <= publications[-1].offset:
            return 0
        return publications[offset - publications[0].offset].ms

    def clear(self) -> None:
        """Drops all publications."""
        self._publications = None
        self._expires = FOREVER
        self._rings.bytes -= self._bytes
        self._bytes = 0
        self._rings.emptied(self)
