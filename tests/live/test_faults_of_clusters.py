"""Faults end to end, on each kind of Valkey and on a real cluster of 3 + 3: every follower has each acknowledged publication once and in order.

A scene (see ``kit.followers``) goes on while the fault happens. What concerns files and single servers is in ``test_faults``.
"""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
import valkey

from ..kit.clusters import Cluster
from ..kit.followers import Scene, scene
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.topologies import plain_client
from ..kit.waiting import until

RULES = """
[namespaces.endless]
history_size = -1
history_ttl = ""
"""

gateway = shared_gateway(RULES)


@pytest.fixture(scope="module")
def of_cluster(cluster: Cluster, start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES, valkey_url=cluster.url)


def _no_connection_ended(here: Scene) -> None:
    assert [follower.connections for follower in here.steady] == [1, 1], here.followers


def _kill_connections(url: str, *which: str) -> int:
    """On each shard; returns how many there were."""
    killed = 0
    with closing(plain_client(url)) as store:
        shards = (
            [store.get_valkey_connection(node) for node in store.get_primaries()] if isinstance(store, valkey.ValkeyCluster) else [store]
        )
        for shard in shards:
            killed += shard.execute_command("CLIENT", "KILL", *which, "SKIPME", "yes")
    return killed


@pytest.mark.every_valkey
async def test_nothing_is_lost_when_all_links_are_killed_again_and_again(valkey_url: str, gateway: RunningGateway) -> None:
    async with scene(valkey_url, lambda: gateway) as here:
        for _ in range(5):
            await until(lambda: _kill_connections(valkey_url, "TYPE", "pubsub"), "a link is there")
            await here.goes_on(3)
        await here.end()
        _no_connection_ended(here)


@pytest.mark.every_valkey
async def test_nothing_is_lost_when_all_connections_are_killed_again_and_again(valkey_url: str, gateway: RunningGateway) -> None:
    """The publisher's too; its idempotency keys make its repeats harmless."""
    async with scene(valkey_url, lambda: gateway) as here:
        for _ in range(3):
            _kill_connections(valkey_url, "TYPE", "pubsub")
            _kill_connections(valkey_url, "TYPE", "normal")
            await here.goes_on(3)
        await here.end()
        _no_connection_ended(here)


async def test_nothing_is_lost_when_the_channels_slot_moves_both_ways(cluster: Cluster, of_cluster: RunningGateway) -> None:
    """Atomically, as Valkey 9 does, and key by key."""
    async with scene(cluster.url, lambda: of_cluster) as here:
        slot = cluster.slot(f"{of_cluster.prefix}:{{{here.channel}}}")
        for move in (lambda to: cluster.migrate([(slot, slot)], to), lambda to: cluster.move_slot(slot, to)) * 2:
            to = cluster.other_than(cluster.owner(slot))
            await asyncio.to_thread(move, to)
            await here.goes_on(10)
            assert cluster.owner(slot) is to
        await here.end()
        _no_connection_ended(here)


async def test_nothing_is_lost_when_a_replica_takes_over(cluster: Cluster, of_cluster: RunningGateway) -> None:
    async with scene(cluster.url, lambda: of_cluster) as here:
        for _ in range(2):
            replica = cluster.replica_of(cluster.owner(f"{of_cluster.prefix}:{{{here.channel}}}"))
            await asyncio.to_thread(cluster.failover, replica)
            await here.goes_on(10)
        await here.end()
        _no_connection_ended(here)
    cluster.wait_whole()


async def test_nothing_is_lost_when_the_channels_shard_is_emptied_and_forgotten(cluster: Cluster, of_cluster: RunningGateway) -> None:
    """All of its slots go to a node that was just added."""
    async with scene(cluster.url, lambda: of_cluster) as here:
        added = await asyncio.to_thread(cluster.add_node)
        key = f"{of_cluster.prefix}:{{{here.channel}}}"
        await asyncio.to_thread(cluster.migrate, cluster.spans(cluster.owner(key)), added)
        await here.goes_on(10)
        assert cluster.owner(key) is added
        await asyncio.to_thread(cluster.empty_and_forget, added)
        assert all(cluster.spans(node) for node in cluster.primaries)
        await here.end()
        _no_connection_ended(here)


async def test_channels_of_other_shards_notice_nothing_while_a_shard_is_away(cluster: Cluster, of_cluster: RunningGateway) -> None:
    """Then its replica takes over, and its own channels go on."""
    async with scene(cluster.url, lambda: of_cluster) as here:
        away = cluster.other_than(cluster.owner(f"{of_cluster.prefix}:{{{here.channel}}}"))
        replica = cluster.replica_of(away)
        first = next(name for name in map("endless:{}".format, range(1000)) if cluster.owner(f"{of_cluster.prefix}:{{{name}}}") is away)
        cluster.kill(away)
        await here.end()
        _no_connection_ended(here)
    await asyncio.to_thread(cluster.wait_promoted, replica)
    assert (await of_cluster.ask("publish", channel=first, data=1))["offset"] == 1
    await asyncio.to_thread(cluster.start, away)
    await asyncio.to_thread(cluster.wait_whole)
