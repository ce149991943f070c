"""The hub: which channels this process follows.

It subscribes the link to a channel with the first subscription, waits for Valkey's confirmation, and only then reads the
channel's position: whatever is published from there on is either in history or announced. The same reading (``mending``)
closes a hole and finds what a lost link missed. Where a channel has no history, its live subscriptions are notified that they
may have missed something. A channel without subscriptions is followed for some seconds more, for clients that come back at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from itertools import islice
from typing import Protocol

from ..config import Config
from ..errors import StoreError
from ..publication import Position
from ..runtime.tasks import Tasks, shared
from ..runtime.turns import Turns
from ..store.history import Page
from ..store.layout import Layout
from .arrivals import AnnouncementSource, Arrivals
from .catchup import advance, catch_up
from .channel import NOTIFIED_AT_ONCE, Channel
from .gap_log import GapLog
from .mending import PAGE, HistoryReader, MendingQueue, MissedEphemeral
from .opening import Opened
from .ring import Rings
from .subscription import State, Subscription
from .traffic import LiveCounts

__all__ = ["Feed", "Hub"]

log = logging.getLogger("gateway.hub")

IDLE_SECONDS = 10.0  # how long a channel outlives its last subscription
SWEEP_SECONDS = 2.0  # how often the hub looks for such channels
COMPARE_SECONDS = 60.0  # how often each channel's position is compared with Valkey's
COMPARED_AT_ONCE = 100  # channels whose positions are read in one pipeline
DROPPED_AT_ONCE = 500  # idle channels of one turn of the loop
PAGES_AT_ONCE = 50  # subscriptions that go on with a page of history in one turn of the loop, thousands of which may wait for the same


class Feed(AnnouncementSource, Protocol):
    """What the hub needs of the link: announcements of these Pub/Sub channels from now on, also after they were lost, or no more."""

    def subscribe(self, channels: list[bytes]) -> None: ...

    def unsubscribe(self, channels: list[bytes]) -> None: ...


class Hub:
    """All channels that one process follows. Make it inside a running loop.

    ``missed`` learns of ephemeral publications that may have been lost. ``rings`` has the bytes that all rings hold;
    ``history_reads`` counts the reads of Valkey's history, ``counts`` what its channels do; ``subscriptions`` is how many there are.
    ``now()`` is the clock of everything live: seconds of the loop.
    """

    def __init__(self, config: Config, layout: Layout, history: HistoryReader, feed: Feed, missed: MissedEphemeral) -> None:
        self._config = config
        self._layout = layout
        self._history = history
        self._feed = feed
        self._missed = missed
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._channels: dict[str, Channel] = {}
        self._by_key: dict[bytes, Channel] = {}
        self._idle: dict[Channel, None] = {}  # those without subscriptions, the longest idle first
        self._pages = Turns(PAGES_AT_ONCE)
        self.opened = Opened(self._loop)
        self.notices = Turns(NOTIFIED_AT_ONCE)
        self.slices = Turns(1)
        self._refused = False  # in this turn of the loop
        self._arrivals = Arrivals(self._by_key, feed, layout.faults, self._announcing_failed)
        self._tasks = Tasks()
        self._mending = MendingQueue(history, missed, self._tasks, self._announcing_failed)
        self._gaps = GapLog(self._loop)
        self.rings = Rings(config.limits.ring_bytes)
        self._reads = 0
        self.counts = LiveCounts(config)
        self.subscriptions = 0

    # Subscriptions.

    def channel(self, name: str) -> Channel:
        """The channel, followed from now on. Raises UnknownChannel if its namespace is not configured."""
        channel = self._channels.get(name)
        if channel is None:
            key = self._layout.channel(name)
            channel = Channel(name, key, self._config.rules(name), self.rings, self._loop, self, self.counts.of(name))
            self._channels[name] = self._by_key[key] = channel
            self._feed.subscribe([key])
            self._mark_idle(channel)
        return channel

    def follow(self, subscription: Subscription) -> None:
        """Takes a new subscription, and sends it on its way to live."""
        channel = subscription.channel
        channel.subscribers += 1
        self.subscriptions += 1
        self._idle.pop(channel, None)
        self.resume(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Moves a subscription that is catching up to live: at once if nothing has to be waited for, when its channel opens, or else in a task."""
        if advance(subscription):
            self._compare_ephemerals(subscription)
        elif subscription.channel.is_open:
            subscription.task = self._tasks.spawn(self._catch_up(subscription))
        else:
            subscription.channel.await_opening(subscription)

    def client_connected(self, subscription: Subscription) -> None:
        """The client learns only now that the subscription began: it has missed nothing of a channel without history, if that is open."""
        if not subscription.channel.has_history and subscription.channel.is_open:
            subscription.ephemerals_seen = subscription.channel.ephemerals
        self.drained(subscription)

    def drained(self, subscription: Subscription) -> None:
        """The socket of the subscription takes more: if it is behind, it goes on from its position."""
        if subscription.state is State.BEHIND:
            subscription.state = State.CATCHING_UP
            self.resume(subscription)

    def _compare_ephemerals(self, subscription: Subscription) -> None:
        if subscription.state is State.LIVE and subscription.ephemerals_seen != subscription.channel.ephemerals:
            self._missed.on_missed_ephemeral(subscription.channel)

    def end(self, subscription: Subscription) -> None:
        """Ends a subscription; ending it twice changes nothing."""
        if subscription.state is State.ENDED:
            return
        subscription.end()
        channel = subscription.channel
        channel.subscribers -= 1
        self.subscriptions -= 1
        if channel.subscribers == 0:
            self._mark_idle(channel)

    def _mark_idle(self, channel: Channel) -> None:
        channel.idle_since = self._loop.time()
        self._idle[channel] = None

    async def _catch_up(self, subscription: Subscription) -> None:
        await catch_up(self, subscription)
        subscription.task = None
        self.resume(subscription)

    # Valkey's history.

    async def page(self, channel: Channel, since: int) -> Page:
        """What follows the offset ``since``, at most PAGE publications. Equal reads under way are one read. Raises StoreError."""
        page = await shared(channel.reads, (since, channel.doubts), partial(self._read_page, channel.name, since))
        await self._pages.wait()
        return page

    async def _read_page(self, channel: str, since: int) -> Page:
        self._reads += 1
        return await self._history.read(channel, since, PAGE)

    async def refresh(self, channel: Channel) -> None:
        """Moves the channel to the position that Valkey has now, page by page, unless it closes meanwhile. Raises StoreError."""
        while channel.is_open:
            before = channel.epoch
            self._reads += 1
            # A read that is under way already is not shared: it may be older than the publication that is looked for. A server that took
            # over may be read from before the link is known to be lost: the position is compared with its history here, too.
            page = await self._history.read(channel.name, channel.offset, PAGE, seen=(channel.position, channel.ms))
            await channel.between_rounds()
            if channel.is_open and channel.epoch == before and channel.take(page):
                break
        self.mend(channel)

    def mend(self, channel: Channel) -> None:
        """Opens the channel again, if it is closed, as soon as its position is certain."""
        self._mending.mend(channel)

    def history_gone(self, channel: Channel, now: Position) -> None:
        """History does not hold what follows the channel's position, and goes on from ``now``."""
        self._gaps.add(channel.name, channel.position, now)

    # The link.

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        """``batch``: Pub/Sub channel → the payloads that arrived, in order. Channels that are not followed are ignored."""
        self._arrivals.take(batch)

    def _announcing_failed(self, channel: Channel) -> None:
        log.exception("channel %s: what was announced failed", channel.name)
        channel.link_lost()
        self.mend(channel)

    def on_subscribed(self, key: bytes) -> None:
        """Valkey confirmed a subscription: from here on every publication of that channel is announced to this process."""
        channel = self._by_key.get(key)
        if channel is not None and not channel.acked:
            channel.acked = True
            self.mend(channel)

    def on_refused(self, error: StoreError) -> None:
        """Valkey does not let this process follow some channels: clients that wait for one of them get an error.

        One read of the link may bring a refusal for each of hundreds. Those after the first change nothing: they are of channels asked for before.
        """
        if self._refused:
            return
        self._refused = True
        self._loop.call_soon(self._end_of_refusals)
        for channel in [each for each in self._channels.values() if each.waiters and not each.acked]:
            channel.fail_waiters(error)  # their clients go on with what they sent meanwhile, and may subscribe to new channels

    def _end_of_refusals(self) -> None:
        self._refused = False

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        """These Pub/Sub channels, None for all, are lost: each position is in doubt until the link confirms its channel again."""
        by_key = self._by_key
        for channel in by_key.values() if channels is None else [by_key[key] for key in channels if key in by_key]:
            channel.acked = False
            channel.link_lost()
            self._mending.stop(channel)
        self._mending.go_on()  # on a cluster, channels of other shards may have waited until these are no longer being mended

    # Housekeeping.

    @property
    def history_reads(self) -> int:
        """How often history was read since the start, but to compare positions."""
        return self._reads + self._mending.reads

    @property
    def channel_count(self) -> int:
        """How many channels have subscriptions here."""
        return len(self._channels) - len(self._idle)

    def subscribers(self) -> dict[str, int]:
        """Channel → the number of its subscriptions in this process."""
        return {name: channel.subscribers for name, channel in self._channels.items() if channel.subscribers}

    async def run_upkeep(self) -> None:
        """Drops channels that have no subscriptions any more, and compares the others with Valkey now and then. Runs until cancelled."""
        compared = self._loop.time()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            while self._drop_idle():
                await asyncio.sleep(0)
            if self._loop.time() - compared >= COMPARE_SECONDS:
                compared = self._loop.time()
                await self._compare()

    def _drop_idle(self) -> bool:
        """Drops up to DROPPED_AT_ONCE channels. True if more are to be dropped."""
        long_ago = self._loop.time() - IDLE_SECONDS
        gone = []
        for channel in islice(self._idle, DROPPED_AT_ONCE):
            if channel.idle_since > long_ago:
                break
            gone.append(channel)
        for channel in gone:
            del self._idle[channel], self._channels[channel.name], self._by_key[channel.key]
            channel.ring.clear()
            self._mending.stop(channel)
        self._mending.go_on()
        if gone:
            self._feed.unsubscribe([channel.key for channel in gone])
        return len(gone) == DROPPED_AT_ONCE

    async def _compare(self) -> None:
        """Finds what was lost without a sign, notices a history that was rewound, and renews the expiry of the counters in Valkey."""
        open_channels = [channel for channel in self._channels.values() if channel.subscribers and channel.has_history and channel.is_open]
        for start in range(0, len(open_channels), COMPARED_AT_ONCE):
            some = open_channels[start : start + COMPARED_AT_ONCE]
            reads = [self._history.read(channel.name, seen=(channel.position, channel.ms)) for channel in some]
            pages = await asyncio.gather(*reads, return_exceptions=True)
            for channel, page in zip(some, pages, strict=True):
                if isinstance(page, Page) and channel.is_open and channel.is_calm and _is_elsewhere(page.top, channel.position):
                    channel.close()
                    self.mend(channel)

    async def close(self) -> None:
        """Ends all tasks and reads of history that are under way."""
        for channel in self._channels.values():
            self._mending.stop(channel)
        reads = [read for channel in self._channels.values() for read in channel.reads.values()]
        for read in reads:
            read.cancel()
        await self._tasks.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _is_elsewhere(top: Position, here: Position) -> bool:
    return top.epoch != here.epoch or top.offset > here.offset
