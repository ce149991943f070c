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
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..publication import Position
from ..rules.recovery import Standing, following, judge
from ..runtime.backoff import backoff
from .subscription import State, Subscription

if TYPE_CHECKING:
    from .hub import Hub

__all__ = ["advance", "catch_up"]

log = logging.getLogger("gateway.hub")

CHUNK_BYTES = 64 * 1024  # of publications written at a time: a socket's worth
FIRST_PAGE_BYTES = 128 * 1024  # of publications inside a subscribe reply; SDKs take frames up to 1 MiB


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
