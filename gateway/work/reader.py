"""A durable reader: a service that sees every publication of its channels, whatever dies meanwhile. Use it as ``gateway.work.Reader``.

    async with Reader("valkey://localhost", group="search-index", channels=["reviews:42"]) as reader:
        async for publication in reader:
            if publication.gap is not None:
                ...                                   # what history had lost: read it where the data comes from
            await index(publication.data)
            await publication.ack()

Theory of operation. A group's position in a channel is in Valkey, beside the stream, and moves only by acknowledgements; so a crash anywhere
repeats publications and skips none. One instance at a time *holds* a channel, so that its order is kept; the functions in Valkey refuse every
other instance, also one that held the channel before and does not know yet that it lost it. Beside the application run:

- ``Membership``: it renews this instance's lease, learns which instances are alive, and takes the channels that are its share. A channel of an
  instance that is gone is taken from it; one that is another's now is given back once the application has settled what it has of it.
- ``_pump``: it reads the channels in which something may be new, in turns, while fewer than ``unacknowledged`` publications are in this process.
- the link, which announces publications and changes of the group. After each lost connection every channel may have something new.

Whatever does not fit together (the owner is another, the history was replaced, the consumer group vanished) ends the hold. The channel is
taken again, and read on from the acknowledged position.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigurationError, StoreError
from ..publication import Position
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks
from ..store.access import make_commands
from ..store.connect import Address
from ..store.embedded import find_url
from ..store.history import PAGE_BYTES
from ..store.layout import Layout
from ..store.library import BUILT_IN_RULES, Library
from ..store.link import Link
from .deliveries import Delivery
from .following import Following
from .holds import Hold
from .membership import Membership
from .reader_arguments import Start, check_reader, start_word
from .reader_calls import DeadLetter, Known, Page, ReaderCalls

__all__ = ["Reader"]

log = logging.getLogger("gateway.reader")

PAGE = 32  # publications of one read: several channels get their turn
AGAIN_SECONDS = 1.0  # before a channel is read again in which Valkey refused something
CLOSE_SECONDS = 2.0  # for giving back the channels


class Reader:
    """Reads ``channels``, or all of ``namespace``, whose rules need ``index = true``, as an instance of ``group``.

    ``since``: where the group begins in a channel that it never read: None, with what history holds; a Position or its text; an offset, so 0 for
    all that ever was; a datetime. ``deliveries``: how often a publication is given at most, then it is a dead letter. ``unacknowledged``: how many
    publications are in this process at most; reading goes on when some of them are settled. ``lease``: seconds after which another instance takes the
    channels of one that is dead. ``prefix`` and ``data_dir`` are those of the gateway's configuration; without ``url`` its
    Valkey is found as by ``Queue``.

    Raises ValueError or TypeError for arguments that cannot be.
    """

    def __init__(
        self,
        url: str = "",
        *,
        group: str,
        channels: Iterable[str] = (),
        namespace: str = "",
        since: Start = None,
        deliveries: int = 5,
        unacknowledged: int = 100,
        lease: float = 10.0,
        prefix: str = "gw",
        data_dir: str | Path = "",
    ) -> None:
        names = [channels] if isinstance(channels, str) else list(channels)
        check_reader(group, names, namespace, deliveries, unacknowledged, lease)
        self._url, self._data_dir = url, data_dir
        self._layout = Layout(prefix)
        self._group, self._start, self._deliveries = group, start_word(since), deliveries
        self._unacknowledged, self._lease = unacknowledged, lease
        self._tasks = Tasks()
        self._following = Following(names, namespace, self._layout, self._tasks, self._on_new_names)
        self._holds: dict[str, Hold] = {}
        self._known: dict[str, Known] = {}  # of channels that this instance held before
        self._by_key: dict[bytes, str] = {}
        self._changed: dict[Hold, None] = {}  # in which something may be new, the longest waiting first
        self._work = asyncio.Event()
        self._ready: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._handing = asyncio.Lock()
        self._outstanding = 0
        self._closing = AsyncExitStack()
        self._running: list[asyncio.Task[None]] = []
        self._open = False

    # Opening and closing.

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects, and reads which channels there are. Raises Unavailable if Valkey cannot be reached, ConfigurationError for a namespace
        without an index; a connection that is lost later is opened again by itself."""
        address = Address(find_url(self._url, self._data_dir))
        library = Library(None, self._layout.prefix)
        self._commands = commands = make_commands(address, functions=library)
        self._calls = ReaderCalls(commands, self._layout, self._group, self._start, self._deliveries, PAGE_BYTES)
        following, namespace = self._following, self._following.namespace
        self._membership = Membership(self._calls, self, following.digest, self._lease, self._layout.faults, evenly=not namespace)
        self._link = link = Link(address, commands, self._layout.own_channel(self._membership.instance))
        link.add_listener(self)
        link.add_channel_listener(self._calls.instances, self._membership)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(commands.close)
            await commands.start()
            if namespace:
                await self._check_index(library)
                link.add_channel_listener(following.key, following)
            stack.push_async_callback(link.close)
            await link.start()
            await following.begin(commands, self._group)
            self._closing = stack.pop_all()
        self._open = True
        self._running = [asyncio.create_task(self._membership.run()), asyncio.create_task(self._pump())]
        for task in self._running:
            task.add_done_callback(lambda _: self._arrived.set())

    async def _check_index(self, library: Library) -> None:
        rules = await library.stored_rules(self._commands.call) or BUILT_IN_RULES
        namespace = self._following.namespace
        if not rules.get(namespace, {}).get("index"):
            raise ConfigurationError(
                f"namespaces.{namespace}.index is not set: give the gateways `index = true` for {namespace!r}, or name the reader's channels"
            )

    async def close(self) -> None:
        """Gives the channels back at once; iteration ends, and what was not acknowledged is given to another instance. Closing twice changes nothing."""
        if not self._open:
            return
        self._open = False
        self._arrived.set()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                holds = list(self._holds.values())
                for hold in holds:
                    self._end(hold)
                await asyncio.gather(*(self._calls.release(hold.channel, hold.owner) for hold in holds))
                await self._membership.end([hold.channel for hold in holds])
        except (StoreError, TimeoutError) as error:
            log.warning("the channels were not given back, so other instances take them after %g s: %s", self._lease, error)
        await self._closing.aclose()

    # The application's side.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        """The next publication. Several tasks may ask; each publication is given once."""
        while True:
            async with self._handing:
                await self._arrived.wait()
                if not self._open:
                    raise StopAsyncIteration
                for task in filter(asyncio.Task.done, self._running):
                    task.result()  # neither ends by itself: it failed
                if not self._ready:
                    self._arrived.clear()
                elif await self._hand_over(delivery := self._ready.popleft()):
                    return delivery

    async def _hand_over(self, delivery: Delivery) -> bool:
        hold = self._holds[delivery.channel]
        hold.handed.add(delivery)  # the channel is not given back while it is counted: nobody would see what counts as given
        is_given = False
        try:
            is_given = (delivery.deliveries == 1 < self._deliveries or await self._count(hold, delivery)) and hold.live
            return is_given
        finally:
            if not is_given:  # the caller that waited for it was cancelled, or the channel is another instance's
                hold.handed.discard(delivery)
                if hold.live and not hold.leaving:
                    self._ready.appendleft(delivery)
                elif not hold.handed:
                    self._give_back(hold)

    async def _count(self, hold: Hold, delivery: Delivery) -> bool:
        """Counts one that was given before, so that one which ends every process becomes a dead letter; the first time counts already, unless it is the last."""
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

    async def lag(self) -> dict[str, int]:
        """Channel → how many publications that history holds the group has not acknowledged. Raises StoreError."""
        channels = sorted(self._following.names)
        return dict(zip(channels, await asyncio.gather(*map(self._calls.lag, channels)), strict=True))

    async def rewind(self, channel: str, to: Start) -> Position | None:
        """Moves the group: it reads the channel again after ``to``, whichever instance holds it. What was given before cannot be acknowledged any more.

        ``to`` is as ``since``: 0, a Position, an offset, or a datetime. Returns the position, None where nothing was published yet. Raises
        ValueError or TypeError for what is no start, StoreError.
        """
        position = await self._calls.rewind(channel, start_word(to))
        self._membership.announce_free(channel)
        return position

    async def dead_letters(self, channel: str, limit: int = 100) -> list[DeadLetter]:
        """The channel's newest dead letters, newest first. Raises StoreError."""
        return await self._calls.dead(channel, limit)

    async def _settle(self, hold: Hold, delivery: Delivery, reason: str | None) -> bool:
        attempt = 0
        while hold.live or (attempt and self._open):  # one that Valkey may have carried out is asked for again: only Valkey knows
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
        """It is settled: there is room for another."""
        hold.handed.discard(delivery)
        if delivery in hold.outstanding:
            del hold.outstanding[delivery]
            self._outstanding -= 1
            self._work.set()
        if hold.leaving and hold.live and not hold.handed:
            self._give_back(hold)
        elif hold.more and not hold.outstanding:
            self._mark(hold)

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

    def _on_new_names(self) -> None:
        if self._open:
            self._membership.wake()

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

    # Holds.

    def _mark(self, hold: Hold) -> None:
        if hold.live and not hold.leaving:
            self._changed[hold] = None
            self._work.set()

    async def _pump(self) -> None:
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
        self._ready.extend(made)
        if made:
            self._arrived.set()
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
            self._ready = deque(delivery for delivery in self._ready if delivery not in removed)


def _changes_history(payload: bytes) -> bool:
    """Whether an announcement is of a publication, or of a history that was replaced; joins, leaves and ephemeral publications are not."""
    return payload.startswith(b"@") and not payload.startswith((b"@join", b"@leave", b"@0 "))
