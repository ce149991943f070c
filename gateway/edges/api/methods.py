"""The methods of the server API: what a service may ask of the gateway, for all processes and machines.

Each takes the node and its request, and returns the result as JSON. It raises ClientError for what the caller is answered
as an error, and StoreError where Valkey does not answer. Source: docs/reference/http.md.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Coroutine
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import msgspec

from ...control.messages import Disconnection, Refreshing, Revocation, Subscribing, Unsubscribing
from ...errors import BadRequest, ClientError, Internal, NotAvailable, QueueFull, StoreError, TooManyRequests
from ...publication import Position
from ...rules.json_text import decode_json, encode, is_json, mend_surrogates, raw_object
from ...rules.notifications import NAMESPACE, channel_of, notification_id, without_user
from ...rules.protocol import BEGINNING, error_json, history_result
from ...runtime import tracing
from ...session.node import Node
from ...store.layout import PublishOptions, Word, publish_words
from ...work.jobs import job_words
from .requests import (
    BatchRequest,
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectRequest,
    EnqueueRequest,
    HistoryRequest,
    InfoRequest,
    NotifyRequest,
    PresenceRequest,
    PublishRequest,
    Reason,
    RefreshRequest,
    RevokeRequest,
    Shape,
    SubscribeRequest,
    UnsubscribeRequest,
    Whom,
)
from .results import (
    BroadcastResult,
    ChannelsResult,
    EnqueueResult,
    HistoryResult,
    InfoResult,
    Nothing,
    NotifyResult,
    PresenceResult,
    PresenceStatsResult,
    PublishResult,
)
from .unknown_fields import unknown_fields

__all__ = [
    *("BATCH", "METHODS", "TOGETHER", "Malformed", "Method", "Outcome", "answer", "notification_words", "placed", "publication_words"),
    *("read_history", "replies", "request_of", "responses", "together", "warnings_of"),
]

HISTORY_BYTES = 16 * 1024 * 1024  # of one answer of the history method
WARNINGS_MOST = 20  # of one request
TOGETHER = 200  # commands of one request that are under way at once
PUBLISHES = frozenset({"publish", "broadcast", "notify"})
Outcome = tuple[bytes, bytes | None]  # a result, and the error where there is none; both are JSON
REVOKED_SECONDS = 30 * 86400  # where the request does not say when the token would have expired


Asked = TypeVar("Asked", bound=Shape)


class Malformed(Exception):
    """The body is not JSON."""


class Method(NamedTuple):
    """One method: ``call`` takes the node and a ``request``, and returns the JSON of a ``result``."""

    call: Callable[[Node, Any], Awaitable[bytes]]
    request: type[Shape]
    result: type[msgspec.Struct]


async def answer(node: Node, method: Method, body: bytes) -> bytes:
    """The result as JSON. Raises Malformed for a body that is not JSON, ClientError and StoreError as the methods do."""
    return await method.call(node, request_of(method.request, body))


def request_of(kind: type[Asked], body: bytes) -> Asked:
    """The request in a body. Raises Malformed for one that is not JSON, BadRequest for JSON that is no such request."""
    try:
        request = decode_json(body or b"{}", kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # msgspec reports a wrong shape as soon as it finds one: what follows may not be JSON at all.
        wrong_shape = isinstance(error, msgspec.ValidationError) and is_json(mend_surrogates(body))
        if not wrong_shape:
            raise Malformed(str(error)) from None
        raise BadRequest(_with_unknown_fields(str(error), kind, body)) from None
    fault = request.fault()
    if fault:
        raise BadRequest(_with_unknown_fields(fault, kind, body))
    return request


def _with_unknown_fields(fault: str, kind: type[Shape], body: bytes) -> str:
    """A field that is missing may be there under a wrong name."""
    return "; ".join([fault, *unknown_fields(body, kind)])


def warnings_of(method: Method, body: bytes) -> list[str]:
    """Which fields of a request that was carried out were ignored, a sentence each; in a batch, those of its commands too."""
    warnings = unknown_fields(body, method.request)
    if method is BATCH:
        for number, command in enumerate(decode_json(body or b"{}", BatchRequest).commands):
            for name, request in command.items():
                warnings += unknown_fields(bytes(request), METHODS[name].request, f"commands[{number}].{name}.")
    return warnings[:WARNINGS_MOST]


# Publishing.


async def _publish(node: Node, request: PublishRequest) -> bytes:
    """Publishes into one channel."""
    tracing.note("messaging.destination.name", without_user(request.channel))
    return await _publish_to(node, request.channel, publication_words(node, request))


async def _publish_to(node: Node, channel: str, words: list[Word]) -> bytes:
    node.rules(channel)
    return placed(await node.history.publish(channel, words))


def placed(position: Position | None) -> bytes:
    """The result of a publication."""
    return b"{}" if position is None else encode({"offset": position.offset, "epoch": position.epoch})


async def _broadcast(node: Node, request: BroadcastRequest) -> bytes:
    """Publishes the same into several channels; each has a result or an error of its own."""
    words = publication_words(node, request)
    results = await together([_publish_to(node, channel, words) for channel in request.channels])
    return responses(results)


def responses(results: list[Outcome]) -> bytes:
    """The result of a request that has several answers."""
    return b'{"responses":[%b]}' % b",".join(
        raw_object({"result": result} if error is None else {"error": error}) for result, error in results
    )


def publication_words(node: Node, request: PublishRequest | BroadcastRequest) -> list[Word]:
    """The words of a publication. Raises BadRequest."""
    data = _json_of(request.data, request.b64data)
    if request.version >= 2**64:
        raise BadRequest("version does not fit 64 bits")
    options: PublishOptions = {}
    if request.idempotency_key:
        options["idempotency_key"] = request.idempotency_key
    if request.version:
        options["version"] = request.version
    if request.version_epoch:
        options["version_epoch"] = request.version_epoch
    if request.skip_history:
        options["ttl"] = 0
    if tags := _tags(node, request.tags):
        options["tags"] = tags
    return publish_words(data, **options)


def _tags(node: Node, given: dict[str, str] | None = None) -> bytes | None:
    """The tags as JSON, with the trace of the request where the configuration asks for it; None if there are none."""
    trace = tracing.traceparent() if node.config.telemetry.publication_tags else ""
    tags = {"traceparent": trace, **(given or {})} if trace else given
    return encode(tags) if tags else None


def _json_of(raw: msgspec.Raw, b64: str = "") -> bytes:
    """The JSON that a request holds, in base64 or as it is; b"" if it holds neither."""
    try:
        data = (base64.b64decode(b64, validate=True) if b64 else b"") or bytes(raw)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise BadRequest("the data is not base64") from None
    if (raw or b64) and not is_json(data):
        raise BadRequest("data is not JSON, or nested too deep")
    return data


async def _notify(node: Node, request: NotifyRequest) -> bytes:
    """Publishes into the inbox of ``user``, or of each of ``users``: data is an object with an id; the same id again is an update."""
    words = notification_words(node, request)
    if request.user:
        return await _notify_one(node, request.user, words)
    results = await together([_notify_one(node, user, words) for user in request.users])
    return responses(results)


def notification_words(node: Node, request: NotifyRequest) -> list[Word]:
    """The words of a notification. Raises BadRequest."""
    data = _json_of(request.data)
    notification_id(data)
    return publish_words(data, idempotency_key=request.idempotency_key or None, tags=_tags(node))


async def _notify_one(node: Node, user: str, words: list[Word]) -> bytes:
    try:
        channel = channel_of(user)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return placed(await node.history.notify(channel, words))


# Work.


async def _enqueue(node: Node, request: EnqueueRequest) -> bytes:
    """Enqueues a job for the workers of a queue."""
    if request.channel:
        node.rules(request.channel)
    try:
        words = job_words(
            request.name,
            msgspec.Raw(_json_of(request.data) or b"null"),
            key=request.key or None,
            priority=request.priority,
            delay=request.delay,
            at=request.at or None,
            attempts=request.attempts,
            timeout=request.timeout,
            expires=request.expires or None,
            result_ttl=request.result_ttl,
            channel=request.channel or None,
            serial=request.serial or None,
        )
        id, new = await node.queues.enqueue(request.queue, words)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    except QueueFull as error:
        raise TooManyRequests(str(error)) from None
    except StoreError as error:
        raise _of_the_function(error) from None
    return encode({"id": id, "new": new})


def _of_the_function(error: StoreError) -> ClientError | StoreError:
    """A function of the library that refuses its arguments refuses the caller's, as a time that is too far away."""
    text = str(error)
    return BadRequest(text.removeprefix("GATEWAY ").partition(" script:")[0]) if text.startswith("GATEWAY ") else error


# History.


async def _history(node: Node, request: HistoryRequest) -> bytes:
    """Reads publications after a position, or, in reverse, before it."""
    if not node.rules(request.channel).has_history:
        raise NotAvailable(f"{request.channel!r} has no history: its history_size is 0")
    return await read_history(node, request)


async def read_history(node: Node, request: HistoryRequest) -> bytes:
    """The history method of a channel that has a history, also where its rules let no client read it."""
    since = request.since.position if request.since is not None else BEGINNING
    limit = -1 if (request.limit or 0) < 0 else request.limit or 0
    reverse = bool(request.reverse)
    # A service may give the position to a client, which recovers from it: so there has to be one.
    page = await node.history.after(request.channel, since, limit, reverse=reverse, max_bytes=HISTORY_BYTES, begins=True)
    return history_result(page.top, page.publications)


async def _history_remove(node: Node, request: ChannelRequest) -> bytes:
    """Removes a channel's history; its offsets go on."""
    channel = request.channel
    if not node.rules(channel).has_history:
        raise NotAvailable(f"{channel!r} has no history: its history_size is 0")
    await node.history.remove(channel)
    if channel.startswith(f"{NAMESPACE}:"):
        await node.inbox.state(channel)
    return b"{}"


# Clients, wherever they are.


def _whom(request: Whom) -> dict[str, str]:
    return {"user": request.user, "client": request.client, "session": request.session}


async def _subscribe(node: Node, request: SubscribeRequest) -> bytes:
    """Subscribes clients to a channel, whatever its rules say; the clients are notified."""
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
        override=request.override.override if request.override is not None else None,
    )
    await node.control.send(message)
    return b"{}"


async def _unsubscribe(node: Node, request: UnsubscribeRequest) -> bytes:
    """Unsubscribes clients from a channel; the clients are notified."""
    node.rules(request.channel)
    await node.control.send(Unsubscribing(**_whom(request), channel=request.channel))
    return b"{}"


async def _disconnect(node: Node, request: DisconnectRequest) -> bytes:
    """Closes clients' connections with a code: SDKs connect again after codes below 3500, and after 4000 to 4499."""
    how = request.disconnect or Reason()
    code = how.code or 3503  # cent sends 0 where a reason alone is given
    if code < 3000:
        raise BadRequest(f"{code} is no code of a disconnect: they begin at 3000")
    await node.control.send(Disconnection(**_whom(request), whitelist=request.whitelist, code=code, reason=how.reason))
    return b"{}"


async def _refresh(node: Node, request: RefreshRequest) -> bytes:
    """Moves the expiry of connections, or ends them as expired."""
    info = msgspec.Raw(_json_of(request.info) or b"null")
    await node.control.send(Refreshing(**_whom(request), expired=request.expired, expire_at=request.expire_at, info=info))
    return b"{}"


async def _revoke(node: Node, request: RevokeRequest) -> bytes:
    """Revokes the tokens of ``user`` that were issued before now (or ``issued_before``), or the one token ``token_id``, until ``expire_at``."""
    now = time.time()
    before, until = request.issued_before or now, request.expire_at or now + REVOKED_SECONDS
    revocation = Revocation(user=request.user, token_id=request.token_id, before=before, until=until)
    node.control.carry_out(revocation)  # here it holds whatever Valkey answers
    await node.revocations.persist(request.user, request.token_id, before, until)
    await node.control.send(revocation)
    return b"{}"


# What there is now.


async def _channels(node: Node, request: ChannelsRequest) -> bytes:
    """Lists the channels that clients follow right now, and by how many."""
    found: dict[str, int] = {}
    for answer in await node.control.survey("channels", request.pattern or "*"):
        for name, count in msgspec.json.decode(answer, type=dict[str, int]).items():
            found[name] = found.get(name, 0) + count
    return encode({"channels": {name: {"num_clients": count} for name, count in found.items()}})


async def _info(node: Node, request: InfoRequest) -> bytes:
    """Lists the gateways' processes, and what they carry."""
    return b'{"nodes":[%b]}' % b",".join(await node.control.survey("info"))


async def _presence(node: Node, request: PresenceRequest) -> bytes:
    """Lists the clients in a channel, all up to `limits.presence_clients`, or page by page."""
    channel = _present(node, request)
    if not request.limit:
        return await node.presence.clients(channel)
    return await node.presence.page(channel, int(request.cursor or 0), min(request.limit, node.config.limits.presence_clients))


async def _presence_stats(node: Node, request: ChannelRequest) -> bytes:
    """Counts the clients and users in a channel."""
    return await node.presence.counts(_present(node, request))


def _present(node: Node, request: ChannelRequest) -> str:
    if not node.rules(request.channel).presence:
        raise NotAvailable(f"{request.channel!r} has no presence: its rules do not set it")
    return request.channel


def _method(call: Callable[[Node, Asked], Awaitable[bytes]], request: type[Asked], result: type[msgspec.Struct]) -> Method:
    """A Method whose ``call`` type checkers compare with its ``request``."""
    return Method(call, request, result)


METHODS = {
    "publish": _method(_publish, PublishRequest, PublishResult),
    "broadcast": _method(_broadcast, BroadcastRequest, BroadcastResult),
    "notify": _method(_notify, NotifyRequest, NotifyResult),
    "enqueue": _method(_enqueue, EnqueueRequest, EnqueueResult),
    "history": _method(_history, HistoryRequest, HistoryResult),
    "history_remove": _method(_history_remove, ChannelRequest, Nothing),
    "subscribe": _method(_subscribe, SubscribeRequest, Nothing),
    "unsubscribe": _method(_unsubscribe, UnsubscribeRequest, Nothing),
    "disconnect": _method(_disconnect, DisconnectRequest, Nothing),
    "refresh": _method(_refresh, RefreshRequest, Nothing),
    "revoke": _method(_revoke, RevokeRequest, Nothing),
    "presence": _method(_presence, PresenceRequest, PresenceResult),
    "presence_stats": _method(_presence_stats, ChannelRequest, PresenceStatsResult),
    "channels": _method(_channels, ChannelsRequest, ChannelsResult),
    "info": _method(_info, InfoRequest, InfoResult),
}


# Several in one request.


async def _batch(node: Node, request: BatchRequest) -> bytes:
    """Runs commands, one after the other or in parallel; each has a result or an error of its own."""
    if any(len(command) != 1 or next(iter(command)) not in METHODS for command in request.commands):
        raise BadRequest(f"a command of a batch is an object with one of {', '.join(METHODS)}")
    commands = [(name, bytes(body)) for command in request.commands for name, body in command.items()]
    outcomes: list[Outcome] = []
    for (publishes, overtakes_nothing), some in groupby(commands, lambda command: _order(*command)):
        calls = [answer(node, METHODS[name], body) for name, body in some]
        # What is published is carried out in order, whether it is on its way together or not.
        if overtakes_nothing if publishes else request.parallel:
            outcomes += await together(calls)
        else:
            outcomes += [await _outcome(call) for call in calls]
    return replies([(name, outcome) for (name, _), outcome in zip(commands, outcomes, strict=True)])


def _order(name: str, body: bytes) -> tuple[bool, bool]:
    """Whether a command publishes, and whether it does so to one channel: with several, each has a task, which later commands would overtake."""
    return name in PUBLISHES, name == "publish" or (name == "notify" and b'"users"' not in body)


def replies(outcomes: list[tuple[str, Outcome]]) -> bytes:
    """What a batch is answered with; ``outcomes`` are with the names of their methods."""
    texts = [raw_object({name: result} if error is None else {"error": error}) for name, (result, error) in outcomes]
    return b'{"replies":[%b]}' % b",".join(texts)


async def together(calls: list[Coroutine[Any, Any, bytes]]) -> list[Outcome]:
    """The outcomes of calls that are made at once, TOGETHER at a time: a request of megabytes must not take Valkey from all others."""
    outcomes: list[Outcome] = []
    for first in range(0, len(calls), TOGETHER):
        outcomes += await asyncio.gather(*map(_outcome, calls[first : first + TOGETHER]))
    return outcomes


async def _outcome(call: Awaitable[bytes]) -> Outcome:
    """The result, or the error as JSON."""
    try:
        return await call, None
    except ClientError as error:
        return b"", error_json(error)
    except StoreError as error:
        return b"", error_json(Internal.of(error))
    except Malformed as error:
        return b"", error_json(BadRequest(str(error)))


BATCH = _method(_batch, BatchRequest, Nothing)  # its replies are not inside a ``result``
