"""A channel that an instance reads, and what it has of it in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..publication import Position
from .deliveries import Delivery, Gap
from .reader_calls import Known, Page

__all__ = ["Hold", "Settle"]


class Hold:
    """A channel from when this instance took it, as ``owner``, until it gives it back or loses it: then ``live`` is False for good.

    ``outstanding`` are publications that were read and not settled, in order; those of them that the application has are also in ``handed``.
    ``leaving``: the channel is another instance's; it is given back once the application has settled what it has. ``settle`` settles a
    delivery, with a reason if it is rejected.
    """

    __slots__ = ("_settle", "after", "channel", "handed", "known", "leaving", "live", "more", "outstanding", "owner")

    def __init__(self, channel: str, owner: str, known: Known | None, settle: Settle) -> None:
        self._settle = settle
        self.channel = channel
        self.owner = owner
        self.known = known
        self.after = 0  # the last offset that was read since the channel was taken
        self.more = False  # whether there was more to read, when it was read last
        self.live = True
        self.leaving = False
        self.outstanding: dict[Delivery, None] = {}
        self.handed: set[Delivery] = set()

    def add(self, page: Page) -> list[Delivery]:
        """Takes over what was read, as deliveries."""
        self.more = page.more
        made: list[Delivery] = []
        for publication, deliveries in page.publications:
            gap = None
            if not made and page.before_gap is not None:
                gap = Gap(page.before_gap, Position(page.epoch, publication.offset - 1))
            made.append(Delivery(self, self.channel, page.epoch, publication, deliveries + 1, gap))
        if made:
            newest = made[-1]
            self.after = newest.offset
            self.outstanding |= dict.fromkeys(made)
            self.known = Known(newest.position, newest.ms, 0)
        elif self.known is None:
            self.known = page.position  # all was read before: what is known, should Valkey lose it
        return made

    async def settle(self, delivery: Delivery, reason: str | None) -> bool:
        """What a delivery's ``ack`` and ``reject`` do."""
        return await self._settle(self, delivery, reason)

    def newest_known(self) -> Known | None:
        """The newest publication that was read, and up to where all is settled now; None if nothing was published yet."""
        if self.known is None or self.after == 0:  # as the hold before this one left it
            return self.known
        oldest = next(iter(self.outstanding), None)
        return self.known._replace(settled=self.after if oldest is None else oldest.offset - 1)


Settle = Callable[[Hold, Delivery, str | None], Awaitable[bool]]
