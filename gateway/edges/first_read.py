"""An accepted socket until its first bytes: most of them are WebSocket handshakes, and need nothing of what HTTP needs.

    accepted ──▶ FirstRead ──a handshake, whole and alone──▶ WebSocketConnection
                     └──any other bytes, or none in time──▶ HttpProtocol, which is given them

An ``HttpProtocol`` has a parser, a flow control and a scope, and takes a quarter of a connect's time. So a handshake that came in one read is
read here by one strict expression. What that does not match is not refused: HttpProtocol judges it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from ..runtime.wheel import Wheel
from ..session.node import Node
from ..session.places import UNLIMITED
from . import time_limits
from .closing import stays_open
from .http_bounds import FIELDS_MOST
from .http_protocol import HttpProtocol
from .request import socket_address
from .websocket import WebSocketConnection
from .websocket_handshake import PATH

__all__ = ["FirstRead", "read_handshake"]

HANDSHAKE_BYTES = 8 * 1024  # a longer head is HttpProtocol's
_HANDSHAKE = re.compile(
    rb"GET (%b(?:\?[!-~]*)?) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n" % re.escape(PATH.encode()),
)
_FIELD = re.compile(rb"([A-Za-z0-9-]+): *([ -~]*)\r\n")  # HttpProtocol's parser leaves spaces at the end, too
_WITH_BODY = (b"content-length", b"transfer-encoding", b"expect")


def read_handshake(data: bytes) -> tuple[str, list[tuple[bytes, bytes]]] | None:
    """The URL and the headers, with names in lower case, of a WebSocket handshake; None if ``data`` is anything else, or more than that."""
    found = _HANDSHAKE.fullmatch(data) if len(data) <= HANDSHAKE_BYTES else None
    if found is None or found[1].count(b"&") > FIELDS_MOST:
        return None
    headers = [(name.lower(), value) for name, value in _FIELD.findall(found[2])]
    fields = dict(headers)
    if fields.get(b"upgrade", b"").lower() != b"websocket" or not fields.keys().isdisjoint(_WITH_BODY):
        return None
    connection = fields.get(b"connection", b"").lower()
    if connection != b"upgrade" and b"upgrade" not in [token.strip() for token in connection.split(b",")]:
        return None
    return found[1].decode("ascii"), headers


class FirstRead(asyncio.Protocol):
    """uvicorn makes it where it would make an HttpProtocol, and gives it what that takes."""

    __slots__ = ("_app_state", "_config", "_loop", "_made_at", "_peer", "_server_state", "_transport", "bucket", "place")

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self.bucket = 0
        self.place = UNLIMITED

    @property
    def _node(self) -> Node:
        node: Node = self._app_state["node"]
        return node

    @property
    def _wheel(self) -> Wheel:
        return self._node.wheel

    def connection_made(self, transport: Any) -> None:
        node = self._node
        self._transport = transport
        self._peer = transport.get_extra_info("peername")
        if node.admission.places.limited:
            self.place = node.admission.places.open(transport, socket_address(self._peer, node.config.proxies))
        self._server_state.connections.add(self)
        self._made_at = self._loop.time()
        node.wheel.set(self, self._made_at + time_limits.SILENT_SECONDS)

    def data_received(self, data: bytes) -> None:
        handshake = read_handshake(data)
        if handshake is None:
            self._serve_http().data_received(data)
            return
        self._hand_over()
        connection = WebSocketConnection(self._config, self._server_state, self._app_state, self._loop)
        connection.place = self.place
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        connection.shake_hands("GET", handshake[0], "1.1", handshake[1], self._peer)

    def _serve_http(self) -> HttpProtocol:
        """Gives the connection to an HttpProtocol, whose clock of the first request began when the socket was accepted."""
        self._hand_over()
        http = HttpProtocol(self._config, self._server_state, self._app_state, self._loop)
        http.place = self.place
        self._transport.set_protocol(http)
        http.connection_made(self._transport)
        http.await_request(self._made_at)
        return http

    def _hand_over(self) -> None:
        self._wheel.remove(self)
        self._server_state.connections.discard(self)

    def tick(self, now: float) -> float | None:
        """The wheel calls it: the client sent nothing in time, and HttpProtocol answers that."""
        self._serve_http().tick(now)
        return None

    def eof_received(self) -> bool:
        return stays_open(self._transport, self._node.admission.closings)

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.release()
        self._hand_over()

    def shutdown(self) -> None:
        """uvicorn calls it when the process ends: the client has asked nothing yet, so its connection is closed."""
        self._transport.close()
