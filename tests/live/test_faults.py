"""Faults, end to end: whatever dies, every follower has each acknowledged publication once and in order, or was notified of a gap.

A scene (see ``kit.followers``) goes on while the fault happens. Its Valkey is this module's own, or the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.publication import Position
from publishers.publisher import Publisher

from ..kit.clients import client
from ..kit.followers import Scene, scene
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.model import NAME, Recorder, World
from ..kit.ports import free_port
from ..kit.proxies import Proxy
from ..kit.valkeys import OwnValkey
from ..kit.waiting import until

RULES = """
[namespaces.endless]
history_size = -1
history_ttl = ""
"""


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[OwnValkey]:
    """Not started: a gateway on its ``data_dir`` does that. Ended afterwards, should the gateway have left it."""
    own = OwnValkey(tmp_path / "own")
    yield own
    own.close()


gateway = shared_gateway(RULES, own=True)


async def _started(start: Start, toml: str = RULES, **options: Any) -> RunningGateway:
    """Without stopping the loop: publisher and followers go on meanwhile."""
    return await asyncio.to_thread(start, toml, **options)


def _no_connection_ended(here: Scene) -> None:
    assert [follower.connections for follower in here.steady] == [1, 1], here.followers


# A gateway dies.


async def test_nothing_is_lost_when_the_gateway_is_killed_and_started_again(embedded: OwnValkey, start_gateway: Start) -> None:
    """It adopts the Valkey that it left; that one is killed then, which is not the gateway's child any more."""
    gateway = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir, port=free_port())
    current = [gateway]
    async with scene(embedded.url, lambda: current[0]) as here:
        server = embedded.pid()
        gateway.stop(signal.SIGKILL)
        current[0] = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir, port=gateway.port)
        await here.goes_on()
        assert embedded.pid() == server, "the server was adopted"
        os.kill(server, signal.SIGKILL)
        await here.end()
        assert [follower.connections for follower in here.steady] == [2, 2]


async def test_nothing_is_lost_when_one_of_two_workers_is_killed(own: OwnValkey, start_gateway: Start) -> None:
    gateway = await _started(start_gateway, "workers = 2\n" + RULES, valkey_url=own.url)
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")

    def workers() -> list[int]:
        return [int(word) for word in children.read_text().split()]

    async with scene(own.url, lambda: gateway) as here:
        first = workers()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        await here.goes_on()
        await until(lambda: len(workers()) == 2 and first[0] not in workers() and first[1] in workers(), "another worker takes its place")
        os.kill(first[1], signal.SIGKILL)  # so that each follower's worker was killed once
        await here.end()
        assert all(follower.connections >= 2 for follower in here.followers)


async def test_nothing_is_lost_when_followers_change_gateways(own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start) -> None:
    other = await _started(start_gateway_once, valkey_url=own.url)
    async with scene(own.url, lambda: gateway, lambda: other, restless_only=True) as here:
        await here.goes_on()
        assert own.kill_links() >= 2  # and while their links are gone, too
        await here.end()
        assert all(follower.connections >= 4 for follower in here.followers)


# A connection to Valkey dies.


async def test_nothing_is_lost_when_the_link_is_killed_again_and_again(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        for _ in range(12):
            await until(own.kill_links, "the link is there")
            await here.goes_on(3)
        await here.end()
        _no_connection_ended(here)


async def test_nothing_is_lost_when_the_command_connection_is_killed_again_and_again(own: OwnValkey, gateway: RunningGateway) -> None:
    """The publisher's too, which is named alike; its idempotency keys make its repeats harmless."""
    async with scene(own.url, lambda: gateway) as here:
        for round in range(12):
            named = [found for found in own.client.client_list() if found["name"] == "gateway" and found["sub"] == "0"]
            for found in named:
                with contextlib.suppress(valkey.exceptions.ResponseError):  # it went by itself
                    own.ask("CLIENT", "KILL", "ID", found["id"])
            if round % 3 == 0:
                own.kill_links()  # what the link lost is read over the other connection
            await here.goes_on(3)
        await here.end()
        _no_connection_ended(here)


# Valkey itself.


# As a gateway has them, but for the unit.
QUICK = {
    "gateway.store.heartbeats.BEAT_SECONDS": 0.25,
    "gateway.store.connection.SILENCE_SECONDS": 1.0,
    "gateway.store.connection.CHECK_SECONDS": 0.25,
}


async def test_nothing_is_lost_when_valkey_is_frozen_for_longer_than_a_link_may_be_silent(
    own: OwnValkey, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, seconds in QUICK.items():
        monkeypatch.setattr(path, seconds)  # of the publisher, which is in this process
    gateway = await _started(start_gateway, valkey_url=own.url, seconds=QUICK)
    async with scene(own.url, lambda: gateway) as here:
        pid = own.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: "the link to valkey was silent" in gateway.log(), "the link is given up")
            status, _ = await asyncio.to_thread(gateway.http, "GET", "/health/ready")
            assert status == 503
        finally:
            os.kill(pid, signal.SIGCONT)
        await here.end()
        _no_connection_ended(here)


async def test_nothing_is_lost_when_valkey_is_killed_and_the_gateway_starts_it_again(embedded: OwnValkey, start_gateway: Start) -> None:
    gateway = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir)
    async with scene(embedded.url, lambda: gateway) as here:
        os.kill(embedded.pid(), signal.SIGKILL)
        await here.end()
        _no_connection_ended(here)


# History is gone, or older than it was.


async def test_every_follower_is_notified_of_one_gap_when_valkey_comes_back_empty(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        own.empty()
        await here.end(gaps=1)
        _no_connection_ended(here)
    _load_rules(own, gateway)


def _load_rules(own: OwnValkey, gateway: RunningGateway) -> None:
    """For the tests that follow: the first to load the functions again was a publisher, which knows the built-in rules only."""
    own.empty()
    gateway.publish("endless:rules", 1)


async def test_an_emptied_valkey_gets_the_gateways_rules_back(own: OwnValkey, gateway: RunningGateway) -> None:
    """A publisher may be faster than the gateway, and loads the functions with the built-in rules; that must not stay so."""
    own.empty()
    gateway.publish("endless:rules", 1)  # here the gateway is the first
    digest = own.ask("FCALL", "gateway_rules", 0)
    async with Publisher(own.url, prefix=gateway.prefix) as publisher:
        own.empty()
        await publisher.publish("endless:rules", 2)
        own.kill_links()  # as whenever Valkey itself was started again
        try:
            await until(lambda: own.ask("FCALL", "gateway_rules", 0) == digest, "the gateway's rules", 10)
        except TimeoutError:
            raise AssertionError("the built-in rules stay in force: the unlimited namespace keeps 100 publications for 5 minutes") from None
        finally:
            _load_rules(own, gateway)


def _keys(prefix: str, channel: str) -> list[str]:
    return [f"{prefix}:{{{channel}}}:{part}" for part in ("meta", "stream", "keys")]


def _save(own: OwnValkey, keys: list[str]) -> list[bytes]:
    with own.client.pipeline(transaction=True) as together:
        for key in keys:
            together.dump(key)
        return together.execute()


@pytest.mark.parametrize("published", [0, 500], ids=["older than what was seen", "newer than what was seen"])
async def test_every_follower_is_notified_of_one_gap_when_valkey_comes_back_with_an_older_history(
    own: OwnValkey, gateway: RunningGateway, published: int
) -> None:
    """As after a failover: links are lost, and the history is an older one, perhaps with other publications at the same offsets."""
    async with scene(own.url, lambda: gateway) as here:
        keys = _keys(gateway.prefix, here.channel)
        older = _save(own, keys)
        await here.goes_on()
        epoch = here.acknowledged[-1].epoch
        with own.client.pipeline(transaction=True) as together:
            together.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            for key, value in zip(keys, older, strict=True):
                together.restore(key, 0, value, replace=True)
            for _ in range(published):
                together.execute_command("FCALL", "gateway_publish", 3, *keys, '{"n": -1}')
            together.execute()
        await here.end(gaps=1)
        _no_connection_ended(here)
        assert here.acknowledged[-1].epoch != epoch


# Two primaries at once. On a cluster a node that was replaced and does not know it yet takes writes, and what it announces reaches
# those who are subscribed at its successor, since the nodes of a shard pass announcements on to each other.


def _announce(own: OwnValkey, gateway: RunningGateway, channel: str, position: Position, data: str) -> None:
    """As the other primary does, whose history is not this one's; it was made at another time."""
    own.ask("PUBLISH", f"{gateway.prefix}:{{{channel}}}", f"@{position.offset} {position.epoch} 1700000000000\n{data}")


@pytest.mark.parametrize("count", [1, 3])
async def test_what_the_other_primary_announced_in_place_of_a_publication_is_a_gap(
    own: OwnValkey, gateway: RunningGateway, channel: str, count: int
) -> None:
    channel = channel.replace("chat", "endless")
    async with client(gateway, subscribe=channel) as wire:
        gateway.publish(channel, "first")
        assert (await wire.publication())["offset"] == 1
        epoch = gateway.epoch(channel)
        for offset in range(2, 2 + count):
            _announce(own, gateway, channel, Position(epoch, offset), '"other"')
        assert [each["data"] for each in await wire.publications(count)] == ["other"] * count
        assert gateway.publish(channel, "this one is missed otherwise")["offset"] == 2
        push = (await wire.next())["push"]
        assert push["unsubscribe"]["code"] == 2500
        assert gateway.epoch(channel) != epoch


async def test_what_the_other_primary_announced_later_than_a_publication_is_dropped(
    own: OwnValkey, gateway: RunningGateway, channel: str
) -> None:
    channel = channel.replace("chat", "endless")
    async with client(gateway, subscribe=channel) as wire:
        for number in range(1, 4):
            gateway.publish(channel, number)
        assert [each["data"] for each in await wire.publications(3)] == [1, 2, 3]
        for offset in (2, 3):
            _announce(own, gateway, channel, Position(gateway.epoch(channel), offset), '"other"')
        gateway.publish(channel, 4)
        assert (await wire.publication())["data"] == 4


# A follower is ahead of its gateway.


async def test_nothing_is_lost_when_followers_know_more_than_the_gateway_they_connect_to(
    own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start
) -> None:
    async with Proxy(own.path) as proxy:
        patient = {"gateway.store.heartbeats.SILENT_BEATS": 30}  # however long the loaded machine takes for what is published meanwhile
        slow = await _started(start_gateway_once, valkey_url=proxy.url, seconds=patient)
        async with scene(own.url, lambda: slow, lambda: gateway, restless_only=True) as here:
            await here.goes_on()
            for _ in range(3):
                proxy.hold()
                # A follower that comes to the slow gateway now has a newer position than the gateway, which reads up to it.
                more = len(here.acknowledged) + 150
                await until(lambda more=more: len(here.acknowledged) >= more, "publications that do not reach the slow gateway")
                proxy.release()
                await here.goes_on(30)
            await here.end()
            assert "was silent" not in slow.log()
        slow.stop()  # before its way to Valkey ends


async def test_a_position_that_never_was_is_a_gap(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        jumping = [follower for follower in here.followers if follower.restless]
        for follower in jumping:
            follower.jump = 10**6
        await here.goes_on()
        await until(lambda: not any(follower.jump for follower in jumping), "both came back with a position that nobody published")
        await here.end(gaps={follower.name: 1 for follower in jumping})
        _no_connection_ended(here)


# Small faults, each by itself.


async def test_a_publisher_waits_while_valkey_reads_its_file(tmp_path: Path) -> None:
    """A server that only speaks as Valkey does while it loads: nothing was carried out, so that a repeat is safe."""
    loading = b"-LOADING Valkey is loading the dataset in memory\r\n"
    answers = {b"gateway_generation": [loading, b"$1\r\ng\r\n"], b"gateway_publish": [loading, b"*2\r\n:1\r\n$1\r\ne\r\n"]}
    ends: list[asyncio.StreamWriter] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        with contextlib.suppress(asyncio.CancelledError):
            while part := await reader.read(2**16):
                function = next((name for name in answers if name in part), None)
                writer.write(answers[function].pop(0) if function else b"+OK\r\n")

    path = tmp_path / "s"
    server = await asyncio.start_unix_server(speak, path)
    try:
        async with Publisher(f"unix://{path}", patience=5) as publisher:
            assert await publisher.publish("loading", 1, idempotency_key="k") == Position("e", 1)
    finally:
        server.close()
        for end in ends:
            end.close()


async def test_a_history_read_whose_caller_was_cancelled_fails_without_a_traceback() -> None:
    """Its caller is cancelled, then the connection to Valkey is lost."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    world = World(clients=())
    channel = world.hub.channel(NAME)
    asks = asyncio.create_task(world.hub.page(channel, 0))
    await until(lambda: channel.reads, "it is being read")
    asks.cancel()
    await asyncio.wait([asks])
    del asks
    while world.valkey.asked:
        world.do("execute")
    world.do("fail")
    await until(lambda: not channel.reads, "the read is over")
    gc.collect()
    assert not complaints
    await world.close()


async def test_subscriptions_that_end_while_valkey_is_away_leave_nothing_waiting() -> None:
    """A client that comes and goes all that time costs what one client does."""
    world = World(clients=())
    channel = world.hub.channel(NAME)
    for _ in range(50):
        subscription = Recorder(channel)
        world.hub.follow(subscription)
        await until(lambda: channel.waiters, "it waits for Valkey")
        world.hub.end(subscription)
        await until(lambda: not channel.waiters, "it waits no more")
        assert not subscription.events, "its channel never opened"
    await world.close()
