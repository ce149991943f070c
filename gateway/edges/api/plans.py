"""Requests that do nothing but publish, made ready: publish, broadcast, notify, and batches of these.

A *plan* is made without waiting: what is called in Valkey, and how the answers become the result. Nothing has been sent when it is made,
and none is made for a request with anything unusual in it, a mistake or an unknown field: ``methods.answer`` finds that again, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from ...errors import ClientError, Internal, StoreError
from ...rules.json_text import UNREADABLE
from ...rules.notifications import channel_of
from ...rules.protocol import error_json
from ...session.node import Node
from ...store.layout import Word
from .methods import TOGETHER, Outcome, notification_words, placed, publication_words, replies, responses
from .requests import BatchRequest, BroadcastRequest, NotifyRequest, PublishRequest, Shape

__all__ = ["PLANNERS", "Plan", "plan", "runs_of"]

Answer = Any  # what the function in Valkey returned, or a StoreError


class Call(NamedTuple):
    """One publication: ``words`` of gateway_publish, or of gateway_notify where it goes into an inbox."""

    channel: str
    words: Sequence[Word]
    inbox: bool = False


def runs_of(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls in their order, with those together that follow each other in one channel: they are one call of Valkey."""
    runs: list[list[Call]] = []
    last = ""  # the channel of a run that can go on
    for call in calls:
        channel = "" if call.inbox or "ttl" in call.words[1::2] else call.channel
        if channel and channel == last:
            runs[-1].append(call)
        else:
            runs.append([call])
        last = channel
    return runs


class Plan(NamedTuple):
    """``calls`` are made in this order; ``result`` takes as many answers, and returns the JSON of the method's result.

    ``result`` raises StoreError where the request as a whole failed.
    """

    calls: list[Call]
    result: Callable[[Node, Sequence[Answer]], bytes]


class _Unusual(Exception):
    """``methods.answer`` has to look at it."""


def plan(node: Node, name: str, body: bytes) -> Plan | None:
    """What the request does; None if ``methods.answer`` has to answer it."""
    try:
        made = PLANNERS[name](node, body)
    except (ClientError, ValueError, _Unusual, *UNREADABLE):
        return None
    if not 0 < len(made.calls) <= TOGETHER:
        return None
    if node.history.commands.sharded and not all(node.history.begins_at_once(call.channel) for call in made.calls):
        return None
    return made


# One method each. The shapes refuse unknown fields.


class _Publish(PublishRequest, kw_only=True, forbid_unknown_fields=True):
    pass


class _Broadcast(BroadcastRequest, kw_only=True, forbid_unknown_fields=True):
    pass


class _Notify(NotifyRequest, kw_only=True, forbid_unknown_fields=True):
    pass


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    publish: _Publish | msgspec.UnsetType = msgspec.UNSET
    broadcast: _Broadcast | msgspec.UnsetType = msgspec.UNSET
    notify: _Notify | msgspec.UnsetType = msgspec.UNSET


class _Batch(BatchRequest, forbid_unknown_fields=True):
    commands: list[_Command] = []  # type: ignore[assignment]  # narrower than any command


Request = TypeVar("Request", bound=Shape)


def _checked(request: Request) -> Request:
    if request.fault():
        raise _Unusual
    return request


_publish = msgspec.json.Decoder(_Publish).decode
_broadcast = msgspec.json.Decoder(_Broadcast).decode
_notify = msgspec.json.Decoder(_Notify).decode
_batch = msgspec.json.Decoder(_Batch).decode


def _plan_publish(node: Node, request: PublishRequest) -> Plan:
    node.rules(_checked(request).channel)
    return Plan([Call(request.channel, publication_words(node, request))], _first)


def _first(node: Node, answers: Sequence[Answer]) -> bytes:
    (answer,) = answers
    if isinstance(answer, StoreError):
        raise answer
    return placed(answer)


def _few(items: Sequence[Any]) -> None:
    """Without it the loop would be held for seconds by what is no plan in the end."""
    if len(items) > TOGETHER:
        raise _Unusual


def _plan_broadcast(node: Node, request: BroadcastRequest) -> Plan:
    _few(request.channels)
    words = publication_words(node, _checked(request))
    for channel in request.channels:
        node.rules(channel)
    return Plan([Call(channel, words) for channel in request.channels], _each)


def _plan_notify(node: Node, request: NotifyRequest) -> Plan:
    _few(request.users)
    words = notification_words(node, _checked(request))
    users = [request.user] if request.user else request.users
    return Plan([Call(channel_of(user), words, inbox=True) for user in users], _first if request.user else _each)


def _each(node: Node, answers: Sequence[Answer]) -> bytes:
    return responses([_outcome(partial(_first, node, [each])) for each in answers])


def _outcome(result: Callable[[], bytes]) -> Outcome:
    try:
        return result(), None
    except StoreError as error:
        return b"", error_json(Internal.of(error))


def _plan_batch(node: Node, request: _Batch) -> Plan:
    """Whether in ``parallel`` or not: what is published is on its way together, in order."""
    _few(request.commands)
    parts = [_plan_command(node, command) for command in request.commands]
    if any(not part.calls for _, part in parts):
        raise _Unusual

    def result(node: Node, answers: Sequence[Answer]) -> bytes:
        left = iter(answers)
        return replies([(name, _outcome(partial(part.result, node, list(islice(left, len(part.calls)))))) for name, part in parts])

    return Plan([call for _, part in parts for call in part.calls], result)


def _plan_command(node: Node, command: _Command) -> tuple[str, Plan]:
    given = [(name, request) for name in _PLANS if (request := getattr(command, name)) is not msgspec.UNSET]
    if len(given) != 1:
        raise _Unusual
    ((name, request),) = given
    return name, _PLANS[name](node, request)


_PLANS: dict[str, Callable[[Node, Any], Plan]] = {"publish": _plan_publish, "broadcast": _plan_broadcast, "notify": _plan_notify}

PLANNERS: dict[str, Callable[[Node, bytes], Plan]] = {
    "publish": lambda node, body: _plan_publish(node, _publish(body)),
    "broadcast": lambda node, body: _plan_broadcast(node, _broadcast(body)),
    "notify": lambda node, body: _plan_notify(node, _notify(body)),
    "batch": lambda node, body: _plan_batch(node, _batch(body)),
}
