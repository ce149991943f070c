"""What one worker has of one queue: its lease, the jobs it took, and how it gets to know that there are more.

Theory of operation. Jobs are taken when there is room for them and ``promising`` is true: at the start, after an announcement, when a
delayed job is due, and as long as a call brought all that was asked for. A call that brought less makes it false, unless something
was announced while the call was on its way. Nothing is asked for regularly but the lease, which every ``lease / 3`` seconds is renewed.

Every job that was taken is held until Valkey acknowledged its end, however long that takes. If the lease was over meanwhile, Valkey
refuses the end (fencing), and the job is another worker's. What Valkey thinks this worker has, and it does not hold, is given back: that
is how a call whose answer was lost loses no job.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

from ..errors import StoreError, Unavailable
from ..runtime.backoff import backoff, retrying
from ..runtime.failure_log import FailureLog
from ..runtime.tasks import Tasks
from ..store.access import Commands
from ..store.layout import Layout, Word
from ..store.valkey_clock import SetForward, valkey_time
from .handlers import Rate
from .jobs import DELAY_SECONDS, read_job
from .queues import Queues
from .running import Outcome, Run

__all__ = ["Intake"]

log = logging.getLogger("gateway.worker")

HELD_MOST = 10_000  # jobs: as many as gateway_held is given
FINISH_AT_ONCE = 200  # ends of one call, in which Valkey serves no other client
FINISH_BYTES = 8 * 1024 * 1024  # of results, and of jobs, which Valkey reads whole, in one call, unless the first is larger
REASON_CHARACTERS = 4000  # of a failure; Valkey holds as many bytes
LINE_CHARACTERS = 1000  # of a failure's first line in the log
LOOK_AGAIN_SECONDS = 60.0  # the longest timer, as Valkey's clock may be set; a job may be due in years
HAS, CANCELLED = 1, 2  # what gateway_held answers of a run; 0: it is another worker's
LEAVE_SECONDS = 2.0  # for Valkey to take that the worker stops
RENEWALS = 3  # of a lease, while it lasts: two may fail

_is_id = re.compile(rb"[\w\-.:]{1,100}").fullmatch  # what gateway_enqueue makes and takes


class Intake:
    """One queue of a worker. ``on_promising`` is called when there may be jobs. Methods do not raise for a Valkey that is away: they try again."""

    def __init__(
        self, commands: Commands, layout: Layout, queue: str, worker: str, lease: float, on_promising: Callable[[], None], tasks: Tasks
    ) -> None:
        self.queue = queue
        self.channel = layout.queue(queue)[0]
        self.promising = True
        self.held: dict[str, Run] = {}
        self.rates: dict[str, Rate] = {}
        self._commands = commands
        self._layout = layout
        self._keys = (*layout.queue(queue), layout.taken(queue, worker))
        self._worker = worker
        self._lease_ms = int(lease * 1000)
        self._leased_until = 0.0  # by the loop's clock: so long the lease lasts for sure
        self._trusted = 0.0  # by the same clock: from then on a lease that is over is that of a dead worker
        self._clock = SetForward(lease / 2)
        self._on_promising = on_promising
        self._tasks = tasks
        self._signals = 0  # announcements and timers, counted
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None  # for the end of another worker's lease
        # Of taking and comparing: Valkey may refuse the one for a moment, and carry it out after the other, which was called later.
        self._asking = asyncio.Lock()
        self._names = Queues(commands, layout)
        self._unsure = False  # an answer was lost: Valkey may think that this worker has more than it holds
        self._finished: list[tuple[Run, bytes]] = []

    @property
    def room(self) -> int:
        """How many jobs more can be held."""
        return HELD_MOST - len(self.held)

    # What the link calls.

    def on_subscribed(self) -> None:
        self.promise()
        if self._leased_until:  # Valkey may have been away for longer: a worker that is new there would take this one for dead
            self._tasks.spawn(self._renew_quietly())

    def on_payloads(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            if payload.startswith(b"cancel "):
                if run := self.held.get(payload[7:].decode(errors="replace")):
                    run.end("cancelled")
            else:
                self.promise()

    def promise(self) -> None:
        """There may be jobs."""
        self._signals += 1
        self.promising = True
        self._on_promising()

    # Taking.

    async def take(self, most: int) -> list[Run]:
        """Up to ``most`` jobs; none if there are none, or if Valkey is away: then it is asked again by itself."""
        try:
            self._check_shard()
            if asyncio.get_running_loop().time() >= self._leased_until:
                await self.renew()
            async with self._asking:
                if self._unsure:
                    await self._compare()
                return await self._take(most)
        except StoreError as error:
            self._pause(error)
            self._unsure = True
            return []

    def _check_shard(self) -> None:
        """Raises Unavailable if this queue's shard of a cluster cannot be reached: the worker's other queues do not wait for it."""
        if self._commands.sharded:
            shard = self._commands.shard(self.channel)
            if shard is None or not shard.connected:
                self._commands.look_again()
                raise Unavailable("its shard cannot be reached")

    async def _take(self, most: int) -> list[Run]:
        signals, began = self._signals, asyncio.get_running_loop().time()
        rates: list[Word] = []
        for name, rate in self.rates.items():
            rates += name, f"{rate.every:.6f}", rate.burst
        ms, *jobs = await self._call(b"gateway_take", self._lease_ms, most, *rates)
        self._leased_until = began + self._lease_ms / 1000
        runs = [run for run in (self._run_of(*job) for job in jobs) if run is not None]
        if len(jobs) < most:
            self.promising = signals != self._signals
            self._wake_after(ms)
        return runs

    def _run_of(self, id: bytes, token: int, text: bytes, failures: int, crashes: int) -> Run | None:
        document = read_job(text)
        name = id.decode(errors="replace")
        if document is None or not _is_id(id):
            self._tasks.spawn(self._repeat(b"gateway_fail", id, token, "it is not a job: another program wrote it", ""))
            return None
        run = self.held[name] = Run(self.queue, name, token, document, failures, crashes)
        return run

    def _wake_after(self, ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ms >= 0:
            self._timer = asyncio.get_running_loop().call_later(min(ms / 1000, LOOK_AGAIN_SECONDS), self.promise)

    def _pause(self, error: StoreError) -> None:
        level = logging.DEBUG if self._unsure else logging.WARNING  # the first in a row: it is tried twice a second
        log.log(level, "queue %s: no jobs could be taken (%s); trying again", self.queue, error)
        self.promising = False
        self._wake_after(int(1000 * (0.1 + backoff(2, 0.1, 1.0))))

    # The lease.

    async def keep_lease(self) -> None:
        """Renews the lease until it is cancelled."""
        failures = FailureLog(log)
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS)
            try:
                await self.renew()
                if not self._asking.locked():
                    async with self._asking:  # what was lost on the way to a connection that broke may have been carried out late
                        await self._compare()
            except StoreError as error:
                failures.failed("queue %s: the lease was not renewed: %s; trying again", self.queue, error)
            else:
                failures.worked()

    async def renew(self) -> None:
        """Renews the lease; gives jobs of dead workers to the living; what this worker lost is ended. Raises StoreError."""
        time, lease = asyncio.get_running_loop().time, self._lease_ms / 1000
        before, until, began = list(self.held.values()), self._leased_until, time()
        known, ms, *dead = await self._call(b"gateway_renew", self._lease_ms)
        # Where Valkey was away, or its clock was set, the leases of the living are over too, until they come back as this worker does.
        if 0 < until <= time():
            self._trusted = time() + lease
        self._leased_until = began + lease
        if not known and before:
            log.warning("queue %s: the lease of this worker was over: its %d jobs went to others", self.queue, len(before))
            for run in before:
                run.end("lost")
        if not known:  # the queue may have been removed, and with it its name, and that this worker is to be announced to
            self.promise()
        if not known or self._names.needs_name(self.queue):
            self._tasks.spawn(self._names.add_name(self.queue))
        # Asked after the leases were looked at: a clock that is set between the two is noticed in vain, and not too late.
        if self._clock.is_noticed(await valkey_time(self._commands, self.channel), time()):
            self._trusted = time() + lease
        for worker in dead if time() >= self._trusted else ():
            await self._reclaim(worker)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if ms >= 0:
            self._looking = asyncio.get_running_loop().call_later(ms / 1000, self._look_for_dead)

    def _look_for_dead(self) -> None:
        self._looking = None
        self._tasks.spawn(self._renew_quietly())

    async def _renew_quietly(self) -> None:
        try:
            await self.renew()
        except StoreError as error:
            log.debug("queue %s: dead workers were not looked for: %s", self.queue, error)

    async def _reclaim(self, worker: bytes) -> None:
        name = worker.decode(errors="replace")
        keys = (*self._keys[:-1], self._layout.taken(self.queue, name))
        jobs = 0
        while (more := await self._commands.call(b"FCALL", b"gateway_reclaim", len(keys), *keys, name, repeatable=True)) > 0:
            jobs += more  # a page in each call
        if more < 0:
            self._layout.faults.found("queue", self.queue, f"the list of worker {name} is of another type")
        elif jobs:
            log.warning("queue %s: the lease of worker %s is over: its %d jobs may be taken again", self.queue, ascii(name), jobs)

    async def _compare(self) -> None:
        """Compares what this worker holds with what Valkey thinks that it has: a lost job, or one that was cancelled, is ended here, and what is
        not held is given back there. Never while jobs are being taken. Raises StoreError."""
        runs = list(self.held.values())
        named: list[Word] = []
        for run in runs:
            named += run.id, run.token
        _, *states = await self._call(b"gateway_held", *named)
        self._unsure = False
        for run, state in zip(runs, states, strict=True):
            if state != HAS:
                run.end("cancelled" if state == CANCELLED else "lost")

    # The end of jobs.

    async def park(self, run: Run, serial: bytes) -> bool:
        """Whether the job may run now; else it waits in Valkey for those of its serial key before it."""
        answer = await self._repeat(b"gateway_park", run.id, run.token, serial)
        if answer != 1:
            self._release(run)  # not by its id: this worker may have taken the job again meanwhile
        return bool(answer == 1)

    def end(self, run: Run, outcome: Outcome) -> None:
        """Ends a run in Valkey; it is held until that is acknowledged."""
        if outcome.kind == "lost":
            self._release(run)
        elif outcome.kind == "finished":
            if not self._finished:
                asyncio.get_running_loop().call_soon(self._finish)
            self._finished.append((run, outcome.result))
        else:
            self._tasks.spawn(self._end(run, outcome))

    def _finish(self) -> None:
        finished, self._finished = self._finished[::-1], []  # a batch ends with its newest job first, and Valkey finds the oldest faster
        page: list[tuple[Run, bytes]] = []
        size = 0
        for run, result in finished:
            bytes_of_both = len(result) + len(run.document.data)
            if len(page) == FINISH_AT_ONCE or (page and size + bytes_of_both > FINISH_BYTES):
                self._tasks.spawn(self._finish_all(page))
                page, size = [], 0
            page.append((run, result))
            size += bytes_of_both
        self._tasks.spawn(self._finish_all(page))

    async def _finish_all(self, finished: list[tuple[Run, bytes]]) -> None:
        words: list[Word] = []
        for run, result in finished:
            words += run.id, run.token, result
        try:
            answers = await self._repeat(b"gateway_finish", *words)
        finally:
            for run, _ in finished:
                self._release(run)
        refused = [run.id for (run, _), answer in zip(finished, answers or (), strict=False) if not answer]
        if refused:
            log.warning("queue %s: the lease of this worker was over when jobs were done (%d; the first is %s): other workers run them again, unless"
                        " Valkey has recorded their ends before, and that answer was lost", self.queue, len(refused), refused[0])  # fmt: skip

    async def _end(self, run: Run, outcome: Outcome) -> None:
        try:
            if outcome.kind == "given_back":
                await self._repeat(b"gateway_give_back", run.id, run.token)
                return
            retry = "" if outcome.retry is None else int(min(outcome.retry, DELAY_SECONDS) * 1000)
            reason = outcome.reason[:REASON_CHARACTERS].encode(errors="replace")
            became = await self._repeat(b"gateway_fail", run.id, run.token, reason, retry)
        finally:
            self._release(run)
        first = ascii(outcome.reason[:LINE_CHARACTERS].partition("\n")[0])[1:-1]
        if became == b"dead":
            log.error(
                "queue %s: job %s (%s) is a dead letter after attempt %d: %s",
                self.queue,
                run.id,
                ascii(run.document.name),
                run.failures + 1,
                first,
            )
        elif became == b"retried":
            log.info(
                "queue %s: job %s (%s) is tried again in %.1f s: %s", self.queue, run.id, ascii(run.document.name), outcome.retry, first
            )

    def _release(self, run: Run) -> None:
        if self.held.get(run.id) is run:
            del self.held[run.id]
            if self.room == 1:
                self._on_promising()

    async def leave(self) -> None:
        """Ends the lease; what this worker still has is given back. Valkey being away, that happens when the lease is over."""
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        self._leased_until = 0.0
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._call(b"gateway_renew", 0)
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "no answer"
            log.warning("queue %s: the lease was not ended, and is over in %g s: %s", self.queue, self._lease_ms / 1000, reason)

    # Calls.

    def _call(self, function: bytes, *words: Word) -> Any:
        return self._commands.call(b"FCALL", function, len(self._keys), *self._keys, self._worker, *words)

    async def _repeat(self, function: bytes, *words: Word) -> Any:
        """A call that may be made twice, made until Valkey answers, or takes writes again; None if it refuses this one, which is logged."""

        async def call() -> Any:
            try:
                return await self._commands.call(b"FCALL", function, len(self._keys), *self._keys, self._worker, *words, repeatable=True)
            except StoreError as error:
                if error.is_general:  # as where its disk is full: a job that is done would be done again
                    raise
                log.error("queue %s: %s was refused: %s", self.queue, function.decode(), error)
                self._unsure = True
                return None

        return await retrying(call, f"queue {self.queue}: {function.decode()} was not carried out", log, on=StoreError, ceiling=1.0)
