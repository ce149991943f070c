"""Presence in Valkey: numbers without lists, lists with a bound, and reads that are shared."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.control.presence import STILL_LISTED_SECONDS, Presence
from gateway.errors import LimitExceeded, StoreError, Unavailable
from gateway.store.connection import ServerCommands
from gateway.store.history import History
from gateway.store.layout import Layout

from ..kit.clients import client, stream, until_counted
from ..kit.gateways import RunningGateway, Start
from ..kit.servers import ValkeyServer
from ..kit.valkeys import OwnValkey, opened_history
from ..kit.waiting import eventually, until

CONFIG = Config(limits={"presence_clients": 5})
CHANNEL = "chat:1"


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> AsyncIterator[History]:
    async with opened_history(valkey_url, prefix, CONFIG) as history:
        yield history


@pytest.fixture
def presence(history: History) -> Presence:
    return Presence(CONFIG, history, "p1")


def info(user: str, client: str, **more: Any) -> bytes:
    return json.dumps({"user": user, "client": client, **more}, separators=(",", ":")).encode()


async def counts(presence: Presence) -> tuple[int, int]:
    found = json.loads(await presence.counts(CHANNEL))
    return found["num_clients"], found["num_users"]


async def listed(presence: Presence) -> dict[str, Any]:
    return json.loads(await presence.clients(CHANNEL))["presence"]


# Numbers.


@pytest.mark.parametrize("seed", range(3))
async def test_clients_and_users_are_counted_as_by_a_model(history: History, presence: Presence, store: valkey.Valkey, seed: int) -> None:
    random.seed(seed)
    users = ["", "u1", 'a "quoted" one', "ü\n", "u2"]
    there: dict[str, str] = {}
    for _ in range(100):
        for _ in range(random.randrange(3)):
            if random.random() < 0.55:
                one = f"c{random.randrange(12)}"
                there[one] = random.choice(users)
                presence.enter(CHANNEL, one, info(there[one], one), False)
            elif there:
                one = random.choice(list(there))
                del there[one]
                presence.leave(CHANNEL, one, False)
        assert await counts(presence) == (len(there), len(set(there.values())))
    for one in list(there):
        presence.leave(CHANNEL, one, False)
    assert await counts(presence) == (0, 0)
    assert not store.exists(*history.layout.presence(CHANNEL)), "no key outlives the clients"


async def test_a_channel_of_an_older_gateway_is_counted_too(history: History, presence: Presence, store: valkey.Valkey) -> None:
    """Gateways before version 4 wrote the hash of clients alone; those that still run name it alone, and call the same function."""
    clients, users = history.layout.presence(CHANNEL)
    store.hset(clients, mapping={"a": info("u1", "a"), "b": info("u1", "b"), "c": info("u2", "c")})
    assert await counts(presence) == (3, 2)
    store.execute_command("FCALL", "gateway_presence", 1, clients, 0, "d", info("u3", "d"))
    assert await counts(presence) == (4, 3)
    assert dict(store.zrange(users, 0, -1, withscores=True)) == {b"u1": 2, b"u2": 1, b"u3": 1}
    store.execute_command("FCALL", "gateway_presence", 1, clients, 0, "a", "", "b", "")
    assert await counts(presence) == (2, 2)


async def test_the_keys_are_of_one_channel(history: History, store: valkey.Valkey) -> None:
    clients, _ = history.layout.presence(CHANNEL)
    _, others = history.layout.presence("chat:2")
    with pytest.raises(valkey.ResponseError, match="of one channel"):
        store.execute_command("FCALL", "gateway_presence", 2, clients, others, 0, "a", info("u1", "a"))


async def test_who_left_is_gone_also_while_valkey_has_no_memory_for_who_came(own: OwnValkey, prefix: str) -> None:
    """What waits to be written is bounded by the clients that are there, however many come and go."""
    async with opened_history(own.url, prefix, CONFIG) as history:
        presence = Presence(CONFIG, history, "p1")
        presence.enter(CHANNEL, "before", info("u1", "before"), False)
        assert await counts(presence) == (1, 1)
        own.ask("CONFIG", "SET", "maxmemory", 1)
        try:
            presence.leave(CHANNEL, "before", False)
            for number in range(20):
                presence.enter(CHANNEL, f"c{number}", info("u2", f"c{number}"), False)
                with pytest.raises(StoreError, match="OOM"):
                    await counts(presence)
                assert own.ask("HLEN", history.layout.presence(CHANNEL)[0]) == 0
                assert sum(map(len, presence._changes.values())) == 1
                presence.leave(CHANNEL, f"c{number}", False)
            presence.enter(CHANNEL, "after", info("u3", "after"), False)
        finally:
            own.ask("CONFIG", "SET", "maxmemory", 0)
        assert set(await listed(presence)) == {"after"}


# Lists.


async def test_a_list_past_the_limit_is_refused_and_still_counted(presence: Presence) -> None:
    for number in range(5):
        presence.enter(CHANNEL, f"c{number}", info("u1", f"c{number}"), False)
    assert len(await listed(presence)) == 5
    presence.enter(CHANNEL, "c5", info("u2", "c5"), False)
    with pytest.raises(LimitExceeded, match=r"6 clients are in 'chat:1', and limits\.presence_clients is 5"):
        await listed(presence)
    assert await counts(presence) == (6, 2)


async def test_few_clients_with_large_infos_are_refused(presence: Presence) -> None:
    for number in range(5):
        presence.enter(CHANNEL, f"c{number}", info("u1", f"c{number}", conn_info="x" * 300_000), False)
    with pytest.raises(LimitExceeded, match="more than 1048576 bytes"):
        await listed(presence)


async def test_pages_list_every_client(presence: Presence) -> None:
    clients = {f"c{number}": {"user": "u1", "client": f"c{number}"} for number in range(1000)}
    for name in clients:
        presence.enter(CHANNEL, name, info("u1", name), False)
    found, cursor, pages = {}, 0, 0
    while True:
        page = json.loads(await presence.page(CHANNEL, cursor, 100))
        found |= page["presence"]
        pages += 1
        if "cursor" not in page:
            break
        cursor = int(page["cursor"])
    assert found == clients and 5 < pages <= 12


async def test_a_service_pages_and_a_client_is_refused(start_gateway: Start) -> None:
    gateway: RunningGateway = start_gateway("[limits]\npresence_clients = 1\n[namespaces.chat]\n")
    async with client(gateway, subscribe=CHANNEL) as one, client(gateway, "u2", subscribe=CHANNEL) as two:
        assert (await one.error("presence", channel=CHANNEL), (await two.result("presence_stats", channel=CHANNEL))["num_clients"]) == (
            106,
            2,
        )
        assert (await gateway.ask("presence_stats", channel=CHANNEL)) == {"num_clients": 2, "num_users": 2}
        assert gateway.api("presence", channel=CHANNEL)["error"]["code"] == 106
        page = await gateway.ask("presence", channel=CHANNEL, limit=1)
        assert {each["user"] for each in page["presence"].values()} == {"u1", "u2"}, "a small hash is one page, whatever the limit"
        assert gateway.api("presence", channel=CHANNEL, cursor="7")["error"]["code"] == 107
        assert gateway.api("presence", channel=CHANNEL, limit=1, cursor="9" * 20)["error"]["code"] == 107
    assert "presence refused with 106 2 clients are in 'chat:1', and limits.presence_clients is 1" in gateway.log()


async def test_presence_shows_what_the_newest_tokens_say_of_a_client(start_gateway: Start) -> None:
    gateway: RunningGateway = start_gateway('[namespaces.chat]\njoin_leave = "all"\n')
    async with client(gateway, token=gateway.token(info="a"), subscribe=CHANNEL) as wire, stream(gateway, CHANNEL, user="u2") as events:
        assert (await wire.next())["push"]["join"]
        other = (await events.connected())["client"]
        assert (await wire.next())["push"]["join"]["info"]["client"] == other

        async def seen(name: str) -> dict[str, Any]:
            return {each["user"]: each.get(name) for each in (await wire.result("presence", channel=CHANNEL))["presence"].values()}

        assert await seen("conn_info") == {"u1": "a", "u2": None}
        await wire.result("refresh", token=gateway.token(info="b"))
        assert await seen("conn_info") == {"u1": "b", "u2": None}
        await wire.result("sub_refresh", channel=CHANNEL, token=gateway.token(channel=CHANNEL, info="of the channel"))
        assert await seen("chan_info") == {"u1": "of the channel", "u2": None}
        for user in ("u1", "u2"):
            await gateway.ask("refresh", user=user, info="c")

        async def is_shown() -> bool:
            return await seen("conn_info") == {"u1": "c", "u2": "c"}

        await eventually(is_shown, "what a service says of them")
        assert [await wire.next()] == [{"push": {"refresh": {}}}], "nobody joined or left"


# Reads under way.


class Answering:
    """A history whose reads are answered when the test decides."""

    sharded = False

    def __init__(self) -> None:
        self.layout = Layout("t")
        self.commands = self
        self.reads: list[asyncio.Future[Any]] = []
        self.begun: list[tuple[Any, ...]] = []

    async def call(self, function: bytes, *words: Any) -> Any:
        if function != b"gateway_present":
            return 0
        self.reads.append(asyncio.get_running_loop().create_future())
        return await self.reads[-1]

    def begin(self, *words: Any) -> asyncio.Future[Any]:
        self.begun.append(words)
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(0)
        return answer


@pytest.fixture
async def answering() -> Answering:
    return Answering()


async def asked(presence: Presence, times: int, answering: Answering, reads: int) -> list[asyncio.Task[bytes]]:
    tasks = [asyncio.create_task(presence.clients(CHANNEL)) for _ in range(times)]
    async with asyncio.timeout(5):
        while len(answering.reads) < reads:
            await asyncio.sleep(0)
    return tasks


async def test_equal_reads_under_way_are_one(answering: Answering) -> None:
    presence = Presence(CONFIG, answering, "p1")  # type: ignore[arg-type]  # what presence uses of a history
    tasks = await asked(presence, 16, answering, 1)
    answering.reads[0].set_result([1, 1, [b"a", b'{"user":"u1"}']])
    assert set(await asyncio.gather(*tasks)) == {b'{"presence":{"a":{"user":"u1"}}}'} and len(answering.reads) == 1
    await asked(presence, 1, answering, 2)
    answering.reads[1].set_result([0, 0, []])


async def test_a_read_that_may_miss_a_change_is_not_shared(answering: Answering) -> None:
    presence = Presence(CONFIG, answering, "p1")  # type: ignore[arg-type]  # what presence uses of a history
    before = await asked(presence, 1, answering, 1)
    presence.enter(CHANNEL, "a", info("u1", "a"), False)
    after = await asked(presence, 2, answering, 2)
    answering.reads[0].set_result([0, 0, []])
    answering.reads[1].set_result([1, 1, [b"a", b"{}"]])
    assert [await task for task in before + after] == [b'{"presence":{}}'] + 2 * [b'{"presence":{"a":{}}}']


async def test_a_client_that_asks_because_another_joined_gets_a_list_with_it(answering: Answering) -> None:
    """The other is at another process, and Valkey was asked for the list before it joined: the announcement came first."""
    presence = Presence(CONFIG, answering, "p1")  # type: ignore[arg-type]  # what presence uses of a history
    before = await asked(presence, 2, answering, 1)
    after = [asyncio.create_task(presence.clients(CHANNEL)) for _ in range(16)]
    await asyncio.sleep(0)
    answering.reads[0].set_result([0, 0, []])
    assert set(await asyncio.gather(*before)) == {b'{"presence":{}}'}
    await asked(presence, 0, answering, 2)
    answering.reads[1].set_result([1, 1, [b"a", b"{}"]])
    assert set(await asyncio.gather(*after)) == {b'{"presence":{"a":{}}}'} and len(answering.reads) == 2


async def test_a_storm_of_clients_is_written_in_two_steps_however_many_channels_it_is_of(answering: Answering) -> None:
    presence = Presence(CONFIG, answering, "p1")  # type: ignore[arg-type]  # what presence uses of a history
    for number in range(1200):
        presence.enter(f"{CHANNEL}{number % 300}", f"c{number}", info("u1", "a"), False)
    writing = asyncio.create_task(presence._flush())
    steps = []
    while not writing.done():
        await asyncio.sleep(0)
        steps.append([words[0] for words in answering.begun])
        answering.begun.clear()
    assert [step for step in steps if step] == [[b"SADD"] * 3, [b"FCALL"] * 300]


async def test_a_shared_read_that_fails_fails_for_all_and_is_not_shared_afterwards(answering: Answering) -> None:
    presence = Presence(CONFIG, answering, "p1")  # type: ignore[arg-type]  # what presence uses of a history
    tasks = await asked(presence, 2, answering, 1)
    answering.reads[0].set_exception(Unavailable("away"))
    for task in tasks:
        with pytest.raises(Unavailable):
            await task
    (again,) = await asked(presence, 1, answering, 2)
    answering.reads[1].set_result([0, 0, []])
    assert await again == b'{"presence":{}}'


async def test_presence_is_right_after_valkey_came_back_older(tmp_path: Path, start_gateway: Start) -> None:
    """Who left since is not there any more, and who came since is: a replica that takes over may be older, too."""
    server = ValkeyServer(tmp_path / "valkey", "appendonly yes", "appendfsync always")
    try:
        gateway = await asyncio.to_thread(start_gateway, "[namespaces.chat]\n", valkey_url=server.url)
        async with client(gateway, "stays", subscribe=CHANNEL) as wire:
            async with client(gateway, "leaves", subscribe=CHANNEL):
                await until_counted(wire, CHANNEL, 2)
                server.copy_files(tmp_path / "older")
            await until_counted(wire, CHANNEL, 1)
            async with stream(gateway, CHANNEL, user="comes") as events:  # it has no inbox, whose beginning is forgotten too
                await events.connected()
                await until_counted(wire, CHANNEL, 2)
                server.kill()
                server.replace_files(tmp_path / "older")
                server.start()
                await until(lambda: users_of(server, gateway) == {"stays", "comes"}, "presence is who is connected")
    finally:
        gateway.stop()
        server.stop()


def users_of(server: ValkeyServer, gateway: RunningGateway) -> set[str]:
    """As Valkey has them."""
    return {json.loads(each)["user"] for each in server.client.hvals(f"{gateway.prefix}:{{{CHANNEL}}}:presence")}


async def test_a_shard_that_forgot_who_left_is_reminded(
    history: History, presence: Presence, store: valkey.Valkey, monkeypatch: Any
) -> None:
    """The set of what a process wrote is at another shard, which forgot nothing."""
    monkeypatch.setattr(ServerCommands, "sharded", True)
    registry, key = presence._registry("p1"), history.layout.presence(CHANNEL)[0].decode()
    presence.enter(CHANNEL, "leaves", info("u1", "leaves"), False)
    presence.enter(CHANNEL, "stays", info("u2", "stays"), False)
    assert await counts(presence) == (2, 2)
    presence.leave(CHANNEL, "leaves", False)
    assert await counts(presence) == (1, 1)
    store.hset(key, "leaves", info("u1", "leaves"))
    store.hdel(key, "stays")
    await presence.reconcile()
    assert set(await listed(presence)) == {"stays"}
    assert set(store.smembers(registry)) == {b"leaves chat:1", b"stays chat:1"}
    now = presence._now
    monkeypatch.setattr(presence, "_now", lambda: now() + STILL_LISTED_SECONDS)
    presence.enter(CHANNEL, "comes", info("u3", "comes"), False)
    await counts(presence)
    assert set(store.smembers(registry)) == {b"stays chat:1", b"comes chat:1"}


async def test_a_shard_that_forgot_whom_a_dead_process_had_is_reminded(
    history: History, presence: Presence, store: valkey.Valkey, monkeypatch: Any
) -> None:
    """Whether that process was killed, or ended and removed them itself."""
    monkeypatch.setattr(ServerCommands, "sharded", True)
    key, survivor = history.layout.presence(CHANNEL)[0].decode(), Presence(CONFIG, history, "p2")
    presence.enter(CHANNEL, "killed", info("u1", "killed"), False)
    assert await counts(presence) == (1, 1)
    assert not await presence.close(), "another process has to look after it"
    store.hset(key, "killed", info("u1", "killed"))
    await survivor.clean_up("p1")
    assert await counts(presence) == (0, 0) and not store.exists(presence._registry("p1"))
    store.hset(key, "killed", info("u1", "killed"))
    await survivor.reconcile()
    assert await listed(survivor) == {}
    now = survivor._now
    monkeypatch.setattr(survivor, "_now", lambda: now() + STILL_LISTED_SECONDS)
    survivor.enter(CHANNEL, "comes", info("u3", "comes"), False)
    await counts(survivor)
    assert set(store.smembers(presence._registry("p2"))) == {b"comes chat:1"}
