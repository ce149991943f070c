"""Enqueueing without asyncio: for Django, Flask, scripts."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast
from uuid import uuid4

from ..errors import StoreError, Unavailable
from ..runtime import tracing
from ..runtime.backoff import retrying_blocking
from ..store.layout import Layout, Word
from ..store.plain_connection import PAUSE_MOST, PlainConnection
from .job_results import no_result, read_result
from .jobs import JobOptions, check_queue_name, job_words, refusal
from .queues import NAME_AGAIN_SECONDS, NAMED_SECONDS, enqueue_call, enqueue_span, log_unnamed, traced, view_of

__all__ = ["SyncEnqueuedJob", "SyncQueue"]

PATIENCE = 2.0  # seconds for which a thread waits, with the web request that it serves


class SyncEnqueuedJob:
    """As ``EnqueuedJob``, for threads."""

    def __init__(self, producer: SyncQueue, queue: str, id: str, new: bool) -> None:
        self.id = id
        self.queue = queue
        self.new = new
        self._producer = producer

    def result(self, timeout: float) -> Any:
        """What its handler returned, for a job that was enqueued with ``result_ttl``; ``timeout`` is in seconds.

        Raises JobFailed with the handler's last error for a job that became a dead letter or was cancelled, TimeoutError.
        """
        return self._producer.wait(self.queue, self.id, timeout)

    def cancel(self) -> str:
        """As ``Queues.cancel``."""
        return self._producer.cancel(self.queue, self.id)


class SyncQueue:
    """A producer of jobs without asyncio. Safe to share between threads. It connects when it is first used.

    ``patience`` is for how many seconds a call waits at most; the other parameters are those of ``Queue``.
    """

    def __init__(
        self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = PATIENCE, limit: int | None = None
    ) -> None:
        self._layout = Layout(prefix)
        self._limit = limit
        self._connection = PlainConnection(url, prefix, data_dir, patience)
        self._named: dict[str, float] = {}  # queue → until when it needs no name, by the monotonic clock
        self._naming_from = 0.0  # by the same clock: no name is added before
        self._own = threading.local()  # of each thread: its process, its name as a producer, how much it sent, and whether it enqueues now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a call that is made afterwards opens new ones."""
        self._connection.close()

    def enqueue(self, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]) -> SyncEnqueuedJob:
        """As ``Queue.enqueue``."""
        check_queue_name(queue)
        words = job_words(name, data, **options)
        if self._limit is not None:
            words += "limit", self._limit
        with self._counted() as (producer, sent):
            own = f"{producer}-{sent}"
            tracing.find()
            try:
                with enqueue_span(queue, words):
                    words = [*traced(words), "id", own, "version", sent, "version_epoch", producer]
                    id, new = self._repeated(*enqueue_call(self._layout, queue, words))
            except StoreError as error:
                raise refusal(error) from None
        if time.monotonic() >= self._named.get(queue, 0.0):
            self._name(queue)
        return SyncEnqueuedJob(self, queue, id.decode(), bool(new) or id.decode() == own)

    def wait(self, queue: str, id: str, timeout: float) -> Any:
        """The result of a job of which only the id is known; as ``SyncEnqueuedJob.result``."""
        until = time.monotonic() + timeout
        try:
            found = retrying_blocking(partial(self._wait_until, until, queue, id), on=Unavailable, ceiling=PAUSE_MOST, seconds=timeout)
        except Unavailable as error:
            raise TimeoutError(f"job {id} has no known result after {timeout:g} s: {error}") from None
        if found is None:
            raise TimeoutError(f"job {id} has no result after {timeout:g} s")
        return read_result(found)

    def _wait_until(self, until: float, queue: str, id: str) -> bytes | None:
        """The result as Valkey holds it, None if there is none in time. Raises Unavailable where the connection is lost."""
        with self._connection.commands.listening(self._layout.results(queue)) as announced:
            while True:
                state, ms, job, _, failures, result = self._function(b"gateway_job", queue, id)
                view = view_of(id.encode(), state.decode(), ms, job, failures, result)
                if view.result:
                    return view.result
                if failed := no_result(view):
                    raise failed
                left = until - time.monotonic()
                if left <= 0:
                    return None
                while left > 0 and announced(left) not in (None, id.encode()):
                    left = until - time.monotonic()

    def cancel(self, queue: str, id: str) -> str:
        """As ``Queues.cancel``."""
        return cast(bytes, self._function(b"gateway_cancel", queue, id)).decode()

    def _name(self, queue: str) -> None:
        now = time.monotonic()
        if now < self._naming_from:
            return
        until = now + NAMED_SECONDS
        try:
            # On a cluster the names are in another shard than the job, which may be away.
            add = self._connection.call if self._connection.commands.sharded else self._repeated
            add(b"SADD", self._layout.queues, queue)
        except Unavailable:
            self._naming_from = time.monotonic() + NAME_AGAIN_SECONDS
            return  # the job is enqueued; a later call names the queue
        except StoreError as error:
            log_unnamed(queue, error)
            until = math.inf
        self._named[queue] = until

    @contextmanager
    def _counted(self) -> Iterator[tuple[str, int]]:
        """The name of the producer that enqueues in the block, and the number of its job. Jobs of one name arrive in the order of their numbers.

        A signal handler may enqueue while this thread does: its job overtakes the one that it interrupted, and so has another name.
        """
        own = self._own
        if getattr(own, "process", None) != os.getpid():  # a fork begins with its parent's count, and so would each of its siblings
            own.process, own.producer, own.sent, own.enqueues = os.getpid(), uuid4().hex[:12], 0, False
        if own.enqueues:
            yield uuid4().hex[:12], 1
            return
        own.enqueues = True
        try:
            own.sent += 1
            yield own.producer, own.sent
        finally:
            own.enqueues = False

    def _function(self, function: bytes, queue: str, *words: Word) -> Any:
        keys = self._layout.queue(check_queue_name(queue))
        return self._repeated(b"FCALL", function, len(keys), *keys, *words)

    def _repeated(self, *command: Word) -> Any:
        return self._connection.repeated(partial(self._connection.call, *command))
