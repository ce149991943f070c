"""Catch-up: the one piece of code that moves a subscription from a position to live.

A first subscribe, a reconnect, a lost link and a slow client all go through here.

    CATCHING_UP ──level with the channel──▶ LIVE ──its socket is full──▶ BEHIND ──its socket drained──▶ CATCHING_UP
         └────────────── its socket is full ───────────────────────────────▲
    any ──unsubscribed, closed──▶ ENDED

``advance`` goes as far as it can without waiting: most subscriptions turn live in one call. Where the channel is closed, the
subscription waits in it, without a task, until it opens. Where the position is ahead of the channel, or the ring does not reach back
far enough, ``catch_up`` goes on in a task that ends when the subscription is live, or the channel closes. A position moves only when
the publication before it is written, so a subscription that is interrupted goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Protocol

from ..errors import StoreError, Unavailable, is_general
from ..publication import Position, Publication
from ..rules.recovery import Standing, following, judge
from ..runtime.backoff import retrying
from ..store.history import Page
from .channel import Channel
from .subscription import State, Subscription

__all__ = ["PageSource", "advance", "catch_up"]

log = logging.getLogger("gateway.hub")

CHUNK_BYTES = 64 * 1024  # of publications written at a time: a socket's worth
# Of publications inside a subscribe reply. SDKs wait for a reply for 5 s, and connect again without it: one that a slow link does not bring in
# that time would be sent again and again. Pushes have no such time, and each of them moves the client on.
FIRST_PAGE_BYTES = 64 * 1024


class PageSource(Protocol):
    """Where catch-up gets history from. Both methods raise StoreError."""

    async def page(self, channel: Channel, since: int) -> Page:
        """What follows the offset ``since``, up to the size of a page."""

    async def refresh(self, channel: Channel) -> None:
        """Moves the channel to the position that Valkey has now, unless it closes meanwhile."""


def advance(subscription: Subscription) -> bool:
    """Writes what the subscription misses, as long as nothing has to be waited for; one that had not begun gets its first page alone. True if it is
    live, behind or ended: there is nothing more to wait for."""
    channel = subscription.channel
    while subscription.state is State.CATCHING_UP:
        if not channel.is_open:
            return False
        if subscription.begun and subscription.paused:
            subscription.state = State.BEHIND
            return True
        if subscription.epoch is None or not channel.has_history:
            if not subscription.begun:
                subscription.start_at(channel.position, False, [])
                continue
            if subscription.ephemerals_seen != channel.ephemerals:
                subscription.ephemerals_seen = channel.ephemerals
                subscription.start_over()
                continue
            subscription.epoch, subscription.offset = channel.position
            subscription.turn_live()
            return True
        standing = judge(Position(subscription.epoch, subscription.offset), channel.position)
        if standing is Standing.LOST:
            subscription.start_over()
        elif standing is Standing.LEVEL:
            if subscription.begun:
                subscription.turn_live()
            else:
                subscription.start_at(channel.position, True, [])
        elif standing is Standing.AHEAD:
            return False
        else:
            begun = subscription.begun
            room = CHUNK_BYTES if begun else FIRST_PAGE_BYTES
            run = channel.ring.after(subscription.offset, room, channel.loop.time(), strictly=not begun)
            if run is None:
                return False
            _give(subscription, "ring", run)
            if not begun and subscription.state is State.CATCHING_UP and subscription.offset < channel.offset:
                return False
    return True


def _give(subscription: Subscription, source: str, run: list[Publication]) -> None:
    """The next publications, which come from the ring or from history. Not all subscriptions take those of a first page."""
    since = subscription.offset
    subscription.write_next(run)
    if given := subscription.offset - since:
        subscription.channel.traffic.counts.took_page(source, given)


async def catch_up(source: PageSource, subscription: Subscription) -> None:
    """Waits for what ``advance`` needs, step by step. Returns when the subscription is live, behind or ended, or its channel is closed."""
    what = f"channel {subscription.channel.name}: history could not be read"
    begun = subscription.begun
    while not advance(subscription) and subscription.channel.is_open:
        if subscription.begun == begun:
            await retrying(partial(_wait, source, subscription), what, log, on=StoreError, quiet=is_general)
        if subscription.begun != begun:  # replies to other commands, which SDKs await for 5 s, leave before the rest of what it missed
            begun = True
            await asyncio.sleep(0)


async def _wait(source: PageSource, subscription: Subscription) -> None:
    """``_step``; where Valkey refuses to read the history, a subscription that did not begin is refused. Raises StoreError."""
    try:
        await _step(source, subscription)
    except Unavailable:
        raise
    except StoreError as error:
        if subscription.begun:
            raise
        subscription.fail(error)


async def _step(source: PageSource, subscription: Subscription) -> None:
    """Reads history where the ring ends, or where the position is ahead, if the channel is open. Raises StoreError."""
    channel = subscription.channel
    if not channel.is_open:
        return
    standing = judge(subscription.position, channel.position)
    if standing is Standing.AHEAD:
        await _settle_ahead(source, subscription)
    elif standing is Standing.BEHIND:
        await _read_page(source, subscription)


async def _settle_ahead(source: PageSource, subscription: Subscription) -> None:
    """Brings the channel to where a faster gateway had brought the client. If it never gets there, the position is not of this history."""
    channel, wanted = subscription.channel, subscription.offset
    await source.refresh(channel)
    if channel.is_open and subscription.state is State.CATCHING_UP and channel.offset < wanted and subscription.offset == wanted:
        subscription.start_over()


async def _read_page(source: PageSource, subscription: Subscription) -> None:
    channel, since = subscription.channel, subscription.offset
    doubts = channel.doubts
    page = await source.page(channel, since)
    if subscription.state is not State.CATCHING_UP or not channel.is_open:
        return
    if page.top.epoch != channel.epoch:
        await source.refresh(channel)
        return
    if subscription.epoch and subscription.epoch != page.top.epoch:
        return  # another life of the history began meanwhile; advance judges the position again
    if doubts == channel.doubts:
        channel.remember(page)
    if subscription.begun and subscription.paused:
        return  # its position has not moved; it goes on from there when its socket drained
    run = following(since, page.publications)
    if not run and page.publications and subscription.may_start_later:
        subscription.start_later(page.publications[0].offset - 1)
        run = following(subscription.offset, page.publications)
    # What is newer than the channel's position goes through the channel, to everybody at once.
    run = [publication for publication in run if publication.offset <= channel.offset]
    if run:
        _give(subscription, "history", run if subscription.begun else _first_page(run))
    elif subscription.offset == since:
        subscription.start_over()


def _first_page(publications: list[Publication]) -> list[Publication]:
    """As many of them as a reply takes."""
    room = FIRST_PAGE_BYTES
    for number, publication in enumerate(publications):
        room -= len(publication.data)
        if room < 0:
            return publications[:number]
    return publications
