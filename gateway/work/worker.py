"""The worker: takes jobs from queues and runs them with the handlers that were registered.

    worker = Worker(queues=["default"], concurrency=32)

    @worker.job("orders.process")
    async def process(job, data: Order) -> dict: ...

    gateway worker shop.jobs:worker            # or: await worker.run()

A job runs at least once. What happens to a job when what dies is described in ``store/lua/jobs.lua`` and ``intake``; how one call of a
handler is bounded, in ``running``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack
from uuid import uuid4

from ..runtime import tracing
from ..store.access import make_commands
from ..store.connect import Address
from ..store.embedded import find_url
from ..store.layout import Layout
from ..store.library import Library
from ..store.link import Link
from .calling import Middleware
from .engine import Engine, Plan
from .handlers import BatchRule, Handler, describe, read_rate
from .jobs import JobOptions, check_queue_name, job_words
from .periodic import Schedule, zone_of
from .processes import check_not_in_child
from .queues import Queues
from .running import remembering_tasks

__all__ = ["Worker"]

log = logging.getLogger("gateway.worker")

LEASE_SECONDS = 15.0
LEASE_LEAST = 0.5
STOP_SECONDS = 20.0

Function = TypeVar("Function", bound=Callable[..., Any])
Lifespan = Callable[["Worker"], contextlib.AbstractAsyncContextManager[Any]]


class Worker:
    """Runs up to ``concurrency`` jobs at once, of ``queues``: names, or name → weight, by which they share the room.

    ``url``, ``prefix`` and ``data_dir`` are those of ``Queue``. ``lease`` is in how many seconds the jobs of a worker that died are given to
    others; a handler that blocks the loop for so long loses its job. ``rate``, as "100/s", limits how often a job of each of the queues
    starts, over all workers. On ``stop`` jobs have ``stop_seconds`` to end, and are given back then. ``timezone`` is that of cron
    expressions. ``lifespan`` makes a context manager from the worker, which is entered before the first job and left after the last.
    """

    def __init__(
        self,
        queues: Iterable[str] | Mapping[str, int] = ("default",),
        *,
        concurrency: int = 32,
        url: str = "",
        prefix: str = "gw",
        data_dir: str | Path = "",
        lease: float = LEASE_SECONDS,
        rate: str | None = None,
        stop_seconds: float = STOP_SECONDS,
        timezone: str = "UTC",
        lifespan: Lifespan | None = None,
    ) -> None:
        if not lease >= LEASE_LEAST or lease > 3600:
            raise ValueError(f"lease is {LEASE_LEAST:g} to 3600 seconds, not {lease!r}: it is renewed three times while it lasts")
        self.handlers: dict[str, Handler] = {}
        self._url, self._data_dir = url, data_dir
        self._layout = Layout(prefix)
        self._lease = lease
        self._rate = None if rate is None else read_rate(rate)
        self.stop_seconds = stop_seconds
        self._zone = zone_of(timezone)
        self._lifespan = lifespan
        self._schedules: list[Schedule] = []
        self._middleware: list[Middleware] = []
        self._stopping = asyncio.Event()
        self._has_run = False
        self._weights: dict[str, int] = {}
        self._concurrency = 0
        self._queues: Queues | None = None
        self.configure(queues=queues, concurrency=concurrency)

    def configure(
        self,
        *,
        url: str | None = None,
        prefix: str | None = None,
        queues: Iterable[str] | Mapping[str, int] | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Replaces what the constructor was given, before ``run``: for the command line. Raises TypeError, ValueError."""
        if url is not None:
            self._url = url
        if prefix is not None:
            self._layout = Layout(prefix)
        if queues is not None:
            if isinstance(queues, str):
                raise TypeError(f'queues is a list of names, ["{queues}"], or a mapping from names to weights')
            self._weights = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1)
            if not self._weights or any(not isinstance(weight, int) or weight < 1 for weight in self._weights.values()):
                raise ValueError("a worker has at least one queue, and a weight is a whole number from 1")
            for queue in self._weights:
                check_queue_name(queue)
        if concurrency is not None:
            if not isinstance(concurrency, int) or not 1 <= concurrency <= 1000:
                raise ValueError(f"concurrency is a whole number from 1 to 1000, not {concurrency!r}")
            self._concurrency = concurrency

    # Registering.

    def job(
        self,
        name: str,
        *,
        rate: str | None = None,
        serial: Callable[[Any], object] | None = None,
        batch: int | None = None,
        within: float = 0.05,
        process: bool = False,
        backoff: float = 1.0,
        backoff_most: float = 600.0,
    ) -> Callable[[Function], Function]:
        """Decorates the handler of ``name``: it takes the job, and its data, which is checked by its annotation.

        A coroutine function runs in the loop, a plain function in a thread, or with ``process`` in a process that can be killed
        (it imports the main module again: a script guards what it does with ``if __name__ == "__main__"``).

        ``rate``: how often jobs of this name start over all workers, "100/s". ``serial``: from the data of a job its serial key, as
        ``data.order`` or ``data["order"]``, whichever the annotation is; jobs of one key run one after another, in the order in which they were taken
        (a producer that names ``serial`` has that of enqueue).
        ``batch``: the handler takes lists, of up to so many jobs, or of those that came ``within`` seconds. It may return a list of as many
        results; an exception in it is that of its job alone, one that the handler raises is that of all. ``backoff``: a failed job is tried
        again after a random time of up to so many seconds, which doubles with each attempt up to ``backoff_most``.

        Raises ValueError or TypeError for what cannot be a handler.
        """
        if not isinstance(name, str):
            raise TypeError('a job is registered with its name: @worker.job("mail.send")')
        if name in self.handlers:
            raise ValueError(f"{name} has a handler already")
        if batch is not None and not 2 <= batch <= 1000:
            raise ValueError(f"batch is 2 to 1000 jobs, not {batch!r}")
        for what, seconds in {"within": within, "backoff": backoff, "backoff_most": backoff_most}.items():
            if not 0 <= seconds < math.inf:  # false for NaN too
                raise ValueError(f"{what} is a number of seconds from 0, not {seconds!r}")

        def register(function: Function) -> Function:
            self.handlers[name] = describe(
                name,
                function,
                batch=None if batch is None else BatchRule(batch, within),
                process=process,
                serial=serial,
                rate=None if rate is None else read_rate(rate),
                backoff=backoff,
                backoff_most=backoff_most,
            )
            return function

        return register

    def cron(self, expression: str, name: str, *, queue: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Decorates the handler of a periodic job: each tick of the cron expression is one job over all workers.

        A tick that passed while no worker ran, or while Valkey took no job, is made up for afterwards, the last one only; a schedule that is new, or has
        another expression or time zone than before, begins with its next tick. The job goes to ``queue``, by default
        the first of the worker's; ``options`` are those of ``job`` (rate, process, …) and of the job (JobOptions: timeout, attempts, …).
        """
        of_job = {option: options.pop(option) for option in list(options) if option in JobOptions.__annotations__}
        words = job_words(name, None, **of_job)
        self._schedules.append(Schedule(expression, name, check_queue_name(queue or next(iter(self._weights))), words, self._zone))
        return self.job(name, **options)

    def middleware(self, function: Middleware) -> Middleware:
        """Decorates a coroutine function ``(job, call_next)`` that surrounds each call of a handler, for tracing: it awaits ``call_next(job)``
        and returns what that returned. The first that is registered is the outermost. ``job`` is a list for batches."""
        self._middleware.append(function)
        return function

    # Running.

    async def run(self, *, signals: bool = True) -> None:
        """Works until ``stop``, or until SIGTERM or SIGINT where it may handle signals; then it ends what is under way, or gives it back.

        ``signals`` False leaves the signals to the program whose loop this is.

        Raises ValueError without a handler, RuntimeError in a process of a handler, Unavailable or StoreError if Valkey cannot be reached at the start.
        """
        if not self.handlers:
            raise ValueError('the worker has no handler: decorate one with @worker.job("name")')
        check_not_in_child()
        if self._has_run:  # the first time it may be stopped before its task begins
            self._stopping.clear()
        self._has_run = True
        async with contextlib.AsyncExitStack() as stack:
            engine = await stack.enter_async_context(self._connected())
            stack.enter_context(remembering_tasks(asyncio.get_running_loop()))
            if signals:
                stack.enter_context(self._signals())
            if self._lifespan is not None:
                await stack.enter_async_context(self._lifespan(self))
            log.info("%s", self._described(engine.name))
            await engine.run(self._stopping, self.stop_seconds)

    def stop(self) -> None:
        """Takes no more jobs, and lets ``run`` return when those under way have ended."""
        self._stopping.set()

    async def enqueue(self, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]) -> str:
        """Enqueues a job over the worker's connection, while it runs; returns its id. Raises as ``Queue.enqueue``."""
        if self._queues is None:
            raise RuntimeError("the worker does not run")
        id, _ = await self._queues.enqueue(queue, job_words(name, data, **options))
        return id

    def _described(self, name: str) -> str:
        queues = ", ".join(queue if weight == 1 else f"{queue} (weight {weight})" for queue, weight in self._weights.items())
        where = Address(find_url(self._url, self._data_dir))
        return f"{name} is ready: queues {queues}; handlers {', '.join(self.handlers)}; up to {self._concurrency} jobs at once; valkey at {where}"

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop, handled = asyncio.get_running_loop(), []
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # in a thread there are no signals
                loop.add_signal_handler(number, self.stop)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Engine]:
        tracing.find()
        address = Address(find_url(self._url, self._data_dir))
        commands = make_commands(address, functions=Library(None, self._layout.prefix))
        await commands.start()
        name = f"worker-{uuid4().hex[:12]}"
        link = Link(address, commands, self._layout.own_channel(name))
        self._queues = Queues(commands, self._layout)
        try:
            plan = Plan(self.handlers, self._weights, self._concurrency, self._lease, self._rate, self._middleware, self._schedules)
            engine = Engine(plan, name, commands, link, self._layout, self._queues)
            await link.start()
            yield engine
        finally:
            self._queues = None
            await link.close()
            await commands.close()
