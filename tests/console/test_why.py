"""Why?: whether a user was given a publication, and what is known about it. The gateway records lifecycle events; ``unrecorded`` does not."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import valkey

from gateway.work import Reader

from ..kit.channels import new_channel
from ..kit.clients import client, connected_socket, opened, stream
from ..kit.gateways import RULES, RunningGateway, Start, launch
from ..kit.operators import WITH_CONSOLE, Operator, log_in
from ..kit.publishing import publish_many
from ..kit.valkeys import OwnValkey
from ..kit.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE = "chat"
SETTINGS = f"{WITH_CONSOLE}pong_seconds = 60\n"
MORE = """
[namespaces.tagged]
tags_filter = true
[namespaces.mine]
personal = true
subscribe = "owner"
[limits]
connections_per_user = 4
"""


class Asker:
    """An operator of one gateway, who asks why."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.operator: Operator = log_in(gateway)

    async def why(self, user: str, channel: str, offset: int, epoch: str = "") -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self.operator.call("why", user=user, channel=channel, offset=offset, epoch=epoch))

    async def verdict(self, user: str, channel: str, offset: int, epoch: str = "") -> str:
        return (await self.why(user, channel, offset, epoch))["verdict"]

    async def publish(self, channel: str, count: int = 1, **options: Any) -> int:
        """Returns the offset of the last one."""
        for number in range(count):
            result = await self.gateway.ask("publish", channel=channel, data=number, **options)
        return result["offset"]

    async def until(self, verdict: str, user: str, channel: str, offset: int, epoch: str = "") -> dict[str, Any]:
        """The answer once the verdict is this one: what was written takes a moment to leave."""
        last: dict[str, Any] = {}

        async def ask() -> bool:
            last.update(await self.why(user, channel, offset, epoch))
            return last["verdict"] == verdict

        await eventually(ask, f"the verdict {verdict}")
        return last


@pytest.fixture(scope="module")
def recorded(start_gateway_once: Start, valkey_url: str) -> Asker:
    """Its lifecycle events began before all that the tests publish."""
    gateway = start_gateway_once(f"events = true\n{SETTINGS}{RULES}{MORE}")
    with valkey.from_url(valkey_url) as store:
        store.xadd(f"{gateway.prefix}:events", {"event": "connected", "user": "another", "client": "c", "process": "p", "ms": 1})
    return Asker(gateway)


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Asker]:
    """With a prefix of its own, so that it knows nothing of the other one's."""
    folder, own = tmp_path_factory.mktemp("unrecorded"), f"w{secrets.token_hex(6)}"
    gateway = launch(folder, "gateway", f"{SETTINGS}{RULES}{MORE}", valkey_url=valkey_url, prefix=own)
    yield Asker(gateway)
    gateway.stop()


def texts(answer: dict[str, Any], kind: str) -> list[str]:
    return [finding["text"] for finding in answer["findings"] if finding["kind"] == kind]


def the(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    """The only finding of its kind."""
    found = [finding for finding in answer["findings"] if finding["kind"] == kind]
    assert len(found) == 1, answer
    return found[0]


# The publication.


async def test_what_was_never_published_was_not_delivered(unrecorded: Asker, channel: str) -> None:
    await unrecorded.publish(channel, 2)
    answer = await unrecorded.why("u1", channel, 3)
    assert answer["verdict"] == "not delivered"
    assert texts(answer, "publication") == [f"there is no publication {channel} 3: the newest has the offset 2"]


async def test_what_history_has_trimmed_is_said_with_its_setting(recorded: Asker, unrecorded: Asker) -> None:
    """Where events go back to before the epoch began, they go back to before the publication, whose own time is not known any more."""
    channel = new_channel("short")
    for asker, expected in ((recorded, "not delivered"), (unrecorded, "unknown")):
        await asker.publish(channel, 7)
        answer = await asker.why("u1", channel, 1)
        assert answer["verdict"] == expected
    found = the(answer, "publication")
    assert "was published, and history does not hold it any more" in found["text"] and found["ok"] is None
    assert found["setting"] == 'namespaces.short.history_size = 5, namespaces.short.history_ttl = "300s"'


async def test_a_client_that_was_there_was_given_what_is_trimmed_now(recorded: Asker) -> None:
    channel = new_channel("short")
    async with client(recorded.gateway, "t1", subscribe=channel) as wire:
        await recorded.publish(channel, 7)
        await wire.publications(7)
        await recorded.until("delivered", "t1", channel, 1)


async def test_a_publication_of_an_epoch_that_is_over_is_known_from_events_alone(recorded: Asker, unrecorded: Asker, channel: str) -> None:
    for asker, expected in ((recorded, "delivered"), (unrecorded, "unknown")):
        async with client(asker.gateway, "e1", subscribe=channel) as wire:
            await asker.publish(channel)
            await wire.publication()
        epoch = asker.gateway.epoch(channel)
        answer = await asker.until(expected, "e1", channel, 1, epoch)
        answer = await asker.why("e1", channel, 1, "anotherepoch")
        assert answer["verdict"] == "unknown"
        assert (
            f"would be of the epoch anotherepoch, and the history is in another life now, at {epoch}:1" in texts(answer, "publication")[0]
        )


async def test_an_ephemeral_publication_and_a_channel_without_history_cannot_be_known(recorded: Asker, channel: str) -> None:
    answer = await recorded.why("u1", channel, 0)
    assert answer["verdict"] == "unknown" and "an ephemeral publication has no offset" in texts(answer, "publication")[0]
    forgetful = new_channel("forgetful")
    async with client(recorded.gateway, "f1", subscribe=forgetful):
        answer = await recorded.why("f1", forgetful, 1)
    assert answer["verdict"] == "unknown" and the(answer, "publication")["setting"] == "namespaces.forgetful.history_size = 100"
    assert "is subscribed to the channel now: live" in texts(answer, "subscription")[0]


# The present.


async def test_a_live_subscription_proves_a_delivery(unrecorded: Asker, channel: str) -> None:
    async with client(unrecorded.gateway, "l1", subscribe=channel) as wire:
        await unrecorded.publish(channel, 3)
        await wire.publications(3)
        answer = await unrecorded.until("delivered", "l1", channel, 2)
        found = the(answer, "subscription")
        assert found["text"] == f"client {found['client']} (websocket) was written every publication from 1 to 3" and found["ok"] is True
        assert found["client"] == wire.connected["client"] and found["at_ms"] > 1.7e12


async def test_who_subscribed_later_without_recovery_did_not_get_it_unless_another_connection_did(
    recorded: Asker, unrecorded: Asker, channel: str
) -> None:
    for asker, expected in ((recorded, "not delivered"), (unrecorded, "unknown")):
        await asker.publish(channel, 2)
        async with client(asker.gateway, "l2", subscribe=channel):
            answer = await asker.until(expected, "l2", channel, 2)
            assert "subscribed later, at offset 2, and did not recover what was before it" in the(answer, "subscription")["text"]
        past = the(await asker.why("l2", channel, 2), "past") if asker is unrecorded else None
        assert past is None or (past["setting"] == "events = true" and past["ok"] is None)


async def test_who_recovered_it_got_it(unrecorded: Asker, channel: str) -> None:
    await unrecorded.publish(channel, 4)
    async with client(unrecorded.gateway, "r1") as wire:
        await wire.result("subscribe", channel=channel, recover=True, epoch=unrecorded.gateway.epoch(channel), offset=2)
        answer = await unrecorded.until("delivered", "r1", channel, 3)
        assert the(answer, "subscription")["text"].endswith("was written every publication from 3 to 4; it recovered from there")
        before = await unrecorded.why("r1", channel, 2)
        assert before["verdict"] == "unknown"
        assert "came back with the position 2, which is not before the publication" in the(before, "subscription")["text"]


async def test_a_gap_is_named(recorded: Asker) -> None:
    channel = new_channel("short")
    await recorded.publish(channel, 9)
    async with client(recorded.gateway, "g1") as wire:
        await wire.result("subscribe", channel=channel, recover=True, epoch=recorded.gateway.epoch(channel), offset=1)
        answer = await recorded.why("g1", channel, 8)
        assert (
            "went on at offset 9 after a gap: history did not hold any more what it had missed, and the gap was announced to it"
            in the(answer, "subscription")["text"]
        )
    answer = await recorded.until("not delivered", "g1", channel, 8)
    assert the(answer, "gap")["text"].endswith("the gap was announced to it, and it went on at offset 9")


async def test_a_slow_client_is_behind(unrecorded: Asker) -> None:
    channel = new_channel("endless")
    async with await connected_socket(unrecorded.gateway, channel, user="s1", small=True):
        await asyncio.to_thread(publish_many, unrecorded.gateway, channel, ["x" * 60000] * 100)
        answer = await unrecorded.why("s1", channel, 100)
        assert answer["verdict"] == "unknown"
        text = the(answer, "subscription")["text"]
        assert "has not been given it yet: it is behind at offset" in text and "its socket is full" in text


async def test_bytes_that_wait_are_a_doubt(unrecorded: Asker) -> None:
    channel = new_channel("endless")
    async with await connected_socket(unrecorded.gateway, channel, user="w1", small=True):
        await asyncio.to_thread(publish_many, unrecorded.gateway, channel, ["x" * 60000] * 100)
        text = the(await unrecorded.why("w1", channel, 100), "subscription")["text"]
        reached = int(text.partition("behind at offset ")[2].partition(",")[0])
        answer = await unrecorded.why("w1", channel, reached)
    assert answer["verdict"] == "unknown" and "whether this one is among them is not known" in the(answer, "subscription")["text"]


async def test_a_filter_leaves_out_what_it_does_not_admit(unrecorded: Asker) -> None:
    channel = new_channel("tagged")
    async with client(unrecorded.gateway, "f2") as wire:
        await wire.result("subscribe", channel=channel, tf={"key": "lang", "cmp": "eq", "val": "de"})
        await unrecorded.publish(channel, tags={"lang": "en"})
        await unrecorded.publish(channel, tags={"lang": "de"})
        await wire.publication()
        assert "does not admit the tags" in the(await unrecorded.why("f2", channel, 1), "filter")["text"]
        await unrecorded.until("delivered", "f2", channel, 2)


async def test_a_connected_user_who_is_not_subscribed_did_not_get_it(recorded: Asker, channel: str) -> None:
    async with client(recorded.gateway, "n1"):
        await recorded.publish(channel)
        answer = await recorded.until("not delivered", "n1", channel, 1)
        assert the(answer, "connection")["text"].endswith("(websocket) is connected, and not subscribed to the channel")
        assert the(answer, "permission")["ok"] is True


async def test_event_streams_and_subscriptions_of_the_servers_side_are_looked_at_too(unrecorded: Asker, channel: str) -> None:
    async with stream(unrecorded.gateway, channel, user="v1") as opened, client(unrecorded.gateway, "v2") as wire:
        await opened.next()
        await unrecorded.gateway.ask("subscribe", user="v2", channel=channel)
        await wire.next()
        await unrecorded.publish(channel)
        await opened.next()
        assert "(sse) was written" in the(await unrecorded.until("delivered", "v1", channel, 1), "subscription")["text"]
        assert "subscribed from the server's side" in the(await unrecorded.until("delivered", "v2", channel, 1), "subscription")["text"]


async def test_an_event_stream_that_went_on_after_a_gap_is_shown_with_where_it_went_on(
    unrecorded: Asker, store: valkey.Valkey, channel: str
) -> None:
    async with stream(unrecorded.gateway, channel, user="v3") as opened:
        await opened.next()
        await unrecorded.publish(channel, 2)
        await opened.many(2)
        store.delete(f"{unrecorded.gateway.prefix}:{{{channel}}}:meta")
        await unrecorded.publish(channel)  # the history begins anew, and where its first publication is seen there is a hole
        assert (await opened.next()).name == "gap"
        answer = await unrecorded.why("v3", channel, 1)
        assert answer["verdict"] == "unknown"
        assert the(answer, "subscription")["text"].partition(" (sse) ")[2].startswith("went on at offset 1 after a gap")
        await unrecorded.publish(channel)
        await opened.next()
        await unrecorded.until("delivered", "v3", channel, 2)


async def test_a_personal_channel_is_subscribed_by_itself(unrecorded: Asker) -> None:
    async with client(unrecorded.gateway, "p1"):
        await unrecorded.publish("mine:p1")
        answer = await unrecorded.until("delivered", "p1", "mine:p1", 1)
        assert the(answer, "permission")["setting"] == "namespaces.mine.personal"


async def test_as_many_connections_as_one_may_have_are_named(unrecorded: Asker, channel: str) -> None:
    await unrecorded.publish(channel)
    async with (
        client(unrecorded.gateway, "m1"),
        client(unrecorded.gateway, "m1"),
        client(unrecorded.gateway, "m1"),
        client(unrecorded.gateway, "m1"),
    ):
        found = the(await unrecorded.why("m1", channel, 1), "limit")
    assert found["setting"] == "limits.connections_per_user = 4" and "a further one is refused with 3504" in found["text"]


# What the user may.


@pytest.mark.parametrize(
    "name, by",
    [
        ("sealed:1", 'namespaces.sealed.subscribe = "nobody": no client may'),
        ("own:somebody", "the channel belongs to user 'somebody', and the client is user 'u2'; a subscription token"),
        ("ticket:1", 'namespaces.ticket.subscribe = "token": a client needs a subscription token'),
    ],
)
async def test_a_user_whom_the_rules_never_let_in_did_not_get_it(recorded: Asker, unrecorded: Asker, name: str, by: str) -> None:
    for asker, expected in ((recorded, "not delivered"), (unrecorded, "unknown")):
        await asker.publish(name)
        answer = await asker.until(expected, "u2", name, 1)
        found = the(answer, "permission")
        assert found["ok"] is False and by in found["text"] and found["setting"] == f"namespaces.{name.partition(':')[0]}.subscribe"


async def test_revoked_tokens_are_named(recorded: Asker, channel: str) -> None:
    async with client(recorded.gateway, "rv", subscribe=channel) as wire:
        await recorded.gateway.ask("revoke", user="rv", issued_before=2e9)
        assert (await wire.ended())[0] == 3500
    await recorded.publish(channel)
    answer = await recorded.until("not delivered", "rv", channel, 1)
    assert the(answer, "token")["ok"] is False and "were revoked" in the(answer, "token")["text"]
    assert "was away: it was subscribed until its connection ended with 3500 invalid token" in texts(answer, "past")[0]


# The past.


async def test_who_got_it_and_left_got_it(recorded: Asker, unrecorded: Asker, channel: str) -> None:
    for asker, expected in ((recorded, "delivered"), (unrecorded, "unknown")):
        async with client(asker.gateway, "a1", subscribe=channel) as wire:
            await asker.publish(channel, 2)
            await wire.publications(2)
        answer = await asker.until(expected, "a1", channel, 2)
        assert the(answer, "connection")["text"] == "the user has no connection now"
        if asker is recorded:
            assert "was written every publication from 1 to 2, until its connection ended with 3000" in the(answer, "past")["text"]


async def test_who_was_away_did_not_get_it(recorded: Asker, channel: str) -> None:
    async with client(recorded.gateway, "a2", subscribe=channel) as wire:
        await recorded.publish(channel)
        await wire.publication()
        await wire.result("unsubscribe", channel=channel)
        await asyncio.sleep(0.005)  # both times are in milliseconds: within one, it is not known which came first
        await recorded.publish(channel)
        answer = await recorded.until("not delivered", "a2", channel, 2)
        assert "was away: it was subscribed until it was unsubscribed, at offset 1, before the publication" in texts(answer, "past")[0]


async def test_what_a_socket_had_not_taken_when_it_ended_is_a_doubt(recorded: Asker) -> None:
    channel = new_channel("endless")
    async with await connected_socket(recorded.gateway, channel, user="b1", small=True):
        await asyncio.to_thread(publish_many, recorded.gateway, channel, ["x" * 60000] * 100)
        text = the(await recorded.why("b1", channel, 100), "subscription")["text"]
        reached = int(text.partition("behind at offset ")[2].partition(",")[0])
        await recorded.gateway.ask("disconnect", user="b1")
    answer = await recorded.why("b1", channel, reached)
    assert answer["verdict"] == "unknown"
    assert "bytes of that were not confirmed by its machine then: whether this one is among them is not known" in texts(answer, "past")[0]
    assert await recorded.verdict("b1", channel, reached + 1) == "not delivered"


async def test_what_a_client_had_not_taken_when_it_cut_its_connection_is_a_doubt(recorded: Asker) -> None:
    """A lost connection has forgotten what waited in the process; the system still knows what it had not sent."""
    channel = new_channel("endless")
    raw = await connected_socket(recorded.gateway, channel, user="b2", small=True)
    await asyncio.to_thread(publish_many, recorded.gateway, channel, ["x" * 60000] * 100)
    text = the(await recorded.why("b2", channel, 100), "subscription")["text"]
    reached = int(text.partition("behind at offset ")[2].partition(",")[0])
    raw.writer.transport.abort()

    async def gone() -> bool:
        return "the user has no connection now" in texts(await recorded.why("b2", channel, reached), "connection")

    await eventually(gone, "the end of the connection")
    answer = await recorded.why("b2", channel, reached)
    assert answer["verdict"] == "unknown" and "were not confirmed by its machine then" in texts(answer, "past")[0]


async def test_what_an_event_stream_was_given_before_a_gap_is_recorded(recorded: Asker) -> None:
    channel = new_channel("short")
    async with stream(recorded.gateway, channel, user="b3", small=True) as opened:
        await opened.next()
        await recorded.publish(channel, 2)
        await opened.many(2)
        await asyncio.to_thread(publish_many, recorded.gateway, channel, ["x" * 60000] * 100)
        await opened.until(lambda stream: b"event: gap" in stream.body)
        answer = await recorded.until("delivered", "b3", channel, 2)
        assert texts(answer, "past")[0].endswith(", until its stream went on after a gap")


async def test_what_was_to_be_in_a_reply_to_connect_that_was_not_sent_is_not_given(
    own: OwnValkey, start_gateway: Start, channel: str
) -> None:
    """One of its channels began, and the other one waited for Valkey when the client left."""
    asker = Asker(start_gateway(f"events = true\n{SETTINGS}{RULES}", valkey_url=own.url))
    own.client.xadd(f"{asker.gateway.prefix}:events", {"event": "connected", "user": "another", "client": "c", "ms": 1})
    async with client(asker.gateway, "other", subscribe=channel) as other:
        await asker.publish(channel, 2)
        await other.publications(2)
        since = {channel: {"recover": True, "epoch": asker.gateway.epoch(channel), "offset": 1}}
        with own.frozen():  # until the gateway has closed the connection, too
            async with opened(asker.gateway) as wire:
                token = asker.gateway.token("early", channels=[channel, new_channel("chat")])
                await wire.send({"id": 1, "connect": {"token": token, "subs": since}})
                for _ in range(20):  # each pong is a turn of the gateway's loop, in which the connect goes on
                    await (await wire.connection.ping())
        answer = await asker.until("not delivered", "early", channel, 2)
        assert texts(answer, "past")[0].endswith("had been given the publications up to offset 1 only, when its connection ended")


@pytest.mark.parametrize(
    "fields, verdict, text",
    [
        ({"after": 0, "offset": 1}, "delivered", "was written every publication from 1 to 1, until it was unsubscribed"),
        ({"after": 0, "offset": 1, "filtered": 1}, "unknown", "it had a tags filter, which is not recorded"),
        (
            {"after": 0, "offset": 1, "closed": 1},
            "unknown",
            "its connection ended with 3012 no pong: what it did not read of that is not known",
        ),
        (
            {"client": "another", "after": 0, "offset": 1, "closed": 1},
            "unknown",
            "until its connection ended, and with which code is not recorded",
        ),
        ({"after": 1, "offset": 1}, "not delivered", "was subscribed later, from offset 1 on, until it was unsubscribed"),
        ({"epoch": "another", "after": 0, "offset": 1}, "not delivered", "no connection whose end they record was given it"),
        ({"epoch": ""}, "unknown", "in a process of an older version"),
    ],
)
async def test_what_an_event_proves_and_what_it_leaves_open(
    recorded: Asker, store: valkey.Valkey, channel: str, user: str, fields: dict[str, Any], verdict: str, text: str
) -> None:
    await recorded.publish(channel)
    common = {"user": user, "client": user, "process": "p", "ms": 1}
    epoch = {"epoch": recorded.gateway.epoch(channel)} if "offset" in fields else {}
    key = f"{recorded.gateway.prefix}:events"
    store.xadd(key, {**common, "event": "disconnected", "code": 3012, "reason": "no pong"})
    store.xadd(key, {**common, "event": "unsubscribed", "channel": channel, **epoch, **fields})
    answer = await recorded.why(user, channel, 1)
    assert answer["verdict"] == verdict and any(text in found for found in texts(answer, "past")), answer


async def test_a_process_that_was_killed_leaves_a_doubt(start_gateway: Start, channel: str) -> None:
    toml = f"events = true\n{SETTINGS}{RULES}"
    asker, killed = Asker(start_gateway(toml)), start_gateway(toml)
    async with client(killed, "k1", subscribe=channel) as wire:
        await asker.publish(channel)
        await wire.publication()
        await asker.until("delivered", "k1", channel, 1)
        await asyncio.to_thread(killed.stop, signal.SIGKILL)
    answer = await asker.why("k1", channel, 1)
    assert answer["verdict"] == "unknown" and "1 of 2 processes did not answer" in the(answer, "process")["text"]
    assert any("its end is not recorded: its process was killed" in text for text in texts(answer, "past"))


# The inbox and durable readers.


async def test_the_inbox_says_whether_it_was_read(unrecorded: Asker, user: str) -> None:
    await unrecorded.gateway.ask("notify", user=user, data={"id": "n1"})
    await unrecorded.gateway.ask("notify", user=user, data={"id": "n2"})
    inbox = f"notifications:{user}"
    assert the(await unrecorded.why(user, inbox, 1), "inbox")["text"] == "the notification 'n1' is unread in the user's inbox"
    async with client(unrecorded.gateway, user) as wire:
        await wire.result("rpc", method="inbox.read", data={"ids": ["n1"]})
        found = the(await unrecorded.why(user, inbox, 1), "inbox")
        assert found["ok"] is True and "is marked as read" in found["text"]
        await unrecorded.gateway.ask("notify", user=user, data={"id": "n2", "more": 1})
        assert "which an update at offset 3 replaced, is unread" in the(await unrecorded.why(user, inbox, 2), "inbox")["text"]


async def test_durable_readers_say_what_became_of_it(unrecorded: Asker, channel: str, valkey_url: str) -> None:
    await unrecorded.publish(channel, 4)
    async with Reader(valkey_url, group="search", channels=[channel], prefix=unrecorded.gateway.prefix, unacknowledged=3) as reader:
        first, second, third = [await anext(reader) for _ in range(3)]
        await first.ack()
        await second.reject("it is too long")
        shown = [
            the(await unrecorded.why("u1", channel, offset), "reader")["text"].partition(" durable readers ")[2] for offset in (1, 2, 3)
        ]
        assert shown[0] == "has settled it: it is at offset 2"
        assert shown[1] == "made it a dead letter (deliveries: 1): it is too long"
        assert shown[2].startswith("was given it (deliveries: 1, the last ") and shown[2].endswith("and has not acknowledged it")
        listed = await asyncio.to_thread(lambda: unrecorded.operator.call("readers"))
        row = next(row for row in listed["readers"] if row["channel"] == channel)
        assert (row["group"], row["offset"], row["dead"], row["instances"]) == ("search", 2, 1, 1) and row["pending"] in (1, 2)
        assert json.dumps(third.data) == "2"
