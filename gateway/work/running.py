"""One call of a handler: it is bounded in time, and what became of each job is an ``Outcome``.

A handler runs in a task of its own, and from there in a thread or process if it is plain. Nobody waits for it longer than its timeout: a
handler that does not end when it is cancelled is abandoned, with an error in the log, and the worker goes on. Whatever it raises,
SystemExit included, is an outcome of its job alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import GatewayError
from ..rules.json_text import UNREADABLE
from ..rules.json_values import json_of
from ..runtime import tracing
from ..runtime.backoff import backoff
from .handler_jobs import Facts
from .handlers import REASON_CHARACTERS, TRACE_CHARACTERS, Handler, NoJson, Reject, Retry
from .jobs import DELAY_SECONDS, JobDocument

__all__ = ["Call", "HandlerError", "Outcome", "Run", "Unfit", "read_data", "reason_of", "remembering_tasks"]

log = logging.getLogger("gateway.worker")

CANCEL_SECONDS = 5.0  # for a handler that was cancelled to end
RESULT_BYTES = 1024 * 1024  # of a result as JSON, as many as a job's data may have

End = Literal["cancelled", "lost", "stopped"]  # the job was cancelled, given to another worker, or this worker stops


class Run:
    """A job that this worker took; ``token`` names the run in Valkey."""

    __slots__ = ("call", "crashes", "data", "document", "ended", "failures", "id", "queue", "token")

    def __init__(self, queue: str, id: str, token: int, document: JobDocument, failures: int, crashes: int) -> None:
        self.queue = queue
        self.id = id
        self.token = token
        self.document = document
        self.data: Any = None  # as its handler's annotation reads it
        self.failures = failures
        self.crashes = crashes
        self.ended: End | None = None
        self.call: Call | None = None

    def end(self, why: End) -> None:
        """Its handler is cancelled. ``Outcome`` says what then becomes of the job."""
        if self.ended is None:
            self.ended = why
            if self.call is not None:
                self.call.cancel()

    def facts(self) -> Facts:
        job = self.document
        attempt = self.failures + self.crashes + 1
        return Facts(self.id, job.key or self.id, job.name, self.queue, attempt, time.time() + job.timeout, job.channel)


class Outcome(NamedTuple):
    """What became of a run. One that finished has ``result`` (JSON, b"" if none is stored); one that failed has ``reason``, and ``retry``: in
    how many seconds it is tried again, None for never. A lost one is another worker's now."""

    kind: Literal["finished", "failed", "given_back", "lost"]
    result: bytes = b""
    reason: str = ""
    retry: float | None = None


class HandlerError(GatewayError):
    """What a handler raised in a process of its own; the message is the reason in full."""


class Unfit(GatewayError):
    """Data that does not fit the handler's annotation: trying again would not help."""


_CURRENT: contextvars.ContextVar[set[asyncio.Task[Any]] | None] = contextvars.ContextVar("the tasks that a handler started", default=None)


@contextlib.contextmanager
def remembering_tasks(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Meanwhile the tasks that handlers start in ``loop`` are known, so that those which they leave running can be reported."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        started = _CURRENT.get()
        if started is not None:
            started.add(task)
            task.add_done_callback(started.discard)  # a task that was left running may start others for ever
        return task

    before = loop.get_task_factory()
    if before is None:  # one that another program set stays, and what is left running is not reported
        loop.set_task_factory(make)
    try:
        yield
    finally:
        if before is None:
            loop.set_task_factory(None)


class Call:
    """One call of a handler, for one job or for the jobs of a batch. ``on_outcomes`` is called once, with one outcome for each run."""

    __slots__ = ("_abandoning", "_function", "_handler", "_on_outcomes", "_seconds", "_started", "_task", "_timed_out", "_timer", "runs")

    def __init__(
        self,
        handler: Handler,
        runs: Sequence[Run],
        function: Callable[[], Awaitable[Any]],
        on_outcomes: Callable[[Call, list[Outcome]], None],
    ) -> None:
        self.runs = runs
        self._handler = handler
        self._function = function
        self._on_outcomes: Callable[[Call, list[Outcome]], None] | None = on_outcomes
        self._started: set[asyncio.Task[Any]] = set()
        self._timed_out = False
        loop = asyncio.get_running_loop()
        self._abandoning: asyncio.TimerHandle | None = None
        self._seconds = min(run.document.timeout for run in runs)
        self._timer = loop.call_later(self._seconds, self._on_timeout)
        self._task = loop.create_task(self._caught())
        self._task.add_done_callback(self._on_done)
        for run in runs:
            run.call = self
        if any(run.ended for run in runs):
            self.cancel()

    async def _caught(self) -> tuple[Any, BaseException | None]:
        _CURRENT.set(self._started)
        try:
            with _span(self._handler, self.runs):
                return await self._function(), None
        except BaseException as error:  # SystemExit and KeyboardInterrupt would end the loop
            return None, error

    def cancel(self) -> None:
        if self._on_outcomes is None:
            return  # it has ended
        self._task.cancel()
        if self._abandoning is None:
            self._abandoning = asyncio.get_running_loop().call_later(CANCEL_SECONDS, self._abandon)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self.cancel()

    def _abandon(self) -> None:
        log.error(
            "%s does not end though it was cancelled: job %s is given up, and its handler is left alone",
            self._handler.name,
            self.runs[0].id,
        )
        self._settle(None, asyncio.CancelledError())

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        result, error = (None, asyncio.CancelledError()) if task.cancelled() else task.result()
        self._settle(result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        on_outcomes, self._on_outcomes = self._on_outcomes, None
        if on_outcomes is None:
            return
        self._timer.cancel()
        if self._abandoning is not None:
            self._abandoning.cancel()
        if left := [task for task in self._started if not task.done()]:
            log.warning("%s left %d tasks running when it ended: %r", self._handler.name, len(left), left[0].get_coro())
        on_outcomes(self, [self._read_outcome(run, index, result, error) for index, run in enumerate(self.runs)])

    def _read_outcome(self, run: Run, index: int, result: Any, error: BaseException | None) -> Outcome:
        try:
            return self._outcome(run, index, result, error)
        except Exception as fault:  # the handler's own classes are asked for a text or for JSON, and may raise anything
            return self._failed(run, f"what the handler returned or raised cannot be read: {type(fault).__name__}")

    def _outcome(self, run: Run, index: int, result: Any, error: BaseException | None) -> Outcome:
        if error is None and self._handler.batch is not None:
            result = result[index] if isinstance(result, list) and len(result) == len(self.runs) else None
            error = result if isinstance(result, BaseException) else None  # asyncio.gather returns a CancelledError too
        if error is None:
            return _finished(run, result)
        if run.ended == "lost":
            return Outcome("lost")
        if run.ended == "stopped":
            return Outcome("given_back")
        if run.ended == "cancelled":
            return Outcome("failed", reason="cancelled")
        if self._timed_out and run.document.timeout == self._seconds:
            return self._failed(run, f"timeout: it was not done after {self._seconds:g} s")
        if self._timed_out or any(other.ended for other in self.runs):
            return Outcome("given_back")  # its batch was cancelled for another job
        if isinstance(error, Reject | Unfit):
            return Outcome("failed", reason=str(error) or "the handler rejected the job")
        if isinstance(error, Retry):
            return Outcome("failed", reason=str(error), retry=min(max(0.0, error.after), DELAY_SECONDS))
        return self._failed(run, reason_of(error))

    def _failed(self, run: Run, reason: str) -> Outcome:
        return Outcome("failed", reason=reason, retry=backoff(run.failures, self._handler.backoff, self._handler.backoff_most))


def _span(handler: Handler, runs: Sequence[Run]) -> AbstractContextManager[None]:
    """The span of a call: it continues the trace that enqueued the job; that of a batch is a trace of its own, with links to theirs."""
    if not tracing.is_on():
        return contextlib.nullcontext()
    traces = [run.document.traceparent or "" for run in runs]
    parent, links = (traces[0], []) if handler.batch is None else ("", traces)
    attributes: dict[str, str | int] = {"messaging.destination.name": runs[0].queue, "messaging.batch.message_count": len(runs)}
    if handler.batch is None:
        attributes |= {"gateway.job.id": runs[0].id, "gateway.job.attempt": runs[0].facts().attempt}
    return tracing.span(f"run {handler.name}", "consumer", parent=parent, links=links, attributes=attributes)


def _finished(run: Run, result: Any) -> Outcome:
    if not run.document.result_ttl:
        return Outcome("finished")
    try:
        return Outcome("finished", _stored(result))
    except (TypeError, ValueError) as error:
        return Outcome("failed", reason=f"the job was done, but its result cannot be stored: {error}")


def _stored(result: Any) -> bytes:
    """The result as JSON. Raises TypeError for what JSON does not have, ValueError for what is too large or nested too deep."""
    if isinstance(result, NoJson):
        raise TypeError(result.reason)
    text = json_of(result, "the result")
    if len(text) > RESULT_BYTES:
        raise ValueError(f"it is at most {RESULT_BYTES} bytes of JSON, not {len(text)}: store it elsewhere, and return its address")
    return text


def reason_of(error: BaseException) -> str:
    """A failure in words: the error, then the end of its traceback."""
    if isinstance(error, HandlerError):
        return str(error)
    first = f"{type(error).__name__}: {str(error).strip()}".strip(": ")[:REASON_CHARACTERS]
    trace = "".join(traceback.format_exception(error))[-TRACE_CHARACTERS:] if error.__traceback__ is not None else ""
    return f"{first}\n{trace}".strip()


def read_data(handler: Handler, data: msgspec.Raw | bytes) -> Any:
    """A job's data by the handler's annotation. Raises Unfit."""
    try:
        return handler.read(data)
    except UNREADABLE as error:
        raise Unfit(f"the data does not fit the handler: {error}") from None
