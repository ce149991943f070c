"""Requests that come before the answers to those before them: every one is answered, in order, and what is not read costs little."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.edges.http_bounds import HEAD_BYTES

from ..kit.clients import Socket
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start, shared_gateway
from ..kit.publishing import publish_many
from ..kit.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIVE = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
ABSENT = b"GET /absent HTTP/1.1\r\nHost: h\r\n\r\n"
SECONDS = {"gateway.edges.time_limits.CLOSE_SECONDS": 1.0}

gateway = shared_gateway(RULES + "[limits]\nslow_seconds = 1\n", seconds=SECONDS)


def publish(data: str, *, chunked: bool = False) -> bytes:
    """A request of the server API, whose body may hold blank lines."""
    body = json.dumps({"channel": "chat:pipelined", "data": data}).encode().replace(b", ", b",\r\n\r\n")
    head = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\n".encode()
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 64, 100_000], ids="{} bytes at a time".format)
async def test_all_are_answered_in_order_wherever_the_segments_end(gateway: RunningGateway, size: int) -> None:
    one = LIVE + publish("a") + ABSENT + b"\r\n\r\n" + publish("b", chunked=True) + LIVE
    sent = one * (1 if size == 1 else 40)
    async with await Socket.open(gateway) as raw:
        for start in range(0, len(sent), size):
            await raw.send(sent[start : start + size])
            if size < 64:
                await asyncio.sleep(0)
        statuses = [(await raw.answer())[0] for _ in range(5 * sent.count(ABSENT))]
    assert statuses == [200, 200, 404, 200, 200] * sent.count(ABSENT)


@pytest.mark.parametrize("size", [1, 64, 100_000], ids="{} bytes at a time".format)
@pytest.mark.parametrize("path", ["/api/publish", "/absent"])
async def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(gateway: RunningGateway, path: str, size: int) -> None:
    """Java's client asks for HTTP/2 so. A proxy in front passes the body on as a body: what it holds has passed none of its rules."""
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    sent = b""
    for chunked in (False, True):
        head, _, body = publish(LIVE.decode(), chunked=chunked).replace(b"/api/publish", path.encode()).partition(b"\r\n\r\n")
        sent += head + b"\r\n" + asks + b"\r\n" + body + LIVE
    async with await Socket.open(gateway) as raw:
        for start in range(0, len(sent), size):
            await raw.send(sent[start : start + size])
            await asyncio.sleep(0)
        statuses = [(await raw.answer())[0] for _ in range(4)]
    assert statuses == [200 if path == "/api/publish" else 404, 200] * 2


async def test_a_request_that_asks_for_another_protocol_may_be_the_last_of_its_connection(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(publish("last").replace(b"\r\n", b"\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n", 1))
        assert (await raw.answer())[0] == 200 and await raw.rest() == b""


async def test_the_offsets_of_pipelined_publishes_are_in_their_order(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(b"".join(publish(str(number), chunked=number % 2 == 0) for number in range(300)))
        offsets = [json.loads((await raw.answer())[2])["result"]["offset"] for _ in range(300)]
    assert offsets == list(range(offsets[0], offsets[0] + 300))


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_long_body_and_the_beginning_of_the_next_head_may_come_in_one_read(gateway: RunningGateway, chunked: bool) -> None:
    """The body is no part of that head, which is short."""
    first, second = publish("x" * 2 * HEAD_BYTES, chunked=chunked), publish("after")
    async with await Socket.open(gateway) as raw:
        await raw.send(publish("before"))
        before = json.loads((await raw.answer())[2])["result"]["offset"]
        await raw.send(first + second[:30])
        assert json.loads((await raw.answer())[2])["result"]["offset"] == before + 1
        await raw.send(second[30:])
        assert json.loads((await raw.answer())[2])["result"]["offset"] == before + 2


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bad", [b"\0\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b"POST /api/publish HTTP/1.1\r\n" + b"a:\r\n" * 300 + b"\r\n"])
async def test_what_is_no_request_is_not_answered_in_the_place_of_one_before_it(gateway: RunningGateway, bad: bytes, count: int) -> None:
    """A caller that took its 400 for the answer to a publish would publish again."""
    async with await Socket.open(gateway) as raw:
        await raw.send(publish("first"))
        assert (await raw.answer())[0] == 200
        await raw.send(publish("second") * count + bad)
        assert not (await raw.rest()).startswith(b"HTTP/1.1 400")


async def test_what_is_sent_and_never_read_costs_little_and_goes_with_its_connection(gateway: RunningGateway) -> None:
    """All of it parsed at once costs a hundred times of its bytes."""
    before, sockets = gateway.memory(), [await Socket.open(gateway, small=True) for _ in range(10)]
    for raw in sockets:
        raw.writer.write(LIVE * 6000)
    await asyncio.sleep(0.5)
    assert (await gateway.ask("info"))["nodes"]
    assert gateway.memory() - before < 12 * 2**20
    for raw in sockets:
        raw.writer.transport.abort()
    await asyncio.sleep(0.2)
    assert gateway.memory() - before < 12 * 2**20
    assert "Traceback" not in gateway.log()


# Answers that are not read.

BIG = "x" * 60_000


async def fill(gateway: RunningGateway, channel: str) -> None:
    """Six megabytes of history: more than the kernel holds."""
    await asyncio.to_thread(publish_many, gateway, channel, [BIG] * 100)


async def ask_for_history(gateway: RunningGateway, channel: str, header: str = "") -> Socket:
    """Its answer is not read."""
    raw = await Socket.open(gateway, small=True)
    body = json.dumps({"channel": channel, "limit": 100}).encode()
    head = f"POST /api/history HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\nContent-Length: {len(body)}\r\n{header}\r\n"
    await raw.send(head.encode() + body)
    return raw


async def test_an_answer_that_is_not_read_is_cut_off(gateway: RunningGateway) -> None:
    await fill(gateway, "chat:unread")
    async with await ask_for_history(gateway, "chat:unread"):
        await until(lambda: "an answer was not read for 1 s: closed" in gateway.log(), "it is cut off")


async def test_a_closing_connection_that_is_not_read_is_cut_off(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nwaiting_bytes = 10000000\n", seconds=SECONDS)  # all of it is written at once
    await fill(gateway, "chat:closing")
    async with await ask_for_history(gateway, "chat:closing", "Connection: close\r\n"):
        await until(lambda: "a closing connection was not read for 1 s: closed" in gateway.log(), "it is cut off")


@pytest.mark.parametrize("header", ["", "Connection: close\r\n"], ids=["kept alive", "closing"])
async def test_a_slow_client_that_reads_on_gets_the_whole_answer(start_gateway: Start, header: str) -> None:
    """Much longer than slow_seconds for all of it, but some in each of them, on a busy machine too. Where the connection closes after the answer,
    that had to be read within CLOSE_SECONDS."""
    gateway = start_gateway(RULES + "[limits]\nslow_seconds = 2.5\n", seconds={"gateway.edges.time_limits.CLOSE_SECONDS": 2.5})
    await fill(gateway, "chat:slowly")
    async with await ask_for_history(gateway, "chat:slowly", header) as raw:
        _, headers = await raw.head()
        left, read = int(headers["content-length"]), 0
        for _ in range(5):
            await asyncio.sleep(0.9)
            read += len(await raw.reader.readexactly(left // 8))
        await raw.reader.readexactly(left - read)
        assert header or (await raw.request("GET", "/health/live"))[0] == 200


async def test_answers_that_are_not_read_and_requests_that_never_end_hold_up_no_restart(start_gateway: Start) -> None:
    gateway = start_gateway(RULES, seconds=SECONDS)
    await fill(gateway, "chat:restart")
    async with (
        await ask_for_history(gateway, "chat:restart"),
        await Socket.open(gateway) as half,
        await Socket.open(gateway, small=True) as many,
    ):
        await half.send(publish("half")[:-1])
        many.writer.write(LIVE * 6000)
        await asyncio.sleep(0.2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await asyncio.to_thread(gateway.stop) == 0
        assert loop.time() - began < 10, "a drain of 10 s, and 5 more, are for clients that read"


async def test_a_stream_after_whose_request_garbage_comes_is_no_error_of_ours(gateway: RunningGateway) -> None:
    """The connection ends before the stream has begun."""
    for request in (
        f"GET /sse?channel=chat:1&token={gateway.token()} HTTP/1.1",
        "GET /connection/sse?cf_connect=%7B%22id%22%3A1%7D HTTP/1.1",
    ):
        async with await Socket.open(gateway) as raw:
            await raw.send(f"{request}\r\nHost: h\r\n\r\n\0garbage\r\n\r\n".encode())
            assert await raw.rest() == b""
    async with await Socket.open(gateway) as raw:
        await raw.send(LIVE)
        assert (await raw.answer())[0] == 200
    assert "ERROR" not in gateway.log()
