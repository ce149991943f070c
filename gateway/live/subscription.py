"""A subscription: one client in one channel. ``catchup`` moves it to live, ``fanout`` writes to it while it is live.

An edge subclasses ``Subscription`` and says how publications and gaps reach its client.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from enum import Enum

from ..errors import StoreError
from ..publication import Position, Publication
from ..runtime.moments import shared_ms
from .channel import Channel
from .fanout import GONE, Write
from .wire_formats import ChainedDeltaWire, FreshDeltaWire, Wire

__all__ = ["State", "Subscription"]

log = logging.getLogger("gateway.hub")


class State(Enum):
    """Where a subscription is on its way; ``catchup`` draws how one leads to another."""

    CATCHING_UP = "catching up"
    LIVE = "live"
    BEHIND = "behind"
    ENDED = "ended"


class Subscription(ABC):
    """One client in one channel, catching up from ``since``; None starts at the channel's top.

    ``write`` takes what ``wire`` makes. ``epoch`` and ``offset`` are the position while the subscription is not live;
    ``epoch`` None stands for the channel's top. ``begun`` is whether ``begin`` was called. A ``wire`` for deltas is
    exchanged for the other of its pair when the first document was written, and after a gap. ``ephemerals_seen`` is the
    channel's count of ephemeral publications when the subscription began, or was live last. ``task`` catches it up.
    ``since_ms`` is when it was made, in unix ms. ``unbroken`` is the offset after which its client was written each publication: where it began,
    or where it went on after the last gap. ``recovered`` is None for one that began at the top; of one that asked for a position, whether it
    recovered from there. It is False after a gap.
    """

    __slots__ = (
        *("begun", "channel", "ephemerals_seen", "epoch", "offset", "recovered", "since_ms", "state"),
        *("task", "unbroken", "wire", "write"),
    )

    def __init__(self, channel: Channel, wire: Wire, write: Write, since: Position | None) -> None:
        self.channel = channel
        self.wire = wire
        self.write = write
        self.epoch: str | None = None
        self.offset = 0
        if since is not None:
            self.epoch, self.offset = since
        self.state = State.CATCHING_UP
        self.begun = False
        self.ephemerals_seen = channel.ephemerals
        self.since_ms = shared_ms()
        self.unbroken = 0
        self.recovered: bool | None = None if since is None else False
        self.task: asyncio.Task[None] | None = None

    # What each edge implements.

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether its socket is full."""

    @abstractmethod
    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        """Called once, before anything is written. The position is where it began, which is the channel's top unless ``recovered``.

        ``publications`` is the first page of what it missed; it is empty unless ``takes_first_page``.
        """

    @abstractmethod
    def gap(self) -> None:
        """What it missed is gone; its position is the channel's top now. Called after ``begin`` only."""

    def fail(self, error: StoreError) -> None:
        """Called instead of ``begin`` where Valkey refuses to read the history: the subscription ends. An edge answers its client first."""
        self.end()

    @property
    def is_server_side(self) -> bool:
        """Whether it was not the client that subscribed, but its token, the rules or a service."""
        return False

    @property
    def takes_first_page(self) -> bool:
        """Whether ``begin`` takes the first page of publications; otherwise they are delivered after it."""
        return True

    @property
    def reaches_back(self) -> bool:
        """Whether its client asked for a number of publications before the top, as far as history has them, and not for a position."""
        return False

    def deliver(self, joined: object) -> None:
        """Writes what the wire joined, outside of a round of the fan-out."""
        if type(joined) is bytes:
            self.channel.traffic.bytes += len(joined)
        try:
            self.write(joined)
        except GONE as error:
            log.debug("a subscriber's socket is gone: %s", error)  # the loop calls its connection_lost soon

    # What the hub, the channel and the edges ask of it.

    @property
    def position(self) -> Position:
        """The position after the last publication that was written; its epoch is "" until the channel's is known."""
        if self.state is State.LIVE:
            return self.channel.position
        return Position(self.epoch or "", self.offset)

    def fall_behind(self) -> None:
        """Its socket is full: nothing more is written until the hub is notified that it drained."""
        if self.state is State.LIVE:
            self._leave_live(State.BEHIND)
            self.ephemerals_seen = self.channel.ephemerals

    def lost(self, before: Position) -> None:
        """The channel, which was at ``before``, went on with a gap while the subscription was live."""
        self.channel.traffic.gaps["live"] += 1
        self.gap()
        self._go_on_after_gap()

    def end(self) -> None:
        """Nothing more is written to it. Ending it twice changes nothing."""
        if self.state is State.LIVE:
            self._leave_live(State.ENDED)
        self.state = State.ENDED
        self.channel.stop_waiting(self)
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def _leave_live(self, state: State) -> None:
        self.epoch, self.offset = self.channel.remove_live(self)
        self.state = state

    # What catch-up does with it.

    def start_at(self, position: Position, recovered: bool, publications: list[Publication]) -> None:
        """Begins: ``publications``, the first page, follow ``position``."""
        self.epoch, self.offset = position
        self.unbroken = position.offset
        if self.recovered is not None:
            self.recovered = recovered
        self.begun = True
        self.ephemerals_seen = self.channel.ephemerals
        self.begin(recovered, publications)
        if publications:
            self._move_to(publications[-1])

    @property
    def may_start_later(self) -> bool:
        """Whether it may begin at a later offset, without a gap, where history no longer holds what follows its own: it ``reaches_back``, and was given nothing yet."""
        return self.reaches_back and (not self.begun or (bool(self.recovered) and self.offset == self.unbroken))

    def start_later(self, offset: int) -> None:
        """It starts after this offset, which history still has."""
        self.offset = self.unbroken = offset

    def write_next(self, publications: list[Publication]) -> None:
        """Writes the publications that follow its position; the first time, they are the first page, which may have none."""
        if not self.begun:
            self.start_at(Position(self.channel.epoch, self.offset), True, publications if self.takes_first_page else [])
            return
        joined = self.wire.join(self.channel, publications)
        # The position moves first: a full socket may ask for it while the write is under way.
        self._move_to(publications[-1])
        self.deliver(joined)

    def _move_to(self, publication: Publication) -> None:
        self.offset = publication.offset
        if isinstance(self.wire, FreshDeltaWire):
            self.wire = self.wire.chained

    def start_over(self) -> None:
        """What follows its position is gone: it goes on from the channel's top, and its client is notified."""
        if isinstance(self.wire, ChainedDeltaWire):
            self.wire = self.wire.fresh
        self.channel.traffic.gaps["catch_up" if self.begun else "subscribe"] += 1
        if self.begun:
            self.gap()  # one that ends with its gap ends where it was
            self.epoch, self.offset = self.channel.position
            self._go_on_after_gap()
        else:
            self.start_at(self.channel.position, False, [])

    def _go_on_after_gap(self) -> None:
        self.unbroken = self.channel.offset
        self.recovered = False

    def turn_live(self) -> None:
        """Its position is the channel's: from here on rounds of the fan-out write to it."""
        self.state = State.LIVE
        self.channel.add_live(self)
