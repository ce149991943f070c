"""uvicorn's HTTP protocol with bounds, with a WebSocket handshake whose request is not parsed twice, and with the connection
itself for streams (``scope["extensions"]["gateway.stream"]``), which then write prepared chunks to its transport and need no task.

    the socket ──▶ _ahead, at most what one read brought ──▶ the parser ──▶ the request being answered, and one that waits

Pipelined requests. The parser is given a part of what was read at a time, which ends with the next blank line: so a part ends one
head (two, if the last read ended within a blank line). While a request waits for the answer to the one before it, the parser is
given nothing, and while bytes wait in ``_ahead``, the socket is not read. After each answer the parser goes on in another turn of
the loop.

Time limits. ``tick`` ends the connection at the earliest of these:

| waits for                                                        | at most                              | else              |
|------------------------------------------------------------------|--------------------------------------|-------------------|
| the end of a request's head, the next part of its body           | SILENT_SECONDS                       | 408               |
| the end of a request                                             | REQUEST_SECONDS                      | 408               |
| the client to take ``limits.waiting_bytes`` of a full socket     | ``limits.slow_seconds``              | cut off           |
| the client to take the rest, once the connection is closing      | CLOSE_SECONDS                        | cut off           |
| the same, and for the rest of a request, when the process ends   | CLOSE_SECONDS                        | cut off           |

Places. Where connections are limited, a socket without a place is answered once and closed: see ``_application``, and
``session/places.py``.

What it uses of uvicorn's internals is listed in ``uvicorn_internals``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl

from ..runtime.wheel import NEVER, Wheel
from ..session.node import Node
from ..session.places import UNLIMITED, Places, Socket
from .api.direct import DirectCall, DirectCalls
from .outlets import CLOSE_SECONDS, GOODBYE_SECONDS
from .request import api_key_of, client_address, is_api_key, opens_metrics, socket_address
from .security_headers import secured
from .websocket import WebSocketConnection

__all__ = ["HttpProtocol"]

log = logging.getLogger("gateway.http")

SILENT_SECONDS = 10.0  # from the connection, or a request's first byte, to the end of its head; then between parts of its body
REQUEST_SECONDS = 60.0  # from its first byte to the end of its body
HEAD_BYTES = 64 * 1024
BLANK_LINE = b"\r\n\r\n"
API, METRICS = b"/api/", b"/metrics"
ANSWERED_ALWAYS = (API, b"/health/", METRICS, b"/emulation", b"/sse", b"/connection/")  # without a place, too; once a socket
RETRY_SECONDS = 5  # after which a client that found no place may come again
PARTS = 16  # that the parser takes in one turn, 20 µs each
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_EARLY = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Flow(FlowControl):
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


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until ``hand_over`` gives it to another protocol. After that it receives nothing more.

    ``app_state`` holds the node, as ``app`` puts it into the lifespan's state; the node's wheel runs the time limits.
    """

    bucket = 0
    place = UNLIMITED
    flow: _Flow
    _ahead = b""  # what was read and is not parsed yet
    _at = 0  # where the parser goes on in it
    _in_head = True
    _head_bytes = 0  # of a head, or of what comes between two chunks of a body or after the last one
    _advanced = False  # a body went on in the part that was parsed last
    _silent_at = _request_over = _unread_at = _closed_at = NEVER  # when a time limit is reached, in seconds of the loop's clock
    _unread = 0  # bytes that the client had not taken when it was looked at last
    _direct: DirectCalls | None = None  # made for the first of them: most connections become WebSockets
    _of_proxy = False  # its requests are of several clients, each with an address of its own
    _served: RequestResponseCycle | DirectCall | None = (
        None  # the cycle whose coroutine runs; ``cycle`` is that of the newest request, which may have to wait for it
    )

    def connection_made(self, transport: Any) -> None:
        # What uvicorn's does, except that it asks a socket object for the addresses, which took longer than all the rest.
        self.connections.add(self)
        self.transport = transport
        self.flow = _Flow(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "https" if is_ssl(transport) else "http"
        transport.set_write_buffer_limits(high=self._node.config.limits.waiting_bytes)
        if self.place is UNLIMITED:
            self.take_place(transport, self.client)
        else:
            self.place.socket = transport  # until now it was the TLS handshake, or FirstRead
        self._of_proxy = self.place is not UNLIMITED and self.client is not None and not self.place.address
        self.await_request(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.release()
        self._wheel.remove(self)
        self._forget_requests()
        super().connection_lost(exc)
        self.cycle = self.scope = self._served = self._direct = None  # type: ignore[assignment]  # they and this object hold each other

    def _forget_requests(self) -> None:
        """Requests that wait are never answered, and the one that is being answered learns that its client is gone."""
        self.pipeline.clear()
        self._ahead, self._at = b"", 0
        if self._direct is not None:
            self._direct.forget()
        if self._served is not None:
            self._served.disconnected = True
            self._served.message_event.set()

    # Requests.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"gateway.stream": self}  # type: ignore[dict-item]  # ASGI allows any value, uvicorn's type dicts alone
        if self._silent_at == NEVER:
            self.await_request(self.loop.time())

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn adds the trailers of a body in chunks to the headers of its head, without end, where they replace those that a proxy set.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._advanced, self._head_bytes = False, True, 0
        if self.place is not UNLIMITED:
            self.app = self._application()
        if self.url.startswith(API) and (call := self._direct_call()) is not None:
            self.cycle = self._served = call  # type: ignore[assignment]  # uvicorn's protocol uses no more of a cycle than a call has
            return
        super().on_headers_complete()
        if self.place is UNLIMITED:
            return
        if self.place.refusal and self.cycle is not None and self.cycle.scope is self.scope:
            self.cycle.keep_alive = False

    def _direct_call(self) -> DirectCall | None:
        """What answers the request without the application; None if the application has to."""
        parser = self.parser
        if (
            parser.get_method() != b"POST"
            or (not self._direct and self.cycle is not None and not self.cycle.response_complete)
            or self.pipeline
            or self.flow.write_paused
            or self.expect_100_continue
            or self.place.refusal
            or not getattr(self.app, "is_served_directly", False)
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return None
        if self._direct is None:
            self._direct = DirectCalls(self, self.loop)
        return self._direct.take(self._node, self.url, self.headers, self.server_state.default_headers)

    def forward(self, call: DirectCall) -> None:
        assert self._direct is not None
        self.cycle = self._served = self._direct.without(call)  # type: ignore[assignment]  # as before this request
        super().on_headers_complete()
        cycle = self.cycle
        cycle.body += call.body
        cycle.more_body = call.more_body
        cycle.message_event.set()

    def read_on(self) -> None:
        self.flow.resume_reading()

    def write_answers(self, answers: bytes, *, keep_alive: bool, all_answered: bool) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(answers)
        if not keep_alive:
            self.transport.close()
        if all_answered:
            self.on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_chunk_header(self) -> None:
        self._advanced, self._head_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        self._advanced, self._head_bytes = True, 0
        self._silent_at = min(self.loop.time() + SILENT_SECONDS, self._request_over)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent_at = NEVER
        if self._unread_at == NEVER:
            self._wheel.remove(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._of_proxy:
            self._places.claim(self.place, "")
        if self.transport.is_closing():
            self._bound_closing()
        elif self._ahead:
            self.loop.call_soon(self._parse)

    # Its place.

    def take_place(self, socket: Socket, peer: Any) -> None:
        """``peer`` is the address at the other end. ``socket`` is aborted if others need its place."""
        if self._places.limited:
            self.place = self._places.open(socket, socket_address(_address(peer), self._node.config.proxies))

    def _application(self) -> Any:
        """What answers the request whose head is complete: the application, unless there is no place for its socket.

        Without a place too, the application answers operators, and the commands of clients that are connected. Streams and
        WebSockets it refuses in their own way, since they ask for a place again.
        """
        path, _, query = self.url.partition(b"?")
        refusal = self._places.claim(self.place, self._counting_address())
        if refusal and path.startswith(API):
            config = self._node.config
            self.place.served = config.insecure.api or is_api_key(api_key_of(dict(self.headers), query), config.api_keys)
        elif refusal and path == METRICS:
            self.place.served = opens_metrics(self.headers, query, self._node.config)
        return _refuse if refusal and not path.startswith(ANSWERED_ALWAYS) else self.config.loaded_app

    def _counting_address(self) -> str:
        if not self._of_proxy:
            return self.place.address
        address = client_address(self.client, self.headers, self._node.config.proxies)
        return socket_address((address,), self._node.config.proxies)  # none for what the proxy asks itself

    # What was read.

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST") and data.count(BLANK_LINE) < 2 and not self._ahead and not self.pipeline:
            self._parse_part(data)  # a request with its body, as most are; it is no handshake, so no frames come after it
            return
        self._ahead = self._ahead[self._at :] + data if self._ahead else data
        self._at = 0
        self._parse()

    def _parse(self) -> None:
        """Gives the parser what was read, as far as no request waits, and PARTS of it at most: the others have their turn then."""
        for _ in range(PARTS):
            if self.pipeline or not self._ahead or self.transport.is_closing():
                break
            self._parse_part(self._next_part())
        else:
            if self._ahead:
                self.loop.call_soon(self._parse)
        if self.transport.is_closing():
            self._ahead = b""
        self.flow.hold(bool(self._ahead))

    def _next_part(self) -> bytes:
        """Up to the next blank line: where a head, or a body in chunks, may end."""
        ahead, at = self._ahead, self._at
        self._at = ahead.find(BLANK_LINE, at) + len(BLANK_LINE)
        if self._at < len(BLANK_LINE) or self._at == len(ahead):
            self._ahead, self._at = b"", 0
            return ahead[at:]
        return ahead[at : self._at]

    def _parse_part(self, data: bytes) -> None:
        self._advanced = False
        super().data_received(data)
        if self._in_head or (self._silent_at != NEVER and not self._advanced):
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                log.info("a request's head, or what follows its body, is larger than %d bytes: closed", HEAD_BYTES)
                self._refuse(_TOO_LARGE)
        elif self._silent_at == NEVER and self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
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

    @property
    def _places(self) -> Places:
        return self._node.admission.places

    def await_request(self, since: float) -> None:
        """The next request has SILENT_SECONDS from then on, on the loop's clock."""
        self._in_head, self._head_bytes = True, 0
        self._silent_at, self._request_over = since + SILENT_SECONDS, since + REQUEST_SECONDS
        self._wheel.set(self, self._silent_at)

    def tick(self, now: float) -> float | None:
        """From the wheel: ends the connection of a client that does not send or take what it should in time."""
        if now >= self._closed_at:
            self._cut_off("a closing connection was not read for %g s", CLOSE_SECONDS)
        elif now >= self._unread_at:
            self._look_at_unread(now)
        elif now >= self._silent_at:
            if self._ahead:
                self._silent_at = now + SILENT_SECONDS  # it waits for an answer to an earlier request, not for the client
            else:
                log.info("a request was not complete after %g s: closed", SILENT_SECONDS)
                self._refuse(_TIMEOUT)
        due = min(self._closed_at, self._unread_at, self._silent_at)
        return due if due < NEVER else None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading(self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_at = NEVER

    def _await_reading(self, now: float) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._unread_at = now + self._node.config.limits.slow_seconds
        self._wheel.set(self, self._unread_at)

    def _look_at_unread(self, now: float) -> None:
        limits = self._node.config.limits
        if self._unread - self.transport.get_write_buffer_size() >= limits.waiting_bytes:
            self._await_reading(now)  # a long answer and a client that is not fast, but reads
        else:
            self._cut_off("an answer was not read for %g s", limits.slow_seconds)

    # The end.

    def _cut_off(self, reason: str, seconds: float) -> None:
        log.info("%s: closed", reason % seconds)
        self._silent_at = self._unread_at = self._closed_at = NEVER
        self._forget_requests()
        self.transport.abort()

    def _refuse(self, answer: bytes) -> None:
        self._silent_at = NEVER
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(answer)
            self.transport.close()
            self._bound_closing()

    def _bound_closing(self) -> None:
        """A closing transport waits, without end, until its client has taken everything."""
        if self._closed_at == NEVER:
            self._closed_at = self.loop.time() + CLOSE_SECONDS
            self._wheel.set(self, self._closed_at)

    def eof_received(self) -> None:
        self._bound_closing()  # the transport closes itself

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._bound_closing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._bound_closing()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():  # over TLS the other side is asked first, and an idle one may never answer
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)
        else:
            self.loop.call_later(CLOSE_SECONDS, self._end_waiting)

    def _end_waiting(self) -> None:
        """The process ends: it waits for its own work, but not for clients that neither send nor read."""
        if min(self._silent_at, self._unread_at, self._closed_at) < NEVER:
            self._cut_off("the process ends, and a client was waited for in vain for %g s", CLOSE_SECONDS)

    def handle_websocket_upgrade(self) -> None:
        if self.flow.write_paused or (self.cycle is not None and not self.cycle.response_complete):
            log.info("a WebSocket handshake after a request whose answer is not complete, and would come between the frames: closed")
            self._refuse(_TOO_EARLY)
            return
        connection = WebSocketConnection(self.config, self.server_state, self.app_state, self.loop)
        connection.place = self.place
        connection.connection_made(self.transport)
        scope = self.scope
        connection.shake_hands(scope["method"], self.url.decode("latin-1"), scope["http_version"], self.headers, self.client)
        after = self._ahead[self._at :]
        self.hand_over(connection)
        if after and not self.transport.is_closing():
            connection.data_received(after)  # frames that came with the handshake

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Gives the connection to ``protocol``, which may use it for hours: everything that belongs to the request is released."""
        self._wheel.remove(self)
        self._ahead, self._at = b"", 0
        self.flow.hold(False)
        self.flow.resume_reading()  # a request that came in after this one had paused it
        self.connections.discard(self)
        self.transport.set_protocol(protocol)
        if self._served is not None:
            self._served.response_complete = True  # without it, uvicorn closes the connection when the request's coroutine returns
        self.pipeline.clear()
        if self.flow.write_paused:
            log.info("a stream after answers that are not read: closed")
            self.transport.abort()  # the new protocol would never learn that its socket is full
        # The parser and the scope hold this object as it holds them; looking for such cycles took a tenth of each connect.
        self.parser = self.cycle = self._served = self._direct = None  # type: ignore[assignment]  # uvicorn's types allow None at first only
        self.headers.clear()
        self.scope.clear()  # type: ignore[attr-defined]  # a TypedDict of uvicorn's, which is a dict at run time


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application of requests whose socket has no place."""
    body = b"too many connections; try again later\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    headers += [(b"retry-after", b"%d" % RETRY_SECONDS), (b"cache-control", b"no-store"), (b"connection", b"close")]
    send = secured(send)
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port; a Unix socket has none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
