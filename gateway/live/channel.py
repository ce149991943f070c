"""A channel in this process: its position, its ring, and what moves it: announcements and pages of history.

Theory of operation. A channel is *closed* until the link is subscribed to it and its position is known, and again while
that position is in doubt: after a hole, after the link was lost. Announcements that come while it is closed are held.
While it is *open*, an announcement that continues the position moves it and is fanned out; one that repeats is dropped;
one that leaves a hole, or that is another publication at an offset that was passed, closes the channel, and the hub mends it from history.

The invariant everything rests on: **a live subscription is at the channel's position.** ``fanout`` has the rounds that
write to the live subscriptions; while one is under way the position does not move, and announcements wait for its end.

    closed ──open──▶ open ──hole, link lost──▶ closed
    open: announced ─▶ position, ring ─▶ fan-out ─▶ [round … its end] ─▶ what waited is announced
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeAlias

from ..channel_rules import ChannelRules
from ..publication import Position, Publication
from ..rules.recovery import following
from ..runtime.turns import Turns
from ..store.history import Page
from ..store.layout import Announcement, JoinLeave, Reset, read_next
from .fanout import BYTES_PER_WRITE, SLICE, Member, Part
from .joins_and_leaves import JoinLeaveObserver, JoinsAndLeaves
from .opening import Opened, Opening, OpeningWaiter
from .ring import Ring, Rings
from .traffic import Traffic

__all__ = ["Announced", "Channel", "Mender", "Mending"]

log = logging.getLogger("gateway.hub")

HELD_MOST = 20_000  # announcements held while closed; past that they are dropped and read from history again
NOTIFIED_AT_ONCE = 50  # subscriptions notified of a loss in one turn of the loop: up to 10 ms, where they end with that

Announced: TypeAlias = Announcement | JoinLeave | Reset


class Mending(Protocol):
    """What is under way to open a channel."""

    def cancel(self) -> object: ...


class Mender(Protocol):
    """Finds the position of a channel that is closed, and opens it again.

    ``opened`` resumes the subscriptions that waited for channels to open. For each turn of the loop, ``notices`` bounds how many subscriptions are
    notified of a loss, ``slices`` how many rounds, and passes of joins and leaves, go on.
    """

    opened: Opened
    notices: Turns
    slices: Turns

    def mend(self, channel: Channel) -> None: ...

    def resume(self, waiter: Any) -> None:
        """The channel is open, for which this subscription waited."""

    def history_gone(self, channel: Channel, now: Position) -> None:
        """The channel is about to move to ``now``, since history does not hold what follows its position."""


class Channel(Opening):
    """One channel and its subscriptions here. The hub makes it, mends it and drops it.

    ``acked`` is whether Valkey confirmed the link's subscription, ``ms`` the unix time of the newest publication. ``has_history``: the rules
    give it a history, and so its subscribers positions. ``size`` and ``ttl`` are those of its history, ``usual_…`` those of the rules.
    ``doubts`` counts how often what was read of history before became doubtful: it was removed, or an announcement was lost.
    ``ephemerals`` is the number of ephemeral publications that were fanned out, and of times when some may have been lost with
    the link; a subscription compares it to learn that it missed some. ``unnotified`` are the live subscriptions that are to be notified of a gap,
    and the position after which each lost something. ``lost_some``: the link was lost, and what was announced
    meanwhile cannot be found in history; the live subscriptions are to be notified. ``reads`` are the shared reads of history under
    way, by the offset that they follow and ``doubts``. ``lost_at`` is since when the link is lost, on the loop's clock, None if it is not.
    """

    __slots__ = (
        "acked",
        "doubts",
        "ephemerals",
        "has_history",
        "held",
        "idle_since",
        "key",
        "lost_at",
        "lost_some",
        "mender",
        "mending",
        "ms",
        "observers",
        "reads",
        "ring",
        "rules",
        "size",
        "subscribers",
        "ttl",
        "unnotified",
        "usual_size",
        "usual_ttl",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        key: bytes,
        rules: ChannelRules,
        rings: Rings,
        loop: asyncio.AbstractEventLoop,
        mender: Mender,
        traffic: Traffic,
    ) -> None:
        super().__init__(name, rules.allows_delta, loop, traffic)
        self.key = key
        self.rules = rules
        self.mender = mender
        self.ms = 0
        self.ring = Ring(rings)
        # Copies: pydantic's attributes take five times as long, and each publication needs these.
        self.size = self.usual_size = rules.history_size
        self.ttl = self.usual_ttl = rules.history_ttl
        self.has_history = rules.history_size != 0
        self.subscribers = 0
        self.idle_since = 0.0
        self.acked = False
        self.held: list[Announced] | None = []  # None: the channel is open
        self.waiting: list[Announced] = []  # for the end of the round, or for a later turn of the loop
        self.mending: Mending | None = None
        self.doubts = 0
        self.reads: dict[tuple[int, int], asyncio.Task[Page]] = {}
        self.waiters = None
        self.observers: JoinsAndLeaves | None = None  # most channels never have any
        self.ephemerals = 0
        self.unnotified: dict[Member, Position] = {}
        self.lost_some = False
        self.lost_at: float | None = None

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.position}, {'open' if self.is_open else 'closed'})"

    @property
    def is_open(self) -> bool:
        return self.held is None

    @property
    def is_calm(self) -> bool:
        """Whether all that was announced is handed on, and no round is under way."""
        return self.round is None and not self.waiting

    @property
    def is_ephemeral(self) -> bool:
        """Whether history holds nothing of what its subscriptions were given: by its rules, or because all of it was ephemeral."""
        return not self.has_history or (self.offset == 0 and self.ephemerals > 0)

    # Joins and leaves.

    def observe_joins_and_leaves(self, observer: JoinLeaveObserver) -> None:
        """From now on the observer gets them; adding it twice changes nothing."""
        if self.observers is None:
            self.observers = JoinsAndLeaves(self.name, self.mender.slices.later)  # not ours, which would hold the channel
        self.observers.add(observer)

    def ignore_joins_and_leaves(self, observer: JoinLeaveObserver) -> None:
        """The observer gets no more of them; it need not be one."""
        if self.observers is not None:
            self.observers.remove(observer)

    # Announcements.

    def announced(self, items: list[Announced]) -> None:
        """Takes what the link brought, in order: now, after the round that is under way, or when the channel is open again."""
        if self.held is not None:
            self.hold(items)
        elif self.round is not None or self.waiting:
            self.waiting += items
        else:
            self._take_live(items)

    def take_next(self, payload: bytes, parts: list[Part]) -> bool:
        """Takes what arrived alone, if it is the next publication, as nearly always, and nothing is in its way: moves on with it, and adds to
        ``parts`` what is to be written. False: it did nothing, and ``announced`` has to take it.
        """
        if self.held is not None or self.round is not None or self.waiting or not self.has_history:
            return False
        work = self.live_count + self.filter_work
        if work > SLICE or (len(payload) > BYTES_PER_WRITE and work * len(payload) // BYTES_PER_WRITE > SLICE):
            return False
        publication = read_next(payload, self.epoch, self.offset + 1)
        if publication is None:
            return False
        self.size, self.ttl = self.usual_size, self.usual_ttl
        self._move_on(publication)
        self.prepare([publication], parts)
        return True

    def _move_on(self, publication: Publication) -> None:
        """To the next publication, which has set ``size`` and ``ttl``."""
        self.offset, self.ms = publication.offset, publication.ms
        now = self.loop.time()
        self.ring.append(publication, self.size, self.ring.expiry(publication.ms, self.ttl, now), now)

    def hold(self, items: list[Announced]) -> None:
        """For a closed channel. Past HELD_MOST only the newest one with an offset is held: it shows that others are missing, which are then read from history."""
        assert self.held is not None
        self.held += items
        if len(self.held) > HELD_MOST:
            placed = (
                item for item in reversed(self.held) if type(item) is Reset or (type(item) is Announcement and item.publication.offset)
            )
            self.held = list(islice(placed, 1))

    def detach_held(self) -> list[Announced]:
        """Takes out what is held before a read of history; ``put_back`` what of it is still valid when the page has arrived."""
        assert self.held is not None
        older, self.held = self.held, []
        return older

    def put_back(self, older: Iterable[Announced]) -> None:
        """Holds ``older`` again, before what was announced since."""
        assert self.held is not None
        self.held = [*older, *self.held]

    def is_still_valid(self, item: Announced) -> bool:
        """Whether an announcement from before a read of history can still count: not if its life of the history is over."""
        return item.epoch == self.epoch or type(item) is JoinLeave or (type(item) is Announcement and item.publication.offset == 0)

    def link_lost(self) -> None:
        """Closes the channel, and drops what the link brought: it is in history, or lost with it."""
        self.held, self.waiting = [], []
        if self.lost_at is None:
            self.lost_at = self.loop.time()
        self._doubt_ring()
        if self.epoch and self.is_ephemeral:
            self.lost_some = True
            self.ephemerals += 1

    def delay(self, items: list[Announced]) -> None:
        """Takes what the link brought, as ``announced``, but hands nothing on before ``announce_waiting`` is called."""
        if self.held is not None:
            self.hold(items)
        else:
            self.waiting += items

    def announce_waiting(self) -> None:
        """Announces what waits, unless a round is under way, after which that is done, or the channel is closed."""
        if self.round is None and self.waiting and self.held is None:
            waiting, self.waiting = self.waiting, []
            self.announced(waiting)

    def _take_live(self, items: list[Announced]) -> None:
        fresh: list[Publication] = []
        joins_and_leaves: list[JoinLeave] = []
        for number, item in enumerate(items):
            if type(item) is Announcement:
                publication = item.publication
                offset = publication.offset
                if offset == 0 or not self.has_history:
                    self.ephemerals += 1
                    fresh.append(publication)
                    continue
                if item.epoch == self.epoch:
                    if offset == self.offset + 1:
                        self.size = self.usual_size if item.size is None else item.size
                        self.ttl = self.usual_ttl if item.ttl is None else max(item.ttl, 0)
                        self._move_on(publication)
                        fresh.append(publication)
                        continue
                    if offset <= self.offset:
                        if not self._has_another(publication):
                            continue
                        number += 1  # it is not held: history has it, or never will; it only shows that the position is in doubt
            elif type(item) is JoinLeave:
                joins_and_leaves.append(item)
                continue
            elif item.epoch == self.epoch:
                self._doubt_ring()
                continue
            self.traffic.holes += 1
            self.close(items[number:])
            break
        if fresh:
            self.fan_out(fresh)
        if joins_and_leaves and self.observers:
            self.observers.announce(joins_and_leaves)
        if self.held is not None:
            self.mender.mend(self)

    def _has_another(self, publication: Publication) -> bool:
        """Whether this process has another publication at its offset, as where two primaries count on from the same one.

        Publications with the same offset are distinguished by their times, as far back as the ring reaches.
        """
        offset, ms = publication.offset, publication.ms
        return (self.ms if offset == self.offset else self.ring.ms(offset)) not in (0, ms) and ms != 0

    def slice_later(self, write: Callable[[], None]) -> None:
        self.mender.slices.later(write)

    def round_over(self) -> None:
        self.announce_waiting()

    # Pages of history.

    def remember(self, page: Page) -> None:
        """Adds a page that a catch-up read to the ring, as far as it joins it, for the next catch-ups.

        Not for a page that was read before ``doubts`` changed: history may have been removed since.
        """
        if page.top.epoch == self.epoch:
            self.ring.extend_back(page.publications, self.offset, self.size, page.expires, self.loop.time())

    def _doubt_ring(self) -> None:
        """History may not hold any longer what the ring holds, or what a read that is under way brings."""
        self.ring.clear()
        self.doubts += 1

    def take(self, page: Page) -> bool:
        """Moves on with a page that was read after the channel's position; True if the page's top is reached.

        Call it between rounds only, and when no live subscription is ``unnotified``. If history does not hold what follows the position, all are then.
        """
        top = page.top
        if not self.epoch:
            self.epoch, self.offset, self.ms = top.epoch, top.offset, page.ms
            return True
        if top.epoch != self.epoch:
            self.lose(page)
            return True
        if top.offset <= self.offset:
            return True
        run = following(self.offset, page.publications)
        if not run:
            if page.publications and page.publications[-1].offset <= self.offset:
                return False  # announcements were faster than this page; the next one leads on
            self.lose(page)
            return True
        self.ring.clear()  # it is not known whether history still holds what came before this run
        for publication in run:
            self.ring.append(publication, self.size, page.expires, self.loop.time())
        self.offset, self.ms = run[-1].offset, run[-1].ms
        self.fan_out(run)
        return self.offset >= top.offset

    def lose(self, page: Page) -> None:
        """History does not hold what comes next: the channel goes on from the page's top, closed until each live subscription is notified."""
        self.mender.history_gone(self, page.top)
        if self.is_open:
            self.close()
        self.ring.clear()
        self.base = None
        self.unnotified = dict.fromkeys((member for members in self.live.values() for member in members), self.position)
        self.epoch, self.offset, self.ms = page.top.epoch, page.top.offset, page.ms

    def remove_live(self, member: Member) -> Position:
        position = super().remove_live(member)
        return self.unnotified.pop(member, position)

    async def notify_of_gap(self) -> None:
        """Notifies those that are ``unnotified``. Call it while the channel is closed."""
        for member in list(self.unnotified):
            await self.mender.notices.wait()
            if member in self.unnotified:  # otherwise it is not live any more, and learns of the gap when it catches up
                self._let_go_on(partial(member.lost, self.unnotified.pop(member)))

    async def notify_of_loss(self) -> None:
        """Notifies the live subscriptions that they may have missed what history does not hold. Call it while the channel is closed."""
        for member in [member for group in self.live.values() for member in group]:
            await self.mender.notices.wait()
            if self.is_live(member):
                member.lost(self.position)
        self.lost_some = False

    # Open and closed.

    def close(self, items: Iterable[Announced] = ()) -> None:
        """The position is in doubt. From now on announcements are held: ``items`` first, then those that wait for a round."""
        self._doubt_ring()
        self.held = [*items, *self.waiting] if self.held is None else [*self.held, *items, *self.waiting]
        self.waiting = []

    def open(self) -> None:
        """The position is certain. What was held is announced first; it may close the channel again."""
        held, self.held = self.held or [], None
        if self.lost_at is not None:
            self.traffic.counts.mend.add(self.loop.time() - self.lost_at)
            self.lost_at = None
        self.announced(held)
        if self.waiters:
            self.mender.opened.add(self)

    def resume(self, waiter: OpeningWaiter) -> None:
        self.mender.resume(waiter)
