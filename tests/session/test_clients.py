"""SDKs that people already use, unchanged: they subscribe, are live, and after a restart get what they missed, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import centrifuge
import pytest

from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.javascript import Told, scripted
from ..kit.publishing import edits
from ..kit.waiting import until

pytestmark = pytest.mark.usefixtures("npm")  # from the first test on, since it takes its time


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES)


# centrifuge-python.


class Followed(centrifuge.SubscriptionEventHandler):
    """What a subscription saw, as (offset, data), and how it was (re)subscribed."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Any]] = []
        self.subscribed: list[Any] = []
        self.unsubscribed: list[int] = []

    async def on_publication(self, ctx: Any) -> None:
        self.seen.append((ctx.pub.offset, ctx.pub.data))

    async def on_subscribed(self, ctx: Any) -> None:
        self.subscribed.append(ctx)

    async def on_unsubscribed(self, ctx: Any) -> None:
        self.unsubscribed.append(ctx.code)


class Connection(centrifuge.ClientEventHandler):
    def __init__(self) -> None:
        self.connected = 0
        self.disconnected: list[int] = []
        self.personal: list[tuple[str, Any]] = []

    async def on_connected(self, ctx: Any) -> None:
        self.connected += 1

    async def on_disconnected(self, ctx: Any) -> None:
        self.disconnected.append(ctx.code)

    async def on_publication(self, ctx: Any) -> None:
        self.personal.append((ctx.channel, ctx.pub.data))


Sdk = Any


@pytest.fixture
async def sdk() -> AsyncIterator[Sdk]:
    opened: list[centrifuge.Client] = []

    def open_client(gateway: RunningGateway, user: str = "u1", **options: Any) -> tuple[centrifuge.Client, Connection]:
        events = Connection()
        if "get_token" not in options:
            options.setdefault("token", gateway.token(user))
        client = centrifuge.Client(gateway.websocket_url, events=events, max_reconnect_delay=0.5, proxy=None, **options)
        opened.append(client)
        return client, events

    yield open_client
    for client in opened:
        await client.disconnect()
    # The SDK closes its transports in tasks of its own.
    if closing := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(closing, timeout=5)


async def test_centrifuge_python_subscribes_publishes_and_reads(gateway: RunningGateway, sdk: Sdk) -> None:
    client, events = sdk(gateway)
    await client.connect()
    await client.ready(5)
    followed = Followed()
    subscription = client.new_subscription("chat:python", followed)
    await subscription.subscribe()
    await subscription.ready(5)
    assert followed.subscribed[0].recoverable and followed.subscribed[0].positioned
    await subscription.publish({"from": "python"})
    await until(lambda: followed.seen == [(1, {"from": "python"})], "its own publication")
    gateway.publish("notifications:u1", "for you")
    await until(lambda: events.personal == [("notifications:u1", "for you")], "the personal channel")
    page = await subscription.history(limit=10)
    assert [(p.offset, p.data) for p in page.publications] == [(1, {"from": "python"})]
    assert (await client.rpc("gateway.whoami", None)).data["user"] == "u1"
    await subscription.unsubscribe()
    await until(lambda: followed.unsubscribed == [0], "unsubscribed")


async def test_centrifuge_python_sees_errors_as_its_own(gateway: RunningGateway, sdk: Sdk) -> None:
    client, _ = sdk(gateway)
    await client.connect()
    await client.ready(5)
    for call, code in (
        (client.rpc("levitate", None), 104),
        (client.publish("posts:1", 1), 103),
        (client.publish("nowhere:1", 1), 102),
        (client.history("sealed:1"), 103),
    ):
        with pytest.raises(centrifuge.ReplyError) as caught:
            await call
        assert caught.value.code == code
    refused = Followed()
    await client.new_subscription("sealed:1", refused).subscribe()
    await until(lambda: refused.unsubscribed == [103], "told why")


async def test_centrifuge_python_refreshes_an_expired_token_by_itself(gateway: RunningGateway, sdk: Sdk) -> None:
    tokens = [gateway.token(seconds=-5), gateway.token(seconds=600)]
    asked: list[str] = []

    async def get_token() -> str:
        asked.append(tokens[len(asked)])
        return asked[-1]

    client, events = sdk(gateway, get_token=get_token)
    await client.connect()
    await client.ready(5)
    assert len(asked) == 2 and events.connected == 1


async def test_centrifuge_python_stays_away_after_an_invalid_token(gateway: RunningGateway, sdk: Sdk) -> None:
    client, events = sdk(gateway, token="garbage")
    await client.connect()
    await until(lambda: events.disconnected == [3500], "a terminal disconnect")


async def test_centrifuge_python_recovers_what_it_missed_over_a_restart(start_gateway: Start, sdk: Sdk) -> None:
    first = start_gateway(RULES)
    client, events = sdk(first)
    await client.connect()
    followed = Followed()
    subscription = client.new_subscription("chat:restart", followed)
    await subscription.subscribe()
    await subscription.ready(5)
    first.publish("chat:restart", 1)
    first.publish("notifications:u1", "p1")
    await until(lambda: len(followed.seen) == 1 and len(events.personal) == 1, "live")
    # A second gateway on another port publishes while the first is away.
    beside = start_gateway(RULES)
    assert await asyncio.to_thread(first.stop) == 0
    for number in range(2, 52):
        beside.publish("chat:restart", number)
    beside.publish("notifications:u1", "p2")
    again = start_gateway(RULES, port=first.port)
    await until(lambda: len(followed.seen) == 51 and len(events.personal) == 2, "what was missed")
    again.publish("chat:restart", 52)
    await until(lambda: len(followed.seen) == 52, "live again")
    assert followed.seen == [(number, number) for number in range(1, 53)]
    assert events.personal == [("notifications:u1", "p1"), ("notifications:u1", "p2")]
    assert followed.subscribed[-1].was_recovering and followed.subscribed[-1].recovered
    assert events.connected == 2 and followed.unsubscribed == []


async def test_centrifuge_python_recovers_when_the_gateway_was_killed(start_gateway: Start, sdk: Sdk) -> None:
    first = start_gateway(RULES)
    client, _ = sdk(first)
    await client.connect()
    followed = Followed()
    await client.new_subscription("chat:killed", followed).subscribe()
    await until(lambda: followed.subscribed, "subscribed")
    first.publish("chat:killed", 1)
    await until(lambda: followed.seen, "live")
    first.process.kill()
    first.process.wait()
    again = start_gateway(RULES, port=first.port)
    again.publish("chat:killed", 2)
    await until(lambda: followed.seen == [(1, 1), (2, 2)], "the one that was missed, or came live")


async def test_centrifuge_python_follows_a_document_by_its_changes(
    start_gateway: Start, sdk: Sdk, edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[int] = []
    apply_delta = centrifuge.codecs.apply_delta
    monkeypatch.setattr(centrifuge.codecs, "apply_delta", lambda *texts: applied.append(1) or apply_delta(*texts))
    first = start_gateway(RULES, edge=edge)
    client, _ = sdk(first)
    await client.connect()
    followed = Followed()
    await client.new_subscription("doc:python", followed, delta=centrifuge.DeltaType.FOSSIL).subscribe()
    await until(lambda: followed.subscribed, "subscribed")
    documents = edits(140)
    for document in documents[:40]:
        first.publish("doc:python", document)
    first.publish("doc:python", {"not": "kept"}, skip_history=True)
    await until(lambda: len(followed.seen) == 41, "live")
    beside = start_gateway(RULES)
    await asyncio.to_thread(first.stop)
    for document in documents[40:120]:
        beside.publish("doc:python", document)
    again = start_gateway(RULES, port=first.port, edge=edge)
    await until(lambda: len(followed.seen) == 121, "what was missed")
    for document in documents[120:]:
        again.publish("doc:python", document)
    await until(lambda: len(followed.seen) == 141, "live again")
    expected = list(enumerate(documents, 1))
    assert followed.seen == [*expected[:40], (0, {"not": "kept"}), *expected[40:]]
    assert followed.subscribed[-1].recovered and followed.unsubscribed == []
    assert len(applied) > 130


# centrifuge of npm.

SCRIPT = """
const { Centrifuge } = require('centrifuge');
const WebSocket = require('ws');
const [url, token, ...channels] = process.argv.slice(1);
const say = (kind, fields) => console.log(JSON.stringify({ kind, ...fields }));
const client = new Centrifuge(url, { websocket: WebSocket, token, minReconnectDelay: 50, maxReconnectDelay: 300 });
client.on('connected', (ctx) => say('connected', { transport: ctx.transport }));
client.on('disconnected', (ctx) => say('disconnected', { code: ctx.code }));
client.on('error', () => {});
client.on('publication', (ctx) => say('personal', { channel: ctx.channel, data: ctx.data }));
for (const channel of channels) {
  const sub = client.newSubscription(channel, channel.startsWith('doc:') ? { delta: 'fossil' } : {});
  sub.on('subscribed', (ctx) => say('subscribed', { channel, wasRecovering: ctx.wasRecovering, recovered: ctx.recovered, recoverable: ctx.recoverable }));
  sub.on('unsubscribed', (ctx) => say('unsubscribed', { channel, code: ctx.code }));
  sub.on('publication', (ctx) => say('publication', { channel, offset: ctx.offset, data: ctx.data }));
  sub.subscribe();
}
client.connect();
process.stdin.on('data', async (line) => {
  const order = JSON.parse(line);
  try {
    if (order.publish) { await client.publish(order.publish, order.data); say('published', {}); }
    if (order.history) { const h = await client.history(order.history, { limit: 100 }); say('history', { offsets: h.publications.map((p) => p.offset) }); }
    if (order.rpc) { const r = await client.rpc(order.rpc, null); say('rpc', { data: r.data }); }
    if (order.stats) { say('stats', client.getSubscription(order.stats).deltaStats()); }
  } catch (error) { say('error', { code: error.code }); }
});
process.stdin.on('end', () => process.exit(0));
"""


def following(npm: Future[Path], gateway: RunningGateway, *channels: str) -> AbstractAsyncContextManager[Told]:
    return scripted(npm, SCRIPT, gateway.websocket_url, gateway.token("js"), *channels)


async def test_centrifuge_js_recovers_what_it_missed_over_a_restart(start_gateway: Start, npm: Future[Path]) -> None:
    first = start_gateway(RULES)
    async with following(npm, first, "chat:js", "chat:js2") as node:
        subscribed = await node.until("subscribed", 2)
        assert all(told["recoverable"] and not told["wasRecovering"] for told in subscribed)
        await node.order(publish="chat:js", data={"n": 1})
        first.publish("chat:js2", {"n": 1})
        first.publish("notifications:js", "p1")
        assert (await node.until("publication", channel="chat:js"))[0]["data"] == {"n": 1}
        await node.until("publication", channel="chat:js2")
        await node.until("personal")
        await node.order(history="chat:js")
        assert (await node.until("history"))[0]["offsets"] == [1]
        await node.order(rpc="gateway.whoami")
        assert (await node.until("rpc"))[0]["data"]["user"] == "js"
        await node.order(publish="posts:1", data=1)
        assert (await node.until("error"))[0]["code"] == 103

        beside = start_gateway(RULES)
        assert await asyncio.to_thread(first.stop) == 0
        for number in range(2, 402):  # more than the reference server recovers at all
            beside.publish("endless:x" if number % 2 else "chat:js2", {"n": number})
        for number in range(2, 52):
            beside.publish("chat:js", {"n": number})
        beside.publish("notifications:js", "p2")
        again = start_gateway(RULES, port=first.port)
        seen = await node.until("publication", 51, channel="chat:js")
        again.publish("chat:js", {"n": 52})
        seen = await node.until("publication", 52, channel="chat:js")
        assert [(told["offset"], told["data"]["n"]) for told in seen] == [(number, number) for number in range(1, 53)]
        resubscribed = {told["channel"]: told["recovered"] for told in await node.until("subscribed", 4)}
        assert resubscribed == {"chat:js": True, "chat:js2": False}, "history of chat:js2 keeps only 100 of the 200 it missed"
        assert [told["data"] for told in await node.until("personal", 2)] == ["p1", "p2"]
        assert not [told for told in node.said if told["kind"] in ("disconnected", "unsubscribed")]
        assert len([told for told in node.said if told["kind"] == "connected"]) == 2


async def test_centrifuge_js_follows_a_document_by_its_changes(start_gateway: Start, npm: Future[Path], edge: str) -> None:
    first, documents = start_gateway(RULES, edge=edge), edits(140)
    async with following(npm, first, "doc:js") as node:
        await node.until("subscribed")
        for document in documents[:40]:
            first.publish("doc:js", document)
        first.publish("doc:js", {"not": "kept"}, skip_history=True)
        await node.until("publication", 41)
        beside = start_gateway(RULES)
        await asyncio.to_thread(first.stop)
        for document in documents[40:120]:
            beside.publish("doc:js", document)
        again = start_gateway(RULES, port=first.port, edge=edge)
        await node.until("publication", 121)
        for document in documents[120:]:
            again.publish("doc:js", document)
        seen = [(told.get("offset", 0), told["data"]) for told in await node.until("publication", 141)]
        expected = list(enumerate(documents, 1))
        assert seen == [*expected[:40], (0, {"not": "kept"}), *expected[40:]]
        assert [told["recovered"] for told in await node.until("subscribed", 2)] == [False, True]
        await node.order(stats="doc:js")
        (stats,) = await node.until("stats")
        assert stats["numDeltaPayloads"] > 130 and stats["bytesReceived"] < stats["bytesDecoded"] / 3, stats
