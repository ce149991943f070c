"""How a handler is called: in the loop, in a thread or in a process, with middleware around it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from .handler_jobs import Facts, PlainJob, Progress, RunningJob
from .handlers import Handler
from .running import Run
from .threads import Threads, from_thread

__all__ = ["Middleware", "Processes", "calling"]

Middleware = Callable[[Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]


class Processes(Protocol):
    """Where handlers with ``process=True`` run."""

    async def call(self, handler: Handler, facts: Facts, data: bytes, progress: Progress) -> Any:
        """What the handler returned. Raises Retry, Reject, Unfit, HandlerError; cancelling it kills the process."""
        ...


def calling(
    handler: Handler,
    runs: Sequence[Run],
    progress: Callable[[Run], Progress],
    middleware: Sequence[Middleware],
    threads: Threads,
    processes: Processes,
) -> Callable[[], Awaitable[Any]]:
    """How the handler is called, with what surrounds it."""

    async def innermost(job: Any) -> Any:
        if handler.kind == "process":
            return await processes.call(handler, runs[0].facts(), bytes(runs[0].document.data), progress(runs[0]))
        data = [run.data for run in runs]
        if handler.kind == "loop":
            return await handler.function(*_arguments(handler, job, data))
        plain = [PlainJob(run.facts(), from_thread(progress(run))) for run in runs]
        made = await threads.call(handler.function, *_arguments(handler, plain if handler.batch else plain[0], data))
        return await made if inspect.isawaitable(made) else made  # of an async function in a plain wrapper it is a coroutine

    def call() -> Awaitable[Any]:
        jobs = [RunningJob(run.facts(), progress(run)) for run in runs]
        inner: Callable[[Any], Awaitable[Any]] = innermost
        for each in reversed(middleware):
            inner = _around(each, inner)
        return inner(jobs if handler.batch else jobs[0])

    return call


def _arguments(handler: Handler, job: Any, data: list[Any]) -> tuple[Any, ...]:
    if not handler.takes_data:
        return (job,)
    return (job, data if handler.batch else data[0])


def _around(middleware: Middleware, inner: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    async def called(job: Any) -> Any:
        return await middleware(job, inner)

    return called
