"""The server API (``POST /api/<method>``), and health.

Source: PROTOCOL.md, section 2, and INTERFACE.md. An application error answers 200 with ``{"error": …}``, as the clients
of that API expect, or the mapped status with ``X-Centrifugo-Error-Mode: transport``.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..control import Disconnection, Refreshing, Revocation, Subscribing, Unsubscribing
from ..errors import BadRequest, ClientError, Disconnect, Internal, NotAvailable, StoreError
from ..inbox import NAMESPACE, channel_of, notification_id
from ..node import Node
from ..protocol import BEGINNING, Since, decode_json, encode, history_result, is_json, raw_object
from ..publication import Position
from ..store.history import publish_words
from .requests import api_key_of, is_api_key

__all__ = ["STATUS_OF_ERROR", "api", "body_of", "error_json", "json_response", "live", "ready"]

log = logging.getLogger("gateway.api")

HISTORY_BYTES = 16 * 1024 * 1024  # of one answer of the history method
STATUS_OF_ERROR = {100: 500, 101: 401, 102: 404, 103: 403, 104: 404, 106: 400, 107: 400, 108: 400, 109: 401, 111: 429, 112: 416, 113: 409}

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Publish(msgspec.Struct):
    channel: str = ""
    channels: list[str] = []
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: Count = 0
    version_epoch: str = ""


class _Notify(msgspec.Struct):
    user: str = ""
    users: list[str] = []
    data: msgspec.Raw = msgspec.Raw()
    idempotency_key: str = ""


class _Whom(msgspec.Struct):
    user: str = ""
    client: str = ""
    session: str = ""


class _Subscribe(_Whom):
    channel: str = ""
    info: msgspec.Raw = msgspec.Raw()
    b64info: str = ""
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    recover_since: Since | None = None
    expire_at: float = 0
    override: msgspec.Raw = msgspec.Raw()


class _Unsubscribe(_Whom):
    channel: str = ""


class _Reason(msgspec.Struct):
    code: Annotated[int, msgspec.Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, msgspec.Meta(max_length=123)] = ""


class _Disconnect(_Whom):
    whitelist: list[str] = []
    disconnect: _Reason | None = None


class _Refresh(_Whom):
    expired: bool = False
    expire_at: float = 0
    info: msgspec.Raw = msgspec.Raw()


class _Revoke(msgspec.Struct):
    user: str = ""
    token_id: str = ""
    issued_before: float = 0
    expire_at: float = 0


class _Channel(msgspec.Struct):
    channel: str = ""


class _History(_Channel):
    limit: int | None = None
    since: Since | None = None
    reverse: bool | None = None


class _Channels(msgspec.Struct):
    pattern: str | None = None


class _Info(msgspec.Struct):
    pass


class _Batch(msgspec.Struct):
    commands: list[dict[str, msgspec.Raw]] = []
    parallel: bool | None = None


class _Malformed(Exception):
    """The body is not JSON."""


def _read(kind: type[Any], body: bytes) -> Any:
    """Raises _Malformed for what is not JSON, BadRequest for JSON of another shape."""
    try:
        return decode_json(body or b"{}", kind)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Malformed(str(error)) from None


# Methods: node and request body → the result's JSON.


async def _publish(node: Node, body: bytes) -> bytes:
    request = _read(_Publish, body)
    return await _publish_to(node, request.channel, _words(request))


async def _publish_to(node: Node, channel: str, words: list[Any]) -> bytes:
    node.rules(channel)
    return _placed(await node.history.publish(channel, words))


def _placed(position: Position | None) -> bytes:
    return b"{}" if position is None else encode(position._asdict())


async def _broadcast(node: Node, body: bytes) -> bytes:
    request = _read(_Publish, body)
    if not request.channels:
        raise BadRequest("channels is empty")
    words = _words(request)
    results = await asyncio.gather(*[_outcome(_publish_to(node, channel, words)) for channel in request.channels])
    return _responses(results)


def _responses(results: list[tuple[bytes, bytes | None]]) -> bytes:
    return b'{"responses":[%b]}' % b",".join(
        raw_object({"result": result} if error is None else {"error": error}) for result, error in results
    )


def _words(request: _Publish) -> list[Any]:
    data = _json_of(request.data, request.b64data)
    if not data:
        raise BadRequest("there is no data")
    if request.version >= 2**64:
        raise BadRequest("version does not fit 64 bits")
    return publish_words(
        data,
        key=request.idempotency_key or None,
        version=request.version or None,
        version_epoch=request.version_epoch or None,
        ttl=0 if request.skip_history else None,
        tags=encode(request.tags) if request.tags else None,
    )


def _json_of(raw: msgspec.Raw, b64: str = "") -> bytes:
    """JSON that a request holds as it is, or in base64; b"" for neither."""
    try:
        data = bytes(raw) or base64.b64decode(b64, validate=True)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise BadRequest("what should be base64 is not") from None
    if data and not is_json(data):
        raise BadRequest("data is not JSON, or nested too deep")
    return data


async def _notify(node: Node, body: bytes) -> bytes:
    """Into the inbox of ``user``, or of each of ``users``: data is an object with an id, a repeat of which is an update."""
    request = _read(_Notify, body)
    if bool(request.user) == bool(request.users):
        raise BadRequest('name one "user", or several "users"')
    if not request.data:
        raise BadRequest("there is no data")
    words = publish_words(_json_of(request.data), key=request.idempotency_key or None)
    if request.user:
        return await _notify_one(node, request.user, words)
    results = await asyncio.gather(*[_outcome(_notify_one(node, user, words)) for user in request.users])
    return _responses(results)


async def _notify_one(node: Node, user: str, words: list[Any]) -> bytes:
    try:
        channel = channel_of(user)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    notification_id(words[0])
    return _placed(await node.history.notify(channel, words))


async def _history(node: Node, body: bytes) -> bytes:
    request = _read(_History, body)
    if not node.rules(request.channel).has_history:
        raise NotAvailable(f"{request.channel!r} keeps no history")
    since = request.since.position if request.since is not None else BEGINNING
    limit = -1 if (request.limit or 0) < 0 else request.limit or 0
    page = await node.history.after(request.channel, since, limit, reverse=bool(request.reverse), max_bytes=HISTORY_BYTES)
    return history_result(page.top, page.publications)


async def _history_remove(node: Node, body: bytes) -> bytes:
    channel = _read(_Channel, body).channel
    if not node.rules(channel).has_history:
        raise NotAvailable(f"{channel!r} keeps no history")
    await node.history.remove(channel)
    if channel.startswith(f"{NAMESPACE}:"):
        await node.inbox.state(channel)
    return b"{}"


def _whom(request: _Whom) -> dict[str, str]:
    if not (request.user or request.client):
        raise BadRequest("name a user, or a client")
    return {"user": request.user, "client": request.client}


async def _subscribe(node: Node, body: bytes) -> bytes:
    request = _read(_Subscribe, body)
    node.rules(request.channel)
    info, data = _json_of(request.info, request.b64info), _json_of(request.data, request.b64data)
    since = request.recover_since.position if request.recover_since is not None else None
    message = Subscribing(
        **_whom(request),
        channel=request.channel,
        info=msgspec.Raw(info or b"null"),
        data=msgspec.Raw(data or b"null"),
        epoch=since.epoch if since is not None else None,
        offset=since.offset if since is not None else 0,
        expire_at=request.expire_at,
    )
    await node.control.send(message)
    return b"{}"


async def _unsubscribe(node: Node, body: bytes) -> bytes:
    request = _read(_Unsubscribe, body)
    node.rules(request.channel)
    await node.control.send(Unsubscribing(**_whom(request), channel=request.channel))
    return b"{}"


async def _disconnect(node: Node, body: bytes) -> bytes:
    request = _read(_Disconnect, body)
    how = request.disconnect or _Reason()
    reason = how.reason or Disconnect.REASONS.get(how.code, "disconnected")
    await node.control.send(Disconnection(**_whom(request), whitelist=request.whitelist, code=how.code, reason=reason))
    return b"{}"


async def _refresh(node: Node, body: bytes) -> bytes:
    request = _read(_Refresh, body)
    info = msgspec.Raw(_json_of(request.info) or b"null")
    await node.control.send(Refreshing(**_whom(request), expired=request.expired, expire_at=request.expire_at, info=info))
    return b"{}"


REVOKED_SECONDS = 30 * 86400  # where the request does not say when the token would have expired


async def _revoke(node: Node, body: bytes) -> bytes:
    """Tokens of ``user`` that were issued before now (or ``issued_before``), or the one token ``token_id``, until ``expire_at``."""
    request = _read(_Revoke, body)
    if bool(request.user) == bool(request.token_id):
        raise BadRequest("name a user, or a token_id")
    now = time.time()
    before, until = request.issued_before or now, request.expire_at or now + REVOKED_SECONDS
    await node.revoked.keep(request.user, request.token_id, before, until)
    await node.control.send(Revocation(user=request.user, token_id=request.token_id, before=before, until=until))
    return b"{}"


async def _channels(node: Node, body: bytes) -> bytes:
    found: dict[str, int] = {}
    for answer in await node.control.survey("channels", _read(_Channels, body).pattern or "*"):
        for name, count in msgspec.json.decode(answer, type=dict[str, int]).items():
            found[name] = found.get(name, 0) + count
    return encode({"channels": {name: {"num_clients": count} for name, count in found.items()}})


async def _info(node: Node, body: bytes) -> bytes:
    _read(_Info, body)
    return b'{"nodes":[%b]}' % b",".join(await node.control.survey("info"))


async def _presence(node: Node, body: bytes) -> bytes:
    return b'{"presence":%b}' % await node.presence.clients(_present(node, body))


async def _presence_stats(node: Node, body: bytes) -> bytes:
    return b'{"num_clients":%d,"num_users":%d}' % await node.presence.counts(_present(node, body))


def _present(node: Node, body: bytes) -> str:
    channel = _read(_Channel, body).channel
    if not node.rules(channel).presence:
        raise NotAvailable(f"{channel!r} keeps no presence")
    return channel


Method = Callable[[Node, bytes], Awaitable[bytes]]

METHODS: dict[str, Method] = {
    "publish": _publish,
    "broadcast": _broadcast,
    "notify": _notify,
    "history": _history,
    "history_remove": _history_remove,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "disconnect": _disconnect,
    "refresh": _refresh,
    "revoke": _revoke,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "channels": _channels,
    "info": _info,
}


async def _batch(node: Node, body: bytes) -> bytes:
    request = _read(_Batch, body)
    if any(len(command) != 1 or next(iter(command)) not in METHODS for command in request.commands):
        raise BadRequest(f"a command of a batch is an object with one of {', '.join(METHODS)}")
    calls = [(name, METHODS[name](node, bytes(body))) for command in request.commands for name, body in command.items()]
    if request.parallel:
        outcomes = await asyncio.gather(*[_outcome(call) for _, call in calls])
    else:
        outcomes = [await _outcome(call) for _, call in calls]
    replies = [
        raw_object({name: result} if error is None else {"error": error})
        for (name, _), (result, error) in zip(calls, outcomes, strict=True)
    ]
    return b'{"replies":[%b]}' % b",".join(replies)


async def _outcome(call: Awaitable[bytes]) -> tuple[bytes, bytes | None]:
    """The result, or the error's JSON."""
    try:
        return await call, None
    except ClientError as error:
        return b"", error_json(error)
    except StoreError as error:
        return b"", error_json(Internal(str(error)))
    except _Malformed as error:
        return b"", error_json(BadRequest(str(error)))


def error_json(error: ClientError) -> bytes:
    return encode({"code": error.code, "message": error.message})


# HTTP.


async def api(node: Node, request: Request) -> Response:
    """``POST /api/<method>``."""
    config = node.config
    if request.method != "POST":
        return Response(status_code=405, headers={"allow": "POST"})
    scope = request.scope
    if not config.insecure.api and not is_api_key(api_key_of(scope["headers"], scope["query_string"]), config.api_keys):
        log.info("api: refused, the API key is missing or wrong")
        return Response(status_code=401)
    name = scope["path"].rpartition("/api/")[2]
    method = _batch if name == "batch" else METHODS.get(name)
    if method is None:
        return Response(status_code=404)
    body = await body_of(request, config.limits.api_bytes)
    if isinstance(body, Response):
        return body
    try:
        result = await method(node, body)
    except _Malformed as error:
        log.info("api: %s refused, the body is not JSON: %s", name, error)
        return json_response(encode({"error": str(error)}), 400)
    except ClientError as error:
        return _refused(request, name, error)
    except StoreError as error:
        log.warning("api: %s failed: %s", name, error)
        return _refused(request, name, Internal(str(error)))
    return json_response(result if name == "batch" else b'{"result":%b}' % result)


def _refused(request: Request, name: str, error: ClientError) -> Response:
    log.info("api: %s refused with %d %s", name, error.code, error)
    transport = request.headers.get("x-centrifugo-error-mode") == "transport"
    return json_response(b'{"error":%b}' % error_json(error), STATUS_OF_ERROR.get(error.code, 400) if transport else 200)


async def body_of(request: Request, most: int) -> bytes | Response:
    """The request's body, or the answer to one that is too large. One that never ends is the connection's to notice."""
    declared = dict(request.scope["headers"]).get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        return _too_large(most)
    parts: list[bytes] = []
    taken = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            log.info("api: a client went away in the middle of its request")
            return Response(status_code=400)
        parts.append(message.get("body", b""))
        taken += len(parts[-1])
        if taken > most:
            return _too_large(most)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> Response:
    log.info("a body over %d bytes was refused: limits.api_bytes, and limits.message_bytes for clients", most)
    return Response(status_code=413, headers={"connection": "close"})


ANYBODY = {"access-control-allow-origin": "*"}  # a page of another origin may ask whether the gateway is there


async def live(request: Request) -> Response:
    return json_response(b'{"status":"live"}', headers=ANYBODY)


async def ready(request: Request) -> Response:
    """200 while publications reach this process and it takes clients; 503 with the reason otherwise."""
    reason = request.state.gateway.unready()
    if reason:
        return json_response(encode({"status": "not ready", "reason": reason}), 503, ANYBODY)
    return json_response(b'{"status":"ready"}', headers=ANYBODY)


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}, "application/json")
