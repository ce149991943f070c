"""Publishing over HTTP without a framework on the way: one pipelined write to Valkey, no task, one write to the client.

    HttpProtocol ──head──▶ ``take`` ──body──▶ plan ──calls──▶ Valkey ──▶ the answer
                                         └── None ──▶ the application, as every other request

It takes what most requests of backends are: POST with an API key, to one of ``plans.PLANNERS``, on a connection that is kept. Everything
else, and every mistake in a request, goes the way through ASGI, which answers the same.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Protocol

from ...errors import Internal, StoreError
from ...runtime import tracing
from ...session.client_counts import FROM_API
from ...session.node import Node
from ..request import api_key_of, is_api_key
from .endpoint import failure
from .plans import PLANNERS, Plan, plan

__all__ = ["DirectCall", "Lender", "take"]

log = logging.getLogger("gateway.api")

PREFIX = "/api/"
_PATHS = {(PREFIX + name).encode(): name for name in PLANNERS}


class Lender(Protocol):
    """The connection that a request came in on."""

    def forward(self, call: DirectCall) -> None:
        """The request, as far as it was read, goes to the application."""

    def answer(self, call: DirectCall, status: int, body: bytes) -> None:
        """Writes the response, which is JSON. The call is over."""

    def read_on(self) -> None:
        """More of the body may come."""


def take(node: Node, lender: Lender, url: bytes, headers: list[tuple[bytes, bytes]]) -> DirectCall | None:
    """The call that answers a POST with this head; None if the application has to."""
    path, _, query = url.partition(b"?")
    name = _PATHS.get(path)
    if name is None or node.history.commands.sharded or tracing.is_on() or node.config.telemetry.publication_tags:
        return None
    config, length = node.config, dict(headers).get(b"content-length", b"")
    if (length.isdigit() and int(length) > config.limits.api_bytes) or not is_api_key(api_key_of(headers, query), config.api_keys):
        return None
    return DirectCall(node, lender, name, headers)


class DirectCall:
    """One request. To uvicorn's protocol it is a ``RequestResponseCycle`` and that cycle's ``message_event``, as far as the protocol uses them."""

    __slots__ = (
        *("_answers", "_headers", "_lender", "_name", "_node", "_open", "_plan"),
        *("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started", "scope"),
    )

    def __init__(self, node: Node, lender: Lender, name: str, headers: list[tuple[bytes, bytes]]) -> None:
        self._node = node
        self._lender = lender
        self._name = name
        self._headers = headers
        self._plan: Plan | None = None
        self._answers: list[Any] = []
        self._open = 0  # calls that are not answered yet
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False
        self.message_event = self
        self.scope: Any = None

    def clear(self) -> None:
        """Of an event."""

    def set(self) -> None:
        """Something happened: a part of the body came, or its end, or the connection is lost."""
        if self.disconnected or self.response_complete or self._plan is not None:
            return
        if self.more_body:
            if len(self.body) > self._node.config.limits.api_bytes:
                self._lender.forward(self)
            else:
                self._lender.read_on()
            return
        body = bytes(self.body)
        self._plan = plan(self._node, self._name, body)
        if self._plan is None:
            self._lender.forward(self)
            return
        self._node.admission.counts.received[FROM_API] += len(body)
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
            self._answers[number] = Internal("the process ends")
        self._open -= 1
        if not self._open and not self.disconnected:
            self._end()

    def _end(self) -> None:
        assert self._plan is not None
        try:
            result = self._plan.result(self._node, self._answers)
        except StoreError as error:
            self._lender.answer(self, *failure(self._node, self._name, error, dict(self._headers)))
            return
        self._node.admission.counts.answered(self._name)
        self._lender.answer(self, 200, result if self._name == "batch" else b'{"result":%b}' % result)
