"""The SDKs unchanged, while their gateway ends and comes back: they receive what they missed, once and in order."""

from __future__ import annotations

import asyncio
from typing import Any

import centrifuge
import pytest

from ..kit.gateways import RULES, RunningGateway, Start, shared_gateway
from ..kit.javascript import Node, SdkError
from ..kit.publishing import edits
from ..kit.sdks import Open, Told, subscribed
from ..kit.waiting import until

pytestmark = pytest.mark.usefixtures("npm")  # from the first test on, since it takes its time

gateway = shared_gateway(RULES)


def seen(told: Told) -> list[tuple[int, Any]]:
    return [(ctx.pub.offset, ctx.pub.data) for ctx in told.of("publication")]


# centrifuge-python.


async def test_python_replaces_an_expired_token_by_itself(gateway: RunningGateway, connect: Open) -> None:
    tokens = [gateway.token(seconds=-5), gateway.token(seconds=600)]
    asked: list[str] = []

    async def get_token() -> str:
        asked.append(tokens[len(asked)])
        return asked[-1]

    _, events = await connect(get_token=get_token)
    assert len(asked) == 2 and len(events.of("connected")) == 1


async def test_python_stays_away_after_an_invalid_token(connect: Open) -> None:
    _, events = await connect(token="garbage", ready=False)
    await until(lambda: events.codes("disconnected") == [3500], "a terminal disconnect")


async def test_python_recovers_what_it_missed_over_a_restart(start_gateway: Start, connect: Open) -> None:
    """A second gateway on another port publishes while the first is away."""
    first = start_gateway(RULES)
    client, events = await connect(at=first, token=first.token())
    _, told = await subscribed(client, "chat:restart")
    first.publish("chat:restart", 1)
    first.publish("notifications:u1", "p1")
    await until(lambda: len(seen(told)) == 1 and len(events.data) == 1, "live")
    beside = start_gateway(RULES)
    assert await asyncio.to_thread(first.stop) == 0
    for number in range(2, 52):
        beside.publish("chat:restart", number)
    beside.publish("notifications:u1", "p2")
    again = start_gateway(RULES, port=first.port)
    await until(lambda: len(seen(told)) == 51 and len(events.data) == 2, "what was missed")
    again.publish("chat:restart", 52)
    await until(lambda: len(seen(told)) == 52, "live again")
    assert seen(told) == [(number, number) for number in range(1, 53)]
    assert [(ctx.channel, ctx.pub.data) for ctx in events.of("publication")] == [("notifications:u1", "p1"), ("notifications:u1", "p2")]
    assert told.of("subscribed")[-1].was_recovering and told.of("subscribed")[-1].recovered
    assert len(events.of("connected")) == 2 and told.of("unsubscribed") == []


async def test_python_follows_a_document_by_its_changes(
    start_gateway: Start, connect: Open, edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[int] = []
    apply_delta = centrifuge.codecs.apply_delta
    monkeypatch.setattr(centrifuge.codecs, "apply_delta", lambda *texts: applied.append(1) or apply_delta(*texts))
    first, documents = start_gateway(RULES, edge=edge), edits(140)
    client, _ = await connect(at=first)
    _, told = await subscribed(client, "doc:python", delta=centrifuge.DeltaType.FOSSIL)
    for document in documents[:40]:
        first.publish("doc:python", document)
    first.publish("doc:python", {"not": "kept"}, skip_history=True)
    await told.until("publication", 41)
    beside = start_gateway(RULES)
    await asyncio.to_thread(first.stop)
    for document in documents[40:120]:
        beside.publish("doc:python", document)
    again = start_gateway(RULES, port=first.port, edge=edge)
    await told.until("publication", 121)
    for document in documents[120:]:
        again.publish("doc:python", document)
    await told.until("publication", 141)
    expected = list(enumerate(documents, 1))
    assert seen(told) == [*expected[:40], (0, {"not": "kept"}), *expected[40:]]
    assert told.of("subscribed")[-1].recovered and told.of("unsubscribed") == []
    assert len(applied) > 130


# centrifuge of npm.


def test_javascript_recovers_what_it_missed_over_a_restart(start_gateway: Start, node: Node) -> None:
    first = start_gateway(RULES)
    client = node.client(first, token=first.token("js"))
    client.call("connect")
    one, two = client.subscribed("chat:js"), client.subscribed("chat:js2")
    assert all(sub.told("subscribed")[0]["recoverable"] and not sub.told("subscribed")[0]["wasRecovering"] for sub in (one, two))
    client.call("publish", "chat:js", {"n": 1})
    first.publish("chat:js2", {"n": 1})
    first.publish("notifications:js", "p1")
    assert one.data(1) == two.data(1) == [{"n": 1}]
    client.until("publication")
    history = client.call("history", "chat:js", {"limit": 100})
    assert [publication["offset"] for publication in history["publications"]] == [1]
    assert client.call("rpc", "gateway.whoami", None)["data"]["user"] == "js"
    with pytest.raises(SdkError) as refused:
        client.call("publish", "posts:1", 1)
    assert refused.value.code == 103

    beside = start_gateway(RULES)
    assert first.stop() == 0
    for number in range(2, 402):  # more than the reference server recovers at all
        beside.publish("endless:x" if number % 2 else "chat:js2", {"n": number})
    for number in range(2, 52):
        beside.publish("chat:js", {"n": number})
    beside.publish("notifications:js", "p2")
    again = start_gateway(RULES, port=first.port)
    one.until("publication", 51)
    again.publish("chat:js", {"n": 52})
    assert [(each["offset"], each["data"]["n"]) for each in one.until("publication", 52)] == [(number, number) for number in range(1, 53)]
    assert one.until("subscribed", 2)[1]["recovered"] is True
    assert two.until("subscribed", 2)[1]["recovered"] is False, "its history has only 100 of the 200 that it missed"
    assert client.data(2) == ["p1", "p2"]
    assert not client.told("disconnected") + one.told("unsubscribed") + two.told("unsubscribed")
    assert len(client.told("connected")) == 2
    client.call("disconnect")


def test_javascript_follows_a_document_by_its_changes(start_gateway: Start, node: Node, edge: str) -> None:
    first, documents = start_gateway(RULES, edge=edge), edits(140)
    client = node.client(first, token=first.token("js"))
    client.call("connect")
    sub = client.subscribed("doc:js", delta="fossil")
    for document in documents[:40]:
        first.publish("doc:js", document)
    first.publish("doc:js", {"not": "kept"}, skip_history=True)
    sub.until("publication", 41)
    beside = start_gateway(RULES)
    first.stop()
    for document in documents[40:120]:
        beside.publish("doc:js", document)
    again = start_gateway(RULES, port=first.port, edge=edge)
    sub.until("publication", 121)
    for document in documents[120:]:
        again.publish("doc:js", document)
    expected = list(enumerate(documents, 1))
    received = [(each.get("offset", 0), each["data"]) for each in sub.until("publication", 141)]
    assert received == [*expected[:40], (0, {"not": "kept"}), *expected[40:]]
    assert [each["recovered"] for each in sub.until("subscribed", 2)] == [False, True]
    stats = sub.call("deltaStats")
    assert stats["numDeltaPayloads"] > 130 and stats["bytesReceived"] < stats["bytesDecoded"] / 3, stats
    client.call("disconnect")
