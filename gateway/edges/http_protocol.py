"""uvicorn's HTTP protocol, within the bounds of ``http_bounds``, with a WebSocket handshake whose request is not parsed twice, and with the connection
itself for streams (``scope["extensions"]["gateway.stream"]``), which then write prepared chunks to its transport and need no task.

Places. Where connections are limited, a socket without a place is answered once and closed: see ``_application``, and
``session/places.py``.

What it uses of uvicorn's internals is listed in ``uvicorn_internals``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..runtime.turns import Turns
from ..session.places import UNLIMITED, Places, Socket
from .api.direct import DirectCall, DirectCalls
from .http_bounds import BoundedHttp, address_of
from .request import api_key_of, client_address, is_api_key, opens_metrics, socket_address, turn_slots_of
from .security_headers import secured
from .websocket import WebSocketConnection

__all__ = ["HttpProtocol"]

log = logging.getLogger("gateway.http")

API, METRICS = b"/api", b"/metrics"
ANSWERED_ALWAYS = (
    API,
    b"/health/",
    METRICS,
    b"/admin/",
    b"/emulation",
    b"/sse",
    b"/connection/",
)  # also where the socket has no place: one request of each such socket
RETRY_SECONDS = 5  # after which a client that found no place may come again
_TOO_EARLY = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class HttpProtocol(BoundedHttp):
    """One HTTP connection, until ``hand_over`` gives it to another protocol. After that it receives nothing more."""

    place = UNLIMITED
    _direct: DirectCalls | None = None  # made for the first of them: most connections become WebSockets
    _upgrade_ignored: tuple[bytes, bytes] | None = None  # method and version of a request whose head is to be parsed once more
    _of_proxy = False  # its requests are of several clients, each with an address of its own
    _served: RequestResponseCycle | DirectCall | None = (
        None  # the cycle whose coroutine runs; ``cycle`` is that of the newest request, which may have to wait for it
    )

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.place is UNLIMITED:
            self.take_place(transport, self.client)
        else:
            self.place.socket = transport  # until now it was the TLS handshake
        self._of_proxy = self.place is not UNLIMITED and self.client is not None and not self.place.address

    @property
    def closings(self) -> Turns:
        return self._node.admission.closings

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.release()
        super().connection_lost(exc)
        self.cycle = self.scope = self._served = self._direct = None  # type: ignore[assignment]  # they and this object hold each other

    def _forget_requests(self) -> None:
        """The one that is being answered learns that its client is gone."""
        super()._forget_requests()
        if self._direct is not None:
            self._direct.forget()
        if self._served is not None:
            self._served.disconnected = True
            self._served.message_event.set()

    # Requests.

    def _owes_answer(self) -> bool:
        return super()._owes_answer() or (self._direct is not None and len(self._direct) > 1)

    def on_headers_complete(self) -> None:
        if self._asks_for_another_protocol():
            self._upgrade_ignored = self.parser.get_method(), self.parser.get_http_version().encode()
            return
        if self.place is not UNLIMITED:
            self.app = self._application()
        if self.url.startswith(API) and (call := self._direct_call()) is not None:
            self._end_head()
            self.cycle = self._served = call  # type: ignore[assignment]  # uvicorn's protocol uses no more of a cycle than a call has
            return
        super().on_headers_complete()
        if self.place is UNLIMITED:
            return
        if self.place.refusal and self.cycle is not None and self.cycle.scope is self.scope:
            self.cycle.keep_alive = False

    def _asks_for_another_protocol(self) -> bool:
        """Whether it asks for a protocol that is not spoken here, as Java's client does for HTTP/2 (h2c), and may be answered in this one."""
        return self.parser.should_upgrade() and not self._should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)

    def on_message_complete(self) -> None:
        if not self._upgrade_ignored:
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Gives another parser the same head without what asks for another protocol: this one took that head for all of the request, and would
        take the body for the next request, which no proxy in front of this server has seen."""
        if self._upgrade_ignored:
            (method, version), self._upgrade_ignored = self._upgrade_ignored, None
            self.parser = type(self.parser)(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            fields = b"".join([b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"])
            HttpToolsProtocol.data_received(self, b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, fields))

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
            self._direct = DirectCalls(self, self._node, self.loop, self.server_state)
        return self._direct.take(self.url, self.headers)

    def _take_known(self, data: bytes, at: int) -> int:
        if (
            self._direct is None
            or not isinstance(self.cycle, DirectCall)
            or (self._limits.in_request and not self._held)  # the parser is within one
            or self.flow.write_paused
            or self.place.refusal
            or self._of_proxy
        ):
            return at
        call, end = self._direct.take_known(data, at)
        if call is not None:
            self.cycle = self._served = call  # as in on_headers_complete
            self._limits.request_complete()
        return end

    def _parse_alone(self, data: bytes) -> None:
        begins, before = not self._limits.in_request, self.cycle
        super()._parse_alone(data)
        call = self.cycle
        if begins and call is not before and self._direct is not None and isinstance(call, DirectCall) and not call.more_body:
            self._direct.learn(call, data)

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
        if not all_answered:
            return
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Does what uvicorn's on_response_complete does, but lets the wheel bound how long the connection is idle: a timer for each request would cost more."""
        self.server_state.total_requests += 1
        until = self.loop.time() + self.timeout_keep_alive
        self._limits.next_until(until)
        if not self.bucket:
            self._wheel.set(self, until)
        self.flow.resume_reading()
        self._go_on()

    def abort(self) -> None:
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _go_on(self) -> None:
        if self._of_proxy:
            self._places.claim(self.place, "")
        super()._go_on()

    # Its place.

    @property
    def _places(self) -> Places:
        return self._node.admission.places

    def take_place(self, socket: Socket, peer: Any) -> None:
        """``peer`` is the address at the other end. ``socket`` is aborted if others need its place."""
        if self._places.limited:
            self.place = self._places.open(socket, socket_address(address_of(peer), self._node.config.proxies))

    def _application(self) -> Any:
        """What answers the request whose head is complete: the application, unless there is no place for its socket.

        Without a place too, the application answers operators, and the commands of clients that are connected. Streams and
        WebSockets it refuses in their own way, since they ask for a place again.
        """
        path, _, query = self.url.partition(b"?")
        if turn_slots_of(query):  # to parse it has to wait for a turn, which the application does: no key is looked for in it here
            query = b""
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

    # Its next protocol.

    def handle_websocket_upgrade(self) -> None:
        if self.flow.write_paused or (self.cycle is not None and not self.cycle.response_complete):
            log.info(
                "a WebSocket handshake came before an earlier request was answered, and that answer would come between the frames: closed"
            )
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

    def end_requests(self) -> None:
        self._forget_requests()

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
            log.info("a request for a stream came from a client that does not read earlier answers: closed")
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
