"""Server-sent events over HTTP: who may open which stream, and where it starts. Source: docs/reference/http.md.

A mistake that no later attempt can make good is answered with a plain status. Anything else that keeps a stream from opening
is answered with a stream of one event, `refused`, because an EventSource never tries again after a status other than 200.
Where one channel is the cause, the event names it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from ...auth.tokens import claimed_channel
from ...errors import BadRequest, ClientError, Disconnect, Internal, LimitExceeded, PermissionDenied, StoreError
from ...publication import Position
from ...rules.identity import Grant, Identity
from ...rules.json_text import encode
from ...rules.permissions import admits, may_subscribe, overridden
from ...rules.recovery import NEVER_WAS, recovery_start
from ...session.client_counts import BY_SSE
from ...session.dispatch import SLOT_COMMANDS
from ...session.node import Node
from ..outlets import Buffered, Direct, output_of, until_gone
from ..request import client_address, cors_headers, is_foreign, number_of, refused_origin, subscription_tokens_of, token_of
from .event_formats import refusal
from .stream import EventStream

__all__ = ["LAST_MOST", "EventStreams"]

log = logging.getLogger("gateway.sse")

ID_BYTES = 4096
LAST_MOST = 1000  # of ?last=

_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


class _Asked(NamedTuple):
    """A request for a stream. It goes on after ``last_id``, or begins ``last`` publications back."""

    names: list[str]
    token: str
    subscription_tokens: list[str]
    last_id: str
    last: int
    pings: bool


class _Mistake(Exception):
    """A request that no later attempt can make good. ``code`` and ``channel`` are those that the event ``refused`` would have; 0 and "" for none."""

    def __init__(self, status: int, text: str, code: int = 0, channel: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code
        self.channel = channel


class EventStreams:
    """The ASGI application of ``/sse``, for one request."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._open(scope, send)
        if stream is not None:
            await until_gone(stream, receive, send)

    async def _open(self, scope: Scope, send: Send) -> EventStream | None:
        """Answers, and begins the stream; None if the answer is a refusal. A stream holds nothing of its request."""
        headers = Headers(scope=scope)
        extra = cors_headers(headers.get("origin", ""), self._node.config.origins)
        try:
            asked = self._read(scope["method"], headers, QueryParams(scope["query_string"]))
        except _Mistake as mistake:
            await _answer(send, mistake, extra)
            return None
        output = output_of(scope, send)
        await send({"type": "http.response.start", "status": 200, "headers": [_TYPE, *output.headers, *extra]})
        try:
            return await self._begin(scope, asked, output)
        except _ChannelRefused as refused:
            await self._refuse(send, refused.error, refused.channel)
        except (ClientError, Disconnect) as error:
            await self._refuse(send, error)
        except StoreError as error:
            await self._refuse(send, Internal.of(error))
        return None

    def _read(self, method: str, headers: Headers, query: QueryParams) -> _Asked:
        """What a request asks for. Raises _Mistake."""
        config = self._node.config
        if method != "GET":
            raise _Mistake(405, "an event stream is opened with GET")
        if is_foreign(headers, config):
            # A foreign page could read nothing of it, but it could make the user present, with the user's cookie.
            raise _Mistake(403, refused_origin(headers.get("origin", "")), PermissionDenied.code)
        try:
            token = token_of(headers, query, config.origins)
        except PermissionDenied as error:
            raise _Mistake(403, error.hint, error.code) from None
        last_id = headers.get("last-event-id") or query.get("last_event_id") or ""
        try:
            names = self._names(query)
            subscription_tokens = subscription_tokens_of(query, len(names))
            last = min(number_of(query, "last", 0), LAST_MOST)
            return _Asked(names, token, subscription_tokens, last_id, last, number_of(query, "pings", 0) > 0)
        except _ChannelRefused as refused:
            raise _Mistake(400, str(refused.error), refused.error.code, refused.channel) from None
        except ClientError as error:
            raise _Mistake(400, str(error), error.code) from None

    async def _begin(self, scope: Scope, asked: _Asked, output: Direct | Buffered) -> EventStream:
        """Begins the stream. Raises _ChannelRefused, ClientError, Disconnect, StoreError."""
        node, names = self._node, asked.names
        address = client_address(scope.get("client"), scope["headers"], node.config.proxies)
        identity = await node.authentication.identify(asked.token)
        node.admission.admit_request(identity.user, address)
        grants = await self._grants(names, asked.subscription_tokens, identity)
        starts = await self._starts(names, grants, identity, asked.last_id, asked.last)
        await node.admission.turns.wait(1 + len(names) // SLOT_COMMANDS)  # thousands may open at once
        if node.revocations.covers(identity) or any(map(node.revocations.covers, grants.values())):
            raise Disconnect(3500, "a token was revoked meanwhile")  # a revocation ends the streams that are open; this one was not
        reaches_back = bool(asked.last and not asked.last_id)
        return EventStream(node, output, identity, starts, grants, address, pings=asked.pings, reaches_back=reaches_back)

    async def _refuse(self, send: Send, error: ClientError | Disconnect, channel: str = "") -> None:
        self._node.admission.counts.refused(BY_SSE, error.code)
        message = error.reason if isinstance(error, Disconnect) else error.message
        level = logging.DEBUG if isinstance(error, Internal) and error.is_general else logging.INFO
        log.log(level, "stream refused with %d %s%s", error.code, message, f": {error.hint}" if error.hint else "")
        await send({"type": "http.response.body", "body": refusal(error.code, message, channel), "more_body": False})

    def _names(self, query: QueryParams) -> list[str]:
        """The channels asked for, each once. Raises what no later attempt can make good."""
        names = list(dict.fromkeys(query.getlist("channel")))
        if not names:
            raise BadRequest("name the channels: /sse?channel=A&channel=B")
        most = self._node.config.limits.channels_per_client
        # The longest mark of a position is 10 + 1 + 16 bytes, and a comma.
        most = min(most, ID_BYTES // 28)
        if len(names) > most:
            raise LimitExceeded(f"{len(names)} channels in one stream; at most {most}")
        if len(names) == 1:
            self._require_namespace(names[0])
        return names

    def _require_namespace(self, name: str) -> None:
        try:
            self._node.rules(name)
        except ClientError as error:
            raise _ChannelRefused(error, name) from None

    async def _grants(self, names: list[str], tokens: list[str], identity: Identity) -> dict[str, Grant]:
        """What the subscription tokens allow, by channel. Raises if the user may not follow all of the channels with them."""
        for name in names:
            self._require_namespace(name)  # one of several: a client may follow the others without it
        grants: dict[str, Grant] = {}
        for token in tokens:
            try:
                grant = await self._node.authentication.grant_one_of(token, names, identity.user)
            except (ClientError, Disconnect) as error:
                channel = claimed_channel(token)
                raise _ChannelRefused(error, channel if channel in names else "") from None
            grants[grant.channel] = grant
        for name in names:
            if not may_subscribe(self._node.rules(name), identity, name, token=name in grants):
                raise _ChannelRefused(PermissionDenied(f"the rules of {name!r} do not admit user {identity.user!r}"), name)
        return grants

    async def _starts(
        self, names: list[str], grants: dict[str, Grant], identity: Identity, last_id: str, last: int
    ) -> dict[str, Position | None]:
        """Where each channel starts: after the positions of the last event seen, ``last`` publications back, or at the top."""
        asked = [name for name in names if self._recoverable(name, grants.get(name))]
        readable = {name for name in asked if self._may_read(identity, name, grants.get(name))}
        starts: dict[str, Position | None] = dict.fromkeys(names)
        if last_id:
            positions = dict(zip(names, _positions(last_id[:ID_BYTES], len(names)), strict=True))
            return starts | {name: recovery_start(positions[name], admitted=name in readable) for name in asked}
        if not last:
            return starts
        backs = await asyncio.gather(*[self._node.history.back(name, last) for name in readable])
        return starts | dict(zip(readable, backs, strict=True))

    def _recoverable(self, name: str, grant: Grant | None) -> bool:
        return overridden(self._node.rules(name), grant.override if grant is not None else None).recovers

    def _may_read(self, identity: Identity, name: str, grant: Grant | None) -> bool:
        """Whether the history rule admits the user, whom the subscribe rule admits already."""
        return admits(self._node.rules(name).history, identity, name, subscribed=True, token=grant is not None)


def _positions(last_id: str, count: int) -> list[Position | None]:
    """The positions of an id. One that is none of ours cannot be recovered from, and becomes NEVER_WAS."""
    marks = last_id.split(",")
    if len(marks) != count:
        return [NEVER_WAS] * count
    positions: list[Position | None] = []
    for mark in marks:
        try:
            positions.append(None if mark == "-" else Position.parse(mark))
        except ValueError:
            positions.append(NEVER_WAS)
    return positions


class _ChannelRefused(Exception):
    """The rules of ``channel``, or the subscription token for it, do not admit the user; "" for a token of none of the channels."""

    def __init__(self, error: ClientError | Disconnect, channel: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.channel = channel


async def _answer(send: Send, mistake: _Mistake, headers: list[tuple[bytes, bytes]]) -> None:
    log.info("stream refused with status %d: %s", mistake.status, mistake.text)
    fields = {"error": mistake.text, "code": mistake.code, "channel": mistake.channel}
    body = encode({name: value for name, value in fields.items() if value or name == "error"})
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    allowed = [(b"allow", b"GET")] if mistake.status == 405 else []
    await send({"type": "http.response.start", "status": mistake.status, "headers": head + allowed})
    await send({"type": "http.response.body", "body": body})
