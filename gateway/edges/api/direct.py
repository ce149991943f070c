"""Publishing over HTTP without a framework on the way: one pipelined write to Valkey, no task, one write to the client.

    HttpProtocol ──head──▶ ``take`` ──body──▶ plan ──calls──▶ Valkey ──▶ the answer
              │                          ├── None ──▶ the application, as every other request
              └─ a head that came before ┘

It takes what most requests of backends are: POST with an API key, to one of ``plans.PLANNERS``, on a connection that is kept. Everything
else, and every mistake in a request, goes the way through ASGI, which answers the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any, ClassVar, Protocol

import msgspec
from uvicorn.server import ServerState

from ...errors import StoreError
from ...runtime import tracing
from ...session.client_counts import FROM_API
from ...session.node import Node
from ..request import api_key_of, is_api_key, turn_slots_of
from ..responses import json_headers
from .endpoint import failure
from .known_heads import Head, KnownHeads
from .plans import PLANNERS, Plan, end_of_run, plan

__all__ = ["Connection", "DirectCall", "DirectCalls"]

log = logging.getLogger("gateway.api")

Headers = list[tuple[bytes, bytes]]

CALLS_MOST = 32  # of one connection that are under way together; their bodies have limits.api_bytes together
_PATHS = {f"/api/{name}".encode(): name for name in PLANNERS}


class Connection(Protocol):
    """The connection that requests come in on."""

    def forward(self, call: DirectCall) -> None:
        """The request, as far as it was read, goes to the application."""

    def write_answers(self, answers: bytes, *, keep_alive: bool, all_answered: bool) -> None:
        """Writes the answers of one or several calls; ``all_answered``: no other call is under way."""

    def read_on(self) -> None:
        """More of the body may come."""

    def abort(self) -> None:
        """An answer cannot be made: the connection ends."""


class DirectCalls:
    """The calls of one connection that are not answered yet. They are under way together, and are answered in their order.

    ``server`` has the headers of every answer as ``default_headers``: another list whenever they change.
    """

    __slots__ = ("_bytes", "_calls", "_connection", "_heads", "_loop", "_node", "_server", "_writing")

    _answer_heads: ClassVar[dict[int, bytes]] = {}  # by status, for as long as the server's own headers are the same list
    _answer_heads_of: ClassVar[object] = None

    def __init__(self, connection: Connection, node: Node, loop: asyncio.AbstractEventLoop, server: ServerState) -> None:
        self._connection = connection
        self._node = node
        self._loop = loop
        self._calls: deque[DirectCall] = deque()
        self._heads = KnownHeads()
        self._bytes = 0  # of the bodies of those calls
        self._writing = False
        self._server = server

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, url: bytes, headers: Headers) -> DirectCall | None:
        """The call that answers a POST with this head; None if the application has to."""
        path, _, query = url.partition(b"?")
        name = _PATHS.get(path)
        config = self._node.config
        if name is None or tracing.is_on() or config.telemetry.publication_tags or turn_slots_of(query):  # the last waits for its turn
            return None
        fields = dict(headers)
        length = fields.get(b"content-length", b"")
        if not is_api_key(api_key_of(fields, query), config.api_keys) or not self._has_room(int(length) if length.isdigit() else 0):
            return None
        return self._add(Head(name, fields))

    def _add(self, head: Head) -> DirectCall:
        call = DirectCall(self._node, self, head)
        call.keep_alive = not self._node.admission.closing
        self._calls.append(call)
        return call

    def _has_room(self, size: int) -> bool:
        """Whether a call with a body of so many bytes may be under way, too."""
        calls = self._calls
        if self._bytes + size > self._node.config.limits.api_bytes:
            return False
        # If the server ends, the answer of a call that is under way is the last.
        return not calls or (len(calls) < CALLS_MOST and calls[-1].keep_alive)

    def learn(self, call: DirectCall, data: bytes) -> None:
        """``data`` is the request that became the call, and nothing else."""
        self._heads.learn(data, call.head)

    def take_known(self, data: bytes, at: int) -> tuple[DirectCall | None, int]:
        """The call, under way, of the request that begins at ``at`` in what was read, and where the request ends.

        There is no call if the end is ``at``, since the parser has to read the request, or the end is not there yet.
        """
        found = self._heads.find(data, at)
        if found is None or not self._has_room(found.end - found.start):
            return None, at
        if found.end > len(data):
            return None, found.end
        made = plan(self._node, found.head.name, data[found.start : found.end])
        if made is None:
            return None, at
        call = self._add(found.head)
        call.more_body = False
        call.begin(made, found.end - found.start)
        return call, found.end

    def forward(self, call: DirectCall) -> None:
        self._connection.forward(call)

    def read_on(self) -> None:
        self._connection.read_on()

    def abort(self) -> None:
        self._connection.abort()

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
        call.response = b"%b%d%b%b" % (self._answer_head(status), len(body), end, body)
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
            self._connection.write_answers(b"".join(parts), keep_alive=keep_alive, all_answered=not self._calls)

    def _answer_head(self, status: int) -> bytes:
        """The head of an answer, up to the value of content-length, its last header."""
        cls, server_headers = DirectCalls, self._server.default_headers
        if cls._answer_heads_of is not server_headers:
            cls._answer_heads_of, cls._answer_heads = server_headers, {}
        head = cls._answer_heads.get(status)
        if head is None:
            lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
            lines += [b"%b: %b\r\n" % field for field in (*server_headers, *json_headers())]
            head = cls._answer_heads[status] = b"".join(lines) + b"content-length: "
        return head


class DirectCall:
    """One request. To uvicorn's protocol it is a ``RequestResponseCycle`` and that cycle's ``message_event``, as far as the protocol uses them.

    ``response`` is the text of the answer, b"" as long as there is none.
    """

    __slots__ = (
        *("_answers", "_calls", "_node", "_plan", "_unanswered", "head"),
        *("body", "disconnected", "keep_alive", "more_body", "response", "response_complete", "response_started", "scope", "size"),
    )

    def __init__(self, node: Node, calls: DirectCalls, head: Head) -> None:
        self._node = node
        self._calls = calls
        self.head = head
        self._plan: Plan | None = None
        self._answers: list[Any] = []
        self._unanswered = 0  # calls
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
        """Does nothing: it is there because uvicorn's protocol clears an event here."""

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
        made = plan(self._node, self.head.name, body)
        if made is None:
            self._calls.forward(self)
            return
        self.body.clear()
        self.begin(made, len(body))

    def begin(self, made: Plan, size: int) -> None:
        """Sends what was planned for a body of so many bytes."""
        self._plan = made
        self._node.admission.counts.received[FROM_API] += size
        self._calls.has_read(self, size)
        history, calls = self._node.history, made.calls
        self._unanswered = len(calls)
        self._answers = [None] * len(calls)
        number = 0
        while number < len(calls):
            call, end = calls[number], end_of_run(calls, number, sharded=history.commands.sharded)
            run = calls[number:end]
            if len(run) == 1:
                history.begin_publish(_Answer(self, number), call.channel, call.words, inbox=call.inbox)
            elif run[1].channel == call.channel:
                history.begin_publish_all(_Answers(self, number, len(run)), call.channel, [each.words for each in run])
            else:
                history.begin_publish_each(_Answers(self, number, len(run)), [(each.channel, each.words) for each in run])
            number = end

    def answered(self, number: int, answer: Any) -> None:
        """Takes what Valkey answered to a call, or a StoreError. It does not raise, since other answers were read together with this one."""
        self._answers[number] = answer
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered()

    def _all_answered(self) -> None:
        assert self._plan is not None
        published, answers = self._node.history.published, self._answers
        try:
            for number, call in enumerate(self._plan.calls):
                if not isinstance(answer := answers[number], StoreError):
                    try:
                        answers[number] = published(call.channel, answer)
                    except StoreError as error:
                        answers[number] = error
            if not self.disconnected:
                self._end(self._plan, answers)
        except Exception:
            log.exception("api: what Valkey answered to a publication is no answer of its function")
            self._calls.abort()

    def _end(self, made: Plan, outcomes: list[Any]) -> None:
        try:
            result = made.result(outcomes)
        except StoreError as error:
            self._calls.answer(self, *failure(self._node, self.head.name, error, self.head.fields))
            return
        self._node.admission.counts.answered(self.head.name)
        self._calls.answer(self, 200, result if self.head.name == "batch" else b'{"result":%b}' % result)


class _Answer(msgspec.Struct, eq=False):
    """Waits for the answer to one call."""

    call: DirectCall
    number: int

    def done(self) -> bool:
        """Never: what was accepted is published, even if the client has gone."""
        return False

    def set_result(self, result: Any, /) -> None:
        self.call.answered(self.number, result)

    def set_exception(self, exception: StoreError, /) -> None:
        # Not at once: an error may come while the other calls are still to be sent.
        asyncio.get_running_loop().call_soon(self.call.answered, self.number, exception)


class _Answers:
    """Waits for the answers to ``count`` calls that are one of Valkey's, the first of which is ``number``."""

    __slots__ = ("_call", "_count", "_number")

    def __init__(self, call: DirectCall, number: int, count: int) -> None:
        self._call = call
        self._number = number
        self._count = count

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        whole = isinstance(result, list) and len(result) == self._count
        for number in range(self._count):
            self._call.answered(self._number + number, result[number] if whole else None)

    def set_exception(self, exception: StoreError, /) -> None:
        for number in range(self._number, self._number + self._count):
            asyncio.get_running_loop().call_soon(self._call.answered, number, exception)
