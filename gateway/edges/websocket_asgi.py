"""A WebSocket connection of any ASGI server: the same session behind a slower outlet.

What is written waits in a list that one task sends on; past ``limits.waiting_bytes`` the client is behind, as on the fast
edge. ASGI does not say when a socket drained, only when a message was taken, so the server's own buffer comes on top.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import parse_qs

from ..errors import Disconnect
from ..live.wire_formats import ChannelView
from ..publication import Publication
from ..rules.protocol import PING, publication_json
from ..session.node import Node
from ..session.session import Session
from .request import NO_PROTOBUF, NOT_LISTED, asks_for_protobuf, client_address, origin_allowed
from .websocket import PATH, REASON_BYTES

__all__ = ["serve_websocket"]

log = logging.getLogger("gateway.websocket")


class TextWire:
    """Publications that go out together are the lines of one message."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        prefix = channel.push_prefix
        return b"\n".join([b"%b%b}}" % (prefix, publication_json(publication)) for publication in publications])


TEXT = TextWire()


class AsgiConnection:
    """The outlet: ``receive_all`` reads, ``send_all`` writes; each is a task, and the first to end ends the other."""

    wire = TEXT
    native_pings = False
    return_path: dict[str, bytes] = {}

    def __init__(self, node: Node, scope: Any, receive: Any, send: Any) -> None:
        self._node = node
        self._receive, self._send = receive, send
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._more = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._held = False
        self._close: tuple[int, str] | None = None
        self.paused = False
        address = client_address(scope.get("client"), scope["headers"], node.config.proxies)
        self.session = Session(node, self, node.hub.now(), address)

    # Outlet.

    def write(self, text: bytes) -> None:
        if self._close is not None:
            return
        self._waiting.append(text)
        self._bytes += len(text)
        self._more.set()
        if self._bytes > self._node.config.limits.waiting_bytes and not self.paused:
            self.paused = True
            self._read_or_not()
            self.session.fell_behind(self._node.hub.now())

    send = write

    def flush(self) -> None:
        """Everything leaves in the order in which it was written."""

    def ping(self) -> None:
        self.write(PING)

    def hold_reading(self, hold: bool) -> None:
        self._held = hold
        self._read_or_not()

    def disconnect(self, code: int, reason: str) -> None:
        self._close = (code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._more.set()
        self._readable.set()

    def _read_or_not(self) -> None:
        if self._held or self.paused:
            self._readable.clear()
        else:
            self._readable.set()

    # Tasks.

    async def receive_all(self) -> None:
        most = self._node.config.limits.message_bytes
        while True:
            await self._readable.wait()
            message = await self._receive()
            if message["type"] != "websocket.receive" or self._close is not None:
                return
            text = message.get("text")
            data = text.encode() if text is not None else message.get("bytes") or b""
            if len(data) > most:
                self.session.closed()
                self.disconnect(1009, "message too big")
                continue
            self.session.receive(data)

    async def send_all(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            waiting, self._waiting, self._bytes = self._waiting, [], 0
            if waiting:
                await self._send({"type": "websocket.send", "text": b"\n".join(waiting).decode()})
            if self.paused and not self._waiting:
                self.paused = False
                self.session.drained()
                self._read_or_not()
            if self._close is not None and not self._waiting:
                code, reason = self._close
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return


async def serve_websocket(node: Node, path: str, scope: Any, receive: Any, send: Any) -> None:
    """One connection, from its handshake to its end."""
    await receive()  # websocket.connect
    fault = _fault(node, path, scope)
    if fault:
        log.info("handshake refused with %d: %s", *fault)
        await _refuse(scope, send, *fault)
        return
    subprotocol = "centrifuge-json" if "centrifuge-json" in scope.get("subprotocols", ()) else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    try:
        connection = AsgiConnection(node, scope, receive, send)
    except Disconnect as disconnect:
        await send({"type": "websocket.close", "code": disconnect.code, "reason": disconnect.reason})
        return
    tasks = [asyncio.create_task(connection.receive_all()), asyncio.create_task(connection.send_all())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        connection.session.closed()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refuse(scope: Any, send: Any, status: int, text: str) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": text})  # before accept: the server answers 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": f"{text}\n".encode()})


def _fault(node: Node, path: str, scope: Any) -> tuple[int, str] | None:
    """Status and sentence of a handshake that is refused."""
    fields = {name: value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    if path != PATH:
        return 404, f"WebSocket lives at {PATH}"
    if asks_for_protobuf(query, ",".join(scope.get("subprotocols", ()))):
        return 400, NO_PROTOBUF
    if not origin_allowed(fields.get(b"origin", ""), fields.get(b"host", ""), node.config.allowed_origins):
        return 403, NOT_LISTED
    return None
