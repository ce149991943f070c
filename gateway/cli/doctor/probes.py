"""What is sent through a proxy, and what came of it: single requests, a WebSocket, a stream of the emulation.

None changes anything. A connection is opened with a token of nobody, or with that which the doctor was given, and follows no channel. Each
is bounded in time: it waits for a first answer, then for the gateway's first ping, which shows that the proxy leaves an idle connection open.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httptools
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Origin

from ...edges.emulation import EVENTS
from ...edges.websocket_handshake import PATH
from ...rules.protocol import PING
from .target import Target

__all__ = ["Answer", "Flow", "Unanswered", "ask", "connect_command", "follow_stream", "follow_websocket"]

ANSWER_SECONDS = 5.0  # for each part of an answer
WHOLE_SECONDS = 20.0  # for all of it: a server may send a byte every second, for ever
LATE = f"no whole answer came within {WHOLE_SECONDS:g} s"
BUFFERED_SECONDS = 2.0  # an answer that a buffer holds back is later than this
BODY_BYTES = 64 * 1024
STREAM_BYTES = 1024 * 1024  # a gateway sends less to a client that follows nothing
_ANNOUNCED = re.compile(rb'"ping":\s*(\d{1,6}(?:\.\d+)?)')
_CODE = re.compile(rb'"disconnect":\{"code":(\d{4})')
NONE: Mapping[str, str] = {}


class Unanswered(Exception):
    """No HTTP answer came; the message says why. ``is_of_certificate``: the other side's certificate did not pass."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_reason(error))
        self.is_of_certificate = isinstance(error, ssl.SSLCertVerificationError)


class Answer(NamedTuple):
    """Header names are in lower case. ``own`` is the address and port of our end of the connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    own: tuple[str, int]

    @property
    def is_json(self) -> bool:
        """Whether the gateway may have made it: proxies answer with HTML, or with nothing."""
        return self.headers.get("content-type", "").startswith("application/json")


@dataclass
class Flow:
    """What came of a connection that stays open, in seconds since it was begun, None for what did not happen.

    ``status`` is that of the answer to its request, 0 if none came, and ``fault`` then says why. ``answered``: the gateway's first message
    came; ``ping``: in so many seconds it sends a ping. ``ended``: the other side closed it, with ``code``, 0 for an end without a close code.
    ``waited``: it was still open when it was given up.
    """

    status: int = 0
    body: bytes = b""
    fault: str = ""
    answered: float | None = None
    ping: float = 0.0
    pinged: float | None = None
    ended: float | None = None
    code: int = 0
    waited: float | None = None


async def ask(target: Target, method: str, path: str, headers: Mapping[str, str] = NONE, body: bytes | None = None) -> Answer:
    """One request on a connection of its own. Raises Unanswered."""
    return await asyncio.to_thread(_ask, target, method, path, headers, body)


def _ask(target: Target, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    tls = target.tls()
    connection = (
        http.client.HTTPConnection(target.host, target.port, timeout=ANSWER_SECONDS)
        if tls is None
        else http.client.HTTPSConnection(target.host, target.port, timeout=ANSWER_SECONDS, context=tls)
    )
    try:
        connection.connect()
        with _bounded(connection.sock):
            connection.request(method, target.prefix + path, body, {"Host": target.authority, **headers})
            own = connection.sock.getsockname()
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, found, response.read(BODY_BYTES), (own[0], own[1]))
        return answer
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: a name that no host can have
        raise Unanswered(error) from None
    finally:
        connection.close()


@contextlib.contextmanager
def _bounded(sock: socket.socket) -> Iterator[None]:
    """Ends the socket after WHOLE_SECONDS, though another thread reads from it. Raises TimeoutError then, in place of what that causes."""
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(WHOLE_SECONDS, hang_up)
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(LATE)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not pass: {error.verify_message}"
    if isinstance(error, TimeoutError) and str(error) != LATE:
        return f"nothing came within {ANSWER_SECONDS:g} s"
    return str(error) or type(error).__name__


def connect_command(token: str) -> bytes:
    """The first command of a client."""
    return json.dumps({"id": 1, "connect": {"token": token} if token else {}}).encode()


async def follow_websocket(target: Target, origin: str, command: bytes, seconds: float) -> Flow:
    """Opens a WebSocket, connects, and waits for ``seconds`` at most for a ping."""
    url = f"ws{target.url[4:]}{PATH}"
    began = time.monotonic()
    try:
        connection = await connect(
            url,
            origin=Origin(origin) if origin else None,
            ssl=target.tls(),
            proxy=None,
            open_timeout=ANSWER_SECONDS,
            close_timeout=1,
            ping_interval=None,
            compression=None,
        )
    except InvalidStatus as error:
        return Flow(error.response.status_code, bytes(error.response.body or b""))
    except (OSError, InvalidHandshake, EOFError) as error:
        return Flow(fault=_reason(error))
    flow = Flow(101)
    try:
        async with asyncio.timeout(seconds):
            await _read_websocket(connection, command, began, flow)
    except TimeoutError:  # nothing more came in the time that was given, and nothing was cut
        flow.waited = time.monotonic() - began
    except ConnectionClosed as error:
        flow.ended = time.monotonic() - began
        flow.code = error.rcvd.code if error.rcvd is not None else 0
    finally:
        await connection.close()
    return flow


async def _read_websocket(connection: ClientConnection, command: bytes, began: float, flow: Flow) -> None:
    """Reads the connection until the first ping. Raises ConnectionClosed."""
    await connection.send(command.decode())
    while True:
        message = await connection.recv(decode=False)
        now = time.monotonic() - began
        if flow.answered is None:
            flow.answered, flow.ping = now, _announced_ping(message)
        elif message == PING:
            flow.pinged = now
            return


def _announced_ping(message: bytes) -> float:
    """Seconds between pings, in the reply to connect; 0 in any other message."""
    found = _ANNOUNCED.search(message)
    return float(found[1]) if found else 0.0


async def follow_stream(target: Target, command: bytes, seconds: float) -> Flow:
    """Opens a stream of server-sent events, connects by it, and waits for ``seconds`` at most for a ping."""
    began, flow = time.monotonic(), Flow()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls())
    except OSError as error:
        flow.fault = _reason(error)
        return flow
    try:
        writer.write(_stream_request(target, command))
        async with asyncio.timeout(seconds):
            await _read_stream(reader, began, flow)
    except TimeoutError:  # nothing more came in the time that was given, and nothing was cut
        flow.waited = time.monotonic() - began
    except (OSError, http.client.HTTPException) as error:
        flow.ended, flow.fault = time.monotonic() - began, _reason(error)
    finally:
        writer.transport.abort()
    return flow


def _stream_request(target: Target, command: bytes) -> bytes:
    """The request of a stream as a browser sends it. It allows a compressed answer: a proxy that compresses may hold events back."""
    head = (
        f"POST {target.prefix}{EVENTS} HTTP/1.1\r\nHost: {target.authority}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nAccept-Encoding: gzip\r\nContent-Length: {len(command)}\r\n\r\n"
    )
    return head.encode() + command


class _StreamResponse:
    """What has come of a response, for httptools' parser."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._unpacked: Any = None
        self.status = 0
        self.body = b""
        self.is_complete = False

    def feed(self, data: bytes) -> None:
        """Raises HTTPException for what is no HTTP, or not what it claims to be."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, zlib.error) as error:
            raise http.client.HTTPException(f"the answer is no HTTP: {error}") from None
        self.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding" and value.strip().lower() == b"gzip":
            self._unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def on_body(self, body: bytes) -> None:
        self.body += body if self._unpacked is None else self._unpacked.decompress(body, STREAM_BYTES)

    def on_message_complete(self) -> None:
        self.is_complete = True


async def _read_stream(reader: asyncio.StreamReader, began: float, flow: Flow) -> None:
    """Reads the stream until the first ping, or its end. Raises HTTPException."""
    response = _StreamResponse()
    while not response.is_complete and (part := await reader.read(BODY_BYTES)):
        response.feed(part)
        now = time.monotonic() - began
        flow.status, flow.body = response.status, response.body
        if flow.status >= 300 or len(flow.body) >= STREAM_BYTES:
            return
        if flow.answered is None and b"data: {" in flow.body:
            flow.answered, flow.ping = now, _announced_ping(flow.body)
        if b"data: %b\n" % PING in flow.body:
            flow.pinged = now
            return
    flow.ended = time.monotonic() - began
    flow.code = int(found[1]) if (found := _CODE.search(flow.body)) else 0
