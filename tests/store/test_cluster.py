"""A cluster's commands, on a real one: whatever happens to slots and nodes, a channel's publications are carried out once and in order.

A scene publishes to a few channels without waiting for answers, while the test changes the cluster. The channels' names are chosen so
that each shard has some. The tests share one cluster, which they leave whole; those that break it for good have one of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.errors import ConfigurationError, StoreError, Unavailable
from gateway.publication import Publication
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout, publish_words
from gateway.store.library import Library, rules_of

from ..kit.clusters import Cluster, Node
from ..kit.servers import ValkeyServer
from ..kit.valkeys import opened_history
from ..kit.waiting import until

CONFIG = Config(namespaces={"all": {"history_size": -1}})
AT_ONCE = 5  # publications of a channel that are on their way together


class Scene:
    """Publishers that never stop. ``acknowledged``: channel → (number, offset) in the order of the answers."""

    def __init__(self, history: History, channels: list[str]) -> None:
        self.history = history
        self.channels = channels
        self.acknowledged: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self._stopped = False

    async def publish(self, channel: str) -> None:
        number = 0
        while not self._stopped:
            numbers = range(number, number + AT_ONCE)
            number += AT_ONCE
            for each, position in zip(numbers, await asyncio.gather(*[self._publish(channel, each) for each in numbers]), strict=True):
                self.acknowledged[channel].append((each, position))
            await asyncio.sleep(0.002)

    async def _publish(self, channel: str, number: int) -> int:
        position = await self.history.publish(channel, publish_words(b"%d" % number, idempotency_key=str(number)), repeatable=True)
        assert position is not None
        return position.offset

    async def goes_on(self) -> None:
        """Returns when each channel has some more publications."""
        before = {channel: len(self.acknowledged[channel]) for channel in self.channels}
        await until(
            lambda: all(len(self.acknowledged[channel]) >= before[channel] + 3 * AT_ONCE for channel in self.channels), "it goes on", 30
        )

    def stop(self) -> None:
        self._stopped = True

    async def check(self) -> None:
        for channel in self.channels:
            stored = [(int(each.data), each.offset) for each in await all_of(self.history, channel)]
            assert stored == self.acknowledged[channel], channel


async def all_of(history: History, channel: str) -> list[Publication]:
    found: list[Publication] = []
    while page := (await history.read(channel, found[-1].offset if found else 0, 500)).publications:
        found += page
    return found


def channels_at(cluster: Cluster, prefix: str, nodes: list[Node], each: int = 2) -> list[str]:
    """Names of channels, ``each`` at each of these nodes."""
    layout, found = Layout(prefix), []
    for node in nodes:
        names = (f"all:{node.port}.{number}" for number in range(10_000))
        there = (name for name in names if cluster.owner(layout.channel(name)) is node)
        found += [next(there) for _ in range(each)]
    return found


@contextlib.asynccontextmanager
async def scene(cluster: Cluster, prefix: str) -> AsyncIterator[Scene]:
    """Publishes while it is entered; then each publication has to be in its channel's history, once and in order."""
    async with opened_history(cluster.url, prefix, CONFIG) as history:
        here = Scene(history, await asyncio.to_thread(channels_at, cluster, prefix, cluster.primaries))
        async with asyncio.TaskGroup() as publishers:
            for channel in here.channels:
                publishers.create_task(here.publish(channel))
            try:
                await here.goes_on()
                yield here
                await here.goes_on()
            finally:
                here.stop()
        await here.check()


def _move_older_way(cluster: Cluster, key: bytes) -> None:
    cluster.move_slot(key, next(node for node in cluster.primaries if node is not cluster.owner(key)))


def _move_key_by_key(cluster: Cluster, key: bytes) -> None:
    """Between the steps publications meet a slot whose keys are in two places."""
    move = cluster.moving(key, next(node for node in cluster.primaries if node is not cluster.owner(key)))
    move.begin()
    while move.move_keys(1):
        pass
    move.end()


def _migrate(cluster: Cluster, key: bytes) -> None:
    slot = cluster.slot(key)
    cluster.migrate([(slot, slot)], next(node for node in cluster.primaries if node is not cluster.owner(slot)))


@pytest.mark.parametrize("move", [_move_older_way, _move_key_by_key, _migrate])
async def test_slots_move_under_load(cluster: Cluster, prefix: str, move: Callable[[Cluster, bytes], None]) -> None:
    async with scene(cluster, prefix) as here:
        for channel in here.channels:
            await asyncio.to_thread(move, cluster, Layout(prefix).channel(channel))
    await asyncio.to_thread(cluster.wait_whole)


async def test_replicas_take_over_in_agreement(cluster: Cluster, prefix: str) -> None:
    async with scene(cluster, prefix) as here:
        for primary in cluster.primaries:
            await asyncio.to_thread(cluster.failover, cluster.replica_of(primary))
            await here.goes_on()
    await asyncio.to_thread(cluster.wait_whole)


async def test_a_node_comes_and_another_goes(cluster: Cluster, prefix: str) -> None:
    """The new one gets the function library with the first command that misses it."""
    async with scene(cluster, prefix) as here:
        node = await asyncio.to_thread(cluster.add_node)
        slots = [cluster.slot(Layout(prefix).channel(channel)) for channel in here.channels]
        await asyncio.to_thread(cluster.migrate, [(slot, slot) for slot in slots], node)
        await here.goes_on()
        await asyncio.to_thread(cluster.empty_and_forget, node)
        await here.goes_on()
        shards = {shard.address.host_and_port for shard in here.history.commands.shards}
        await until(lambda: shards == {each.place for each in cluster.primaries}, "its connection is closed")


async def test_commands_of_a_slot_in_two_places_wait_and_others_do_not(cluster: Cluster, prefix: str) -> None:
    layout = Layout(prefix)
    async with opened_history(cluster.url, prefix, CONFIG) as history:
        apart, *others = await asyncio.to_thread(channels_at, cluster, prefix, cluster.primaries)
        for channel in (apart, *others):
            await history.publish(channel, publish_words(b"1"))
        target = next(node for node in cluster.primaries if node is not cluster.owner(layout.channel(apart)))
        move = cluster.moving(layout.channel(apart), target)
        move.begin()
        move.move_key(layout.keys(apart)[0])
        waiting = [asyncio.ensure_future(history.publish(apart, publish_words(b"%d" % number))) for number in (2, 3)]
        await asyncio.gather(*[history.publish(channel, publish_words(b"2")) for channel in others])  # Unavailable if they waited, too
        assert not any(each.done() for each in waiting)
        move.finish()
        await asyncio.gather(*waiting)
        assert [each.data for each in await all_of(history, apart)] == [b"1", b"2", b"3"]
    await asyncio.to_thread(cluster.wait_whole)


async def test_a_dead_shard_costs_the_others_nothing(tmp_path: Path, prefix: str) -> None:
    """Its own channels wait, then fail in words; after it is back they are published to as before."""
    with Cluster(tmp_path, "appendonly yes") as own:
        library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), prefix)
        commands = make_commands(Address(own.url), functions=library, patience=1.5)
        await commands.start()
        await library.install(commands)
        history = History(commands, Layout(prefix))
        lost = own.primaries[0]
        here, *others = await asyncio.to_thread(channels_at, own, prefix, own.primaries, 1)
        own.kill(lost)
        failing = asyncio.ensure_future(history.publish(here, publish_words(b"1")))
        async with asyncio.timeout(1):
            await asyncio.gather(*[history.publish(channel, publish_words(b"1")) for channel in others])
        with pytest.raises(Unavailable):
            await failing
        await asyncio.to_thread(own.start, lost)
        await asyncio.to_thread(own.wait_whole)
        position = await history.publish(here, publish_words(b"2"))
        assert position is not None and position.offset == 1
        await commands.close()


def _has_all(replica: Node, primary: Node) -> bool:
    return bool(replica.facts("replication")["slave_repl_offset"] == primary.facts("replication")["master_repl_offset"])


async def test_a_dead_primary_is_followed_by_its_replica(tmp_path: Path, prefix: str) -> None:
    with Cluster(tmp_path, replicas=True) as own:
        async with opened_history(own.url, prefix, CONFIG) as history:
            lost = own.primaries[0]
            (here,) = await asyncio.to_thread(channels_at, own, prefix, [lost], 1)
            await history.publish(here, publish_words(b"0"))
            replica = own.replica_of(lost)
            await until(lambda: _has_all(replica, lost), "the replica has it")
            own.kill(lost)
            await asyncio.gather(*[history.publish(here, publish_words(b"%d" % number)) for number in range(1, 20)])
            assert [int(each.data) for each in await all_of(history, here)] == list(range(20))


async def test_a_node_of_a_cluster_is_no_server_by_itself(cluster: Cluster) -> None:
    commands = make_commands(Address(cluster.nodes[0].url))
    with pytest.raises(ConfigurationError, match=r"write valkey\+cluster:// in its address"):
        await commands.start()


async def test_a_server_by_itself_is_no_cluster(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    try:
        commands = make_commands(Address(f"valkey+cluster://127.0.0.1:{server.port}"))
        with pytest.raises(ConfigurationError, match="is no node of a cluster; write valkey:// in its address"):
            await commands.start()
        server.client.execute_command("CONFIG", "SET", "requirepass", "secret")
        commands = make_commands(Address(f"valkey+cluster://:wrong@127.0.0.1:{server.port}"))
        with pytest.raises(StoreError, match="refuses the login"):
            await commands.start()
    finally:
        server.stop()


async def test_the_functions_are_loaded_although_a_shard_is_lost_meanwhile(
    cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a gateway that starts while a replica takes over."""
    library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), prefix)
    commands = make_commands(Address(cluster.url))
    await commands.start()
    lost = commands.shards[1]
    call, ended = lost.call, []

    async def call_once_in_vain(*words: Any) -> Any:
        if words[:2] == (b"FUNCTION", b"LOAD") and not ended:
            ended.append(lost)
            asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, lost.reconnect, "the test ends it")
        return await call(*words)

    monkeypatch.setattr(lost, "call", call_once_in_vain)
    try:
        await library.install(commands)
        assert ended and await library.agrees(commands)
    finally:
        await commands.close()


async def test_a_node_that_is_being_left_is_closed_where_everything_ends(cluster: Cluster) -> None:
    commands = make_commands(Address(cluster.url))
    await commands.start()
    left = list(commands.shards)
    assert all(server.connected for server in left)
    commands._retire(set())  # as after a table in which they hold no slots
    await commands.close()
    assert not any(server.connected for server in left)
