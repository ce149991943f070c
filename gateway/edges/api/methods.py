"""The methods of the server API: what a service may ask of the gateway, for all processes and machines.

Each takes the node and its request, and returns the result as JSON. It raises ClientError for what the caller is answered
as an error, and StoreError where Valkey does not answer. Source: docs/reference/http.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import msgspec

from ...errors import BadRequest, NotAvailable
from ...rules.json_text import UNREADABLE, decode_json, encode, is_json, mend_surrogates
from ...rules.notifications import NAMESPACE
from ...rules.protocol import BEGINNING, history_result
from ...session.node import Node
from . import client_orders, publishing
from .outcomes import Malformed, Outcome, outcome_of, replies, together
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
    RefreshRequest,
    RevokeRequest,
    Shape,
    SubscribeRequest,
    UnsubscribeRequest,
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
from .unknown_fields import NAMED_MOST, unknown_fields, without_nulls

__all__ = ["BATCH", "METHODS", "Method", "answer", "in_order", "read_history", "request_of", "warnings_of"]

HISTORY_BYTES = 16 * 1024 * 1024  # of one answer of the history method
PUBLISHES = frozenset({"publish", "broadcast", "notify"})


Asked = TypeVar("Asked", bound=Shape)


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
        request = _decoded(kind, body or b"{}")
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


def _decoded(kind: type[Asked], body: bytes) -> Asked:
    try:
        return decode_json(body, kind)
    except msgspec.ValidationError:
        if b"null" not in body or not is_json(mend_surrogates(body)):
            raise
        return decode_json(without_nulls(body, kind), kind)


def _with_unknown_fields(fault: str, kind: type[Shape], body: bytes) -> str:
    """The fault, with the unknown fields of the request: a field that is missing may be there under a wrong name."""
    return "; ".join([fault, *unknown_fields(body, kind)])


def warnings_of(method: Method, body: bytes) -> list[str]:
    """Which fields of a request that was carried out were ignored, a sentence each; in a batch, those of its commands too."""
    warnings = unknown_fields(body, method.request)
    if method is BATCH:
        for number, (name, request) in enumerate(_commands(_decoded(BatchRequest, body or b"{}"))):
            if len(warnings) >= NAMED_MOST:
                break
            warnings += unknown_fields(request, METHODS[name].request, f"commands[{number}].{name}.")
    return warnings[:NAMED_MOST]


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
    "publish": _method(publishing.publish, PublishRequest, PublishResult),
    "broadcast": _method(publishing.broadcast, BroadcastRequest, BroadcastResult),
    "notify": _method(publishing.notify, NotifyRequest, NotifyResult),
    "enqueue": _method(publishing.enqueue, EnqueueRequest, EnqueueResult),
    "history": _method(_history, HistoryRequest, HistoryResult),
    "history_remove": _method(_history_remove, ChannelRequest, Nothing),
    "subscribe": _method(client_orders.subscribe, SubscribeRequest, Nothing),
    "unsubscribe": _method(client_orders.unsubscribe, UnsubscribeRequest, Nothing),
    "disconnect": _method(client_orders.disconnect, DisconnectRequest, Nothing),
    "refresh": _method(client_orders.refresh, RefreshRequest, Nothing),
    "revoke": _method(client_orders.revoke, RevokeRequest, Nothing),
    "presence": _method(_presence, PresenceRequest, PresenceResult),
    "presence_stats": _method(_presence_stats, ChannelRequest, PresenceStatsResult),
    "channels": _method(_channels, ChannelsRequest, ChannelsResult),
    "info": _method(_info, InfoRequest, InfoResult),
}


# Several in one request.


async def _batch(node: Node, request: BatchRequest) -> bytes:
    """Runs commands, one after the other or in parallel; each has a result or an error of its own."""
    commands = _commands(request)
    outcomes = await in_order(node, commands, parallel=bool(request.parallel))
    return replies([(name, outcome) for (name, _), outcome in zip(commands, outcomes, strict=True)])


def _commands(request: BatchRequest) -> list[tuple[str, bytes]]:
    """The name of each command's method, and its request. A field that is null is as if left out, as everywhere. Raises BadRequest."""
    commands = [[(name, bytes(body)) for name, body in command.items() if bytes(body) != b"null"] for command in request.commands]
    if any(len(command) != 1 or command[0][0] not in METHODS for command in commands):
        raise BadRequest(f"a command of a batch is an object with one of {', '.join(METHODS)}")
    return [command[0] for command in commands]


async def in_order(node: Node, commands: list[tuple[str, bytes]], *, parallel: bool = False) -> list[Outcome]:
    """Runs commands, each the name of a method and its request, one after the other; or in ``parallel``, all but what they publish."""
    outcomes: list[Outcome] = []
    for (publishes, overtakes_nothing), some in groupby(commands, lambda command: _order(*command)):
        calls = [answer(node, METHODS[name], body) for name, body in some]
        # What is published is carried out in order, whether it is on its way together or not.
        if overtakes_nothing if publishes else parallel:
            outcomes += await together(calls)
        else:
            outcomes += [await outcome_of(call) for call in calls]
    return outcomes


def _order(name: str, body: bytes) -> tuple[bool, bool]:
    """Whether a command publishes, and whether it does so to one channel: with several, each has a task, which later commands would overtake."""
    return name in PUBLISHES, name == "publish" or (name == "notify" and not _names_users(body))


class _Users(msgspec.Struct):
    users: msgspec.Raw = msgspec.Raw()


def _names_users(body: bytes) -> bool:
    try:
        return bool(decode_json(body, _Users).users)  # by a decoder: the name may be written with an escape, and be in the data as well
    except UNREADABLE:
        return False  # it is refused, and publishes nothing


BATCH = _method(_batch, BatchRequest, Nothing)  # its replies are not inside a ``result``
