"""A gateway whose Valkey other programs write to: what they break costs itself only, for every client and for control."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import valkey

from ..kit.bystander import Bystander, Log
from ..kit.clients import client, opened, stream
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.tokens import token
from ..kit.waiting import until

NAMESPACE = "filtered"
RULES = """
[namespaces.chat]
publish = "subscriber"
[namespaces.filtered]
tags_filter = true
history = "anyone"
[namespaces.closed]
history = "nobody"
[namespaces.ticket]
subscribe = "token"
history = "token"
[namespaces.own]
subscribe = "owner"
history = "nobody"
personal = true
"""
DEEP = b'{"a":' * 980 + b"1" + b"}" * 980
BAD_TAGS = [b'{"a":"\xff"}', b'{"a":NaN}', b'{"a":"\x01"}', b'{"a":\n\n"data: injected\\n\\n"\r\n}', b'{"a":1}', b"x\n\ndata: {}\n\n", DEEP]
ERROR = 100

gateway = shared_gateway(RULES)


def key(gateway: RunningGateway, channel: str, name: str = "") -> str:
    return f"{gateway.prefix}:{{{channel}}}" + (f":{name}" if name else "")


# Publications.


@pytest.mark.parametrize("bad", BAD_TAGS, ids=lambda bad: repr(bad[:30]))
@pytest.mark.usefixtures("nobody_else_notices")
async def test_an_appended_entry_with_bad_tags_breaks_no_client_and_no_filter(
    gateway: RunningGateway, store: valkey.Valkey, channel: str, bad: bytes
) -> None:
    epoch = gateway.publish(channel, 1)["epoch"]
    store.xadd(key(gateway, channel, "stream"), {"data": "2", "tags": bad, "info": bad}, id="2-1700000000000")
    store.hset(key(gateway, channel, "meta"), mapping={"offset": 2, "ms": 1700000000000})
    gateway.publish(channel, 3, tags={"lang": "de"})
    everything = {"key": "lang", "cmp": "nex"}
    async with client(gateway) as wire, client(gateway) as other, stream(gateway, channel, last_event_id=f"{epoch}:0") as events:
        recovered = await wire.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=0)
        assert [pub["data"] for pub in recovered["publications"]] == [1, 2, 3]
        filtered = await other.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=0, tf=everything)
        assert [pub["data"] for pub in filtered["publications"]] == [1, 2]
        assert (await events.next()).name == "connected"
        assert [(await events.next()).data["data"] for _ in range(3)] == [1, 2, 3]
    assert len(gateway.api("history", channel=channel, limit=9)["result"]["publications"]) == 3
    assert gateway.http("GET", f"/history?channel={channel}", headers={"Authorization": f"Bearer {token('u1')}"})[0] == 200


@pytest.mark.parametrize("bad", BAD_TAGS, ids=lambda bad: repr(bad[:30]))
@pytest.mark.usefixtures("nobody_else_notices")
async def test_an_announcement_with_bad_tags_costs_neither_its_channel_nor_others_that_arrive_with_it(
    gateway: RunningGateway, store: valkey.Valkey, channel: str, bad: bytes
) -> None:
    async with client(gateway, subscribe=channel) as wire, client(gateway, subscribe=f"{channel}other") as other:
        await wire.result("unsubscribe", channel=channel)
        await wire.result("subscribe", channel=channel, tf={"key": "a", "cmp": "nex"})
        position = gateway.publish(channel, 1)
        assert (await wire.publication())["data"] == 1
        with store.pipeline(transaction=True) as together:
            together.publish(key(gateway, channel), b'@2 %b 1700000000000 {"tags":%b}\n2' % (position["epoch"].encode(), bad))
            together.publish(key(gateway, channel), b"@join " + bad)
            together.publish(key(gateway, f"{channel}other"), b'{"still":"here"}')
            together.execute()
        assert (await other.publication())["data"] == {"still": "here"}
        await wire.result("rpc", method="gateway.time")


async def test_what_was_ignored_is_logged_once_for_its_channel(
    gateway: RunningGateway, store: valkey.Valkey, channel: str, log: Log, bystander: Bystander
) -> None:
    gateway.publish(channel, 1)
    for number in (2, 3):
        store.xadd(key(gateway, channel, "stream"), {"data": number, "tags": "\n"}, id=f"{number}-1700000000000")
    store.hset(key(gateway, channel, "meta"), mapping={"offset": 3, "ms": 1700000000000})
    assert len(gateway.api("history", channel=channel, limit=9)["result"]["publications"]) == 3
    await log.says(channel, "tags", "ignored faulty data")
    assert log.text.count("ignored faulty data") == 1


# Presence and keys of another type.


async def test_a_bad_presence_entry_hides_no_other_client(gateway: RunningGateway, store: valkey.Valkey, channel: str) -> None:
    store.hset(
        key(gateway, channel, "presence"), mapping={"bad": b"\xff", b"\xff": b"{}", "deep": DEEP, "list": b"[]", "user": b'{"user":1}'}
    )
    async with client(gateway, subscribe=channel) as wire:
        assert list((await wire.result("presence", channel=channel))["presence"]) == [wire.connected["client"]]
        counts = await wire.result("presence_stats", channel=channel)
        assert counts["num_clients"] == 6, "the numbers are Valkey's own, so what another program wrote into the hash counts"


@pytest.mark.parametrize("name", ["meta", "stream"])
@pytest.mark.usefixtures("nobody_else_notices")
async def test_a_key_of_another_type_is_an_error(gateway: RunningGateway, store: valkey.Valkey, channel: str, log: Log, name: str) -> None:
    gateway.publish(channel, 1)
    store.delete(key(gateway, channel, name))
    store.set(key(gateway, channel, name), "text")
    async with client(gateway) as wire, stream(gateway, channel, last=1) as back:
        for command in ("subscribe", "subscribe", "history"):
            assert await wire.error(command, channel=channel, recover=True, limit=5) == ERROR, command
        refused = await back.next()
        assert (refused.name, refused.data["code"]) == ("refused", ERROR)
        assert gateway.api("publish", channel=channel, data=1)["error"]["code"] == ERROR
        assert gateway.api("history", channel=channel, limit=1)["error"]["code"] == ERROR
        await log.says(channel, "WRONGTYPE")
        store.delete(key(gateway, channel, name))
        await wire.result("subscribe", channel=channel)


async def test_a_personal_channel_of_another_type_costs_its_user_no_other(gateway: RunningGateway, store: valkey.Valkey, user: str) -> None:
    store.set(key(gateway, f"own:{user}", "meta"), "text")
    async with client(gateway, user) as wire:
        assert set(wire.connected["subs"]) == {f"notifications:{user}"}


async def test_presence_of_another_type_delays_no_other_channels(gateway: RunningGateway, store: valkey.Valkey, channel: str) -> None:
    store.set(key(gateway, channel, "presence"), "text")
    async with client(gateway, subscribe=channel) as wire, client(gateway, subscribe=f"{channel}2") as other:
        assert await wire.error("presence", channel=channel) == ERROR
        name = key(gateway, f"{channel}2", "presence")
        await until(lambda: store.hlen(name) == 1, "the other channel's presence is written")
    await until(lambda: store.hlen(name) == 0, "and removed")
    assert other.connected


async def test_a_stream_of_a_channel_without_a_position_is_refused(gateway: RunningGateway, store: valkey.Valkey, channel: str) -> None:
    store.set(key(gateway, channel, "meta"), "text")
    async with stream(gateway, channel) as events:
        refused = await events.next()
        assert (refused.name, refused.data) == ("refused", {"code": ERROR, "message": "internal server error"})


# Control.


async def disconnects(gateway: RunningGateway, user: str) -> None:
    async with client(gateway, user) as wire:
        await gateway.ask("disconnect", user=user)
        assert (await wire.ended())[0] == 3503


@pytest.mark.parametrize(
    "payload",
    [
        b'99999999999999999-0\n{"v":1}',
        b"99999999999999999-0\n",
        b"18446744073709551615-18446744073709551615\n{}",
        b"9" * 5000 + b"-0\n{}",
        b"\xff",
        b"",
        b'1-1\n{"v":1,"message":{"do":"subscribe","info":' + DEEP + b"}}",
        b'99999999999999-1\n{"v":1,"message":{"do":"subscribe","info":' + DEEP + b"}}",
    ],
    ids=lambda payload: repr(payload[:30]),
)
@pytest.mark.usefixtures("nobody_else_notices")
async def test_no_control_message_switches_control_off(gateway: RunningGateway, store: valkey.Valkey, user: str, payload: bytes) -> None:
    store.publish(f"{gateway.prefix}:control", payload)
    await disconnects(gateway, user)
    assert len(gateway.api("info")["result"]["nodes"]) == 1


async def test_a_message_that_is_not_in_the_stream_is_logged(start_gateway: Start, store: valkey.Valkey) -> None:
    gateway = start_gateway(RULES)
    store.publish(f"{gateway.prefix}:control", '77777777777777-5\n{"v":1}')
    await until(lambda: "77777777777777-5 was announced and is not in the stream" in gateway.log(), "the gateway looked for it")


SPOILS: dict[str, Callable[[valkey.Valkey, str], Any]] = {
    "text": lambda store, name: store.set(name, "text"),
    "the last id": lambda store, name: store.xadd(name, {"m": "{}"}, id="18446744073709551615-18446744073709551615"),
    "a far id": lambda store, name: store.xadd(name, {"x": b"\xff"}, id="99999999999999-0"),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("cut", [False, True], ids=["linked", "link cut"])
async def test_control_goes_on_with_any_stream(start_gateway: Start, store: valkey.Valkey, user: str, spoil: str, cut: bool) -> None:
    gateway = start_gateway(RULES)
    name = f"{gateway.prefix}:control"
    await disconnects(gateway, user)
    SPOILS[spoil](store, name)
    if cut:
        store.client_kill_filter(_type="pubsub")
        await until(lambda: "the link to valkey was lost" in gateway.log(), "the link is lost")
        await until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "the link is back")
    for _ in range(3):
        await disconnects(gateway, user)
    store.delete(name)
    for _ in range(2):
        await disconnects(gateway, user)


async def test_what_a_control_message_brings_reaches_clients_as_one_line_of_json(
    gateway: RunningGateway, store: valkey.Valkey, user: str, channel: str
) -> None:
    async with client(gateway, user) as wire:
        for raw in (b'{"a":\n1}', b'"\xff"'):
            message = b'{"v":1,"message":{"do":"subscribe","user":"%b","channel":"%b","data":%b}}' % (user.encode(), channel.encode(), raw)
            store.fcall("gateway_control", 1, f"{gateway.prefix}:control", message)
        push = (await wire.next())["push"]
        assert push["subscribe"]["data"] == {"a": 1}
        await wire.result("rpc", method="gateway.time")
        assert not wire.rest


async def test_a_survey_leaves_out_answers_that_are_none(gateway: RunningGateway, store: valkey.Valkey) -> None:
    (node,) = gateway.api("info")["result"]["nodes"]
    store.publish(f"{gateway.prefix}:node:{node['uid']}", b'{"id":1,"answer":' + DEEP + b"}")
    store.publish(f"{gateway.prefix}:node:{node['uid']}", b'{"id":1,"answer":"\xff"}')
    assert isinstance(gateway.api("channels")["result"]["channels"], dict)


# Revocations.


async def test_bad_revocations_switch_no_other_off(start_gateway: Start, store: valkey.Valkey, user: str) -> None:
    gateway = start_gateway(RULES)
    old = token(user, iat=time.time() - 60)
    members = [b"\xff", b"user nan " + user.encode(), b"user x y", b"user", b"dance", b"user inf " + user.encode(), b""]
    store.zadd(f"{gateway.prefix}:revoked", dict.fromkeys(members, time.time() + 1000))
    await gateway.ask("revoke", user=user, issued_before=time.time() - 30)
    gateway.stop()
    again = start_gateway(RULES, beside=gateway)
    async with opened(again) as wire:
        await wire.send({"id": 1, "connect": {"token": old}})
        assert (await wire.ended())[0] == 3500
    async with client(again, token=token(user, iat=time.time())) as wire:
        await wire.result("rpc", method="gateway.time")


@pytest.mark.parametrize("spoiled", ["control", "revoked"])
async def test_a_revocation_holds_where_it_was_asked_for_whatever_becomes_of_its_broadcast(
    start_gateway: Start, store: valkey.Valkey, user: str, spoiled: str
) -> None:
    gateway = start_gateway(RULES)
    old = token(user, iat=time.time() - 60)
    async with client(gateway, token=old) as wire, stream(gateway, "chat:1", token=old) as events:
        await events.next()
        store.set(f"{gateway.prefix}:{spoiled}", "text")
        gateway.api("revoke", user=user)
        assert (await wire.ended())[0] == 3500
        await events.end()
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": old}})
        assert (await wire.ended())[0] == 3500


# History that the rules do not give.


async def test_only_a_position_with_an_epoch_recovers_where_the_history_rule_does_not_admit(gateway: RunningGateway, user: str) -> None:
    channel = f"closed:{user}"
    first = gateway.publish(channel, "secret")
    gateway.publish(channel, "more")
    for since in ({}, {"offset": 0}, {"offset": 1}, {"epoch": ""}, {"epoch": "?"}):
        async with client(gateway, user) as wire:
            result = await wire.result("subscribe", channel=channel, recover=True, **since)
            assert not result.get("recovered") and "secret" not in json.dumps(result) and result["was_recovering"], since
            assert (await wire.ask("subscribe", channel=channel))["error"]["code"] == 105
    async with client(gateway, user) as wire:
        assert await wire.error("subscribe", channel=channel, recover=True, flag=2) == 112
        result = await wire.result("subscribe", channel=channel, recover=True, epoch=first["epoch"], offset=1)
        assert [pub["data"] for pub in result["publications"]] == ["more"]


async def test_connecting_recovers_no_own_channel_from_an_empty_epoch_where_history_is_closed(gateway: RunningGateway, user: str) -> None:
    channel = f"own:{user}"
    epoch = gateway.publish(channel, "secret")["epoch"]
    for since, sees in (({"recover": True}, False), ({"recover": True, "epoch": epoch}, True)):
        async with opened(gateway) as wire:
            result = (await wire.result("connect", token=token(user), subs={channel: since}))["subs"][channel]
            assert bool(result.get("recovered")) is sees and ("secret" in json.dumps(result)) is sees


async def test_an_event_stream_starts_at_the_top_where_history_is_closed(gateway: RunningGateway, user: str) -> None:
    channel = f"closed:{user}"
    epoch = gateway.publish(channel, "secret")["epoch"]
    for query, gaps in (({"last": 10}, 0), ({"last_event_id": ":0"}, 1), ({"last_event_id": "x"}, 1)):
        async with stream(gateway, channel, user=user, **query) as events:
            start = (await events.next()).data["channels"][channel]
            assert (start["offset"], start["recovered"]) == (1, False), query
            assert [(await events.next()).name for _ in range(gaps)] == ["gap"] * gaps
            await asyncio.to_thread(gateway.publish, channel, "live")
            assert (await events.next()).data["data"] == "live"
        await asyncio.to_thread(gateway.api, "history_remove", channel=channel)
        gateway.publish(channel, "secret")
        assert (top := gateway.api("history", channel=channel)["result"]["offset"]) and top > 1
        channel = f"{channel}x"
        epoch = gateway.publish(channel, "secret")["epoch"]
    async with stream(gateway, channel, user=user, last_event_id=f"{epoch}:0") as events:
        assert (await events.next()).data["channels"][channel]["recovered"] is True
        assert (await events.next()).data["data"] == "secret"


async def test_a_subscription_token_opens_history_where_the_rule_asks_for_one(gateway: RunningGateway, user: str) -> None:
    channel = f"ticket:{user}"
    gateway.publish(channel, "told")
    async with client(gateway, user) as wire:
        result = await wire.result("subscribe", channel=channel, token=token(user, channel=channel), recover=True)
        assert [pub["data"] for pub in result["publications"]] == ["told"]
