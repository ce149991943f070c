"""What a service asks of clients, wherever they are: two gateways on one Valkey, the client at one, the question at the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any, cast

import pytest
import valkey

from gateway.app import Gateway
from gateway.config import Config
from gateway.control import leases
from gateway.control.bus import Bus
from gateway.errors import Unavailable

from ..kit.clients import client, stream, until_counted
from ..kit.gateways import Pair, Start
from ..kit.tokens import token
from ..kit.valkeys import opened_history
from ..kit.waiting import eventually, until

RULES = """
[namespaces.chat]
publish = "subscriber"
join_leave = "asked"
[namespaces.room]
join_leave = "all"
[namespaces.quiet]
presence = false
[namespaces.members]
subscribe = "nobody"
[namespaces.ticket]
publish = "token"
"""


@pytest.fixture(scope="module")
def pair(start_gateway_once: Start) -> Pair:
    return Pair(start_gateway_once(RULES), start_gateway_once(RULES))


def pushes(message: dict[str, Any]) -> tuple[str, str]:
    (kind,) = set(message["push"]) - {"channel"}
    return message["push"].get("channel", ""), kind


# Subscribing for a client.


@pytest.mark.parametrize("more", [{}, {"expire_at": 4e9}], ids=["for good", "for a time"])
async def test_a_subscription_by_a_service_does_not_give_the_rights_of_a_token(pair: Pair, user: str, more: dict[str, Any]) -> None:
    async with client(pair.here, user) as wire:
        await pair.here.ask("subscribe", user=user, channel=f"ticket:{user}", **more)
        assert "subscribe" in (await wire.next())["push"]
        assert await wire.error("publish", channel=f"ticket:{user}", data=1) == 103


async def test_a_subscription_of_a_service_ends_when_its_time_is_over(pair: Pair, user: str) -> None:
    """25 seconds later, which this begins with: a refresh could have come until then."""
    async with client(pair.here, user) as wire:
        await pair.here.ask("subscribe", user=user, channel=f"chat:{user}", expire_at=time.time() - 23)
        assert "subscribe" in (await wire.next())["push"]
        assert (await wire.next())["push"]["unsubscribe"]["code"] == 2501


async def test_a_refresh_to_a_time_that_is_over_ends_connections_at_once(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as wire:
        await pair.there.ask("refresh", user=user, expire_at=time.time() - 1)
        assert await wire.ended() == (3005, "connection expired") and not wire.rest


async def test_a_service_subscribes_a_user_at_another_gateway_against_its_rules(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as one, client(pair.here, user) as two:
        assert await pair.there.ask("subscribe", user=user, channel="members:1", data={"hello": 1}) == {}
        for wire in (one, two):
            message = await wire.next()
            assert pushes(message) == ("members:1", "subscribe")
            assert message["push"]["subscribe"]["data"] == {"hello": 1} and message["push"]["subscribe"]["recoverable"] is True
        pair.there.publish("members:1", "for members")
        assert (await one.publication())["data"] == "for members"


# Disconnecting.


async def test_disconnecting_a_user_ends_its_event_streams(pair: Pair, user: str) -> None:
    async with stream(pair.here, "chat:1", user=user) as events:
        await events.next()
        await pair.there.ask("disconnect", user=user)
        await events.end()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("subscribe", {"channel": "chat:1"}),
        ("subscribe", {"user": "u", "channel": "nowhere:1"}),
        ("subscribe", {"user": "u", "channel": "chat:{x}"}),
        ("subscribe", {"user": "u", "channel": "chat:1", "b64data": "%"}),
        ("unsubscribe", {"user": 1, "channel": "chat:1"}),
        ("disconnect", {}),
        ("disconnect", {"user": "u", "disconnect": {"code": 1, "reason": ""}}),
        ("disconnect", {"user": "u", "disconnect": {"code": 3503, "reason": "x" * 200}}),
        ("refresh", {}),
        ("revoke", {}),
        ("revoke", {"user": "u", "token_id": "t"}),
        ("presence", {"channel": "quiet:1"}),
        ("presence_stats", {"channel": "nowhere:1"}),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_an_error(pair: Pair, method: str, request_: dict[str, Any]) -> None:
    assert pair.here.api(method, **request_)["error"]["code"] in (102, 107, 108)


# Refreshing and revoking.


async def test_a_revoked_user_is_disconnected_everywhere_until_a_newer_token(pair: Pair, user: str) -> None:
    old, newer = (token(user, iat=time.time() - ago) for ago in (60, 0))
    async with (
        client(pair.here, token=newer) as kept,
        client(pair.here, token=old) as one,
        stream(pair.there, "chat:1", token=old) as events,
    ):
        await events.next()
        await pair.there.ask("revoke", user=user, issued_before=time.time() - 30)
        assert (await one.ended())[0] == 3500
        await events.end()
        await kept.result("rpc", method="gateway.time")
    for gateway in pair:
        assert gateway.http("GET", "/history?channel=chat:1", headers={"Authorization": f"Bearer {old}"})[0] == 401


async def test_one_token_is_revoked_by_its_id(pair: Pair, start_gateway: Start, user: str) -> None:
    lost, kept = (token(user, jti=f"{user}-{name}") for name in ("lost", "kept"))
    async with client(pair.here, token=lost) as one, client(pair.here, token=kept) as two:
        await pair.there.ask("revoke", token_id=f"{user}-lost", expire_at=time.time() + 60)
        assert (await one.ended())[0] == 3500
        await two.result("rpc", method="gateway.time")


# Looking.


async def test_presence_counts_the_clients_of_all_gateways(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user, subscribe=name) as one, client(pair.there, "other", subscribe=name) as two:
        for wire in (one, two):  # each knows of itself first
            await until_counted(wire, name, 2)
        found = (await one.result("presence", channel=name))["presence"]
        assert found[one.connected["client"]] == {"user": user, "client": one.connected["client"]}
        assert await two.result("presence_stats", channel=name) == {"num_clients": 2, "num_users": 2}
        assert (await pair.here.ask("presence", channel=name))["presence"] == found
        assert await pair.there.ask("presence_stats", channel=name) == {"num_clients": 2, "num_users": 2}
        assert await one.error("presence", channel="quiet:1") in (103, 108)


async def test_a_client_that_just_subscribed_is_in_presence(pair: Pair, user: str) -> None:
    async with client(pair.here, user, subscribe=f"chat:{user}") as wire:
        assert await wire.result("presence_stats", channel=f"chat:{user}") == {"num_clients": 1, "num_users": 1}
        assert list((await wire.result("presence", channel=f"chat:{user}"))["presence"]) == [wire.connected["client"]]
        await wire.result("unsubscribe", channel=f"chat:{user}")
        assert (await pair.here.ask("presence_stats", channel=f"chat:{user}"))["num_clients"] == 0


async def test_a_client_that_closes_leaves_presence(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user, subscribe=name) as one:
        async with client(pair.there, user, subscribe=name):
            await until_counted(one, name, 2)
        await until_counted(one, name, 1)


async def test_joins_and_leaves_are_pushed_to_clients_that_ask(pair: Pair, user: str) -> None:
    name = f"chat:{user}"

    async def written(clients: int) -> None:
        """As the other gateway sees it: what is written is announced, too, so that joins come in a known order."""

        async def is_written() -> bool:
            return (await pair.there.ask("presence_stats", channel=name))["num_clients"] == clients

        await eventually(is_written, f"{clients} clients are present")

    async with client(pair.here, user) as watching, client(pair.here, user, subscribe=name) as other:
        await written(1)
        await watching.result("subscribe", channel=name, join_leave=True)
        await written(2)
        async with client(pair.there, "guest", subscribe=name) as guest:
            joined = [(await watching.next())["push"]["join"]["info"]]
            while joined[-1]["user"] != "guest":  # first its own, and perhaps the other's
                joined.append((await watching.next())["push"]["join"]["info"])
            assert joined[-1]["client"] == guest.connected["client"]
        assert (await watching.next())["push"]["leave"]["info"]["user"] == "guest"
        await other.result("rpc", method="gateway.time")
        assert not other.rest, "a client that did not ask gets none"


async def test_the_clients_of_a_killed_gateway_leave_when_its_lease_is_over(start_gateway: Start, user: str) -> None:
    """Within ten seconds, of which these gateways make one."""
    assert leases.LEASE_MS / 1000 + leases.BEAT_SECONDS < 10
    tenth = {f"gateway.control.leases.{name}": getattr(leases, name) / 10 for name in ("BEAT_SECONDS", "TRUST_SECONDS")}
    tenth["gateway.control.leases.LEASE_MS"] = leases.LEASE_MS // 10
    stays = start_gateway(RULES, seconds=tenth)
    killed = start_gateway(RULES, beside=stays, seconds=tenth)
    name = f"room:{user}"
    async with client(stays, user, subscribe=name) as one, client(killed, "guest", subscribe=name):
        await until_counted(one, name, 2)
        began = time.monotonic()
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        while "leave" not in (await one.next(15))["push"]:
            continue
        assert time.monotonic() - began < 12
        await until_counted(one, name, 1)


class NoListener:
    """Has nothing in Valkey: a test overrides what it looks at."""

    async def write_anew(self) -> None: ...

    async def reconcile(self) -> None: ...

    async def clean_up(self, process: str) -> None: ...


@pytest.mark.parametrize("is_set", ["before a beat", "within one"])
async def test_the_clients_of_a_living_gateway_stay_when_valkeys_clock_is_set(
    valkey_url: str, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, is_set: str
) -> None:
    """Its last beat is long ago then, until the next one."""
    cleaned = []

    class Listener(NoListener):
        async def clean_up(self, process: str) -> None:
            cleaned.append(process)

    async def set_forward(*_: Any) -> float:
        if is_set == "within one" and not store.zscore(f"{prefix}:nodes", "living"):
            store.zadd(f"{prefix}:nodes", {"living": 1})
            return time.time()
        return time.time() + 3600

    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "TRUST_SECONDS", 0.0)
    async with opened_history(valkey_url, prefix, Config()) as history:
        running = asyncio.create_task(leases.Leases(history, "first", Listener()).run())
        await eventually(lambda: history.commands.call(b"ZSCORE", f"{prefix}:nodes", b"first"), "it beats")
        monkeypatch.setattr(leases, "TRUST_SECONDS", 10.0)
        monkeypatch.setattr(leases, "valkey_time", set_forward)
        await asyncio.sleep(0.05)
        if is_set == "before a beat":
            store.zadd(f"{prefix}:nodes", {"living": 1})
        await asyncio.sleep(0.1)
        running.cancel()
    assert cleaned == []


async def test_a_process_that_had_many_clients_is_cleaned_up_after_once_at_a_time(
    valkey_url: str, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may take many beats."""
    began = []

    class Listener(NoListener):
        async def clean_up(self, process: str) -> None:
            began.append(process)
            await asyncio.Event().wait()

    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(leases, "TRUST_SECONDS", 0.0)
    async with opened_history(valkey_url, prefix, Config()) as history:
        store.zadd(f"{prefix}:nodes", {"dead": 1})
        running = asyncio.create_task(leases.Leases(history, "first", Listener()).run())
        await until(lambda: bool(began), "it is noticed")
        await asyncio.sleep(0.1)
        running.cancel()
    assert began == ["dead"]


async def test_a_process_that_ends_and_left_something_in_valkey_is_cleaned_up_after_at_the_next_beat(valkey_url: str, prefix: str) -> None:
    """As each on a cluster. Surveys of the others waited a second for it until its lease was over."""
    async with opened_history(valkey_url, prefix, Config()) as history:
        key = [f"{prefix}:nodes".encode()]
        await history.call(b"gateway_beat", key, "ends", leases.LEASE_MS)
        await leases.Leases(history, "ends", cast(Any, None)).give_back(clean=False)
        assert await history.call(b"gateway_beat", key, "other", leases.LEASE_MS) == [1, b"ends"]


async def test_a_living_process_writes_anew_what_a_clean_up_removed_that_failed_halfway(
    valkey_url: str, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for dead, and came back while the other process cleaned up after it, which Valkey then refused."""

    class Listener(NoListener):
        def __init__(self) -> None:
            self.written = 0

        async def write_anew(self) -> None:
            self.written += 1

        async def clean_up(self, process: str) -> None:
            store.zadd(f"{prefix}:nodes", {process: time.time() * 1000})
            raise Unavailable("the connection to Valkey was lost")

    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "TRUST_SECONDS", 0.0)
    store.zadd(f"{prefix}:nodes", {"revived": 1})
    revived = Listener()
    async with opened_history(valkey_url, prefix, Config()) as history:
        running = [asyncio.create_task(leases.Leases(history, "cleaner", Listener()).run())]
        await until(lambda: store.zscore(f"{prefix}:nodes", "revived") != 1, "the clean-up fails")
        running.append(asyncio.create_task(leases.Leases(history, "revived", revived).run()))
        await until(lambda: revived.written, "it writes anew")
        for task in running:
            task.cancel()


async def test_a_process_renews_its_lease_while_it_reconciles_with_another_server(
    valkey_url: str, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster the list of its clients may be at a shard that is away. Its lease was over then, and other processes took it for dead."""
    begun = []

    class Listener(NoListener):
        async def reconcile(self) -> None:
            begun.append(store.zscore(f"{prefix}:nodes", "first"))
            await asyncio.sleep(3600)

    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    async with opened_history(valkey_url, prefix, Config()) as history:
        first = leases.Leases(history, "first", Listener())
        first._servers = {"the server before"}
        running = asyncio.create_task(first.run())
        await until(lambda: begun, "it reconciles")
        await until(lambda: store.zscore(f"{prefix}:nodes", "first") > begun[0], "it beats again")
        running.cancel()
        await first._tasks.cancel()
    assert len(begun) == 1, "once at a time"


# What gateways say to each other.


@pytest.mark.parametrize(
    "message",
    [
        {"do": "disconnect", "code": 1},
        {"do": "disconnect", "code": 70000, "reason": "far"},
        {"do": "disconnect", "reason": "x" * 200},
        {"do": "subscribe", "channel": "nowhere:1"},
        {"do": "subscribe", "channel": "chat:\n1"},
        {"do": "subscribe", "channel": ""},
        {"do": "subscribe", "channel": "chat:1", "epoch": "e", "offset": -1},
        {"do": "subscribe", "channel": "chat:1", "expire_at": -1},
        {"do": "refresh", "expire_at": -1e300},
        {"do": "revoke", "before": "now"},
        {"do": "dance"},
    ],
    ids=str,
)
async def test_a_malformed_control_message_is_ignored(pair: Pair, user: str, message: dict[str, Any], store: valkey.Valkey) -> None:
    """Any program that may write to Valkey may send one; no gateway sends such a message."""
    async with client(pair.here, user) as one, client(pair.there, user) as two:
        announced = json.dumps({"v": 1, "message": message | {"user": user}})
        store.fcall("gateway_control", 1, f"{pair.here.prefix}:control", announced)
        for wire in (one, two):
            await pair.here.ask("subscribe", client=wire.connected["client"], channel="members:1")
            assert pushes(await wire.next()) == ("members:1", "subscribe"), "it arrives after the other one"


async def test_a_revocation_reaches_a_gateway_that_missed_its_message(pair: Pair, user: str, store: valkey.Valkey) -> None:
    """The stream holds the newest messages only; revocations are stored in another key as well."""
    old, named = token(user, iat=1), token("somebody", jti=f"of {user}")
    async with (
        client(pair.there, token=old) as one,
        client(pair.there, token=named) as two,
        stream(pair.there, "chat:1", token=old) as three,
    ):
        await three.next()
        with pair.there.frozen():
            store.client_kill_filter(_type="pubsub")
            await pair.here.ask("revoke", user=user)
            await pair.here.ask("revoke", token_id=f"of {user}")
            store.xtrim(f"{pair.here.prefix}:control", 0, approximate=False)
        assert await one.ended() == (3500, "invalid token") and await two.ended() == (3500, "invalid token")
        await three.end()


async def test_clients_connect_again_where_messages_are_gone_that_their_gateway_missed(pair: Pair, user: str, store: valkey.Valkey) -> None:
    """Nobody knows what these asked. A disconnect among them never took place, and nothing said so."""
    async with client(pair.there, user) as one, stream(pair.there, "chat:1", user=f"{user}-2") as two:
        await two.next()
        for _ in range(2):
            await pair.there.ask("info")  # it has read the stream up to here, which another test may have emptied
        with pair.there.frozen():
            store.client_kill_filter(_type="pubsub")
            await pair.here.ask("disconnect", client=one.connected["client"])
            await pair.here.ask("unsubscribe", user=user, channel="chat:none")
            store.xtrim(f"{pair.here.prefix}:control", 1, approximate=False)
        assert await one.ended() == (3001, "shutdown")
        await two.end()
        async with client(pair.there, user) as again:
            await again.result("rpc", method="gateway.time")


def test_control_messages_are_counted_whatever_else_is_in_their_stream(pair: Pair, store: valkey.Valkey, prefix: str) -> None:
    def numbers() -> list[bytes | None]:
        return [fields.get(b"n") for _, fields in store.xrange(key)]

    key = f"{prefix}:control"
    for foreign in ({}, {"x": "1"}, {"n": "x"}, {"n": "-1"}, {"n": "9" * 30}):
        if foreign:
            store.xadd(key, foreign)
        for _ in range(2):
            store.fcall("gateway_control", 1, key, "m")
        assert numbers()[-2:] == [b"1", b"2"]
    store.set(key, "no stream")
    store.fcall("gateway_control", 1, key, "m")
    assert numbers() == [b"1"]


async def test_a_process_that_cannot_be_reached_on_its_own_channel_still_answers_itself(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where that channel is of a shard that is away: the console of the only process showed no process at all."""
    monkeypatch.setattr(Bus, "on_own", lambda self, payloads: None)
    gateway = Gateway(Config(prefix=prefix), valkey_url)
    await gateway.start()
    try:
        (answer,) = await gateway.node.control.survey("info")
        assert json.loads(answer)["num_clients"] == 0
    finally:
        await gateway.stop()
