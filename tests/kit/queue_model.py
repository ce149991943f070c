"""A naive model of a work queue: what each function does to a few lists and dicts. Times are in ms; each method answers what the function does."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Job", "QueueModel"]

EVERY, BURST = 40, 2  # the limit of jobs that are named "limited"


@dataclass
class Job:
    id: str
    name: str = "plain"
    key: str = ""
    serial: str = ""
    priority: int = 0
    due: int = 0
    attempts: int = 5
    expires: int = 0
    result_ttl: int = 0
    place: str = ""  # ready, delayed, parked, running, dead
    started: bool = False
    token: int = 0
    worker: str = ""
    failures: int = 0
    crashes: int = 0
    cancelled: bool = False
    reserved: bool = False
    died: int = 0


@dataclass
class QueueModel:
    now: int = 1_000_000
    jobs: dict[str, Job] = field(default_factory=dict)
    ready: list[list[str]] = field(default_factory=lambda: [[] for _ in range(10)])  # the next one first
    delayed: dict[str, int] = field(default_factory=dict)
    taken: dict[str, list[str]] = field(default_factory=dict)  # by worker
    leases: dict[str, int] = field(default_factory=dict)
    serials: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, tuple[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    turn: int = 0
    token: int = 0
    next_limited: int = 0

    # Places.

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def place(self, job: Job, due: int, first: bool = False) -> None:
        if due > self.now:
            job.place = "delayed"
            self.delayed[job.id] = due
        else:
            job.place = "ready"
            self.ready[job.priority].insert(0 if first else len(self.ready[job.priority]), job.id)

    def unplace(self, job: Job) -> None:
        if job.place == "ready":
            self.ready[job.priority].remove(job.id)
        elif job.place == "delayed":
            del self.delayed[job.id]
        elif job.place == "running":
            self.taken[job.worker].remove(job.id)
            job.worker = ""
        job.place = ""

    def join(self, job: Job) -> bool:
        line = self.serials.setdefault(job.serial, [])
        line.append(job.id)
        return line == [job.id]

    def release(self, job: Job) -> None:
        line = self.serials.get(job.serial, [])
        if job.id not in line:
            return
        was_first = line[0] == job.id
        line.remove(job.id)
        if was_first and line:
            following = self.jobs[line[0]]
            self.place(following, following.due, first=True)

    def keep_result(self, job: Job, result: str) -> None:
        if job.result_ttl:
            self.results[job.id] = result, self.now + job.result_ttl * 1000

    def expire_results(self) -> None:
        self.results = {id: kept for id, kept in self.results.items() if kept[1] > self.now}

    def bury(self, job: Job, reason: str) -> None:
        self.unplace(job)
        job.place, job.token, job.cancelled, job.reserved = "dead", 0, False, False
        job.failures = job.crashes = 0
        job.started, job.died = False, self.now
        self.release(job)
        self.keep_result(job, f'{{"error":"{reason}"}}')
        self.count("dead")

    def remove(self, job: Job) -> None:
        self.unplace(job)
        del self.jobs[job.id]
        self.release(job)

    def remove_cancelled(self, job: Job) -> None:
        self.remove(job)
        self.keep_result(job, '{"error":"cancelled"}')
        self.count("cancelled")

    # What producers and operators do.

    def holder(self, key: str) -> str:
        return next((job.id for job in self.jobs.values() if key and job.key == key and job.place != "dead"), "")

    def enqueue(self, job: Job, delay: int, limit: int) -> int | str:
        """1, or 0 if it is there, or the words of the refusal."""
        if self.holder(job.key) or job.id in self.jobs:
            return 0
        if len(self.jobs) >= limit:
            return "QUEUEFULL"
        job.due = self.now + delay
        if job.expires:
            job.expires += job.due
        self.jobs[job.id] = job
        self.count("enqueued")
        if job.serial and not self.join(job):
            job.place = "parked"
        else:
            self.place(job, job.due)
        return 1

    def cancel(self, id: str) -> str:
        job = self.jobs.get(id)
        if job is None:
            return "none"
        if job.place == "running":
            if job.worker not in self.leases:
                self.remove_cancelled(job)
                return "cancelled"
            job.cancelled = True
            return "running"
        if job.place == "dead":
            self.remove(job)
            return "removed"
        self.remove_cancelled(job)
        return "cancelled"

    def resend(self, id: str) -> bool:
        job = self.jobs.get(id)
        if job is None or job.place != "dead" or self.holder(job.key):
            return False
        self.results.pop(id, None)
        job.due, job.expires = self.now, 0
        job.place = ""
        if job.serial and not self.join(job):
            job.place = "parked"
        else:
            self.place(job, job.due)
        self.count("sent_again")
        return True

    def purge(self, state: str) -> list[int]:
        if state == "ready":
            ids = [id for line in reversed(self.ready) for id in line]
        else:
            ids = [job.id for job in self.jobs.values() if job.place == state]
            if state == "delayed":
                ids.sort(key=lambda id: (self.delayed[id], id))
        for id in ids:
            if state == "dead":
                self.remove(self.jobs[id])
            else:
                self.remove_cancelled(self.jobs[id])
        return [len(ids), sum(job.place == state for job in self.jobs.values())]

    # What workers do.

    def ripen(self) -> None:
        for id, due in sorted(self.delayed.items(), key=lambda item: (item[1], item[0])):
            if due <= self.now:
                del self.delayed[id]
                self.jobs[id].place = "ready"
                self.ready[self.jobs[id].priority].append(id)

    def pick(self) -> Job | None:
        """The highest priority; each eighth time another one and those below it, all in turn."""
        self.turn += 1
        order = list(range(9, -1, -1))
        if self.turn % 8 == 0:
            first = self.turn // 8 % 10
            order = [(first - i) % 10 for i in range(10)]
        for priority in order:
            if self.ready[priority]:
                return self.jobs[self.ready[priority][0]]
        self.turn -= 1
        return None

    def may_start(self, job: Job) -> bool:
        if job.name != "limited" or job.reserved:
            return True
        reserved = len(self.delayed) * EVERY
        if self.next_limited > self.now + BURST * EVERY + 1000 + reserved:
            self.next_limited = self.now + reserved
        due = max(self.next_limited, self.now)
        self.next_limited = due + EVERY
        wait = due - (BURST - 1) * EVERY - self.now
        if wait <= 0:
            return True
        self.unplace(job)
        job.place, job.reserved = "delayed", True
        self.delayed[job.id] = self.now + wait
        return False

    def take(self, worker: str, most: int, lease: int) -> list[tuple[str, int, int, int]]:
        self.leases[worker] = self.now + lease
        self.taken.setdefault(worker, [])
        self.ripen()
        answer: list[tuple[str, int, int, int]] = []
        apart = 0
        while len(answer) < most and (job := self.pick()):
            if 0 < job.expires < self.now:
                self.bury(job, "expired")
            elif job.crashes >= 2 and any(self.jobs[id].crashes >= 2 for id in self.taken[worker]):
                self.unplace(job)
                self.place(job, self.now + 50 * (1 + apart % 20))
                apart += 1
            elif self.may_start(job):
                self.unplace(job)
                self.token += 1
                if not job.started:
                    self.count("started")
                job.place, job.worker, job.token, job.reserved, job.started = "running", worker, self.token, False, True
                self.taken[worker].append(job.id)
                self.count("taken")
                answer.append((job.id, job.token, job.failures, job.crashes))
        return answer

    def held(self, worker: str, id: str, token: int) -> Job | None:
        job = self.jobs.get(id)
        return job if job and job.place == "running" and job.token == token and job.worker == worker else None

    def finish(self, worker: str, id: str, token: int, result: str) -> int:
        job = self.held(worker, id, token)
        if job is None:
            return 0
        self.remove(job)
        self.keep_result(job, f'{{"result":{result or "null"}}}')
        if job.result_ttl:
            self.expire_results()
        self.count("finished")
        return 1

    def fail(self, worker: str, id: str, token: int, reason: str, retry: int | None) -> str:
        job = self.held(worker, id, token)
        if job is None:
            return "refused"
        if job.cancelled:
            self.remove_cancelled(job)
            return "cancelled"
        job.failures += 1
        if retry is None or job.failures >= job.attempts:
            self.bury(job, reason)
            return "dead"
        self.unplace(job)
        self.place(job, self.now + retry)
        self.count("retried")
        return "retried"

    def put_back(self, job: Job) -> None:
        if job.cancelled:
            self.remove_cancelled(job)
        else:
            self.unplace(job)
            self.place(job, self.now, first=True)

    def give_back(self, worker: str, id: str, token: int) -> int:
        job = self.held(worker, id, token)
        if job is None:
            return 0
        self.put_back(job)
        self.count("given_back")
        return 1

    def park(self, worker: str, id: str, token: int, serial: str) -> int:
        job = self.held(worker, id, token)
        if job is None:
            return -1
        if job.cancelled:
            self.remove_cancelled(job)
            return -1
        if job.serial:
            return 1
        job.serial = serial
        if self.join(job):
            return 1
        self.unplace(job)
        job.place = "parked"
        return 0

    def name_held(self, worker: str, runs: list[tuple[str, int]]) -> list[int]:
        """gateway_held."""
        answer = []
        spared = set()
        for id, token in runs:
            job = self.held(worker, id, token)
            answer.append(0 if job is None else 2 if job.cancelled else 1)
            if job is not None:
                spared.add(id)
        return [self.free(worker, spared), *answer]

    def free(self, worker: str, spared: set[str]) -> int:
        others = [id for id in reversed(self.taken.get(worker, [])) if id not in spared]
        for id in others:
            self.put_back(self.jobs[id])
            self.count("given_back")
        return len(others)

    def renew(self, worker: str, lease: int) -> list[object]:
        """All but the second number."""
        known = int(worker in self.leases)
        if lease == 0:
            self.free(worker, set())
            self.leases.pop(worker, None)
            return [known]
        self.leases[worker] = self.now + lease
        self.expire_results()
        over = [(ends, other) for other, ends in self.leases.items() if ends < self.now]
        return [known, *(other for _, other in sorted(over))]

    def reclaim(self, worker: str) -> int:
        if self.leases.get(worker, 0) >= self.now:
            return 0
        ids = list(reversed(self.taken.get(worker, [])))
        most = max((self.jobs[id].crashes for id in ids), default=0)
        for id in ids:
            job = self.jobs[id]
            if job.crashes < most:
                self.put_back(job)
                continue
            job.crashes += 1
            if job.crashes >= 3 and not job.cancelled:
                self.bury(job, f"{job.crashes} workers died, or could not renew their lease, while they ran it")
            else:
                self.put_back(job)
            self.count("crashed")
        self.leases.pop(worker, None)
        return len(ids)
