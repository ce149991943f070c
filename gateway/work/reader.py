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
- ``HeldChannels``: it reads the channels in which something may be new, in turns, while fewer than ``unacknowledged`` publications are in this process.
- the link, which announces publications and changes of the group. After each lost connection every channel may have something new.

Whatever does not fit together (the owner is another, the history was replaced, the consumer group vanished) ends the hold. The channel is
taken again, and read on from the acknowledged position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigurationError, StoreError
from ..publication import Position
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
from .held_channels import HeldChannels
from .membership import Membership
from .reader_arguments import Start, check_reader, start_word
from .reader_calls import DeadLetter, ReaderCalls

__all__ = ["Reader"]

log = logging.getLogger("gateway.reader")

CLOSE_SECONDS = 2.0  # for giving back the channels


class Reader:
    """Reads ``channels``, or all of ``namespace``, whose rules need ``index = true``, as an instance of ``group``.

    ``since``: where the group begins in a channel that it never read: None, with what history holds; a Position or its text; an offset, so 0 for
    all that ever was; a datetime. ``deliveries``: how often a publication is given before it is a dead letter. ``unacknowledged``: how many
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
        self._lease = lease
        self._tasks = Tasks()
        self._following = Following(names, namespace, self._layout, self._tasks, self._on_new_names)
        self._channels = HeldChannels(self._following, self._layout, self._tasks, deliveries, unacknowledged, lease)
        self._handing = asyncio.Lock()
        self._closing = AsyncExitStack()
        self._running: list[asyncio.Task[None]] = []

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
        self._membership = Membership(self._calls, self._channels, following.digest, self._lease, self._layout.faults, evenly=not namespace)
        link = Link(address, commands, self._layout.own_channel(self._membership.instance))
        link.add_listener(self._channels)
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
        self._channels.begin(self._calls, link, self._membership)
        self._running = [asyncio.create_task(self._membership.run()), asyncio.create_task(self._channels.run())]
        for task in self._running:
            task.add_done_callback(lambda _: self._channels.arrived.set())

    async def _check_index(self, library: Library) -> None:
        rules = await library.stored_rules(self._commands.call) or BUILT_IN_RULES
        namespace = self._following.namespace
        if not rules.get(namespace, {}).get("index"):
            raise ConfigurationError(
                f"namespaces.{namespace}.index is not set: give the gateways `index = true` for {namespace!r}, or name the reader's channels"
            )

    async def close(self) -> None:
        """Gives the channels back at once; iteration ends, and what was not acknowledged is given to another instance. Closing twice changes nothing."""
        if not self._channels.is_open:
            return
        self._channels.stop()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._membership.end(await self._channels.give_back_all())
        except (StoreError, TimeoutError) as error:
            log.warning("the channels were not given back, so other instances take them after %g s: %s", self._lease, error)
        await self._closing.aclose()

    # The application's side.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        """The next publication. Several tasks may ask; each publication is given once."""
        channels = self._channels
        while True:
            async with self._handing:
                await channels.arrived.wait()
                if not channels.is_open:
                    raise StopAsyncIteration
                for task in filter(asyncio.Task.done, self._running):
                    task.result()  # neither ends by itself: it failed
                if not channels.ready:
                    channels.arrived.clear()
                elif await channels.hand_over(delivery := channels.ready.popleft()):
                    return delivery

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

    def _on_new_names(self) -> None:
        if self._channels.is_open:
            self._membership.wake()
