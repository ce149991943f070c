"""Faults in between: what Valkey refuses for a moment, processes that fork, handlers whose errors are errors themselves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import multiprocessing
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, Mock
from zoneinfo import ZoneInfo

import msgspec
import pytest
import valkey

from gateway.errors import StoreError, Unavailable
from gateway.runtime.tasks import Tasks, end
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.layout import Layout
from gateway.store.plain_connection import PlainConnection
from gateway.store.valkey_clock import valkey_time
from gateway.work import Queue, Retry, RunningJob, SyncQueue, Worker
from gateway.work.handlers import describe
from gateway.work.intake import Intake
from gateway.work.jobs import JobDocument
from gateway.work.periodic import Schedule
from gateway.work.queues import Queues
from gateway.work.running import Call, Outcome, Run

from ..kit.jobs import ended, overview_is, working
from ..kit.servers import ValkeyServer
from ..kit.waiting import eventually, until, wait_until

# Producers.


async def test_a_job_that_valkey_refused_for_a_moment_is_not_lost_though_the_next_was_carried_out(own: Any) -> None:
    async with Queue(own.url) as queue:
        await queue.enqueue("before", queue="momentary")
        own.ask("CONFIG", "RESETSTAT")
        own.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        first = asyncio.create_task(queue.enqueue("refused", queue="momentary"))
        await asyncio.sleep(0)  # it is queued
        second = asyncio.create_task(queue.enqueue("after", queue="momentary"))
        await asyncio.sleep(0)  # the first is written; the second will be before the answer to the first is read
        wait_until(lambda: "errorstat_NOREPLICAS" in own.client.info("errorstats"), "the first is refused")  # blocks the loop
        own.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        assert [job.new for job in await asyncio.gather(first, second)] == [True, True]
        ready = await queue.queues.jobs("momentary", "ready")
    assert [view.job.name for view in ready if view.job is not None] == ["before", "after", "refused"]


def test_of_a_producer_that_counts_each_number_is_enqueued_once_in_whatever_order_they_come(own: Any) -> None:
    layout = Layout("counted")
    keys = layout.queue("default")
    with SyncQueue(own.url, prefix="counted") as queue:
        queue.enqueue("work")  # loads the functions

    def enqueue(number: int) -> int:
        answer = own.ask("FCALL", "gateway_enqueue", len(keys), *keys, "work", "1", "version", number, "version_epoch", "p", "counted", 1)
        return int(answer[1])

    assert [enqueue(number) for number in (3, 1, 7, 7, 5, 5, 1, 2, 2, 8, 6, 4, 3, 6)] == [1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0]
    for number in range(10, 3000, 2):
        assert enqueue(number) == 1
    assert len(own.ask("HGET", keys[0], "v:p")) < 2100  # bounded: the newest gaps are remembered
    assert [enqueue(number) for number in (2997, 2995, 9)] == [1, 1, 0]


async def test_a_job_whose_acknowledgement_was_lost_is_new(valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that is sent again is answered as a repeat."""
    call = ServerCommands.call

    async def twice(self: ServerCommands, *words: Any, **options: Any) -> Any:
        await call(self, *words, **options)
        return await call(self, *words, **options)

    async with Queue(valkey_url, prefix=prefix) as queue:
        monkeypatch.setattr(ServerCommands, "call", twice)
        assert (await queue.enqueue("work", key="once")).new
        assert not (await queue.enqueue("work", key="once")).new


def _enqueue_three(queue: SyncQueue) -> None:
    for number in range(3):
        queue.enqueue("work", number)


def test_forks_of_one_process_lose_none_of_their_jobs(valkey_url: str, prefix: str, store: valkey.Valkey) -> None:
    fork = multiprocessing.get_context("fork")
    with SyncQueue(valkey_url, prefix=prefix) as queue:
        queue.enqueue("work")
        children = [fork.Process(target=_enqueue_three, args=(queue,)) for _ in range(2)]
        for child in children:
            child.start()
            child.join()
    assert store.hlen(f"{prefix}:queue:{{default}}:jobs") == 7


def test_a_thread_that_waits_for_a_result_gets_it_over_a_lost_link(own: Any) -> None:
    layout = Layout("waiting")
    keys = (*layout.queue("default"), layout.taken("default", "w"))
    with SyncQueue(own.url, prefix="waiting") as queue:
        job, results = queue.enqueue("work", result_ttl=60), []
        waiting = threading.Thread(target=lambda: results.append(job.result(timeout=10)))
        waiting.start()
        channel = layout.results("default").decode()
        wait_until(lambda: own.ask("PUBSUB", "NUMSUB", channel)[1], "the thread listens")
        token = own.ask("FCALL", "gateway_take", len(keys), *keys, "w", 9000, 1)[1][1]
        own.kill_links("FCALL", "gateway_finish", len(keys), *keys, "w", job.id, token, "42")
        waiting.join()
    assert results == [42]


async def test_a_waiter_whose_time_is_over_before_the_link_is_there_leaves_nothing_that_connects(own: Any) -> None:
    async with Queue(own.url) as queue:
        job = await queue.enqueue("work", result_ttl=60)
        before = asyncio.all_tasks()
        with own.frozen():
            with pytest.raises(TimeoutError):
                await job.result(0.05)
            assert asyncio.all_tasks() == before


async def test_a_foreign_key_instead_of_the_queues_names_costs_no_job(
    queue: Queue, new_worker: Any, prefix: str, store: valkey.Valkey, valkey_url: str
) -> None:
    store.set(f"{prefix}:queues", "not a set")
    worker = new_worker()

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        return "done"

    async with working(worker):
        assert await (await queue.enqueue("work", result_ttl=60)).result(10) == "done"
        with SyncQueue(valkey_url, prefix=prefix) as plain:
            assert plain.enqueue("work").new


async def test_an_enqueue_does_not_wait_for_the_shard_of_the_queues_names(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one waits for a moment, and those that follow do not: a relay enqueues hundreds of jobs one after another."""
    monkeypatch.setattr("gateway.work.queues.NAME_SECONDS", 0.05)
    call, added = queue.queues.commands.call, []

    async def away(*words: Any, **options: Any) -> Any:
        if words[0] != b"SADD":
            return await call(*words, **options)
        added.append(words)
        await asyncio.Event().wait()

    monkeypatch.setattr(queue.queues.commands, "call", away)
    async with asyncio.timeout(5):
        assert (await queue.enqueue("work")).new and (await queue.enqueue("work")).new
    assert len(added) == 1


def test_an_enqueue_without_asyncio_does_not_wait_for_the_shard_of_the_queues_names_either(monkeypatch: pytest.MonkeyPatch) -> None:
    added = []

    def call(self: PlainConnection, *words: Any) -> Any:
        if words[0] != b"SADD":
            return b"id", 1
        added.append(words)
        raise Unavailable("the shard is away")

    monkeypatch.setattr(PlainConnection, "call", call)
    monkeypatch.setattr(PlainConnection, "commands", SimpleNamespace(sharded=True))
    with SyncQueue("valkey+cluster://localhost") as queue:
        queue.enqueue("work")
        queue.enqueue("work")
    assert len(added) == 1


async def test_dead_letters_that_are_named_are_sent_again_in_as_many_calls_as_they_need() -> None:
    layout, named = Layout("gw"), []

    class Commands:
        async def call(self, *words: Any, **options: Any) -> list[int]:
            named.append("".join(words[3 + len(layout.queue("default")) :]))
            return [1, 1] if len(named) == 1 else [2, 0]

    assert await Queues(cast(Any, Commands()), layout).resend("default", *"abcdef") == (5, 1)
    assert named == ["abcdef", "cdef", "ef"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what is not closed is left to the collector
def test_a_queue_works_in_one_loop_after_another_and_refuses_two_at_once(valkey_url: str, prefix: str) -> None:
    queue = Queue(valkey_url, prefix=prefix)

    async def enqueue() -> None:
        async with asyncio.timeout(10):
            await queue.enqueue("work")

    for _ in range(2):  # the first loop is closed with the connection still open, as a script's may be
        asyncio.run(enqueue())
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(enqueue())
        with pytest.raises(RuntimeError, match="a Queue is used in one event loop"):
            second.run(enqueue())
        first.run(queue.close())
        second.run(enqueue())
        second.run(queue.close())
    gc.collect()


# Handlers.


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no text")


class Later(Retry):
    def __init__(self, after: Any) -> None:
        super().__init__()
        self.after = after


ODD_ERRORS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "an error without a text": (Unspeakable, "what the handler returned or raised cannot be read: RuntimeError"),
    "Retry after a text": (lambda: Retry(after=cast(float, "30")), "TypeError: after is a number of seconds, not '30'"),
    "Retry after a timedelta": (lambda: Later(timedelta(1)), "what the handler returned or raised cannot be read: TypeError"),
    "Retry after infinity": (lambda: Later(math.inf), "the handler asked to be called again"),
}


@pytest.mark.parametrize("case", ODD_ERRORS)
async def test_an_odd_error_is_a_failure_and_holds_no_job(case: str, queue: Queue, new_worker: Any) -> None:
    make, reason = ODD_ERRORS[case]
    worker = new_worker(stop_seconds=0.1)

    @worker.job("odd")
    async def odd(job: RunningJob) -> None:
        raise make()

    async with working(worker):
        job = await queue.enqueue("odd", attempts=1)
        assert (await ended(queue, job.id)).failures[0].error.startswith(reason)


@pytest.mark.parametrize("key", ["", "a\nb", "x" * 201, "\ud800"])
async def test_a_serial_key_that_is_none_is_a_dead_letter(key: str, queue: Queue, new_worker: Any) -> None:
    worker = new_worker()

    @worker.job("work", serial=lambda data: key)
    async def work(job: RunningJob, data: None) -> None: ...

    async with working(worker):
        job = await queue.enqueue("work")
        view = await ended(queue, job.id)
    assert [failure.error.partition(":")[0] for failure in view.failures] == ["its serial key could not be made of its data"]


async def test_a_batch_that_is_cancelled_for_one_job_costs_the_others_no_attempt(queue: Queue, new_worker: Any) -> None:
    worker, batches, release = new_worker(), [], asyncio.Event()

    @worker.job("batch", batch=3, within=0.05)
    async def batch(jobs: list[RunningJob], data: list[int]) -> None:
        batches.append((data, [job.attempt for job in jobs]))
        await release.wait()

    jobs = [await queue.enqueue("batch", number, attempts=1) for number in range(3)]
    async with working(worker):
        await until(lambda: batches, "the batch runs")
        assert await jobs[1].cancel() == "running"
        await until(lambda: len(batches) == 2, "the others run again")
        release.set()
        await overview_is(queue, finished=2, cancelled=1, dead=0)
    assert batches == [([0, 1, 2], [1, 1, 1]), ([0, 2], [1, 1])]


async def test_a_batch_whose_time_is_over_for_one_job_costs_the_others_no_attempt(queue: Queue, new_worker: Any) -> None:
    worker, batches = new_worker(), []

    @worker.job("batch", batch=3, within=0.05)
    async def batch(jobs: list[RunningJob], data: list[int]) -> None:
        batches.append((data, [job.attempt for job in jobs]))
        await asyncio.sleep(60 if 1 in data else 0)

    for number in range(3):
        await queue.enqueue("batch", number, attempts=1, timeout=0.6 if number == 1 else 0.8)
    async with working(worker):
        await overview_is(queue, finished=2, dead_letters=1)
    assert batches == [([0, 1, 2], [1, 1, 1]), ([0, 2], [1, 1])]


async def test_jobs_with_seconds_to_run_are_in_no_batch_with_those_that_have_minutes(queue: Queue, new_worker: Any) -> None:
    """Each that comes would cancel those, which would never end."""
    worker, batches = new_worker(), []

    @worker.job("batch", batch=3, within=0.05)
    async def batch(jobs: list[RunningJob], data: list[int]) -> None:
        batches.append(data)

    for number in range(4):
        await queue.enqueue("batch", number, timeout=5 if number % 2 else 60)
    async with working(worker):
        await overview_is(queue, finished=4)
    assert sorted(batches) == [[0, 2], [1, 3]]


async def test_a_worker_with_a_batch_that_gathers_does_not_take_the_jobs_that_others_could_do(queue: Queue, new_worker: Any) -> None:
    worker, go = new_worker(concurrency=2), asyncio.Event()

    @worker.job("gathered", batch=1000, within=60)
    async def gathered(jobs: list[RunningJob]) -> None: ...

    @worker.job("slow")
    async def slow(job: RunningJob) -> None:
        await go.wait()

    for name in ("gathered", *["slow"] * 30):
        await queue.enqueue(name)
    async with working(worker):
        await overview_is(queue, running=3, ready=28)  # the batch, one that runs, one that was taken for the batch
        go.set()
        await overview_is(queue, running=1, ready=0)


async def test_a_job_of_a_batch_whose_coroutine_was_cancelled_is_not_done(queue: Queue, new_worker: Any) -> None:
    worker, ran = new_worker(), []

    async def send(job: RunningJob, number: int) -> None:
        ran.append((number, job.attempt))
        if (number, job.attempt) == (1, 1):
            raise asyncio.CancelledError  # as where it waits for a task of another that was cancelled

    @worker.job("batch", batch=2, within=0.02, backoff=0)
    async def batch(jobs: list[RunningJob], data: list[int]) -> list[Any]:
        return await asyncio.gather(*map(send, jobs, data), return_exceptions=True)

    for number in range(2):
        await queue.enqueue("batch", number)
    async with working(worker):
        await overview_is(queue, finished=2)
    assert ran == [(0, 1), (1, 1), (1, 2)]


async def test_a_worker_holds_no_more_jobs_than_it_can_name(queue: Queue, new_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.work.intake.HELD_MOST", 3)
    worker, ran, release = new_worker(), [], asyncio.Event()

    @worker.job("batch", batch=2, within=0.01)
    async def batch(jobs: list[RunningJob], data: list[int]) -> None:
        ran.extend(data)
        await release.wait()

    for number in range(8):
        await queue.enqueue("batch", number)
    async with working(worker):
        await until(lambda: len(ran) == 3, "as many run as it may hold")
        await asyncio.sleep(0.05)
        assert (await queue.queues.overview("default")).running == 3
        release.set()
        await overview_is(queue, finished=8)


async def test_a_run_that_has_ended_is_not_cancelled_any_more(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As where the worker compares what it holds with Valkey, which has carried out the end of the job, but the answer is on its way."""
    monkeypatch.setattr("gateway.work.running.CANCEL_SECONDS", 0)

    async def work(job: RunningJob) -> None: ...

    run = Run("default", "1", 1, JobDocument("work", 0, 1, 0, 0, 0, 60, 0, msgspec.Raw(b"null")), 0, 0)
    outcomes: asyncio.Queue[list[Outcome]] = asyncio.Queue()
    call = Call(
        describe("work", work, batch=None, process=False), [run], lambda: work(cast(Any, None)), lambda _, some: outcomes.put_nowait(some)
    )
    assert await outcomes.get() == [Outcome("finished")]
    run.end("lost")
    await asyncio.sleep(0.01)
    assert call.runs == [run] and caplog.text == ""


async def test_a_job_that_is_taken_again_while_its_parking_is_answered_is_held(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the answer is lost with the connection, and the call is made again. What is not held would be given back while it runs."""
    intake = Intake(make_commands(Address(valkey_url)), Layout("gw"), "default", "w", 15, lambda: None, Tasks())
    document = JobDocument("work", 0, 1, 0, 0, 0, 60, 0, msgspec.Raw(b"null"))
    old, new = Run("default", "1", 1, document, 0, 0), Run("default", "1", 2, document, 0, 0)

    async def refused(*words: Any) -> int:
        intake.held["1"] = new
        return -1

    monkeypatch.setattr(intake, "_repeat", refused)
    assert not await intake.park(old, b"serial")
    assert intake.held == {"1": new}


async def test_a_worker_that_stops_does_not_wait_for_a_job_that_was_being_parked(
    queue: Queue, new_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    park, parking, answered = Intake.park, asyncio.Event(), asyncio.Event()

    async def late(self: Intake, run: Run, serial: bytes) -> bool:
        parking.set()
        await answered.wait()
        return await park(self, run, serial)

    monkeypatch.setattr(Intake, "park", late)
    worker = new_worker(concurrency=1, stop_seconds=3600)

    @worker.job("work", serial=lambda data: data)
    async def work(job: RunningJob, data: str) -> None: ...

    await queue.enqueue("work", "s")
    async with asyncio.timeout(20), working(worker):
        await parking.wait()
        worker.stop()
        for _ in range(20):
            await asyncio.sleep(0)
        answered.set()
    await overview_is(queue, ready=1, running=0)


async def test_large_jobs_are_ended_a_few_in_a_call(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey reads each whole: a hundred of a megabyte took it from all others for a quarter of a second."""
    intake, calls = Intake(make_commands(Address(valkey_url)), Layout("gw"), "default", "w", 15, lambda: None, Tasks()), []

    async def finish(page: list[Any]) -> None:
        calls.append(len(page))

    monkeypatch.setattr(intake, "_finish_all", finish)
    document = JobDocument("work", 0, 1, 0, 0, 0, 60, 0, msgspec.Raw(b'"%s"' % (b"x" * 1_000_000)))
    for number in range(20):
        intake.end(Run("default", str(number), 1, document, 0, 0), Outcome("finished"))
    await until(lambda: sum(calls) == 20, "all are ended")
    assert calls == [8, 8, 4]


async def test_no_jobs_are_taken_while_what_a_worker_holds_is_compared() -> None:
    """Valkey may refuse the comparison for a moment: made again after jobs were taken, it would give them to others while they run."""
    called, comparing, answered = [], asyncio.Event(), asyncio.Event()

    class Commands:
        sharded = False

        def shard(self, key: bytes) -> Any:
            return self

        async def call(self, *words: Any, **options: Any) -> list[int]:
            called.append(words[min(1, len(words) - 1)])
            if called[-1] == b"gateway_held":
                comparing.set()
                await answered.wait()
            return {b"gateway_renew": [1, -1], b"gateway_take": [-1], b"gateway_held": [0]}.get(called[-1], [1, 0])

    intake = Intake(cast(Any, Commands()), Layout("gw"), "default", "w", 0.03, lambda: None, Tasks())
    keeping = asyncio.create_task(intake.keep_lease())
    await comparing.wait()
    taking = asyncio.create_task(intake.take(1))
    for _ in range(20):
        await asyncio.sleep(0)
    assert b"gateway_take" not in called
    answered.set()
    assert await taking == [] and b"gateway_take" in called
    await end(keeping)


async def test_a_lease_that_cannot_be_renewed_is_logged_once_in_a_row(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake(Mock(), Layout("gw"), "default", "w", 0.003, lambda: None, Tasks())
    outcomes = iter([False, False, False, True, False])

    async def renew() -> None:
        outcome = next(outcomes, None)
        if outcome is None:
            raise asyncio.CancelledError
        if not outcome:
            raise StoreError("MISCONF")

    monkeypatch.setattr(intake, "renew", renew)
    monkeypatch.setattr(intake, "_compare", AsyncMock())
    with pytest.raises(asyncio.CancelledError):
        await intake.keep_lease()
    assert caplog.messages == ["queue default: the lease was not renewed: MISCONF; trying again"] * 2


async def test_workers_that_come_back_with_valkey_keep_their_jobs_and_those_of_a_dead_one_go_to_others(
    queue: Queue, prefix: str, store: valkey.Valkey
) -> None:
    """Valkey was away for longer than the lease of all: the first that is back had taken the others for dead."""
    workers, now = f"{prefix}:queue:{{default}}:workers", asyncio.get_running_loop().time
    living, first = (
        Intake(queue.queues.commands, Layout(prefix), "default", name, 15, lambda: None, Tasks()) for name in ("living", "first")
    )
    await queue.enqueue("work")
    assert len(await living.take(1)) == 1
    await first.renew()
    store.zadd(workers, {"living": 1, "first": 1})
    first._leased_until = now()
    await first.renew()
    await living.renew()
    overview = await queue.queues.overview("default")
    assert (overview.running, overview.crashed) == (1, 0)
    store.zadd(workers, {"living": 1})  # it has died
    first._trusted = now()
    await first.renew()
    await overview_is(queue, running=0, ready=1, crashed=1)


async def test_a_worker_that_is_full_keeps_its_jobs_when_valkey_was_away_and_a_new_worker_begins(
    queue: Queue, prefix: str, store: valkey.Valkey
) -> None:
    """It renewed its lease after a third of that only: the new one, which knows of no lost time, took it for dead."""
    tasks = Tasks()
    living, fresh = (
        Intake(queue.queues.commands, Layout(prefix), "default", name, 15, lambda: None, tasks) for name in ("living", "fresh")
    )
    await queue.enqueue("work")
    assert len(await living.take(1)) == 1
    store.zadd(f"{prefix}:queue:{{default}}:workers", {"living": 1})
    living.on_subscribed()
    await tasks.finish()
    await fresh.renew()
    overview = await queue.queues.overview("default")
    assert (overview.running, overview.crashed) == (1, 0)


async def test_all_jobs_of_a_dead_worker_go_to_others_at_once_however_many(queue: Queue, prefix: str, store: valkey.Valkey) -> None:
    dead, living = (
        Intake(queue.queues.commands, Layout(prefix), "default", name, 15, lambda: None, Tasks()) for name in ("dead", "living")
    )
    await asyncio.gather(*[queue.enqueue("work") for _ in range(1100)])
    assert len(await dead.take(1000)) + len(await dead.take(1000)) == 1100
    store.zadd(f"{prefix}:queue:{{default}}:workers", {"dead": 1})
    await living.renew()
    assert (await queue.queues.overview("default")).ready == 1100


@pytest.mark.parametrize("is_set", ["before a renewal", "within one"])
async def test_living_workers_keep_their_jobs_when_valkeys_clock_is_set(
    queue: Queue, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch, is_set: str
) -> None:
    living, first = (
        Intake(queue.queues.commands, Layout(prefix), "default", name, 15, lambda: None, Tasks()) for name in ("living", "first")
    )
    await queue.enqueue("work")
    assert len(await living.take(1)) == 1
    await first.renew()

    workers = f"{prefix}:queue:{{default}}:workers"

    async def set_forward(*_: Any) -> float:
        if is_set == "within one" and store.zscore(workers, "living") != 1:
            store.zadd(workers, {"living": 1})
            return time.time()
        return time.time() + 3600

    monkeypatch.setattr("gateway.work.intake.valkey_time", set_forward)
    if is_set == "before a renewal":
        store.zadd(workers, {"living": 1})  # as by that clock
    await first.renew()
    await first.renew()
    overview = await queue.queues.overview("default")
    assert (overview.running, overview.crashed) == (1, 0)


async def test_a_worker_that_waits_for_a_delayed_job_looks_each_minute_as_valkeys_clock_may_be_set(queue: Queue, prefix: str) -> None:
    """Also where its machine sleeps: the timer does not run then."""
    intake = Intake(queue.queues.commands, Layout(prefix), "default", "w", 15, lambda: None, Tasks())
    await queue.enqueue("work", delay=86400)
    assert await intake.take(1) == [] and not intake.promising
    assert intake._timer is not None and intake._timer.when() - asyncio.get_running_loop().time() <= 60
    intake._timer.cancel()


async def test_a_worker_that_waits_finds_the_jobs_after_a_queue_was_removed(own: Any) -> None:
    worker = Worker(["removed"], url=own.url, lease=0.5)

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        return "done"

    async with Queue(own.url) as queue, working(worker):
        assert await (await queue.enqueue("work", queue="removed", result_ttl=60)).result(10) == "done"
        own.ask("FLUSHALL")
        assert await (await queue.enqueue("work", queue="removed", result_ttl=60)).result(10) == "done"


async def test_a_worker_names_its_queue_again_where_valkey_did_not_answer_in_time(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster, where the names are in a shard of their own, which may be away."""
    asked: list[str] = []

    async def shard_away(self: Any, name: str) -> None:
        asked.append(name)

    worker = Worker(["late"], url=own.url, lease=0.5)

    @worker.job("work")
    async def work(job: RunningJob) -> None: ...

    async with Queue(own.url) as queue:
        with monkeypatch.context() as patched:
            patched.setattr("gateway.work.queues.Queues.add_name", shard_away)
            async with working(worker):
                await until(lambda: asked == ["late"] * 2, "it tries again")
                assert not await _is_named(queue, "late")
                patched.undo()
                await eventually(lambda: _is_named(queue, "late"), "the queue has its name")


async def test_the_name_of_a_queue_comes_back_with_its_worker_after_valkey_lost_everything(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease may have come back before: with the jobs that it took."""
    monkeypatch.setattr("gateway.work.queues.NAMED_SECONDS", 0)
    worker = Worker(["lost"], url=own.url, lease=0.5)

    @worker.job("work")
    async def work(job: RunningJob) -> None: ...

    async with Queue(own.url) as queue, working(worker):
        for _ in range(2):
            await eventually(lambda: _is_named(queue, "lost"), "the queue has its name")
            own.ask("FLUSHALL")


async def _is_named(queue: Queue, name: str) -> bool:
    return name in await queue.queues.names()


async def test_the_name_of_a_queue_comes_back_with_its_jobs_after_valkey_lost_everything(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("queues", "plain_producer"):
        monkeypatch.setattr(f"gateway.work.{module}.NAMED_SECONDS", 0)
    async with Queue(own.url) as queue:
        with SyncQueue(own.url) as plain:
            for _ in range(2):
                own.ask("FLUSHALL")
                await queue.enqueue("work", queue="one")
                plain.enqueue("work", queue="other")
                assert await queue.queues.names() == ["one", "other"]


async def test_a_job_that_is_done_while_valkeys_disk_is_full_is_not_done_again(
    disk: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    worker, runs = Worker(url=disk.url), []
    begun, done = asyncio.Event(), asyncio.Event()

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        runs.append(job.attempt)
        begun.set()
        await done.wait()
        return "done"

    async with Queue(disk.url) as queue, working(worker):
        job = await queue.enqueue("work", result_ttl=60)
        await begun.wait()
        with disk.full_disk():
            done.set()
            await until(lambda: "gateway_finish was not carried out (MISCONF" in caplog.text, "its end is refused")
        assert await job.result(10) == "done"
    assert runs == [1]


async def test_a_rate_holds_for_jobs_whose_start_is_late_because_no_worker_ran(
    queue: Queue, new_worker: Any, prefix: str, store: valkey.Valkey
) -> None:
    starts: list[float] = []
    worker = new_worker()

    @worker.job("work", rate="100/s")
    async def work(job: RunningJob) -> None:
        starts.append(time.monotonic())

    base = f"{prefix}:queue:{{default}}"
    for _ in range(30):
        await queue.enqueue("work")
    async with working(worker):
        await until(lambda: starts, "the first begins, and the others have their times")
    late = store.zrange(f"{base}:delayed", 0, -1)
    store.zadd(f"{base}:delayed", dict.fromkeys(late, 1))  # as if those times were long ago
    store.hset(base, "next:work", 1)
    begun = len(starts)
    async with working(worker):
        await overview_is(queue, finished=30)
    assert begun < 20 and starts[-1] - starts[begun] >= 0.01 * (30 - begun - 4)


# Periodic jobs.


@pytest.mark.parametrize("change", [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)])
@pytest.mark.parametrize(("expression", "minutes"), [("* * * * *", 1), ("0 * * * *", 60), ("*/30 * * * *", 30)])
def test_ticks_are_even_where_clocks_are_set(expression: str, minutes: int, change: datetime) -> None:
    schedule = Schedule(expression, "work", "default", [], ZoneInfo("Europe/Berlin"))
    moment, end = change - timedelta(hours=2), change + timedelta(hours=2)
    while moment < end:
        tick = schedule.tick_after(moment)
        assert tick - moment == timedelta(minutes=minutes)
        assert schedule.tick_by(tick) == tick
        assert schedule.tick_by(tick - timedelta(seconds=1)) == moment
        moment = tick


def test_a_daily_tick_is_one_where_its_hour_comes_twice_or_not_at_all() -> None:
    schedule = Schedule("30 2 * * *", "work", "default", [], ZoneInfo("Europe/Berlin"))
    assert schedule.tick_after(datetime(2026, 10, 25, 0, 30, tzinfo=UTC)) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert schedule.tick_after(datetime(2026, 10, 25, 1, 10, tzinfo=UTC)) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert schedule.tick_after(datetime(2026, 3, 28, 1, 30, tzinfo=UTC)) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


async def test_a_worker_whose_clock_is_ahead_enqueues_no_tick_of_the_future(
    queue: Queue, new_worker: Any, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers' ticks until then would be old."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + timedelta(hours=1)

    monkeypatch.setattr("gateway.work.periodic.datetime", Ahead)
    worker = new_worker()

    @worker.cron("* * * * * *", "each second")
    async def each(job: RunningJob) -> None: ...

    async with working(worker):
        await overview_is(queue, finished=1)
        version = int(store.hget(f"{prefix}:queue:{{default}}", "v:cron:each second").split()[0])
        assert version <= time.time() + 1


async def test_a_worker_whose_clock_is_behind_enqueues_each_tick(queue: Queue, new_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr("gateway.work.periodic.datetime", Behind)
    worker = new_worker()

    @worker.cron("* * * * * *", "each second")
    async def each(job: RunningJob) -> None: ...

    async with working(worker):
        await overview_is(queue, finished=1)


async def test_a_schedule_goes_on_when_valkeys_clock_was_ahead_and_is_set_back(
    queue: Queue, new_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, ran, ahead = new_worker(), [], [7200.0]

    async def time_of_valkey(*of: Any) -> float:
        return await valkey_time(*of) + ahead[0]

    @worker.cron("* * * * * *", "each second")
    async def each(job: RunningJob) -> None:
        ran.append(job.id)

    monkeypatch.setattr("gateway.work.periodic.valkey_time", time_of_valkey)
    monkeypatch.setattr("gateway.work.periodic.LOOK_SECONDS", 0.02)
    async with working(worker):
        await until(lambda: ran, "a tick of the future")
        ahead[0], before = 0.0, len(ran)
        await until(lambda: len(ran) > before, "a tick of the present")


async def test_a_tick_that_valkey_refuses_is_enqueued_later(own: Any) -> None:
    worker, ran = Worker(["refusing"], url=own.url), []

    @worker.cron("0 0 1 1 *", "yearly")
    async def yearly(job: RunningJob) -> None:
        ran.append(job.id)

    async with Queue(own.url) as queue:
        await queue.enqueue("yearly", queue="refusing")
        own.ask("HSET", "gw:queue:{refusing}", "v:cron:yearly", "1000 1000")  # as if the last tick were long ago
        own.ask("CONFIG", "SET", "maxmemory", 1)
        try:
            async with working(worker):
                await until(lambda: len(ran) == 1, "the worker has started, and works off what is there")
                own.ask("CONFIG", "SET", "maxmemory", 0)
                await until(lambda: len(ran) == 2, "the tick that was missed is enqueued")
        finally:
            own.ask("CONFIG", "SET", "maxmemory", 0)


async def test_a_task_whose_cancellation_is_lost_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As within ``asyncio.wait_for`` of Python 3.11: closing a connection would wait for ever."""
    monkeypatch.setattr("gateway.runtime.tasks.CANCEL_AGAIN_SECONDS", 0.01)
    lost = []

    async def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        lost.append(1)
        await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(task)
    assert lost and task.cancelled()
