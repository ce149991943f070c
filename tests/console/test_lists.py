"""What the console lists: connections, channels, permissions, inboxes, work queues, outboxes; by two processes where that matters."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from valkey import Valkey

from gateway.config import Alerts, Config
from gateway.console.permitted import PermissionsRequest, permissions
from gateway.console.readers import _instances
from gateway.work import SyncQueue

from ..kit.channels import new_user
from ..kit.clients import client, stream, until_counted
from ..kit.gateways import RULES, Pair, RunningGateway, Start
from ..kit.operators import READ_KEY, WITH_CONSOLE, Operator, log_in
from ..kit.valkeys import opened_history

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "chat"
TOML = f"{WITH_CONSOLE}{RULES}"


@pytest.fixture(scope="module")
def pair(start_gateway_once: Start) -> Pair:
    return Pair(start_gateway_once(TOML), start_gateway_once(TOML))


@pytest.fixture(scope="module")
def operator(pair: Pair) -> Operator:
    return log_in(pair.here)


@pytest.fixture(scope="module")
def queue(pair: Pair, valkey_url: str) -> Iterator[SyncQueue]:
    with SyncQueue(valkey_url, prefix=pair.here.prefix) as queue:
        yield queue


@pytest.fixture
def gateway(pair: Pair) -> RunningGateway:
    return pair.here


async def call(operator: Operator, method: str, **request: Any) -> Any:
    return await asyncio.to_thread(lambda: operator.call(method, **request))


async def refusal(operator: Operator, method: str, **request: Any) -> str:
    return await asyncio.to_thread(lambda: operator.refusal(method, **request))


# Connections.


async def test_connections_of_all_processes_are_found_by_user_address_channel_and_id(operator: Operator, pair: Pair, channel: str) -> None:
    user = new_user()
    async with client(pair.here, f"{user}a", subscribe=channel) as one, client(pair.there, f"{user}b") as two:
        found = await call(operator, "connections", user=user)
        assert found["total"] == 2 and "cursor" not in found
        first, second = found["connections"]
        assert (first["client"], second["client"]) == (one.connected["client"], two.connected["client"])
        assert (first["user"], first["address"], first["transport"], first["paused"]) == (f"{user}a", "127.0.0.1", "websocket", False)
        assert first["node"] != second["node"] and first["channels"] == 2 and first["since_ms"] > 1.7e12 and first["waiting_bytes"] == 0
        for search in ({"channel": channel}, {"client": first["client"][:20]}, {"user": f"{user}a", "address": "127."}):
            assert [each["client"] for each in (await call(operator, "connections", **search))["connections"]] == [first["client"]]
        assert (await call(operator, "connections", user=user, address="10."))["total"] == 0


async def test_connections_come_page_by_page_in_a_stable_order(operator: Operator, pair: Pair) -> None:
    user = new_user()
    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        over, opened = asyncio.Event(), asyncio.Semaphore(0)

        async def stay(number: int) -> None:
            async with client(pair[number % 2], f"{user}{number}"):
                opened.release()
                await over.wait()

        for number in range(7):
            group.create_task(stay(number))
        for _ in range(7):
            await opened.acquire()
        seen, cursor, pages = [], "", 0
        while pages == 0 or cursor:
            page = await call(operator, "connections", user=user, limit=3, cursor=cursor)
            assert page["total"] == 7
            seen += [each["user"] for each in page["connections"]]
            cursor, pages = page.get("cursor", ""), pages + 1
        over.set()
    assert seen == [f"{user}{number}" for number in range(7)] and pages == 3
    assert "cursor" in await refusal(operator, "connections", cursor="?")


async def test_a_connection_is_shown_with_its_subscriptions(operator: Operator, pair: Pair, channel: str) -> None:
    gateway = pair.there
    for number in range(3):
        gateway.publish(channel, number)
    epoch = gateway.epoch(channel)
    async with client(gateway, "u7") as wire:
        await wire.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=1)
        shown = await call(operator, "connection", client=wire.connected["client"])
        assert shown["user"] == "u7" and 0 < shown["expires_at"] - time.time() <= 3600
        own, inbox = shown["subscriptions"]
        since, at = own.pop("since_ms"), own["recovered"].pop("at")
        assert own == {
            **{"channel": channel, "state": "live", "side": "client", "epoch": epoch, "offset": 3, "top": 3, "after": 1},
            "recovered": {"from": 1},
        }
        assert since == at > 1.7e12
        assert (inbox["channel"], inbox["side"]) == ("notifications:u7", "server")
        gone = wire.connected["client"]
    assert await refusal(operator, "connection", client=gone) == f"no process has a connection {gone!r} now"


async def test_an_event_stream_is_a_connection_too(operator: Operator, gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel, user=(user := new_user())) as opened:
        await opened.next()
        row = (await call(operator, "connections", user=user))["connections"][0]
        assert row["transport"] == "sse"
        assert [each["channel"] for each in (await call(operator, "connection", client=row["client"]))["subscriptions"]] == [channel]


# Channels.


async def test_the_busiest_channels_are_counted_over_all_processes(operator: Operator, pair: Pair, channel: str) -> None:
    async with client(pair.here, subscribe=channel), client(pair.there, subscribe=channel), client(pair.there, subscribe=f"{channel}x"):
        found = await call(operator, "channels_busy", pattern=f"{channel}*")
        assert found["channels"] == [{"name": channel, "clients": 2}, {"name": f"{channel}x", "clients": 1}]
        assert (await call(operator, "channels_busy", pattern=f"{channel}*", limit=1))["channels"] == [{"name": channel, "clients": 2}]
        assert (await call(operator, "channels_busy", pattern=f"{channel}y"))["channels"] == []


async def test_a_channel_is_shown_with_its_rules_position_history_and_presence(operator: Operator, pair: Pair, channel: str) -> None:
    for number in range(3):
        pair.here.publish(channel, number)
    async with client(pair.there, "u1", subscribe=channel) as wire:
        await until_counted(wire, channel, 1)
        shown = await call(operator, "channel", channel=channel)
    assert (shown["namespace"], shown["clients"], shown["presence"]) == ("chat", 1, {"clients": 1, "users": 1})
    assert shown["position"] == {"epoch": pair.here.epoch(channel), "offset": 3}
    assert shown["rules"]["publish"] == "subscriber" and shown["rules"]["history_ttl"] == 300
    history = shown["history"]
    assert history["size"] == 3 and history["bytes"] > 100 and 1.7e12 < history["oldest_ms"] <= history["newest_ms"]
    shown = await call(operator, "channel", channel="forgetful:a")
    assert shown["position"] is None and shown["history"] is None
    assert "no namespace 'unknown' is configured" in await refusal(operator, "channel", channel="unknown:a")


async def test_looking_at_a_channel_makes_nothing(operator: Operator, gateway: RunningGateway, store: Valkey, user: str) -> None:
    assert (await call(operator, "channel", channel=f"chat:{user}"))["history"] == {"size": 0}
    assert (await call(operator, "inbox", user=user)) == {"notifications": [], "unread": 0, "next": None, "total": 0}
    await call(operator, "why", user=user, channel=f"chat:{user}", offset=1)
    assert [key for key in store.scan_iter(f"{gateway.prefix}:*{user}*")] == []


# Permissions.


@pytest.mark.parametrize(
    "channel, user, act, allowed, by",
    [
        (
            "chat:1",
            "u1",
            "subscribe",
            True,
            "namespaces.chat.subscribe = \"user\": every client with a user may, and the client is user 'u1'",
        ),
        ("chat:1", "", "subscribe", False, "and the client is anonymous; a subscription token for the channel would open it"),
        ("chat:1", "u1", "publish", True, 'namespaces.chat.publish = "subscriber": a client that is subscribed may'),
        ("chat:1", "", "publish", False, "a client that is subscribed may, and anonymous may not subscribe (namespaces.chat.subscribe"),
        ("chat:1#u2", "u1", "subscribe", False, "the channel belongs to user 'u2', and the client is user 'u1'"),
        ("ticket:1", "u1", "publish", False, 'namespaces.ticket.publish = "token": a client needs a subscription token for the channel'),
        ("sealed:1", "u1", "history", False, 'namespaces.sealed.history = "nobody": no client may; the server API may'),
        ("forgetful:1", "u1", "history", False, "namespaces.forgetful.history_size = 0: the channel has no history"),
        ("plain", "u1", "publish", False, 'channels.publish = "nobody": no client may'),
    ],
)
async def test_a_permission_names_the_setting_that_decides_it(
    operator: Operator, channel: str, user: str, act: str, allowed: bool, by: str
) -> None:
    judged = (await call(operator, "permissions", user=user, channel=channel))[act]
    assert judged["allowed"] is allowed and by in judged["by"]


@pytest.mark.parametrize(
    "channel, act, by",
    [
        ("alerts", "subscribe", 'alerts.subscribe = "token": a client needs'),
        ("alerts", "publish", 'publish = "nobody" in the gateway\'s own channel alerts, which no setting changes: no client may'),
        ("alerts", "history", 'history = "subscriber" in the gateway\'s own channel alerts, which no setting changes: a client that'),
        ("alerts", "presence", 'presence_for = "subscriber" in the gateway\'s own channel alerts, which no setting changes: a client that'),
        (
            "console:live",
            "subscribe",
            'subscribe = "nobody" in the gateway\'s own channel console:live, which no setting changes: no client',
        ),
        ("console:live", "presence", "presence = false in the gateway's own channel console:live, which no setting changes: nobody sees"),
    ],
)
async def test_no_setting_is_named_that_cannot_be_set(channel: str, act: str, by: str) -> None:
    """``alerts.publish`` and ``namespaces.console.subscribe`` were, which are errors in a configuration."""
    config = Config(admin_keys=["k" * 16], alerts=Alerts(dead=1))
    node = SimpleNamespace(config=config, rules=config.rules, personal_channels=lambda user: [])
    asked = PermissionsRequest(user="u1", channel=channel)
    judged = json.loads(await permissions(cast(Any, SimpleNamespace(node=node)), asked))
    assert judged[act]["by"].startswith(by)


async def test_an_inbox_is_subscribed_on_connecting_by_its_own_user(operator: Operator) -> None:
    for user, expected in (("u1", True), ("u2", False)):
        found = await call(operator, "permissions", user=user, channel="notifications:u1")
        assert found["subscribes_on_connect"] is expected and found["subscribe"]["allowed"] is expected


# Inboxes.


async def test_an_inbox_is_listed_page_by_page_with_what_is_unread(operator: Operator, gateway: RunningGateway, user: str) -> None:
    for number in range(5):
        gateway.api("notify", user=user, data={"id": f"n{number}"})
    async with client(gateway, user) as wire:
        await wire.result("rpc", method="inbox.read", data={"ids": ["n3"]})
    page = await call(operator, "inbox", user=user, limit=3)
    assert (page["unread"], page["total"]) == (4, 5)
    assert [(each["id"], each["unread"]) for each in page["notifications"]] == [("n4", True), ("n3", False), ("n2", True)]
    rest = await call(operator, "inbox", user=user, limit=3, before=page["next"])
    assert [each["id"] for each in rest["notifications"]] == ["n1", "n0"] and rest["next"] is None
    assert await refusal(operator, "inbox", user="a#b") == "a user id with a # has no channel of its own"


# Work.


async def test_queues_are_shown_and_mended(operator: Operator, queue: SyncQueue, store: Valkey, gateway: RunningGateway) -> None:
    jobs = [queue.enqueue("send", {"n": number}, queue="mail", delay=60) for number in range(3)]
    big = queue.enqueue("send", "x" * 5000, queue="mail")
    row = (await call(operator, "queues"))["queues"][0]
    assert (row["name"], row["ready"], row["delayed"], row["dead"], row["workers"]) == ("mail", 1, 3, 0, 0)
    listed = (await call(operator, "queue", queue="mail", state="delayed", first=1, limit=1))["jobs"]
    assert [each["data"] for each in listed] == [{"n": 1}] and listed[0]["name"] == "send"
    ready = (await call(operator, "queue", queue="mail", state="ready"))["jobs"][0]
    assert ready["id"] == big.id and ready["data_bytes"] == 5002 and "data" not in ready
    assert (await call(operator, "job", queue="mail", id=big.id))["data"] == "x" * 5000
    assert await call(operator, "queue_cancel", queue="mail", id=jobs[0].id) == {"outcome": "cancelled"}
    assert await refusal(operator, "queue_cancel", queue="mail", id=jobs[0].id) == f"queue mail has no job {jobs[0].id}"
    assert await refusal(operator, "job", queue="mail", id="none") == "queue mail has no job none"
    assert (
        await refusal(operator, "queue_purge", queue="mail", state="delayed", confirm="post") == "confirm has to be the queue's name, mail"
    )
    assert await call(operator, "queue_purge", queue="mail", state="delayed", confirm="mail") == {"removed": 2, "left": 0}
    assert await call(operator, "queue_retry", queue="mail", ids=["none"]) == {"sent": 0, "refused": 1}
    assert await call(operator, "queue_retry", queue="mail", skip=3) == {"sent": 0, "refused": 0, "skip": 3}


@pytest.mark.parametrize("method", ["queue_retry", "queue_cancel", "queue_purge"])
async def test_who_may_only_look_mends_nothing(pair: Pair, method: str) -> None:
    answer = await asyncio.to_thread(lambda: log_in(pair.here, READ_KEY).post(method, queue="mail"))
    assert answer.status == 403


async def test_a_queue_whose_keys_another_program_wrote_hides_no_other(operator: Operator, store: Valkey, gateway: RunningGateway) -> None:
    store.sadd(f"{gateway.prefix}:queues", "odd")
    store.set(f"{gateway.prefix}:queue:{{odd}}:jobs", "x")
    rows = {row["name"]: row for row in (await call(operator, "queues"))["queues"]}
    assert "WRONGTYPE" in rows["odd"]["error"]
    store.delete(f"{gateway.prefix}:queue:{{odd}}:jobs")


async def test_outboxes_are_those_whose_relays_reported(operator: Operator, store: Valkey, gateway: RunningGateway) -> None:
    now = store.time()[0]
    report = {"rows": 3, "oldest_seconds": 1.5, "at": now}
    store.hset(f"{gateway.prefix}:outbox", mapping={"shop": json.dumps(report), "old": json.dumps({**report, "at": 1}), "odd": "?"})
    assert (await call(operator, "outbox"))["databases"] == [{"name": "shop", **report}]


async def test_instances_of_a_reader_are_counted_by_valkeys_clock(
    valkey_url: str, prefix: str, store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose clock is an hour ahead, a group that reads had none."""
    store.zadd(f"{prefix}:readers:{{g}}", {"instance": (store.time()[0] + 10) * 1000})
    now = time.time
    async with opened_history(valkey_url, prefix, Config()) as history:
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert await _instances(cast(Any, SimpleNamespace(history=history)), "g") == {"instance"}


async def test_a_channel_whose_reader_was_killed_is_run_by_nobody(operator: Operator, store: Valkey, gateway: RunningGateway) -> None:
    """The reader of the how-to, ended by SIGTERM, was shown as the one that runs it for as long as no other came."""
    key, state, leases = (f"{gateway.prefix}:{name}" for name in ("readers", "{chat:1}:reader:search", "readers:{search}"))
    store.hset(key, "search", json.dumps({"namespace": "", "channels": ["chat:1"], "at": store.time()[0]}))
    store.hset(state, "owner", "killed/1")
    for until, owner, instances in ((10, "killed", 1), (-10, "", 0)):
        store.zadd(leases, {"killed.2.3": (store.time()[0] + until) * 1000})
        [row] = (await call(operator, "readers"))["readers"]
        assert (row.get("owner", ""), row.get("instances", 0)) == (owner, instances)
    store.delete(key, state, leases)


async def test_a_group_of_readers_that_has_not_run_for_a_month_is_forgotten(
    operator: Operator, store: Valkey, gateway: RunningGateway
) -> None:
    """One that was renamed was shown for as long as any other ran, and one of each process filled the list."""
    key, day = f"{gateway.prefix}:readers", 86400
    for group, ago in (("renamed", 31 * day), ("ended", 29 * day)):
        store.hset(key, group, json.dumps({"namespace": "", "channels": ["chat:1"], "at": store.time()[0] - ago}))
    assert [row["group"] for row in (await call(operator, "readers"))["readers"]] == ["ended"]
    assert store.hkeys(key) == [b"ended"]
    store.delete(key)


async def test_what_another_program_wrote_about_readers_is_left_out(operator: Operator, store: Valkey, gateway: RunningGateway) -> None:
    store.hset(f"{gateway.prefix}:readers", "odd", "?")
    store.hset(f"{gateway.prefix}:readers", "named", json.dumps({"namespace": "nothing", "channels": [], "at": 1}))
    assert await call(operator, "readers") == {"readers": [], "more": False}
