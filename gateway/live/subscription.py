"""A client in one channel, from its beginning to its end."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Any

from ..publication import Position, Publication
from ..store.layout import Movement
from .channel import GONE, Channel
from .wire_formats import DeltaWire, Wire

__all__ = ["State", "Subscription"]

log = logging.getLogger("gateway.hub")


class State(Enum):
    CATCHING_UP = "catching up"
    LIVE = "live"
    BEHIND = "behind"
    ENDED = "ended"


class Subscription:
    """One client in one channel. An edge subclasses it and says how publications and gaps reach the client.

    ``epoch`` and ``offset`` are its position while it is not live; None in ``epoch`` asks to start at the channel's top.
    A ``wire`` for deltas changes with what was given.
    """

    __slots__ = ("begun", "channel", "epoch", "heard", "offset", "state", "task", "wire", "write")

    takes_first_page = True  # whether ``begin`` takes publications; else they come behind it

    def __init__(self, channel: Channel, wire: Wire, write: Any, since: Position | None) -> None:
        self.channel = channel
        self.wire = wire
        self.write = write
        self.epoch, self.offset = since if since is not None else (None, 0)
        self.state = State.CATCHING_UP
        self.begun = False
        self.heard = channel.ephemerals  # when it began, or was live last
        self.task: asyncio.Task[None] | None = None

    # What an edge says.

    @property
    def paused(self) -> bool:
        """Whether its socket is full."""
        raise AssertionError("an edge's subscription says so")

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        """Called once, before anything is written: it stands at its position, which is the channel's top unless ``recovered``.

        ``publications`` is the first page of what it missed.
        """
        raise AssertionError("an edge's subscription says so")

    def gap(self) -> None:
        """What it missed is gone; its position is the channel's top now. Called after ``begin`` only."""
        raise AssertionError("an edge's subscription says so")

    def watch(self, moved: list[Movement]) -> None:
        """Who came and went, for those among ``channel.watchers``."""
        raise AssertionError("an edge's subscription says so")

    def deliver(self, joined: Any) -> None:
        """Writes what the wire joined, outside of a round of the fan-out."""
        try:
            self.write(joined)
        except GONE as error:
            log.debug("a subscriber's socket is gone: %s", error)  # its connection_lost is on the way

    # What everybody else asks of it.

    @property
    def position(self) -> Position:
        if self.state is State.LIVE:
            return self.channel.position
        return Position(self.epoch or "", self.offset)

    def fall_behind(self) -> None:
        """Its socket is full: nothing more is written until ``resume``."""
        if self.state is State.LIVE:
            self.epoch, self.offset = self.channel.leave(self)
            self.heard = self.channel.ephemerals
            self.state = State.BEHIND

    def lost(self, top: Position) -> None:
        """The channel went on with a gap while it was live: it stands at ``top`` now."""
        self.gap()

    def end(self) -> None:
        if self.state is State.LIVE:
            self.epoch, self.offset = self.channel.leave(self)
        self.state = State.ENDED
        if self.channel.watchers is not None:
            self.channel.watchers.pop(self, None)
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def _start_at(self, position: Position, recovered: bool, publications: list[Publication]) -> None:
        self.epoch, self.offset = position
        self.begun = True
        self.heard = self.channel.ephemerals
        self.begin(recovered, publications)
        if publications:
            self._moved_to(publications[-1])

    def _moved_to(self, publication: Publication) -> None:
        self.offset = publication.offset
        if isinstance(self.wire, DeltaWire):
            self.wire = self.wire.chained

    def _go_on_with(self, publications: list[Publication]) -> None:
        """Writes the next publications; the first time, they are the first page."""
        if not self.begun:
            self._start_at(Position(self.channel.epoch, self.offset), True, publications if self.takes_first_page else [])
            return
        joined = self.wire.join(self.channel, publications)
        # The position moves first: a full socket may ask for it while the write is under way.
        self._moved_to(publications[-1])
        self.deliver(joined)

    def _start_over(self) -> None:
        """What follows its position is gone: it goes on from the channel's top, and its client is told."""
        self.epoch, self.offset = self.channel.position
        if isinstance(self.wire, DeltaWire):
            self.wire = self.wire.fresh
        if self.begun:
            self.gap()
        else:
            self._start_at(self.channel.position, False, [])
