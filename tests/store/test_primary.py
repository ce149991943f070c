"""The primary is known, not assumed: when another server takes over, commands and link follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError, StoreError, Unavailable
from gateway.store.access import make_commands
from gateway.store.connect import Address
from publishers import Publisher, SyncPublisher

from ..kit.clients import client
from ..kit.gateways import Start
from ..kit.ports import free_port
from ..kit.servers import Pair, ValkeyServer
from ..kit.waiting import until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path / "pair") as pair:
        yield pair


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path / "watched", sentinel=True) as pair:
        yield pair


async def test_a_replica_is_refused_in_a_sentence_that_names_its_primary(pair: Pair) -> None:
    with pytest.raises(Unavailable, match=f"is a replica, which takes no writes; its primary is 127.0.0.1:{pair.first.port}"):
        await make_commands(Address(pair.second.url)).start()


async def test_a_node_of_a_cluster_is_refused_in_a_sentence(tmp_path: Path) -> None:
    node = ValkeyServer(tmp_path / "node", "cluster-enabled yes", f"cluster-port {free_port()}")
    try:
        with pytest.raises(ConfigurationError, match="is a node of a cluster and holds a part of the channels only"):
            await make_commands(Address(node.url)).start()
    finally:
        node.stop()


async def test_who_takes_a_sentinel_for_a_server_or_the_other_way_round_learns_the_address(watched: Pair) -> None:
    sentinel, server = watched.sentinel.url, f"valkey+sentinel://127.0.0.1:{watched.first.port}/test"
    for url, remedy in ((sentinel, r"is a Sentinel; write valkey\+sentinel://"), (server, "is no Sentinel; write valkey://")):
        with pytest.raises((ConfigurationError, Unavailable), match=remedy):
            await make_commands(Address(url)).start()
        with SyncPublisher(url) as publisher, pytest.raises(StoreError, match=remedy):
            await asyncio.to_thread(publisher.publish, "posts:a", 1)


async def test_a_demoted_primary_is_left_and_a_gateway_on_it_is_not_ready(pair: Pair, start_gateway: Start) -> None:
    """Both counted on for a while. What the new primary announces reaches the old one, too, and would follow what that one alone has."""
    gateway = await asyncio.to_thread(start_gateway, valkey_url=pair.first.url)
    publish = ("FCALL", "gateway_publish", 3, *(f"{gateway.prefix}:{{posts:a}}:{key}" for key in ("meta", "stream", "keys")))
    async with client(gateway, "u", subscribe="posts:a") as wire:
        gateway.publish("posts:a", 1)
        await until(lambda: _offsets(pair.second, pair.first), "the replica has it")
        pair.second.client.execute_command("REPLICAOF", "NO", "ONE")
        gateway.publish("posts:a", "that is lost")
        assert [(await wire.publication())["data"] for _ in range(2)] == [1, "that is lost"]
        await asyncio.sleep(0.005)  # two histories are told apart by the millisecond in which they gave an offset
        pair.second.client.execute_command(*publish, '"that the client lacks"')
        pair.change_places()
        await until(lambda: gateway.http("GET", "/health/ready")[0] == 503, "the gateway notices that nothing can be written")
        await until(lambda: "is a replica" in gateway.log(), "it says why")
        await until(lambda: pair.first.client.info("replication")["master_link_status"] == "up", "the old primary has what the new one has")
        pair.second.client.execute_command(*publish, '"the next one"')
        await until(lambda: _offsets(pair.first, pair.second), "it is announced there")
        pair.first.client.execute_command("REPLICAOF", "NO", "ONE")
        await until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "the gateway is ready again")
        assert (await wire.next())["push"]["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}
    gateway.publish("posts:a", 2)


async def test_a_sync_publisher_leaves_a_demoted_primary(pair: Pair) -> None:
    with SyncPublisher(pair.first.url, patience=0.5) as publisher:
        publisher.publish("posts:a", 1)
        pair.change_places()
        with pytest.raises(Unavailable, match="not the primary any more"):
            await asyncio.to_thread(publisher.publish, "posts:a", 2, idempotency_key="k")


@pytest.mark.parametrize("how", [("SENTINEL", "FAILOVER", "test"), ("SENTINEL", "FAILOVER", "test", "COORDINATED")], ids=" ".join)
async def test_publishers_and_gateways_follow_a_failover_by_sentinel(watched: Pair, start_gateway: Start, how: tuple[str, ...]) -> None:
    gateway = await asyncio.to_thread(start_gateway, valkey_url=watched.sentinel_url)
    async with Publisher(watched.sentinel_url) as publisher:
        assert await publisher.publish("posts:a", 1, idempotency_key="1")
        await until(lambda: _offsets(watched.second, watched.first), "the replica has it")
        watched.sentinel.client.execute_command(*how)
        started = time.monotonic()
        await until(lambda: watched.second.role == "master", "the replica is promoted", 20)
        await until(lambda: publisher.history.commands.server and publisher.history.commands.server.where[1] == watched.second.port, "", 10)
        assert time.monotonic() - started < 10
        position = await publisher.publish("posts:a", 2, idempotency_key="2")
        assert position and position.offset == 2
    await until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "the gateway is ready", 10)
    assert gateway.publish("posts:a", 3)["offset"] >= 1


def _offsets(*servers: ValkeyServer) -> bool:
    """Whether the servers have replicated as much."""
    infos = [server.client.info("replication") for server in servers]
    return infos[0]["slave_repl_offset"] >= infos[1]["master_repl_offset"]
