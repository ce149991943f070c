"""What a worker does with jobs, and what no job can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfoNotFoundError

import msgspec
import pydantic
import pytest
import valkey

from gateway.errors import JobFailed, QueueFull
from gateway.store.layout import Layout
from gateway.work import PlainJob, Queue, Reject, Retry, RunningJob, SyncQueue, Worker
from gateway.work.handler_jobs import Facts
from gateway.work.handlers import describe, read_rate
from gateway.work.plain_producer import SyncEnqueuedJob
from gateway.work.processes import ProcessPool

from ..kit import forks
from ..kit.jobs import ended, overview_is, working
from ..kit.programs import runs
from ..kit.waiting import eventually, until, wait_until

NewWorker = Callable[..., Worker]


class Order(msgspec.Struct):
    order: int


def double(job: PlainJob, data: int) -> int:
    job.progress(0.5, "half of it")
    return data * 2


def end_the_process(job: PlainJob) -> None:
    os._exit(3)


def never_end(job: PlainJob, data: str) -> None:
    Path(data).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def fork_and_return(job: PlainJob, data: int) -> list[Any]:
    return ["child" if os.fork() == 0 else "parent", data]


def fork_and_end(job: PlainJob, data: str) -> None:
    fork = os.fork()
    if fork == 0:
        time.sleep(60)
    Path(data).write_text(str(fork))
    os._exit(4)


def own_pid(job: PlainJob) -> int:
    return os.getpid()


def return_no_number(job: PlainJob) -> float:
    return float("nan")


def note_and_return_an_object(job: PlainJob, data: str) -> object:
    with Path(data).open("a") as runs:
        runs.write(f"{job.attempt} ")
    return object()


# What handlers are, and what they are given.


async def test_a_handler_is_a_coroutine_function_a_plain_one_or_a_process(queue: Queue, new_worker: NewWorker) -> None:
    worker = new_worker()

    @worker.job("loop")
    async def loop(job: RunningJob, data: Order) -> dict[str, Any]:
        return {"order": data.order, "key": job.key, "attempt": job.attempt, "left": job.deadline - time.time() > 50}

    @worker.job("thread")
    def thread(job: PlainJob) -> str:
        return job.name

    worker.job("process", process=True)(double)
    async with working(worker):
        options: dict[str, Any] = {"result_ttl": 60}
        jobs = [
            await queue.enqueue("loop", {"order": 17}, key="order-17", **options),
            await queue.enqueue("thread", **options),
            await queue.enqueue("process", 21, channel="hello", **options),
        ]
        assert [await job.result(30) for job in jobs] == [{"order": 17, "key": "order-17", "attempt": 1, "left": True}, "thread", 42]


class Model(pydantic.BaseModel):
    order: int

    @pydantic.field_validator("order")
    @classmethod
    def _of_ours(cls, order: int) -> int:
        if order < 0:
            raise LookupError("no such order")
        return order


@pytest.mark.parametrize("annotation", [Model, list[Model], dict[str, Model]], ids=["one", "a list", "a dict"])
async def test_data_may_be_a_model_of_pydantic_and_is_checked_by_it(annotation: Any, queue: Queue, new_worker: NewWorker) -> None:
    """The decorator took such an annotation, and then each job was a dead letter: "Expected `Model`, got `dict`"."""

    def around(one: Any) -> Any:
        return [one] if annotation == list[Model] else {"a": one} if annotation == dict[str, Model] else one

    async def work(job: RunningJob, data: Any) -> bool:
        return bool(data == around(Model(order=17)))

    work.__annotations__["data"] = annotation
    worker = new_worker()
    worker.job("work")(work)
    fits = await queue.enqueue("work", around({"order": 17}), result_ttl=60)
    do_not = {
        "1 validation error for Model order Input should be a valid integer": await queue.enqueue(
            "work", around({"order": "many"}), result_ttl=60
        ),
        "no such order": await queue.enqueue("work", around({"order": -1}), result_ttl=60),
    }
    async with working(worker):
        assert await fits.result(10) is True
        for why, job in do_not.items():
            with pytest.raises(JobFailed, match=f"the data does not fit the handler: {why}"):
                await job.result(10)


async def test_an_async_handler_that_a_plain_function_wraps_is_run(queue: Queue, new_worker: NewWorker) -> None:
    """As a decorator makes one that is no coroutine function; a coroutine that is not awaited would count as done."""
    worker, ran = new_worker(), []

    def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*arguments: Any) -> Any:
            return function(*arguments)

        return wrapped

    @worker.job("wrapped")
    @wrapping
    async def wrapped(job: RunningJob) -> None:
        await job.progress(0.5)
        ran.append(job.name)

    class Called:
        async def __call__(self, job: RunningJob) -> None:
            await job.progress(0.5)
            ran.append(job.name)

    worker.job("object")(Called())
    for name in ("wrapped", "object"):
        await queue.enqueue(name, channel="hello")
    async with working(worker):
        await overview_is(queue, finished=2)
    assert sorted(ran) == ["object", "wrapped"]


async def test_progress_is_a_publication_in_the_jobs_channel(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    worker = new_worker()

    @worker.job("loop")
    async def loop(job: RunningJob) -> None:
        await job.progress(0.25, "begun")
        await job.progress(1.5, "\ud800" + "x" * 2000)

    worker.job("process", process=True)(double)
    async with working(worker):
        for name, data in (("loop", None), ("process", 1)):
            job = await queue.enqueue(name, data, channel="posts:work", result_ttl=60)
            await job.result(30)
    entries = store.xrange(f"{prefix}:{{posts:work}}:stream")
    published = [msgspec.json.decode(fields[b"data"]) for _, fields in entries]
    assert [(each["progress"], each["text"]) for each in published] == [(0.25, "begun"), (1.0, "?" + "x" * 999), (0.5, "half of it")]
    assert published[-1]["job"] == job.id


async def test_progress_that_valkey_refuses_is_logged_once_in_a_row(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    worker = new_worker()

    @worker.job("loop")
    async def loop(job: RunningJob) -> None:
        await job.progress(0.25)
        store.set(f"{prefix}:{{posts:work}}:stream", "another program's")
        for _ in range(3):
            await job.progress(0.5)

    async with working(worker):
        job = await queue.enqueue("loop", channel="posts:work", result_ttl=60)
        await job.result(30)
    refused = [record for record in caplog.records if "its progress was not published in 'posts:work'" in record.getMessage()]
    assert [record.levelname for record in refused if record.levelname != "DEBUG"] == ["WARNING"]


async def test_a_batch_is_full_or_its_time_is_over(queue: Queue, new_worker: NewWorker) -> None:
    sizes, worker = [], new_worker(concurrency=2)

    @worker.job("batch", batch=10, within=0.5)
    async def batch(jobs: list[RunningJob], data: list[int]) -> list[int]:
        sizes.append(len(jobs))
        return [each + 1 for each in data]

    jobs = [await queue.enqueue("batch", number, result_ttl=60) for number in range(25)]
    misfit = await queue.enqueue("batch", "no number")
    async with working(worker):
        assert [await job.result(30) for job in jobs] == list(range(1, 26))
        await ended(queue, misfit.id)
    assert sorted(sizes) == [5, 10, 10]


async def test_an_exception_in_the_list_of_a_batch_is_that_of_its_job_alone(queue: Queue, new_worker: NewWorker) -> None:
    worker = new_worker()

    @worker.job("batch", batch=3, within=0.05)
    async def batch(jobs: list[RunningJob], data: list[int]) -> list[object]:
        outcomes: list[object] = ["sent", Reject("no such address"), Retry(after=0.01)]
        return outcomes if len(jobs) == 3 else [jobs[0].attempt]

    sent, rejected, retried = [await queue.enqueue("batch", number, result_ttl=60) for number in range(3)]
    async with working(worker):
        assert (await sent.result(30), await retried.result(30)) == ("sent", 2)
        with pytest.raises(JobFailed, match="no such address"):
            await rejected.result(30)


@pytest.mark.every_valkey
async def test_middleware_surrounds_handlers_the_first_outermost(queue: Queue, new_worker: NewWorker) -> None:
    calls, worker = [], new_worker()

    def tracing(name: str) -> Callable[..., Any]:
        async def middleware(job: Any, call_next: Callable[[Any], Any]) -> Any:
            calls.append(f"{name} begins {job.name}")
            result = await call_next(job)
            calls.append(f"{name} ends")
            return result

        return middleware

    worker.middleware(tracing("outer"))
    worker.middleware(tracing("inner"))

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        calls.append("works")
        return "done"

    async with working(worker):
        job = await queue.enqueue("work", result_ttl=60)
        assert await job.result(30) == "done"
    assert calls == ["outer begins work", "inner begins work", "works", "inner ends", "outer ends"]


async def test_the_lifespan_surrounds_all_jobs(queue: Queue, new_worker: NewWorker) -> None:
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(worker: Worker) -> Any:
        events.append("opened")
        yield
        events.append("closed")

    worker = new_worker(lifespan=lifespan)

    @worker.job("work")
    async def work(job: RunningJob) -> None:
        events.append("works")
        await worker.enqueue("more", queue="other")

    await queue.enqueue("work")
    async with working(worker):
        await overview_is(queue, "other", ready=1)
    assert events == ["opened", "works", "closed"]


# Failures.


swallowing = asyncio.Event()


async def swallow_cancellation(job: RunningJob) -> None:
    while not swallowing.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def raise_system_exit(job: RunningJob) -> None:
    raise SystemExit(3)


async def raise_keyboard_interrupt(job: RunningJob) -> None:
    raise KeyboardInterrupt


async def raise_base_exception(job: RunningJob) -> None:
    raise BaseException("of the handler's own")


async def cancel_itself(job: RunningJob) -> None:
    raise asyncio.CancelledError


async def return_no_json(job: RunningJob) -> object:
    return object()


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError


async def raise_mute(job: RunningJob) -> None:
    raise Mute


async def retry_never(job: RunningJob) -> None:
    raise Retry(after=float("inf"))


async def reject_at_length(job: RunningJob) -> None:
    raise Reject("too long " * 1_000_000)


async def return_too_much(job: RunningJob) -> str:
    return "x" * 1024 * 1024


async def take_an_order(job: RunningJob, data: Order) -> None: ...


async def sleep_long(job: RunningJob) -> None:
    await asyncio.sleep(60)


def raise_in_a_thread(job: PlainJob) -> None:
    raise StopIteration


BAD_JOBS: dict[str, tuple[Callable[..., Any] | None, dict[str, Any], str]] = {
    "an unknown name": (None, {}, "no handler has the name 'bad' in this worker; it has good"),
    "data that does not fit": (take_an_order, {}, "the data does not fit the handler: Expected `object`, got `null`"),
    "SystemExit": (raise_system_exit, {}, "SystemExit: 3"),
    "KeyboardInterrupt": (raise_keyboard_interrupt, {}, "KeyboardInterrupt"),
    "a BaseException": (raise_base_exception, {}, "BaseException: of the handler's own"),
    "CancelledError": (cancel_itself, {}, "CancelledError"),
    "StopIteration in a thread": (raise_in_a_thread, {}, "RuntimeError: the handler raised StopIteration"),
    "a result that is not JSON": (
        return_no_json,
        {"result_ttl": 5},
        "the job was done, but its result cannot be stored: the result is not JSON",
    ),
    "a result that is too large": (
        return_too_much,
        {"result_ttl": 5},
        "the job was done, but its result cannot be stored: it is at most 1048576 bytes of JSON, not 1048578: ",
    ),
    "an error that raises when its text is asked for": (raise_mute, {}, "what the handler returned or raised cannot be read: LookupError"),
    "a retry after no number of seconds": (retry_never, {}, "TypeError: after is a number of seconds, not inf"),
    "a reason of megabytes": (reject_at_length, {}, "too long too long"),
    "a handler that takes too long": (sleep_long, {"timeout": 0.05}, "timeout: it was not done after 0.05 s"),
    "a handler that never ends": (swallow_cancellation, {"timeout": 0.05}, "timeout: it was not done after 0.05 s"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
async def test_a_bad_job_is_a_dead_letter_and_costs_the_others_nothing(
    case: str, queue: Queue, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.work.running.CANCEL_SECONDS", 0.05)
    monkeypatch.setattr("gateway.work.engine.CANCEL_SECONDS", 0.05)
    swallowing.clear()
    handler, options, reason = BAD_JOBS[case]
    worker = new_worker(concurrency=1, stop_seconds=0.1)

    @worker.job("good")
    async def good(job: RunningJob) -> str:
        return "done"

    if handler is not None:
        worker.job("bad")(handler)
    async with working(worker):
        bad = await queue.enqueue("bad", attempts=1, **options)
        assert await (await queue.enqueue("good", result_ttl=60)).result(30) == "done"
        view = await ended(queue, bad.id)
    swallowing.set()  # or the test's own loop would wait for it at its end
    assert view.failures[-1].error.startswith(reason)


async def test_a_process_that_ends_or_hangs_is_the_failure_of_its_job_alone(queue: Queue, new_worker: NewWorker, tmp_path: Path) -> None:
    worker, pid = new_worker(), tmp_path / "pid"
    worker.job("exit", process=True)(end_the_process)
    worker.job("hang", process=True)(never_end)
    async with working(worker):
        ends = await queue.enqueue("exit", attempts=1)
        assert (await ended(queue, ends.id)).failures[0].error == "its process ended with exit status 3"
        hangs = await queue.enqueue("hang", str(pid), result_ttl=60)
        await until(lambda: pid.exists() and pid.read_text(), "the handler runs")
        assert await hangs.cancel() == "running"
        with pytest.raises(JobFailed, match="cancelled"):
            await hangs.result(30)
        number = int(pid.read_text())
        await until(lambda: not Path(f"/proc/{number}").exists(), "the process was killed")


async def test_a_pool_of_processes_closes_when_their_threads_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the interpreter's end may find a process half closed, and prints a traceback."""
    joined = []

    def slowly(child: Any) -> int:
        time.sleep(0.1)
        joined.append(child)
        return 0

    monkeypatch.setattr("gateway.work.processes._Child._close", slowly)
    pool, pid = ProcessPool(), tmp_path / "pid"
    handler = describe("hang", never_end, batch=None, process=True)
    call = asyncio.create_task(pool.call(handler, Facts("1", "1", "hang", "default", 1, 0, None), f'"{pid}"'.encode(), cast(Any, None)))
    await until(lambda: pid.exists() and pid.read_text(), "the handler runs")
    call.cancel()
    await asyncio.wait([call])
    await pool.close()
    assert len(joined) == 1


async def test_a_process_whose_result_is_no_json_has_done_its_job(queue: Queue, new_worker: NewWorker, tmp_path: Path) -> None:
    worker, ran = new_worker(), tmp_path / "ran"
    worker.job("odd", process=True, backoff=0)(note_and_return_an_object)
    async with working(worker):
        await queue.enqueue("odd", str(ran))
        await overview_is(queue, finished=1)
        awaited = await queue.enqueue("odd", str(ran), result_ttl=60)
        with pytest.raises(JobFailed, match="the job was done, but its result cannot be stored"):
            await awaited.result(30)
    assert ran.read_text() == "1 1 "


@pytest.mark.parametrize("process", [False, True])
async def test_a_result_that_json_does_not_have_is_not_stored_as_null(queue: Queue, new_worker: NewWorker, process: bool) -> None:
    worker = new_worker()
    worker.job("odd", process=process)(return_no_number)
    async with working(worker):
        with pytest.raises(JobFailed, match="its result cannot be stored: the result holds nan, which JSON does not have"):
            await (await queue.enqueue("odd", result_ttl=60)).result(30)


async def test_what_a_handler_forked_neither_answers_nor_outlives_its_job(queue: Queue, new_worker: NewWorker, tmp_path: Path) -> None:
    worker = new_worker(concurrency=1)
    worker.job("fork", process=True)(fork_and_return)
    worker.job("end", process=True)(fork_and_end)
    async with working(worker):
        for number in (1, 2):
            job = await queue.enqueue("fork", number, result_ttl=60)
            assert await job.result(10) == ["parent", number], "not what the fork before it answered"
        ends = await queue.enqueue("end", str(tmp_path / "pid"), attempts=1)
        assert (await ended(queue, ends.id)).failures[0].error == "its process ended with exit status 4"
    fork = int((tmp_path / "pid").read_text())
    await until(lambda: not Path(f"/proc/{fork}").exists(), "the fork was killed with its process")


async def test_a_process_without_a_job_ends_and_one_that_died_meanwhile_is_not_used(
    queue: Queue, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = new_worker(concurrency=1)
    worker.job("pid", process=True)(own_pid)
    async with working(worker):
        pid = await (await queue.enqueue("pid", result_ttl=60)).result(10)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        monkeypatch.setattr("gateway.work.processes.IDLE_SECONDS", 0.01)
        after = await (await queue.enqueue("pid", attempts=1, result_ttl=60)).result(10)
        assert after != pid
        await until(lambda: not runs(after), "it was ended, because it has no job")


async def test_handlers_that_never_end_fill_no_more_threads_than_twice_the_concurrency(
    queue: Queue, new_worker: NewWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker, released = new_worker(concurrency=2, stop_seconds=0.1), threading.Event()

    @worker.job("hang")
    def hang(job: PlainJob) -> None:
        released.wait(30)

    try:
        async with working(worker):
            for _ in range(10):
                await queue.enqueue("hang", attempts=1, timeout=0.01)
            await overview_is(queue, dead_letters=4, ready=6)
            assert [thread.name for thread in threading.enumerate()].count("gateway job") == 4
            assert "4 threads of handlers go on though their jobs are over" in caplog.text
            released.set()
            await overview_is(queue, ready=0, running=0)
    finally:
        released.set()


BARE = """
import asyncio
from gateway.work import Worker
worker = Worker(url={url!r}, prefix={prefix!r})

@worker.job("own", process=True)
def own(job): ...

asyncio.run(worker.run())
"""


async def test_a_script_that_runs_its_worker_whenever_it_is_imported_is_refused_in_a_handlers_process(
    queue: Queue, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "bare.py").write_text(BARE.format(url=valkey_url, prefix=prefix))
    program = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "bare.py"), stderr=asyncio.subprocess.PIPE)
    try:
        job = await queue.enqueue("own", attempts=1)
        assert (await ended(queue, job.id)).failures[0].error == "its process ended with exit status 1"
        assert program.stderr is not None
        assert b"run it under `if __name__ == " in await program.stderr.readuntil(b'"__main__"')
    finally:
        program.terminate()
        await program.communicate()


async def test_tasks_that_a_handler_leaves_running_are_reported(
    queue: Queue, new_worker: NewWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker, left = new_worker(), []

    @worker.job("leak")
    async def leak(job: RunningJob) -> None:
        left.append(asyncio.create_task(asyncio.sleep(60)))

    async with working(worker):
        await (await queue.enqueue("leak", result_ttl=60)).result(30)
    assert "leak left 1 tasks running when it ended" in caplog.text
    left[0].cancel()


async def test_a_failed_job_is_tried_again_until_it_has_no_attempts(queue: Queue, new_worker: NewWorker) -> None:
    worker, attempts = new_worker(), []

    @worker.job("fail", backoff=0.01)
    async def fail(job: RunningJob) -> None:
        attempts.append((job.attempt, job.key))
        raise Retry(after=0.01, reason="not yet") if job.attempt == 2 else ValueError(f"attempt {job.attempt}")

    async with working(worker):
        job = await queue.enqueue("fail", attempts=4)
        view = await ended(queue, job.id)
        assert attempts == [(number, job.id) for number in (1, 2, 3, 4)]
        assert [failure.error.partition("\n")[0] for failure in view.failures] == [
            "ValueError: attempt 1",
            "not yet",
            "ValueError: attempt 3",
            "ValueError: attempt 4",
        ]
        assert "raise Retry" in view.failures[0].error  # the end of the traceback, which shows the line
        assert await queue.queues.resend("default", job.id) == (1, 0)
        await until(lambda: len(attempts) == 8, "it is tried four times more")


async def test_nothing_is_left_of_a_dead_letter_that_was_sent_again_and_done(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    worker, broken = new_worker(), [True]

    @worker.job("work")
    async def work(job: RunningJob) -> None:
        if broken:
            raise Reject("it is broken")

    async with working(worker):
        job = await queue.enqueue("work")
        await ended(queue, job.id)
        broken.clear()
        await queue.queues.resend("default", job.id)
        await overview_is(queue, finished=1)
    left = {key.decode().rpartition("}")[2] for key in store.scan_iter(f"{prefix}:queue:*")}
    assert left == {""}, "only the counters"


@pytest.mark.every_valkey
async def test_a_job_of_a_name_that_is_not_known_yet_is_done_by_a_worker_that_knows_it(
    queue: Queue, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a new version is rolled out."""
    monkeypatch.setattr("gateway.work.engine.UNKNOWN_SECONDS", 0.05)
    older, newer = new_worker(), new_worker()
    older.job("old")(sleep_long)

    @newer.job("new")
    async def new(job: RunningJob) -> int:
        return job.attempt

    async with working(older):
        job = await queue.enqueue("new", result_ttl=60, attempts=50)  # more than the older worker makes until it stops

        async def is_retried() -> bool:
            return (await queue.queues.overview("default")).retried > 0

        await eventually(is_retried, "the older worker leaves the job for later")
    async with working(newer):
        assert await job.result(30) >= 2


async def test_a_rejected_job_is_a_dead_letter_at_once(queue: Queue, new_worker: NewWorker) -> None:
    worker = new_worker()

    @worker.job("reject")
    async def reject(job: RunningJob) -> None:
        raise Reject("no such order")

    async with working(worker):
        job = await queue.enqueue("reject", result_ttl=60)
        with pytest.raises(JobFailed, match=r"^no such order$"):
            await job.result(30)
        assert (await job.look()).state == "dead"
        with pytest.raises(JobFailed, match="enqueued without result_ttl"):
            await (await queue.enqueue("reject", delay=600)).result(30)


@pytest.mark.parametrize("serial", ["", "x" * 201, "two\nlines"])
async def test_a_serial_key_that_is_none_is_the_failure_of_its_job_at_once(serial: str, queue: Queue, new_worker: NewWorker) -> None:
    worker = new_worker()

    @worker.job("work", serial=lambda data: data)
    async def work(job: RunningJob, data: str) -> None: ...

    job = await queue.enqueue("work", serial)
    async with working(worker):
        view = await ended(queue, job.id)
    assert view.failures[-1].error.startswith(
        "its serial key could not be made of its data: ValueError: the serial key is a text of 1 to 200 bytes"
    )


async def test_large_data_that_is_no_json_is_a_dead_letter_when_it_is_taken(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    """Valkey checks data up to 64 KiB only: a megabyte would take it from all others for 0.4 s."""
    worker, keys = new_worker(), Layout(prefix).queue("default")
    worker.job("work")(sleep_long)
    store.fcall("gateway_enqueue", len(keys), *keys, "work", "{" * 70_000, "id", "x")
    async with working(worker):
        view = await ended(queue, "x")
    assert view.failures[-1].error == "it is not a job: another program wrote it"


async def test_a_job_whose_id_is_no_text_is_a_dead_letter_and_is_not_run_again_and_again(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    worker, runs = new_worker(lease=0.5), []

    @worker.job("work")
    async def work(job: RunningJob) -> None:
        runs.append(job.id)

    job = await queue.enqueue("work")
    base = f"{prefix}:queue:{{default}}"
    store.hset(f"{base}:jobs", b"\xff\xfe", store.hget(f"{base}:jobs", job.id))
    store.lpush(f"{base}:ready:0", b"\xff\xfe")
    async with working(worker):
        await overview_is(queue, finished=1, dead_letters=1, running=0)
    assert runs == [job.id]


# Order, pace, priority.


@pytest.mark.parametrize("by", ["producer", "worker"])
async def test_jobs_of_one_serial_key_run_one_after_another(by: str, queue: Queue, new_worker: NewWorker) -> None:
    """Over two workers where the producer names the key; the worker's key has the order in which it took them."""
    running: set[str] = set()
    order: dict[str, list[int]] = {"a": [], "b": []}

    async def work(job: RunningJob, data: dict[str, Any]) -> None:
        assert data["of"] not in running
        running.add(data["of"])
        await asyncio.sleep(0.002)
        running.discard(data["of"])
        order[data["of"]].append(data["number"])

    workers = [new_worker(concurrency=8) for _ in range(2 if by == "producer" else 1)]
    for worker in workers:
        worker.job("work", serial=(lambda data: data["of"]) if by == "worker" else None)(work)
    for number in range(20):
        for of in order:
            await queue.enqueue("work", {"of": of, "number": number}, serial=of if by == "producer" else None)
    async with working(*workers):
        await overview_is(queue, finished=40)
    assert order == {"a": list(range(20)), "b": list(range(20))}


@pytest.mark.parametrize("serial", [lambda data: data.order, lambda data: data["order"]], ids=["attribute", "item"])
async def test_the_serial_key_of_data_that_is_an_object_is_made_of_it_or_of_its_json(
    serial: Callable[[Any], object], queue: Queue, new_worker: NewWorker
) -> None:
    """The contract's own example has ``serial=lambda data: data["order"]`` beside ``data: Order``."""
    running = 0

    async def work(job: RunningJob, data: Order) -> int:
        nonlocal running
        running += 1
        await asyncio.sleep(0.002)
        assert running == 1
        running -= 1
        return data.order

    worker = new_worker(concurrency=8)
    worker.job("work", serial=serial)(work)
    jobs = [await queue.enqueue("work", {"order": 17}, result_ttl=60) for _ in range(5)]
    async with working(worker):
        assert [await job.result(timeout=10) for job in jobs] == [17] * 5


async def test_a_serial_key_that_cannot_be_made_names_the_fault_of_the_data_that_the_handler_gets(
    queue: Queue, new_worker: NewWorker
) -> None:
    async def work(job: RunningJob, data: Order) -> None: ...

    worker = new_worker()
    worker.job("work", serial=lambda data: data.order + "")(work)
    job = await queue.enqueue("work", {"order": 17}, result_ttl=60)
    async with working(worker):
        with pytest.raises(JobFailed, match="serial key could not be made of its data: TypeError: unsupported operand"):
            await job.result(timeout=10)


async def test_a_rate_holds_over_all_workers(queue: Queue, new_worker: NewWorker) -> None:
    starts: list[float] = []

    async def work(job: RunningJob) -> None:
        starts.append(time.monotonic())

    workers = [new_worker(), new_worker()]
    for worker in workers:
        worker.job("work", rate="100/s")(work)
    for _ in range(25):
        await queue.enqueue("work")
    async with working(*workers):
        await overview_is(queue, finished=25)
    assert max(starts) - min(starts) >= 0.2  # the first two may start at once, and a call may take a few milliseconds


@pytest.mark.parametrize("rate", ["1/2d", "0.5/d", "1/30d", "60000000/s", "1000000000000/ms"])
def test_a_rate_that_valkey_would_refuse_is_refused_when_the_worker_is_made(rate: str) -> None:
    """Else its queues would wait for ever: no job of any name could be taken."""
    with pytest.raises(ValueError, match="a rate is from 1 a day to 50,000,000 a second"):
        Worker(rate=rate)


def test_a_rate_is_how_many_in_which_time() -> None:
    assert [read_rate(text).every for text in ("100/s", "30/m", "5/10s", "0.5/s")] == [10, 2000, 2000, 2000]
    for text in ("", "100", "0/s", "5/0s", "-1/s", "1/w"):
        with pytest.raises(ValueError, match="a rate is how many in which time"):
            read_rate(text)


@pytest.mark.every_valkey
async def test_a_low_priority_does_not_starve_nor_a_queue_of_less_weight(queue: Queue, new_worker: NewWorker) -> None:
    worker, order = new_worker({"heavy": 3, "light": 1}, concurrency=1), []

    @worker.job("work")
    async def work(job: RunningJob, data: str) -> None:
        order.append(data)

    for _ in range(40):
        await queue.enqueue("work", "first", queue="heavy", priority=9)
        await queue.enqueue("work", "last", queue="heavy", priority=0)
        await queue.enqueue("work", "light", queue="light")
    async with working(worker):
        await until(lambda: len(order) == 120, "all are done")
    begun = order[:40]
    assert 8 <= begun.count("light") <= 12
    assert 0 < begun.count("last") < begun.count("first")


# Times.


async def test_a_job_starts_when_it_is_due_and_waiting_costs_nothing(queue: Queue, new_worker: NewWorker, own: Any) -> None:
    async with Queue(own.url) as far:
        worker = Worker(url=own.url, lease=60)
        done: list[float] = []

        @worker.job("work")
        async def work(job: RunningJob) -> None:
            done.append(time.time())

        await far.enqueue("work", at=datetime.now(UTC) + timedelta(days=365))
        for _ in range(200):
            await far.enqueue("work", delay=86400)
        async with working(worker):
            due = time.time() + 0.15
            await far.enqueue("work", at=due)
            own.client.config_resetstat()
            await until(lambda: done, "the job that is due runs")
            assert done[0] >= due
            calls = own.client.info("commandstats")["cmdstat_fcall"]["calls"]
            assert calls < 12  # takes at the announcement and when it is due, its end, a heartbeat or two: nobody polls


@pytest.mark.parametrize("options", [{"expires": 0.01}, {"priority": 3, "expires": 0.01}])
async def test_a_job_that_expired_is_a_dead_letter(queue: Queue, new_worker: NewWorker, options: dict[str, Any]) -> None:
    worker = new_worker()
    worker.job("work")(sleep_long)
    job = await queue.enqueue("work", **options)
    await asyncio.sleep(0.02)
    async with working(worker):
        assert (await ended(queue, job.id)).failures[0].error == "it expired before a worker took it"


# Waiting for results.


async def test_many_waiters_for_one_job_read_its_result_once_at_a_time(
    queue: Queue, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, under_way, read = new_worker(), [0], queue.queues.job

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        return "done"

    async def counted(name: str, id: str) -> Any:
        under_way.append(under_way[-1] + 1)
        try:
            return await read(name, id)
        finally:
            under_way.append(under_way[-1] - 1)

    monkeypatch.setattr(queue.queues, "job", counted)
    job = await queue.enqueue("work", result_ttl=60)
    waiting = [asyncio.create_task(job.result(30)) for _ in range(500)]
    async with working(worker):
        assert set(await asyncio.gather(*waiting)) == {"done"}
        assert set(await asyncio.gather(*[job.result(30) for _ in range(500)])) == {"done"}
    assert max(under_way) == 1, "each answer may have megabytes"


@pytest.mark.parametrize("text", [b"\xff", b"{}", b"7", b'{"result":1e999}', b"[" * 100_000])
async def test_a_result_that_cannot_be_read_is_the_failure_of_its_waiter(
    text: bytes, queue: Queue, prefix: str, store: valkey.Valkey
) -> None:
    store.hset(f"{prefix}:queue:{{default}}:results", "x", text)
    with pytest.raises(JobFailed, match="its result cannot be read"):
        await queue.wait("default", "x")


# Stopping, dying, losing.


async def test_a_worker_that_is_stopped_before_its_task_begins_ends_and_works_the_next_time(queue: Queue, new_worker: NewWorker) -> None:
    worker = new_worker(stop_seconds=0)
    worker.job("work")(sleep_long)
    running = asyncio.create_task(worker.run())
    worker.stop()
    async with asyncio.timeout(10):
        await running
    async with working(worker):
        await queue.enqueue("work")
        await overview_is(queue, running=1)


async def test_a_worker_that_stops_ends_its_jobs_or_gives_them_back(queue: Queue, new_worker: NewWorker) -> None:
    begun, worker, other = [], new_worker(stop_seconds=0.3), new_worker()

    @worker.job("work")
    @other.job("work")
    async def work(job: RunningJob, data: float) -> int:
        begun.append(data)
        await asyncio.sleep(data if len(begun) <= 2 else 0)
        return job.attempt

    async with working(worker):
        quick, slow = [await queue.enqueue("work", seconds, result_ttl=60) for seconds in (0.1, 60.0)]
        await until(lambda: len(begun) == 2, "both run")
    assert await quick.result(30) == 1
    assert (await slow.look()).state == "ready"
    async with working(other):
        assert await slow.result(30) == 1  # no attempt was counted
    overview = await queue.queues.overview("default")
    assert (overview.given_back, overview.retried, overview.workers) == (1, 0, 0)


async def work_in_a_process(url: str, prefix: str, name: str, lease: float) -> None:
    worker = Worker(url=url, prefix=prefix, lease=lease)

    @worker.job("work")
    async def work(job: RunningJob) -> None:
        if name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.attempt == 1:
            time.sleep(60)  # the loop is blocked: nothing renews the lease

    await worker.run()


async def test_a_dead_workers_job_starts_again_within_its_lease_and_a_second(
    queue: Queue, new_worker: NewWorker, valkey_url: str, prefix: str
) -> None:
    lease, started = 0.5, asyncio.Event()
    blocked = forks.start(work_in_a_process, valkey_url, prefix, "blocks", lease)
    job = await queue.enqueue("work", result_ttl=60)
    await overview_is(queue, running=1)
    os.kill(blocked.pid or 0, signal.SIGKILL)
    died = time.monotonic()
    worker = new_worker(lease=60)

    @worker.job("work")
    async def work(job: RunningJob) -> int:
        started.set()
        return job.attempt

    async with working(worker):
        assert await job.result(30) == 2
    assert time.monotonic() - died < lease + 1


async def test_a_job_that_crashed_three_workers_is_a_dead_letter(queue: Queue, new_worker: NewWorker, valkey_url: str, prefix: str) -> None:
    job = await queue.enqueue("work")
    watching = new_worker(queues=["default"], lease=0.5)
    for _ in range(3):
        dying = forks.start(work_in_a_process, valkey_url, prefix, "dies", 0.5)
        await asyncio.to_thread(dying.join)
    watching.job("other")(sleep_long)
    async with working(watching):
        view = await ended(queue, job.id)
    assert len(view.failures) == 3
    assert view.failures[-1].error == "the lease of its worker ended: the worker died, or could not renew it"


async def test_a_worker_whose_lease_was_over_cannot_end_the_job_of_another(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    release, attempts, worker = asyncio.Event(), [], new_worker(lease=60)

    @worker.job("work")
    def work(job: PlainJob) -> int:
        attempts.append(job.attempt)
        if job.attempt == 1:
            wait_until(release.is_set, "it is presumed dead")
        return job.attempt

    layout = Layout(prefix)
    async with working(worker):
        job = await queue.enqueue("work", result_ttl=60)
        await until(lambda: attempts, "the job runs")
        name = store.zrange(f"{prefix}:queue:{{default}}:workers", 0, -1)[0].decode()
        store.zadd(f"{prefix}:queue:{{default}}:workers", {name: 1})
        keys = (*layout.queue("default"), layout.taken("default", name))
        assert store.execute_command("FCALL", "gateway_reclaim", len(keys), *keys, name) == 1
        release.set()
        assert await job.result(30) == 2
    assert "the lease of this worker was over when jobs were done" in caplog.text


async def test_a_worker_goes_on_when_valkey_was_killed(new_worker: NewWorker, own: Any) -> None:
    worker, done = Worker(url=own.url, lease=5), []

    @worker.job("work")
    async def work(job: RunningJob, data: int) -> None:
        done.append(data)
        await asyncio.sleep(0.01)

    async with Queue(own.url) as queue, working(worker):
        before = (await queue.queues.overview("default")).finished
        enqueuing = asyncio.gather(*[queue.enqueue("work", number) for number in range(300)])
        await until(lambda: len(done) > 20, "the work is under way")
        own.kill()
        own.start()
        await enqueuing
        await overview_is(queue, running=0, ready=0)
        await until(lambda: len(set(done)) == 300, "all are done")
        await overview_is(queue, finished=before + 300)


# Producers.


def failure_of(job: SyncEnqueuedJob) -> str:
    with pytest.raises(JobFailed) as raised:
        job.result(timeout=10)
    return str(raised.value)


def test_a_plain_producer_enqueues_awaits_and_cancels(valkey_url: str, prefix: str) -> None:
    async def run(stopping: Any) -> None:
        worker = Worker(url=valkey_url, prefix=prefix)

        @worker.job("work")
        async def work(job: RunningJob, data: int) -> int:
            await asyncio.sleep(data)
            return job.attempt

        running = asyncio.create_task(worker.run())
        await stopping.wait()
        worker.stop()
        await running

    stopping = asyncio.Event()
    with asyncio.Runner() as runner, SyncQueue(valkey_url, prefix=prefix, limit=3) as queue:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(run(stopping),))
        thread.start()
        try:
            job = queue.enqueue("work", 0, result_ttl=60)
            assert job.result(timeout=10) == 1
            with pytest.raises(JobFailed, match="enqueued without result_ttl"):
                queue.enqueue("work", 0, delay=600).result(timeout=10)
            dead = queue.enqueue("work", "no number")
            wait_until(lambda: "the data does not fit the handler" in failure_of(dead), "the reason of a dead letter")
            slow = [queue.enqueue("work", 60, result_ttl=60, key="once") for _ in range(2)]
            assert [each.new for each in slow] == [True, False] and slow[0].id == slow[1].id
            with pytest.raises(TimeoutError, match=r"has no result after 0\.05 s"):
                slow[0].result(timeout=0.05)
            wait_until(lambda: slow[0].cancel() in ("running", "none"), "it runs")
            with pytest.raises(JobFailed, match="cancelled"):
                slow[0].result(timeout=10)
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()


async def test_a_full_queue_refuses_in_words(valkey_url: str, prefix: str) -> None:
    async with Queue(valkey_url, prefix=prefix, limit=2) as queue:
        await queue.enqueue("work")
        await queue.enqueue("work")
        with pytest.raises(QueueFull, match=r"^the queue holds 2 jobs, 0 of them dead letters; its limit is 2$"):
            await queue.enqueue("work")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

BAD_ENQUEUES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "a cycle": (("work", CYCLE), {}, "the data of a job is nested too deep"),
    "data that JSON does not have": (("work", float("nan")), {}, "the data of a job holds nan, which JSON does not have"),
    "data that is too large": (("work", "x" * 1048577), {}, "the data of a job is at most 1048576 bytes of JSON, not 1048579"),
    "no name": (("",), {}, "the name of a job is a text of 1 to 200 bytes"),
    "a negative priority": (("work",), {"priority": -1}, "priority is a whole number from 0 to 9, not -1"),
    "a delay of eleven years": (("work",), {"delay": 11 * 365 * 86400}, "delay is a number of seconds from 0 to 315360000"),
    "a delay that is no number": (("work",), {"delay": float("nan")}, "delay is a number of seconds"),
    "a queue with braces": (("work",), {"queue": "a{b}"}, "a queue is named by 1 to 100 bytes without braces"),
    "an unknown option": (("work",), {"retries": 3}, "a job has no option 'retries'; the options are key, priority"),
    "a time without a zone": (("work",), {"at": datetime(2026, 1, 1)}, "at is a datetime with a time zone"),
    "no attempts": (("work",), {"attempts": 0}, "attempts is a whole number from 1 to 1000, not 0"),
    "a channel that is none": (
        ("work",),
        {"channel": "a\n"},
        "the channel.s name holds a brace, a control character or half a surrogate pair",
    ),
}


@pytest.mark.parametrize("case", BAD_ENQUEUES)
async def test_a_bad_enqueue_says_what_is_wrong(case: str) -> None:
    arguments, options, message = BAD_ENQUEUES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        await Queue("valkey://127.0.0.1:1").enqueue(*arguments, **options)


BAD_WORKERS: dict[str, tuple[Callable[[], Any], str]] = {
    "no name": (lambda: Worker().job(str), r'registered with its name: @worker\.job\("mail\.send"\)'),  # type: ignore[arg-type]  # a bad argument
    "no time zone": (lambda: Worker(timezone="Europe/Berln"), "timezone .Europe/Berln. is not known here"),
    "a lease of 0": (lambda: Worker(lease=0), "lease is 0.5 to 3600 seconds, not 0"),
    "a queue with braces": (lambda: Worker(["{"]), "a queue is named by"),
    "a queue that is a text": (lambda: Worker("default"), r'queues is a list of names, \["default"\]'),
    "no concurrency": (lambda: Worker(concurrency=0), "concurrency is a whole number from 1 to 1000, not 0"),
    "a handler without parameters": (lambda: Worker().job("a")(lambda: None), "a handler takes the job and its data"),
    "an annotation that is no type": (lambda: Worker().job("a")(_unreadable), "the annotation of the data cannot be read from JSON"),
    "a coroutine function in a process": (lambda: Worker().job("a", process=True)(sleep_long), "is a plain function"),
    "a generator": (lambda: Worker().job("a")(_generate), "a: a handler cannot be a generator, since nothing would run it"),
    "an asynchronous generator": (lambda: Worker().job("a")(_generate_async), "a: a handler cannot be a generator"),
    "a serial key that is awaited": (lambda: Worker().job("a", serial=sleep_long)(_take), "a: serial is a plain function"),
    "a backoff that is no number": (lambda: Worker().job("a", backoff=float("nan")), "backoff is a number of seconds from 0, not nan"),
    "a time of a batch below 0": (lambda: Worker().job("a", batch=2, within=-1), "within is a number of seconds from 0, not -1"),
    "a cron expression that is none": (lambda: Worker().cron("every day", "a"), '"every day" is not a cron expression'),
}


def test_a_partial_and_an_object_that_is_called_are_handlers() -> None:
    """Their annotations are texts here, as in every module with the annotations of the future."""

    class Take:
        def __call__(self, job: RunningJob, data: Order) -> None: ...

    worker = Worker()
    worker.job("partial")(partial(_take_with, 1))
    worker.job("object")(Take())
    for handler in worker.handlers.values():
        assert handler.read(b'{"order":1}') == Order(1)


def _take_with(number: int, job: RunningJob, data: Order) -> None: ...


def _take(job: Any) -> None: ...


def _generate(job: Any) -> Any:
    yield job


async def _generate_async(job: Any) -> Any:
    yield job


def _unreadable(job: Any, data: dict[int, Any] | dict[str, Any]) -> None: ...


@pytest.mark.parametrize("case", BAD_WORKERS)
def test_a_worker_that_cannot_work_says_so_when_it_is_made(case: str) -> None:
    make, message = BAD_WORKERS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# Periodic jobs.


def test_a_worker_of_utc_needs_no_data_of_time_zones_and_another_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container that has none no worker started, though it had no periodic job."""

    def missing(name: str) -> None:
        raise ZoneInfoNotFoundError(f"No time zone found with key {name}")

    monkeypatch.setattr("gateway.work.periodic.ZoneInfo", missing)
    worker = Worker()
    worker.cron("0 3 * * *", "nightly")(_take)
    assert worker._schedules[0].tick_after(datetime(2026, 11, 27, 3, tzinfo=UTC)) == datetime(2026, 11, 28, 3, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"'Europe/Berlin' is not known here.*pip install tzdata"):
        Worker(timezone="Europe/Berlin")


async def test_a_tick_that_passed_while_no_worker_ran_becomes_one_job(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    ran: list[str] = []
    workers = [new_worker(), new_worker()]
    for worker in workers:

        @worker.cron("0 3 * * *", "nightly", attempts=2)
        async def nightly(job: RunningJob) -> None:
            ran.append(job.id)

    async with working(*workers):
        await overview_is(queue, workers=2)
    assert ran == []  # a schedule that is new begins with its next tick
    base = f"{prefix}:queue:{{default}}"
    assert store.hexists(base, "v:cron:nightly")
    store.hset(base, "v:cron:nightly", "1000 1000")  # as if the last tick that was enqueued were long ago
    async with working(*workers):
        await until(lambda: ran, "the missed tick runs")
        await overview_is(queue, finished=1)
    assert len(ran) == 1


async def test_a_schedule_with_another_expression_has_missed_none_of_its_ticks(
    queue: Queue, new_worker: NewWorker, prefix: str, store: valkey.Valkey
) -> None:
    """A monthly job whose hour was changed ran once more on the day of the change, whichever that was."""
    ran: list[str] = []

    def scheduled(expression: str, timezone: str) -> Worker:
        worker = new_worker(timezone=timezone)

        @worker.cron(expression, "monthly")
        async def monthly(job: RunningJob) -> None:
            ran.append(job.id)

        @worker.job("after")
        async def after(job: RunningJob) -> str:
            return "done"

        return worker

    base = f"{prefix}:queue:{{default}}"
    for expression, timezone in (("0 0 1 1 *", "UTC"), ("0 1 1 1 *", "UTC"), ("0 1 1 1 *", "Asia/Tokyo")):
        worker = scheduled(expression, timezone)
        async with working(worker):
            await until(
                lambda ticks=f"{expression} {timezone}": store.hget(base, "cron:monthly") == ticks.encode(), "the schedule has begun"
            )
            assert await (await queue.enqueue("after", result_ttl=60)).result(30) == "done"
        assert ran == []
        store.hset(base, "v:cron:monthly", "1000 1000")  # as if its last tick were long ago
    async with working(worker):
        await until(lambda: len(ran) == 1, "a tick that was missed is made up for")


async def test_each_tick_is_one_job_over_all_workers(queue: Queue, new_worker: NewWorker) -> None:
    ticks: list[float] = []
    workers = [new_worker(), new_worker()]
    for worker in workers:

        @worker.cron("* * * * * *", "each second")
        async def each(job: RunningJob) -> None:
            ticks.append(time.time())

    async with working(*workers):
        await until(lambda: len(ticks) >= 2, "two seconds have passed")
    assert ticks[1] - ticks[0] > 0.5
