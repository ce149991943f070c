"""The methods of the server API that bring something in: publications, notifications and jobs."""

from __future__ import annotations

import base64

import msgspec

from ...errors import BadRequest, ClientError, QueueFull, StoreError, TooManyRequests
from ...publication import Position
from ...rules.json_text import encode, is_json
from ...rules.notifications import channel_of, notification_id, without_user
from ...runtime import tracing
from ...session.node import Node
from ...store.layout import PublishOptions, Word, publish_words
from ...work.jobs import job_words
from .outcomes import responses, together
from .requests import BroadcastRequest, EnqueueRequest, NotifyRequest, PublishRequest

__all__ = ["broadcast", "enqueue", "given_json", "notification_words", "notify", "placed", "publication_words", "publish"]


async def publish(node: Node, request: PublishRequest) -> bytes:
    """Publishes into one channel."""
    tracing.note("messaging.destination.name", without_user(request.channel))
    return await _publish_to(node, request.channel, publication_words(node, request))


async def _publish_to(node: Node, channel: str, words: list[Word]) -> bytes:
    node.rules(channel)
    return placed(await node.history.publish(channel, words))


def placed(position: Position | None) -> bytes:
    """The result of a publication."""
    return b"{}" if position is None else encode({"offset": position.offset, "epoch": position.epoch})


async def broadcast(node: Node, request: BroadcastRequest) -> bytes:
    """Publishes the same into several channels; each has a result or an error of its own."""
    words = publication_words(node, request)
    results = await together([_publish_to(node, channel, words) for channel in request.channels])
    return responses(results)


def publication_words(node: Node, request: PublishRequest | BroadcastRequest) -> list[Word]:
    """The words of a publication. Raises BadRequest."""
    data = given_json(request.data, request.b64data)
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


def given_json(raw: msgspec.Raw, b64: str = "") -> bytes:
    """The JSON that a request holds, in base64 or as it is; b"" if it holds neither."""
    try:
        data = (base64.b64decode(b64, validate=True) if b64 else b"") or bytes(raw)
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise BadRequest("the data is not base64") from None
    if (raw or b64) and not is_json(data):
        raise BadRequest("data is not JSON, or nested too deep")
    return data


async def notify(node: Node, request: NotifyRequest) -> bytes:
    """Publishes into the inbox of ``user``, or of each of ``users``: data is an object with an id; the same id again is an update."""
    words = notification_words(node, request)
    if request.user:
        return await _notify_one(node, request.user, words)
    results = await together([_notify_one(node, user, words) for user in request.users])
    return responses(results)


def notification_words(node: Node, request: NotifyRequest) -> list[Word]:
    """The words of a notification. Raises BadRequest."""
    data = given_json(request.data)
    notification_id(data)
    return publish_words(data, idempotency_key=request.idempotency_key or None, tags=_tags(node))


async def _notify_one(node: Node, user: str, words: list[Word]) -> bytes:
    try:
        channel = channel_of(user)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return placed(await node.history.notify(channel, words))


async def enqueue(node: Node, request: EnqueueRequest) -> bytes:
    """Enqueues a job for the workers of a queue."""
    if request.channel:
        node.rules(request.channel)
    try:
        words = job_words(
            request.name,
            msgspec.Raw(given_json(request.data) or b"null"),
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
