"""``/health/ready`` follows what happens to Valkey, both ways; the log has one line for each loss and one for each return.

It does so within three seconds on a machine that has the time: ``test_it_takes_three_seconds_at_most`` adds up what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.store import connect_again, heartbeats

from ..kit.clients import Socket, client
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.proxies import Proxy
from ..kit.servers import ValkeyServer
from ..kit.waiting import PATIENCE, until

SECONDS = 3.0
NOT_PROVEN = "the live link to Valkey is not proven to work"
NO_CONNECTION = "no connection to Valkey"
LOST = ("there is no link to valkey", "commands do not reach valkey")
BACK = ("the link to valkey is back", "commands reach valkey")
CHANNELS = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Its folder may be changed while it runs, so that a test can take its disk away."""
    server = ValkeyServer(tmp_path_factory.mktemp("server"), "enable-protected-configs yes")
    yield server
    server.thaw()
    server.stop()


@pytest.fixture(scope="module")
def gateway(server: ValkeyServer, start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(f"{RULES}\n[limits]\nchannels_per_client = {CHANNELS + 1}\n", valkey_url=server.url)


def test_it_takes_three_seconds_at_most() -> None:
    assert heartbeats.LATE_BEATS * heartbeats.BEAT_SECONDS < SECONDS, "until it is not ready"
    assert connect_again.PAUSE_SECONDS + connect_again.ATTEMPT_SECONDS + heartbeats.BEAT_SECONDS <= SECONDS, "until it is ready again"


async def becomes(gateway: RunningGateway, expected: str, seconds: float = PATIENCE) -> None:
    """It is not ready, for a reason that holds this text; with "" it is ready."""
    began, found = time.monotonic(), "?"
    async with await Socket.open(gateway) as socket:
        while time.monotonic() - began < seconds:
            status, _, body = await socket.request("GET", "/health/ready", {"X-API-Key": API_KEY})
            found = "" if status == 200 else body.decode()
            if bool(found) == bool(expected) and expected in found:
                return
            await asyncio.sleep(0.02)
    raise AssertionError(f"after {seconds} s not {expected or 'ready'!r}, but {found or 'ready'!r}")


@contextlib.asynccontextmanager
async def outage(gateway: RunningGateway, begin: Callable[[], object], why: str, *lines: str) -> AsyncIterator[None]:
    """The fault begins, and ends in the block. Afterwards the log has ``lines``, each once, and no others."""
    start = gateway.log_path.stat().st_size
    begin()
    await becomes(gateway, why)
    yield
    await becomes(gateway, "")
    with contextlib.suppress(AssertionError):
        await until(lambda: len(gateway.lines_since(start)) >= len(lines), "")
    found = gateway.lines_since(start)
    assert len(found) == len(lines), "\n".join(found)
    for text in lines:
        assert sum(text in line for line in found) == 1, (text, found)


# Valkey itself.


async def test_it_is_killed_and_comes_back_empty_and_a_thousand_channels_are_one_line(
    server: ValkeyServer, gateway: RunningGateway
) -> None:
    """The clients of half of them are sent a gap, and those of the others, which have no history, are to subscribe again."""
    names = [f"{'chat' if number % 2 else 'forgetful'}:{number}" for number in range(CHANNELS)]
    async with client(gateway, "many") as wire:
        for start in range(0, CHANNELS, 50):
            await wire.send(
                *[{"id": start + place + 1, "subscribe": {"channel": name}} for place, name in enumerate(names[start : start + 50])]
            )
            assert all(["subscribe" in await wire.next() for _ in range(50)])
        async with outage(gateway, server.kill, NO_CONNECTION, *LOST, *BACK, "is gone"):
            await asyncio.sleep(1)
            await asyncio.to_thread(server.start)
        assert await wire.ended() == (3010, "insufficient state"), (
            "its own channel, to which it did not subscribe by itself, lost its history, too"
        )


async def test_it_reads_a_large_file(server: ValkeyServer, gateway: RunningGateway) -> None:
    server.client.eval("for i = 1, 1500 do redis.call('SET', 'large:' .. i, i) end", 0)
    server.client.save()
    slowly = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    async with outage(gateway, server.kill, NO_CONNECTION, *LOST, *BACK):
        await asyncio.to_thread(server.start, *slowly)
        server.client.eval("for i = 1, 1500 do redis.call('DEL', 'large:' .. i) end", 0)


async def test_it_freezes_for_a_moment(server: ValkeyServer, gateway: RunningGateway, start_gateway: Start) -> None:
    """Shorter than link and commands may be silent, so nothing is lost. They may be silent for longer here: a busy machine makes it a long moment."""
    longer = {"gateway.store.heartbeats.SILENT_BEATS": 60, "gateway.store.connection.SILENCE_SECONDS": 60.0}
    patient = await asyncio.to_thread(start_gateway, RULES, valkey_url=server.url, seconds=longer)
    async with outage(patient, server.freeze, NOT_PROVEN):
        server.thaw()
    await becomes(gateway, "")


async def test_it_is_demoted(server: ValkeyServer, gateway: RunningGateway) -> None:
    """The link is left as well: a replica passes on what another primary announces."""
    async with outage(gateway, lambda: server.client.replicaof("127.0.0.1", 1), NO_CONNECTION, *LOST, *BACK):
        await asyncio.sleep(1)
        server.client.replicaof("NO", "ONE")


async def test_its_replicas_are_missing(server: ValkeyServer, gateway: RunningGateway) -> None:
    begin = "carries no commands out: NOREPLICAS"
    async with outage(
        gateway, lambda: server.client.config_set("min-replicas-to-write", 1), NO_CONNECTION, begin, "carries commands out again"
    ):
        await asyncio.sleep(1.5)
        server.client.config_set("min-replicas-to-write", 0)


async def test_its_disk_is_full(server: ValkeyServer, gateway: RunningGateway, tmp_path: Path) -> None:
    """The link is not given up, which delivers what needs no history."""
    gone = tmp_path / "gone"

    def begin() -> None:
        gone.mkdir()
        server.client.config_set("dir", str(gone))
        gone.rmdir()
        server.client.config_set("save", "1 1")  # from now on it may save at any moment
        server.client.set("changed", 1)
        with contextlib.suppress(valkey.exceptions.ResponseError):
            server.client.bgsave()

    refused = "valkey refuses what gateways write: MISCONF"
    async with client(gateway, subscribe="chat:live") as wire:
        async with outage(gateway, begin, "MISCONF", refused, "valkey takes what gateways write again"):
            await until(lambda: refused in gateway.log(), "it is logged")
            server.client.publish(f"{gateway.prefix}:{{chat:live}}", "1")
            assert (await wire.publication())["data"] == 1
            gone.mkdir()
            server.client.config_set("dir", str(gone))
            server.client.config_set("save", "")
            server.client.bgsave()


async def test_it_is_out_of_memory(server: ValkeyServer, gateway: RunningGateway) -> None:
    """It refuses to store, so a publisher learns that. The gateway still takes clients and delivers, as any other would: it stays ready."""
    async with client(gateway, subscribe="chat:first") as wire:
        with_no_memory = lambda: server.client.config_set("maxmemory", 1)  # noqa: E731
        async with outage(gateway, with_no_memory, "", "valkey refuses what gateways write: OOM", "valkey takes what gateways write again"):
            await until(lambda: "gateways write: OOM" in gateway.log(), "it is logged")
            assert gateway.api("publish", channel="chat:first", data=1)["error"]["code"] == 100
            await wire.result("subscribe", channel="chat:second")
            server.client.publish(f"{gateway.prefix}:{{chat:second}}", "2")
            assert (await wire.publication())["data"] == 2
            server.client.config_set("maxmemory", 0)


async def test_its_functions_are_flushed(server: ValkeyServer, gateway: RunningGateway) -> None:
    """They are loaded again before the gateway could become unready."""
    async with outage(gateway, server.client.function_flush, ""):
        assert gateway.publish("chat:first", 1)


# Connections.


async def test_connections_are_killed(server: ValkeyServer, gateway: RunningGateway) -> None:
    start = gateway.log_path.stat().st_size
    server.client.client_kill_filter(_type="normal", skipme=True)
    server.client.client_kill_filter(_type="pubsub")
    await until(lambda: len(gateway.lines_since(start)) >= 2, "both are back")
    await becomes(gateway, "")
    assert [any(text in line for line in gateway.lines_since(start)) for text in BACK] == [True, True]
    assert len(gateway.lines_since(start)) == 2, "each with the reason of its loss"


async def test_the_link_may_not_be_subscribed(server: ValkeyServer, gateway: RunningGateway) -> None:
    """Valkey itself ends a connection that has lost the right to its channels."""
    rights: dict[str, Any] = {"enabled": True, "nopass": True, "keys": ["*"], "commands": ["+@all"]}
    refused = ("gateway.rights  Valkey refuses SUBSCRIBE to", "gateway.rights  Valkey refuses FCALL gateway_heartbeat to")
    async with outage(
        gateway,
        lambda: server.client.acl_setuser("default", reset_channels=True, **rights),
        "refuses FCALL gateway_heartbeat",
        *refused,
        LOST[0],
        BACK[0],
    ):
        await asyncio.sleep(1)
        server.client.acl_setuser("default", channels=["*"], **rights)


async def test_connections_are_open_and_silent(server: ValkeyServer, start_gateway: Start) -> None:
    """Of one gateway the link brings nothing any more, of another nothing that it sends arrives. New connections work afterwards."""

    async def is_silent(proxy: Proxy, way: str, links_only: bool, lost: tuple[str, ...], back: tuple[str, ...]) -> None:
        gateway = gateways[proxy]
        async with outage(gateway, lambda: proxy.swallow(way, links_only=links_only), NOT_PROVEN, *lost, *back):
            await until(lambda: all(line in gateway.log() for line in lost), "they are given up, and so is an attempt to connect")
            proxy.pass_on()
        await asyncio.to_thread(gateway.stop)  # before its way to Valkey ends

    async with Proxy(server.port) as first, Proxy(server.port) as second:
        gateways = {proxy: await asyncio.to_thread(start_gateway, valkey_url=proxy.url) for proxy in (first, second)}
        await asyncio.gather(is_silent(first, "answer", True, LOST[:1], BACK[:1]), is_silent(second, "ask", False, LOST, BACK))


async def test_a_gateway_that_could_not_run_for_a_while_itself_stays_ready(gateway: RunningGateway) -> None:
    """As on a machine that has too much to do: no heartbeat came through because none was sent."""
    async with await Socket.open(gateway) as socket:
        with gateway.frozen():
            asking = asyncio.create_task(socket.request("GET", "/health/ready"))
            await asyncio.sleep(SECONDS)
        assert (await asking)[0] == 200


async def test_every_worker_of_a_group_answers_for_itself(server: ValkeyServer, start_gateway: Start) -> None:
    gateway = await asyncio.to_thread(start_gateway, "workers = 2\n", valkey_url=server.url)
    sockets = [await Socket.open(gateway) for _ in range(12)]  # the kernel gives each worker some

    async def statuses() -> set[int]:
        return {(await socket.request("GET", "/health/ready"))[0] for socket in sockets}

    async def all_become(status: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await statuses() != {status}:
                await asyncio.sleep(0.05)

    try:
        await all_become(200)
        server.freeze()
        await all_become(503)
        server.thaw()
        await all_become(200)
    finally:
        for socket in sockets:
            await socket.close()
