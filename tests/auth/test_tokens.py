"""Tokens: which keys check which algorithms, keys from a URL, and what the claims of a token do."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from gateway.auth.tokens import CHANNELS_MOST
from gateway.errors import TokenInvalid, TokenStale

from ..kit.clients import client, opened, stream
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.keys import by_secret, made, verifier
from ..kit.tokens import SECRET, claiming

# Claims.


def test_the_audience_must_be_the_configured_one() -> None:
    checks = by_secret(audience="here")
    for good in ("here", ["there", "here"]):
        checks.connection(claiming(aud=good))
    for bad in ("there", ["there"], [], 5, [5]):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(aud=bad))
    with pytest.raises(TokenInvalid):
        checks.connection(claiming())
    by_secret().connection(claiming(aud="there"))


def test_the_issuer_must_be_the_configured_one() -> None:
    checks = by_secret(issuer="us")
    checks.connection(claiming(iss="us"))
    for bad in ({"iss": "them"}, {}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**bad))
    with pytest.raises(TokenInvalid):
        checks.connection(made('{"iss":["us"]}'))


def test_a_token_before_its_time_or_after_it_is_refused() -> None:
    now, checks = time.time(), by_secret()
    with pytest.raises(TokenStale):
        checks.connection(claiming(exp=now - 5))
    for early in ({"nbf": now + 60}, {"iat": now + 60}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**early))
    checks.connection(claiming(exp=now + 60, nbf=now - 1, iat=now - 1))


def test_the_leeway_is_for_clocks_that_differ() -> None:
    now, checks = time.time(), by_secret(leeway=30)
    for early in ({"nbf": now + 20}, {"iat": now + 20}):
        checks.connection(claiming(**early))
    for bad in ({"nbf": now + 60}, {"iat": now + 60}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**bad))
    with pytest.raises(TokenStale):
        checks.connection(claiming(exp=now - 40))


@pytest.mark.parametrize("claim", ["exp", "expire_at"])
def test_an_expiry_within_the_leeway_is_accepted(claim: str) -> None:
    assert by_secret(leeway=30).connection(claiming(sub="u1", **{claim: int(time.time()) - 10})).user == "u1"


def test_expire_at_counts_more_than_exp() -> None:
    now, checks = int(time.time()), by_secret()
    assert checks.connection(claiming(exp=now + 60)).expires_at == now + 60
    assert checks.connection(claiming(exp=now + 60, expire_at=now + 900)).expires_at == now + 900
    assert checks.connection(claiming(exp=now + 60, expire_at=0)).expires_at == 0
    assert checks.connection(claiming()).expires_at == 0
    for over in (
        {"exp": now + 60, "expire_at": now - 5},
        {"exp": now - 5, "expire_at": now + 60},
        {"exp": now - 5, "expire_at": 0},
        {"expire_at": -1},
    ):
        with pytest.raises(TokenStale):
            checks.connection(claiming(**over))
    assert checks.subscription(claiming(channel="a", exp=now + 60, expire_at=0)).expires_at == 0


DEEP = base64.b64encode(b"[" * 3000 + b"]" * 3000).decode()
WRONG_CLAIMS = [
    *('{"sub":5}', '{"sub":["u1"]}', '{"sub":true}', '{"exp":"soon"}', '{"exp":"99999999999"}', '{"exp":[]}', '{"exp":1e400}'),
    *('{"exp":NaN}', '{"nbf":{}}', '{"iat":"x"}', '{"iat":1e400}', '{"expire_at":"0"}', '{"expire_at":false}', '{"jti":5}'),
    *('{"channel":5}', '{"channels":"a"}', '{"channels":[1]}', '{"channels":{"a":1}}', '{"subs":["a"]}', '{"subs":{"a":1}}'),
    *('{"subs":{"a":{"info":1,"b64info":"%"}}}', '{"subs":{"a":{"b64data":5}}}', '{"b64info":5}', '{"b64info":"é"}'),
    *(f'{{"b64info":"{DEEP}"}}', '{"subs":{"a":{"b64data":"é"}}}', '{"expire_at":NaN}', '{"expire_at":1e400}'),
    *('{"sub":"\\ud800"}', '{"b64info":"//8="}', '{"info":"\\ud800"}', '{"info":' + "1" * 5000 + "}", "[]", '"u1"', "null", "{"),
    *("",),
]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_a_claim_is_nested_as_deep_as_a_publication_at_most_however_it_is_written() -> None:
    def claims(depth: int) -> list[str]:
        b64 = base64.b64encode(nested(depth).encode()).decode()
        return [
            *(f'{{"{name}":{nested(depth)}}}' for name in ("info", "meta")),
            *(f'{{"subs":{{"a":{{"{name}":{nested(depth)}}}}}}}' for name in ("info", "data")),
            *(f'{{"b64info":"{b64}"}}', f'{{"subs":{{"a":{{"b64data":"{b64}"}}}}}}'),
        ]

    for accepted, refused in zip(claims(256), claims(257), strict=True):
        by_secret().connection(made(accepted))
        with pytest.raises(TokenInvalid, match="nested more than 256 deep"):
            by_secret().connection(made(refused))


@pytest.mark.parametrize("claims", WRONG_CLAIMS, ids=lambda text: text[:30])
def test_claims_of_the_wrong_type_or_that_cannot_be_used_are_an_invalid_token(claims: str) -> None:
    for check in (by_secret().connection, by_secret().subscription):
        with pytest.raises(TokenInvalid):
            check(made(claims))


def test_a_token_gives_its_channels_info_data_and_overrides() -> None:
    overrides = {
        "presence": {"value": False},
        "join_leave": {"value": True},
        "force_recovery": {"value": False},
        "force_positioning": {"value": True},
    }
    subs = {"a": {"info": {"n": 1}, "data": [1, 2]}, "b": {"b64info": "eyJuIjoyfQ==", "b64data": "WzNd"}, "c": {"override": overrides}}
    given = by_secret().connection(claiming(channels=["d", "a"], subs=subs, info=0, meta={"m": 1})).channels
    assert {name: tuple(sub) for name, sub in given.items()} == {
        "a": (b'{"n":1}', b"[1,2]", None, 0),
        "b": (b'{"n":2}', b"[3]", None, 0),
        "c": (None, None, (False, True, None, False), 0),
        "d": (None, None, None, 0),
    }


def test_a_token_names_no_more_channels_than_a_token_may() -> None:
    by_secret().connection(claiming(channels=[f"{number:x}" for number in range(CHANNELS_MOST)]))
    with pytest.raises(TokenInvalid, match="1001 channels"):
        by_secret().connection(claiming(channels=[f"{number:x}" for number in range(CHANNELS_MOST + 1)]))


def test_a_connection_token_and_a_subscription_token_are_never_each_other() -> None:
    for channel in ("", "a"):
        with pytest.raises(TokenInvalid, match="subscription token"):
            by_secret().connection(claiming(sub="u1", channel=channel))
    for claims in ({}, {"channel": ""}, {"channel": None}, {"channels": ["a"]}):
        with pytest.raises(TokenInvalid, match="names no channel"):
            by_secret().subscription(claiming(sub="u1", **claims))


def test_a_token_is_not_read_on_past_its_longest() -> None:
    with pytest.raises(TokenInvalid, match="longer"):
        by_secret().connection(claiming(info="x" * 20000))


def test_without_any_key_every_token_is_refused() -> None:
    with pytest.raises(TokenInvalid, match="hmac_secret"):
        verifier().connection(claiming(sub="u1"))


# At a gateway.

NAMESPACE = "room"
RULES = """
[namespaces.chat]
publish = "subscriber"
join_leave = "asked"
[namespaces.ticket]
subscribe = "token"
[namespaces.room]
subscribe = "nobody"
publish = "subscriber"
history = "subscriber"
join_leave = "all"
[limits]
channels_per_client = 10
"""

gateway = shared_gateway(RULES)


async def test_the_channels_of_a_token_are_followed_from_connect_on_whatever_the_rules_say(gateway: RunningGateway, channel: str) -> None:
    bare, b64 = f"{channel}-bare", f"{channel}-b64"
    subs = {channel: {"info": {"role": "author"}, "data": {"hello": [1]}}, b64: {"b64info": "eyJuIjoyfQ==", "b64data": "WzNd"}}
    token = claiming(sub="u1", channels=[bare], subs=subs)
    async with client(gateway, token=token) as wire:
        given = wire.connected["subs"]
        assert set(given) == {channel, bare, b64, "notifications:u1"}
        assert {name: sub.get("data") for name, sub in given.items()} == {
            channel: {"hello": [1]},
            b64: [3],
            bare: None,
            "notifications:u1": None,
        }
        assert all(sub["recoverable"] and sub["epoch"] for sub in given.values())
        joined = {}
        while len(joined) < 3:
            message = (await wire.next())["push"]
            joined[message["channel"]] = message["join"]["info"].get("chan_info")
        assert joined == {channel: {"role": "author"}, b64: {"n": 2}, bare: None}
        gateway.publish(bare, "for those whom a token names")
        assert (await wire.publication())["channel"] == bare


async def test_the_channels_of_a_token_are_recovered_from_the_positions_that_connect_names(gateway: RunningGateway, channel: str) -> None:
    lost = f"{channel}-lost"
    token = claiming(sub="u2", subs={channel: {"data": 1}}, channels=[lost])
    async with client(gateway, token=token) as wire:
        seen = wire.connected["subs"][channel]
    for number in (1, 2):
        gateway.publish(channel, number)
    async with opened(gateway) as wire:
        at = {"recover": True, "epoch": seen["epoch"], "offset": seen.get("offset", 0)}
        foreign = {"recover": True, "epoch": seen["epoch"], "offset": 0}
        result = await wire.result("connect", token=token, subs={channel: at, lost: at | {"epoch": "old"}, f"{channel}-foreign": foreign})
        assert set(result["subs"]) == {channel, lost, "notifications:u2"}, "a position opens nothing that the token does not name"
        sub = result["subs"][channel]
        assert sub["recovered"] is True and sub["was_recovering"] is True and sub["data"] == 1
        got = sub.get("publications", [])
        while len(got) < 2:  # what was just published may come live instead
            got.append(await wire.publication())
        assert [(pub["offset"], pub["data"]) for pub in got] == [(1, 1), (2, 2)]
        assert result["subs"][lost]["was_recovering"] is True and "recovered" not in result["subs"][lost]


async def test_a_client_whose_token_comes_too_early_may_try_again(gateway: RunningGateway) -> None:
    """A backend's clock is ahead; a refusal as invalid would be final to SDKs, after that clock is set right, too."""
    later = time.time() + 60
    for early in ({"nbf": later}, {"iat": later}):
        async with opened(gateway) as wire:
            assert await wire.error("connect", token=claiming(sub="u1", **early)) == 109
            assert (await wire.ended())[0] == 3000, "it does not make its bearer anonymous"
        async with client(gateway) as wire:
            assert await wire.error("subscribe", channel="chat:1", token=claiming(sub="u1", channel="chat:1", **early)) == 109


async def test_a_token_with_more_channels_than_a_client_may_have_is_refused(gateway: RunningGateway) -> None:
    names = [f"chat:{number}" for number in range(10)]  # and the user's own
    async with client(gateway, token=claiming(sub="u1", channels=names[:9])) as wire:
        assert len(wire.connected["subs"]) == 10
        assert await wire.error("subscribe", channel="chat:more") == 106
    for claims in ({"channels": names}, {"subs": {name: {} for name in names}}):
        async with opened(gateway) as wire:
            await wire.send({"id": 1, "connect": {"token": claiming(sub="u1", **claims)}})
            assert await wire.ended() == (3505, "channel limit")
    async with client(gateway, token=claiming(channels=names)) as wire:  # the anonymous have none of their own
        assert len(wire.connected["subs"]) == 10


@pytest.mark.parametrize(("name", "code"), [("nowhere:1", 102), ("", 107), ("chat:{x}", 107), ("chat:" + "x" * 300, 107)])
async def test_a_token_with_an_impossible_channel_is_refused_with_the_channels_error(gateway: RunningGateway, name: str, code: int) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": claiming(sub="u1", channels=["chat:1", name])}})
        assert (await wire.next())["error"]["code"] == code
        await wire.ended()


async def test_a_refresh_that_changes_the_channels_makes_the_client_come_back(gateway: RunningGateway) -> None:
    async with client(gateway, token=claiming(sub="u3", channels=["room:left"])) as wire:
        await wire.send({"id": 5, "refresh": {"token": claiming(sub="u3", channels=["room:new"])}})
        assert await wire.ended(2) == (3010, "insufficient state")


async def test_meta_reaches_no_client(gateway: RunningGateway, channel: str) -> None:
    subs: dict[str, Any] = {channel: {"info": {"seen": "chan"}}}
    meta = {"plan": "unspeakable"}
    async with (
        client(gateway, token=claiming(sub="watcher", subs=subs)) as watcher,
        client(gateway, token=claiming(sub="u1", subs=subs, info={"seen": "conn"}, meta=meta)) as wire,
    ):
        received: list[Any] = [watcher.connected, wire.connected]
        await wire.result("publish", channel=channel, data="x")
        received += [await wire.ask(method, channel=channel) for method in ("presence", "presence_stats")]
        received += [await wire.ask("history", channel=channel, limit=9), await wire.ask("rpc", method="gateway.whoami")]
        received += [
            await wire.ask("refresh", token=claiming(sub="u1", subs=subs, info={"seen": "conn"}, meta=meta, exp=int(time.time()) + 60))
        ]
        while not any(message.get("push", {}).get("pub") for message in received):
            received.append(await watcher.next())
        received += [*watcher.rest, *wire.rest, gateway.api("presence", channel=channel), gateway.api("history", channel=channel, limit=9)]
    text = json.dumps(received)
    assert "conn" in text and "chan" in text, "the others receive what they may know"
    assert "unspeakable" not in text and "unspeakable" not in gateway.log()


async def test_a_token_within_the_leeway_opens_what_any_other_does_until_the_leeway_is_over(start_gateway: Start) -> None:
    """When such a client is closed later is in tests/session/test_deadlines.py."""
    lenient = start_gateway(f'[tokens]\nhmac_secret = "{SECRET}"\nleeway = 60\n')
    async with client(lenient, token=claiming(sub="u1", exp=time.time() - 40)) as wire:
        assert await wire.result("rpc", method="gateway.time")
    async with stream(lenient, "posts:1", token=lenient.token(seconds=-10)) as events:
        assert 45 <= (await events.connected())["ttl"] <= 50
    async with opened(lenient) as wire:
        assert (await wire.ask("connect", token=claiming(sub="u1", exp=time.time() - 61)))["error"]["code"] == 109
