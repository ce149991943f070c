"""At least once, proven: workers are killed, frozen and slow, Valkey is killed, and some jobs are poison.

A run is made of its seed. The suite plays short ones; a long one, such as the 20,000 jobs of the documentation's figures, is

    PROOF_JOBS=20000 PROOF_SEEDS=1,2,3 python -m pytest tests/work/test_proof.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import Unavailable
from gateway.work import Queue, Reject, RunningJob, Worker

from ..kit import forks
from ..kit.valkeys import OwnValkey
from ..kit.waiting import eventually

JOBS = int(os.environ.get("PROOF_JOBS", "250"))
SEEDS = [int(seed) for seed in os.environ.get("PROOF_SEEDS", "1,2").split(",")]
SECONDS = 20 + JOBS / 100  # a run that takes longer is stuck

LEASE = 0.5
WORKERS = 3
KINDS = {"good": 88, "slow": 6, "flaky": 5, "late": 0.5, "poison": 0.25, "reject": 0.25}  # in a hundred jobs


class Task(msgspec.Struct):
    kind: str
    number: int


async def work(url: str, effects: Path) -> None:
    """A worker. An effect is a file that is made exactly once: that it is there already is the answer to a second attempt."""
    worker = Worker(url=url, lease=LEASE, concurrency=8, stop_seconds=0.2)

    @worker.job("task", backoff=0.05, backoff_most=0.2)
    async def handle(job: RunningJob, data: Task) -> None:
        if data.kind == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if data.kind == "reject":
            raise Reject("it can never be done")
        if data.kind == "flaky" and job.attempt == 1:
            raise ValueError("not at the first attempt")
        if data.kind == "slow":
            await asyncio.sleep(0.05)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(effects / job.key, os.O_CREAT | os.O_EXCL))
        if data.kind == "late" and job.attempt == 1:
            time.sleep(2 * LEASE)  # blocks the loop: its lease is over when it ends the job

    while True:  # Valkey may be away when the worker starts
        with contextlib.suppress(Unavailable):
            await worker.run()
            return
        await asyncio.sleep(0.05)


class Faults:
    """Kills and freezes the workers, and kills Valkey, as its random numbers say."""

    def __init__(self, own: OwnValkey, effects: Path, draw: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._own = own
        self._effects = effects
        self._draw = draw
        self._workers: list[BaseProcess] = [self._start() for _ in range(WORKERS)]

    def _start(self) -> BaseProcess:
        return forks.start(work, self._own.url, self._effects)

    async def play(self) -> None:
        while True:
            await asyncio.sleep(self._draw.uniform(0.05, 0.25))
            fault = self._draw.choices(("kill", "freeze", "valkey"), (4, 3, 1))[0]
            self.done[fault] += 1
            if fault == "valkey":
                await asyncio.to_thread(self._restart_valkey)
                continue
            place = self._draw.randrange(WORKERS)
            if fault == "kill":
                self._signal(place, signal.SIGKILL)
            else:
                self._signal(place, signal.SIGSTOP)
                await asyncio.sleep(self._draw.uniform(0.1, 1.5 * LEASE))
                self._signal(place, signal.SIGCONT)
            self.replace_dead()

    def replace_dead(self) -> None:
        """Poison kills workers too."""
        for place, process in enumerate(self._workers):
            if not process.is_alive():
                self._workers[place] = self._start()

    def end(self) -> None:
        for process in self._workers:
            process.kill()
            process.join()

    def _signal(self, place: int, number: int) -> None:
        process = self._workers[place]
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
            if number == signal.SIGKILL:
                process.join()

    def _restart_valkey(self) -> None:
        self._own.kill()
        self._own.start()


@pytest.fixture
async def faults(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Faults, OwnValkey, Path, random.Random]]:
    own, effects, draw = OwnValkey(tmp_path / "valkey"), tmp_path / "effects", random.Random(request.getfixturevalue("seed"))
    own.start()
    effects.mkdir()
    faults = Faults(own, effects, draw)
    yield faults, own, effects, draw
    faults.end()
    own.close()


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_is_finished_or_a_dead_letter_and_its_effect_happens_once(
    seed: int, faults: tuple[Faults, OwnValkey, Path, random.Random]
) -> None:
    monkey, own, effects, draw = faults
    kinds = [draw.choices(list(KINDS), list(KINDS.values()))[0] for _ in range(JOBS)]
    kinds[:2] = ["poison", "late"]  # each run has one of either
    async with Queue(own.url, patience=30) as queue:
        playing = asyncio.create_task(monkey.play())
        keys = await _enqueue(queue, kinds)
        async with asyncio.timeout(SECONDS):
            await eventually(lambda: _is_settled(queue, monkey), "every job has come to its end", SECONDS)
        playing.cancel()
        overview = await queue.queues.overview("default")
        pages = [await queue.queues.jobs("default", "dead", first=first, limit=200) for first in range(0, overview.dead_letters, 200)]
        dead = {view.id for page in pages for view in page}
    unlucky = sum(key in dead and kind not in ("poison", "reject") for key, kind in zip(keys, kinds, strict=True))
    print(f"seed {seed}: {JOBS} jobs, faults {dict(monkey.done)}, dead for what ran beside them: {unlucky}, {overview}")
    assert overview.enqueued == JOBS
    assert overview.finished + overview.dead_letters == JOBS  # none is counted twice: a presumed-dead worker's end is refused
    assert overview.cancelled == overview.strays == 0
    assert unlucky <= max(10, JOBS * 0.02)
    for key, kind in zip(keys, kinds, strict=True):
        if kind in ("poison", "reject"):
            assert key in dead and not (effects / key).exists()
        elif key not in dead:
            assert (effects / key).exists(), f"job {key}, {kind}, was finished without its effect"
    assert len(list(effects.iterdir())) <= JOBS
    base = "gw:queue:{default}"
    assert own.ask("HLEN", f"{base}:jobs") == overview.dead_letters
    for left in ("runs", "keys", "running", "serial", "delayed"):
        assert own.ask("EXISTS", f"{base}:{left}") == 0, f"{left} holds something of jobs that ended"


async def _enqueue(queue: Queue, kinds: list[str]) -> list[str]:
    keys = []
    for start in range(0, len(kinds), 50):
        page = list(enumerate(kinds))[start : start + 50]
        jobs = await asyncio.gather(*[queue.enqueue("task", {"kind": kind, "number": number}, attempts=20) for number, kind in page])
        keys += [job.id for job in jobs]
        await asyncio.sleep(0.05)
    return keys


async def _is_settled(queue: Queue, faults: Faults) -> bool:
    faults.replace_dead()
    await asyncio.sleep(0.05)
    overview: Any = await queue.queues.overview("default")
    return bool(overview.finished + overview.dead_letters == JOBS)
