"""What is left of a connection that is closed: nothing that waits for a search for cycles, which comes late in a process with many clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.server import ServerProtocol

from gateway.app import Gateway
from gateway.config import Config
from gateway.edges.api.direct import DirectCalls
from gateway.edges.emulation import EmulationStream
from gateway.edges.first_read import FirstRead
from gateway.edges.http_protocol import HttpProtocol
from gateway.edges.outlets import Buffered, Direct
from gateway.edges.sse.stream import EventStream
from gateway.edges.websocket import WebSocketConnection
from gateway.edges.websocket_asgi import AsgiConnection
from gateway.live.channel import Channel
from gateway.rules.identity import Identity
from gateway.session.client_subscription import ClientSubscription
from gateway.session.session import Session

from ..kit.clients import Socket, frame
from ..kit.served import FAST, served_here
from ..kit.waiting import until

# What one connection has, of any edge. The other server has a ServerProtocol of its own, which it does not take apart.
KINDS = {
    *(WebSocketConnection, AsgiConnection, FirstRead, HttpProtocol, DirectCalls),
    *(Direct, Buffered, EmulationStream, EventStream, Session, ClientSubscription),
}
KINDS_OF = {"fast": KINDS | {ServerProtocol}, "asgi": KINDS}
KEY = "k1"
SERVERS: dict[str, dict[str, Any]] = {
    "fast": FAST,
    "asgi": {"http": "h11", "ws": "websockets-sansio"},
}


async def _send(data: bytes) -> None:
    raise AssertionError("nothing is pumped")


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
async def test_a_stream_that_is_closed_is_freed_at_once(valkey_url: str, prefix: str, names: tuple[str, ...]) -> None:
    gateway = Gateway(Config(prefix=prefix), valkey_url)
    await gateway.start()
    try:
        opened = EventStream(gateway.node, Buffered(_send), Identity("u"), dict.fromkeys(names), {})
        async with asyncio.timeout(10):
            while not opened.connected:
                await asyncio.sleep(0.001)
        gc.collect()
        gc.disable()
        opened.gone()
        del opened
        assert not [
            each for each in gc.get_objects() if type(each) is EventStream
        ]  # isinstance asks lazy objects of other tests for their class
    finally:
        gc.enable()
        await gateway.stop()


class Served:
    """A gateway in this process, on a port."""

    def __init__(self, port: int, kinds: set[type]) -> None:
        self.port = port
        self._kinds = kinds

    def held(self) -> Counter[str]:
        """How many objects there are of each kind."""
        return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in self._kinds)


@pytest.fixture
async def served(request: pytest.FixtureRequest, valkey_url: str, prefix: str) -> AsyncIterator[Served]:
    rules = {"open": {"subscribe": "anyone", "publish": "anyone", "history": "anyone"}}
    async with served_here(Config(prefix=prefix, api_keys=[KEY], namespaces=rules), valkey_url, SERVERS[request.param]) as port:
        yield Served(port, KINDS_OF[request.param])


@contextlib.contextmanager
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def followed(raw: Socket) -> None:
    """A WebSocket that is connected, and follows a channel."""
    assert await raw.upgrade() == 101
    await raw.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "open:1"}})
    assert b'"id":2' in await raw.reader.readuntil(b'"id":2')


async def closed_properly(raw: Socket) -> None:
    await followed(raw)
    await raw.send(frame((1000).to_bytes(2), 8))
    await raw.rest()


async def closed_by_the_gateway(raw: Socket) -> None:
    await followed(raw)
    await raw.say("no JSON")
    await raw.reader.readuntil(b"bad request")


async def reset(raw: Socket) -> None:
    raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.writer.transport.abort()


async def reset_websocket(raw: Socket) -> None:
    await followed(raw)
    await reset(raw)


async def against_the_protocol(raw: Socket) -> None:
    await followed(raw)
    await raw.send(frame(b"{}", masked=False))
    await raw.rest()


async def too_large(raw: Socket) -> None:
    await followed(raw)
    await raw.send(frame(b"x" * 70_000))
    await raw.rest()


async def emulated(raw: Socket) -> None:
    body = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:1"}}'
    await raw.send(b"POST /connection/http_stream HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await raw.reader.readuntil(b'"id":2')


async def event_stream(raw: Socket) -> None:
    await raw.send(b"GET /sse?channel=open:1 HTTP/1.1\r\nHost: h\r\n\r\n")
    await raw.reader.readuntil(b"event: connected")


async def kept_alive(raw: Socket) -> None:
    for _ in range(2):
        assert (await raw.request("GET", "/history?channel=open:1"))[0] == 200


async def kept_alive_and_reset(raw: Socket) -> None:
    await kept_alive(raw)
    await reset(raw)


async def published(raw: Socket) -> None:
    body = json.dumps({"channel": "open:1", "data": 1}).encode()
    for _ in range(3):
        assert (await raw.request("POST", "/api/publish", {"X-API-Key": KEY}, body))[0] == 200


OF_BOTH = (closed_properly, reset_websocket, emulated, event_stream)
OF_OURS = (closed_by_the_gateway, against_the_protocol, too_large, kept_alive, kept_alive_and_reset, published)
WAYS = [pytest.param("fast", way) for way in (*OF_BOTH, *OF_OURS)] + [pytest.param("asgi", way) for way in OF_BOTH]


@pytest.mark.parametrize("served, way", WAYS, indirect=["served"])
async def test_nothing_is_left_of_a_connection_however_it_ended(served: Served, way: Callable[[Socket], Awaitable[None]]) -> None:
    with no_search_for_cycles():
        before = served.held()
        async with await Socket.open(served) as raw:
            await way(raw)
        await until(lambda: served.held() == before, "all of it is freed")


class Observer:
    def on_join_leave(self, joins_and_leaves: list[Any]) -> None:
        raise AssertionError("nobody comes")


def channels() -> list[str]:
    return [each.name for each in gc.get_objects() if type(each) is Channel]


async def test_a_channel_whose_joins_were_observed_is_freed_when_nobody_follows_it_any_more(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.live.hub.IDLE_SECONDS", 0.0)
    gateway = Gateway(Config(prefix=prefix), valkey_url)
    await gateway.start()
    try:
        with no_search_for_cycles():
            observer = Observer()
            gateway.node.hub.channel("posts:observed").observe_joins_and_leaves(observer)
            gateway.node.hub.channel("posts:observed").ignore_joins_and_leaves(observer)
            await until(lambda: "posts:observed" not in channels(), "it is dropped")
    finally:
        await gateway.stop()
