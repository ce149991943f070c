"""What a work queue's functions in Valkey do, as methods: enqueue, look, mend. Its keys are described in ``store/lua/jobs.lua``."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast
from uuid import uuid4

import msgspec

from ..errors import StoreError, Unavailable
from ..runtime import tracing
from ..store.access import Commands, read_or_fault, shard_fault
from ..store.layout import Layout, Word
from .jobs import JobDocument, check_queue_name, read_job, refusal

__all__ = [
    "NAMED_SECONDS",
    "NAME_AGAIN_SECONDS",
    "RESENT_MOST",
    "Failure",
    "JobView",
    "Overview",
    "Queues",
    "enqueue_call",
    "enqueue_span",
    "log_unnamed",
    "traced",
    "view_of",
]

log = logging.getLogger("gateway.work")

MS_MOST = 1e15  # unix ms
NAME_SECONDS = 1.0  # for a name to be added: on a cluster the names are in another shard than the job, which may be away
NAME_AGAIN_SECONDS = 5.0  # after which an enqueue tries again to add one: a relay enqueues hundreds of jobs one after another
NAMED_SECONDS = 60.0  # after which a producer or a worker adds a name again: Valkey may have lost it meanwhile
RESENT_MOST = 1000  # dead letters that one call sends again

_READS = (b"gateway_queue", b"gateway_job", b"gateway_jobs")


class Failure(msgspec.Struct, gc=False):
    """One failed run of a job. ``at`` is unix milliseconds, ``attempt`` counts from 1."""

    error: str = ""
    at: int = 0
    attempt: int = 0
    worker: str = ""


class JobView(NamedTuple):
    """A job as operators see it. ``state``: ready, delayed, parked, running, dead, done or none; ``ms`` is since when, or when it is due (unix ms).

    ``job`` is None for what another program wrote; ``result`` is JSON with one field, ``result`` or ``error``, b"" if there is none.
    """

    id: str
    state: str
    ms: int
    job: JobDocument | None
    failures: list[Failure]
    result: bytes = b""


class Overview(msgspec.Struct):
    """The numbers of one queue at one moment. ``oldest_ms`` is how long the oldest job has been due that no worker has taken; the fields after
    it are sums since the queue began.

    The mean time to start is ``start_ms / started``, the mean time of a run ``finish_ms / finished``.
    """

    ready: int
    by_priority: list[int]
    delayed: int
    parked: int
    running: int
    dead_letters: int
    workers: int
    results: int
    oldest_ms: int
    enqueued: int
    taken: int
    started: int
    finished: int
    retried: int
    dead: int
    cancelled: int
    crashed: int
    given_back: int
    strays: int
    sent_again: int
    start_ms: int
    finish_ms: int


def log_unnamed(queue: str, error: StoreError) -> None:
    log.warning("queue %s works, but lists of queues do not show it, since Valkey refuses to add its name: %s", queue, error)


def enqueue_span(queue: str, words: list[Word]) -> AbstractContextManager[None]:
    """The span of an enqueue of ``words``, of ``jobs.job_words``; inside it ``traced`` adds the span's traceparent to them."""
    return tracing.span("enqueue", "producer", attributes={"messaging.destination.name": queue, "gateway.job": str(words[0])})


def traced(words: list[Word]) -> list[Word]:
    """``words``, with the current trace where there is one."""
    traceparent = tracing.traceparent()
    return [*words, "traceparent", traceparent] if traceparent else words


def enqueue_call(layout: Layout, queue: str, words: list[Word]) -> list[Word]:
    """The command that enqueues; ``words`` are those of ``jobs.job_words``."""
    keys = layout.queue(queue)
    return [b"FCALL", b"gateway_enqueue", len(keys), *keys, *words]


class Queues:
    """All work queues of one Valkey, over a connection that the caller opened. Methods raise StoreError, Unavailable; ``enqueue`` QueueFull too.

    Each object is a producer: it counts what it enqueues, so that Valkey recognizes what is sent again over a broken connection.
    """

    def __init__(self, commands: Commands, layout: Layout) -> None:
        self.commands = commands
        self._layout = layout
        self._producer = uuid4().hex[:12]
        self._sent = 0
        self._sent_to: Counter[str] = Counter()
        self._named: dict[str, float] = {}  # queue → until when it needs no name, by the monotonic clock
        self._naming_from = 0.0  # by the same clock: no name is added before

    async def enqueue(self, queue: str, words: list[Word], *, version: int | None = None, version_epoch: str = "") -> tuple[str, bool]:
        """Enqueues what ``jobs.job_words`` made. Returns the job's id, and whether it is new: False where its key has a job already.

        ``version`` and ``version_epoch`` are those of an outbox, whose rows may be sent again at any time.
        """
        check_queue_name(queue)
        if version is not None:
            return await self._enqueue(queue, words, "", version, version_epoch)
        self._sent += 1
        self._sent_to[queue] += 1
        own = f"{self._producer}-{self._sent}"
        with enqueue_span(queue, words):
            return await self._enqueue(queue, [*traced(words), "id", own, "counted", 1], own, self._sent_to[queue], self._producer)

    async def _enqueue(self, queue: str, words: list[Word], own: str, version: int, version_epoch: str) -> tuple[str, bool]:
        call = enqueue_call(self._layout, queue, [*words, "version", version, "version_epoch", version_epoch])
        try:
            job, new = await self.commands.call(*call, repeatable=True, guarded=True)
        except StoreError as error:
            raise refusal(error) from None
        if self.needs_name(queue):
            await self.add_name(queue)
        return job.decode(), bool(new) or job.decode() == own  # the same call may have been carried out already, and its answer lost

    def needs_name(self, queue: str) -> bool:
        """Whether it is time to ``add_name`` the queue: that was not done yet, or so long ago that Valkey may have lost the name meanwhile."""
        return time.monotonic() >= self._named.get(queue, 0.0)

    async def add_name(self, queue: str) -> None:
        """Adds a queue to those that ``names`` gives. Where Valkey refuses, that is logged once, and the work goes on."""
        now = time.monotonic()
        if now < self._naming_from:
            return
        until = now + NAMED_SECONDS
        try:
            async with asyncio.timeout(NAME_SECONDS):
                await self.commands.call(b"SADD", self._layout.queues, queue, repeatable=True)
        except (Unavailable, TimeoutError):
            self._naming_from = time.monotonic() + NAME_AGAIN_SECONDS
            return  # it is tried again later
        except StoreError as error:
            log_unnamed(queue, error)
            until = math.inf
        self._named[queue] = until

    async def names(self) -> list[str]:
        """The names of all queues that were ever used. What another program wrote there and no queue can be called is left out."""
        return sorted(name.decode() for name in await self.commands.call(b"SMEMBERS", self._layout.queues) if self._is_name(name))

    def _is_name(self, name: bytes) -> bool:
        try:
            check_queue_name(name.decode())
        except ValueError as error:  # UnicodeDecodeError too
            self._layout.faults.found("queue", self._layout.queues.decode(), error)
            return False
        return True

    async def overview(self, queue: str) -> Overview:
        """The numbers of one queue; all are 0 for one that was never used."""
        answer = await self._call(b"gateway_queue", queue)
        numbers = {name.decode(): int(value) for name, value in zip(answer[::2], answer[1::2], strict=True)}
        by_priority = [numbers.pop(f"ready:{priority}") for priority in range(10)]
        # A newer gateway's functions may count more than this one knows.
        return msgspec.convert({"ready": sum(by_priority), "by_priority": by_priority, **numbers}, Overview)

    async def overview_or_fault(self, queue: str) -> Overview | str:
        """``overview``; why there is none, where that concerns this queue alone: its keys are of other types, or the shard that has it is away.

        Raises Unavailable where Valkey as a whole is away.
        """
        return await read_or_fault(self.commands, self._layout.queue(queue)[0], lambda: self.overview(queue))

    def shard_fault(self, queue: str) -> str:
        """On a cluster: why the shard that has the queue takes no commands now; "" if it does, and always for one server."""
        return shard_fault(self.commands, self._layout.queue(queue)[0])

    async def jobs(self, queue: str, state: str, *, first: int = 0, limit: int = 50) -> list[JobView]:
        """Jobs that are ``ready``, ``delayed``, ``running`` or ``dead``, from number ``first`` on, at most 200: in the order in which they
        are taken or come due, the newest dead letters first."""
        answer = await self._call(b"gateway_jobs", queue, state, first, limit)
        return [view_of(id, state, ms, job, failures) for id, ms, job, _, failures in answer]

    async def job(self, queue: str, id: str) -> JobView:
        """One job, wherever it is; state ``none`` if the queue does not have it."""
        state, ms, job, _, failures, result = await self._call(b"gateway_job", queue, id)
        return view_of(id.encode(), state.decode(), ms, job, failures, result)

    async def cancel(self, queue: str, id: str) -> str:
        """``cancelled`` for a job that waited, ``running`` for one that its worker will end, ``removed`` for a dead letter, ``none`` if there is no such job."""
        return cast(bytes, await self._call(b"gateway_cancel", queue, id)).decode()

    async def resend(self, queue: str, *ids: str) -> tuple[int, int]:
        """Sends dead letters again: these, up to 1,000, or the oldest of all, at most 1,000 in one call, and fewer where they are large. Returns
        how many were sent, and how many were not: they are no dead letters any more, or another job has their unique key."""
        return await self._resend(queue, ids)

    async def _resend(self, queue: str, ids: Sequence[Word]) -> tuple[int, int]:
        sent, refused = await self._call(b"gateway_resend", queue, *ids)
        while left := ids[sent + refused :]:  # they are large: Valkey takes some in each call
            more = await self._call(b"gateway_resend", queue, *left)
            sent, refused = sent + more[0], refused + more[1]
        return sent, refused

    async def resend_oldest(self, queue: str, most: int = RESENT_MOST, *, skip: int = 0) -> tuple[int, int, int]:
        """Sends dead letters again: the oldest after ``skip`` of them, up to ``most``, and to RESENT_MOST. Returns how many were sent, how many were
        not, as of ``resend``, and the ``skip`` with which the next call goes on."""
        ids = await self._oldest_dead(queue, skip, min(most, RESENT_MOST))
        if not ids:
            return 0, 0, skip
        sent, refused = await self._resend(queue, ids)
        if refused:  # most of these are still there, and would be the oldest again
            skip += len(set(ids).intersection(await self._oldest_dead(queue, skip, len(ids))))
        return sent, refused, skip

    async def _oldest_dead(self, queue: str, first: int, most: int) -> list[bytes]:
        key = self._layout.queue(check_queue_name(queue))[0] + b":dead"
        found: list[bytes] = await self.commands.call(b"ZRANGE", key, first, first + most - 1, repeatable=True)
        return found

    async def purge(self, queue: str, state: str, most: int = 1000) -> tuple[int, int]:
        """Removes jobs that are ``ready``, ``delayed`` or ``dead``, up to ``most``: in the order in which they are taken or come due, the oldest
        dead letters first, at most 1,000 in one call, and fewer where they are large. Returns how many were removed, and how many are left."""
        removed, left = await self._call(b"gateway_purge", queue, state, most)
        return removed, left

    async def _call(self, function: bytes, queue: str, *words: Word) -> Any:
        keys = self._layout.queue(check_queue_name(queue))
        return await self.commands.call(b"FCALL", function, len(keys), *keys, *words, repeatable=function in _READS)


def view_of(id: bytes, state: str, ms: bytes, job: bytes, failures: bytes, result: bytes = b"") -> JobView:
    """The job in the words that gateway_job and gateway_jobs answer."""
    return JobView(id.decode(errors="replace"), state, _whole(ms), read_job(job), _read_failures(failures), result)


def _whole(score: bytes) -> int:
    """A time in ms. Another program may have written any score, as inf: then it is the nearest that the functions write."""
    return int(min(max(float(score or 0), 0.0), MS_MOST))


def _read_failures(text: bytes) -> list[Failure]:
    try:
        return msgspec.json.decode(text, type=list[Failure])
    except msgspec.MsgspecError:
        return []
