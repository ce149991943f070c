"""WebSocket in two halves, for where it is blocked: replies come as a stream, commands go by POST. Source: docs/reference/wire-protocol.md.

    /connection/sse, /connection/http_stream    the request carries connect; its answer is the stream, for as long as the session
    /emulation                                  {"session", "node", "data"}: more commands, to whichever process

The stream is the outlet of the same session that WebSocket has. Whoever knows a session's id can send commands in its name, so
the id is a secret of its client. A POST that reaches another process goes on to the session's own, which answers whether it
knows the session.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import Disconnect, StoreError
from ..live.wire_formats import ChannelView
from ..publication import Publication
from ..rules.json_text import decode_json, encode
from ..rules.protocol import PING, publication_json, push
from ..session.client_counts import BY_EMULATED_HTTP_STREAM, BY_EMULATED_SSE, FROM_EMULATION
from ..session.node import Node
from ..session.session import Session
from .outlets import Buffered, Direct, chunk, output_of, until_gone
from .request import NO_PROTOBUF, asks_for_protobuf, body_of, client_address, cors_headers, is_foreign, refused_origin
from .responses import json_response
from .session_outlet import SessionOutlet
from .websocket import FRAME_BYTES, TURN_FRAMES

__all__ = ["PATHS", "emulation"]

log = logging.getLogger("gateway.emulation")

EVENTS, LINES, COMMANDS = PATHS = ("/connection/sse", "/connection/http_stream", "/emulation")
_METHODS = {EVENTS: ("GET", "POST"), LINES: ("POST",), COMMANDS: ("POST",)}
SESSION_BYTES = 24  # of randomness, 192 bits
HELD_MESSAGES = 16  # of the largest size, which may wait while the session takes nothing; a socket's buffers hold about as much
OBJECT_BYTES = 64  # of a message that waits, beside its text
ESCAPED = 2  # times the size of a message: its size as a string in JSON, if it is all quotes
AROUND_BYTES = 1024  # of a POST, besides its data


class EmulationWire:
    """A message with what is put before and after it. What a round of the fan-out writes is made once for all streams of a kind."""

    def __init__(self, before: bytes, after: bytes, *, chunked: bool) -> None:
        self._before = before
        self._after = after
        self._chunked = chunked

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        prefix = channel.push_prefix
        return self.part(b"".join([self.message(b"%b%b}}" % (prefix, publication_json(publication))) for publication in publications]))

    def message(self, message: bytes) -> bytes:
        return b"%b%b%b" % (self._before, message, self._after)

    def part(self, text: bytes) -> bytes:
        """The text as the transport takes it: in a chunk of HTTP, where it is chunked."""
        return chunk(text) if self._chunked else text


# By path, and by whether they are written to the transport.
_WIRES = {(EVENTS, chunked): EmulationWire(b"data: ", b"\n\n", chunked=chunked) for chunked in (True, False)} | {
    (LINES, chunked): EmulationWire(b"", b"\n", chunked=chunked) for chunked in (True, False)
}
_TRANSPORTS = {EVENTS: BY_EMULATED_SSE, LINES: BY_EMULATED_HTTP_STREAM}
_OPENING = {EVENTS: b"\r\n", LINES: b""}
_TYPES = {EVENTS: b"text/event-stream; charset=utf-8", LINES: b"application/json"}


class EmulationStream(SessionOutlet):
    """The outlet of one session. ``take`` is given the commands that come by POST."""

    __slots__ = (
        *("_address", "_id", "_node", "_waiting", "_waiting_bytes"),
        *("output", "place", "return_path", "transport", "wire"),
    )

    native_pings = False

    def __init__(self, node: Node, output: Direct | Buffered, path: str, address: str) -> None:
        super().__init__(asyncio.get_running_loop())
        self._node = node
        self._address = address
        self.output = output
        self.place = output.place
        self._id = secrets.token_urlsafe(SESSION_BYTES)
        self._waiting: list[
            bytes
        ] = []  # messages that came while nothing is taken from the client, or that wait for a later turn of the loop
        self._waiting_bytes = 0
        self.return_path = {"session": encode(self._id), "node": encode(node.uid)}
        self.transport = _TRANSPORTS[path]
        self.wire = _WIRES[path, output.direct]
        self.write = output.write

    @property
    def client(self) -> Session | None:
        return self._session

    @property
    def waiting_bytes(self) -> int:
        return self.output.waiting_bytes

    @property
    def unconfirmed_bytes(self) -> int:
        return self.output.unconfirmed_bytes

    def open(self, opening: bytes, message: bytes) -> None:
        """Begins the session with the message that holds connect."""
        self.output.carry(self, self._node.config.limits.waiting_bytes)
        if opening:
            self._put(opening)
        try:
            self._session = Session(self._node, self, self._loop.time(), self._address)
        except Disconnect as disconnect:
            log.info("stream refused: %s", disconnect)
            self.disconnect(disconnect.code, disconnect.reason)
            return
        self._node.admission.emulated[self._id] = self
        self._count(message)
        self._receive(self._session, message)

    # Inbound.

    def take(self, message: bytes) -> None:
        """Commands, as one frame of WebSocket holds them."""
        session = self._session
        if session is None:
            return
        self._count(message)
        if message == PING:
            session.ponged()  # a pong may come twice: browsers repeat a request whose connection was cut
        elif self._held or self._waiting or not self._node.admission.turns.take():  # hundreds may post at once
            self._wait(session, message)
            self._read_or_not()
        else:
            self._receive(session, message)

    def _count(self, message: bytes) -> None:
        self._node.admission.counts.received[FROM_EMULATION] += len(message)

    def _wait(self, session: Session, message: bytes) -> None:
        """A POST cannot be left in a socket, so a client whose messages exceed the buffer is disconnected."""
        self._waiting.append(message)
        self._waiting_bytes += len(message) + OBJECT_BYTES
        if self._waiting_bytes > HELD_MESSAGES * self._node.config.limits.message_bytes:
            session.close(Disconnect(3013, f"{self._waiting_bytes} bytes of commands wait"))

    def _read_or_not(self) -> None:
        if self._waiting and not self._held and not self.waits_for_turn:
            self.waits_for_turn = True
            self._node.admission.turns.later(self._take_waiting)

    def _take_waiting(self) -> None:
        """Acts on the messages that wait until the client has had its turn, or has to wait again; the next turn goes on."""
        self.waits_for_turn, room = False, TURN_FRAMES
        while self._waiting and not self._held and self._session is not None and room > 0:
            message = self._waiting.pop(0)
            self._waiting_bytes -= len(message) + OBJECT_BYTES
            room -= 1 + len(message) // FRAME_BYTES
            self._receive(self._session, message)
        self._read_or_not()

    # Outbound.

    def _framed(self, message: bytes) -> bytes:
        return self.wire.message(message)

    def _put(self, data: bytes) -> None:
        super()._put(self.wire.part(data))

    def ping(self) -> None:
        self._put(self.wire.message(PING))

    def disconnect(self, code: int, reason: str) -> None:
        self._forget()
        self.send(push("", "disconnect", b'{"code":%d,"reason":%b}' % (code, encode(reason))))
        self.flush()
        self.output.finish(abort=False)

    def _forget(self) -> Session | None:
        session, self._session = self._session, None
        self._node.admission.emulated.pop(self._id, None)
        self._waiting.clear()
        return session

    # From the socket.

    def gone(self) -> None:
        session = self._forget()
        if session is not None:
            session.closed()
        self.output.finish(abort=False)


# Requests.


class _Post(msgspec.Struct):
    session: str
    node: str
    data: str


async def emulation(node: Node, scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application of the three paths, for one request. A stream holds nothing of its request."""
    stream = await _answer(node, scope, receive, send)
    if stream is not None:
        await until_gone(stream, receive, send)


async def _answer(node: Node, scope: Scope, receive: Receive, send: Send) -> EmulationStream | None:
    """Answers, and begins the stream if that is the answer."""
    request, path = Request(scope, receive), scope["path"].removeprefix(scope.get("root_path", ""))
    answer = await _judge(node, request, path)
    cors = cors_headers(request.headers.get("origin", ""), node.config.origins)
    if isinstance(answer, bytes):
        return await _open(node, path, answer, cors, scope, send)
    answer.raw_headers.extend(cors)
    await answer(scope, receive, send)
    return None


async def _judge(node: Node, request: Request, path: str) -> Response | bytes:
    """The answer, or the message with which a stream begins."""
    if is_foreign(request.headers, node.config):
        return _refusal(403, refused_origin(request.headers.get("origin", "")))
    if request.method not in _METHODS[path]:
        return _refusal(405, f"{path} takes {' and '.join(_METHODS[path])}", {"allow": ", ".join(_METHODS[path])})
    return await _take_post(node, request) if path == COMMANDS else await _first_message(node, request)


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    log.info("refused with %d: %s", status, text)
    return json_response(encode({"error": text}), status, headers)


# The stream.


async def _first_message(node: Node, request: Request) -> bytes | Response:
    """The message with connect, or the answer to a request without one. The message may hold a token, so it is never logged."""
    most = node.config.limits.message_bytes
    query = parse_qs(request.scope["query_string"].decode("latin-1"))
    if request.headers.get("content-type") == "application/octet-stream" or asks_for_protobuf(query):
        return _refusal(400, NO_PROTOBUF)
    if request.method == "POST":
        return await body_of(request, most)
    message = query.get("cf_connect", [""])[0].encode()
    if not message:
        return _refusal(400, "the query holds the connect command: ?cf_connect=…")
    return message if len(message) <= most else _refusal(413, f"cf_connect is over limits.message_bytes ({most})")


async def _open(node: Node, path: str, message: bytes, cors: list[tuple[bytes, bytes]], scope: Scope, send: Send) -> EmulationStream:
    output = output_of(scope, send)
    headers = [(b"content-type", _TYPES[path]), *output.headers, *cors]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    address = client_address(scope.get("client"), scope["headers"], node.config.proxies)
    stream = EmulationStream(node, output, path, address)
    stream.open(_OPENING[path], message)
    return stream


# Commands.


async def _take_post(node: Node, request: Request) -> Response:
    most = node.config.limits.message_bytes
    body = await body_of(request, ESCAPED * most + AROUND_BYTES)
    if isinstance(body, Response):
        return body
    try:
        post = decode_json(body, _Post)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _refusal(400, 'the body is {"session": "…", "node": "…", "data": "commands, a line each"}')
    message = post.data.encode()
    if len(message) > most:
        return _refusal(413, f"data is over limits.message_bytes ({most})")
    try:
        known = (
            node.admission.take_commands(post.session, message)
            if post.node == node.uid
            else await node.control.deliver(post.node, post.session, post.data)
        )
    except StoreError as error:  # its text may name Valkey's address and user, which a client that nobody knows need not learn
        log.log(logging.DEBUG if error.is_general else logging.WARNING, "the process of a session was not reached: %s", error)
        return _refusal(503, "the session's process was not reached; try again")
    return Response(status_code=204) if known else _refusal(404, "no such session: connect again")
