"""What a worker does while it runs: takes jobs while it has room, calls their handlers, and ends them in Valkey as their outcomes say."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import StoreError
from ..rules.json_values import json_of
from ..runtime.backoff import backoff
from ..runtime.failure_log import FailureLog
from ..runtime.tasks import Tasks
from ..store.access import Commands
from ..store.history import History
from ..store.layout import Layout, publish_words
from ..store.link import Link
from .batches import Batches
from .calling import Middleware, calling
from .handler_jobs import Progress
from .handlers import Handler, Rate
from .intake import Intake
from .jobs import check_text
from .periodic import Schedule, Scheduler
from .processes import ProcessPool
from .queues import Queues
from .running import CANCEL_SECONDS, Call, Outcome, Run, Unfit, read_data
from .threads import Threads

__all__ = ["Engine", "Plan"]

log = logging.getLogger("gateway.worker")

TAKEN_AT_ONCE = 1000  # jobs; gateway_take gives no more
TEXT_CHARACTERS = 1000  # of a progress, which clients receive
UNKNOWN_SECONDS, UNKNOWN_MOST_SECONDS = 2.0, 600.0  # until a job that this worker has no handler for is tried again, at first and at most


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a worker: see ``Worker``. ``lease`` is in seconds, ``queues`` are their weights."""

    handlers: Mapping[str, Handler]
    queues: Mapping[str, int]
    concurrency: int
    lease: float
    rate: Rate | None
    middleware: list[Middleware]
    schedules: list[Schedule]


class Engine:
    """One worker, named ``name``, over ``commands`` and ``link``, to which it adds its listeners. ``run`` works until ``stopping`` is set."""

    def __init__(self, plan: Plan, name: str, commands: Commands, link: Link, layout: Layout, queues: Queues) -> None:
        self.name = name
        self._plan = plan
        self._layout = layout
        self._history = History(commands, layout)
        self._tasks = Tasks()
        self._wake = asyncio.Event()
        self._threads = Threads(self._on_abandoned_threads)
        self._processes = ProcessPool()
        self._stopping = False
        self._batches = Batches(self._start)
        self._waiting: deque[tuple[Handler, Run]] = deque()  # taken for a batch, to which they do not belong: they wait for room
        self._parking = 0  # jobs of which Valkey is asked whether they may run now
        self._calls: set[Call] = set()
        self._scheduler = Scheduler(plan.schedules, queues, commands, layout) if plan.schedules else None
        self._credit = dict.fromkeys(plan.queues, 0.0)
        self._intakes: dict[str, Intake] = {}
        for queue in plan.queues:
            intake = self._intakes[queue] = Intake(commands, layout, queue, name, plan.lease, self._wake.set, self._tasks)
            intake.rates = {handler.name: handler.rate for handler in plan.handlers.values() if handler.rate is not None}
            if plan.rate is not None:
                intake.rates[""] = plan.rate
            link.add_channel_listener(intake.channel, intake)

    async def run(self, stopping: asyncio.Event, stop_seconds: float) -> None:
        """Works until ``stopping`` is set; then what is under way has ``stop_seconds`` to end, and is given back."""
        feeding = asyncio.create_task(self._feed())
        background = [asyncio.create_task(intake.keep_lease()) for intake in self._intakes.values()]
        if self._scheduler is not None:
            background.append(asyncio.create_task(self._scheduler.run()))
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({feeding, stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
            for task in (feeding, *background):
                if task.done():
                    task.result()  # none ends by itself: it failed
        finally:
            stopped.cancel()
            self._stopping = True
            self._wake.set()
            await asyncio.wait({feeding})
            await self._end_all(stop_seconds)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await asyncio.gather(*[intake.leave() for intake in self._intakes.values()])
            await self._tasks.cancel()
            await self._processes.close()

    # Taking.

    async def _feed(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while not self._stopping and (chosen := self._choose()) is not None:
                intake, most = chosen
                for run in await intake.take(most):
                    self._begin(run)

    def _room(self) -> int:
        """How many jobs may be taken. Threads whose jobs are over take no room, until they are as many as the jobs: at most twice as many run."""
        abandoned = max(0, self._threads.abandoned - self._plan.concurrency)
        return self._plan.concurrency - abandoned - len(self._calls) - len(self._batches) - len(self._waiting) - self._parking

    def _on_abandoned_threads(self) -> None:
        self._wake.set()
        if self._threads.abandoned > self._plan.concurrency:
            log.error(
                "%d threads of handlers go on though their jobs are over, and nothing can end a thread: fewer jobs are taken until they end",
                self._threads.abandoned,
            )

    def _choose(self) -> tuple[Intake, int] | None:
        """The queue that is asked next, and for how many jobs: the room is shared by the weights of the queues that may have jobs."""
        room = self._room()
        promising = {
            queue: intake for queue, intake in self._intakes.items()
            if intake.promising and intake.room > 0 and (room > 0 or self._batch_room(queue) > 0)
        }  # fmt: skip
        if not promising:
            return None
        weights = self._plan.queues
        total = sum(weights[queue] for queue in promising)
        for queue in promising:
            self._credit[queue] += weights[queue] / total
        queue = max(promising, key=lambda name: self._credit[name])
        self._credit[queue] -= 1
        intake, share = promising[queue], math.ceil(max(0, room) * weights[queue] / total)
        return intake, min(TAKEN_AT_ONCE, intake.room, share + self._batch_room(queue))

    def _batch_room(self, queue: str) -> int:
        """How many jobs are taken for batches beyond the room; none while jobs wait that were taken so and belong to no batch."""
        return 0 if self._waiting else self._batches.room(queue, self._plan.handlers)

    # Running.

    def _begin(self, run: Run) -> None:
        handler = self._plan.handlers.get(run.document.name)
        if handler is None:
            known = ", ".join(sorted(self._plan.handlers))
            reason = f"no handler has the name {run.document.name!r} in this worker; it has {known}"
            # While a new version is rolled out another worker may have it: it is an attempt, after which it is tried again.
            self._end(run, Outcome("failed", reason=reason, retry=backoff(run.failures, UNKNOWN_SECONDS, UNKNOWN_MOST_SECONDS)))
            return
        serial: bytes | None = None
        try:
            if handler.kind != "process" or handler.serial is not None:
                run.data = read_data(handler, run.document.data)
            if handler.serial is not None and run.document.serial is None:
                serial = _serial_key(_call_serial(handler.serial, run))
        except Unfit as error:
            self._end(run, Outcome("failed", reason=str(error)))
            return
        except Exception as error:
            self._end(run, Outcome("failed", reason=f"its serial key could not be made of its data: {type(error).__name__}: {error}"))
            return
        if serial is None:
            self._start_or_wait(handler, run)
        else:
            self._parking += 1
            self._tasks.spawn(self._park(handler, run, serial))

    async def _park(self, handler: Handler, run: Run, serial: bytes) -> None:
        try:
            first = await self._intakes[run.queue].park(run, serial)
        finally:
            self._parking -= 1
        if first and not self._stopping:
            self._start_or_wait(handler, run)
            return
        if first:
            self._end(run, Outcome("given_back"))
        self._wake.set()

    def _start_or_wait(self, handler: Handler, run: Run) -> None:
        if handler.batch is not None:
            self._batches.add(handler, run)
        elif self._plan.concurrency - len(self._calls) - len(self._batches) > 0:
            self._start(handler, [run])
        else:
            self._waiting.append((handler, run))

    def _start(self, handler: Handler, runs: list[Run]) -> None:
        function = calling(handler, runs, self._progress, self._plan.middleware, self._threads, self._processes)
        self._calls.add(Call(handler, runs, function, self._on_outcomes))

    def _on_outcomes(self, call: Call, outcomes: list[Outcome]) -> None:
        self._calls.discard(call)
        for run, outcome in reversed(
            list(zip(call.runs, outcomes, strict=True))
        ):  # the last is given back first: each is the next to be taken
            self._end(run, outcome)
        if self._waiting and not self._stopping:
            handler, run = self._waiting.popleft()
            self._start(handler, [run])
        self._wake.set()

    def _end(self, run: Run, outcome: Outcome) -> None:
        self._intakes[run.queue].end(run, outcome)

    def _progress(self, run: Run) -> Progress:
        failures = FailureLog(log)  # of this job, which may report many times a second

        async def progress(done: float, text: str) -> None:
            channel = run.document.channel
            if channel is None:
                return
            shown = str(text)[:TEXT_CHARACTERS].encode(errors="replace").decode()
            data = json_of({"job": run.id, "progress": round(min(1.0, max(0.0, float(done))), 4), "text": shown})
            try:
                await self._history.publish(channel, publish_words(data), repeatable=False)
            except StoreError as error:
                failures.failed("job %s: its progress was not published in %s: %s", run.id, ascii(channel), error)
            else:
                failures.worked()

        return progress

    # Stopping.

    async def _end_all(self, seconds: float) -> None:
        unstarted = [*self._batches.take_all(), *(run for _, run in self._waiting)]
        self._waiting.clear()
        for run in reversed(unstarted):
            self._end(run, Outcome("given_back"))
        if self._calls:
            log.info("%d jobs are under way; they have %g s to end", len(self._calls), seconds)
        await self._calls_end(seconds)
        for call in list(self._calls):
            for run in call.runs:
                run.end("stopped")
        await self._calls_end(CANCEL_SECONDS + 1)
        await self._acknowledged(CANCEL_SECONDS)

    async def _calls_end(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._calls or self._parking:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return

    async def _acknowledged(self, seconds: float) -> None:
        """Waits until Valkey acknowledged the ends of jobs; what it does not in time is given back when the lease is over."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(0)  # ends that were collected in this turn of the loop are sent now
                while any(intake.held for intake in self._intakes.values()):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            log.warning("valkey did not acknowledge the end of some jobs: other workers run them again when this worker's lease is over")


def _call_serial(serial: Callable[[Any], object], run: Run) -> object:
    """What a handler's ``serial`` makes of a job's data: as the handler gets it, or, if that has no items, as the JSON that the producer gave, whose
    fields are items: ``data["order"]``."""
    try:
        return serial(run.data)
    except TypeError as error:
        if hasattr(run.data, "__getitem__"):
            raise
        try:
            return serial(msgspec.json.decode(run.document.data))
        except Exception:
            raise error from None  # of the data that the handler gets


def _serial_key(made: object) -> bytes | None:
    """What a handler's ``serial`` made, as Valkey takes it. Raises ValueError: Valkey would refuse it each time, and the job be tried without end."""
    if made is None:
        return None
    return check_text("the serial key", str(made)).encode()
