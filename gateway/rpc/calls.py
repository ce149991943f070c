"""Calls: rpc methods that backend services answer, wherever they run.

    client ──rpc──▶ gateway ──gateway_call──▶ list gw:rpc:{METHOD} ──BRPOP──▶ one instance of the service
           ◀─reply─         ◀── its own Pub/Sub channel ◀──────────PUBLISH──┘

A request names the channel of the process that asks, and an id that nobody can guess: a reply that comes late, twice, or with
another's id finds nobody who waits for it. A request is carried out at most once; if its reply is lost, the client is told
that it failed, and only it knows whether asking again is safe. What a client *sends* goes the same way as a request of the
method ``gateway.send``, without ``reply_to``: nobody answers it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec

from ..config import Config
from ..errors import BadRequest, Failure, Internal, LimitExceeded, MethodNotFound, TooManyRequests
from ..rules.identity import Identity
from ..rules.json_text import clean, decode_json, encode, is_json, raw_object
from ..store.history import History

__all__ = ["SENT", "UNREADABLE", "Caller", "Calls", "Request", "Told", "method_fault"]

log = logging.getLogger("gateway.rpc")

SENT = "gateway.send"
MESSAGE_MOST = 500  # characters of an error's message
OWN_CODES = range(400, 2000)  # what the protocol leaves to applications. Source: PROTOCOL.md 1.5
ENDS = {106: LimitExceeded, 107: BadRequest}  # what the service's end of the wire says itself
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # whatever bytes may do to a decoder

_NAME = re.compile(r"[A-Za-z0-9_.:/\-]{1,100}")
_RESERVED = ("gateway.", "inbox.")
_NULL = msgspec.Raw(b"null")


class Caller(NamedTuple):
    """Who asks: ``user`` is "" for the anonymous, ``client`` the connection's id.

    For services: ``info`` and ``meta`` are what the user's token says of them, to others and to services alone, decoded;
    ``deadline`` in unix seconds, when nobody waits any more.
    """

    user: str
    client: str
    info: Any = None
    deadline: float = 0.0
    meta: Any = None


class Request(msgspec.Struct):
    """As it stands in the list. ``deadline`` is in unix ms of Valkey's clock, ``limit`` the bytes that ``data`` of the reply may have.

    What was sent has neither ``id`` nor ``reply_to``.
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

    def __post_init__(self) -> None:
        if bool(self.id) != bool(self.reply_to):
            raise ValueError("id and reply_to come together")


class Reply(msgspec.Struct):
    id: str
    data: msgspec.Raw = _NULL
    error: msgspec.Raw = msgspec.Raw()


class Told(msgspec.Struct, omit_defaults=True):
    """A service's error."""

    code: int
    message: str = ""
    temporary: bool = False


def method_fault(name: str) -> str:
    """Why no service can have a method of this name; "" if one can."""
    if not _NAME.fullmatch(name):
        return "a method is called by 1 to 100 letters, digits and _ . : / -"
    return "the gateway answers methods of this name itself" if name.startswith(_RESERVED) else ""


class Calls:
    """What clients of one process ask of services. ``process`` is its id, whose channel the replies come on; ``hears`` says
    whether anything comes on it at the moment.
    """

    def __init__(self, config: Config, history: History, process: str, hears: Callable[[], bool]) -> None:
        self._config = config
        self._history = history
        self._hears = hears
        self._reply_to = encode(history.layout.heartbeat(process).decode())
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def call(self, method: str, identity: Identity, client: str, data: bytes | None) -> bytes:
        """The reply's data, raw JSON on one line.

        Raises MethodNotFound where no service is there, TooManyRequests where too many wait, LimitExceeded for a request or a
        reply that is too large, Failure for what the service refuses, Internal if no reply comes in time.
        """
        if fault := method_fault(method):
            raise MethodNotFound(fault)
        if not self._hears():
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

    async def tell(self, identity: Identity, client: str, data: bytes | None) -> bytes:
        """What a client sends without waiting for an answer. Raises what ``call`` does before a service has it."""
        await self._push(SENT, self._request(SENT, identity, client, data))
        return b""

    def _request(self, method: str, identity: Identity, client: str, data: bytes | None, **way_back: bytes) -> bytes:
        most = self._config.limits.rpc_bytes
        if data is not None and len(data) > most:
            raise LimitExceeded(f"limits.rpc_bytes is {most}")
        if data is not None and not is_json(data):
            raise BadRequest("data is nested too deep")
        fields = {"method": encode(method), "data": data or b"null", "user": encode(identity.user), "client": encode(client)}
        said = {"info": identity.info or b"null", "meta": identity.meta or b"null"}
        return raw_object(fields | said | {"limit": b"%d" % most} | way_back)

    async def _push(self, method: str, request: bytes) -> None:
        most, ttl = self._config.limits.rpc_queue, int(self._config.rpc_seconds * 1000)
        waiting = await self._history.call(b"gateway_call", self._history.layout.rpc(method), request, most, ttl)
        if waiting == 0:
            raise MethodNotFound(f"no service for {method}")
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

    def replied(self, payloads: list[bytes]) -> list[bytes]:
        """Takes the replies among what came on this process's own channel. Returns the others. Never raises."""
        return [payload for payload in payloads if payload and not self._take(payload)]

    def _take(self, payload: bytes) -> bool:
        try:
            reply = decode_json(payload, Reply)
        except UNREADABLE:
            return False
        waiter = self._waiting.get(reply.id)
        if waiter is None or waiter.done():
            log.debug("a reply for which nobody waits (any more)")
        else:
            waiter.set_result(reply)
        return True


def _failure(method: str, error: bytes) -> Exception:
    try:
        told = decode_json(error, Told)
    except UNREADABLE as fault:
        return Internal(f"{method}: the service's error was not understood: {fault}")
    if told.code in OWN_CODES:
        return Failure(told.code, told.message[:MESSAGE_MOST], temporary=told.temporary)
    if told.code in ENDS:
        return ENDS[told.code](f"{method}: {told.message[:MESSAGE_MOST]}")
    return Internal(f"{method}: the service's error is {told.code} {told.message[:MESSAGE_MOST]}")
