"""The channels that an instance of a group holds, what was read of them, and what the application has of that. ``reader`` has the theory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection

from ..errors import StoreError
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks
from ..store.layout import Layout
from ..store.link import Link
from .deliveries import Delivery
from .following import Following
from .holds import Hold
from .membership import Membership
from .reader_calls import Known, Page, ReaderCalls

__all__ = ["HeldChannels"]

log = logging.getLogger("gateway.reader")

PAGE = 32  # publications of one read: several channels get their turn
AGAIN_SECONDS = 1.0  # before a channel in which Valkey refused something is read again


class HeldChannels:
    """All holds of one instance: ``Membership`` takes the channels, the link announces what is new in them, and the application is given it.

    ``begin``, ``run`` until cancelled, ``stop``, ``give_back_all``. ``ready`` are deliveries that the application was not given yet, ``arrived`` is
    set where it has to look, ``is_open`` from ``begin`` to ``stop``. ``tries`` is how often a publication is given at most, ``unacknowledged`` how
    many are in this process at most; ``lease`` is in seconds.
    """

    def __init__(self, following: Following, layout: Layout, tasks: Tasks, tries: int, unacknowledged: int, lease: float) -> None:
        self._following = following
        self._layout = layout
        self._tasks = tasks
        self._tries = tries
        self._unacknowledged = unacknowledged
        self._lease = lease
        self._holds: dict[str, Hold] = {}
        self._known: dict[str, Known] = {}  # of channels that this instance held before
        self._by_key: dict[bytes, str] = {}
        self._changed: dict[Hold, None] = {}  # in which something may be new, the longest waiting first
        self._work = asyncio.Event()
        self.ready: deque[Delivery] = deque()
        self.arrived = asyncio.Event()
        self._outstanding = 0
        self.is_open = False

    def begin(self, calls: ReaderCalls, link: Link, membership: Membership) -> None:
        """The link is up; the first channels will be taken."""
        self._calls = calls
        self._link = link
        self._membership = membership
        self.is_open = True

    def stop(self) -> None:
        """The application gets no more."""
        self.is_open = False
        self.arrived.set()

    async def give_back_all(self) -> list[str]:
        """Gives back all channels, and returns them. Raises StoreError."""
        holds = list(self._holds.values())
        for hold in holds:
            self._end(hold)
        await asyncio.gather(*(self._calls.release(hold.channel, hold.owner) for hold in holds))
        return [hold.channel for hold in holds]

    # Channels: what Membership calls.

    def followed(self) -> Collection[str]:
        """All channels of the group."""
        return self._following.names

    def held(self) -> Collection[str]:
        """The channels that this instance reads, in a copy."""
        return set(self._holds)

    def on_taken(self, channel: str, owner: str) -> None:
        hold = Hold(channel, owner, self._known.get(channel), self._settle)
        key = self._layout.channel(channel)
        self._holds[channel], self._by_key[key] = hold, channel
        self._link.subscribe([key])

    def on_moved(self, channel: str) -> None:
        hold = self._holds.get(channel)
        if hold is None or hold.leaving:
            return
        hold.leaving = True
        self._remove_ready(hold)
        if not hold.handed:
            self._give_back(hold)
        else:
            # An application that never settles cannot hold a channel.
            asyncio.get_running_loop().call_later(self._lease, self._give_back, hold)

    def on_announced(self, channel: str) -> None:
        if (hold := self._holds.get(channel)) is not None:
            self._mark(hold)

    # The link's listener.

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        """Nothing is to be done: each channel counts as changed once it is confirmed again."""

    def on_refused(self, error: StoreError) -> None:
        """Nothing is to be done: the link has logged it, and asks again."""

    def on_subscribed(self, key: bytes) -> None:
        if (channel := self._by_key.get(key)) is not None:
            self._mark(self._holds[channel])

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        for key, payloads in batch.items():
            channel = self._by_key.get(key)
            if channel is not None and any(_changes_history(payload) for payload in payloads):
                self._mark(self._holds[channel])

    # The application's side.

    async def hand_over(self, delivery: Delivery) -> bool:
        """Whether the application has it now: it was the first of ``ready``, where it may be again."""
        hold = self._holds[delivery.channel]
        hold.handed.add(delivery)  # the channel is not given back while it is counted: nobody would see what counts as given
        is_given = False
        try:
            is_given = (delivery.deliveries == 1 < self._tries or await self._count(hold, delivery)) and hold.live
            return is_given
        finally:
            if not is_given:  # the caller that waited for it was cancelled, or the channel is another instance's
                hold.handed.discard(delivery)
                if hold.live and not hold.leaving:
                    self.ready.appendleft(delivery)
                elif not hold.handed:
                    self._give_back(hold)

    async def _count(self, hold: Hold, delivery: Delivery) -> bool:
        """Counts one more delivery of a publication that was given before, so that one which ends every process becomes a dead letter. The first
        delivery is counted already, unless it is the last that is allowed."""
        while hold.live:
            try:
                if await self._calls.again(hold.channel, hold.owner, delivery.id, delivery.deliveries):
                    return True
                self._lose(hold)
            except StoreError as error:
                if not error.is_general:
                    raise
                log.debug("%r waits for valkey: %s", delivery, error)
                await asyncio.sleep(backoff(1, 0.05, 1.0))
        return False

    async def _settle(self, hold: Hold, delivery: Delivery, reason: str | None) -> bool:
        attempt = 0
        while hold.live or (attempt and self.is_open):  # an acknowledgement that Valkey may have recorded is sent again: only Valkey knows
            try:
                recorded = await self._calls.settle(hold.channel, hold.owner, delivery.epoch, delivery.id, reason)
                break
            except StoreError as error:
                if not error.is_general:
                    raise
                attempt += 1
                log.debug("%r waits for valkey: %s", delivery, error)
                await asyncio.sleep(backoff(attempt, 0.05, 1.0))
        else:
            return False
        if not recorded:
            self._lose(hold)
        self._forget(hold, delivery)
        return recorded

    def _forget(self, hold: Hold, delivery: Delivery) -> None:
        """Removes a settled delivery, which makes room for another."""
        hold.handed.discard(delivery)
        if delivery in hold.outstanding:
            del hold.outstanding[delivery]
            self._outstanding -= 1
            self._work.set()
        if hold.leaving and hold.live and not hold.handed:
            self._give_back(hold)
        elif hold.more and not hold.outstanding:
            self._mark(hold)

    # Holds.

    def _mark(self, hold: Hold) -> None:
        if hold.live and not hold.leaving:
            self._changed[hold] = None
            self._work.set()

    async def run(self) -> None:
        """Reads the channels in which something may be new, in turns. Runs until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._changed and (room := self._unacknowledged - self._outstanding) > 0:
                hold = next(iter(self._changed))
                del self._changed[hold]
                if hold.live and not hold.leaving:
                    await self._read(hold, min(room, PAGE))

    async def _read(self, hold: Hold, most: int) -> None:
        try:
            page = await self._calls.read(hold.channel, hold.owner, most, hold.after, hold.newest_known())
        except StoreError as error:
            if not error.is_general:
                self._layout.faults.found("reader", hold.channel, error)
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._mark, hold)
            return
        if not hold.live or hold.leaving:
            return  # what was read stays pending in Valkey, for the next owner
        if page is None:
            self._lose(hold)
        else:
            self._add(hold, page)

    def _add(self, hold: Hold, page: Page) -> None:
        for entry in page.dead:
            log.error("%s: publication %s was given too often without an acknowledgement: it is a dead letter", ascii(hold.channel), entry)
        made = hold.add(page)
        self._outstanding += len(made)
        self.ready.extend(made)
        if made:
            self.arrived.set()
        if page.more and (made or not hold.outstanding):  # else a hole, which is crossed when all before it are settled
            self._mark(hold)

    def _lose(self, hold: Hold) -> None:
        """Another instance has the channel, or what was read is void: what it was given cannot be acknowledged any more."""
        if hold.live:
            self._end(hold)
            self._membership.wake()

    def _give_back(self, hold: Hold) -> None:
        if hold.live:
            self._end(hold)
            self._tasks.spawn(self._release(hold))

    async def _release(self, hold: Hold) -> None:
        try:
            await self._calls.release(hold.channel, hold.owner)
        except StoreError as error:
            log.debug("%s was not given back: %s", hold.channel, error)  # its next owner takes it from us as ours
        self._membership.announce_free(hold.channel)

    def _end(self, hold: Hold) -> None:
        hold.live = False
        key = self._layout.channel(hold.channel)
        del self._holds[hold.channel], self._by_key[key]
        self._changed.pop(hold, None)
        if (known := hold.newest_known()) is not None:
            self._known[hold.channel] = known
        self._remove_ready(hold)
        self._outstanding -= len(hold.outstanding)
        hold.outstanding.clear()
        self._work.set()
        self._link.unsubscribe([key])

    def _remove_ready(self, hold: Hold) -> None:
        """The application gets none of what was read for it."""
        if removed := hold.outstanding.keys() - hold.handed:
            self.ready = deque(delivery for delivery in self.ready if delivery not in removed)


def _changes_history(payload: bytes) -> bool:
    """Whether an announcement is of a publication, or of a history that was replaced; joins, leaves and ephemeral publications are not."""
    return payload.startswith(b"@") and not payload.startswith((b"@join", b"@leave", b"@0 "))
