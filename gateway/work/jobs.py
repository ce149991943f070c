"""A job in words: what a producer says of it, and the text in which Valkey holds it. No I/O.

``job_words`` checks what a producer was given and makes the arguments of ``gateway_enqueue``; ``read_job`` reads what
``gateway_take`` and ``gateway_jobs`` answer. The layout is described in ``store/lua/jobs.lua``.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from functools import lru_cache
from typing import Any, TypedDict, Unpack

import msgspec

from ..errors import QueueFull, StoreError
from ..publication import channel_fault
from ..rules.json_text import UNREADABLE
from ..rules.json_values import json_of, kind_of
from ..store.layout import Word

__all__ = ["JobDocument", "JobOptions", "check_queue_name", "check_text", "job_words", "read_job", "refusal"]

NAME_BYTES = 200
QUEUE_BYTES = 100
DATA_BYTES = 1024 * 1024
DELAY_SECONDS = 10 * 365 * 86400.0
TIMEOUT_SECONDS = 7 * 86400.0
RESULT_SECONDS = 30 * 86400.0
ATTEMPTS = 1000

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class JobOptions(TypedDict, total=False):
    """What a producer may say of one job. Times are in seconds and may have decimals.

    ``key``: unique among the jobs of the queue that wait or run; the same key again is that job. It is the handler's idempotency key.
    ``priority``: 0 (normal) to 9 (first). ``delay``: until it is due; ``at``: when it is due, as a datetime with a time zone or unix seconds.
    ``attempts``: how often it is tried until it is a dead letter. ``timeout``: of one attempt.
    ``expires``: a job that is to start, or to be tried again, later than so long after it was due is a dead letter.
    ``result_ttl``: how long its result is stored, 0 for not at all.
    ``channel``: where its progress is published. ``serial``: jobs of one serial key run one after another, in the order of enqueue.
    """

    key: str | None
    priority: int
    delay: float
    at: datetime | float | None
    attempts: int
    timeout: float
    expires: float | None
    result_ttl: float
    channel: str | None
    serial: str | None


_NUMBERS: dict[str, tuple[float, float]] = {
    "delay": (0, DELAY_SECONDS),
    "timeout": (0.001, TIMEOUT_SECONDS),
    "expires": (0.001, DELAY_SECONDS),
    "result_ttl": (0, RESULT_SECONDS),
}
_COUNTS = {"priority": (0, 9), "attempts": (1, ATTEMPTS)}
_TEXTS = ("key", "serial")


def check_queue_name(queue: Any) -> str:
    """The name of a queue. Raises TypeError for what is no text, ValueError for one that cannot be a part of a key in Valkey."""
    if not isinstance(queue, str):
        raise TypeError(f"the queue is a text, not {kind_of(queue)}")
    return _checked_queue(queue)


@lru_cache(1000)
def _checked_queue(queue: str) -> str:
    if not 0 < len(queue.encode(errors="replace")) <= QUEUE_BYTES or re.search(r"[{}\s\x00-\x1f\x7f]", queue):
        raise ValueError(f"a queue is named by 1 to {QUEUE_BYTES} bytes without braces, spaces and control characters, not {queue!r:.120}")
    return queue


def job_words(name: str, data: Any, **options: Unpack[JobOptions]) -> list[Word]:
    """What gateway_enqueue is given after the keys: name and data, then NAME VALUE pairs.

    Raises TypeError or ValueError with a sentence that names the mistake.
    """
    check_text("the name of a job", name)
    text = json_of(data, "the data of a job")
    if len(text) > DATA_BYTES:
        raise ValueError(
            f"the data of a job is at most {DATA_BYTES} bytes of JSON, not {len(text)}: store it elsewhere, and put its address into the job"
        )
    words: list[Word] = [name, text]
    given: dict[str, Any] = {**options}
    for option, value in given.items():
        if option not in JobOptions.__annotations__:
            raise TypeError(f"a job has no option {option!r}; the options are {', '.join(JobOptions.__annotations__)}")
        if value is not None:
            words += option, _option(option, value)
    return words


def _option(option: str, value: Any) -> Word:
    if option in _TEXTS:
        return check_text(option, value)
    if option == "channel":
        if not isinstance(value, str):
            raise TypeError(f"channel is a text, not {kind_of(value)}")
        if fault := channel_fault(value):
            raise ValueError(fault)
        return value
    if option == "at":
        return _decimal(_timestamp(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option} is a number, not {kind_of(value)}")
    if option in _COUNTS:
        least, most = _COUNTS[option]
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{option} is a whole number from {least} to {most}, not {value!r}")
        return value
    low, high = _NUMBERS[option]
    if not low <= value <= high:  # false for NaN too
        raise ValueError(f"{option} is a number of seconds from {low:g} to {high:.0f}, not {value!r}")
    return _decimal(value)


def _timestamp(at: Any) -> float:
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError("at is a datetime with a time zone; datetime.now(UTC) makes one")
        return max(0.0, at.timestamp())
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or at < 0:
        raise TypeError(f"at is a datetime with a time zone, or unix seconds, not {kind_of(at)}")
    return float(at)


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def check_text(what: str, value: Any) -> str:
    """A name, a unique key or a serial key. Raises TypeError, ValueError for what cannot be one; ``what`` begins the message."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {kind_of(value)}")
    if not 0 < len(value.encode(errors="replace")) <= NAME_BYTES or _CONTROL.search(value):
        raise ValueError(f"{what} is a text of 1 to {NAME_BYTES} bytes without control characters, not {value!r:.120}")
    return value


class JobDocument(msgspec.Struct, gc=False):
    """A job as Valkey holds it. ``due``, ``expires`` (0: never) and ``enqueued`` are unix milliseconds; the others as in JobOptions."""

    name: str
    priority: int
    attempts: int
    expires: int
    due: int
    result_ttl: float
    timeout: float
    enqueued: int
    data: msgspec.Raw
    key: str | None = None
    channel: str | None = None
    serial: str | None = None
    traceparent: str | None = None  # of the trace that enqueued it


_decode = msgspec.json.Decoder(JobDocument).decode


def read_job(text: bytes) -> JobDocument | None:
    """The job; None for what another program wrote that is none."""
    try:
        return _decode(text)
    except UNREADABLE:
        return None


def refusal(error: StoreError) -> StoreError:
    """The error that a producer is given for Valkey's: QueueFull for a queue that is full."""
    text = str(error)
    return QueueFull(text.partition(" script:")[0].removeprefix("QUEUEFULL ")) if text.startswith("QUEUEFULL") else error
