"""The functions of a work queue against the naive model of ``kit/queue_model``: any calls in any order, each maybe twice, and time that passes.

``QUEUE_EXAMPLES=600 pytest --hypothesis-seed=7 tests/work/test_queue_model.py`` looks for six minutes, and again in the same way; it makes what
it finds as short as it can, which may take as long again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from ..kit.queue_functions import QueueFunctions, load_functions
from ..kit.queue_model import BURST, EVERY, Job, QueueModel
from ..kit.valkeys import OwnValkey

EXAMPLES = int(os.environ.get("QUEUE_EXAMPLES", "0"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate] + [Phase.shrink] * bool(EXAMPLES)
WORKERS = ["w1", "w2", "w3"]
LIMITS = ("limited", EVERY, BURST)

worker_names = st.sampled_from(WORKERS)
indexes = st.integers(0, 9)
PLACES = ["ready", "delayed", "parked", "running", "dead"]


@pytest.fixture(scope="module")
def functions(own: OwnValkey) -> Iterator[QueueFunctions]:
    load_functions(own, frozen=True)
    yield QueueFunctions(own)


def scores(pairs: list[tuple[bytes, float]]) -> dict[str, int]:
    return {member.decode(): int(score) for member, score in pairs}


class Machine(RuleBasedStateMachine):
    functions: QueueFunctions

    def __init__(self) -> None:
        super().__init__()
        self.model = QueueModel()
        self.runs: list[tuple[str, str, int]] = []  # worker, id, token: all that workers were ever given
        self.number = 0
        self.wakes: dict[str, float] = {}  # workers that wait for an announcement → when they take again by themselves

    @initialize()
    def begin(self) -> None:
        self.functions.empty()
        self.functions.set_time(self.model.now)

    def run_of(self, index: int) -> tuple[str, str, int]:
        return self.runs[-1 - index % len(self.runs)]

    def some_id(self, index: int) -> str:
        return list(self.model.jobs)[index % len(self.model.jobs)]

    # Producers.

    @rule(
        priority=st.sampled_from([0, 0, 0, 3, 9]),
        delay=st.sampled_from([0, 0, 0, 50, 1000]),
        attempts=st.integers(1, 3),
        key=st.sampled_from(["", "", "k1", "k2"]),
        serial=st.sampled_from(["", "", "s1", "s2"]),
        expires=st.sampled_from([0, 0, 0, 30]),
        result_ttl=st.sampled_from([0, 0, 1, 60]),
        name=st.sampled_from(["plain", "plain", "limited"]),
        again=st.sampled_from([0, 0, 0, 1, 2]),
        limit=st.sampled_from([1000, 1000, 6]),
    )
    def enqueue(self, delay: int, again: int, limit: int, **options: Any) -> None:
        self.number += 1
        job = Job(f"job-{max(1, self.number - again)}", **options)
        words: list[Any] = [job.name, str(self.number), "id", job.id, "priority", job.priority, "attempts", job.attempts, "limit", limit]
        words += ["delay", delay / 1000, "result_ttl", job.result_ttl]
        words += ["key", job.key] * bool(job.key) + ["serial", job.serial] * bool(job.serial)
        words += ["expires", job.expires / 1000] * bool(job.expires)
        holder = self.model.holder(job.key)
        expected = self.model.enqueue(job, delay, limit)
        try:
            answer = self.functions.call("enqueue", *words)
        except Exception as error:
            assert str(error).startswith("QUEUEFULL") and expected == "QUEUEFULL", (error, expected)
        else:
            assert answer == [(holder or job.id).encode(), expected]

    @precondition(lambda self: self.model.jobs)
    @rule(index=indexes)
    def cancel(self, index: int) -> None:
        id = self.some_id(index)
        assert self.functions.call("cancel", id).decode() == self.model.cancel(id)

    @rule(state=st.sampled_from(["ready", "delayed", "dead"]))
    def purge(self, state: str) -> None:
        if self.number % 3 == 0:  # seldom: else there would never be many jobs
            assert self.functions.call("purge", state) == self.model.purge(state)

    @precondition(lambda self: any(job.place == "dead" for job in self.model.jobs.values()))
    @rule(index=indexes, all_of_them=st.booleans())
    def resend(self, index: int, all_of_them: bool) -> None:
        dead = sorted((job.died, job.id) for job in self.model.jobs.values() if job.place == "dead")
        ids = [id for _, id in dead] if all_of_them else [self.some_id(index)]
        sent = sum([self.model.resend(id) for id in ids])
        assert self.functions.call("resend", *([] if all_of_them else ids)) == [sent, len(ids) - sent]

    # Workers.

    @rule(worker=worker_names, most=st.sampled_from([0, 1, 2, 4, 9, 40]), lease=st.sampled_from([100, 5000]))
    def take(self, worker: str, most: int, lease: int) -> None:
        wait, *jobs = self.functions.work("take", worker, lease, most, *LIMITS)
        expected = self.model.take(worker, most, lease)
        assert [(id.decode(), token, failures, crashes) for id, token, _, failures, crashes in jobs] == expected
        assert [b'"data":' in job for _, _, job, _, _ in jobs] == [True] * len(jobs)
        self.runs += [(worker, id, token) for id, token, _, _ in expected]
        self.wakes.pop(worker, None)
        if len(jobs) < most:
            self.wakes[worker] = self.model.now + wait if wait >= 0 else float("inf")

    @precondition(lambda self: self.runs)
    @rule(indexes=st.lists(indexes, min_size=1, max_size=6), result=st.sampled_from(["", "7", '{"a":1}']))
    def finish(self, indexes: list[int], result: str) -> None:
        worker = self.run_of(indexes[0])[0]
        runs = [self.run_of(index) for index in indexes if self.run_of(index)[0] == worker]
        answer = self.functions.work("finish", worker, *(word for _, id, token in runs for word in (id, token, result)))
        assert answer == [self.model.finish(worker, id, token, result) for _, id, token in runs]

    @precondition(lambda self: self.runs)
    @rule(index=indexes, retry=st.sampled_from([None, 0, 50, 1000]), twice=st.booleans())
    def fail(self, index: int, retry: int | None, twice: bool) -> None:
        worker, id, token = self.run_of(index)
        for _ in range(1 + twice):
            answer = self.functions.work("fail", worker, id, token, "boom", "" if retry is None else retry).decode()
            assert answer == self.model.fail(worker, id, token, "boom", retry)

    @precondition(lambda self: self.runs)
    @rule(index=indexes, twice=st.booleans())
    def give_back(self, index: int, twice: bool) -> None:
        worker, id, token = self.run_of(index)
        for _ in range(1 + twice):
            assert self.functions.work("give_back", worker, id, token) == [self.model.give_back(worker, id, token)]

    @precondition(lambda self: self.runs)
    @rule(index=indexes, serial=st.sampled_from(["s1", "s3"]), twice=st.booleans())
    def park(self, index: int, serial: str, twice: bool) -> None:
        worker, id, token = self.run_of(index)
        for _ in range(1 + twice):
            assert self.functions.work("park", worker, id, token, serial) == self.model.park(worker, id, token, serial)

    @rule(worker=worker_names, forgotten=st.integers(0, 2))
    def name_held(self, worker: str, forgotten: int) -> None:
        """The answers to some takes were lost."""
        runs = [(id, token) for owner, id, token in self.runs[-8:] if owner == worker][forgotten:]
        answer = self.functions.work("held", worker, *(word for run in runs for word in run))
        assert answer == self.model.name_held(worker, runs)

    @rule(worker=worker_names, lease=st.sampled_from([0, 100, 5000]), twice=st.booleans())
    def renew(self, worker: str, lease: int, twice: bool) -> None:
        for _ in range(1 + twice):
            known, _, *over = self.functions.work("renew", worker, lease)
            assert [known, *(other.decode() for other in over)] == self.model.renew(worker, lease)

    @rule(worker=worker_names, twice=st.booleans())
    def reclaim(self, worker: str, twice: bool) -> None:
        for _ in range(1 + twice):
            assert self.functions.work("reclaim", worker) == self.model.reclaim(worker)

    @rule(ms=st.sampled_from([1, 20, 50, 100, 101, 1000, 6000]))
    def pass_time(self, ms: int) -> None:
        self.model.now += ms
        self.functions.set_time(self.model.now)

    # What is true after each step.

    @invariant()
    def valkey_holds_what_the_model_holds(self) -> None:
        model, own, key = self.model, self.functions.own, self.functions.key
        names = ["jobs", "runs", "keys", "delayed", "running", "dead", "workers", "serial", "results", "expiring"]
        with own.client.pipeline(transaction=False) as pipeline:
            for name in names[:3]:
                pipeline.hgetall(key(name))
            for name in names[3:8]:
                pipeline.zrange(key(name), 0, -1, withscores=True)
            pipeline.hgetall(key("results"))
            pipeline.zrange(key("expiring"), 0, -1, withscores=True)
            for priority in range(10):
                pipeline.lrange(key(f"ready:{priority}"), 0, -1)
            for worker in WORKERS:
                pipeline.lrange(key(f"taken:{worker}"), 0, -1)
            pipeline.hget(key(), "hungry")
            answers = pipeline.execute()
        held = dict(zip(names, answers, strict=False))
        jobs = model.jobs.values()
        assert {id.decode() for id in held["jobs"]} == set(model.jobs)
        assert [[id.decode() for id in reversed(line)] for line in answers[10:20]] == model.ready
        assert scores(held["delayed"]) == model.delayed
        assert set(scores(held["running"])) == {job.id for job in jobs if job.place == "running"}
        assert scores(held["dead"]) == {job.id: job.died for job in jobs if job.place == "dead"}
        assert scores(held["workers"]) == model.leases
        assert {key.decode(): id.decode() for key, id in held["keys"].items()} == {j.key: j.id for j in jobs if j.key and j.place != "dead"}
        taken = [[id.decode() for id in reversed(line)] for line in answers[20:23]]
        assert taken == [model.taken.get(worker, []) for worker in WORKERS]
        lines: dict[str, list[str]] = {}
        for member, _ in held["serial"]:
            serial, _, rest = member.decode().partition("\0")
            lines.setdefault(serial, []).append(rest.partition(":")[2])
        assert lines == {serial: line for serial, line in model.serials.items() if line}
        results = {id.decode(): text.decode() for id, text in held["results"].items()}
        assert results == {id: text for id, (text, _) in model.results.items()}
        runs = {id.decode(): text.decode().split(" ") for id, text in held["runs"].items()}
        expected = {j.id: j for j in jobs if j.token or j.reserved or j.failures or j.crashes}
        assert {id: (int(t), int(f), int(c), worker) for id, (t, f, c, _, worker) in runs.items()} == {
            id: (job.token, job.failures, job.crashes, job.worker) for id, job in expected.items()
        }
        self.check_that_no_worker_sleeps_over_a_job(awake=answers[23] is None)

    def check_that_no_worker_sleeps_over_a_job(self, awake: bool) -> None:
        """A worker that took too little is announced to, or takes again by itself in time."""
        if awake:
            self.wakes.clear()
        for worker, at in self.wakes.items():
            if at > self.model.now:
                assert not any(self.model.ready), f"{worker} sleeps until {at}"
                assert at <= min(self.model.delayed.values(), default=float("inf")), f"{worker} sleeps until {at}"

    @invariant()
    def the_numbers_agree(self) -> None:
        numbers, jobs = self.functions.numbers(), list(self.model.jobs.values())
        found = {place: numbers[place] for place in ("delayed", "parked", "running")}
        found |= {"ready": sum(numbers[f"ready:{priority}"] for priority in range(10)), "dead": numbers["dead_letters"]}
        assert found == {place: sum(job.place == place for job in jobs) for place in PLACES}
        assert numbers["workers"] == sum(ends >= self.model.now for ends in self.model.leases.values())
        assert numbers["results"] == len(self.model.results)
        counted = {name: numbers[name] for name in self.model.counts}
        assert counted == self.model.counts


@pytest.mark.timeout(3600)
def test_any_calls_leave_each_job_in_one_place_as_in_the_naive_model(functions: QueueFunctions) -> None:
    class Bound(Machine):
        pass

    Bound.functions = functions
    run_state_machine_as_test(Bound, settings=settings(max_examples=EXAMPLES or 16, stateful_step_count=40, deadline=None, phases=PHASES))
