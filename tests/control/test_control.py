"""What a service asks of clients, wherever they are: two gateways on one Valkey, the client at one, the question at the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any, NamedTuple

import jwt
import pytest

from gateway.store.connect import Address

from ..conftest import SECRET, RunningGateway, Start
from ..kit.clients import client, stream

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


class Pair(NamedTuple):
    here: RunningGateway
    there: RunningGateway


@pytest.fixture(scope="module")
def pair(start_gateway_once: Start) -> Pair:
    return Pair(start_gateway_once(RULES), start_gateway_once(RULES))


@pytest.fixture
def user() -> str:
    return f"u{os.urandom(4).hex()}"


def pushes(message: dict[str, Any]) -> tuple[str, str]:
    (kind,) = set(message["push"]) - {"channel"}
    return message["push"].get("channel", ""), kind


async def api(gateway: RunningGateway, method: str, **request: Any) -> dict[str, Any]:
    answer = await asyncio.to_thread(lambda: gateway.api(method, **request))
    assert "result" in answer, answer
    return answer["result"]


# Subscribing for a client.


@pytest.mark.parametrize("more", [{}, {"expire_at": 4e9}], ids=["for good", "for a time"])
async def test_whom_a_service_subscribes_has_shown_no_token(pair: Pair, user: str, more: dict[str, Any]) -> None:
    async with client(pair.here, user) as wire:
        await api(pair.here, "subscribe", user=user, channel=f"ticket:{user}", **more)
        assert "subscribe" in (await wire.next())["push"]
        assert await wire.error("publish", channel=f"ticket:{user}", data=1) == 103


async def test_a_subscription_of_a_service_ends_when_its_time_is_over(pair: Pair, user: str) -> None:
    """25 seconds later, which this begins with: a refresh could have come until then."""
    async with client(pair.here, user) as wire:
        await api(pair.here, "subscribe", user=user, channel=f"chat:{user}", expire_at=time.time() - 24)
        assert "subscribe" in (await wire.next())["push"]
        assert (await wire.next())["push"]["unsubscribe"]["code"] == 2501


async def test_a_service_subscribes_a_user_at_another_gateway_whom_the_rules_would_not_admit(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as one, client(pair.here, user) as two:
        assert await api(pair.there, "subscribe", user=user, channel="members:1", data={"hello": 1}) == {}
        for wire in (one, two):
            message = await wire.next()
            assert pushes(message) == ("members:1", "subscribe")
            assert message["push"]["subscribe"]["data"] == {"hello": 1} and message["push"]["subscribe"]["recoverable"] is True
        pair.there.publish("members:1", "for members")
        assert (await one.publication())["data"] == "for members"


async def test_it_names_one_client_of_several(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as one, client(pair.there, user) as two:
        await api(pair.there, "subscribe", user=user, client=one.connected["client"], channel="members:2")
        assert pushes(await one.next()) == ("members:2", "subscribe")
        pair.here.publish("members:2", 1)
        assert (await one.publication())["channel"] == "members:2"
        await two.result("rpc", method="gateway.time")
        assert not two.rest, "nothing of it came to the other one"


async def test_a_server_side_subscription_may_begin_in_the_past(pair: Pair, user: str) -> None:
    first = pair.here.publish("members:3", 1)
    for number in (2, 3):
        pair.here.publish("members:3", number)
    async with client(pair.here, user) as wire:
        await api(pair.there, "subscribe", user=user, channel="members:3", recover_since={"epoch": first["epoch"], "offset": 1})
        assert pushes(await wire.next()) == ("members:3", "subscribe")
        assert [pub["offset"] for pub in await wire.publications(2)] == [2, 3]


async def test_a_service_unsubscribes_and_the_client_is_told(pair: Pair, user: str) -> None:
    async with client(pair.here, user, subscribe="chat:1") as wire:
        await api(pair.there, "unsubscribe", user=user, channel="chat:1")
        message = await wire.next()
        assert message["push"] == {"channel": "chat:1", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        await wire.result("subscribe", channel="chat:1")


# Disconnecting.


async def test_a_service_disconnects_a_user_everywhere_but_the_whitelisted(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as one, client(pair.there, user) as two, client(pair.here, user) as kept:
        await api(pair.there, "disconnect", user=user, whitelist=[kept.connected["client"]])
        assert await one.ended() == (3503, "force disconnect")
        assert await two.ended() == (3503, "force disconnect")
        await kept.result("rpc", method="gateway.time")


async def test_with_a_code_and_a_reason_of_its_own(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as wire:
        await api(pair.there, "disconnect", user=user, disconnect={"code": 4501, "reason": "you know why"})
        assert await wire.ended() == (4501, "you know why")


async def test_an_event_stream_ends_too(pair: Pair, user: str) -> None:
    async with stream(pair.here, "chat:1", user=user) as events:
        await events.next()
        await api(pair.there, "disconnect", user=user)
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
def test_what_cannot_be_asked_is_an_error(pair: Pair, method: str, request_: dict[str, Any]) -> None:
    assert pair.here.api(method, **request_)["error"]["code"] in (102, 107, 108)


# Refreshing and revoking.


async def test_a_service_lengthens_and_ends_a_connection(pair: Pair, user: str) -> None:
    async with client(pair.here, user) as wire:
        await api(pair.there, "refresh", user=user, expire_at=int(time.time()) + 5000)
        ttl = (await wire.next())["push"]["refresh"]["ttl"]
        assert 4900 < ttl <= 5000
        await api(pair.there, "refresh", user=user, expired=True)
        assert await wire.ended() == (3005, "connection expired")


async def test_a_revoked_user_is_out_everywhere_and_stays_out_until_a_newer_token(pair: Pair, user: str) -> None:
    old, newer = (jwt.encode({"sub": user, "iat": time.time() - ago, "exp": time.time() + 60}, SECRET) for ago in (60, 0))
    async with (
        client(pair.here, token=newer) as kept,
        client(pair.here, token=old) as one,
        stream(pair.there, "chat:1", token=old) as events,
    ):
        await events.next()
        await api(pair.there, "revoke", user=user, issued_before=time.time() - 30)
        assert (await one.ended())[0] == 3500
        await events.end()
        await kept.result("rpc", method="gateway.time")
    for gateway in pair:
        assert gateway.http("GET", "/history?channel=chat:1", headers={"Authorization": f"Bearer {old}"})[0] == 401


async def test_one_token_is_revoked_by_its_id_also_for_gateways_that_start_later(pair: Pair, start_gateway: Start, user: str) -> None:
    claims = {"sub": user, "iat": time.time(), "exp": time.time() + 60}
    lost, kept = (jwt.encode({**claims, "jti": f"{user}-{name}"}, SECRET) for name in ("lost", "kept"))
    async with client(pair.here, token=lost) as one, client(pair.here, token=kept) as two:
        await api(pair.there, "revoke", token_id=f"{user}-lost", expire_at=claims["exp"])
        assert (await one.ended())[0] == 3500
        await two.result("rpc", method="gateway.time")


# Looking.


async def test_channels_and_info_are_of_all_gateways(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user, subscribe=name), client(pair.there, user, subscribe=name), client(pair.there, user, subscribe=name):
        assert (await api(pair.here, "channels", pattern=f"chat:{user[:4]}*"))["channels"][name] == {"num_clients": 3}
        nodes = (await api(pair.there, "info"))["nodes"]
        assert len({node["uid"] for node in nodes}) == 2
        assert sum(node["num_clients"] for node in nodes) == 3


async def test_presence_is_of_all_gateways(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user, subscribe=name) as one, client(pair.there, "other", subscribe=name) as two:
        for wire in (one, two):  # each knows of itself first
            await until_counted(wire, name, 2)
        found = (await one.result("presence", channel=name))["presence"]
        assert found[one.connected["client"]] == {"user": user, "client": one.connected["client"]}
        assert await two.result("presence_stats", channel=name) == {"num_clients": 2, "num_users": 2}
        assert (await api(pair.here, "presence", channel=name))["presence"] == found
        assert await api(pair.there, "presence_stats", channel=name) == {"num_clients": 2, "num_users": 2}
        assert await one.error("presence", channel="quiet:1") in (103, 108)


async def test_who_just_subscribed_finds_themselves(pair: Pair, user: str) -> None:
    async with client(pair.here, user, subscribe=f"chat:{user}") as wire:
        assert await wire.result("presence_stats", channel=f"chat:{user}") == {"num_clients": 1, "num_users": 1}
        assert list((await wire.result("presence", channel=f"chat:{user}"))["presence"]) == [wire.connected["client"]]
        await wire.result("unsubscribe", channel=f"chat:{user}")
        assert (await api(pair.here, "presence_stats", channel=f"chat:{user}"))["num_clients"] == 0


async def test_who_closes_is_gone_from_presence_within_two_seconds(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user, subscribe=name) as one:
        async with client(pair.there, user, subscribe=name):
            await until_counted(one, name, 2)
        began = time.monotonic()
        await until_counted(one, name, 1)
        assert time.monotonic() - began < 2


async def until_counted(wire: Any, channel: str, clients: int) -> None:
    async with asyncio.timeout(20):
        while (await wire.result("presence_stats", channel=channel))["num_clients"] != clients:
            await asyncio.sleep(0.02)


async def test_joins_and_leaves_are_told_to_those_who_ask(pair: Pair, user: str) -> None:
    name = f"chat:{user}"
    async with client(pair.here, user) as watching, client(pair.here, user, subscribe=name) as other:
        await watching.result("subscribe", channel=name, join_leave=True)
        async with client(pair.there, "guest", subscribe=name) as guest:
            joined = [await watching.next()]
            while joined[-1]["push"]["join"]["info"]["user"] != "guest":  # first its own, and the other's
                joined.append(await watching.next())
            assert joined[-1]["push"]["join"]["info"]["client"] == guest.connected["client"]
        assert (await watching.next())["push"]["leave"]["info"]["user"] == "guest"
        await other.result("rpc", method="gateway.time")
        assert not other.rest, "who did not ask is not told"


async def test_the_clients_of_a_killed_gateway_leave_within_ten_seconds(pair: Pair, start_gateway: Start, user: str) -> None:
    name = f"room:{user}"
    third = start_gateway(RULES, beside=pair.here)
    async with client(pair.here, user, subscribe=name) as one, client(third, "guest", subscribe=name):
        await until_counted(one, name, 2)
        began = time.monotonic()
        os.kill(third.process.pid, signal.SIGKILL)
        third.process.wait()
        while "leave" not in (await one.next(15))["push"]:
            continue
        assert time.monotonic() - began < 12
        await until_counted(one, name, 1)


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
async def test_a_message_that_cannot_be_harms_nobody(pair: Pair, user: str, message: dict[str, Any], valkey_url: str) -> None:
    """Whoever may write to Valkey may send one; no gateway says so."""
    with Address(valkey_url).sync_client() as store:
        async with client(pair.here, user) as one, client(pair.there, user) as two:
            told = json.dumps({"v": 1, "message": message | {"user": user}})
            store.fcall("gateway_control", 1, f"{pair.here.prefix}:control", told)
            for wire in (one, two):
                await api(pair.here, "subscribe", client=wire.connected["client"], channel="members:1")
                assert pushes(await wire.next()) == ("members:1", "subscribe"), "it is heard after the other one"


async def test_a_revocation_is_heard_by_whoever_was_away_for_too_many_messages(pair: Pair, user: str, valkey_url: str) -> None:
    """Valkey keeps the newest thousand; what is revoked stands elsewhere too."""
    tokens = {"user": {"sub": user, "iat": 1}, "token": {"sub": "somebody", "jti": f"of {user}"}}
    with Address(valkey_url).sync_client() as store:
        async with (
            client(pair.there, token=jwt.encode(tokens["user"], SECRET)) as one,
            client(pair.there, token=jwt.encode(tokens["token"], SECRET)) as two,
            stream(pair.there, "chat:1", token=jwt.encode(tokens["user"], SECRET)) as three,
        ):
            await three.next()
            pair.there.process.send_signal(signal.SIGSTOP)
            try:
                store.client_kill_filter(_type="pubsub")
                await asyncio.to_thread(lambda: [pair.here.api("revoke", user=user), pair.here.api("revoke", token_id=f"of {user}")])
                store.xtrim(f"{pair.here.prefix}:control", 0, approximate=False)
            finally:
                pair.there.process.send_signal(signal.SIGCONT)
            assert await one.ended() == (3500, "invalid token") and await two.ended() == (3500, "invalid token")
            await three.end()
