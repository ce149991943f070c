"""What a client must have done in time, and what becomes of one that has not; all of it begins when the module does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from gateway.config import Limits
from gateway.edges import time_limits
from gateway.session import deadlines

from ..kit.bystander import Bystander
from ..kit.clients import Socket, client
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway
from ..kit.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("nobody_else_notices")]

SECONDS = {"gateway.edges.time_limits.SILENT_SECONDS": 2.0, "gateway.session.deadlines.GRACE_SECONDS": 2.0}

gateway = shared_gateway(f"pong_seconds = 60\n{RULES}[limits]\nfirst_command_seconds = 2\n", seconds=SECONDS)


async def test_without_a_tests_impatience_it_is_ten_seconds_for_a_request_and_25_for_a_new_token() -> None:
    assert (time_limits.SILENT_SECONDS, Limits().first_command_seconds, deadlines.GRACE_SECONDS) == (10, 10, 25)


async def _silent_socket(gateway: RunningGateway) -> tuple[float, int, str]:
    began = time.monotonic()
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        code, reason, _ = await raw.read_to_close(20)
        return time.monotonic() - began, code, reason


async def _half_request(gateway: RunningGateway, start: bytes) -> tuple[float, bytes]:
    began = time.monotonic()
    async with await Socket.open(gateway) as raw:
        await raw.send(start)
        return await _answer_and_seconds(raw, began)


async def _answer_and_seconds(raw: Socket, began: float) -> tuple[float, bytes]:
    answer = await raw.rest(20)
    return time.monotonic() - began, answer


async def _empty_line_after_an_answer(gateway: RunningGateway) -> tuple[float, bytes]:
    async with await Socket.open(gateway) as raw:
        assert (await raw.request("GET", "/health/live"))[0] == 200
        began = time.monotonic()
        await raw.send(b"\r\n")
        return await _answer_and_seconds(raw, began)


async def _dripping_request(gateway: RunningGateway) -> tuple[float, bytes]:
    """Byte after byte: each is progress, the whole is none."""
    async with await Socket.open(gateway) as raw:
        began = time.monotonic()
        await raw.send(b"GET /health/live HTTP/1.1\r\nX-Long: ")
        answer = asyncio.ensure_future(raw.rest(20))
        while not answer.done():
            await asyncio.wait((answer,), timeout=0.2)
            if not answer.done():
                raw.writer.write(b"x")
        return time.monotonic() - began, await answer


async def _expired_connection(gateway: RunningGateway) -> tuple[float, tuple[int, str]]:
    began = time.monotonic()
    async with client(gateway, token=gateway.token(seconds=3)) as wire:
        return (await wire.ended(60), time.monotonic() - began)[::-1]


async def _expired_subscription(gateway: RunningGateway) -> tuple[float, dict[str, Any]]:
    async with client(gateway) as wire:
        began = time.monotonic()
        await wire.result("subscribe", channel="chat:expires", token=gateway.token(channel="chat:expires", seconds=3))
        push = await wire.next(60)
        await wire.result("subscribe", channel="chat:expires")  # the connection stays
        return time.monotonic() - began, push


async def _request_after_a_stream(gateway: RunningGateway) -> list[bytes]:
    """A whole request and half of one, in one segment with the stream's. It stays a stream, and its end is noticed. Its statuses."""
    head = f"Host: h\r\nAuthorization: Bearer {gateway.token('after')}\r\n".encode()
    async with await Socket.open(gateway) as raw:
        stream = b"GET /sse?channel=chat:after HTTP/1.1\r\n" + head + b"\r\n"
        await raw.send(stream + b"GET /health/live HTTP/1.1\r\n" + head + b"\r\nGET /hea")
        await asyncio.sleep(4)  # longer than a request may take
        await gateway.ask("publish", channel="chat:after", data="still a stream")
        got = await asyncio.wait_for(raw.reader.readuntil(b"still a stream"), 5)
    await until(lambda: not gateway.api("presence_stats", channel="chat:after")["result"]["num_clients"], "its end is noticed")
    return [line for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1")]


API_HEAD = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\nContent-Length: 1000\r\n\r\n".encode()
PATIENT: dict[str, Callable[[RunningGateway], Awaitable[Any]]] = {
    "a WebSocket without a word": _silent_socket,
    "a connection without a word": lambda gateway: _half_request(gateway, b""),
    "half a head": lambda gateway: _half_request(gateway, b"GET /sse?channel=chat:1 HTTP/1.1\r\nHost: h\r\n"),
    "half a handshake": lambda gateway: _half_request(gateway, b"GET /connection/websocket HTTP/1.1\r\nUpgrade: websocket\r\n"),
    "half a body": lambda gateway: _half_request(gateway, API_HEAD + b'{"channel":'),
    "an empty line after an answer": _empty_line_after_an_answer,
    "byte after byte": _dripping_request,
    "requests after a stream": _request_after_a_stream,
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


async def test_a_websocket_without_a_command_becomes_stale(patient: dict[str, Any], gateway: RunningGateway, bystander: Bystander) -> None:
    seconds, code, reason = await outcome(patient["a WebSocket without a word"], bystander)
    assert (code, reason) == (3502, "stale")
    assert 1.9 < seconds < 8
    assert "closed: 3502 stale" in gateway.log()


@pytest.mark.parametrize(
    "name",
    ["half a head", "half a handshake", "half a body", "a connection without a word", "an empty line after an answer", "byte after byte"],
)
async def test_an_endless_request_times_out(patient: dict[str, Any], gateway: RunningGateway, bystander: Bystander, name: str) -> None:
    seconds, answer = await outcome(patient[name], bystander)
    assert 1.9 < seconds < 8
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "not complete after 2 s" in gateway.log()
    assert "Traceback" not in gateway.log()


async def test_requests_after_a_stream_are_ignored_and_do_not_harm_it(patient: dict[str, Any], bystander: Bystander) -> None:
    assert await outcome(patient["requests after a stream"], bystander) == [b"HTTP/1.1 200 OK"]


async def test_an_expired_connection_ends_after_its_grace(patient: dict[str, Any], bystander: Bystander) -> None:
    seconds, closed = await outcome(patient["an expired connection"], bystander)
    assert closed == (3005, "connection expired")
    assert 3.9 < seconds < 12, "a token for 3 s, and 2 s to bring another"


async def test_an_expired_subscription_ends_after_its_grace(patient: dict[str, Any], bystander: Bystander) -> None:
    seconds, push = await outcome(patient["an expired subscription"], bystander)
    assert push == {"push": {"channel": "chat:expires", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}}
    assert 3.9 < seconds < 12, "a token for 3 s, and 2 s to bring another"
