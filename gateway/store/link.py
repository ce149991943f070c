"""The link: what a process reads by Pub/Sub, over one connection, on a cluster over one for each shard.

It only reads. All announcements that arrived by the end of one turn of the loop are handed over together, channel by
channel, so that what arrived together is written together. Each connection proves itself by publishing a heartbeat through
Valkey to itself; silence, whatever its reason, means connecting again (``shard_link``). What was announced meanwhile does not
reach this process: ``on_lost`` and ``on_subscribed`` let the listeners find it in Valkey. The link remembers which channels are
wanted, and asks for them again by itself.

On a cluster the channels of a hash slot are a group, which is at the connection to the shard that holds the slot:

    unassigned ──the slot's shard is known──▶ at a connection ──withdrawn, refused, the slot is another shard's──▶ unassigned

One server by itself has one group, at one connection. Where a group is moved, or its connection is lost, announcements of that group's channels alone are missed.

A batch is handed over in a fixed order, since one thing may depend on another: first what came on the process's own
channel, then the channels that have a listener of their own, in the order in which these were added, then all others. Between what different
shards announce there is no other order than that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Protocol

from ..errors import StoreError
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks
from .access import Commands
from .asking import Asking
from .connect import Address
from .connection import ServerCommands
from .shard_link import ShardLink
from .topology import slot_of

__all__ = ["ChannelListener", "Link", "Listener", "OwnListener", "UpListener"]

log = logging.getLogger("gateway.link")

START_SECONDS = 10.0  # for the first heartbeats
ASSIGN_SECONDS = 0.02  # before it is tried again to assign a group; it doubles up to ASSIGN_MOST
ASSIGN_MOST = 1.0
LOST_AT_ONCE = 500  # channels, or groups, of one turn of the loop: about 3 ms
REFUSED_AGAIN_SECONDS = 5.0  # until channels that Valkey refused are asked for again: the user may have got the right


class UpListener(Protocol):
    """Is called whenever a connection of the link was made, the first time included."""

    def on_up(self) -> None: ...


class Listener(Protocol):
    """Receives what no other listener receives. Nothing here may raise."""

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        """What is announced on these Pub/Sub channels, None for all, is missed until each of them is confirmed again.

        A connection with many channels loses them in several calls, between which other work gets its turn.
        """

    def on_refused(self, error: StoreError) -> None:
        """Valkey refuses to subscribe to channels: those that are not confirmed. They are asked for again."""

    def on_subscribed(self, key: bytes) -> None:
        """Valkey confirmed this Pub/Sub channel: everything that is announced there from now on arrives."""

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        """What arrived together: Pub/Sub channel → its payloads in order."""


class ChannelListener(Protocol):
    """Receives what is announced on one Pub/Sub channel, which the link subscribes to by itself. Nothing here may raise."""

    def on_subscribed(self) -> None:
        """Valkey confirmed the channel, at the start and each time after it was lost."""

    def on_payloads(self, payloads: list[bytes]) -> None:
        """What arrived together, in order."""


class OwnListener(Protocol):
    """Receives what other programs publish to this process alone. It may not raise."""

    def on_own(self, payloads: list[bytes]) -> None: ...


class _Group:
    """Channels of one hash slot, or all there are; ``connection`` is where they are asked for, None while they are unassigned."""

    __slots__ = ("channels", "connection", "refusals")

    def __init__(self) -> None:
        self.channels: dict[bytes, None] = {}
        self.connection: ShardLink | None = None
        self.refusals = 0  # in a row


class Link:
    """``own`` is the Pub/Sub channel of this process. Add the listeners, then ``start``. ``losses``: how often a connection was lost."""

    def __init__(self, address: Address, commands: Commands, own: bytes) -> None:
        self.losses = 0
        self._address = address
        self._commands = commands
        self._sharded = commands.sharded
        self._own = own
        self._own_listeners: list[OwnListener] = []
        self._channel_listeners: dict[bytes, ChannelListener] = {}
        self._listeners: list[Listener] = []
        self._up_listeners: list[UpListener] = []
        self._connections: dict[ServerCommands, ShardLink] = {}
        self._groups: dict[int, _Group] = {}  # by hash slot; 0 where there is one server
        self.batch: dict[bytes, list[bytes]] = {}
        self._displaced: list[tuple[ShardLink, bytes]] = []
        self._asking = Asking(self._ask_for)
        self._asking_again: set[ShardLink] = set()
        self._moving: asyncio.Handle | None = None  # of groups, when slots are held by other shards than before
        self._tasks = Tasks()
        self._closed = False

    def add_listener(self, listener: Listener) -> None:
        """Adds a listener for all channels that have none of their own."""
        self._listeners.append(listener)

    def add_channel_listener(self, channel: bytes, listener: ChannelListener) -> None:
        self._channel_listeners[channel] = listener

    def add_own_listener(self, listener: OwnListener) -> None:
        self._own_listeners.append(listener)

    def add_up_listener(self, listener: UpListener) -> None:
        self._up_listeners.append(listener)

    @property
    def proven(self) -> bool:
        """Whether a heartbeat came through lately: what is announced reaches this process. On a cluster: what any shard announces."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """Why no server is proven to reach this process with what it announces; "" if any of them is."""
        doubts = [connection.doubt for connection in self._connections.values()] or ["there is no live link to Valkey"]
        return doubts[0] if all(doubts) else ""

    @property
    def doubts(self) -> dict[str, str]:
        """The servers whose announcements may not reach this process now, by address: why not."""
        return {str(connection.address): connection.doubt for connection in self._connections.values() if connection.doubt}

    @property
    def own_proven(self) -> bool:
        """Whether what other programs publish to this process alone reaches it."""
        connection = self._connection_of(self._own)
        return connection is not None and connection.proven

    async def start(self) -> None:
        """Connects and waits until the first heartbeats came through: from each shard that takes commands, or from as many as can
        in START_SECONDS. Raises StoreError if none comes, NotPermitted if none may."""
        self.subscribe([self._own, *self._channel_listeners])
        self._commands.on_shards_changed(self._on_shards_changed)
        self._on_shards_changed()
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._first_beats()
                while not self.proven and not self._refusals():  # they came through connections that were lost again
                    await asyncio.sleep(ASSIGN_SECONDS)
                    await self._first_beats()
        except TimeoutError:
            if self.proven:
                log.warning("no heartbeat came from %s yet", ", ".join(self.doubts))
        if not self.proven:
            silence = StoreError(f"Valkey at {self._address} takes commands, but publishes nothing to its subscribers: {self.doubt}")
            raise [*self._refusals(), silence][0]

    def _expected(self) -> list[ShardLink]:
        """The connections whose heartbeats the start waits for."""
        connections = list(self._connections.values())
        return [connection for connection in connections if connection.takes_commands] or connections

    async def _first_beats(self) -> None:
        await asyncio.gather(*(connection.first_beat() for connection in self._expected()))

    def _refusals(self) -> list[StoreError]:
        return [connection.refusal for connection in self._expected() if connection.refusal is not None]

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))
        await self._tasks.finish()

    # Which channels are wanted, and where they are.

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Asks Valkey for these channels, and asks again whenever they were lost, until ``unsubscribe``."""
        asked: dict[ShardLink, list[bytes]] = {}
        for channel in channels:
            group = self._group(channel)
            group.channels[channel] = None
            if group.connection is not None:
                asked.setdefault(group.connection, []).append(channel)
        for connection, some in asked.items():
            connection.subscribe(some)

    def _group(self, channel: bytes) -> _Group:
        slot = self._slot(channel)
        group = self._groups.get(slot)
        if group is None:
            group = self._groups[slot] = _Group()
            group.connection = self._connection_of(channel)
            if group.connection is None and self._connections:
                self._assign_later(group)
        return group

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        asked: dict[ShardLink, list[bytes]] = {}
        for channel in channels:
            slot = self._slot(channel)
            group = self._groups.get(slot)
            if group is None or channel not in group.channels:
                continue
            del group.channels[channel]
            if group.connection is not None:
                asked.setdefault(group.connection, []).append(channel)
            if not group.channels:
                del self._groups[slot]
        for connection, some in asked.items():
            connection.unsubscribe(some)

    def hold_reading(self, hold: bool) -> None:
        """True: takes nothing more from Valkey until it is called with False. For a few turns of the loop: heartbeats wait as well."""
        for connection in self._connections.values():
            connection.hold_reading(hold)

    def _slot(self, channel: bytes) -> int:
        return slot_of(channel) if self._sharded else 0

    def _connection_of(self, channel: bytes) -> ShardLink | None:
        shard = self._commands.shard(channel)
        return None if shard is None else self._connections.get(shard)

    def _assign(self, group: _Group) -> None:
        if self._closed or group.connection is not None or not group.channels:
            return
        group.connection = self._connection_of(next(iter(group.channels)))
        if group.connection is None:
            self._assign_later(group)
        else:
            group.connection.subscribe(list(group.channels))

    def _assign_later(self, group: _Group) -> None:
        group.refusals += 1
        self._commands.look_again()
        asyncio.get_running_loop().call_later(backoff(group.refusals, ASSIGN_SECONDS, ASSIGN_MOST), self._assign, group)

    # The shards.

    def _on_shards_changed(self) -> None:
        if self._closed:
            return
        shards = self._commands.shards
        for shard in self._connections.keys() - set(shards):
            self._tasks.spawn(self._connections.pop(shard).retire())
        for shard in shards:
            if shard not in self._connections:
                self._connections[shard] = ShardLink(shard, self._commands, self._own, self)
        if self._moving is not None:
            self._moving.cancel()
        self._move_groups(iter(list(self._groups.values())))
        for connection in self._connections.values():
            connection.check_beat_channel()

    def _move_groups(self, groups: Iterator[_Group]) -> None:
        """Moves groups to the connections of their shards, some in each turn of the loop. A server that a group leaves withdraws its channels by itself."""
        some, self._moving = list(islice(groups, LOST_AT_ONCE)), None
        if self._closed or not some:
            return
        wanted = [group for group in some if group.channels]
        moving = [
            group for group in wanted if group.connection is None or group.connection is not self._connection_of(next(iter(group.channels)))
        ]
        self._lose([group for group in moving if group.connection is not None])
        for group in moving:
            group.connection = None
            self._assign(group)
        self._moving = asyncio.get_running_loop().call_soon(self._move_groups, groups)

    def _lose(self, groups: list[_Group]) -> None:
        if groups:
            self.hand_over()
            self._announce_loss([channel for group in groups for channel in group.channels])

    def _announce_loss(self, channels: list[bytes]) -> None:
        for listener in self._listeners:
            listener.on_lost(channels)

    # What the connections bring.

    def on_connected(self, connection: ShardLink) -> None:
        self._ask_for_all(connection)
        for listener in self._up_listeners:
            listener.on_up()

    def _ask_for_all(self, connection: ShardLink) -> None:
        self._asking.begin(connection, self._channels_at(connection))

    def _ask_for(self, connection: ShardLink, channels: list[bytes]) -> list[bytes]:
        wanted = [] if self._closed else [channel for channel in channels if self._is_at(connection, channel)]
        connection.subscribe(wanted)
        return wanted

    def _channels_at(self, connection: ShardLink) -> list[bytes]:
        return [channel for group in self._groups.values() if group.connection is connection for channel in group.channels]

    def _is_at(self, connection: ShardLink, channel: bytes) -> bool:
        group = self._groups.get(self._slot(channel))
        return group is not None and group.connection is connection and channel in group.channels

    def on_refused(self, connection: ShardLink, error: StoreError) -> None:
        self._asking.refused(connection)
        for listener in self._listeners:
            listener.on_refused(error)
        if connection not in self._asking_again:
            self._asking_again.add(connection)
            asyncio.get_running_loop().call_later(REFUSED_AGAIN_SECONDS, self._ask_again, connection)

    def on_allowed(self, connection: ShardLink) -> None:
        self._ask_for_all(connection)

    def _ask_again(self, connection: ShardLink) -> None:
        self._asking_again.discard(connection)
        if not self._closed:
            self._ask_for_all(connection)

    async def on_lost(self, connection: ShardLink) -> None:
        self.losses += 1
        self._asking.stop(connection)
        self.hand_over()
        channels = self._channels_at(connection)
        for start in range(0, len(channels), LOST_AT_ONCE):
            # Another connection may have taken some over meanwhile, and announced their loss.
            self._announce_loss([channel for channel in channels[start : start + LOST_AT_ONCE] if self._is_at(connection, channel)])
            await asyncio.sleep(0)

    def on_confirmed(self, connection: ShardLink, channel: bytes) -> None:
        self._asking.answered(connection, channel)
        group = self._groups.get(self._slot(channel))
        if group is None or group.connection is not connection or channel not in group.channels or channel == self._own:
            return
        group.refusals = 0
        if listener := self._channel_listeners.get(channel):
            listener.on_subscribed()
            return
        for other in self._listeners:
            other.on_subscribed(channel)

    def on_outdated(self, connection: ShardLink, channel: bytes) -> None:
        self._asking.answered(connection, channel)

    def on_displaced(self, connection: ShardLink, channel: bytes) -> None:
        self._asking.answered(connection, channel)
        self._displaced.append((connection, channel))  # what was announced before it is in the batch, and is handed over first

    def _replace_displaced(self) -> None:
        displaced, self._displaced = self._displaced, []
        groups: dict[_Group, None] = {}
        for connection, channel in displaced:
            group = self._groups.get(self._slot(channel))
            if group is not None and group.connection is connection and channel in group.channels:
                groups[group] = None
        self._lose(list(groups))
        for group in groups:
            group.connection = None
            self._assign_later(group)

    def _take_heartbeats(self, batch: dict[bytes, list[bytes]]) -> None:
        for connection in self._connections.values():
            if batch.pop(connection.beat_channel, None):
                connection.on_beat()

    def hand_over(self) -> None:
        batch, self.batch = self.batch, {}
        if self._sharded:
            self._take_heartbeats(batch)
        if own := batch.pop(self._own, None):
            for own_listener in self._own_listeners:
                own_listener.on_own([payload for payload in own if payload])
            if not self._sharded:  # whatever comes there proves the way through Valkey, not heartbeats alone
                for connection in self._connections.values():
                    connection.on_beat()
        for channel, listener in self._channel_listeners.items():
            if payloads := batch.pop(channel, None):
                listener.on_payloads(payloads)
        if batch:
            for other in self._listeners:
                other.on_announcements(batch)
        if self._displaced:
            self._replace_displaced()
