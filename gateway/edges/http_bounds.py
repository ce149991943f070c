"""uvicorn's HTTP protocol with bounds for what a client may have it hold, and for how long.

    the socket ──▶ _ahead, at most what one read brought ──▶ the parser ──▶ the request being answered, and one that waits

Pipelined requests. The parser is given a part of what was read at a time, which ends with the next blank line: so a part ends one
head, also where a read ended within a blank line, and what follows a handshake is never in its part. While a request waits for the answer to the one before it, the parser is
given nothing, and while bytes wait in ``_ahead``, the socket is not read. After each answer the parser goes on in another turn of
the loop.

Time limits. ``tick`` ends a connection whose wait is over: see ``time_limits``.

What it uses of uvicorn's internals is listed in ``uvicorn_internals``.
"""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import is_ssl

from ..runtime.wheel import NEVER, Wheel
from ..session.node import Node
from . import time_limits
from .api.known_heads import BLANK_LINE
from .closing import stays_open
from .outlets import GOODBYE_SECONDS
from .time_limits import TimeLimits, Wait

__all__ = ["BoundedHttp", "address_of"]

log = logging.getLogger("gateway.http")

HEAD_BYTES = 64 * 1024
HEADERS_MOST = 256  # with the trailers: each takes 100 bytes and half a microsecond, however short it is. A request that comes through nginx has some 20
FIELDS_MOST = 1000  # of a query, with the escapes of the path, some 5 microseconds each; or FIELDS_PER_CHANNEL for each channel that a client may follow, if those are more
FIELDS_PER_CHANNEL = 4
CHUNKS_MOST = 1000  # of a body, and one more for each CHUNK_BYTES of it: each takes a microsecond
CHUNK_BYTES = 64
PARTS = 16  # that the parser takes in one turn, 20 µs each
_UPGRADE = b"\r\nupgrade:"  # what follows such a head, the parser does not take for its body
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _TooMany(Exception):
    """Raised within the parser: it stops at once, and the connection is closed with 400."""


class Flow(FlowControl):
    """uvicorn's control of reading, which resumes whenever a request is read or answered, but not while bytes wait to be parsed."""

    _held = False

    def hold(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            if held:
                self.pause_reading()
            else:
                self.resume_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()


class BoundedHttp(HttpToolsProtocol):
    """One HTTP connection, within bounds. ``HttpProtocol`` answers.

    ``app_state`` holds the node, as ``app`` puts it into the lifespan's state; the node's wheel runs the time limits.
    """

    bucket = 0
    flow: Flow
    _limits: TimeLimits
    _ahead = b""  # what was read and is not parsed yet
    _at = 0  # where the parser goes on in it
    _tail = b""  # the last bytes that the parser was given
    _held = b""  # a request with a known head and without all of its body
    _in_head = True
    _head_bytes = 0  # of a head, or of what comes between two chunks of a body or after the last one
    _headers = _fields = 0  # of a request
    _chunks_left = 0  # that its body may have
    _advanced = False  # a body went on in the part that was parsed last
    _body_bytes = 0  # of bodies in that part
    _unread = 0  # bytes that the client had not taken when it was looked at last

    def connection_made(self, transport: Any) -> None:
        # What uvicorn's does, except that it asks a socket object for the addresses, which took longer than all the rest.
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)
        self.server = address_of(transport.get_extra_info("sockname"))
        self.client = address_of(transport.get_extra_info("peername"))
        self.scheme = "https" if is_ssl(transport) else "http"
        transport.set_write_buffer_limits(high=self._node.config.limits.waiting_bytes)
        self._limits = TimeLimits()
        self.await_request(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.remove(self)
        self._forget_requests()
        self._unset_keepalive_if_required()  # uvicorn's leaves the timer of a connection that was reset, which holds this object until it is over
        super().connection_lost(exc)

    def _forget_requests(self) -> None:
        """Requests that wait are never answered."""
        self.pipeline.clear()
        self._ahead, self._at, self._held = b"", 0, b""

    def _take_known(self, data: bytes, at: int) -> int:
        """Has the request that begins at ``at`` answered without the parser, if its head is known. Returns where the next one begins.

        That is ``at`` if the parser has to take it, and more than was read if only the head is there.
        """
        return at

    def _parse_alone(self, data: bytes) -> None:
        """Gives the parser what is one request as a whole, or the beginning of one."""
        self._parse_part(data)

    # What the parser finds.

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._headers, self._fields, self._chunks_left = 0, 0, CHUNKS_MOST
        if not self._limits.in_request:
            self.await_request(self.loop.time())

    def on_url(self, url: bytes) -> None:
        self._fields += url.count(b"&")
        if b"?" not in self.url:  # escapes of the path, which uvicorn decodes at once: 60 KB of them take it 3 to 8 ms
            self._fields += url.partition(b"?")[0].count(b"%")
        if self._fields > FIELDS_MOST and self._fields > FIELDS_PER_CHANNEL * self._node.config.limits.channels_per_client:
            self._end_parsing("an address has more than %d fields and escapes of its path", FIELDS_MOST)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > HEADERS_MOST:
            self._end_parsing("a request has more than %d headers", HEADERS_MOST)
        # uvicorn adds the trailers of a body in chunks to the headers of its head, where they replace those that a proxy set.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Gives the request to the application. The scope is made here, since requests that are answered directly have none."""
        self._end_head()
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        self.scope["extensions"] = {"gateway.stream": self}  # type: ignore[dict-item]  # ASGI allows any value, uvicorn's type dicts alone
        super().on_headers_complete()

    def _end_head(self) -> None:
        self._in_head, self._advanced, self._head_bytes = False, True, 0

    def on_chunk_header(self) -> None:
        self._advanced, self._head_bytes = True, 0
        self._chunks_left -= 1
        if self._chunks_left < 0:
            self._end_parsing("a request's body is in chunks of less than %d bytes", CHUNK_BYTES)

    def _end_parsing(self, reason: str, limit: int) -> None:
        log.info(f"{reason}: closed", limit)
        raise _TooMany

    def on_body(self, body: bytes) -> None:
        self._advanced, self._head_bytes = True, 0
        self._body_bytes += len(body)
        self._chunks_left += len(body) // CHUNK_BYTES
        self._limits.body_goes_on(self.loop.time())
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._limits.request_complete()
        if not self._limits.in_reading:
            self._wheel.remove(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._go_on()

    def _go_on(self) -> None:
        """The request is answered, so the next one has its turn."""
        if self.transport.is_closing():
            self._bound_closing()
        elif self._ahead:
            self.loop.call_soon(self._parse)

    # What was read.

    def data_received(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        if self._begins_request(data):
            end = self._take_known(data, 0)
            if end > len(data) and not self._held:
                self._hold(data)
                return
            self._held = b""
            if 0 < end <= len(data):
                data = data[end:]
                if not data:
                    return
            elif _UPGRADE not in data[: data.find(BLANK_LINE)].lower():
                self._parse_alone(data)
                return
        self._held = b""
        self._ahead = self._ahead[self._at :] + data if self._ahead else data
        self._at = 0
        self._parse()

    def _begins_request(self, data: bytes) -> bool:
        """Whether it is a request with its body, as most are, or the beginning of one: it is no handshake, so no frames come after it."""
        if self._ahead or self.pipeline or not data.startswith(b"POST") or data.count(BLANK_LINE) > 1:
            return False
        return bool(self._held) or not self._limits.in_request or (self._in_head and not self._head_bytes)

    def _hold(self, data: bytes) -> None:
        """Waits for the body, which many clients send by itself. If the next read does not bring all of it, the parser goes on."""
        self._held = data
        self.await_request(self.loop.time())

    def _parse(self) -> None:
        """Gives the parser what was read, as far as no request waits, and PARTS of it at most: the others have their turn then."""
        for _ in range(PARTS):
            if self.pipeline or not self._ahead or self.transport.is_closing():
                break
            end = self._take_known(self._ahead, self._at)
            if not self._at < end <= len(self._ahead):
                self._parse_part(self._next_part())
            else:
                self._at = end
                if end == len(self._ahead):
                    self._ahead, self._at = b"", 0
        else:
            if self._ahead:
                self.loop.call_soon(self._parse)
        if self.transport.is_closing():
            self._ahead = b""
        self.flow.hold(bool(self._ahead))

    def _next_part(self) -> bytes:
        """Up to the next blank line: where a head, or a body in chunks, may end."""
        ahead, at = self._ahead, self._at
        self._at = self._end_of_blank_line(ahead, at)
        if self._at == len(ahead):
            self._ahead, self._at = b"", 0
            return ahead[at:]
        return ahead[at : self._at]

    def _end_of_blank_line(self, ahead: bytes, at: int) -> int:
        """Where the next one ends, which may have begun in the part before; where ``ahead`` ends if there is none."""
        for begun in (3, 2, 1):
            if self._tail.endswith(BLANK_LINE[:begun]) and ahead.startswith(BLANK_LINE[begun:], at):
                return at + len(BLANK_LINE) - begun
        found = ahead.find(BLANK_LINE, at)
        return found + len(BLANK_LINE) if found >= 0 else len(ahead)

    def _parse_part(self, data: bytes) -> None:
        self._advanced, self._body_bytes = False, 0
        self._tail = (self._tail + data[-3:])[-3:]
        super().data_received(data)
        if self._in_head or (self._limits.in_request and not self._advanced):
            self._head_bytes += len(data) - self._body_bytes  # a body that ended in this part is none of the next head
            if self._head_bytes > HEAD_BYTES:
                log.info("a request's head, or what follows its body, is larger than %d bytes: closed", HEAD_BYTES)
                self._refuse(_TOO_LARGE)
        elif not self._limits.in_request and self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            self.await_request(self.loop.time())  # an empty line, or the rest of a body: any byte stops uvicorn's clock of idle connections

    # Time.

    @property
    def _node(self) -> Node:
        node: Node = self.app_state["node"]
        return node

    @property
    def _wheel(self) -> Wheel:
        wheel: Wheel = self.app_state["node"].wheel
        return wheel

    def await_request(self, since: float) -> None:
        """The next request has SILENT_SECONDS from then on, on the loop's clock."""
        self._in_head, self._head_bytes = True, 0
        self._limits.request_begins(since)
        self._wheel.set(self, self._limits.due)

    def tick(self, now: float) -> float | None:
        """The wheel calls it: ends the connection of a client that does not send or take what it should in time."""
        match self._limits.over(now):
            case Wait.CLOSING:
                self._cut_off("a closing connection was not read for %g s", time_limits.CLOSE_SECONDS)
            case Wait.READING:
                self._look_at_unread(now)
            case Wait.REQUEST if self._ahead:
                self._limits.request_waits(now)
            case Wait.REQUEST:
                log.info("a request was not complete after %g s: closed", time_limits.SILENT_SECONDS)
                self._refuse(_TIMEOUT)
            case Wait.NEXT_REQUEST:
                self.timeout_keep_alive_handler()
        due = self._limits.due
        return due if due < NEVER else None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading(self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._limits.reading_until(NEVER)

    def _await_reading(self, now: float) -> None:
        self._unread = self.transport.get_write_buffer_size()
        until = now + self._node.config.limits.slow_seconds
        self._limits.reading_until(until)
        self._wheel.set(self, until)

    def _look_at_unread(self, now: float) -> None:
        limits = self._node.config.limits
        if self._unread - self.transport.get_write_buffer_size() >= limits.waiting_bytes:
            self._await_reading(now)  # a long answer and a client that is not fast, but reads
        else:
            self._cut_off("an answer was not read for %g s", limits.slow_seconds)

    # The end.

    def _cut_off(self, reason: str, seconds: float) -> None:
        log.info("%s: closed", reason % seconds)
        self._limits.end()
        self._forget_requests()
        self.transport.abort()

    def _owes_answer(self) -> bool:
        """Whether a request before the one that is being read is not answered yet: what is written now would be taken for that answer."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        in_own_body = self._limits.in_request and not self._in_head
        return bool(self.pipeline) or self.cycle.response_started or not in_own_body

    def _refuse(self, answer: bytes) -> None:
        owes = self._owes_answer()
        self._limits.request_complete()
        if not self.transport.is_closing():
            if not owes:
                self.transport.write(answer)
            self.transport.close()
            self._forget_requests()
            self._bound_closing()

    def _bound_closing(self) -> None:
        """A closing transport waits, without end, until its client has taken everything."""
        if self._limits.closing(self.loop.time()):
            self._wheel.set(self, self._limits.due)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always has the transport close itself
        self._bound_closing()
        return stays_open(self.transport, self._node.admission.closings)

    def send_400_response(self, msg: str) -> None:
        if self._owes_answer():
            self.transport.close()
        else:
            super().send_400_response(msg)
        self._forget_requests()
        self._bound_closing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._bound_closing()

    def shutdown(self) -> None:
        if self._held:  # a request that has begun is still answered
            held, self._held = self._held, b""
            self._parse_part(held)
        super().shutdown()
        if self.transport.is_closing():  # over TLS the other side is asked first, and an idle one may never answer
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)
        else:
            self.loop.call_later(time_limits.CLOSE_SECONDS, self._end_waiting)

    def _end_waiting(self) -> None:
        """The process ends: it waits for its own work, but not for clients that neither send nor read."""
        if self._limits.waits_for_client:
            self._cut_off("the process ends, and a client was waited for in vain for %g s", time_limits.CLOSE_SECONDS)


def address_of(name: Any) -> tuple[str, int] | None:
    """Host and port; a Unix socket has none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
