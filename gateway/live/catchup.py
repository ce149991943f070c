"""Catch-up: the one piece of code that moves a subscription from a position to live.

A first subscribe, a reconnect, a lost link and a slow client all go through here.

    CATCHING_UP ──level with the channel──▶ LIVE ──its socket is full──▶ BEHIND ──its socket drained──▶ CATCHING_UP
         └────────────── its socket is full ───────────────────────────────▲
    any ──unsubscribed, closed──▶ ENDED

``advance`` goes as far as it can without waiting: most subscriptions turn live in one call. What it cannot do, because
the channel is closed, the position is ahead of the channel, or the ring does not reach back far enough, is waited for in
a task that ends when the subscription is live. A publication is written only in front of the position it moves to, so
whatever is interrupted goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..publication import Position, Publication
from ..rules.recovery import Standing, following, judge
from ..runtime.backoff import backoff
from ..store.layout import Movement
from .channel import GONE, Channel
from .wire_formats import DeltaWire, Wire

if TYPE_CHECKING:
    from .hub import Hub

__all__ = ["State", "Subscription", "advance", "catch_up"]

log = logging.getLogger("gateway.hub")

CHUNK_BYTES = 64 * 1024  # of publications written at a time: a socket's worth
FIRST_PAGE_BYTES = 128 * 1024  # of publications inside a subscribe reply; SDKs take frames up to 1 MiB


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


def advance(subscription: Subscription) -> bool:
    """Goes as far as it can without waiting. True if there is nothing to wait for: it is live, behind or ended."""
    channel = subscription.channel
    while subscription.state is State.CATCHING_UP:
        if not channel.is_open:
            return False
        if subscription.begun and subscription.paused:
            subscription.state = State.BEHIND
            return True
        if subscription.epoch is None or not channel.remembers:
            if not subscription.begun:
                subscription._start_at(channel.position, False, [])
                continue
            subscription.epoch, subscription.offset = channel.position
            _turn_live(subscription)
            return True
        standing = judge(Position(subscription.epoch, subscription.offset), channel.position)
        if standing is Standing.LOST:
            subscription._start_over()
        elif standing is Standing.LEVEL:
            if subscription.begun:
                _turn_live(subscription)
            else:
                subscription._start_at(channel.position, True, [])
        elif standing is Standing.AHEAD:
            return False
        else:
            room = CHUNK_BYTES if subscription.begun else FIRST_PAGE_BYTES
            run = channel.ring.after(subscription.offset, room, channel.loop.time())
            if run is None:
                return False
            subscription._go_on_with(run)
    return True


def _turn_live(subscription: Subscription) -> None:
    subscription.state = State.LIVE
    subscription.channel.join(subscription)


async def catch_up(hub: Hub, subscription: Subscription) -> None:
    """Does what ``advance`` cannot: waits for the channel, and reads history where the ring ends."""
    channel = subscription.channel
    failures = 0
    while not advance(subscription):
        if not channel.is_open:
            await channel.opened()
            continue
        assert subscription.epoch is not None
        standing = judge(Position(subscription.epoch, subscription.offset), channel.position)
        try:
            if standing is Standing.AHEAD:
                await _settle_ahead(hub, subscription)
            elif standing is Standing.BEHIND:
                await _read_page(hub, subscription)
            failures = 0
        except StoreError as error:
            failures += 1
            if failures == 1:
                log.warning("channel %s: history could not be read (%s); trying again", channel.name, error)
            await asyncio.sleep(backoff(failures, 0.05, 2.0))


async def _settle_ahead(hub: Hub, subscription: Subscription) -> None:
    """Brings the channel to where a faster gateway had brought the client. If it never gets there, the position is not of this history."""
    channel, wanted = subscription.channel, subscription.offset
    await hub.refresh(channel)
    if channel.is_open and subscription.state is State.CATCHING_UP and channel.offset < wanted and subscription.offset == wanted:
        subscription._start_over()


async def _read_page(hub: Hub, subscription: Subscription) -> None:
    channel, since = subscription.channel, subscription.offset
    page = await hub.page(channel, since)
    if subscription.state is not State.CATCHING_UP or not channel.is_open:
        return
    if page.top.epoch != channel.epoch:
        await hub.refresh(channel)
        return
    if subscription.epoch and subscription.epoch != page.top.epoch:
        return  # the channel began another life meanwhile; that is judged again
    channel.remember(page)
    run, _ = following(since, page.publications)
    if subscription.begun and subscription.paused:
        return  # its position has not moved; it goes on from there
    # What is newer than the channel's position goes through the channel, to everybody at once.
    run = [publication for publication in run if publication.offset <= channel.offset]
    if run:
        subscription._go_on_with(run)
    else:
        subscription._start_over()
