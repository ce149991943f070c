"""Whatever clients send, each gets the protocol's answer and a line in the log, and nobody else notices.

A bystander follows a channel during all of it; after each test it must have received every publication, in order.
What takes its time (the time limits) is begun when the module begins and looked at where its test stands.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio

from ..kit.clients import Socket, Wire, client, connected_socket, frame, opened, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.publishing import publish_many
from ..kit.tokens import SECRET
from ..kit.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW_SECONDS = 6  # longer than it takes to publish what a slow client then reads, on a machine that is busy
MESSAGE_BYTES = 65536


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    # The bystander answers pings only while a test waits for it.
    return start_gateway_once(
        "pong_seconds = 60\n"
        + RULES
        + f"""
[limits]
slow_seconds = {SLOW_SECONDS}
api_bytes = 9000000
[tokens]
hmac_secret = "{SECRET}"
audience = "here"
"""
    )


def token(user: str = "u1", **options: Any) -> str:
    """A good one: of this gateway's audience."""
    from gateway.auth.tokens import mint

    return mint(SECRET, user=user, **({"audience": "here"} | options))


class Bystander:
    """A well-behaved client of the same gateway, over each edge."""

    channel = "chat:bystander"

    def __init__(self, gateway: RunningGateway, wire: Wire, events: Any) -> None:
        self.gateway = gateway
        self.wire = wire
        self.events = events
        self.seen = 0

    async def check(self) -> None:
        """It receives the next publication, and received each one before it."""
        await asyncio.to_thread(self.gateway.publish, self.channel, {"n": self.seen + 1})
        self.seen += 1
        publication = await self.wire.publication()
        assert (publication["offset"], publication["data"]) == (self.seen, {"n": self.seen})
        event = await self.events.next()
        assert (event.data["offset"], event.data["data"]) == (self.seen, {"n": self.seen})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bystander(gateway: RunningGateway) -> AsyncIterator[Bystander]:
    async with (
        client(gateway, token=token("by"), subscribe=Bystander.channel) as wire,
        stream(gateway, Bystander.channel, token=token("by")) as events,
    ):
        assert (await events.next()).name == "connected"
        yield Bystander(gateway, wire, events)


class Log:
    """The gateway's log since the test began."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.start = len(gateway.log())

    @property
    def text(self) -> str:
        return self.gateway.log()[self.start :]

    async def says(self, *words: str) -> None:
        """One line holds all these words, and no line is of a traceback."""
        await until(lambda: any(all(word in line for word in words) for line in self.text.splitlines()), f"a log line with {words}")
        assert "Traceback" not in self.text
        for line in self.text.splitlines():
            assert line[:4].isdigit(), f"not one line of its own: {line!r}"


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nobody_else_notices(bystander: Bystander) -> AsyncIterator[None]:
    yield
    await bystander.check()


@pytest.fixture
def log(gateway: RunningGateway) -> Log:
    return Log(gateway)


# What takes its time, begun at the start.


async def _silent_socket(gateway: RunningGateway) -> tuple[float, int, str]:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        began = time.monotonic()
        code, reason, _ = await raw.read_to_close(20)
        return time.monotonic() - began, code, reason


async def _half_request(gateway: RunningGateway, start: bytes) -> tuple[float, bytes]:
    async with await Socket.open(gateway) as raw:
        began = time.monotonic()
        await raw.send(start)
        return await _answer_and_seconds(raw, began)


async def _answer_and_seconds(raw: Socket, began: float) -> tuple[float, bytes]:
    answer = await raw.rest(20)
    return time.monotonic() - began, answer


async def _empty_line_behind_an_answer(gateway: RunningGateway) -> tuple[float, bytes]:
    async with await Socket.open(gateway) as raw:
        assert (await raw.request("GET", "/health/live"))[0] == 200
        began = time.monotonic()
        await raw.send(b"\r\n")
        return await _answer_and_seconds(raw, began)


async def _dripping_request(gateway: RunningGateway) -> tuple[float, bytes]:
    """A byte a second: each is progress, the whole is none."""
    async with await Socket.open(gateway) as raw:
        began = time.monotonic()
        await raw.send(b"GET /health/live HTTP/1.1\r\nX-Long: ")
        answer = asyncio.ensure_future(raw.rest(20))
        while not answer.done():
            await asyncio.wait((answer,), timeout=1)
            if not answer.done():
                raw.writer.write(b"x")
        return time.monotonic() - began, await answer


async def _expired_connection(gateway: RunningGateway) -> tuple[float, tuple[int, str]]:
    async with client(gateway, token=token(seconds=3)) as wire:
        began = time.monotonic()
        return (await wire.ended(60), time.monotonic() - began)[::-1]


async def _expired_subscription(gateway: RunningGateway) -> tuple[float, dict[str, Any]]:
    async with client(gateway, token=token()) as wire:
        began = time.monotonic()
        await wire.result("subscribe", channel="chat:expires", token=token(channel="chat:expires", seconds=3))
        told = await wire.next(60)
        await wire.result("subscribe", channel="chat:expires")  # the connection stays
        return time.monotonic() - began, told


async def _request_behind_a_stream(gateway: RunningGateway) -> list[bytes]:
    """A whole request and half of one, in one segment with the stream's. 12 s later it is a stream still, and its end is seen. Its statuses."""
    head = f"Host: h\r\nAuthorization: Bearer {token('behind')}\r\n".encode()
    async with await Socket.open(gateway) as raw:
        stream = b"GET /sse?channel=chat:behind HTTP/1.1\r\n" + head + b"\r\n"
        await raw.send(stream + b"GET /health/live HTTP/1.1\r\n" + head + b"\r\nGET /hea")
        await asyncio.sleep(12)
        await asyncio.to_thread(gateway.publish, "chat:behind", "still a stream")
        got = await asyncio.wait_for(raw.reader.readuntil(b"still a stream"), 5)
    async with asyncio.timeout(5):
        while (await asyncio.to_thread(gateway.api, "presence_stats", channel="chat:behind"))["result"]["num_clients"]:
            await asyncio.sleep(0.05)
    return [line for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1")]


API_HEAD = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\nContent-Length: 1000\r\n\r\n".encode()
PATIENT: dict[str, Callable[[RunningGateway], Awaitable[Any]]] = {
    "a WebSocket without a word": _silent_socket,
    "a connection without a word": lambda gateway: _half_request(gateway, b""),
    "half a head": lambda gateway: _half_request(gateway, b"GET /sse?channel=chat:1 HTTP/1.1\r\nHost: h\r\n"),
    "half a handshake": lambda gateway: _half_request(gateway, b"GET /connection/websocket HTTP/1.1\r\nUpgrade: websocket\r\n"),
    "half a body": lambda gateway: _half_request(gateway, API_HEAD + b'{"channel":'),
    "an empty line behind an answer": _empty_line_behind_an_answer,
    "a byte a second": _dripping_request,
    "requests behind a stream": _request_behind_a_stream,
    "an expired connection": _expired_connection,
    "an expired subscription": _expired_subscription,
}


async def outcome(task: asyncio.Task[Any], bystander: Bystander) -> Any:
    """What it came to; the bystander is served all the while."""
    while not task.done():
        await bystander.check()
        await asyncio.wait((task,), timeout=1)
    return task.result()


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def patient(gateway: RunningGateway) -> AsyncIterator[dict[str, asyncio.Task[Any]]]:
    tasks = {name: asyncio.ensure_future(begin(gateway)) for name, begin in PATIENT.items()}
    await asyncio.sleep(0)
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


# Frames.


async def closes_with(gateway: RunningGateway, data: bytes, code: int, reason: str | None = None, *, connect: bool = True) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        if connect:
            await raw.say({"id": 1, "connect": {"token": token()}})
            assert "connect" in await raw.read_object()
        await raw.send(data)
        told = await raw.read_to_close()
        assert told[0] == code, told
        assert len(told[1].encode()) <= 123
        if reason is not None:
            assert told[1] == reason
        assert told[2] == [], "nothing of a bad message is acted on"


DEEP = b"[" * 1000 + b"]" * 1000

BAD_MESSAGES = {
    "undecodable JSON": b'{"id":2,"subscribe":{"channel":"chat:1"}',
    "not an object": b'["subscribe"]',
    "a bare word": b"hello",
    "a number": b"17",
    "null": b"null",
    "binary garbage": bytes(range(256)),
    "broken UTF-8": b'{"id":2,"rpc":{"method":"\xff\xfe"}}',
    "an empty frame": b"",
    "a bare newline": b"\n",
    "a blank line between two commands": b'{"id":2,"rpc":{"method":"gateway.time"}}\n\n{"id":3,"rpc":{"method":"gateway.time"}}',
    "two trailing newlines": b'{"id":2,"rpc":{"method":"gateway.time"}}\n\n',
    "two objects without a newline": b'{"id":2,"rpc":{"method":"gateway.time"}}{"id":3,"rpc":{"method":"gateway.time"}}',
    "a good command before a bad one": b'{"id":2,"rpc":{"method":"gateway.time"}}\n{"id":',
    "an unknown method": b'{"id":2,"levitate":{}}',
    "no method": b'{"id":2}',
    "two methods": b'{"id":2,"subscribe":{"channel":"chat:1"},"publish":{"channel":"chat:1","data":1}}',
    "no id": b'{"subscribe":{"channel":"chat:1"}}',
    "id 0": b'{"id":0,"subscribe":{"channel":"chat:1"}}',
    "a negative id": b'{"id":-1,"subscribe":{"channel":"chat:1"}}',
    "an id past 32 bits": b'{"id":4294967296,"subscribe":{"channel":"chat:1"}}',
    "an id that is text": b'{"id":"2","subscribe":{"channel":"chat:1"}}',
    "an id that is a fraction": b'{"id":2.5,"subscribe":{"channel":"chat:1"}}',
    "subscribe without a channel": b'{"id":2,"subscribe":{}}',
    "subscribe to an empty name": b'{"id":2,"subscribe":{"channel":""}}',
    "publish without a channel": b'{"id":2,"publish":{"data":{}}}',
    "history without a channel": b'{"id":2,"history":{}}',
    "unsubscribe without a channel": b'{"id":2,"unsubscribe":{}}',
    "presence without a channel": b'{"id":2,"presence":{}}',
    "sub_refresh without a channel": b'{"id":2,"sub_refresh":{"token":"t"}}',
    "a channel that is a number": b'{"id":2,"subscribe":{"channel":17}}',
    "a channel that is an object": b'{"id":2,"subscribe":{"channel":{}}}',
    "a request that is text": b'{"id":2,"subscribe":"chat:1"}',
    "a request that is a list": b'{"id":2,"subscribe":[]}',
    "an offset that is text": b'{"id":2,"subscribe":{"channel":"chat:1","recover":true,"offset":"5"}}',
    "an offset that is negative": b'{"id":2,"subscribe":{"channel":"chat:1","recover":true,"offset":-1}}',
    "a limit that is text": b'{"id":2,"history":{"channel":"chat:1","limit":"all"}}',
    "a token that is a number": b'{"id":2,"refresh":{"token":1}}',
    "a second connect": b'{"id":2,"connect":{}}',
    "a pong that nobody asked for": b"{}",
    "an ignored field nested a thousand deep": b'{"id":2,"rpc":{"method":"gateway.time"},"x":' + DEEP + b"}",
}
MAY_BE_LENIENT = {"an ignored field nested a thousand deep"}  # unknown fields are ignored


@pytest.mark.parametrize("name", [name for name in BAD_MESSAGES if name not in MAY_BE_LENIENT])
@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
async def test_a_message_that_is_no_command_is_a_bad_request(gateway: RunningGateway, log: Log, name: str, opcode: int) -> None:
    await closes_with(gateway, frame(BAD_MESSAGES[name], opcode), *_expected(name, opcode))
    await log.says("closed:")


def _expected(name: str, opcode: int) -> tuple[int, str | None]:
    if name in ("binary garbage", "broken UTF-8") and opcode == 1:
        return (3501, None)
    return (3501, "bad request")


async def test_an_unknown_field_is_ignored_or_refused_however_deep(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        await raw.say({"id": 1, "connect": {"token": token()}})
        assert "connect" in await raw.read_object()
        await raw.send(frame(BAD_MESSAGES["an ignored field nested a thousand deep"]))
        opcode, payload = await raw.read_frame()
        assert (opcode == 1 and json.loads(payload)["id"] == 2) or (opcode == 8 and int.from_bytes(payload[:2]) == 3501)


@pytest.mark.parametrize(
    "first",
    [
        {"id": 1, "subscribe": {"channel": "chat:1"}},
        {"id": 1, "publish": {"channel": "chat:1", "data": 1}},
        {"id": 1, "rpc": {"method": "gateway.time"}},
        {"id": 1, "refresh": {"token": "t"}},
        {"send": {"data": 1}},
        {"id": 1, "ping": {}},
        "{}",
    ],
    ids=str,
)
async def test_whatever_comes_before_connect_is_a_bad_request(gateway: RunningGateway, log: Log, first: Any) -> None:
    async with opened(gateway) as wire:
        await wire.send(first)
        assert await wire.ended() == (3501, "bad request")
    await log.says("closed: 3501 bad request")


async def test_connect_without_an_id_is_a_bad_request(gateway: RunningGateway) -> None:
    await closes_with(gateway, frame(json.dumps({"connect": {"token": token()}}).encode()), 3501, "bad request", connect=False)


async def test_a_message_to_the_server_itself_finds_nobody(gateway: RunningGateway, log: Log) -> None:
    await closes_with(gateway, frame(b'{"send":{"data":{"x":1}}}'), 3508, "not available")
    await log.says("closed: 3508 not available")


async def test_an_unmasked_frame_is_a_protocol_error(gateway: RunningGateway, log: Log) -> None:
    await closes_with(gateway, frame(b'{"id":2,"rpc":{"method":"gateway.time"}}', masked=False), 1002)
    await log.says("closed:", "mask")


@pytest.mark.parametrize(
    "data",
    [
        frame(b"{}", 3),
        frame(b"{}", 15),
        frame(b"{}", bits=0x40),
        frame(b"{}", bits=0x10),
        frame(b"more", 0),
        frame(b"{", 1, fin=False) + frame(b"}", 1),
        frame(b"x" * 126, 9),
        frame(b"", 9, fin=False),
    ],
    ids=[
        "an unknown opcode",
        "an unknown control opcode",
        "the bit of a compression that was not agreed on",
        "a reserved bit",
        "the continuation of nothing",
        "a message inside a message",
        "a long ping",
        "a ping in parts",
    ],
)
async def test_a_frame_against_the_rules_is_a_protocol_error(gateway: RunningGateway, log: Log, data: bytes) -> None:
    await closes_with(gateway, data, 1002)
    await log.says("closed:")


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe7", b"\x00\x00", b"\x03\xe8\xff\xff"], ids=["one byte", "999", "0", "no text"])
async def test_a_bad_close_frame_ends_the_connection_without_noise(gateway: RunningGateway, log: Log, payload: bytes) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        await raw.send(frame(payload, 8))
        code, _, _ = await raw.read_to_close()
        assert code in (1002, 1007)
        assert await raw.rest() == b""
    assert "Traceback" not in log.text


@pytest.mark.parametrize("size", [MESSAGE_BYTES + 1, 10 * MESSAGE_BYTES])
async def test_a_frame_over_the_limit_is_too_big(gateway: RunningGateway, log: Log, size: int) -> None:
    await closes_with(gateway, frame(b" " * size), 1009)
    await log.says("closed:", str(MESSAGE_BYTES))


async def test_a_frame_that_only_claims_to_be_huge_is_refused_at_once(gateway: RunningGateway, log: Log) -> None:
    await closes_with(gateway, b"\x81\xff" + (2**62).to_bytes(8) + b"mask", 1009)
    await log.says("closed:")


async def test_many_small_fragments_are_counted_together(gateway: RunningGateway, log: Log) -> None:
    part = b" " * 1000
    parts = [frame(part, 1, fin=False)] + [frame(part, 0, fin=False) for _ in range(70)]
    await closes_with(gateway, b"".join(parts), 1009)
    await log.says("closed:")


async def test_a_message_of_just_the_limit_is_taken(gateway: RunningGateway) -> None:
    command = json.dumps({"id": 2, "rpc": {"method": "gateway.time", "data": ""}})
    command = command.replace('""', '"' + "x" * (MESSAGE_BYTES - len(command)) + '"')
    async with client(gateway, token=token()) as wire:
        await wire.send(command)
        assert "rpc" in await wire.next()


async def test_a_client_that_breaks_off_in_the_middle_of_a_frame_leaves_no_trace(gateway: RunningGateway, log: Log) -> None:
    before = gateway.api("info")["result"]["nodes"][0]["num_clients"]
    for ending in (b"\x81\xfe\x10", frame(b'{"id":2,"rpc":{"method":"gateway.time"}}')[:-3]):
        raw = await connected_socket_with(token(), gateway)
        await raw.send(ending)
        plain = raw.writer.get_extra_info("socket")
        plain.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # SO_LINGER 0: a reset, as of a machine that lost its power
        await raw.close()
    await until(lambda: gateway.api("info")["result"]["nodes"][0]["num_clients"] <= before, "the clients are forgotten")
    assert "Traceback" not in log.text


async def connected_socket_with(given: str, gateway: RunningGateway, *channels: str, small: bool = False) -> Socket:
    raw = await Socket.open(gateway, small=small)
    assert await raw.upgrade() == 101
    await raw.say({"id": 1, "connect": {"token": given}})
    assert "connect" in await raw.read_object()
    for number, channel in enumerate(channels, 2):
        await raw.say({"id": number, "subscribe": {"channel": channel}})
        answer = await raw.read_object()
        assert "subscribe" in answer, answer
    return raw


# Commands that are understood, and refused.


REFUSED = {
    "an unknown rpc method": ("rpc", {"method": "levitate"}, 104),
    "an rpc without a method": ("rpc", {}, 104),
    "an unknown namespace": ("subscribe", {"channel": "nowhere:1"}, 102),
    "an empty namespace": ("subscribe", {"channel": ":1"}, 102),
    "publish in an unknown namespace": ("publish", {"channel": "nowhere:1", "data": 1}, 102),
    "history of an unknown namespace": ("history", {"channel": "nowhere:1"}, 102),
    "a name that is too long": ("subscribe", {"channel": "chat:" + "x" * 251}, 107),
    "a name that is too long, in publish": ("publish", {"channel": "x" * 256, "data": 1}, 107),
    "a name that is too long, in history": ("history", {"channel": "x" * 256}, 107),
    "a newline in a name": ("subscribe", {"channel": "chat:a\nb"}, 107),
    "a NUL in a name": ("subscribe", {"channel": "chat:a\x00"}, 107),
    "DEL in a name": ("publish", {"channel": "chat:\x7f", "data": 1}, 107),
    "a C1 control in a name": ("history", {"channel": "chat:\x85"}, 107),
    "an opening brace in a name": ("subscribe", {"channel": "chat:{x"}, 107),
    "a closing brace in a name": ("publish", {"channel": "chat:x}", "data": 1}, 107),
    "publish without data": ("publish", {"channel": "member:1"}, 107),
    "an offset over 2^53 in subscribe": ("subscribe", {"channel": "chat:1", "recover": True, "offset": 2**53 + 1}, 107),
    "an offset of 2^64-1 in subscribe": ("subscribe", {"channel": "chat:1", "recover": True, "offset": 2**64 - 1}, 107),
    "an offset of 2^64 in subscribe": ("subscribe", {"channel": "chat:1", "recover": True, "offset": 2**64}, 107),
    "an offset over 2^53 in history": ("history", {"channel": "member:1", "limit": 1, "since": {"offset": 2**53 + 1}}, 107),
    "a filter": ("subscribe", {"channel": "chat:1", "tf": {"op": "and"}}, 107),
    "publish without permission": ("publish", {"channel": "sealed:1", "data": 1}, 103),
    "a subscription token of nobody": ("subscribe", {"channel": "ticket:1", "token": "nonsense"}, 103),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_command_that_cannot_be_is_refused_and_the_connection_stays(gateway: RunningGateway, log: Log, name: str) -> None:
    method, request, code = REFUSED[name]
    async with client(gateway, token=token()) as wire:
        assert await wire.error(method, **request) == code
        assert "ms" in (await wire.result("rpc", method="gateway.time"))["data"]
    await log.says(f"{method} refused with {code}")


@pytest.mark.parametrize("depth", [300, 1000])
@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
async def test_deeply_nested_data_is_a_bad_request_and_reaches_nobody(
    gateway: RunningGateway, log: Log, opening: bytes, closing: bytes, depth: int
) -> None:
    deep = opening * depth + b"1" + closing * depth
    async with client(gateway, token=token(), subscribe="member:deep") as wire:
        async with await connected_socket_with(token(), gateway) as raw:
            await raw.send(frame(b'{"id":2,"publish":{"channel":"member:deep","data":' + deep + b"}}"))
            opcode, payload = await raw.read_frame()
            code = json.loads(payload)["error"]["code"] if opcode == 1 else int.from_bytes(payload[:2])
            assert code in (107, 3501)
        gateway.publish("member:deep", "after")
        assert (await wire.publication())["data"] == "after"
    await log.says("bad request", "nested") if code == 3501 else await log.says("refused with 107", "nested")


async def test_far_deeper_data_does_not_end_the_process(gateway: RunningGateway, log: Log) -> None:
    deep = b"[" * 30000 + b"]" * 30000
    async with await connected_socket_with(token(), gateway) as raw:
        await raw.send(frame(b'{"id":2,"publish":{"channel":"member:deep","data":' + deep + b"}}"))
        opcode, payload = await raw.read_frame()
        assert (json.loads(payload)["error"]["code"] if opcode == 1 else int.from_bytes(payload[:2])) in (107, 3501)
    await log.says("nested")


async def test_deep_connect_data_does_not_end_the_process(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        await raw.send(frame(b'{"id":1,"connect":{"token":"' + token().encode() + b'","data":' + DEEP + b"}}"))
        opcode, payload = await raw.read_frame()
        assert (opcode == 1 and "connect" in json.loads(payload)) or (opcode == 8 and int.from_bytes(payload[:2]) == 3501)


async def test_a_position_from_the_future_is_not_recovered_and_says_where_the_channel_is(gateway: RunningGateway) -> None:
    epoch = gateway.publish("chat:future", 1)["epoch"]
    async with client(gateway, token=token()) as wire:
        result = await wire.result("subscribe", channel="chat:future", recover=True, epoch=epoch, offset=1000)
        assert result["was_recovering"] is True
        assert "recovered" not in result and "publications" not in result
        assert (result["epoch"], result["offset"]) == (epoch, 1)
        gateway.publish("chat:future", 2)
        assert (await wire.publication())["offset"] == 2


async def test_a_position_from_the_future_in_a_stream_is_a_gap(gateway: RunningGateway) -> None:
    epoch = gateway.publish("chat:future2", 1)["epoch"]
    async with stream(gateway, "chat:future2", token=token(), last_event_id=f"{epoch}:1000") as events:
        connected, gap = await events.many(2)
        assert connected.data["channels"]["chat:future2"] == {"epoch": epoch, "offset": 1, "recovered": False}
        assert (gap.name, gap.data) == ("gap", {"channel": "chat:future2", "epoch": epoch, "offset": 1})


@pytest.mark.parametrize("last_id", ["x", "a:b", "e:-1", f"e:{2**53 + 1}", "e:1,e:2", "\x00", "é:1", ":" * 5000, "e:१"], ids=repr)
async def test_an_event_id_that_is_none_of_ours_is_a_gap(gateway: RunningGateway, log: Log, last_id: str) -> None:
    async with stream(gateway, "chat:odd-id", token=token(), last_event_id=last_id) as events:
        connected, gap = await events.many(2)
        assert connected.data["channels"]["chat:odd-id"]["recovered"] is False
        assert gap.name == "gap"
    assert "Traceback" not in log.text


@pytest.mark.parametrize("since", ["x", "e:", f"e:{2**53 + 1}", "e:99999999999999999999", "e:-1", "e:1.5"])
async def test_a_position_that_is_none_is_a_bad_request_over_http(gateway: RunningGateway, log: Log, since: str) -> None:
    status, body = gateway.http("GET", f"/history?channel=chat:1&since={since}", headers={"Authorization": f"Bearer {token()}"})
    assert (status, json.loads(body)["error"]["code"]) == (400, 107)
    await log.says("history: refused with 107")


# Tokens.


def _unsigned() -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256"}, {"sub": "u1", "aud": "here"})
    ]
    return ".".join(parts) + "."


BAD_TOKENS = {
    "no token at all": "garbage",
    "unsigned": _unsigned(),
    "signed with none": jwt.encode({"sub": "u1", "aud": "here"}, None, algorithm="none"),
    "signed with another secret": jwt.encode({"sub": "u1", "aud": "here"}, "x" * 40, algorithm="HS256"),
    "signed with another algorithm": jwt.encode({"sub": "u1", "aud": "here"}, SECRET * 2, algorithm="HS512"),
    "for another audience": token(audience="elsewhere"),
    "for no audience": token(audience=""),
    "a subscription token": token(channel="chat:1"),
    "not valid yet": jwt.encode({"sub": "u1", "aud": "here", "nbf": time.time() + 3600}, SECRET, algorithm="HS256"),
    "a user that is a number": jwt.encode({"sub": 17, "aud": "here"}, SECRET, algorithm="HS256"),
    "a user that is null": jwt.encode({"sub": None, "aud": "here"}, SECRET, algorithm="HS256"),
    "an expiry that is text": jwt.encode({"sub": "u1", "aud": "here", "exp": "soon"}, SECRET, algorithm="HS256"),
    "characters of no alphabet": "é.\u0000.\ud7ff",
    "very long": "a" * 40000 + "." + "b" * 10000 + ".c",
}
MAY_BE_ANONYMOUS = {"a user that is null"}


def _tampered() -> str:
    head, _, signature = token("u1").split(".")
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "admin", "aud": "here"}).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


BAD_TOKENS["claims changed behind the signature"] = _tampered()


@pytest.mark.parametrize("name", [name for name in BAD_TOKENS if name not in MAY_BE_ANONYMOUS])
async def test_a_token_that_is_not_ours_is_an_invalid_token(gateway: RunningGateway, log: Log, name: str) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": BAD_TOKENS[name]}}, {"id": 2, "subscribe": {"channel": "open:1"}})
        assert await wire.ended() == (3500, "invalid token")
        assert wire.rest == [], "it does not make its bearer anonymous"
    await log.says("closed: 3500 invalid token")
    assert BAD_TOKENS[name][:40] not in log.text, "the log shows no token"


@pytest.mark.parametrize("name", [name for name in BAD_TOKENS if name not in MAY_BE_ANONYMOUS | {"characters of no alphabet"}])
async def test_a_token_that_is_not_ours_is_refused_by_the_other_edges(gateway: RunningGateway, log: Log, name: str) -> None:
    async with stream(gateway, "open:1", token=BAD_TOKENS[name]) as events:
        if events.status != 431:
            (refused,) = await events.end()
            assert (refused.name, refused.data["code"]) == ("refused", 3500)
    status, _ = gateway.http("GET", "/history?channel=open:1", headers={"Authorization": f"Bearer {BAD_TOKENS[name]}"})
    assert status in (401, 431)
    await log.says("refused")
    assert "Traceback" not in log.text


async def test_an_expired_token_is_told_so_and_the_connection_ends(gateway: RunningGateway, log: Log) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": token(seconds=-10)}}, {"id": 2, "subscribe": {"channel": "open:1"}})
        code, _ = await wire.ended()
        assert code < 3500, "the SDK fetches a new token and comes back"
        assert wire.rest == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
    await log.says("connect refused with 109")


async def test_an_expired_token_opens_no_stream_and_no_history(gateway: RunningGateway) -> None:
    async with stream(gateway, "open:1", token=token(seconds=-10)) as events:
        (refused,) = await events.end()
        assert (refused.name, refused.data, refused.had_id) == ("refused", {"code": 109, "message": "token expired"}, False)
    status, body = gateway.http("GET", "/history?channel=open:1", headers={"Authorization": f"Bearer {token(seconds=-10)}"})
    assert (status, json.loads(body)["error"]["code"]) == (401, 109)


async def test_an_explicit_expiry_counts_like_the_other_one(gateway: RunningGateway) -> None:
    """``expire_at`` stands above ``exp``: a token whose time is over by it is expired."""
    expired = jwt.encode({"sub": "u1", "aud": "here", "expire_at": int(time.time()) - 10}, SECRET, algorithm="HS256")
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": expired}})
        assert (await wire.next()).get("error", {}).get("code") == 109


# HTTP.


async def test_a_body_over_the_limit_is_refused_by_its_declared_length(gateway: RunningGateway, log: Log) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(API_HEAD.replace(b"1000", b"9000001"))
        assert (await raw.answer())[0] == 413
    await log.says("body", "limits.api_bytes")


async def test_a_body_over_the_limit_is_refused_while_it_comes(gateway: RunningGateway, log: Log) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(API_HEAD.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked"))
        answer = asyncio.ensure_future(raw.answer())
        part = b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"
        try:
            for _ in range(10):
                await raw.send(part)
        except ConnectionError:
            pass  # it was answered and closed
        assert (await answer)[0] == 413
    await log.says("body", "limits.api_bytes")


BAD_REQUESTS = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "binary garbage": bytes(range(128, 256)) * 4,
    "a bad header": b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    "a bad length": b"POST /api/publish HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST /api/publish HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length and chunks": b"POST /api/publish HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: h\r\n\r\n",
    "an HTTP version of the future": b"GET / HTTP/7.0\r\nHost: h\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_what_is_no_request_is_answered_with_a_status_or_the_end(gateway: RunningGateway, log: Log, name: str) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(BAD_REQUESTS[name])
        raw.writer.write_eof()
        answer = await raw.rest()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
        assert b"Traceback" not in answer
    assert "Traceback" not in log.text


async def test_a_head_without_end_is_cut_off(gateway: RunningGateway, log: Log) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        sent = 0
        try:
            while sent < 4 * 2**20 and not raw.reader.at_eof():
                await raw.send(b"X-%d: " % sent + b"y" * 8000 + b"\r\n")
                sent += 8000
        except ConnectionError:
            pass
        assert sent < 4 * 2**20, "megabytes of headers are taken in"
        answer = await raw.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert "Traceback" not in log.text


@pytest.mark.parametrize(
    "missing, status",
    [
        ({"Upgrade": "h2c"}, None),
        ({"Sec-WebSocket-Version": "8"}, None),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Protocol": "centrifuge-protobuf"}, 400),
    ],
    ids=str,
)
async def test_a_handshake_that_is_none_is_refused(gateway: RunningGateway, log: Log, missing: dict[str, str], status: int | None) -> None:
    async with await Socket.open(gateway) as raw:
        answered = await raw.upgrade(headers=missing)
        assert answered == status if status else 400 <= answered < 500
    assert "Traceback" not in log.text


async def test_a_handshake_behind_a_request_without_its_answer_is_refused(gateway: RunningGateway, log: Log) -> None:
    """The answer would come between the frames."""
    handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    async with await Socket.open(gateway) as raw:
        await raw.send(
            b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\nGET /connection/websocket HTTP/1.1\r\nHost: h\r\n" + handshake + b"\r\n"
        )
        assert (await raw.rest()).startswith(b"HTTP/1.1 400 ")
    await until(lambda: "handshake behind a request" in log.text, "it is told")
    assert "Traceback" not in log.text


# Clients that read slowly, or never.


def memory_of(gateway: RunningGateway) -> int:
    """Bytes of the process that are in memory now."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


FILL = "x" * 60000


def filled(numbers: range) -> list[Any]:
    return [{"n": number, "fill": FILL} for number in numbers]


async def test_a_client_that_never_reads_is_closed_as_slow_and_costs_little(
    gateway: RunningGateway, bystander: Bystander, log: Log
) -> None:
    async with await connected_socket_with(token(), gateway, "chat:flood", small=True) as raw:
        before, peak = memory_of(gateway), 0
        for round_number in range(12):
            await asyncio.to_thread(publish_many, gateway, "chat:flood", filled(range(round_number * 100, round_number * 100 + 100)))
            await bystander.check()
            peak = max(peak, memory_of(gateway))
            if "closed: 3008 slow" in log.text:
                break  # a busy machine: its close frame waits for no more rounds
        # Up to 72 MB were published. History, and so the ring, keeps 100 publications: 6 MB, in up to three encoded forms.
        assert peak - before < 48 * 2**20
        await log.says("closed: 3008 slow")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3008, "slow")
        numbers = [message["push"]["pub"]["data"]["n"] for message in objects]
        assert numbers == list(range(len(numbers))), "what it did get is a run without a hole"


async def test_a_slow_client_that_reads_on_gets_everything_once_and_in_order(gateway: RunningGateway, bystander: Bystander) -> None:
    async with await connected_socket_with(token(), gateway, "endless:slow", small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "endless:slow", filled(range(300)))  # 18 MB: far more than the kernel holds
        await bystander.check()
        offsets = [(await raw.read_object())["push"]["pub"]["offset"] for _ in range(300)]
        assert offsets == list(range(1, 301))
        gateway.publish("endless:slow", "live again")
        assert (await raw.read_object())["push"]["pub"] == {"data": "live again", "offset": 301}


async def test_a_slow_client_among_several_channels_gets_each_in_order(gateway: RunningGateway) -> None:
    async with await connected_socket_with(token(), gateway, "endless:one", "endless:two", small=True) as raw:
        for part in range(4):
            for channel in ("endless:one", "endless:two"):
                await asyncio.to_thread(publish_many, gateway, channel, filled(range(part * 40, part * 40 + 40)))
        offsets: dict[str, list[int]] = {"endless:one": [], "endless:two": []}
        for _ in range(320):
            message = (await raw.read_object())["push"]
            offsets[message["channel"]].append(message["pub"]["offset"])
        assert offsets == {"endless:one": list(range(1, 161)), "endless:two": list(range(1, 161))}


async def test_a_slow_client_whose_position_was_trimmed_away_is_told(gateway: RunningGateway) -> None:
    async with await connected_socket_with(token(), gateway, "short:slow", small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "short:slow", filled(range(300)))  # history keeps five
        seen = []
        while "pub" in (message := (await raw.read_object())["push"]):
            seen.append(message["pub"]["offset"])
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < 295, "this client was not slow, and the test shows nothing"
        assert message == {"channel": "short:slow", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
        epoch = gateway.api("history", channel="short:slow")["result"]["epoch"]
        await raw.say({"id": 9, "subscribe": {"channel": "short:slow", "recover": True, "epoch": epoch, "offset": seen[-1]}})
        result = (await raw.read_object())["subscribe"]
        assert result["was_recovering"] is True and "recovered" not in result and "publications" not in result
        assert result["offset"] == 300
        gateway.publish("short:slow", "on")
        assert (await raw.read_object())["push"]["pub"]["offset"] == 301


async def test_a_slow_client_of_a_channel_without_history_is_closed(gateway: RunningGateway, log: Log) -> None:
    async with await connected_socket_with(token(), gateway, "forgetful:slow", small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "forgetful:slow", filled(range(200)))
        await log.says("closed: 3008 slow")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3008, "slow")
        numbers = [message["push"]["pub"]["data"]["n"] for message in objects]
        assert numbers == list(range(len(numbers)))


async def test_a_slow_client_of_its_own_channel_that_missed_some_is_closed(gateway: RunningGateway, log: Log) -> None:
    """A server-side subscription has no unsubscribe push to be told by: the connection closes with 3010."""
    async with await connected_socket_with(token("slowpoke"), gateway, small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "notifications:slowpoke", filled(range(200)))
        gateway.api("history_remove", channel="notifications:slowpoke")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3010, "insufficient state")
        offsets = [message["push"]["pub"]["offset"] for message in objects]
        assert offsets == list(range(1, len(offsets) + 1))
    await log.says("closed: 3010 insufficient state")


async def test_a_flood_of_commands_is_answered_one_by_one(gateway: RunningGateway, bystander: Bystander) -> None:
    async with client(gateway, token=token()) as wire:
        for start in range(0, 3000, 500):
            await wire.send(*[{"id": number, "rpc": {"method": "gateway.time"}} for number in range(start + 1, start + 501)])
        await bystander.check()
        answered = {(await wire.next())["id"] for _ in range(3000)}
        assert answered == set(range(1, 3001))


# Time limits.


async def test_a_websocket_that_says_nothing_is_stale_after_ten_seconds(
    patient: dict[str, Any], gateway: RunningGateway, bystander: Bystander
) -> None:
    seconds, code, reason = await outcome(patient["a WebSocket without a word"], bystander)
    assert (code, reason) == (3502, "stale")
    assert 9 < seconds < 13
    assert "closed: 3502 stale" in gateway.log()


@pytest.mark.parametrize(
    "name",
    ["half a head", "half a handshake", "half a body", "a connection without a word", "an empty line behind an answer", "a byte a second"],
)
async def test_a_request_that_never_ends_times_out_after_ten_seconds(
    patient: dict[str, Any], gateway: RunningGateway, bystander: Bystander, name: str
) -> None:
    seconds, answer = await outcome(patient[name], bystander)
    assert 9 < seconds < 13
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "not complete after 10 s" in gateway.log()
    assert "Traceback" not in gateway.log()


async def test_requests_behind_a_stream_are_nobodys_and_harm_it_not(patient: dict[str, Any], bystander: Bystander) -> None:
    assert await outcome(patient["requests behind a stream"], bystander) == [b"HTTP/1.1 200 OK"]


async def test_an_expired_connection_ends_25_seconds_later(patient: dict[str, Any], bystander: Bystander) -> None:
    seconds, closed = await outcome(patient["an expired connection"], bystander)
    assert closed == (3005, "connection expired")
    assert 25 < seconds < 35


async def test_an_expired_subscription_ends_25_seconds_later(patient: dict[str, Any], bystander: Bystander) -> None:
    seconds, told = await outcome(patient["an expired subscription"], bystander)
    assert told == {"push": {"channel": "chat:expires", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}}
    assert 25 < seconds < 35


# What once took the whole process down, or stopped it for everybody, has a gateway of its own.


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_clients_that_break_off_while_they_are_written_to_end_nothing(start_gateway: Start, kind: str) -> None:
    gateway = start_gateway(RULES)
    async with client(gateway, subscribe="chat:gone") as wire:
        total = 0
        for _ in range(4):
            leaving = []
            for _ in range(10):
                raw = await _follower(gateway, kind)
                raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.append(raw)
            flood = asyncio.ensure_future(asyncio.to_thread(publish_many, gateway, "chat:gone", filled(range(40))))
            for raw in leaving:
                await wire.publication()
                total += 1
                await raw.close()
            await flood
            for _ in range(30):
                await wire.publication()
                total += 1
        assert gateway.process.poll() is None, f"the gateway ended with {gateway.process.poll()}"
        assert total == 160
        assert "Traceback" not in gateway.log()
        await until(lambda: gateway.api("info")["result"]["nodes"][0]["num_clients"] == 1, "they are forgotten")


async def _follower(gateway: RunningGateway, kind: str) -> Socket:
    if kind == "websocket":
        return await connected_socket(gateway, "chat:gone", small=True)
    raw = await Socket.open(gateway, small=True)
    await raw.send(f"GET /sse?channel=chat:gone&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await raw.reader.readuntil(b"connected")
    return raw


async def test_a_pipe_that_breaks_is_no_end(start_gateway: Start) -> None:
    """SIGPIPE is what the kernel sends to whoever writes to a connection that the client has reset."""
    gateway = start_gateway(RULES)
    gateway.process.send_signal(signal.SIGPIPE)
    assert gateway.http("GET", "/health/live")[0] == 200
    assert gateway.process.poll() is None


async def test_a_client_that_asks_for_much_and_never_reads_costs_little(start_gateway: Start) -> None:
    """Replies cannot wait in history, so who does not read them is not read from any more, and is cut off in the end."""
    gateway = start_gateway(RULES + "[limits]\nslow_seconds = 1\n")
    await asyncio.to_thread(publish_many, gateway, "member:big", filled(range(60)))
    async with await connected_socket(gateway, small=True) as raw:
        before, peak = memory_of(gateway), 0
        asking = asyncio.ensure_future(_ask_for_much(raw))
        try:
            for _ in range(20):
                await asyncio.wait((asking,), timeout=0.1)
                began = time.monotonic()
                await asyncio.to_thread(gateway.publish, "member:other", 1)
                assert time.monotonic() - began < 1, "another client waits for this one's answers"
                peak = max(peak, memory_of(gateway))
            assert peak - before < 64 * 2**20
            await until(lambda: "closed: 3008 slow" in gateway.log(), "it is closed")
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _ask_for_much(raw: Socket) -> None:
    """A gigabyte of answers, in commands of 70 bytes."""
    for number in range(2, 4000):
        await raw.say({"id": number, "history": {"channel": "member:big", "limit": -1}})


async def test_a_frame_that_subscribes_to_one_channel_again_and_again_costs_little(start_gateway: Start) -> None:
    """Each subscribe is answered with a page of what was missed: a thousandfold of what was asked. A ring has them at once."""
    gateway = start_gateway(RULES)
    async with await connected_socket(gateway, "chat:big"), await connected_socket(gateway, small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "chat:big", ["x" * 1300] * 100)
        before = memory_of(gateway)
        pair = [{"id": 2, "subscribe": {"channel": "chat:big", "recover": True}}, {"id": 3, "unsubscribe": {"channel": "chat:big"}}]
        await raw.say(*pair * 500)
        await asyncio.to_thread(gateway.publish, "chat:other", 1)
        assert "subscribe" in await raw.read_object()
        assert memory_of(gateway) - before < 16 * 2**20
