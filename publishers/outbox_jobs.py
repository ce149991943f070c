"""Jobs in the outbox: a job that a transaction enqueues is a row, which the relay enqueues in Valkey.

The row's channel is the name of the queue in braces, as ``{default}``, which no channel can have: so the rows of a queue are locked,
sent in order and set aside as the rows of a channel are. Its data is a JSON array: the name of the job, its data, its options.

Times count from ``Transaction.enqueue``, however long the relay is away. So the row holds moments instead of durations: ``at`` for
``at`` and ``delay``, ``expires_at`` for ``expires``, both in unix seconds. In a trace its options have the transaction's ``traceparent``.
"""

from __future__ import annotations

from typing import Any, Unpack
from uuid import uuid4

import msgspec

from gateway.rules.json_text import UNREADABLE, is_json
from gateway.runtime import tracing
from gateway.store.layout import Word
from gateway.work.jobs import DELAY_SECONDS, JobOptions, check_queue_name, job_words

from .faults import Invalid

__all__ = ["queue_of", "row_of_job", "trace_of", "words_of"]


class _Row(msgspec.Struct, array_like=True):
    name: str
    data: msgspec.Raw
    options: list[str | int]  # of gateway_enqueue: name, value, …


def queue_of(channel: str) -> str | None:
    """The queue whose jobs are the rows of this channel of the outbox; None for a channel of publications."""
    return channel[1:-1] if channel.startswith("{") else None


def row_of_job(now: int, queue: str, name: str, data: Any, **options: Unpack[JobOptions]) -> tuple[str, str, str]:
    """The channel and the data of a job's row, and the job's id, which is new. ``now`` is unix milliseconds.

    Raises Invalid for whatever Valkey would refuse: there is nobody to report it to when the relay finds out.
    """
    try:
        check_queue_name(queue)
        words = job_words(name, data, **options)
        text = words[1]
        if not isinstance(text, bytes) or not is_json(text):  # a msgspec.Raw may be anything
            raise ValueError("the data of a job is not JSON")
        moments = _moments(now / 1000, dict(zip(words[2::2], words[3::2], strict=True)))
        id = uuid4().hex
        trace = ["traceparent", traceparent] if (traceparent := tracing.traceparent()) else []
        row = msgspec.json.encode(_Row(name, msgspec.Raw(text), ["id", id, *moments, *trace])).decode()
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid(str(error)) from None
    return f"{{{queue}}}", row, id


def words_of(text: str) -> list[Word]:
    """What gateway_enqueue is given for a row's data. Raises ValueError for what ``row_of_job`` did not make."""
    try:
        row = msgspec.json.decode(text, type=_Row)
    except UNREADABLE as error:
        raise ValueError(f"the row is no job: {error}") from None
    return [row.name, bytes(row.data), *row.options]


def trace_of(words: list[Word]) -> str:
    """The traceparent of the transaction that enqueued the job; "" if it had none."""
    options = dict(zip(words[2::2], words[3::2], strict=True))
    return str(options.get("traceparent", ""))


def _moments(now: float, options: dict[Any, Any]) -> list[str | int]:
    """``options`` of ``job_words`` as names and values, with moments in place of durations. ``now`` is unix seconds."""
    due = max(now, float(options.pop("at", 0))) + float(options.pop("delay", 0))
    if due > now + DELAY_SECONDS:
        raise ValueError(f"a job is due within {DELAY_SECONDS / 365 / 86400:.0f} years")
    if due > now:
        options["at"] = f"{due:.3f}"
    if "expires" in options:
        options["expires_at"] = f"{due + float(options.pop('expires')):.3f}"
    return [word for pair in options.items() for word in pair]
