"""Who may do what, where: every rule, for everybody, at every edge, against tables written from docs/reference/settings.md alone.

One gateway has a namespace for each pair of a subscribe rule and a rule for the rest (publish, history, presence), and each
namespace a channel of nobody's, one of alice's, and a private one of alice's. Everybody tries everything in all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from gateway.config import Config
from gateway.rules.identity import Identity
from gateway.rules.permissions import admits, may_subscribe

from ..kit.clients import Socket, Wire, client, opened, stream
from ..kit.gateways import RunningGateway, Start
from ..kit.tokens import token as made

SUBSCRIBE_RULES = ("anyone", "user", "owner", "token", "nobody")
OTHER_RULES = ("anyone", "user", "owner", "subscriber", "token", "nobody")
NAMES = ("general", "alice", "#alice", "room#alice", "alice#bob")

OK, UNKNOWN, DENIED, EXPIRED, INVALID = 0, 102, 103, 109, 3500

# docs/reference/settings.md: `anyone` includes the anonymous; `user` needs a valid token; `owner` needs the name after the namespace, or after
# `#`, to be the user's id. What belongs to the user after a `#` is open to no other user.
ADMITS = {"anyone": {"anonymous", "user", "owner"}, "user": {"user", "owner"}, "owner": {"owner"}, "token": set(), "nobody": set()}
ADMITS_PRIVATE = ADMITS | {"anyone": {"owner"}, "user": {"owner"}}
OWNERS = {"general": "", "alice": "alice", "#alice": "alice", "room#alice": "alice", "alice#bob": "bob"}
PLAIN_OWNERS = OWNERS | {"alice": ""}  # with no namespace, nothing follows it


class Channel(NamedTuple):
    full: str
    subscribe: str
    other: str
    owner: str

    @property
    def private(self) -> bool:
        return "#" in self.full


class Person(NamedTuple):
    """``shows`` is the subscription token that goes with their subscribes."""

    user: str
    shows: str = ""

    def __str__(self) -> str:
        return f"{self.user or 'anonymous'} with {self.shows or 'no'} token"


PEOPLE = [Person(user, shows) for user, shows in product(("", "alice", "bob"), ("", "a good", "an expired", "a revoked"))]

PLAIN_RULES = ("user", "owner")
CHANNELS = [Channel(f"{sub}-{other}:{name}", sub, other, OWNERS[name]) for sub, other, name in product(SUBSCRIBE_RULES, OTHER_RULES, NAMES)]
CHANNELS += [Channel(name, *PLAIN_RULES, PLAIN_OWNERS[name]) for name in NAMES]


def in_table(rule: str, user: str, channel: Channel) -> bool:
    role = "anonymous" if not user else "owner" if user == channel.owner else "user"
    return role in (ADMITS_PRIVATE if channel.private else ADMITS)[rule]


def expected_subscribe(person: Person, channel: Channel) -> int:
    """Source: docs/reference/settings.md, and docs/reference/errors-and-close-codes.md for tokens: invalid 103, expired 109. A good one opens what anybody may follow at all."""
    if person.shows == "an expired":
        return EXPIRED
    if person.shows == "a revoked":
        return DENIED
    if person.shows == "a good" and channel.subscribe != "nobody":
        return OK
    return OK if in_table(channel.subscribe, person.user, channel) else DENIED


def expected_other(person: Person, channel: Channel, subscribed: bool) -> int:
    """Of publish, history and presence on a connection."""
    if channel.other == "subscriber":
        return OK if subscribed else DENIED
    if channel.other == "token":
        return OK if subscribed and person.shows == "a good" else DENIED
    return OK if in_table(channel.other, person.user, channel) else DENIED


def expected_http(person: Person, channel: Channel) -> int:
    """Of GET /history, where ``subscriber`` are the users whom the subscribe rule admits."""
    if person.shows in ("an expired", "a revoked") or channel.other == "subscriber":
        return expected_subscribe(person, channel)
    if channel.other == "token":
        return OK if person.shows == "a good" else DENIED
    return OK if in_table(channel.other, person.user, channel) else DENIED


def rules_of_all() -> str:
    def table(head: str, sub: str, other: str) -> str:
        return f'[{head}]\nsubscribe = "{sub}"\npublish = "{other}"\nhistory = "{other}"\npresence_for = "{other}"\n'

    spaces = [table(f"namespaces.{sub}-{other}", sub, other) for sub, other in product(SUBSCRIBE_RULES, OTHER_RULES)]
    own = 'subscribe = "nobody"\npublish = "subscriber"\npersonal = true\n'
    return table("channels", *PLAIN_RULES) + "".join(spaces) + f"[namespaces.own]\n{own}[limits]\nchannels_per_client = 1000\n"


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    gateway = start_gateway_once(rules_of_all())
    for name in ("conn", "sub"):
        assert gateway.api("revoke", token_id=f"revoked {name}") == {"result": {}}
    return gateway


def shown(person: Person, channel: str) -> dict[str, str]:
    match person.shows:
        case "a good":
            return {"token": made(person.user, channel=channel)}
        case "an expired":
            return {"token": made(person.user, seconds=-10, channel=channel)}
        case "a revoked":
            return {"token": made(person.user, channel=channel, jti="revoked sub")}
    return {}


async def outcomes(wire: Wire, commands: list[dict[str, Any]]) -> list[int]:
    """The codes of the answers, 0 for a result, in the order of the commands; pushes are passed over."""
    codes: dict[int, int] = {}
    for start in range(0, len(commands), 100):
        part = commands[start : start + 100]
        await wire.send(*[{"id": start + number, **command} for number, command in enumerate(part, 1)])
        while len(codes) < start + len(part):
            answer = await wire.next()
            if "id" in answer:
                codes[answer["id"]] = answer.get("error", {}).get("code", OK)
    return [codes[number] for number in range(1, len(commands) + 1)]


ACTIONS = ("publish", "history", "presence", "presence_stats")


def requests(channels: list[Channel]) -> list[dict[str, Any]]:
    extra: dict[str, Any] = {"publish": {"data": 1}, "history": {"limit": 1}}
    return [{action: {"channel": channel.full} | extra.get(action, {})} for channel, action in product(channels, ACTIONS)]


def differences(expected: dict[Any, int], found: dict[Any, int]) -> list[str]:
    return [f"{key}: {found[key]}, not {code}" for key, code in expected.items() if found[key] != code]


@pytest.mark.parametrize("person", PEOPLE, ids=str)
async def test_on_a_connection_each_rule_admits_its_users_before_and_after_subscribing(gateway: RunningGateway, person: Person) -> None:
    async with client(gateway, token=made(person.user) if person.user else "") as wire:
        expected: dict[Any, int] = {}
        found: dict[Any, int] = {}
        codes = await outcomes(wire, requests(CHANNELS))
        for (channel, action), code in zip(product(CHANNELS, ACTIONS), codes, strict=True):
            expected[channel.full, action, "before"] = expected_other(person, channel, False)
            found[channel.full, action, "before"] = code
        codes = await outcomes(wire, [{"subscribe": {"channel": channel.full} | shown(person, channel.full)} for channel in CHANNELS])
        for channel, code in zip(CHANNELS, codes, strict=True):
            expected[channel.full, "subscribe"], found[channel.full, "subscribe"] = expected_subscribe(person, channel), code
        codes = await outcomes(wire, requests(CHANNELS))
        for (channel, action), code in zip(product(CHANNELS, ACTIONS), codes, strict=True):
            subscribed = expected_subscribe(person, channel) == OK
            expected[channel.full, action, "after"] = expected_other(person, channel, subscribed)
            found[channel.full, action, "after"] = code
    assert len(expected) == len(CHANNELS) * 9
    assert not differences(expected, found)


async def test_a_client_that_unsubscribed_is_no_subscriber(gateway: RunningGateway) -> None:
    channels = [channel for channel in CHANNELS if channel.other in ("subscriber", "token") and channel.subscribe != "nobody"]
    person = Person("bob", "a good")
    async with client(gateway, "bob") as wire:
        assert set(
            await outcomes(wire, [{"subscribe": {"channel": channel.full} | shown(person, channel.full)} for channel in channels])
        ) == {OK}
        assert set(await outcomes(wire, requests(channels))) == {OK}
        assert set(await outcomes(wire, [{"unsubscribe": {"channel": channel.full}} for channel in channels])) == {OK}
        assert set(await outcomes(wire, requests(channels))) == {DENIED}


# The bearers of connection tokens, at the other edges.


def bearers() -> dict[str, tuple[str, str, int]]:
    """Who → user, token, and the code that the token itself is refused with."""
    return {
        "nobody": ("", "", OK),
        "anonymous by token": ("", made(""), OK),
        "alice": ("alice", made("alice"), OK),
        "bob": ("bob", made("bob"), OK),
        "expired": ("alice", made("alice", seconds=-10), EXPIRED),
        "revoked": ("alice", made("alice", jti="revoked conn"), INVALID),
        "subscription token": ("alice", made("alice", channel="anyone-anyone:general"), INVALID),
        "foreign": ("alice", made("alice", secret="another secret, also long enough for HS256"), INVALID),
    }


BEARERS = tuple(bearers())


@pytest.mark.parametrize("who", BEARERS)
async def test_over_http_history_is_given_to_the_users_its_rule_admits(gateway: RunningGateway, who: str) -> None:
    user, token, refused = bearers()[who]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    expected, found = {}, {}
    async with await Socket.open(gateway) as raw:
        for channel in CHANNELS:
            status, _, body = await raw.request("GET", f"/history?{urlencode({'channel': channel.full, 'limit': 1})}", headers)
            code = OK if status == 200 else json.loads(body)["error"]["code"]
            assert status == {OK: 200, DENIED: 403, EXPIRED: 401, INVALID: 401}[code]
            assert status == 200 or b"publications" not in body
            expected[channel.full], found[channel.full] = refused or expected_http(Person(user), channel), code
        status, _, body = await raw.request("GET", "/history?channel=nowhere:1", headers)
        assert (status, json.loads(body)["error"]["code"]) == (404, UNKNOWN)
    assert not differences(expected, found)


@pytest.mark.parametrize("person", [person for person in PEOPLE if person.shows], ids=str)
async def test_over_http_a_subscription_token_opens_what_it_opens_on_a_connection(gateway: RunningGateway, person: Person) -> None:
    headers = {"Authorization": f"Bearer {made(person.user)}"} if person.user else {}
    expected, found = {}, {}
    async with await Socket.open(gateway) as raw:
        for channel in CHANNELS:
            query = {"channel": channel.full, "limit": 1, "subscription_token": shown(person, channel.full)["token"]}
            status, _, body = await raw.request("GET", f"/history?{urlencode(query)}", headers)
            expected[channel.full] = expected_http(person, channel)
            found[channel.full] = OK if status == 200 else json.loads(body)["error"]["code"]
            assert status == {OK: 200, DENIED: 403, EXPIRED: 401}[found[channel.full]]
    assert not differences(expected, found)


async def streamed(gateway: RunningGateway, token: str, *channels: str, tickets: Sequence[str] = ()) -> int:
    """0 for a stream that opens, else the code it was refused with. ``tickets`` are subscription tokens."""
    async with stream(gateway, *channels, token=token, subscription_token=tickets) as events:
        assert events.status == 200
        event = await events.next()
        assert event.name == ("refused" if "code" in event.data else "connected")
        return event.data.get("code", OK)


@pytest.mark.parametrize("who", BEARERS)
async def test_an_event_stream_opens_for_the_users_the_subscribe_rule_admits(gateway: RunningGateway, who: str) -> None:
    user, token, refused = bearers()[who]
    channels = [channel for channel in CHANNELS if channel.other == "nobody" or channel.full in NAMES]
    expected = {channel.full: refused or (OK if in_table(channel.subscribe, user, channel) else DENIED) for channel in channels}
    found = await asyncio.gather(*[streamed(gateway, token, channel.full) for channel in channels])
    assert not differences(expected, dict(zip(expected, found, strict=True)))
    open_one = "anyone-nobody:general"
    together = await asyncio.gather(*[streamed(gateway, token, open_one, channel.full) for channel in channels if channel.full != open_one])
    del expected[open_one]
    assert together == list(expected.values()), "one channel that is not allowed refuses the whole stream"


@pytest.mark.parametrize("person", [person for person in PEOPLE if person.shows], ids=str)
async def test_a_subscription_token_opens_a_stream_of_any_channel_that_is_not_closed(gateway: RunningGateway, person: Person) -> None:
    token = made(person.user) if person.user else ""
    channels = [channel for channel in CHANNELS if channel.other == "nobody" or channel.full in NAMES]
    expected = {channel.full: expected_subscribe(person, channel) for channel in channels}
    found = [await streamed(gateway, token, channel.full, tickets=[shown(person, channel.full)["token"]]) for channel in channels]
    assert not differences(expected, dict(zip(expected, found, strict=True)))


@pytest.mark.parametrize(
    ("user", "claims", "code"),
    [
        ("bob", {}, OK),
        ("alice", {}, INVALID),
        ("", {}, INVALID),
        ("bob", {"channel": "token-nobody:other"}, INVALID),
        ("bob", {"channel": None}, DENIED),
        ("bob", {"nbf": 2**32}, EXPIRED),
    ],
    ids=["good", "another user's", "the anonymous user's", "another channel's", "no subscription token", "not yet valid"],
)
async def test_simple_clients_show_a_subscription_token_of_their_own_for_that_channel(
    gateway: RunningGateway, user: str, claims: dict[str, Any], code: int
) -> None:
    ticket = made(user, **{"channel": "token-token:general"} | claims)
    assert await streamed(gateway, made("bob"), "token-token:general", tickets=[ticket]) == code
    query = urlencode({"channel": "token-token:general", "limit": 1, "subscription_token": ticket})
    async with await Socket.open(gateway) as raw:
        status, _, body = await raw.request("GET", f"/history?{query}", {"Authorization": f"Bearer {made('bob')}"})
        assert (OK if status == 200 else json.loads(body)["error"]["code"]) == code


@pytest.mark.parametrize("who", BEARERS)
async def test_a_connection_is_refused_for_its_token_alone(gateway: RunningGateway, who: str) -> None:
    _, token, refused = bearers()[who]
    async with opened(gateway) as wire:
        commands = [{"id": 1, "connect": {"token": token}}, {"id": 2, "subscribe": {"channel": "anyone-anyone:general"}}]
        await wire.send(*commands)
        if refused == OK:
            assert "connect" in await wire.next() and "subscribe" in await wire.next()
        else:
            code, _ = await wire.ended()
            assert code == (INVALID if refused == INVALID else 3000)
            assert wire.rest == ([{"id": 1, "error": {"code": 109, "message": "token expired"}}] if refused == EXPIRED else [])


# Channels that nobody configured, and those of one's own.


@pytest.mark.parametrize("user", ["", "alice"])
async def test_an_unknown_namespace_is_an_unknown_channel_for_everybody(gateway: RunningGateway, user: str) -> None:
    token = made(user) if user else ""
    async with client(gateway, token=token) as wire:
        for name in ("nowhere:1", "nowhere:alice", "nowhere:#alice", ":alice", "anyone-anyone2:1"):
            commands = [{action: {"channel": name, "data": 1}} for action in (*ACTIONS, "subscribe")]
            commands.append({"subscribe": {"channel": name, "token": made(user, channel=name)}})
            assert await outcomes(wire, commands) == [UNKNOWN] * 6
    async with await Socket.open(gateway) as raw:
        for path in ("sse", "history"):
            status, _, _ = await raw.request("GET", f"/{path}?channel=nowhere:1", {"Authorization": f"Bearer {made('alice')}"})
            assert status == {"sse": 400, "history": 404}[path]


async def test_every_user_is_subscribed_to_their_own_channels_and_to_no_others(gateway: RunningGateway) -> None:
    async with client(gateway, "alice") as alice, client(gateway, "bob") as bob, client(gateway, token="") as anonymous:
        assert set(alice.connected["subs"]) == {"own:alice", "notifications:alice"}
        assert set(bob.connected["subs"]) == {"own:bob", "notifications:bob"}
        assert "subs" not in anonymous.connected
        for wire, user in ((alice, "alice"), (bob, "bob"), (anonymous, "")):
            for owner in ("alice", "bob", "", "#alice", "#bob", "x#alice"):
                subscribed, owns = owner == user != "", user != "" and owner.rpartition("#")[2] == user
                own, notifications = f"own:{owner}", f"notifications:{owner}"
                commands = [{"publish": {"channel": name, "data": 1}} for name in (own, notifications)]
                commands += [{"history": {"channel": name}} for name in (own, notifications)]
                # What a namespace does not say itself is said by [channels]: there, all but subscribing is for the owner.
                expected = [OK if subscribed else DENIED, *[OK if owns else DENIED] * 3]
                assert await outcomes(wire, commands) == expected, (user, owner)
                if not subscribed:
                    commands = [{"subscribe": {"channel": name}} for name in (own, notifications)]
                    assert await outcomes(wire, commands) == [DENIED, OK if owns else DENIED], (user, owner)


@pytest.mark.parametrize("user", ["#alice", "x#alice", "alice#", "a:b", "nobody:alice", " ", "\u0130"])
async def test_no_user_id_makes_its_bearer_somebody_else(gateway: RunningGateway, user: str) -> None:
    async with client(gateway, user) as wire:
        for channel in wire.connected.get("subs", {}):
            assert channel.partition(":")[2] == user and "#" not in channel
        channels = [
            channel
            for channel in CHANNELS
            if channel.subscribe in ("owner", "user") and channel.owner == "alice" and channel.full != "alice"
        ]
        for channel in channels:
            if channel.subscribe == "owner" or channel.private:
                assert await wire.error("subscribe", channel=channel.full) == DENIED, channel


# What was missed is for those who may follow now.


def test_what_is_open_in_other_channels_opens_no_inbox() -> None:
    open_to_all = dict.fromkeys(("subscribe", "publish", "history", "presence_for"), "anyone")
    rules, ann = Config(channels=open_to_all).rules("notifications:bob"), Identity("ann")
    subscribed = may_subscribe(rules, ann, "notifications:bob")
    for audience in (rules.publish, rules.history, rules.presence_for):
        assert not admits(audience, ann, "notifications:bob", subscribed=subscribed)
        assert admits(audience, Identity("bob"), "notifications:bob")
    own = Config(channels=open_to_all, namespaces={"notifications": {"publish": "user"}}).rules("notifications:bob")
    assert admits(own.publish, ann, "notifications:bob"), "what the namespace itself sets still counts"


async def test_a_position_opens_no_channel(gateway: RunningGateway) -> None:
    """All users ask for everything since the beginning; those that are not admitted get nothing of it."""
    channels = [channel for channel in CHANNELS if channel.other == "nobody"]
    epochs = {channel.full: gateway.publish(channel.full, "secret")["epoch"] for channel in channels}
    async with AsyncExitStack() as stack:
        for user in ("", "alice", "bob"):
            wire = await stack.enter_async_context(client(gateway, token=made(user) if user else ""))
            for channel in channels:
                answer = await wire.ask("subscribe", channel=channel.full, recover=True, epoch=epochs[channel.full], offset=0)
                if in_table(channel.subscribe, user, channel):
                    assert answer["subscribe"]["publications"][-1]["data"] == "secret"
                else:
                    assert answer["error"]["code"] == DENIED and "secret" not in json.dumps(answer)


async def test_a_client_that_comes_back_goes_on_with_what_a_service_subscribed_it_to_where_it_may(gateway: RunningGateway) -> None:
    """SDKs name the server-side subscriptions that they had, and count those that connect does not bring as ended."""
    channels = [channel.full for channel in CHANNELS if channel.other == "nobody"]
    admitted = {channel.full for channel in CHANNELS if channel.other == "nobody" and in_table(channel.subscribe, "bob", channel)}
    assert 0 < len(admitted) < len(channels)
    async with client(gateway, token=made("bob")) as wire:
        own = set(wire.connected["subs"])
        for name in channels:
            gateway.api("subscribe", user="bob", channel=name)
        begun = {push["channel"]: push["subscribe"] for push in [(await wire.next())["push"] for _ in set(channels) - own]}
    positions = {name: {"recover": True, "epoch": sub["epoch"], "offset": sub.get("offset", 0)} for name, sub in begun.items()}
    for name in channels:
        gateway.publish(name, "missed")
    async with opened(gateway) as wire:
        result = await wire.result("connect", token=made("bob"), subs=positions | {"nowhere:1": {}, "": {}, "a{b": {}})
        assert set(result["subs"]) == own | admitted
        assert all(result["subs"][name]["publications"][-1]["data"] == "missed" for name in admitted & set(begun))


async def test_a_client_that_recovers_with_a_revoked_subscription_token_gets_nothing(gateway: RunningGateway) -> None:
    channel = "token-subscriber:recovery"
    token = made("bob", channel=channel, jti="ticket to revoke")
    async with client(gateway, "bob") as wire:
        top = await wire.result("subscribe", channel=channel, token=token)
    gateway.publish(channel, "secret")
    since = {"recover": True, "epoch": top["epoch"], "offset": top.get("offset", 0)}
    async with client(gateway, "bob") as wire:
        result = await wire.result("subscribe", channel=channel, token=token, **since)
        # Its announcement may still be on its way to this process: then it comes live, right after the reply.
        missed = result.get("publications") or [await wire.publication()]
        assert [pub["data"] for pub in missed] == ["secret"]
    gateway.api("revoke", token_id="ticket to revoke")
    async with client(gateway, "bob") as wire:
        for shows in ({"token": token}, {}):
            assert await wire.error("subscribe", channel=channel, **since, **shows) == DENIED
        assert await wire.error("history", channel=channel, limit=10) == DENIED
        result = await wire.result("subscribe", channel=channel, token=made("bob", channel=channel), **since)
        assert len(result["publications"]) == 1, "another token is another right"


async def test_a_subscription_ends_when_its_token_is_revoked(gateway: RunningGateway) -> None:
    channel = "token-subscriber:live"
    async with client(gateway, "bob") as wire:
        await wire.result("subscribe", channel=channel, token=made("bob", channel=channel, jti="live ticket"))
        gateway.api("revoke", token_id="live ticket")
        async with client(gateway, "bob") as other:  # the revocation is known by now
            assert await other.error("subscribe", channel=channel, token=made("bob", channel=channel, jti="live ticket")) == DENIED
        gateway.publish(channel, "secret")
        assert "unsubscribe" in (await wire.next())["push"]


async def test_a_client_that_reconnects_with_a_revoked_token_gets_nothing(gateway: RunningGateway) -> None:
    token = made("carol", jti="login to revoke", channels=["nobody-nobody:club"])
    async with client(gateway, token=token) as wire:
        positions = {
            name: {"recover": True, "epoch": sub["epoch"], "offset": sub.get("offset", 0)} for name, sub in wire.connected["subs"].items()
        }
        assert set(positions) == {"own:carol", "notifications:carol", "nobody-nobody:club"}
        gateway.api("revoke", token_id="login to revoke")
        assert (await wire.ended())[0] == INVALID
    for name in positions:
        gateway.publish(name, "secret")
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": token, "subs": positions}})
        assert await wire.ended() == (INVALID, "invalid token") and wire.rest == []
    async with opened(gateway) as wire:
        result = await wire.result("connect", token=made("dave"), subs=positions)
        assert set(result["subs"]) == {"own:dave", "notifications:dave"}
    assert await streamed(gateway, token, "own:carol") == INVALID


async def test_after_a_restart_the_rules_of_now_decide_over_what_was_missed(start_gateway: Start) -> None:
    before = start_gateway('[namespaces.club]\nsubscribe = "user"\n[namespaces.hall]\nsubscribe = "owner"\n')
    async with client(before, "bob", subscribe="club:1") as wire:
        assert await wire.error("subscribe", channel="hall:1") == DENIED
    epoch = before.publish("club:1", "secret")["epoch"]
    before.publish("hall:1", "open now")
    before.stop()
    after = start_gateway('[namespaces.club]\nsubscribe = "owner"\n[namespaces.hall]\nsubscribe = "user"\n', beside=before)
    assert after.api("history", channel="club:1", limit=1)["result"]["epoch"] == epoch, "it is the same history"
    async with client(after, "bob") as wire:
        assert await wire.error("subscribe", channel="club:1", recover=True, epoch=epoch, offset=0) == DENIED
        result = await wire.result("subscribe", channel="hall:1", recover=True, offset=0)
        assert [pub["data"] for pub in result["publications"]] == ["open now"]
    async with await Socket.open(after) as raw:
        token = made("bob")
        await raw.send(f"GET /sse?channel=club:1&last_event_id={epoch}:0&token={token} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        body = await raw.reader.readuntil(b"0\r\n\r\n")
        assert b"refused" in body and b"103" in body and b"secret" not in body
    async with await Socket.open(after) as raw:
        status, _, body = await raw.request("GET", f"/history?channel=club:1&since={epoch}:0", {"Authorization": f"Bearer {token}"})
        assert status == 403 and b"secret" not in body
