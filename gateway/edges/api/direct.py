"""Publishing over HTTP without a framework on the way: one pipelined write to Valkey, no task, one write to the client.

    HttpProtocol ──head──▶ ``take`` ──body──▶ plan ──calls──▶ Valkey ──▶ the answer
                                         └── None ──▶ the application, as every other request

It takes what most requests of backends are: POST with an API key, to one of ``plans.PLANNERS``, on a connection that is kept. Everything
else, and every mistake in a request, goes the way through ASGI, which answers the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar, Protocol

from ...errors import StoreError, Unavailable
from ...runtime import tracing
from ...session.client_counts import FROM_API
from ...session.node import Node
from ..request import api_key_of, is_api_key
from ..responses import json_headers
from .endpoint import failure
from .plans import PLANNERS, Plan, plan

__all__ = ["DirectCall", "DirectCalls", "Lender"]

Headers = list[tuple[bytes, bytes]]

CALLS_MOST = 32  # of one connection that are under way together; their bodies have limits.api_bytes together
_PATHS = {f"/api/{name}".encode(): name for name in PLANNERS}


class Lender(Protocol):
    """The connection that requests come in on."""

    def forward(self, call: DirectCall) -> None:
        """The request, as far as it was read, goes to the application."""

    def write_answers(self, answers: bytes, *, keep_alive: bool, all_answered: bool) -> None:
        """Writes the answers of one or several calls; ``all_answered``: no other call is under way."""

    def read_on(self) -> None:
        """More of the body may come."""


class DirectCalls:
    """The calls of one connection that are not answered yet. They are under way together, and are answered in their order."""

    __slots__ = ("_bytes", "_calls", "_lender", "_loop", "_writing")

    _heads: ClassVar[dict[int, bytes]] = {}  # the heads of answers by status, for as long as the server's own headers are the same list
    _heads_of: ClassVar[object] = None

    def __init__(self, lender: Lender, loop: asyncio.AbstractEventLoop) -> None:
        self._lender = lender
        self._loop = loop
        self._calls: deque[DirectCall] = deque()
        self._bytes = 0  # of the bodies of those calls
        self._writing = False

    def __bool__(self) -> bool:
        return bool(self._calls)

    def take(self, node: Node, url: bytes, headers: Headers, server_headers: Headers) -> DirectCall | None:
        """The call that answers a POST with this head; None if the application has to. ``server_headers`` are those of every answer."""
        path, _, query = url.partition(b"?")
        name = _PATHS.get(path)
        if name is None or len(self._calls) >= CALLS_MOST:
            return None
        if node.history.commands.sharded or tracing.is_on() or node.config.telemetry.publication_tags:
            return None
        config, fields = node.config, dict(headers)
        length = fields.get(b"content-length", b"")
        size = self._bytes + (int(length) if length.isdigit() else 0)
        if size > config.limits.api_bytes or not is_api_key(api_key_of(fields, query), config.api_keys):
            return None
        if self._calls and not self._calls[-1].keep_alive:
            return None  # the server ends: that call's answer is the last
        call = DirectCall(node, self, name, fields, server_headers)
        self._calls.append(call)
        return call

    def forward(self, call: DirectCall) -> None:
        self._lender.forward(call)

    def read_on(self) -> None:
        self._lender.read_on()

    def has_read(self, call: DirectCall, size: int) -> None:
        """The body of the call is complete, and is held until it is answered."""
        call.size = size
        self._bytes += size

    def without(self, call: DirectCall) -> DirectCall | None:
        """Forgets the newest call, whose body is not held here, and returns the one before it."""
        self._calls.remove(call)
        return self._calls[-1] if self._calls else None

    def forget(self) -> None:
        """Nobody waits for the answers any more."""
        for call in self._calls:
            call.disconnected = True
        self._calls.clear()
        self._bytes = 0

    def answer(self, call: DirectCall, status: int, body: bytes) -> None:
        """Has the answer written, whose body is JSON, once its turn has come. What is answered in one turn of the loop is written together."""
        end = b"\r\n\r\n" if call.keep_alive else b"\r\nconnection: close\r\n\r\n"
        call.response = b"%b%d%b%b" % (self._head(status, call.server_headers), len(body), end, body)
        if len(self._calls) == 1:
            self._write()
        elif not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing, parts, keep_alive = False, [], True
        while self._calls and self._calls[0].response:
            call = self._calls.popleft()
            self._bytes -= call.size
            call.response_started = call.response_complete = True
            keep_alive = call.keep_alive
            parts.append(call.response)
        if parts:
            self._lender.write_answers(b"".join(parts), keep_alive=keep_alive, all_answered=not self._calls)

    def _head(self, status: int, server_headers: Headers) -> bytes:
        """The head of an answer, up to the value of content-length, its last header."""
        cls = DirectCalls
        if cls._heads_of is not server_headers:
            cls._heads_of, cls._heads = server_headers, {}
        head = cls._heads.get(status)
        if head is None:
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
            lines += [b"%b: %b\r\n" % field for field in (*server_headers, *json_headers())]
            head = cls._heads[status] = b"".join(lines) + b"content-length: "
        return head


class DirectCall:
    """One request. To uvicorn's protocol it is a ``RequestResponseCycle`` and that cycle's ``message_event``, as far as the protocol uses them.

    ``response`` is the text of the answer, b"" as long as there is none.
    """

    __slots__ = (
        *("_answers", "_calls", "_headers", "_name", "_node", "_open", "_plan", "server_headers"),
        *("body", "disconnected", "keep_alive", "more_body", "response", "response_complete", "response_started", "scope", "size"),
    )

    def __init__(self, node: Node, calls: DirectCalls, name: str, headers: Mapping[bytes, bytes], server_headers: Headers) -> None:
        self._node = node
        self._calls = calls
        self._name = name
        self._headers = headers
        self.server_headers = server_headers
        self._plan: Plan | None = None
        self._answers: list[Any] = []
        self._open = 0  # calls that are not answered yet
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False
        self.response = b""
        self.scope: Any = None
        self.size = 0

    @property
    def message_event(self) -> DirectCall:
        return self

    def clear(self) -> None:
        """Of an event."""

    def set(self) -> None:
        """Something happened: a part of the body came, or its end, or the connection is lost."""
        if self.disconnected or self.response_complete or self._plan is not None:
            return
        if self.more_body:
            if len(self.body) > self._node.config.limits.api_bytes:
                self._calls.forward(self)
            else:
                self._calls.read_on()
            return
        body = bytes(self.body)
        self._plan = plan(self._node, self._name, body)
        if self._plan is None:
            self._calls.forward(self)
            return
        self._node.admission.counts.received[FROM_API] += len(body)
        self._calls.has_read(self, len(body))
        self.body.clear()
        self._begin(self._plan)

    def _begin(self, made: Plan) -> None:
        history = self._node.history
        self._open = len(made.calls)
        self._answers = [None] * self._open
        for number, call in enumerate(made.calls):
            future = history.begin_publish(call.channel, call.words, inbox=call.inbox)
            future.add_done_callback(partial(self._answered, number, call.channel))

    def _answered(self, number: int, channel: str, future: asyncio.Future[Any]) -> None:
        try:
            self._answers[number] = self._node.history.published(channel, future.result())
        except StoreError as error:
            self._answers[number] = error
        except asyncio.CancelledError:
            self._answers[number] = Unavailable("the process ends")
        self._open -= 1
        if not self._open and not self.disconnected:
            self._end()

    def _end(self) -> None:
        assert self._plan is not None
        try:
            result = self._plan.result(self._node, self._answers)
        except StoreError as error:
            self._calls.answer(self, *failure(self._node, self._name, error, self._headers))
            return
        self._node.admission.counts.answered(self._name)
        self._calls.answer(self, 200, result if self._name == "batch" else b'{"result":%b}' % result)
