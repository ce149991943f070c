"""Where bytes go: straight to the transport, where the server lends it (``HttpProtocol``), else through ASGI's ``send``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from ..live.fanout import GONE
from ..session.session import Session

__all__ = ["Buffered", "Direct", "SocketOutlet", "Stream", "chunk", "output_of", "until_gone"]

log = logging.getLogger("gateway.edges")

HEADERS = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]  # the second for nginx, which would collect what it gets
CLOSE_SECONDS = 5.0  # for the client to take what is left
GOODBYE_SECONDS = 1.0  # of a connection with nothing left to take, when the process ends
ALONE_BYTES = 4096  # what is larger goes out at once: a frame may ask for a page of history a thousand times


def chunk(text: bytes) -> bytes:
    """One chunk of a chunked HTTP/1.1 body."""
    return b"%x\r\n%b\r\n" % (len(text), text)


class SocketOutlet:
    """What outlets that write to a transport have in common: what answers one message leaves in one write, and a full socket is told."""

    __slots__ = ("_corked", "_loop", "_session", "paused", "write")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._session: Session | None = None
        self._corked: list[bytes] | None = None
        self.paused = False

    def _framed(self, message: bytes) -> bytes:
        """As it stands among others in a write."""
        raise AssertionError("an outlet says so")

    def _put(self, data: bytes) -> None:
        try:
            self.write(data)
        except GONE as error:
            log.debug("a client's socket is gone: %s", error)  # that it is lost is on the way

    def _receive(self, session: Session, message: bytes) -> None:
        self._corked = []
        session.receive(message)
        self.flush()
        self._corked = None

    def send(self, message: bytes) -> None:
        if self._corked is None:
            self._put(self._framed(message))
        else:
            self._corked.append(self._framed(message))
            if len(message) > ALONE_BYTES:
                self.flush()

    def flush(self) -> None:
        """What answers the message that is being handled goes out before anything else does."""
        if self._corked:
            messages, self._corked = self._corked, []
            self._put(b"".join(messages))

    def pause_writing(self) -> None:
        self.paused = True
        if self._session is not None:
            self._session.fell_behind(self._loop.time())

    def resume_writing(self) -> None:
        self.paused = False
        if self._session is not None:
            self._session.drained()


class Stream(Protocol):
    """What the connection, or ``Buffered``, tells: ``EventStream``, and the outlet of an emulated WebSocket."""

    output: Direct | Buffered

    def gone(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Direct(asyncio.Protocol):
    """Writes to the transport that the server lends, and is its protocol from ``carry`` on: an idle stream has no task."""

    __slots__ = ("_connections", "_lender", "_stream", "_transport", "write")

    direct = True
    headers = [*HEADERS, (b"connection", b"close")]  # its end closes the connection: else a client takes that for its next request

    def __init__(self, lender: Any) -> None:
        self._lender = lender
        self._connections = lender.connections
        self._stream: Stream | None = None
        self._transport = lender.transport
        self.write = self._transport.write

    def carry(self, stream: Stream, waiting_bytes: int) -> None:
        """The stream is told when more than ``waiting_bytes`` are not taken yet, and when the connection is gone."""
        lender, self._lender, self._stream = self._lender, None, stream
        if self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self.connection_lost, None)
            return
        lender.hand_over(self)
        self._transport.set_write_buffer_limits(high=waiting_bytes)

    def finish(self, abort: bool) -> None:
        """Nothing follows."""
        self._stream = None
        if abort:
            self._transport.abort()
        elif not self._transport.is_closing():
            self.write(b"0\r\n\r\n")
            self._connections.add(self)  # a process that ends waits for those: the client has not taken everything yet
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)

    # From the transport. What a client says behind its request is not for anybody.

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
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
        """From uvicorn, as the process ends, of a connection that is closing already."""
        if not self._transport.get_write_buffer_size():  # over TLS the other side is asked first, and need not listen
            asyncio.get_running_loop().call_later(GOODBYE_SECONDS, self._transport.abort)


class Buffered:
    """Collects what a task sends through ASGI; the stream is told when too much is waiting."""

    direct = False
    headers = HEADERS

    def __init__(self, send: Any) -> None:
        self._send = send
        self._stream: Stream | None = None
        self._full = False
        self._waiting: list[bytes] = []
        self._bytes = self._most = 0
        self._more = asyncio.Event()
        self._ended = False

    def carry(self, stream: Stream, waiting_bytes: int) -> None:
        self._stream = stream
        self._most = waiting_bytes

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._bytes += len(data)
        self._more.set()
        if self._bytes > self._most and self._stream is not None and not self._full:
            self._full = True
            self._stream.pause_writing()

    def finish(self, abort: bool) -> None:
        self._ended = True
        self._more.set()

    async def pump(self) -> None:
        """Sends what is buffered, to the end."""
        while not self._ended or self._waiting:
            await self._more.wait()
            self._more.clear()
            waiting, self._waiting, self._bytes = self._waiting, [], 0
            if waiting:
                await self._send({"type": "http.response.body", "body": b"".join(waiting), "more_body": True})
            if self._full and self._stream is not None and not self._ended:
                self._full = False
                self._stream.resume_writing()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def output_of(scope: Any, send: Any) -> Direct | Buffered:
    lent = (scope.get("extensions") or {}).get("gateway.stream")
    return Buffered(send) if lent is None else Direct(lent)


async def until_gone(stream: Stream, receive: Any) -> None:
    """Returns when the client is gone, or has everything; at once, where the connection itself tells the stream."""
    if isinstance(stream.output, Buffered):
        try:
            await _until_either(stream.output.pump(), _disconnected(receive))
        finally:
            stream.gone()


async def _until_either(*work: Coroutine[Any, Any, None]) -> None:
    _, unfinished = await asyncio.wait([asyncio.create_task(each) for each in work], return_when=asyncio.FIRST_COMPLETED)
    for task in unfinished:
        task.cancel()


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
