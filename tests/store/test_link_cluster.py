"""The link on a real cluster: one connection for each shard, and slots that move while publications are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import pytest

import gateway.store.heartbeats
from gateway.config import Config
from gateway.errors import Unavailable
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.subscription import State
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout, publish_words
from gateway.store.library import Library, rules_of
from gateway.store.link import Link
from gateway.store.shard_link import ShardLink

from ..kit.clusters import Cluster, Node
from ..kit.model import Recorder
from ..kit.valkeys import opened_history
from ..kit.waiting import until

CONFIG = Config()


class Reading:
    """A process that reads: commands, link and hub. It records which of its channels were lost, and in which order they were confirmed."""

    def __init__(self, url: str, prefix: str) -> None:
        self.layout = Layout(prefix)
        library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), prefix)
        address = Address(url)
        self.commands = make_commands(address, functions=library)
        self.link = Link(address, self.commands, self.layout.own_channel("test"))
        self.history = History(self.commands, self.layout)
        self.hub = Hub(CONFIG, self.layout, self.history, self.link, self)
        self.link.add_listener(self)
        self.lost: list[bytes] = []
        self.confirmed: list[bytes] = []
        self.ephemeral: list[bytes] = []

    def on_missed_ephemeral(self, channel: Channel) -> None: ...

    # The link's listener, in front of the hub.

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        assert channels is not None, "a cluster loses all channels of a shard, never all there are"
        self.lost += channels
        self.hub.on_lost(channels)

    def on_subscribed(self, key: bytes) -> None:
        self.confirmed.append(key)
        self.hub.on_subscribed(key)

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        assert all(b":{" in key and b":node:" not in key for key in batch), "no heartbeat is handed over"
        self.ephemeral += [payload for payloads in batch.values() for payload in payloads if not payload.startswith(b"@")]
        self.hub.on_announcements(batch)

    # What tests do.

    async def follow(self, *channels: str) -> list[Recorder]:
        subscriptions = [Recorder(self.hub.channel(channel)) for channel in channels]
        for subscription in subscriptions:
            self.hub.follow(subscription)
        await until(lambda: all(each.state is State.LIVE for each in subscriptions), "all are live")
        return subscriptions

    async def publish(self, channel: str, number: int) -> None:
        """Once, whatever happens to the shard meanwhile."""
        while True:
            with suppress(Unavailable):
                await self.history.publish(channel, publish_words(b"%d" % number, version=number, version_epoch="v"), repeatable=True)
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reading(cluster: Cluster, prefix: str) -> AsyncIterator[Reading]:
    process = Reading(cluster.url, prefix)
    await process.commands.start()
    try:
        await process.link.start()
        yield process
    finally:
        await process.hub.close()
        await process.link.close()
        await process.commands.close()


@pytest.fixture
async def process(cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reading]:
    monkeypatch.setattr(gateway.store.heartbeats, "BEAT_SECONDS", 0.15)
    monkeypatch.setattr(gateway.store.heartbeats, "SILENT_BEATS", 40)  # a shard that waits for a processor is not lost
    async with reading(cluster, prefix) as process:
        yield process


def channels_of(cluster: Cluster, prefix: str, *owners: Node) -> list[str]:
    """A channel that each of these primaries holds."""
    names = [f"posts:{number}" for number in range(200)]
    holder = {name: cluster.owner(Layout(prefix).channel(name)) for name in names[:40]}
    return [next(name for name in holder if holder[name] is owner) for owner in owners]


def heartbeats_at(cluster: Cluster) -> list[int]:
    """How many channels of heartbeats each primary serves."""
    return [sum(b":node:test:{" in channel for channel in node.ask("PUBSUB", "SHARDCHANNELS")) for node in cluster.primaries]


async def test_what_is_announced_by_each_shard_arrives_and_each_proves_itself(process: Reading, cluster: Cluster, prefix: str) -> None:
    assert process.link.proven and process.link.own_proven and not process.link.doubts
    assert heartbeats_at(cluster) == [1, 1, 1]
    channels = channels_of(cluster, prefix, *cluster.primaries)
    subscriptions = await process.follow(*channels)
    for channel in channels:
        await asyncio.gather(*(process.publish(channel, number) for number in range(1, 101)))
        cluster.call("SPUBLISH", process.layout.channel(channel), b"-1")
    for subscription in subscriptions:
        await until(lambda events=subscription.events: len(events) == 102, "all publications of a channel")
        assert subscription.events == ["begin", *range(1, 101), -1]
    assert process.ephemeral == [b"-1"] * 3 and process.lost == []
    key = process.layout.channel(channels[0])
    process.link.unsubscribe([key])
    process.link.subscribe([key])
    await until(lambda: process.confirmed.count(key) == 2, "it is confirmed again")
    process.link.unsubscribe([key])
    await until(lambda: cluster.call("SPUBLISH", key, b"1") == 0, "it is followed no more")
    assert process.lost == [], "the answer to an unsubscribe withdraws nothing"


@asynccontextmanager
async def publishing(process: Reading, channels: list[str]) -> AsyncIterator[list[Recorder]]:
    """Publishes to each channel without a pause, one publication after the other; at the end each subscriber has had each once, in order."""
    subscriptions = await process.follow(*channels)
    ending = asyncio.Event()

    async def publish(channel: str) -> int:
        number = 0
        while not ending.is_set():
            number += 1
            await process.publish(channel, number)
            await asyncio.sleep(0.001)
        return number

    tasks = [asyncio.create_task(publish(channel)) for channel in channels]
    await asyncio.sleep(0)
    yield subscriptions
    ending.set()
    for task, subscription in zip(tasks, subscriptions, strict=True):
        newest = await task
        await until(lambda last=newest, events=subscription.events: events[-1] == last, "the newest publication")
        assert subscription.events == ["begin", *range(1, newest + 1)]


async def test_a_slot_that_moves_loses_its_own_channels_and_each_publication_comes_once(
    process: Reading, cluster: Cluster, prefix: str
) -> None:
    """There by the older way, with a pause while the keys are at the target already, and back by Valkey 9's."""
    first, second, third = cluster.primaries
    moved, beside, bystander = channels_of(cluster, prefix, first, second, third)
    key = process.layout.channel(moved)
    heartbeats = process.layout.own_channel("test") + b":{0}"
    async with publishing(process, [moved, beside, bystander]) as subscriptions:
        move = cluster.moving(key, second)
        await asyncio.to_thread(move.begin)
        await asyncio.to_thread(move.move_keys)
        counted = len(subscriptions[1].events)
        await until(lambda: len(subscriptions[1].events) > counted + 20, "publications go on")
        await asyncio.to_thread(move.finish)
        await until(lambda: process.confirmed.count(key) == 2, "the channel is confirmed by its new shard")
        slot = cluster.slot(key)
        await asyncio.to_thread(cluster.migrate, [(slot, slot)], first)
        await until(lambda: process.confirmed.count(key) >= 3, "the channel is confirmed by the shard that it came from")
        beating, elsewhere = cluster.slot(heartbeats), next(node for node in cluster.primaries if node is not cluster.owner(heartbeats))
        await asyncio.to_thread(cluster.migrate, [(beating, beating)], elsewhere)
        await until(lambda: heartbeats_at(cluster) == [1, 1, 1], "the heartbeats have a slot of their shard again")
    assert set(process.lost) == {key} and process.link.losses == 0
    await until(lambda: not process.link.doubts, "each shard proves itself")


async def test_a_shard_that_is_silent_or_dies_costs_its_own_channels_alone(
    process: Reading, cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The silent one answers again before it is replaced; that of the dead one is its replica."""
    monkeypatch.setattr(gateway.store.heartbeats, "SILENT_BEATS", 6)
    silent, killed, _ = cluster.primaries
    channels = channels_of(cluster, prefix, *cluster.primaries)
    keys = [process.layout.channel(channel) for channel in channels]
    subscriptions = await process.follow(*channels)
    replica = cluster.replica_of(killed)
    for number, (node, end, mend) in enumerate(((silent, cluster.pause, cluster.resume), (killed, cluster.kill, None))):
        end(node)
        await until(lambda at=keys[number]: at in process.lost, "the channel is lost")
        await until(lambda: process.link.proven and len(process.link.doubts) == 1, "the others prove themselves")
        if mend is not None:
            mend(node)
        await until(lambda at=keys[number]: process.confirmed.count(at) == 2, "the channel is confirmed again")
    await asyncio.to_thread(cluster.wait_promoted, replica)
    await until(lambda: not process.link.doubts, "each shard proves itself")
    assert keys[2] not in process.lost and process.confirmed.count(keys[2]) == 1
    for channel in channels:
        await process.publish(channel, 1)
    await until(lambda: all(of.events == ["begin", 1] for of in subscriptions), "what is published afterwards")
    cluster.start(killed)
    await asyncio.to_thread(cluster.wait_whole)


async def test_a_name_is_in_the_index_before_its_first_publication_and_calls_have_their_order(
    cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(namespaces={"named": {"index": True}})  # type: ignore[dict-item]  # pydantic takes it
    async with opened_history(cluster.url, prefix, config) as history:
        sent: list[bytes] = []
        route = history.commands.route  # type: ignore[attr-defined]  # a cluster's
        monkeypatch.setattr(history.commands, "route", lambda command: (sent.append(command.text), route(command)))
        for number in range(5):  # in different slots than the index
            channel = f"named:{number}"
            positions = await asyncio.gather(*(history.publish(channel, publish_words(b"%d" % count)) for count in range(1, 21)))
            assert [position.offset for position in positions if position] == list(range(1, 21))
            assert cluster.call("SISMEMBER", history.layout.index("named"), channel)
        texts = [text for text in sent if b"named:" in text and b"gateway_has_index" not in text]
        assert [b"gateway_index" in text for text in texts[:2]] == [True, False]


async def test_a_coordinated_failover_loses_nothing(process: Reading, cluster: Cluster, prefix: str) -> None:
    first, *others = cluster.primaries
    channels = channels_of(cluster, prefix, first, *others)
    async with publishing(process, channels):
        await asyncio.to_thread(cluster.failover, cluster.replica_of(first))
        key = process.layout.channel(channels[0])
        await until(lambda: process.confirmed.count(key) >= 2, "the channel is confirmed by the replica")
    assert not set(process.lost) & {process.layout.channel(channel) for channel in channels[1:]}


async def test_a_link_starts_although_a_shard_has_no_slots_any_more(cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Reading(cluster.url, prefix)
    await process.commands.start()
    starting = asyncio.ensure_future(process.link.start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    monkeypatch.setattr(process.commands, "_shards", process.commands.shards[1:])
    process.link._on_shards_changed()
    try:
        await starting
    finally:
        await process.link.close()
        await process.commands.close()


async def test_a_link_starts_although_each_connection_is_lost_after_its_first_heartbeat(
    cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.store.heartbeats, "BEAT_SECONDS", 0.15)
    beat, lost = ShardLink.first_beat, set()

    async def first_beat(self: ShardLink) -> None:
        await beat(self)
        if self not in lost:
            lost.add(self)
            assert self._transport is not None
            self._transport.abort()
            await until(lambda: not self.proven, "it is lost")

    monkeypatch.setattr(ShardLink, "first_beat", first_beat)
    async with reading(cluster, prefix) as process:
        assert process.link.proven and len(lost) == 3
