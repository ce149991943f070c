"""Fan-out: one buffer for all live subscriptions of a channel.

Theory of operation. The invariant that everything rests on: **a live subscription is at the channel's position.** So
nothing is stored per subscription while it is live, and one buffer serves all that share a wire format. A fan-out to few
writes at once. One to many is a *round*, cut into slices so that other work gets its turn; so is one to many different
filters, each of which has to be asked. During a round the position does not move: announcements of that time wait and are
joined into the next round. A subscription that turns live during the round is added at its end, whose position it has
already.

    fan_out ─▶ few: prepared, and written at once
            ─▶ many: round ─▶ [slice … slice] ─▶ those that turned live are added ─▶ round_over
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol

from ..publication import Position, Publication
from ..rules.protocol import push_prefix
from .traffic import SAMPLED, Traffic
from .wire_formats import NOTHING, FilteredWire, FreshDeltaWire, Wire

__all__ = ["BYTES_PER_WRITE", "GONE", "SLICE", "FanOut", "Member", "Part", "Round", "Write", "write_all", "writes_of"]

log = logging.getLogger("gateway.hub")

SLICE = 1000  # subscriptions written to, or as much work of filters, before other work gets its turn: about 10 ms
BYTES_PER_WRITE = 8192  # of a write that take as long as a short one: the system copies a megabyte in about a millisecond
GONE = (OSError, RuntimeError)  # what uvloop raises for a socket that was reset, and for one that is closed

Write = Callable[[Any], object]  # takes the payload of its own wire format, whatever type that has
Part = tuple[Write, object]  # of a fan-out: one write, and its payload


class Member(Protocol):
    """A live subscription, as its channel sees it. A channel may give it another ``wire`` of the same pair for deltas."""

    wire: Wire

    @property
    def write(self) -> Write: ...

    def lost(self, before: Position) -> None:
        """History does not hold what comes after ``before``: the subscription goes on from the position where the channel is already."""


class FanOut(ABC):
    """The live subscriptions of one channel, and the position that all of them are at. Satisfies ``ChannelView``.

    ``base`` is the newest publication, for deltas; None if it is unknown, or has no offset. ``live_count`` counts the live
    subscriptions without those that are added when the round is over, ``filter_work`` is the work of their filters for one
    publication, in writes. ``traffic`` counts what is written.
    """

    __slots__ = (
        *("base", "deltas", "epoch", "filter_work", "joiners", "live", "live_count", "loop", "name", "offset"),
        *("push_prefix", "round", "traffic"),
    )

    def __init__(self, name: str, deltas: bool, loop: asyncio.AbstractEventLoop, traffic: Traffic) -> None:
        self.name = name
        self.traffic = traffic
        self.push_prefix = push_prefix(name)
        self.loop = loop
        self.epoch = ""
        self.offset = 0
        self.deltas = deltas
        self.base: Publication | None = None
        self.live: dict[Wire, dict[Member, Write]] = {}
        self.live_count = 0
        self.filter_work = 0
        self.joiners: dict[Member, None] = {}
        self.round: Round | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    @abstractmethod
    def round_over(self) -> None:
        """No round is under way any more: the position may move again."""

    @abstractmethod
    def slice_later(self, write: Callable[[], None]) -> None:
        """Calls it in a later turn of the loop, in which few other rounds go on."""

    async def between_rounds(self) -> None:
        """Returns when no round is under way."""
        while self.round is not None:
            over = self.loop.create_future()
            self.round.over.append(over)
            await over

    # Which subscriptions are live.

    def add_live(self, member: Member) -> None:
        """The subscription is at the channel's position: from here on it is live."""
        if self.round is not None:
            self.joiners[member] = None
        else:
            self._admit(member)

    def _admit(self, member: Member) -> None:
        members = self.live.get(member.wire)
        if members is None:
            members = self.live[member.wire] = {}
            self.filter_work += _filter_work(member.wire)
        members[member] = member.write
        self.live_count += 1

    def is_live(self, member: Member) -> bool:
        return member in self.live.get(member.wire, ()) or member in self.joiners

    def remove_live(self, member: Member) -> Position:
        """The subscription is not live any more. Returns the position it is at, which may be before the channel's."""
        if member in self.joiners:
            del self.joiners[member]
            return self.position
        members = self.live[member.wire]
        del members[member]
        self.live_count -= 1
        if not members:
            del self.live[member.wire]
            self.filter_work -= _filter_work(member.wire)
        if self.round is not None and self.round.skip(member):
            return Position(self.epoch, self.round.start)
        return self.position

    # Writing to them.

    def fan_out(self, publications: list[Publication]) -> None:
        """Writes to every live subscription, at once if they are few, else slice by slice. Call it between rounds only."""
        if self.live_count * writes_of(_size(publications)) + self.filter_work * len(publications) <= SLICE:
            parts: list[Part] = []
            self.prepare(publications, parts)
            write_all(parts)
            return
        self.traffic.publications += len(publications)
        first = next((p.offset for p in publications if p.offset), self.offset + 1)
        self.round = Round(first - 1, self, publications, self.live)
        if self.deltas:
            self._set_base(publications[-1])
        self._next_slice()

    def prepare(self, publications: list[Publication], parts: list[Part]) -> None:
        """Fans out to few, but for the writes, which it adds to ``parts``. They have to be made in this turn of the loop, even those to
        subscriptions that are not live any more then: the publications are counted as theirs."""
        traffic, count = self.traffic, len(publications)
        traffic.publications += count
        for wire, members in self.live.items():
            joined = wire.join(self, publications)
            if joined is not NOTHING:
                parts += [(write, joined) for write in members.values()]
                # As ``traffic.wrote``, whose call alone would take as long as all of this.
                traffic.deliveries += len(members) * (wire.admitted if type(wire) is FilteredWire else count)
                if type(joined) is bytes:
                    traffic.bytes += len(members) * len(joined)
        traffic.untimed -= 1
        if not traffic.untimed:
            traffic.untimed = SAMPLED
            parts.append((traffic.time_delivery, publications[-1].ms))
        if self.deltas:
            self._set_base(publications[-1])
            self._chain()

    def _set_base(self, last: Publication) -> None:
        self.base = last if last.offset else None

    def _chain(self) -> None:
        """Moves the subscriptions that were just given a whole document to the wire for changes of it."""
        for wire in [wire for wire in self.live if isinstance(wire, FreshDeltaWire)]:
            members = self.live.pop(wire)
            for member in members:
                member.wire = wire.chained
            self.live.setdefault(wire.chained, {}).update(members)

    def _next_slice(self) -> None:
        assert self.round is not None
        if self.round.write_slice():
            self.slice_later(self._next_slice)
            return
        over = self.round.over
        self.traffic.time_delivery(self.round.ms)
        self.round = None
        if self.deltas:
            self._chain()
        for member in self.joiners:
            self._admit(member)
        self.joiners.clear()
        for waiter in over:
            if not waiter.done():
                waiter.set_result(None)
        if over:  # the callers of between_rounds go on before the next round can begin
            self.loop.call_soon(self.round_over)
        else:
            self.round_over()


def writes_of(size: int) -> int:
    """How many short writes take as long as one of ``size`` bytes."""
    return 1 + size // BYTES_PER_WRITE


def _size(publications: list[Publication]) -> int:
    return sum([len(publication.data) for publication in publications])


def _filter_work(wire: Wire) -> int:
    return wire.work if isinstance(wire, FilteredWire) else 0


class Round:
    """One fan-out to many: ``publications``, to the subscriptions that are ``live`` as it begins.

    ``start`` is the offset before it; subscriptions not written to yet are still at ``start``. ``ms`` is when the last of the
    publications was made, 0 if that is unknown. ``over`` are futures to resolve when all are written to.
    """

    __slots__ = ("_channel", "_counts", "_parts", "_payloads", "_publications", "_writes", "ms", "over", "start")

    def __init__(self, start: int, channel: FanOut, publications: list[Publication], live: dict[Wire, dict[Member, Write]]) -> None:
        self.start = start
        self.ms = publications[-1].ms
        self.over: list[asyncio.Future[None]] = []
        self._channel = channel
        self._publications = publications
        self._writes = writes_of(_size(publications))  # as many short ones take as long as one of these
        self._parts = {wire: dict(members) for wire, members in live.items()}
        # Deltas are made against the base before this round, so at once; a filter is asked when its turn has come.
        self._payloads = {wire: wire.join(channel, publications) for wire in live if not isinstance(wire, FilteredWire)}
        self._counts = dict.fromkeys(self._payloads, len(publications))  # of publications in a payload

    def write_slice(self) -> bool:
        """Writes to the next subscriptions, up to SLICE and less where filters are asked; False if none are left."""
        left = SLICE
        while left > 0 and self._parts:
            left -= self._write_some(left)
        return bool(self._parts)

    def _write_some(self, most: int) -> int:
        """Writes to up to ``most`` subscriptions of one wire format. Returns how much work that was, in writes."""
        wire, members = self._parts.popitem()
        work = 0
        if wire not in self._payloads:
            self._payloads[wire] = wire.join(self._channel, self._publications)
            assert isinstance(wire, FilteredWire), "the payloads of all others are made at the start"
            self._counts[wire] = wire.admitted
            work = _filter_work(wire) * len(self._publications)
        payload = self._payloads[wire]
        chosen = list(islice(members.items(), max(1, most // self._writes)))
        for member, _ in chosen:
            del members[member]
        if members:
            self._parts[wire] = members
        else:
            del self._payloads[wire]
        if payload is not NOTHING:
            self._channel.traffic.wrote(payload, len(chosen), self._counts[wire])
            write_all([(write, payload) for _, write in chosen])
        return work + len(chosen) * self._writes

    def skip(self, member: Member) -> bool:
        """Takes a subscription out of the round. True if it was not written to yet."""
        members = self._parts.get(member.wire)
        if members is None or member not in members:
            return False
        del members[member]
        if not members:
            del self._parts[member.wire]
        return True


def write_all(parts: Iterable[Part]) -> None:
    """Calls each once. The publication reaches all others although a transport fails."""
    rest = iter(parts)
    while True:
        try:
            for write, payload in rest:
                write(payload)
            return
        except GONE as error:
            log.debug("a subscriber's socket is gone: %s", error)  # the loop calls its connection_lost soon
        except Exception:
            log.exception("a write to a subscriber failed")
