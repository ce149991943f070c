"""A WebSocket connection: the outlet of a session.

``websockets``' sans-I/O protocol does the handshake and everything inbound. Outbound, publications are prepared frames:
each is framed once, kept with the publication, and written as it is to the transports of all subscribers. There is no
task and no queue; what a full socket does not take stays in history, and the session catches it up when the transport
says that it drained.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ..channel import Channel
from ..errors import Disconnect
from ..node import Node
from ..protocol import PING, decode, publication_json, push_prefix
from ..publication import Publication
from ..session import Session
from .requests import origin_allowed

__all__ = ["PATH", "WEBSOCKET", "WebSocketConnection", "text_frame"]

log = logging.getLogger("gateway.websocket")
_quiet = logging.getLogger("gateway.websocket.protocol")
_quiet.setLevel(logging.CRITICAL)  # it would log handshakes and tracebacks of what clients do wrong; we say it in a line

PATH = "/connection/websocket"
CLOSE_SECONDS = 5.0  # for the client to answer a close frame
REASON_BYTES = 123


def text_frame(payload: bytes) -> bytes:
    """A server's unmasked text frame. Source: RFC 6455, 5.2."""
    length = len(payload)
    if length < 126:
        return b"\x81%c%b" % (length, payload)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (length.to_bytes(8), payload)


_PING_FRAME = text_frame(PING)
_NATIVE_PING = b"\x89\x00"


class WebSocketWire:
    """A publication is one text frame; those that go out together are joined."""

    def join(self, channel: Channel, publications: list[Publication]) -> bytes:
        if len(publications) == 1:
            publication = publications[0]
            return publication.ws or _prepare(channel, publication)
        return b"".join([publication.ws or _prepare(channel, publication) for publication in publications])


def _prepare(channel: Channel, publication: Publication) -> bytes:
    prefix = channel.push_prefix
    if not prefix:
        prefix = channel.push_prefix = push_prefix(channel.name)
    if publication.tags is None and publication.info is None and publication.offset:
        # The same text as below in one go: nearly all publications are so, and each is prepared once by every process.
        frame = text_frame(b'%b{"data":%b,"offset":%d}}}' % (prefix, publication.data, publication.offset))
    else:
        frame = text_frame(b"%b%b}}" % (prefix, publication_json(publication)))
    publication.ws = frame
    return frame


WEBSOCKET = WebSocketWire()


class WebSocketConnection(asyncio.Protocol):
    """``HttpProtocol`` hands a connection over: ``connection_made``, ``shake_hands``, then whatever the socket brings."""

    __slots__ = ("_fragments", "_loop", "_node", "_protocol", "_session", "_transport", "native_pings", "paused", "write")

    wire = WEBSOCKET

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._node: Node = app_state["node"]
        self._loop = _loop or asyncio.get_running_loop()
        self._protocol = ServerProtocol(state=State.OPEN, max_size=self._node.config.limits.message_bytes, logger=_quiet)
        self._session: Session | None = None
        self._fragments: list[bytes] | None = None
        self.paused = False
        self.native_pings = False

    # The handshake.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write

    def shake_hands(self, request: Request) -> None:
        """Answers the upgrade request; everything behind it is frames."""
        refusal = self._refusal(request)
        if refusal is not None:
            response = _hands.reject(refusal[0], refusal[1] + "\n")
        else:
            response = _hands.accept(request)
        self.write(response.serialize())
        if response.status_code != 101:
            log.info("handshake refused with %d: %s", response.status_code, response.body.decode().partition("\n")[0])
            self._transport.close()
            return
        self.native_pings = "cf_ws_frame_ping_pong=true" in request.path
        try:
            self._session = Session(self._node, self, self._loop.time())
        except Disconnect as disconnect:
            self.disconnect(disconnect.code, disconnect.reason)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        path, headers = urlsplit(request.path), request.headers
        if path.path != PATH:
            return 404, f"WebSocket lives at {PATH}"
        query = parse_qs(path.query)
        asked = headers.get("Sec-WebSocket-Protocol", "") if len(headers.get_all("Sec-WebSocket-Protocol")) < 2 else "several"
        if "protobuf" in query.get("format", []) + query.get("cf_protocol", []) or "centrifuge-protobuf" in asked:
            return 400, "this server speaks the JSON protocol, not Protobuf"
        origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
        if len(origins) > 1 or len(hosts) > 1:
            return 400, "Origin and Host are sent once"
        if not origin_allowed(origins[0] if origins else "", hosts[0] if hosts else "", self._node.config.allowed_origins):
            return 403, "allowed_origins does not list this page's origin"
        return None

    # Inbound.

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            self._on_frame(event)
        if protocol.parser_exc is not None and self._session is not None:
            log.info("client %s closed: %s", self._session.client or "-", protocol.parser_exc)
            self._session.closed()
            self._session = None
        if protocol.writes:
            self._flush()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            if frame.fin:
                self._on_message(bytes(frame.data))
            else:
                self._fragments = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT:
            assert self._fragments is not None  # the protocol refuses a continuation of nothing
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                message, self._fragments = b"".join(self._fragments), None
                self._on_message(message)
        elif frame.opcode is Opcode.PONG:
            if self._session is not None:
                self._session.ponged()
        elif frame.opcode is Opcode.CLOSE:
            self._end_session()

    def _on_message(self, message: bytes) -> None:
        session = self._session
        if session is None:
            return  # a close frame is on its way
        try:
            commands = decode(message)
        except Disconnect as disconnect:
            session.close(disconnect)
            return
        session.receive(commands)

    def eof_received(self) -> bool:
        return False  # uvloop closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_session()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.closed()

    # Outbound.

    def send(self, message: bytes) -> None:
        self.write(text_frame(message))

    def ping(self) -> None:
        self.write(_NATIVE_PING if self.native_pings else _PING_FRAME)

    def disconnect(self, code: int, reason: str) -> None:
        self._session = None
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._flush()
        self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def hold_reading(self, hold: bool) -> None:
        if hold:
            self._transport.pause_reading()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.write(data)
            elif not self._transport.is_closing():
                # Half-closed: the client reads what was written, answers, and closes. If it does not, we do.
                self._transport.write_eof()
                self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def pause_writing(self) -> None:
        self.paused = True
        if self._session is not None:
            self._session.fell_behind(self._loop.time())

    def resume_writing(self) -> None:
        self.paused = False
        if self._session is not None:
            self._session.drained()


def _select_subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("centrifuge-json") if "centrifuge-json" in offered else None


# Answers everybody's handshake: it keeps nothing of one for the next.
_hands = ServerProtocol(select_subprotocol=_select_subprotocol, logger=_quiet)
