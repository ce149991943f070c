"""uvicorn's HTTP protocol with three additions: a WebSocket handshake whose request is not parsed twice, a time limit for
requests that never end, and the connection itself for streams (``scope["extensions"]["gateway.stream"]``), which then write
prepared chunks to its transport and need no task.

What it uses of uvicorn's internals is listed in ``uvicorn_internals``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl

from ..runtime.wheel import Wheel
from .outlets import GOODBYE_SECONDS
from .websocket import WebSocketConnection

__all__ = ["HttpProtocol"]

log = logging.getLogger("gateway.http")

SILENT_SECONDS = 10.0  # from the connection, or a request's first byte, to the end of its head; then between parts of its body
REQUEST_SECONDS = 60.0  # from its first byte to the end of its body
HEAD_BYTES = 64 * 1024
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_EARLY = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection, until ``hand_over`` gives it to another protocol. After that it receives nothing more.

    ``app_state`` holds the node, as ``app`` puts it into the lifespan's state; the node's wheel runs the time limits.
    """

    bucket = 0
    _became: tuple[WebSocketConnection, int] | None = (
        None  # what took the connection over, and where its request ends in the bytes that came
    )
    _in_head = True
    _head_bytes = 0
    _deadline = _last_deadline = 0.0
    _served: RequestResponseCycle | None = (
        None  # the cycle whose coroutine runs; ``cycle`` is that of the newest request, which may have to wait for it
    )

    def connection_made(self, transport: Any) -> None:
        # What uvicorn's does, except that it asks a socket object for the addresses, which took longer than all the rest.
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "https" if is_ssl(transport) else "http"
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.remove(self)
        super().connection_lost(exc)
        self.cycle = self.scope = self._served = None  # type: ignore[assignment]  # they and this object hold each other

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"gateway.stream": self}  # type: ignore[dict-item]  # ASGI allows any value, uvicorn's type dicts alone
        if not self.bucket:
            self._await_request()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._deadline = min(self.loop.time() + SILENT_SECONDS, self._last_deadline)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._wheel.remove(self)
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._became is not None:
            connection, end = self._became
            self._became = None
            if len(data) > end and not self.transport.is_closing():
                connection.data_received(data[end:])  # frames that came with the handshake
        elif self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                log.info("a request's head is larger than %d bytes: closed", HEAD_BYTES)
                self._refuse(_TOO_LARGE)
        elif not self.bucket and self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            self._await_request()  # an empty line, or the rest of a body: any byte stops uvicorn's clock of idle connections

    @property
    def _wheel(self) -> Wheel:
        wheel: Wheel = self.app_state["node"].wheel
        return wheel

    def _await_request(self) -> None:
        now = self.loop.time()
        self._in_head, self._head_bytes = True, 0
        self._deadline, self._last_deadline = now + SILENT_SECONDS, now + REQUEST_SECONDS
        self._wheel.set(self, self._deadline)

    def tick(self, now: float) -> float | None:
        """From the wheel: closes the connection if its request is not complete in time."""
        if now < self._deadline:
            return self._deadline
        log.info("a request was not complete after %g s: closed", SILENT_SECONDS)
        self._refuse(_TIMEOUT)
        return None

    def _refuse(self, answer: bytes) -> None:
        self._wheel.remove(self)
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                self.transport.write(answer)
            self.transport.close()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():  # over TLS the other side is asked first, and an idle one may never answer
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def handle_websocket_upgrade(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            log.info("a WebSocket handshake after a request whose answer is not complete, and would come between the frames: closed")
            self._refuse(_TOO_EARLY)
            return
        connection = WebSocketConnection(self.config, self.server_state, self.app_state, self.loop)
        connection.connection_made(self.transport)
        scope = self.scope
        connection.shake_hands(scope["method"], self.url.decode("latin-1"), scope["http_version"], self.headers, self.client)
        self.hand_over(connection)
        # uvicorn calls this while it handles the parser's HttpParserUpgrade, whose argument is the length of what was parsed.
        upgrade = sys.exception()
        assert upgrade is not None
        self._became = connection, upgrade.args[0]

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Gives the connection to ``protocol``, which may use it for hours: everything that belongs to the request is released."""
        self._wheel.remove(self)
        self.flow.resume_reading()  # a request that came in after this one had paused it
        self.connections.discard(self)
        self.transport.set_protocol(protocol)
        if self._served is not None:
            self._served.response_complete = True  # without it, uvicorn closes the connection when the request's coroutine returns
        self.pipeline.clear()
        # The parser and the scope hold this object as it holds them; looking for such cycles took a tenth of each connect.
        self.parser = self.cycle = self._served = None  # type: ignore[assignment]  # uvicorn's types allow None at first only
        self.headers.clear()
        self.scope.clear()  # type: ignore[attr-defined]  # a TypedDict of uvicorn's, which is a dict at run time


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port; a Unix socket has none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
