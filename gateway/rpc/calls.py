"""Calls: rpc methods that backend services answer, wherever they run.

    client ──rpc──▶ gateway ──gateway_call──▶ list gw:rpc:{METHOD} ──BRPOP──▶ one instance of the service
           ◀─reply─         ◀── its own Pub/Sub channel ◀──────────PUBLISH──┘

A request names the channel of the process that asks, and an id that nobody can guess: a reply that comes late, twice, or with
another request's id is ignored. A request is carried out at most once; if its reply is lost, the client gets an error, and only
the client knows whether asking again is safe. What a client *sends* goes the same way, as a request of the method
``gateway.send`` without ``reply_to``: it gets no reply.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextlib import AbstractContextManager
from typing import Annotated, Any, NamedTuple

import msgspec

from ..config import Config
from ..errors import BadRequest, Failure, Internal, LimitExceeded, MethodNotFound, NotAvailable, TooManyRequests
from ..rules.identity import Identity
from ..rules.json_text import UNREADABLE, clean, decode_json, encode, is_json, raw_object
from ..runtime import tracing
from ..store.history import History
from ..store.link import Link, OwnListener

__all__ = ["SENT", "UNREADABLE", "Caller", "Calls", "Request", "ServiceError", "method_fault"]

log = logging.getLogger("gateway.rpc")

SENT = "gateway.send"
MESSAGE_MOST = 500  # characters of an error's message
APPLICATION_CODES = range(400, 2000)  # what the protocol leaves to applications. Source: docs/reference/errors-and-close-codes.md
SERVICE_CODES = {106: LimitExceeded, 107: BadRequest}  # errors that ``Service`` itself finds in a request or a reply

_NAME = re.compile(r"[A-Za-z0-9_.:/\-]{1,100}")
_RESERVED = ("gateway.", "inbox.")
_NULL = msgspec.Raw(b"null")


class Caller(NamedTuple):
    """The client that asks: ``user`` is "" for an anonymous one, ``client`` is the connection's id.

    A service gets three more: ``info`` and ``meta`` are decoded claims of the user's token, of which other users see ``info`` and
    services alone ``meta``; ``deadline`` is in unix seconds, after which a reply is useless.
    """

    user: str
    client: str
    info: Any = None
    deadline: float = 0.0
    meta: Any = None


class Request(msgspec.Struct):
    """A request as it is in the list. ``deadline`` is in unix ms of Valkey's clock, ``limit`` the bytes that ``data`` of the reply may have.

    What a client sent without waiting for a reply has neither ``id`` nor ``reply_to``. ``traceparent`` is the call's trace, where there is one.
    """

    deadline: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    id: str = ""
    reply_to: str = ""
    limit: int = 65536
    user: str = ""
    client: str = ""
    info: msgspec.Raw = _NULL
    meta: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL
    traceparent: str = ""

    def __post_init__(self) -> None:
        if bool(self.id) != bool(self.reply_to):
            raise ValueError("id and reply_to come together")


class Reply(msgspec.Struct):
    """A service's reply to the request ``id``: ``data``, or ``error``, a ``ServiceError``."""

    id: str
    data: msgspec.Raw = _NULL
    error: msgspec.Raw = msgspec.Raw()


class ServiceError(msgspec.Struct, omit_defaults=True):
    """A service's error; ``temporary`` is whether asking again may help."""

    code: int
    message: str = ""
    temporary: bool = False


def method_fault(name: str) -> str:
    """Why no service can have a method of this name; "" if one can."""
    if not _NAME.fullmatch(name):
        return "a method is called by 1 to 100 letters, digits and _ . : / -"
    return "the gateway answers methods of this name itself" if name.startswith(_RESERVED) else ""


class Calls:
    """The requests that clients of ``process``, this gateway's id, make of services.

    The replies come on the process's own channel; what comes there and is none is passed on to ``others``.
    """

    def __init__(self, config: Config, history: History, process: str, link: Link, others: OwnListener) -> None:
        self._config = config
        self._history = history
        self._link = link
        self._others = others
        self._reply_to = encode(history.layout.own_channel(process).decode())
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def call(self, method: str, identity: Identity, client: str, data: bytes | None) -> bytes:
        """The reply's data, raw JSON on one line.

        Raises MethodNotFound if no service has the method, NotAvailable if none has any method, TooManyRequests if too many requests wait for it, LimitExceeded for a
        request or a reply that is too large, BadRequest for data that is nested too deep, Failure for what the service refuses,
        Internal if no reply comes within ``rpc_seconds``.
        """
        if fault := method_fault(method):
            raise MethodNotFound(fault)
        with _span(method):
            return await self._call(method, identity, client, data)

    async def _call(self, method: str, identity: Identity, client: str, data: bytes | None) -> bytes:
        if not self._link.own_proven:
            raise Internal(f"{method}: not asked, for while the link to Valkey is away no reply could come")
        id, seconds = os.urandom(16).hex(), self._config.rpc_seconds
        request = self._request(method, identity, client, data, id=encode(id), reply_to=self._reply_to)
        waiter = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._push(method, request)
                reply = await waiter
        except TimeoutError:
            # Not an error of its own: to a client it is a failure of ours that may pass, and SDKs know 100 as that.
            raise Internal(f"{method}: no reply within rpc_seconds, {seconds:g}") from None
        finally:
            del self._waiting[id]
        return self._checked(method, reply)

    async def send(self, identity: Identity, client: str, data: bytes | None) -> bytes:
        """What a client sends without waiting for a reply; returns b"". Raises what ``call`` raises before a service has the request."""
        with _span(SENT):
            await self._push(SENT, self._request(SENT, identity, client, data))
        return b""

    def _request(self, method: str, identity: Identity, client: str, data: bytes | None, **way_back: bytes) -> bytes:
        most = self._config.limits.rpc_bytes
        if data is not None and len(data) > most:
            raise LimitExceeded(f"limits.rpc_bytes is {most}")
        if data is not None and not is_json(data):
            raise BadRequest("data is nested too deep")
        fields = {"method": encode(method), "data": data or b"null", "user": encode(identity.user), "client": encode(client)}
        claims = {"info": identity.info or b"null", "meta": identity.meta or b"null"}
        trace = {"traceparent": encode(traceparent)} if (traceparent := tracing.traceparent()) else {}
        return raw_object(fields | claims | {"limit": b"%d" % most} | way_back | trace)

    async def _push(self, method: str, request: bytes) -> None:
        most, ttl = self._config.limits.rpc_queue, int(self._config.rpc_seconds * 1000)
        waiting = await self._history.call(b"gateway_call", self._history.layout.rpc(method), request, most, ttl)
        if waiting == 0:
            any_service = await self._history.commands.call(b"EXISTS", self._history.layout.services)
            raise MethodNotFound(f"no service for {method}") if any_service else NotAvailable(f"{method}: no service serves anything")
        if waiting < 0:
            raise TooManyRequests(f"{method}: limits.rpc_queue is {most}")

    def _checked(self, method: str, reply: Reply) -> bytes:
        if bytes(reply.error) not in (b"", b"null"):
            raise _failure(method, bytes(reply.error))
        data, most = bytes(reply.data), self._config.limits.rpc_bytes
        if len(data) > most:
            raise LimitExceeded(f"{method}: a reply of {len(data)} bytes; limits.rpc_bytes is {most}")
        if not is_json(data):
            raise Internal(f"{method}: the reply is not JSON, or nested too deep")
        return clean(data)

    def on_own(self, payloads: list[bytes]) -> None:
        """Takes the replies among what came on this process's own channel. Never raises."""
        self._others.on_own([payload for payload in payloads if not self._take(payload)])

    def _take(self, payload: bytes) -> bool:
        """Whether it is a reply."""
        try:
            reply = decode_json(payload, Reply)
        except UNREADABLE:
            return False
        waiter = self._waiting.get(reply.id)
        if waiter is None or waiter.done():
            log.debug("a reply to a request that is unknown or over is ignored")
        else:
            waiter.set_result(reply)
        return True


def _span(method: str) -> AbstractContextManager[None]:
    return tracing.span(f"rpc {method}", "client", attributes={"rpc.method": method})


def _failure(method: str, text: bytes) -> Exception:
    """What a client gets for a service's error."""
    try:
        error = decode_json(text, ServiceError)
    except UNREADABLE as fault:
        return Internal(f"{method}: the service's error was not understood: {fault}")
    message = error.message[:MESSAGE_MOST]
    if error.code in APPLICATION_CODES:
        return Failure(error.code, message, temporary=error.temporary)
    if error.code in SERVICE_CODES:
        return SERVICE_CODES[error.code](f"{method}: {message}")
    return Internal(f"{method}: the service's error is {error.code} {message}")
