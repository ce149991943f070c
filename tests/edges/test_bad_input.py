"""Whatever clients send, each gets the protocol's answer and a line in the log, and no other client notices.

A bystander follows a channel during all of it; after each test it must have received every publication, in order.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
from typing import Any

import jwt
import pytest

from ..kit.bystander import Log
from ..kit.clients import Socket, client, connected_socket, frame, opened, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway
from ..kit.tokens import SECRET, token
from ..kit.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("nobody_else_notices")]

MESSAGE_BYTES = 65536
API_HEAD = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\nContent-Length: 1000\r\n\r\n".encode()

# The bystander answers pings only while a test waits for it.
TOKENS = f'[tokens]\nhmac_secret = "{SECRET}"\naudience = "here"\n'
gateway = shared_gateway(f"pong_seconds = 60\n{RULES}[limits]\napi_bytes = 9000000\n{TOKENS}", claims={"aud": "here"})


# Frames.


async def closes_with(gateway: RunningGateway, data: bytes, code: int, reason: str | None = None, *, connect: bool = True) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        if connect:
            await raw.say({"id": 1, "connect": {"token": gateway.token()}})
            assert "connect" in await raw.read_object()
        await raw.send(data)
        received = await raw.read_to_close()
        assert received[0] == code, received
        assert len(received[1].encode()) <= 123
        if reason is not None:
            assert received[1] == reason
        assert received[2] == [], "nothing of a bad message is acted on"


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
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
async def test_a_message_that_is_no_command_is_a_bad_request(gateway: RunningGateway, log: Log, name: str, opcode: int) -> None:
    no_text = name in ("binary garbage", "broken UTF-8")
    expected = (1007, "a message that is not UTF-8") if no_text else (3501, "bad request")
    await closes_with(gateway, frame(BAD_MESSAGES[name], opcode), *expected)
    await log.says("closed:")


async def test_an_unknown_field_is_ignored_or_refused_however_deep(gateway: RunningGateway) -> None:
    async with await connected_socket(gateway) as raw:
        await raw.send(frame(b'{"id":2,"rpc":{"method":"gateway.time"},"x":' + DEEP + b"}"))
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
        {"connect": {}},
        "{}",
    ],
    ids=str,
)
async def test_whatever_comes_before_connect_is_a_bad_request(gateway: RunningGateway, log: Log, first: Any) -> None:
    async with opened(gateway) as wire:
        await wire.send(first)
        assert await wire.ended() == (3501, "bad request")
    await log.says("closed: 3501 bad request")


async def test_a_message_to_the_server_itself_is_refused_as_not_available(gateway: RunningGateway, log: Log) -> None:
    await closes_with(gateway, frame(b'{"send":{"data":{"x":1}}}'), 3508, "not available")
    await log.says("closed: 3508 not available")


async def test_an_unmasked_frame_is_a_protocol_error(gateway: RunningGateway, log: Log) -> None:
    await closes_with(gateway, frame(b'{"id":2,"rpc":{"method":"gateway.time"}}', masked=False), 1002)
    await log.says("closed:", "mask")


BAD_FRAMES = {
    "an unknown opcode": frame(b"{}", 3),
    "an unknown control opcode": frame(b"{}", 15),
    "the bit of a compression that was not agreed on": frame(b"{}", bits=0x40),
    "a reserved bit": frame(b"{}", bits=0x10),
    "the continuation of nothing": frame(b"more", 0),
    "a message inside a message": frame(b"{", 1, fin=False) + frame(b"}", 1),
    "a long ping": frame(b"x" * 126, 9),
    "a ping in parts": frame(b"", 9, fin=False),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_frame_against_the_rules_is_a_protocol_error(gateway: RunningGateway, log: Log, name: str) -> None:
    await closes_with(gateway, BAD_FRAMES[name], 1002)
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


TOO_BIG = {
    "one byte more": frame(b" " * (MESSAGE_BYTES + 1)),
    "ten times as large": frame(b" " * 10 * MESSAGE_BYTES),
    "claims to be huge": b"\x81\xff" + (2**62).to_bytes(8) + b"mask",
    "many small fragments": frame(b" " * 1000, 1, fin=False) + frame(b" " * 1000, 0, fin=False) * 70,
}


@pytest.mark.parametrize("name", TOO_BIG)
async def test_a_message_over_the_limit_is_too_big(gateway: RunningGateway, log: Log, name: str) -> None:
    await closes_with(gateway, TOO_BIG[name], 1009)
    await log.says("closed:", *([str(MESSAGE_BYTES)] if "byte" in name or "times" in name else []))


async def test_a_message_of_just_the_limit_is_taken(gateway: RunningGateway) -> None:
    command = json.dumps({"id": 2, "rpc": {"method": "gateway.time", "data": ""}})
    command = command.replace('""', '"' + "x" * (MESSAGE_BYTES - len(command)) + '"')
    async with client(gateway) as wire:
        await wire.send(command)
        assert "rpc" in await wire.next()


async def test_a_client_that_breaks_off_in_the_middle_of_a_frame_leaves_no_trace(gateway: RunningGateway, log: Log) -> None:
    before = gateway.clients
    for ending in (b"\x81\xfe\x10", frame(b'{"id":2,"rpc":{"method":"gateway.time"}}')[:-3]):
        raw = await connected_socket(gateway)
        await raw.send(ending)
        plain = raw.writer.get_extra_info("socket")
        plain.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # SO_LINGER 0: a reset, as of a machine that lost its power
        await raw.close()
    await until(lambda: gateway.clients <= before, "the clients are forgotten")
    assert "Traceback" not in log.text


# Commands that are understood, and refused.


REFUSED = {
    "an unknown rpc method": ("rpc", {"method": "levitate"}, 108),
    "an rpc without a method": ("rpc", {}, 104),
    "subscribe without a channel": ("subscribe", {}, 107),
    "subscribe to null": ("subscribe", {"channel": None}, 107),
    "subscribe to an empty name": ("subscribe", {"channel": ""}, 107),
    "publish without a channel": ("publish", {"data": {}}, 107),
    "history without a channel": ("history", {}, 107),
    "unsubscribe without a channel": ("unsubscribe", {}, 107),
    "presence without a channel": ("presence", {}, 107),
    "presence_stats without a channel": ("presence_stats", {}, 107),
    "sub_refresh without a channel": ("sub_refresh", {"token": "t"}, 107),
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
    async with client(gateway) as wire:
        assert await wire.error(method, **request) == code
        assert "ms" in (await wire.result("rpc", method="gateway.time"))["data"]
    await log.says(f"{method} refused with {code}")


@pytest.mark.parametrize("depth", [300, 1000, 10_000])
@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
async def test_deeply_nested_data_is_refused(gateway: RunningGateway, log: Log, opening: bytes, closing: bytes, depth: int) -> None:
    deep = opening * depth + b"1" + closing * depth
    async with client(gateway, subscribe="member:deep") as wire:
        async with await connected_socket(gateway) as raw:
            await raw.send(frame(b'{"id":2,"publish":{"channel":"member:deep","data":' + deep + b"}}"))
            opcode, payload = await raw.read_frame()
            code = json.loads(payload)["error"]["code"] if opcode == 1 else int.from_bytes(payload[:2])
            assert code in (107, 3501)
        gateway.publish("member:deep", "after")
        assert (await wire.publication())["data"] == "after"
    await log.says("bad request", "nested") if code == 3501 else await log.says("refused with 107", "nested")


async def test_deep_connect_data_does_not_end_the_process(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        await raw.send(frame(b'{"id":1,"connect":{"token":"' + gateway.token().encode() + b'","data":' + DEEP + b"}}"))
        opcode, payload = await raw.read_frame()
        assert (opcode == 1 and "connect" in json.loads(payload)) or (opcode == 8 and int.from_bytes(payload[:2]) == 3501)


@pytest.mark.parametrize("last_id", ["x", "a:b", "e:-1", f"e:{2**53 + 1}", "e:1,e:2", "\x00", "é:1", ":" * 5000, "e:१"], ids=repr)
async def test_an_event_id_that_is_none_of_ours_is_a_gap(gateway: RunningGateway, log: Log, last_id: str) -> None:
    async with stream(gateway, "chat:odd-id", last_event_id=last_id) as events:
        connected, gap = await events.many(2)
        assert connected.data["channels"]["chat:odd-id"]["recovered"] is False
        assert gap.name == "gap"
    assert "Traceback" not in log.text


@pytest.mark.parametrize("since", ["x", "e:", f"e:{2**53 + 1}", "e:99999999999999999999", "e:-1", "e:1.5"])
async def test_a_malformed_position_is_a_bad_request_over_http(gateway: RunningGateway, log: Log, since: str) -> None:
    status, body = gateway.http("GET", f"/history?channel=chat:1&since={since}", headers={"Authorization": f"Bearer {gateway.token()}"})
    assert (status, json.loads(body)["error"]["code"]) == (400, 107)
    await log.says("history: refused with 107")


# Tokens.


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _tampered() -> str:
    head, _, signature = token(aud="here").split(".")
    return f"{head}.{_part({'sub': 'admin', 'aud': 'here'})}.{signature}"


BAD_TOKENS = {
    "no token at all": "garbage",
    "unsigned": f"{_part({'alg': 'HS256'})}.{_part({'sub': 'u1', 'aud': 'here'})}.",
    "signed with none": jwt.encode({"sub": "u1", "aud": "here"}, None, algorithm="none"),
    "signed with another secret": token(aud="here", secret="x" * 40),
    "signed with another algorithm": jwt.encode({"sub": "u1", "aud": "here"}, SECRET * 2, algorithm="HS512"),
    "for another audience": token(aud="elsewhere"),
    "for no audience": token(),
    "a subscription token": token(aud="here", channel="chat:1"),
    "a user that is a number": token(aud="here", sub=17),
    "an expiry that is text": token(aud="here", exp="soon"),
    "characters of no alphabet": "é.\u0000.\ud7ff",
    "very long": "a" * 40000 + "." + "b" * 10000 + ".c",
    "claims changed after signing": _tampered(),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_token_that_is_not_ours_is_an_invalid_token(gateway: RunningGateway, log: Log, name: str) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": BAD_TOKENS[name]}}, {"id": 2, "subscribe": {"channel": "open:1"}})
        assert await wire.ended() == (3500, "invalid token")
        assert wire.rest == [], "it does not make its bearer anonymous"
    await log.says("closed: 3500 invalid token")
    assert BAD_TOKENS[name][:40] not in log.text, "the log shows no token"


@pytest.mark.parametrize("name", [name for name in BAD_TOKENS if name != "characters of no alphabet"])
async def test_a_token_that_is_not_ours_is_refused_by_the_other_edges(gateway: RunningGateway, log: Log, name: str) -> None:
    async with stream(gateway, "open:1", token=BAD_TOKENS[name]) as events:
        if events.status != 431:
            (refused,) = await events.end()
            assert (refused.name, refused.data["code"]) == ("refused", 3500)
    status, _ = gateway.http("GET", "/history?channel=open:1", headers={"Authorization": f"Bearer {BAD_TOKENS[name]}"})
    assert status in (401, 431)
    await log.says("refused")
    assert "Traceback" not in log.text


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


CHUNKED = b"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: %b\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("part", [b"X-%d: %b\r\n", b"X%d%b", b"%d;%b"], ids=["trailers", "one trailer", "a chunk's extension"])
async def test_what_follows_a_body_without_end_is_cut_off(gateway: RunningGateway, log: Log, part: bytes) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(CHUNKED % b"none" + (b"0\r\n" if part.startswith(b"X") else b""))
        with contextlib.suppress(ConnectionError):
            for number in range(20):
                await raw.send(part % (number, b"y" * 8000))
            await raw.rest(4)  # in less than SILENT_SECONDS
    await log.says("larger than 65536 bytes")


MANY = {
    "headers": (b"GET /health/live HTTP/1.1\r\n" + b"a:\r\n" * 300 + b"\r\n", "more than 256 headers"),
    "fields of a query": (b"GET /history?" + b"a&" * 1100 + b" HTTP/1.1\r\nHost: h\r\n\r\n", "more than 1000 fields"),
    "escapes of a path": (b"GET /" + b"%41" * 1100 + b" HTTP/1.1\r\nHost: h\r\n\r\n", "more than 1000 fields and escapes of its path"),
    "trailers": (CHUNKED % b"none" + b"0\r\n" + b"a:\r\n" * 300 + b"\r\n", "more than 256 headers"),
    "chunks": (CHUNKED % API_KEY.encode() + b"1\r\nx\r\n" * 1100 + b"0\r\n\r\n", "chunks of less than 64 bytes"),
}


@pytest.mark.parametrize("name", MANY)
async def test_a_request_of_very_many_small_parts_is_cut_off(gateway: RunningGateway, log: Log, name: str) -> None:
    request, reason = MANY[name]
    async with await Socket.open(gateway) as raw:
        await raw.send(request)
        assert b"HTTP/1.1 400 " in await raw.rest(4)
    await log.says(reason)


async def test_a_body_in_many_chunks_of_a_usual_size_is_read(gateway: RunningGateway) -> None:
    chunk = b"%x\r\n%b\r\n" % (100, b" " * 100)
    async with await Socket.open(gateway) as raw:
        await raw.send(CHUNKED % API_KEY.encode() + chunk * 5000 + b'1d\r\n{"channel":"open:m","data":5}\r\n0\r\n\r\n')
        status, _, body = await raw.answer()
    assert status == 200 and b"result" in body, body


async def test_trailers_are_no_headers(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(CHUNKED % b"none" + b"2\r\n{}\r\n0\r\nX-API-Key: " + API_KEY.encode() + b"\r\n\r\n")
        assert (await raw.answer())[0] == 401


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
async def test_an_incomplete_handshake_is_refused(gateway: RunningGateway, log: Log, missing: dict[str, str], status: int | None) -> None:
    async with await Socket.open(gateway) as raw:
        answered = await raw.upgrade(headers=missing)
        assert answered == status if status else 400 <= answered < 500
    assert "Traceback" not in log.text


async def test_a_handshake_after_an_unanswered_request_is_refused(gateway: RunningGateway, log: Log) -> None:
    """The answer would come between the frames."""
    handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    async with await Socket.open(gateway) as raw:
        await raw.send(
            b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\nGET /connection/websocket HTTP/1.1\r\nHost: h\r\n" + handshake + b"\r\n"
        )
        assert await raw.rest() == b"", "a refusal would be taken for the answer to the request before it"
    await until(lambda: "handshake came before an earlier request was answered" in log.text, "it is logged")
    assert "Traceback" not in log.text
