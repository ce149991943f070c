"""Deltas over the wire: which clients get them, which documents come whole, and that every edge carries them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from centrifuge.fossil import apply_delta

from ..kit.clients import Socket, client, frame, lines, opened
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.publishing import edits, publish_many

TEXT, PING, PONG = 1, 9, 10  # opcodes

RULES = """
[namespaces.doc]
delta = true
tags_filter = true
history_size = -1
[namespaces.plain]
[namespaces.forgetful]
delta = true
history_size = 0
[namespaces.unrecoverable]
delta = true
recover = false
[namespaces.mine]
delta = true
personal = true
subscribe = "owner"
"""

NAMESPACE = "doc"

gateway = shared_gateway(RULES, both_edges=True)


def publish_all(gateway: RunningGateway, channel: str, documents: list[Any]) -> str:
    """One after the other, so that each is a round of its own. Returns the epoch."""
    return {gateway.publish(channel, document).get("epoch", "") for document in documents}.pop()


class Reader:
    """Makes documents of publications as SDKs do, and notes how each came: its offset, and whether as a change."""

    def __init__(self) -> None:
        self.last = b""
        self.came: list[tuple[int, bool]] = []

    def read(self, publication: dict[str, Any]) -> Any:
        text = publication["data"].encode()
        change = publication.get("delta", False)
        self.last = apply_delta(self.last, text) if change else text
        self.came.append((publication.get("offset", 0), change))
        return json.loads(self.last)

    def read_all(self, publications: list[dict[str, Any]]) -> list[Any]:
        return [self.read(publication) for publication in publications]


async def test_the_first_document_is_whole_and_the_next_are_changes_while_others_come_and_go(gateway: RunningGateway, channel: str) -> None:
    documents = edits(6)
    async with client(gateway) as one, client(gateway) as two, client(gateway, subscribe=channel) as plain:
        readers = [Reader(), Reader()]
        assert (await one.result("subscribe", channel=channel, delta="fossil"))["delta"] is True
        publish_all(gateway, channel, documents[:3])
        first, *rest = await one.publications(3)
        assert first.keys() == {"data", "offset", "channel"} and json.loads(first["data"]) == documents[0]
        assert all(publication["delta"] is True and len(publication["data"]) < 150 for publication in rest)
        assert readers[0].read_all([first, *rest]) == documents[:3]
        assert (await two.result("subscribe", channel=channel, delta="fossil"))["delta"] is True
        publish_all(gateway, channel, documents[3:])
        assert readers[0].read_all(await one.publications(3)) == readers[1].read_all(await two.publications(3)) == documents[3:]
        assert readers[0].came[3:] == [(4, True), (5, True), (6, True)]
        assert readers[1].came == [(4, False), (5, True), (6, True)]
        assert [publication["data"] for publication in await plain.publications(6)] == documents


@pytest.mark.parametrize(
    ("namespace", "request_"),
    [
        ("plain", {"delta": "fossil"}),
        ("forgetful", {"delta": "fossil"}),
        ("unrecoverable", {"delta": "fossil"}),
        ("doc", {"delta": "xdelta"}),
        ("doc", {"delta": "fossil", "tf": {"key": "lang", "cmp": "nex"}}),
        ("doc", {}),
    ],
)
async def test_where_it_is_not_allowed_or_not_understood_documents_come_as_they_are(
    gateway: RunningGateway, channel: str, namespace: str, request_: dict[str, Any]
) -> None:
    name = channel.replace("doc", namespace)
    async with client(gateway) as wire:
        assert "delta" not in await wire.result("subscribe", channel=name, **request_)
        publish_all(gateway, name, edits(2))
        assert [publication["data"] for publication in await wire.publications(2)] == edits(2)


async def test_what_was_missed_comes_as_changes_too_and_what_is_live_goes_on_from_it(gateway: RunningGateway, channel: str) -> None:
    documents = edits(8)
    async with client(gateway, subscribe=channel) as other, client(gateway) as late:
        epoch = publish_all(gateway, channel, documents[:6])
        await other.publications(6)
        result = await late.result("subscribe", channel=channel, delta="fossil", recover=True, epoch=epoch, offset=2)
        assert result["recovered"] and result["delta"]
        reader = Reader()
        assert reader.read_all(result["publications"]) == documents[2:6]
        publish_all(gateway, channel, documents[6:])
        assert reader.read_all(await late.publications(2)) == documents[6:]
        assert reader.came == [(3, False), *((offset, True) for offset in range(4, 9))]


async def test_a_client_that_missed_nothing_or_subscribes_again_gets_the_next_document_whole(gateway: RunningGateway, channel: str) -> None:
    documents = edits(4)
    async with client(gateway) as wire:
        await wire.result("subscribe", channel=channel, delta="fossil")
        epoch = publish_all(gateway, channel, documents[:2])
        reader = Reader()
        assert reader.read_all(await wire.publications(2)) == documents[:2]
        for number, request in enumerate([{"recover": True, "epoch": epoch, "offset": 2}, {}], 2):
            await wire.result("unsubscribe", channel=channel)
            await wire.result("subscribe", channel=channel, delta="fossil", **request)
            gateway.publish(channel, documents[number])
            assert reader.read(await wire.publication()) == documents[number]
        assert reader.came == [(1, False), (2, True), (3, False), (4, False)]


async def test_an_ephemeral_document_comes_whole_and_so_does_the_next(gateway: RunningGateway, channel: str) -> None:
    documents = edits(5)
    async with client(gateway) as wire:
        await wire.result("subscribe", channel=channel, delta="fossil")
        for number, document in enumerate(documents):
            gateway.publish(channel, document, skip_history=number == 2, tags={"number": str(number)})
        reader, came = Reader(), await wire.publications(5)
        assert reader.read_all(came) == documents
        assert reader.came == [(1, False), (2, True), (0, False), (3, False), (4, True)]
        assert [publication["tags"]["number"] for publication in came] == list("01234")


async def test_a_document_that_has_little_of_the_one_before_comes_whole(gateway: RunningGateway, channel: str) -> None:
    documents = ["one", "two", [1, 2, "ä\n\u2028"], "x" * 500, "y" * 500]
    async with client(gateway) as wire:
        await wire.result("subscribe", channel=channel, delta="fossil")
        publish_all(gateway, channel, documents)
        reader = Reader()
        assert reader.read_all(await wire.publications(5)) == documents
        assert not any(change for _, change in reader.came)


async def test_the_channels_of_a_token_follow_the_wish_in_connect(gateway: RunningGateway) -> None:
    user = random.randbytes(6).hex()
    name, documents = f"mine:{user}", edits(6)
    epoch = publish_all(gateway, name, documents[:4])
    async with opened(gateway) as wire, client(gateway, user) as plain:
        assert "delta" not in plain.connected["subs"][name]
        since = {"recover": True, "epoch": epoch, "offset": 1, "delta": "fossil"}
        result = (await wire.result("connect", token=gateway.token(user), subs={name: since}))["subs"][name]
        assert result["delta"] is True and result["recovered"] is True
        reader = Reader()
        assert reader.read_all(result["publications"]) == documents[1:4]
        publish_all(gateway, name, documents[4:])
        assert reader.read_all(await wire.publications(2)) == documents[4:]
        assert reader.came[0] == (2, False) and reader.came[1][1] and reader.came[2][1] and reader.came[4][1]
        assert [publication["data"] for publication in await plain.publications(2)] == documents[4:]


async def objects(raw: Socket) -> AsyncIterator[dict[str, Any]]:
    """What comes over a WebSocket by hand. The frames' own pings are answered, as a long test needs it; those in JSON are not."""
    while True:
        opcode, payload = await raw.read_frame()
        if opcode == PING:
            await raw.send(frame(payload, PONG))
            continue
        assert opcode == TEXT, (opcode, payload)
        for line in payload.split(b"\n"):
            if line != b"{}":
                yield json.loads(line)


async def test_a_slow_client_ends_up_with_the_documents_that_were_published(gateway: RunningGateway, channel: str) -> None:
    """Every third document is new, so that its socket fills; the ones between are small changes."""
    chance = random.Random(7)
    documents: list[Any] = []
    for number in range(0, 210, 3):
        fill = chance.randbytes(30000).hex()
        documents += ({"n": number + step, "fill": fill} for step in range(3))
    async with await Socket.open(gateway, small=True) as raw:
        assert await raw.upgrade() == 101
        await raw.say({"id": 1, "connect": {"token": gateway.token()}}, {"id": 2, "subscribe": {"channel": channel, "delta": "fossil"}})
        came = objects(raw)
        assert "connect" in await anext(came)
        assert (await anext(came))["subscribe"]["delta"] is True
        await asyncio.to_thread(publish_many, gateway, channel, documents)
        reader = Reader()
        for document in documents:
            assert reader.read((await anext(came))["push"]["pub"]) == document
        gateway.publish(channel, {"n": 210, "fill": documents[-1]["fill"]})
        assert reader.read((await anext(came))["push"]["pub"])["n"] == 210
        assert [offset for offset, _ in reader.came] == list(range(1, 212))
        assert reader.came[-1] == (211, True)
        # Wherever its pages begin: one of three documents comes as a change on the average of the worst pages.
        assert sum(change for _, change in reader.came) > 50, "a page of what it missed begins with a whole one, and holds at least two"


@pytest.mark.parametrize("kind", ["sse", "http_stream"])
async def test_an_emulated_websocket_carries_deltas(gateway: RunningGateway, channel: str, kind: str) -> None:
    documents = edits(5)
    commands = lines(
        {"id": 1, "connect": {"token": gateway.token()}}, {"id": 2, "subscribe": {"channel": channel, "delta": "fossil"}}
    ).encode()
    async with await Socket.open(gateway) as raw, client(gateway) as beside:
        await beside.result("subscribe", channel=channel, delta="fossil")
        await raw.send(
            b"POST /connection/%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (kind.encode(), len(commands), commands)
        )
        assert (await raw.head())[0] == 200

        async def next_object() -> dict[str, Any]:
            while True:
                line = (await asyncio.wait_for(raw.reader.readline(), 10)).strip().removeprefix(b"data: ")
                if line.startswith(b"{") and line != b"{}":
                    return json.loads(line)

        assert "connect" in await next_object()
        assert (await next_object())["subscribe"]["delta"] is True
        publish_all(gateway, channel, documents)
        reader, other = Reader(), Reader()
        assert [reader.read((await next_object())["push"]["pub"]) for _ in documents] == documents
        assert other.read_all(await beside.publications(5)) == documents
        assert reader.came == other.came == [(1, False), *((offset, True) for offset in range(2, 6))]
