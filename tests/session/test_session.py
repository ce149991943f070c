"""A session by itself, in this process, on a real Valkey: what no client can time, moment by moment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from math import ceil
from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.edges.websocket_asgi import TEXT
from gateway.errors import Disconnect, TokenExpired, Unavailable
from gateway.publication import Position
from gateway.rules.identity import ServerSubscription
from gateway.session.admission import READ_AT_ONCE
from gateway.session.dispatch import BUSY_MOST, SLOT_COMMANDS, TOKEN_COST, TURN_MOST
from gateway.session.refusals import LOGGED_SECONDS, REFUSED_AT_ONCE
from gateway.session.session import REPLY_BYTES, REPLY_SECONDS, Session
from gateway.store.history import Page
from gateway.store.layout import publish_words

from ..kit.tokens import SECRET, ticket, token
from ..kit.turns import TurnCounter
from ..kit.waiting import until


class Client:
    """The outlet of a session, and all that was written to it. ``full``: the next write fills its socket."""

    wire = TEXT
    native_pings = False
    transport = "websocket"
    waiting_bytes = unconfirmed_bytes = 0
    place = None
    paused = False
    full = False
    waits_for_turn = False
    return_path: dict[str, bytes] = {}

    def __init__(self, gateway: Gateway) -> None:
        self.written: list[dict[str, Any]] = []
        self.closed_with = 0
        self.late: list[bytes] = []  # what was written to it after its end
        self.session = Session(gateway.node, self, gateway.node.hub.now())

    def write(self, text: bytes) -> None:
        if self.closed_with:
            self.late.append(text)
        self.written += [json.loads(line) for line in text.split(b"\n")]
        if self.full and not self.paused:
            self.paused = True
            self.session.fell_behind(self.session.node.hub.now())

    send = write

    def flush(self) -> None: ...

    def ping(self) -> None:
        self.write(b"{}")

    def cork(self) -> bool:
        return False

    def uncork(self) -> None: ...

    def hold_reading(self, hold: bool) -> None: ...

    def disconnect(self, code: int, reason: str) -> None:
        self.closed_with = code

    def send_commands(self, *commands: dict[str, Any]) -> None:
        self.session.receive(b"\n".join(json.dumps(command).encode() for command in commands))

    async def answered(self, id: int) -> dict[str, Any]:
        return (await until(lambda: [each for each in self.written if each.get("id") == id], f"an answer to {id}"))[0]

    def of(self, channel: str) -> list[str]:
        """The kinds of pushes of a channel."""
        pushes = [each["push"] for each in self.written if each.get("push", {}).get("channel") == channel]
        return [kind for push in pushes for kind in push if kind != "channel"]


@pytest.fixture
async def gateway(valkey_url: str, prefix: str) -> AsyncIterator[Gateway]:
    rules = {
        "ticket": {"subscribe": "token"},
        "chat": {},
        "room": {"publish": "subscriber"},
        "forgetful": {"history_size": 0},
        "plain": {"recover": False},
        "tagged": {"tags_filter": True},
        "unseen": {"presence": False},
        "lobby": {"join_leave": "asked"},
        "masked": {"join_leave": "asked", "presence_for": "nobody"},
    }
    gateway = Gateway(Config(prefix=prefix, tokens={"hmac_secret": SECRET}, namespaces=rules), valkey_url)
    await gateway.start()
    await until(lambda: gateway.link.proven, "the link is up")
    yield gateway
    await gateway.stop()


async def connected(gateway: Gateway, *channels: str) -> Client:
    client = Client(gateway)
    client.send_commands({"id": 1, "connect": {"token": token(seconds=None)}})
    assert "connect" in await client.answered(1)
    for number, channel in enumerate(channels, 2):
        client.send_commands({"id": number, "subscribe": {"channel": channel}})
        assert "subscribe" in await client.answered(number)
    return client


async def test_commands_about_a_channel_wait_for_the_reply_to_its_subscribe(gateway: Gateway) -> None:
    """The first client of a channel has a subscriber's rights at once, and receives what it publishes."""
    client = await connected(gateway)
    client.send_commands(
        {"id": 2, "subscribe": {"channel": "room:1"}},
        {"id": 3, "publish": {"channel": "room:1", "data": 1}},
        {"id": 4, "history": {"channel": "room:1", "limit": 9}},
        {"id": 5, "presence_stats": {"channel": "room:1"}},
        {"id": 6, "subscribe": {"channel": "ticket:1", "token": ticket("ticket:1", seconds=50)}},
        {"id": 7, "sub_refresh": {"channel": "ticket:1", "token": ticket("ticket:1", seconds=500)}},
    )
    assert (await client.answered(7))["sub_refresh"]["ttl"] > 400
    assert "publish" in await client.answered(3)
    assert (await client.answered(5))["presence_stats"] == {"num_clients": 1, "num_users": 1}
    await until(lambda: "pub" in client.of("room:1"), "its own publication")


async def test_commands_go_on_where_the_subscribe_that_they_waited_for_is_refused(gateway: Gateway) -> None:
    meta, *_ = gateway.node.history.layout.keys("room:2")
    await gateway.node.history.commands.call(b"SET", meta, b"of another program")
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": "room:2"}}, {"id": 3, "publish": {"channel": "room:2", "data": 1}})
    assert (await client.answered(3))["error"]["code"] == 103
    assert (await client.answered(2))["error"]["code"] == 100


@pytest.mark.parametrize("channel", ["forgetful:1", "plain:1"])
async def test_a_client_whose_channel_does_not_recover_any_more_learns_that_it_did_not(gateway: Gateway, channel: str) -> None:
    """It was given its position while the rules were others."""
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": channel, "recover": True, "epoch": "abc", "offset": 3, "flag": 2}})
    assert (await client.answered(2))["subscribe"] == {"was_recovering": True}


async def test_a_subscription_token_may_be_for_one_connection_alone(gateway: Gateway) -> None:
    own, other = await connected(gateway), await connected(gateway)
    shown = ticket("ticket:2", client=own.session.client)
    own.send_commands({"id": 2, "subscribe": {"channel": "ticket:2", "token": shown}})
    assert "subscribe" in await own.answered(2)
    own.send_commands({"id": 3, "sub_refresh": {"channel": "ticket:2", "token": shown}})
    assert "sub_refresh" in await own.answered(3)
    other.send_commands({"id": 2, "subscribe": {"channel": "ticket:2", "token": shown}})
    assert other.closed_with == 3500


async def test_a_subscription_whose_token_ends_before_it_begins_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long Valkey was away: what it then has to say is not for a token of long ago."""
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": "ticket:1", "token": ticket("ticket:1")}})
    now = time.time() + 3600 + 26
    monkeypatch.setattr(time, "time", lambda: now)
    client.session.tick(gateway.node.hub.now())
    assert client.written[-1] == {"id": 2, "error": {"code": 109, "message": "token expired"}}
    assert "ticket:1" not in client.session.subscriptions


async def test_a_client_receives_nothing_of_a_subscription_that_never_began(gateway: Gateway) -> None:
    client = await connected(gateway)
    client.session.add("chat:1", ServerSubscription(), None)
    client.session.remove("chat:1")
    assert "chat:1" not in client.session.subscriptions and not client.of("chat:1")


async def test_a_service_that_subscribes_a_client_again_moves_the_end_and_the_info(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backends of the reference server renew a subscription of theirs so; one of the client's own command is not theirs."""
    client = await connected(gateway, "chat:own")
    now = time.time()
    client.session.add("chat:1", ServerSubscription(expires_at=now + 60), None)
    await until(lambda: client.of("chat:1") == ["subscribe"], "it began")
    client.session.add("chat:1", ServerSubscription(info=b"2", expires_at=now + 600), None)
    client.session.add("chat:own", ServerSubscription(info=b"2", expires_at=now + 60), None)
    assert b'"chan_info":2' in client.session.subscriptions["chat:1"].info
    assert b"chan_info" not in client.session.subscriptions["chat:own"].info
    monkeypatch.setattr(time, "time", lambda: now + 100)
    client.session.tick(gateway.node.hub.now())
    assert set(client.session.subscriptions) == {"notifications:u1", "chat:own", "chat:1"} and client.of("chat:1") == ["subscribe"]
    monkeypatch.setattr(time, "time", lambda: now + 700)
    client.session.tick(gateway.node.hub.now())
    assert client.of("chat:1") == ["subscribe", "unsubscribe"] and "chat:own" in client.session.subscriptions


@pytest.mark.parametrize("channel, gets", [("lobby:1", True), ("masked:1", False)])
async def test_joins_and_leaves_are_for_those_who_may_see_who_is_there(gateway: Gateway, channel: str, gets: bool) -> None:
    """They show it as well, one client after another."""
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": channel, "join_leave": True}})
    assert "subscribe" in await client.answered(2)
    assert client.session.subscriptions[channel].wants_joins_and_leaves is gets


async def test_another_kind_of_subscription_is_not_taken_for_this_one(gateway: Gateway) -> None:
    """The reference server has maps and polls: a map's entry would go to all as a publication, and a map's client wait for its state."""
    client = await connected(gateway, "room:1")
    client.send_commands(
        {"id": 3, "subscribe": {"channel": "chat:1", "type": 1}},
        {"id": 4, "publish": {"channel": "room:1", "type": 1, "key": "k", "data": 1}},
        {"id": 5, "subscribe": {"channel": "chat:1", "type": 0}},
    )
    assert (await client.answered(3))["error"]["code"] == (await client.answered(4))["error"]["code"] == 108
    assert "subscribe" in await client.answered(5)


async def test_what_a_channel_does_not_have_is_not_available_to_anybody(gateway: Gateway) -> None:
    """It is no question of rights, which a page would ask for."""
    client = await connected(gateway)
    client.send_commands({"id": 2, "history": {"channel": "forgetful:1"}}, {"id": 3, "presence": {"channel": "unseen:1"}})
    assert (await client.answered(2))["error"]["code"] == (await client.answered(3))["error"]["code"] == 108


async def test_a_client_that_is_still_connecting_gets_the_channels_that_a_service_adds(gateway: Gateway) -> None:
    """A backend may order them at its user's login, which may be before Valkey has answered which positions the user's own channels have."""
    client = Client(gateway)
    client.send_commands({"id": 1, "connect": {"token": token()}})
    client.session.add("chat:1", ServerSubscription(), None)
    assert set((await client.answered(1))["connect"]["subs"]) == {"notifications:u1", "chat:1"}
    await gateway.node.history.publish("chat:1", publish_words(b"1"))
    await until(lambda: client.of("chat:1") == ["pub"], "it follows the channel")


@pytest.mark.parametrize("others", [[], ["chat:2"]], ids=["the only one", "one of two"])
@pytest.mark.parametrize("cause", ["a service takes it", "its time is over"])
async def test_a_client_that_is_still_connecting_does_not_keep_a_channel_that_ends(gateway: Gateway, others: list[str], cause: str) -> None:
    client = Client(gateway)
    client.send_commands({"id": 1, "connect": {"token": token(channels=others)}})
    if cause == "a service takes it":
        client.session.remove("notifications:u1")
    else:
        client.session.expired(client.session.subscriptions["notifications:u1"])
    assert list((await client.answered(1))["connect"].get("subs", ())) == others
    assert list(client.session.subscriptions) == others and not client.of("notifications:u1")


async def test_the_push_that_subscribes_a_client_from_a_position_names_where_catching_up_ends(gateway: Gateway) -> None:
    """The push has no field for publications: they follow it, and gateway.js marks them as missed up to this offset."""
    client = await connected(gateway)
    top = [await gateway.node.history.publish("chat:1", publish_words(b"1")) for _ in range(3)][-1]
    client.session.add("chat:1", ServerSubscription(), Position(top.epoch, 1))
    await until(lambda: client.of("chat:1") == ["subscribe", "pub", "pub"], "what was missed")
    (subscribed,) = [each["push"]["subscribe"] for each in client.written if "subscribe" in each.get("push", {})]
    assert (subscribed["recovered"], subscribed["offset"], subscribed["top"]) == (True, 1, 3)


async def test_what_a_refusal_lets_go_on_is_not_ended_for_what_was_before(gateway: Gateway) -> None:
    """Two tokens are revoked at once; the refusal of the first lets the client give the second channel up and take it again."""
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": "ticket:old", "token": ticket("ticket:old")}})
    await client.answered(2)
    again = {"channel": "ticket:old", "token": ticket("ticket:old", info="another")}
    client.send_commands(
        {"id": 3, "subscribe": {"channel": "ticket:new", "token": ticket("ticket:new")}},
        {"id": 4, "unsubscribe": {"channel": "ticket:new"}},
        {"id": 5, "unsubscribe": {"channel": "ticket:old"}},
        {"id": 6, "subscribe": again},
    )
    client.session.subscriptions = dict(reversed(client.session.subscriptions.items()))
    client.session.end_revoked(lambda grant: grant.info is None)
    assert [each["error"]["code"] for each in client.written if each.get("id") == 3] == [109]
    assert "subscribe" in await client.answered(6)
    assert not client.of("ticket:old"), "it follows the channel with a token that holds"


async def test_a_client_that_a_ping_ends_is_ended(gateway: Gateway) -> None:
    """The ping fills its socket, and it follows a channel that it could not be caught up in."""
    client = await connected(gateway, "forgetful:1")
    client.full = True
    now = gateway.node.hub.now() + 30
    assert client.session.tick(now) is None and client.closed_with == 3008 and not client.late


@pytest.mark.parametrize("error", [None, TokenExpired()], ids=["begun", "refused"])
async def test_a_reply_that_ends_the_client_is_the_last_thing_written_to_it(gateway: Gateway, error: Any) -> None:
    client = await connected(gateway, "forgetful:1")
    client.send_commands({"id": 3, "subscribe": {"channel": "chat:1"}}, {"id": 4, "unsubscribe": {"channel": "chat:1"}})
    client.full = True
    if error is not None:
        client.session.subscriptions["chat:1"].refuse(error)
    await until(lambda: client.closed_with, "it is closed")
    await asyncio.sleep(0)
    assert client.closed_with == 3008 and not client.late


async def test_what_a_client_missed_in_many_channels_follows_the_reply_to_connect_if_it_is_large(gateway: Gateway) -> None:
    """SDKs end a connection that brings a frame of more than 1 MiB, come back with the same positions, and would be sent the same again."""
    names = [f"chat:{number}" for number in range(8)]
    for number in range(3 * len(names)):
        await gateway.node.history.publish(names[number % len(names)], publish_words(json.dumps("x" * 60_000).encode()))
    client, since = Client(gateway), {"recover": True, "offset": 0}
    client.send_commands({"id": 1, "connect": {"token": token(channels=names), "subs": dict.fromkeys(names, since)}})
    answer = await client.answered(1)
    assert len(json.dumps(answer)) < 2**20
    late = [sub for sub in answer["connect"]["subs"].values() if "recovered" in sub and "publications" not in sub]
    assert late and all(sub["top"] == 3 for sub in late), "where catching up ends"

    def read() -> list[tuple[str, int]]:
        first = [(name, pub["offset"]) for name in names for pub in answer["connect"]["subs"][name].get("publications", ())]
        pushes = [each["push"] for each in client.written if "pub" in each.get("push", {})]
        return first + [(push["channel"], push["pub"]["offset"]) for push in pushes]

    await until(lambda: len(read()) == 3 * len(names), "all of them came")
    assert all([offset for name, offset in read() if name == each] == [1, 2, 3] for each in names)


SHORT, LONG = json.dumps("x" * 40_000).encode(), json.dumps("x" * 70_000).encode()


async def publish(gateway: Gateway, channel: str, *documents: bytes) -> None:
    for document in documents:
        await gateway.node.history.publish(channel, publish_words(document))


def came(client: Client, channel: str) -> list[int]:
    """The offsets of the publications that were pushed."""
    pushes = [each["push"] for each in client.written if each.get("push", {}).get("channel") == channel]
    return [push["pub"]["offset"] for push in pushes if "pub" in push]


@pytest.mark.parametrize(("documents", "inside"), [([SHORT, SHORT, SHORT], [1]), ([LONG, SHORT], [])], ids=["some", "none"])
@pytest.mark.parametrize("followed", [True, False], ids=["ring", "history"])
async def test_what_a_reply_does_not_take_in_time_over_a_slow_link_follows_it(
    gateway: Gateway, documents: list[bytes], inside: list[int], followed: bool
) -> None:
    """SDKs wait for a reply for 5 s, then connect again and ask for the same."""
    other = await connected(gateway, *["chat:1"] * followed)
    await publish(gateway, "chat:1", *documents)
    if followed:
        await until(lambda: len(came(other, "chat:1")) == len(documents), "the ring has them")
    client = await connected(gateway)
    client.send_commands({"id": 2, "subscribe": {"channel": "chat:1", "recover": True}})
    result = (await client.answered(2))["subscribe"]
    assert [pub["offset"] for pub in result.get("publications", ())] == inside and result["recovered"] and result["top"] == len(documents)
    await until(lambda: len(inside) + len(came(client, "chat:1")) == len(documents), "the others follow")
    assert inside + came(client, "chat:1") == list(range(1, len(documents) + 1))


async def test_the_replies_to_commands_of_one_message_come_before_what_follows_the_first_page(gateway: Gateway) -> None:
    names = ["chat:1", "chat:2"]
    other = await connected(gateway, *names)
    for name in names:
        await publish(gateway, name, *[SHORT] * 5)
    await until(lambda: all(len(came(other, name)) == 5 for name in names), "the rings have them")
    client = await connected(gateway)
    client.send_commands(*[{"id": number, "subscribe": {"channel": name, "recover": True}} for number, name in enumerate(names, 2)])
    await until(lambda: all(len(came(client, name)) == 4 for name in names), "all of them")
    assert [each.get("id") for each in client.written[1:3]] == [2, 3]


async def test_the_replies_to_many_subscribes_are_short_together(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"chat:{number}" for number in range(10)]
    for name in names:
        await publish(gateway, name, SHORT)
    client = await connected(gateway)

    async def inside(first: int, names: list[str]) -> int:
        """In how many of the replies the publication is."""
        client.send_commands(*[{"id": id, "subscribe": {"channel": name, "recover": True}} for id, name in enumerate(names, first)])
        results = [(await client.answered(id))["subscribe"] for id in range(first, first + len(names))]
        late = [name for name, result in zip(names, results, strict=True) if "publications" not in result]
        await until(lambda: all(came(client, name) == [1] for name in late), "the others follow")
        return len(names) - len(late)

    assert await inside(2, names[:9]) == ceil(REPLY_BYTES / len(SHORT))
    later = gateway.node.hub.now() + REPLY_SECONDS
    monkeypatch.setattr(gateway.node.hub, "now", lambda: later)
    assert await inside(20, names[9:]) == 1


async def test_a_command_is_answered_before_the_client_is_given_what_it_missed(gateway: Gateway) -> None:
    """Catching up may take longer than the 5 s for which SDKs wait for an answer."""
    client = await connected(gateway, "chat:1")
    client.full = True
    await publish(gateway, "chat:1", *[SHORT] * 20)
    await until(lambda: client.paused and gateway.node.hub.channel("chat:1").offset == 20, "it is behind")
    client.send_commands({"id": 7, "ping": {}})
    written = len(client.written)
    client.full, client.paused = False, False
    client.session.drained()
    assert client.written[written] == {"id": 7, "ping": {}}
    await until(lambda: came(client, "chat:1") == list(range(1, 21)), "all of them")


async def test_the_filters_of_one_client_are_bounded_together(gateway: Gateway) -> None:
    """A filter takes 25 times as much memory as its text, and a client may have one for each of its channels."""
    client, filter = await connected(gateway), {"key": "k", "cmp": "eq", "val": "x" * 50_000}
    for number in range(2, 9):
        client.send_commands({"id": number, "subscribe": {"channel": f"tagged:{number}", "tf": filter}})
    answers = [await client.answered(number) for number in range(2, 9)]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None] * 5 + [106] * 2
    client.send_commands({"id": 9, "unsubscribe": {"channel": "tagged:2"}})
    client.send_commands({"id": 10, "subscribe": {"channel": "tagged:9", "tf": filter}})
    assert "subscribe" in await client.answered(10)


async def test_pings_that_one_could_not_answer_are_answered_later(gateway: Gateway) -> None:
    """They were queued after what it was slow to read. It may not answer more often than it was asked."""
    client = await connected(gateway)
    client.paused = True
    now = gateway.node.hub.now()
    for seconds in (26, 52, 78):
        client.session.tick(now + seconds)
    pings = client.written.count({})
    assert pings
    client.paused = False
    client.session.drained()
    for _ in range(pings):
        client.session.receive(b"{}")
    assert not client.closed_with
    client.session.receive(b"{}")
    assert client.closed_with == 3501


async def test_a_client_has_time_for_its_pong_as_long_as_it_takes_what_was_sent_before_the_ping(gateway: Gateway) -> None:
    """The system holds megabytes for a client that catches up over a slow link, and its transport is not full."""
    client, enough = await connected(gateway), gateway.node.config.limits.waiting_bytes
    session = client.session
    session.ping(gateway.node.hub.now())
    for client.unconfirmed_bytes in (4 * enough, 3 * enough, 2 * enough):
        session.enforce(session.pong_by)
    with pytest.raises(Disconnect, match="3012"):
        session.enforce(session.pong_by)
    session.ping(gateway.node.hub.now())
    client.unconfirmed_bytes = enough
    with pytest.raises(Disconnect, match="3012"):
        session.enforce(session.pong_by)


async def test_a_client_whose_command_or_pong_waits_for_its_turn_is_not_late(gateway: Gateway) -> None:
    """Where thousands connect together, that takes longer than a client has time for its connect, and for a pong; after 3502 no SDK comes back."""
    client, now = Client(gateway), gateway.node.hub.now()
    client.waits_for_turn = True
    assert client.session.tick(now + 11) and not client.closed_with
    client.send_commands({"id": 1, "connect": {"token": token()}})
    assert "connect" in await client.answered(1)
    client.session.tick(now + 30)
    assert client.written[-1] == {}
    client.session.tick(now + 50)
    assert not client.closed_with
    client.waits_for_turn = False
    client.session.tick(now + 50)
    assert client.closed_with == 3012
    silent = Client(gateway)
    silent.session.tick(now + 11)
    assert silent.closed_with == 3502


# Many commands at once.


async def test_the_commands_of_one_message_are_handled_in_several_turns(gateway: Gateway) -> None:
    client = await connected(gateway)
    before = len(client.written)
    client.send_commands(*[{"id": number, "ping": {}} for number in range(2, 1002)])
    assert len(client.written) - before == TURN_MOST
    await asyncio.sleep(0)
    assert len(client.written) - before == 2 * TURN_MOST
    assert await client.answered(1001)
    assert [each["id"] for each in client.written[before:]] == list(range(2, 1002))


async def test_the_answers_of_a_later_turn_leave_together(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    client, steps = await connected(gateway), list[int]()
    monkeypatch.setattr(client, "cork", lambda: not steps.append(len(client.written)))
    monkeypatch.setattr(client, "uncork", lambda: steps.append(len(client.written)))
    before = len(client.written)
    client.send_commands(*[{"id": number, "ping": {}} for number in range(2, 2 * TURN_MOST + 2)])
    await client.answered(2 * TURN_MOST + 1)
    assert [step - before for step in steps] == [TURN_MOST, 2 * TURN_MOST]


async def test_fewer_commands_with_tokens_are_handled_in_a_turn(gateway: Gateway) -> None:
    """Of tokens that are signed with a curve, 128 that are wrong held the loop for 13 to 100 ms, and those of 32 clients for seconds."""
    client = await connected(gateway)
    before, wrong = len(client.written), ticket("ticket:1") + "x"
    client.send_commands(*[{"id": number, "subscribe": {"channel": "ticket:1", "token": wrong}} for number in range(2, 66)])
    assert len(client.written) - before == TURN_MOST / TOKEN_COST
    await asyncio.sleep(0)
    assert len(client.written) - before == 2 * TURN_MOST / TOKEN_COST
    assert (await client.answered(65))["error"]["code"] == 103


async def test_a_client_whose_commands_wait_for_their_turn_has_no_other_for_each_answer(gateway: Gateway) -> None:
    """Sixteen answers that Valkey sent together had sixteen times as many commands handled in one turn."""
    client, send = await connected(gateway, "chat:1"), Client.send
    with TurnCounter() as turns:
        client.send = lambda text: (turns.note(), send(client, text))  # type: ignore[method-assign]
        counts = [{"id": number, "presence_stats": {"channel": "chat:1"}} for number in range(3, 3 + BUSY_MOST)]
        pings = [{"id": number, "ping": {}} for number in range(3 + BUSY_MOST, 3 + BUSY_MOST + 20 * TURN_MOST)]
        client.send_commands(*counts, *pings)
        await client.answered(pings[-1]["id"])
    assert turns.most <= TURN_MOST + BUSY_MOST


async def test_of_many_clients_that_are_answered_together_some_go_on_at_a_time(gateway: Gateway) -> None:
    """Valkey's answers to hundreds of clients may come in one read."""
    clients, send, count = [await connected(gateway, "chat:1") for _ in range(3 * READ_AT_ONCE)], Client.send, SLOT_COMMANDS - 2
    with TurnCounter() as turns:
        for client in clients:
            pings = [{"id": number, "ping": {}} for number in range(4, 4 + count)]
            client.session.busy = BUSY_MOST - 1
            client.send_commands({"id": 3, "presence_stats": {"channel": "chat:1"}}, *pings)
        for client in clients:
            client.send = lambda text, client=client: (turns.note(), send(client, text))  # type: ignore[misc]
        for client in clients:
            await client.answered(3 + count)
    assert turns.most <= READ_AT_ONCE * count + len(clients)


async def test_of_many_clients_with_many_commands_some_have_a_turn_at_a_time(gateway: Gateway) -> None:
    clients = [await connected(gateway) for _ in range(10)]
    for client in clients:
        client.send_commands(*[{"id": number, "ping": {}} for number in range(2, 2 * TURN_MOST + 2)])
    await asyncio.sleep(0)
    some = ceil(READ_AT_ONCE / (1 + TURN_MOST / SLOT_COMMANDS))
    answered = [sum("ping" in each for each in client.written) for client in clients]
    assert answered == [2 * TURN_MOST] * some + [TURN_MOST] * (10 - some)
    for client in clients:
        await client.answered(2 * TURN_MOST + 1)


ASKED = {"history": {"channel": "chat:1", "limit": 10}, "presence": {"channel": "chat:1"}, "rpc": {"method": "inbox.list"}}


@pytest.mark.parametrize("method", ASKED)
async def test_one_large_answer_waits_for_a_client_that_does_not_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    client = await connected(gateway, "chat:1")
    asked = []

    async def read(*words: Any, **options: Any) -> Any:
        asked.append(words)
        return Page(Position("e", 0), 0, []) if method == "history" else b"{}"

    monkeypatch.setattr(gateway.node.history, "after", read)
    monkeypatch.setattr(gateway.node.presence, "clients", read)
    monkeypatch.setattr(gateway.node.methods, "call", read)
    client.full = True
    client.send_commands(*[{"id": number, method: ASKED[method]} for number in range(3, 3 + 2 * BUSY_MOST)])
    await client.answered(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(asked) == 1
    client.full = client.paused = False
    client.session.drained()
    await client.answered(2 + 2 * BUSY_MOST)
    assert len(asked) == 2 * BUSY_MOST, "none of them is lost"


async def test_answers_that_wait_for_their_turn_are_forgotten_with_the_client(gateway: Gateway) -> None:
    client = await connected(gateway, "chat:1")
    client.send_commands(*[{"id": number, "history": {"channel": "chat:1"}} for number in range(3, 9)])
    client.session.closed()
    await until(lambda: not client.session.busy or not client.session.reading, "the read under way has ended")
    assert not client.session.reads and not client.late


REFUSED = {"channel": "chat:1", "data": 1}


async def test_refusals_do_not_cost_a_line_of_the_log_each(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.session")
    client = await connected(gateway)
    client.send_commands(*[{"id": number, "publish": REFUSED} for number in range(2, 102)])
    assert (await client.answered(101))["error"]["code"] == 103
    lines = [text for text in caplog.messages if "publish refused with 103" in text]
    assert len(lines) == LOGGED_SECONDS
    client.session.closed()
    assert f"client {client.session.client} is gone (and 90 refusals before, which were not logged)" in caplog.messages


async def test_what_a_client_wrote_makes_no_long_line_of_the_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.session")
    client, long = await connected(gateway), "x" * 60_000
    client.send_commands({"id": 2, "subscribe": {"channel": "tagged:1", "tf": {"op": long}}})
    client.send_commands({"id": 3, "rpc": {"method": "inbox.list", "data": {long: 1}}})
    client.send_commands({"id": 4, "rpc": {"method": long}}, {"id": 5, "publish": {"channel": long, "data": 1}})
    assert [(await client.answered(number))["error"]["code"] for number in range(2, 6)] == [107, 107, 104, 107]
    assert len(caplog.messages) == 4 and max(map(len, caplog.messages)) < 500


async def test_a_client_that_is_refused_on_and_on_is_closed(gateway: Gateway) -> None:
    client = await connected(gateway)
    most = REFUSED_AT_ONCE + gateway.node.config.limits.channels_per_client
    client.send_commands(*[{"id": number, "publish": REFUSED} for number in range(2, most + 200)])
    await until(lambda: client.closed_with, "it is closed", 5)
    refused = [each for each in client.written if "error" in each]
    assert client.closed_with == 3013 and most <= len(refused) < most + 100 and not client.late


async def test_what_fails_on_our_side_is_not_the_clients_refusal(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.session.refusals.REFUSED_AT_ONCE", -127)  # with 128 channels: one
    monkeypatch.setattr(gateway.node.history, "publish", AsyncMock(side_effect=Unavailable("away")))
    monkeypatch.setitem(gateway.node.config.namespaces, "chat", gateway.node.config.rules("chat:1").model_copy(update={"publish": "user"}))
    client = await connected(gateway)
    client.send_commands(*[{"id": number, "publish": REFUSED} for number in range(2, 12)])
    assert (await client.answered(11))["error"]["code"] == 100 and not client.closed_with
