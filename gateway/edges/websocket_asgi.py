"""A WebSocket connection of any ASGI server: the same session with a slower outlet.

What is written waits in a buffer that one task sends on; past ``limits.waiting_bytes`` its socket counts as full, as on the
fast edge. ASGI does not report that a socket has drained, only that a message was taken, so the server's own buffer comes on top.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from ..errors import Disconnect
from ..live.wire_formats import ChannelView
from ..publication import Publication
from ..rules.json_text import is_utf8
from ..rules.protocol import PING, publication_json
from ..session.client_counts import BY_WEBSOCKET, FROM_WEBSOCKET
from ..session.node import Node
from ..session.session import Session
from .outlets import CLOSE_SECONDS, Buffered
from .request import client_address, protocol_fields
from .session_outlet import SessionOutlet
from .websocket import NOT_UTF8, REASON_BYTES
from .websocket_handshake import PATH, refusal_of

__all__ = ["serve_websocket"]

log = logging.getLogger("gateway.websocket")


class TextWire:
    """Publications that go out together are the lines of one message."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        prefix = channel.push_prefix
        return b"\n".join([b"%b%b}}" % (prefix, publication_json(publication)) for publication in publications])


TEXT = TextWire()


class AsgiConnection(SessionOutlet):
    """The outlet of a session. ``run`` reads and writes until one side closes, in a task for each."""

    wire = TEXT
    transport = BY_WEBSOCKET
    separator = b"\n"
    native_pings = False
    place = None
    return_path: dict[str, bytes] = {}

    def __init__(self, node: Node, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(asyncio.get_running_loop())
        self._node = node
        self._scope, self._receive_next, self._send_next = scope, receive, send
        self._readable = asyncio.Event()
        self._readable.set()
        self._close: tuple[int, str] | None = None
        self._output = Buffered(_send_text(send), self.separator)
        self._output.carry(self, node.config.limits.waiting_bytes)
        self.write = self._output.write

    @property
    def waiting_bytes(self) -> int:
        return self._output.waiting_bytes

    @property
    def unconfirmed_bytes(self) -> int:
        return self._output.unconfirmed_bytes

    async def run(self) -> None:
        """Returns when the connection is closed."""
        try:
            self._session = self._open()
        except Disconnect as disconnect:
            await self._send_close(disconnect.code, disconnect.reason)
            return
        tasks = [asyncio.create_task(self._receive_all()), asyncio.create_task(self._send_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end_session()
            self._output.finish()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _open(self) -> Session:
        address = client_address(self._scope.get("client"), self._scope["headers"], self._node.config.proxies)
        return Session(self._node, self, self._loop.time(), address)

    # Inbound.

    def _read_or_not(self) -> None:
        if self._held or self.paused:
            self._readable.clear()
        else:
            self._readable.set()

    async def _receive_all(self) -> None:
        while True:
            await self._readable.wait()
            await asyncio.sleep(0)  # a server that has read many messages returns them at once: other clients are served in between
            message = await self._receive_next()
            if message["type"] != "websocket.receive":
                return
            if self._session is None:
                await asyncio.sleep(CLOSE_SECONDS)  # the close code is on its way, and ends ``run`` when it is sent
                return
            text = message.get("text")
            self._take(self._session, text.encode() if text is not None else message.get("bytes") or b"")

    def _take(self, session: Session, message: bytes) -> None:
        self._node.admission.counts.received[FROM_WEBSOCKET] += len(message)
        if len(message) > self._node.config.limits.message_bytes:
            session.closed()
            self.disconnect(1009, "message too big")
        elif is_utf8(message):
            self._receive(session, message)
        else:
            session.close(NOT_UTF8)

    # Outbound.

    def _framed(self, message: bytes) -> bytes:
        return message

    def ping(self) -> None:
        self._put(PING)

    def disconnect(self, code: int, reason: str) -> None:
        self._session = None
        self.flush()
        self._close = (code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._output.finish()
        self._readable.set()

    async def _send_all(self) -> None:
        await self._output.pump()
        if self._close is not None:
            await self._send_close(*self._close)

    async def _send_close(self, code: int, reason: str) -> None:
        await self._send_next({"type": "websocket.close", "code": code, "reason": reason})


def _send_text(send: Send) -> Callable[[bytes], Awaitable[None]]:
    async def send_text(text: bytes) -> None:
        await send({"type": "websocket.send", "text": text.decode()})

    return send_text


async def serve_websocket(node: Node, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    """One connection, from its handshake to its end."""
    await receive()  # websocket.connect
    fault = _fault(node, path, scope)
    if fault:
        log.info("handshake refused with %d: %s", *fault)
        await _refuse(scope, send, *fault)
        return
    subprotocol = "centrifuge-json" if "centrifuge-json" in scope.get("subprotocols", ()) else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    await AsgiConnection(node, scope, receive, send).run()


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": text})  # before accept: the server answers 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": f"{text}\n".encode()})


def _fault(node: Node, path: str, scope: Scope) -> tuple[int, str] | None:
    """Status and reason for a handshake that is refused, None for one that is accepted."""
    if path != PATH:
        return 404, f"WebSocket lives at {PATH}"
    query = protocol_fields(scope.get("query_string", b"").decode("latin-1"))
    return refusal_of(dict(scope["headers"]), ",".join(scope.get("subprotocols", ())), query, node.config)
