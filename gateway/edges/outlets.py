"""Where bytes go: straight to the transport, where the server lends it (``HttpProtocol``), else through ASGI's ``send``.

    Session ──▶ SessionOutlet ──┬──▶ a transport: a WebSocket connection, ``Direct``
    EventStream ────────────────┴──▶ ``Buffered``, whose one task sends through ASGI

What waits to be written together is a ``Buffer`` everywhere: the answers to one message of a client, and what ASGI's
``send`` has not taken yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from ..runtime.turns import Turns
from ..session.places import Place
from .closing import stays_open

__all__ = ["Buffer", "Buffered", "Direct", "Stream", "chunk", "output_of", "unconfirmed_bytes", "until_gone"]

HEADERS = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]  # the second for nginx, which would collect what it gets
CLOSE_SECONDS = 5.0  # for the client to take what is left
GOODBYE_SECONDS = 1.0  # of a connection with nothing left to take, when the process ends


def chunk(text: bytes) -> bytes:
    """One chunk of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(text), text)


def unconfirmed_bytes(transport: Any) -> int:
    """Bytes written that the client's machine has not confirmed: those that wait here, and those that the system still sends. Once a
    connection is lost the transport has forgotten the first, and the system still knows the second. 0 where the system cannot say it."""
    size: int = transport.get_write_buffer_size()
    try:
        sending = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):
        return size
    return size + int.from_bytes(sending, sys.byteorder)


class Buffer:
    """Parts that are written together, in order. ``size`` is their bytes; a buffer without parts is false."""

    __slots__ = ("_parts", "_separator", "size")

    def __init__(self, separator: bytes = b"") -> None:
        self._parts: list[bytes] = []
        self._separator = separator
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)

    def take(self) -> bytes:
        """Everything, with the separator between the parts; the buffer is empty then."""
        parts, self._parts, self.size = self._parts, [], 0
        return self._separator.join(parts)


class Writer(Protocol):
    """What is notified by an output: when it is full, and when it has drained."""

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Stream(Writer, Protocol):
    """A response that goes on: ``EventStream``, and the outlet of an emulated WebSocket."""

    @property
    def output(self) -> Direct | Buffered: ...

    def gone(self) -> None:
        """The connection is gone."""
        ...


class Lender(Protocol):
    """``HttpProtocol``, which lends its transport to a stream."""

    connections: set[Any]
    transport: Any
    place: Place
    closings: Turns

    def hand_over(self, protocol: asyncio.Protocol) -> None: ...

    def end_requests(self) -> None:
        """Ends the requests of a connection that is gone, before uvicorn has noticed it."""


class Direct(asyncio.Protocol):
    """Writes to the transport that the server lends, and is its protocol from ``carry`` on: an idle stream has no task."""

    __slots__ = ("_closings", "_connections", "_lender", "_stream", "_transport", "place", "write")

    direct = True
    # The end of the stream closes the connection: otherwise a client would send its next request on it.
    headers = [*HEADERS, (b"connection", b"close")]

    def __init__(self, lender: Lender) -> None:
        self._lender: Lender | None = lender
        self._connections = lender.connections
        self._closings = lender.closings
        self.place = lender.place
        self._stream: Stream | None = None
        self._transport = lender.transport
        self.write: Callable[[bytes], object] = self._transport.write

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are written and that the socket has not taken yet."""
        size: int = self._transport.get_write_buffer_size()
        return size

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes that are written and that the client's machine has not confirmed."""
        return unconfirmed_bytes(self._transport)

    def carry(self, stream: Stream, waiting_bytes: int) -> None:
        """The stream is notified when more than ``waiting_bytes`` are not taken yet, and when the connection is gone."""
        lender, self._lender, self._stream = self._lender, None, stream
        assert lender is not None, "it carries one stream"
        if self._transport.is_closing():
            lender.end_requests()  # else uvicorn logs an error: the application returns without an answer
            asyncio.get_running_loop().call_soon(self.connection_lost, None)
            return
        lender.hand_over(self)
        self._transport.set_write_buffer_limits(high=waiting_bytes)

    def end_unconfirmed(self, seconds: float) -> None:
        """Has the system end the connection when the client's machine confirms nothing of what was sent for so long: else a client whose network is
        gone would stay for a quarter of an hour."""
        with contextlib.suppress(OSError, AttributeError):  # it is no TCP, or the system knows no such time
            self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))

    def finish(self, abort: bool) -> None:
        """Nothing more is written. ``abort``: what the client has not taken yet is lost, and the connection ends at once."""
        self._stream = None
        if abort:
            self._transport.abort()
        elif not self._transport.is_closing():
            self.write(b"0\r\n\r\n")
            self._connections.add(self)  # a process that ends waits for those: the client has not taken everything yet
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)

    # From the transport. Bytes after the request are ignored.

    def eof_received(self) -> bool:
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)  # a closing transport waits for its client
        if stays_open(self._transport, self._closings):
            return True
        if not self._transport.get_write_buffer_size():
            self._end_stream()  # what is written from here on is dropped
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.release()
        self._connections.discard(self)
        self._end_stream()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.gone()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause_writing()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume_writing()

    def shutdown(self) -> None:
        """uvicorn calls it as the process ends, for a connection that is closing already."""
        if not self._transport.get_write_buffer_size():  # over TLS the client is asked first, and may never answer
            asyncio.get_running_loop().call_later(GOODBYE_SECONDS, self._transport.abort)


class Buffered:
    """Through ASGI: what is written waits until one task, ``pump``, has sent it on. The writer is notified when too much waits.

    ``send`` takes one piece of bytes; what was written since the last piece is joined with ``separator``.
    """

    direct = False
    place = None
    headers = HEADERS

    def __init__(self, send: Callable[[bytes], Awaitable[None]], separator: bytes = b"") -> None:
        self._send = send
        self._waiting = Buffer(separator)
        self._sending = 0  # bytes that the server is taking
        self._writer: Writer | None = None
        self._most = 0
        self._full = False
        self._more = asyncio.Event()
        self._finished = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are written and that the server has not taken yet."""
        return self._waiting.size + self._sending

    @property
    def unconfirmed_bytes(self) -> int:
        """The bytes that the server has not taken yet: what becomes of those that it has taken is not known."""
        return self.waiting_bytes

    def carry(self, writer: Writer, waiting_bytes: int) -> None:
        """The writer is notified when more than ``waiting_bytes`` wait, and when they were sent."""
        self._writer = writer
        self._most = waiting_bytes

    def write(self, data: bytes) -> None:
        if self._finished:
            return
        self._waiting.add(data)
        self._more.set()
        if self._waiting.size > self._most and self._writer is not None and not self._full:
            self._full = True
            self._writer.pause_writing()

    def finish(self, abort: bool = False) -> None:
        """Nothing more is written. ASGI cannot cut a connection off, so ``abort`` changes nothing."""
        self._finished = True
        self._writer = None  # they hold each other
        self._more.set()

    async def pump(self) -> None:
        """Sends what is written. Returns when everything was sent, after ``finish``."""
        while not self._finished or self._waiting:
            await self._more.wait()
            self._more.clear()
            if self._waiting:
                self._sending = self._waiting.size
                await self._send(self._waiting.take())
                self._sending = 0
            if self._full and not self._waiting and not self._finished and self._writer is not None:
                self._full = False
                self._writer.resume_writing()


def output_of(scope: Scope, send: Send) -> Direct | Buffered:
    """The output of a response whose head is sent, or will be: the transport if the server lends it."""
    lent = (scope.get("extensions") or {}).get("gateway.stream")
    return Buffered(_body(send)) if lent is None else Direct(lent)


def _body(send: Send) -> Callable[[bytes], Awaitable[None]]:
    async def send_body(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    return send_body


async def until_gone(stream: Stream, receive: Receive, send: Send) -> None:
    """Returns when the client is gone, or has everything; at once, where the connection itself notifies the stream."""
    if isinstance(stream.output, Buffered):
        try:
            await _until_either(_pump_body(stream.output, send), _disconnected(receive))
        finally:
            stream.gone()


async def _pump_body(output: Buffered, send: Send) -> None:
    await output.pump()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_either(*work: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # some servers raise where something is sent to a client that is gone


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
