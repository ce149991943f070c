"""Requests that do nothing but publish, made ready: publish, broadcast, notify, and batches of these.

A *plan* is made without waiting: what is called in Valkey, and how the answers become the result. Nothing has been sent when it is made,
and none is made for a request with anything unusual in it, a mistake or an unknown field: ``methods.answer`` finds that again, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ...errors import ClientError, Internal, StoreError
from ...publication import Position
from ...rules.json_text import NEVER_DEEP, UNREADABLE
from ...rules.notifications import channel_of
from ...rules.protocol import error_json
from ...session.node import Node
from ...store.layout import Word
from .outcomes import TOGETHER, Outcome, responses
from .publishing import notification_words, placed, publication_words
from .requests import BatchRequest, BroadcastRequest, NotifyRequest, PublishRequest, Shape

__all__ = ["PLANNERS", "Plan", "end_of_run", "plan"]

EACH_MOST = 50  # publications to several channels in one call of Valkey: about a millisecond of its time
Answer = Position | StoreError | None  # None where the channel has no history


class Call(msgspec.Struct, gc=False):
    """One publication: ``words`` of gateway_publish, or of gateway_notify where it goes into an inbox."""

    channel: str
    words: Sequence[Word]
    inbox: bool = False


def end_of_run(calls: Sequence[Call], start: int, *, sharded: bool) -> int:
    """Where the run of calls that begins at ``start`` ends, which are one call of Valkey: several that follow each other in one channel,
    or, unless Valkey is ``sharded``, up to EACH_MOST in which each is to another channel than the one before it."""
    end, last = start + 1, len(calls)
    if end == last or not _joins(calls[start]) or not _joins(calls[end]):
        return end
    if calls[end].channel == calls[start].channel:
        while end < last and calls[end].channel == calls[start].channel and _joins(calls[end]):
            end += 1
    elif not sharded:
        last = min(last, start + EACH_MOST)
        while end < last and calls[end].channel != calls[end - 1].channel and _joins(calls[end]):
            end += 1
    return end


def _joins(call: Call) -> bool:
    """Whether it can be part of a run of several."""
    return not call.inbox and (len(call.words) == 1 or "ttl" not in call.words[1::2])


class Plan(NamedTuple):
    """``calls`` are made in this order; ``result`` takes as many answers, and returns the JSON of the method's result.

    ``result`` raises StoreError where the request as a whole failed.
    """

    calls: list[Call]
    result: Callable[[Sequence[Answer]], bytes]


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
    publish: _Publish | UnsetType = UNSET
    broadcast: _Broadcast | UnsetType = UNSET
    notify: _Notify | UnsetType = UNSET


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


def _plan_publish(node: Node, request: PublishRequest, is_ascii: bool) -> Plan:
    return Plan([_publish_call(node, request, is_ascii)], _first)


def _publish_call(node: Node, request: PublishRequest, is_ascii: bool) -> Call:
    node.rules(request.channel)
    return Call(request.channel, _words(node, request, is_ascii))


def _words(node: Node, request: PublishRequest | BroadcastRequest, is_ascii: bool) -> list[Word]:
    """``publication_words`` of a request without a trace. ``is_ascii``: so was the whole body, whose decoder has read the data as JSON then."""
    data = request.data
    has_options = request.idempotency_key or request.version or request.version_epoch or request.skip_history or request.tags
    if is_ascii and not has_options and data and not request.b64data:
        text = bytes(data)
        if len(text) <= NEVER_DEEP:
            return [text]
    return publication_words(node, _checked(request))


def _first(answers: Sequence[Answer]) -> bytes:
    (answer,) = answers
    if isinstance(answer, StoreError):
        raise answer
    return placed(answer)


def _few(items: Sequence[Any]) -> None:
    """Raises _Unusual for more than TOGETHER: to check them all would hold the loop for seconds, perhaps for no plan in the end."""
    if len(items) > TOGETHER:
        raise _Unusual


def _plan_broadcast(node: Node, request: BroadcastRequest, is_ascii: bool) -> Plan:
    _few(request.channels)
    words = _words(node, request, is_ascii)
    for channel in request.channels:
        node.rules(channel)
    return Plan([Call(channel, words) for channel in request.channels], _each)


def _plan_notify(node: Node, request: NotifyRequest) -> Plan:
    _few(request.users)
    words = notification_words(node, _checked(request))
    users = [request.user] if request.user else request.users
    return Plan([Call(channel_of(user), words, inbox=True) for user in users], _first if request.user else _each)


def _each(answers: Sequence[Answer]) -> bytes:
    return responses([_outcome(partial(_first, [each])) for each in answers])


def _outcome(result: Callable[[], bytes]) -> Outcome:
    try:
        return result(), None
    except StoreError as error:
        return b"", error_json(Internal.of(error))


_Part = tuple[bytes, int, Callable[[Sequence[Answer]], bytes]]  # of a batch: name, number of calls, and their result
_PUBLISHED: _Part = (b"publish", 1, _first)


def _plan_batch(node: Node, request: _Batch, is_ascii: bool) -> Plan:
    """Whether in ``parallel`` or not: what is published is on its way together, in order."""
    _few(request.commands)
    calls: list[Call] = []
    parts: list[_Part] = []
    for command in request.commands:
        publish, broadcast, notify = command.publish, command.broadcast, command.notify
        if (publish is UNSET) + (broadcast is UNSET) + (notify is UNSET) != 2:
            raise _Unusual
        if publish is not UNSET:
            calls.append(_publish_call(node, publish, is_ascii))
            parts.append(_PUBLISHED)
            continue
        if broadcast is not UNSET:
            name, made = b"broadcast", _plan_broadcast(node, broadcast, is_ascii)
        else:
            assert notify is not UNSET
            name, made = b"notify", _plan_notify(node, notify)
        if not made.calls:
            raise _Unusual
        calls += made.calls
        parts.append((name, len(made.calls), made.result))

    def result(answers: Sequence[Answer]) -> bytes:
        texts, start = [], 0
        for name, count, result_of in parts:
            try:
                texts.append(b'{"%b":%b}' % (name, result_of(answers[start : start + count])))
            except StoreError as error:
                texts.append(b'{"error":%b}' % error_json(Internal.of(error)))
            start += count
        return b'{"replies":[%b]}' % b",".join(texts)

    return Plan(calls, result)


PLANNERS: dict[str, Callable[[Node, bytes], Plan]] = {
    "publish": lambda node, body: _plan_publish(node, _publish(body), body.isascii()),
    "broadcast": lambda node, body: _plan_broadcast(node, _broadcast(body), body.isascii()),
    "notify": lambda node, body: _plan_notify(node, _notify(body)),
    "batch": lambda node, body: _plan_batch(node, _batch(body), body.isascii()),
}
