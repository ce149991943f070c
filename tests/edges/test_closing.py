"""Clients that vanish together, as behind a proxy that ends: their sockets are closed a few in each turn of the loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config import Config
from gateway.edges.first_read import FirstRead
from gateway.edges.http_protocol import HttpProtocol
from gateway.edges.outlets import Direct
from gateway.edges.websocket import WebSocketConnection
from gateway.session.admission import CLOSED_AT_ONCE

from ..kit.clients import Socket
from ..kit.served import served_here
from ..kit.turns import TurnCounter
from ..kit.waiting import until

CLIENTS = 3 * CLOSED_AT_ONCE + 1


@pytest.fixture
async def served(valkey_url: str, prefix: str) -> AsyncIterator[SimpleNamespace]:
    rules = {"open": {"subscribe": "anyone", "history": "anyone"}}
    async with served_here(Config(prefix=prefix, namespaces=rules), valkey_url) as port:
        yield SimpleNamespace(port=port)


async def silent(raw: Socket) -> None:
    """It asks nothing."""


async def websocket(raw: Socket) -> None:
    assert await raw.upgrade() == 101
    await raw.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "open:1"}})
    await raw.reader.readuntil(b'"id":2')


async def event_stream(raw: Socket) -> None:
    await raw.send(b"GET /sse?channel=open:1 HTTP/1.1\r\nHost: h\r\n\r\n")
    await raw.reader.readuntil(b"event: connected")


async def kept_alive(raw: Socket) -> None:
    assert (await raw.request("GET", "/history?channel=open:1"))[0] == 200


@pytest.mark.parametrize(
    ("kind", "begin"),
    [(FirstRead, silent), (WebSocketConnection, websocket), (Direct, event_stream), (HttpProtocol, kept_alive)],
    ids=["silent", "WebSocket", "SSE", "HTTP"],
)
async def test_those_who_vanish_together_are_closed_a_few_in_each_turn(
    kind: Any, begin: Callable[[Socket], Awaitable[None]], served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = [await Socket.open(served) for _ in range(CLIENTS)]
    for raw in sockets:
        await begin(raw)
    lose = kind.connection_lost
    with TurnCounter() as turns:
        monkeypatch.setattr(kind, "connection_lost", lambda self, error: (turns.note(), lose(self, error))[1])
        for raw in sockets:  # before the loop has another turn
            raw.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await until(lambda: turns.total == CLIENTS, "all are closed")
    assert turns.most <= CLOSED_AT_ONCE
    for raw in sockets:
        assert await raw.rest() is not None
        await raw.close()
