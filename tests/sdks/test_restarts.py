"""The SDKs unchanged, while their gateway ends and comes back: they receive what they missed, once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import centrifuge
import pytest

from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.javascript import Node, Script, SdkError
from ..kit.ports import free_port
from ..kit.publishing import edits
from ..kit.python_sdk import PythonSdk

pytestmark = pytest.mark.usefixtures("npm")  # from the first test on, since it takes its time


@pytest.fixture(params=["npm", "python"])
def sdk(request: pytest.FixtureRequest, node: Node, python_sdk: PythonSdk) -> Node:
    return node if request.param == "npm" else python_sdk


@pytest.fixture
def first(start_gateway: Start) -> RunningGateway:
    """The gateway that ends."""
    return start_gateway(RULES, port=free_port())


@pytest.fixture
def client(first: RunningGateway, sdk: Node) -> Iterator[Script]:
    """A connected client of it."""
    client = sdk.client(first, token=first.token("ann"))
    client.call("connect")
    yield client
    client.call("disconnect")


def test_an_sdk_stays_away_after_an_invalid_token(first: RunningGateway, sdk: Node) -> None:
    client = sdk.client(first, token="garbage")
    client.call("connect")
    assert client.codes("disconnected", 1) == [3500]


@pytest.mark.every_valkey
def test_an_sdk_recovers_what_it_missed_over_a_restart(start_gateway: Start, first: RunningGateway, client: Script) -> None:
    """A second gateway on another port publishes while the first is away."""
    one, two = client.subscribed("chat:1"), client.subscribed("chat:2")
    assert all(sub.told("subscribed")[0]["recoverable"] and not sub.told("subscribed")[0]["wasRecovering"] for sub in (one, two))
    one.call("publish", {"n": 1})
    first.publish("chat:2", {"n": 1})
    first.publish("notifications:ann", "p1")
    assert one.data(1) == two.data(1) == [{"n": 1}]
    client.until("publication")
    history = one.call("history", {"limit": 100})
    assert [publication["offset"] for publication in history["publications"]] == [1]
    assert client.call("rpc", "gateway.whoami", None)["data"]["user"] == "ann"
    with pytest.raises(SdkError) as refused:
        client.call("publish", "posts:1", 1)
    assert refused.value.code == 103

    beside = start_gateway(RULES)
    assert first.stop() == 0
    for number in range(2, 402):  # more than the reference server recovers at all
        beside.publish("endless:x" if number % 2 else "chat:2", {"n": number})
    for number in range(2, 52):
        beside.publish("chat:1", {"n": number})
    beside.publish("notifications:ann", "p2")
    again = start_gateway(RULES, port=first.port)
    one.until("publication", 51)
    again.publish("chat:1", {"n": 52})
    assert [(each["offset"], each["data"]["n"]) for each in one.until("publication", 52)] == [(number, number) for number in range(1, 53)]
    assert one.until("subscribed", 2)[1]["recovered"] is True
    assert two.until("subscribed", 2)[1]["recovered"] is False, "its history has only 100 of the 200 that it missed"
    assert client.data(2) == ["p1", "p2"]
    assert not client.told("disconnected") + one.told("unsubscribed") + two.told("unsubscribed")
    assert len(client.told("connected")) == 2


def test_an_sdk_follows_a_document_by_its_changes(start_gateway: Start, sdk: Node, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[int] = []
    apply_delta = centrifuge.codecs.apply_delta
    monkeypatch.setattr(centrifuge.codecs, "apply_delta", lambda *texts: applied.append(1) or apply_delta(*texts))
    first, documents = start_gateway(RULES, port=free_port(), edge=edge), edits(140)
    client = sdk.client(first, token=first.token())
    client.call("connect")
    sub = client.subscribed("doc:1", delta="fossil")
    publish_all(first, documents[:40])
    first.publish("doc:1", {"not": "kept"}, skip_history=True)
    sub.until("publication", 41)
    beside = start_gateway(RULES)
    first.stop()
    publish_all(beside, documents[40:120])
    again = start_gateway(RULES, port=first.port, edge=edge)
    sub.until("publication", 121)
    publish_all(again, documents[120:])
    expected = list(enumerate(documents, 1))
    received = [(each.get("offset", 0), each["data"]) for each in sub.until("publication", 141)]
    assert received == [*expected[:40], (0, {"not": "kept"}), *expected[40:]]
    assert [each["recovered"] for each in sub.until("subscribed", 2)] == [False, True] and not sub.told("unsubscribed")
    if isinstance(sdk, PythonSdk):
        assert len(applied) > 130
    else:
        stats = sub.call("deltaStats")
        assert stats["numDeltaPayloads"] > 130 and stats["bytesReceived"] < stats["bytesDecoded"] / 3, stats
    client.call("disconnect")


def publish_all(gateway: RunningGateway, documents: list[Any]) -> None:
    for document in documents:
        gateway.publish("doc:1", document)
