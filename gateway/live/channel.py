"""A channel in this process: its position, its ring, and the fan-out to its live subscriptions.

Theory of operation. A channel is *closed* until the link is subscribed to it and its position is known, and again while
that position is in doubt: after a hole, after the link was lost. Announcements that come while it is closed are held.
While it is *open*, an announcement that continues the position moves it and is fanned out; one that repeats is dropped;
one that leaves a hole closes the channel, and the hub mends it from history.

The invariant everything rests on: **a live subscription stands at the channel's position.** So nothing is kept per
subscription while it is live, and one buffer serves all. A round of the fan-out to many subscriptions is cut into slices
so that other work gets its turn; during a round the position does not move: what is announced meanwhile waits and is
joined into the next round, and who turns live during it joins at its end, where it stands already.

    closed ──opened──▶ open ──hole, link lost──▶ closed
    open: announced ─▶ position, ring ─▶ round ─▶ [slice … slice] ─▶ joiners become live ─▶ what waited is announced
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..config import ChannelRules
from ..publication import Position, Publication
from ..rules.protocol import push_prefix
from ..rules.recovery import following
from ..store.history import Page
from ..store.layout import Announcement, Movement, Reset
from .ring import Ring, Rings
from .wire_formats import NOTHING, DeltaWire, Wire

if TYPE_CHECKING:
    from .subscription import Subscription

__all__ = ["GONE", "SLICE", "Channel"]

log = logging.getLogger("gateway.hub")

SLICE = 2000  # subscriptions written to before others get their turn: about 15 ms
HELD_MOST = 20_000  # announcements held while closed; past that they are dropped and read from history again
FOREVER = float("inf")
FRESH_SECONDS = 10.0  # how long a ring that was filled from history is believed without a live publication


Write = Callable[[Any], Any]
GONE = (OSError, RuntimeError)  # what uvloop raises for a socket that was reset, and for one that is closed


class Channel:
    """One channel and whoever follows it here. The hub makes, mends and drops it."""

    __slots__ = (
        "acked",
        "base",
        "deltas",
        "doubt",
        "ephemerals",
        "epoch",
        "held",
        "idle_since",
        "joiners",
        "key",
        "live",
        "live_count",
        "loop",
        "mending",
        "ms",
        "name",
        "offset",
        "push_prefix",
        "reads",
        "ring",
        "round",
        "rules",
        "size",
        "subscribers",
        "ttl",
        "waiters",
        "waiting",
        "watchers",
    )

    def __init__(self, name: str, key: bytes, rules: ChannelRules, rings: Rings, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.key = key
        self.rules = rules
        self.loop = loop
        self.epoch = ""
        self.offset = 0
        self.ms = 0
        self.ring = Ring(rings)
        self.deltas = rules.allows_delta
        self.base: Publication | None = None  # what came last, for deltas; None if that is unknown, or has no offset
        self.size = rules.history_size
        self.ttl = rules.history_ttl
        self.live: dict[Wire, dict[Subscription, Write]] = {}
        self.live_count = 0
        self.subscribers = 0
        self.idle_since = 0.0
        self.acked = False
        self.held: list[Announcement | Movement | Reset] | None = []  # None: the channel is open
        self.doubt: Any = None  # called with the channel when a hole shows
        self.mending: asyncio.Task[None] | None = None
        self.reads: dict[int, asyncio.Task[Page]] = {}
        self.waiters: dict[asyncio.Future[None], None] = {}
        self.round: Round | None = None
        self.waiting: list[Announcement | Movement | Reset] = []
        self.joiners: dict[Subscription, None] = {}
        self.push_prefix = push_prefix(name)
        self.watchers: dict[Subscription, None] | None = None  # whom joins and leaves are told
        self.ephemerals = 0  # that were fanned out: who was not live then has missed them

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.position}, {'open' if self.is_open else 'closed'})"

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    @property
    def is_open(self) -> bool:
        return self.held is None

    @property
    def remembers(self) -> bool:
        """Whether the rules give it a history, and so its subscribers positions."""
        return self.rules.history_size != 0

    # Announcements.

    def announced(self, items: list[Announcement | Movement | Reset]) -> None:
        """What the link brought, in order."""
        if self.held is not None:
            self.hold(items)
        elif self.round is not None or self.waiting:
            self.waiting += items
        else:
            self._take_live(items)

    def hold(self, items: list[Announcement | Movement | Reset]) -> None:
        assert self.held is not None
        self.held += items
        if len(self.held) > HELD_MOST:
            # Only the newest with a place in history is kept: it shows the hole, which is then read.
            placed = (
                item for item in reversed(self.held) if type(item) is Reset or (type(item) is Announcement and item.publication.offset)
            )
            self.held = list(islice(placed, 1))

    def set_aside_held(self) -> list[Announcement | Movement | Reset]:
        """What came before a read of history that is sent now; ``put_back`` what of it still counts when the page is here."""
        assert self.held is not None
        older, self.held = self.held, []
        return older

    def put_back(self, older: Iterable[Announcement | Movement | Reset]) -> None:
        assert self.held is not None
        self.held = [*older, *self.held]

    def may_follow(self, item: Announcement | Movement | Reset) -> bool:
        """Whether an announcement that came before history was read can still count: not if its life of the history is over."""
        return item.epoch == self.epoch or type(item) is Movement or (type(item) is Announcement and item.publication.offset == 0)

    def start_again(self) -> None:
        """The link is gone: what it brought is in history, or lost with it."""
        self.held, self.waiting = [], []

    def _take_live(self, items: list[Announcement | Movement | Reset]) -> None:
        fresh: list[Publication] = []
        moved: list[Movement] = []
        rules, remembers = self.rules, self.remembers
        for number, item in enumerate(items):
            if type(item) is Announcement:
                publication = item.publication
                offset = publication.offset
                if offset == 0 or not remembers:
                    self.ephemerals += 1
                    fresh.append(publication)
                    continue
                if item.epoch == self.epoch:
                    if offset == self.offset + 1:
                        self.offset, self.ms = offset, publication.ms
                        self.size = rules.history_size if item.size is None else item.size
                        self.ttl = rules.history_ttl if item.ttl is None else max(item.ttl, 0)
                        self._keep(publication)
                        fresh.append(publication)
                        continue
                    if offset <= self.offset:
                        continue
            elif type(item) is Movement:
                moved.append(item)
                continue
            elif item.epoch == self.epoch:
                self.ring.clear()
                continue
            self.close(items[number:])
            break
        if fresh:
            self.fan_out(fresh)
        if moved and self.watchers:
            for subscription in list(self.watchers):
                subscription.watch(moved)
        if self.held is not None:
            self.doubt(self)

    def _keep(self, publication: Publication) -> None:
        self.ring.append(publication, self.size, self.loop.time() + self.ttl if self.ttl else FOREVER)

    def remember(self, page: Page) -> None:
        """A page that somebody's catch-up read: what of it joins the ring serves the next ones."""
        if page.top.epoch == self.epoch:
            believed = FRESH_SECONDS if not self.ttl else min(self.ttl, FRESH_SECONDS)
            self.ring.extend_back(page.publications, self.offset, self.size, self.loop.time() + believed)

    # What history says.

    def take(self, page: Page) -> bool:
        """Moves towards a page that was read after the channel's position; True if that is where the page's top is.

        Call it between rounds only. A position that history does not lead on from is a gap, and every live subscription is told.
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
        run, _ = following(self.offset, page.publications)
        if not run:
            if page.publications and page.publications[-1].offset <= self.offset:
                return False  # announcements were faster than this page; the next one leads on
            self.lose(page)
            return True
        for publication in run:
            self._keep(publication)
        self.offset, self.ms = run[-1].offset, run[-1].ms
        self.fan_out(run)
        return self.offset >= top.offset

    def lose(self, page: Page) -> None:
        """History does not hold what comes next: everybody live is told, and goes on from its top."""
        log.info("channel %s: history after %s is gone, at %s now", self.name, self.position, page.top)
        self.ring.clear()
        self.base = None
        self.epoch, self.offset, self.ms = page.top.epoch, page.top.offset, page.ms
        for members in list(self.live.values()):
            for subscription in list(members):
                subscription.lost(page.top)

    def close(self, items: Iterable[Announcement | Movement | Reset] = ()) -> None:
        """From now on announcements are held, ``items`` first."""
        self.held = [*items, *self.waiting] if self.held is None else [*self.held, *items, *self.waiting]
        self.waiting = []

    def open(self) -> None:
        """The position is certain. What was held goes first; it may close the channel again."""
        held, self.held = self.held or [], None
        self.announced(held)
        self._wake()

    def _wake(self) -> None:
        if self.is_open:
            waiters, self.waiters = self.waiters, {}
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def opened(self) -> asyncio.Future[None]:
        """Done when the channel is open."""
        waiter = self.loop.create_future()
        if self.is_open:
            waiter.set_result(None)
        else:
            self.waiters[waiter] = None
            waiter.add_done_callback(self._waits_no_more)
        return waiter

    def _waits_no_more(self, waiter: asyncio.Future[None]) -> None:
        """It is open, or whoever waited went away: clients may come and go for as long as it is closed."""
        self.waiters.pop(waiter, None)

    async def between_rounds(self) -> None:
        """Returns when no round is under way, whether the channel is open or not."""
        while self.round is not None:
            over = self.loop.create_future()
            self.round.over.append(over)
            await over

    # Live subscriptions.

    def join(self, subscription: Subscription) -> None:
        """It stands at the channel's position: from here on it is live."""
        if self.round is not None:
            self.joiners[subscription] = None
        else:
            self._admit(subscription)

    def _admit(self, subscription: Subscription) -> None:
        members = self.live.get(subscription.wire)
        if members is None:
            members = self.live[subscription.wire] = {}
        members[subscription] = subscription.write
        self.live_count += 1

    def leave(self, subscription: Subscription) -> Position:
        """It is live no longer. Returns where it stands."""
        if subscription in self.joiners:
            del self.joiners[subscription]
            return self.position
        members = self.live[subscription.wire]
        del members[subscription]
        self.live_count -= 1
        if not members:
            del self.live[subscription.wire]
        if self.round is not None and self.round.skip(subscription):
            return Position(self.epoch, self.round.start)
        return self.position

    def fan_out(self, publications: list[Publication]) -> None:
        """Writes to every live subscription, at once if they are few, else slice by slice."""
        live = self.live
        if self.live_count <= SLICE:
            for wire in tuple(live):  # a write may fill its socket, which makes its subscription leave
                joined = wire.join(self, publications)
                if joined is not NOTHING:
                    _write(tuple(live[wire].values()), joined)
            if self.deltas:
                self._found(publications[-1])
                self._chain()
            return
        first = next((p.offset for p in publications if p.offset), self.offset + 1)
        self.round = Round(first - 1, [(wire.join(self, publications), dict(members)) for wire, members in live.items()])
        if self.deltas:
            self._found(publications[-1])
        self._next_slice()

    def _found(self, last: Publication) -> None:
        self.base = last if last.offset else None

    def _chain(self) -> None:
        """Whoever a round found on a fresh wire for deltas has the channel's base now."""
        for wire in [wire for wire in self.live if isinstance(wire, DeltaWire) and wire is wire.fresh]:
            members = self.live.pop(wire)
            for subscription in members:
                subscription.wire = wire.chained
            self.live.setdefault(wire.chained, {}).update(members)

    def _next_slice(self) -> None:
        assert self.round is not None
        if self.round.write_slice():
            self.loop.call_soon(self._next_slice)
            return
        over, self.round = self.round.over, None
        if self.deltas:
            self._chain()
        for subscription in self.joiners:
            self._admit(subscription)
        self.joiners.clear()
        for waiter in over:
            if not waiter.done():
                waiter.set_result(None)
        if over:  # who waited for this moment has it before the next round begins
            self.loop.call_soon(self._announce_waiting)
        else:
            self._announce_waiting()

    def _announce_waiting(self) -> None:
        if self.round is None and self.waiting and self.held is None:
            waiting, self.waiting = self.waiting, []
            self.announced(waiting)


class Round:
    """One fan-out to many: ``start`` is the offset before it; who was not written to yet still stands there."""

    __slots__ = ("_parts", "over", "start")

    def __init__(self, start: int, parts: list[tuple[Any, dict[Subscription, Write]]]) -> None:
        self.start = start
        self.over: list[asyncio.Future[None]] = []
        self._parts = parts

    def write_slice(self) -> bool:
        """Writes to the next of them; False if that were all."""
        payload, members = self._parts[-1]
        chosen = list(islice(members.items(), SLICE))
        for subscription, _ in chosen:
            del members[subscription]
        if payload is not NOTHING:
            _write([write for _, write in chosen], payload)
        while self._parts and not self._parts[-1][1]:
            self._parts.pop()
        return bool(self._parts)

    def skip(self, subscription: Subscription) -> bool:
        """It left. True if it was not written to."""
        for _, members in self._parts:
            if subscription in members:
                del members[subscription]
                return True
        return False


def _write(writes: Iterable[Write], payload: Any) -> None:
    """One write each. A transport that fails costs nobody else its publication."""
    rest = iter(writes)
    while True:
        try:
            for write in rest:
                write(payload)
            return
        except GONE as error:
            log.debug("a subscriber's socket is gone: %s", error)  # its connection_lost is on the way
        except Exception:
            log.exception("a write to a subscriber failed")
