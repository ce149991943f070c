"""The functions of a work queue one by one: what they refuse and in which words, what other programs may have written, and what is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import valkey

from ..kit.queue_functions import QueueFunctions, load_functions
from ..kit.valkeys import OwnValkey

NOW = 1_800_000_000_000
YEAR = 365 * 86400


@pytest.fixture(scope="module")
def loaded(own: OwnValkey) -> OwnValkey:
    load_functions(own, frozen=True)
    return own


@pytest.fixture
def queue(loaded: OwnValkey) -> Iterator[QueueFunctions]:
    queue = QueueFunctions(loaded)
    queue.empty()
    queue.set_time(NOW)
    yield queue


def refusal(queue: QueueFunctions, function: str, *args: Any, worker: str | None = None) -> str:
    """The words in which a call is refused, without the place in the library."""
    with pytest.raises(valkey.exceptions.ResponseError) as raised:
        if worker is None:
            queue.call(function, *args)
        else:
            queue.work(function, worker, *args)
    return str(raised.value).partition(" script:")[0]


NAME = "GATEWAY the name of a job is a text of 1 to 200 bytes without control characters"
LEASE = "GATEWAY a lease is 100 to 3600000 milliseconds"
WORKER = "GATEWAY a worker is 1 to 100 letters, digits, - _ . and :"
RATE = "GATEWAY a rate is NAME, milliseconds from one start to the next, and how many may start at once"
JOBS = ("n", "1")

REFUSED_JOBS = {
    "no name": (("", "1"), NAME),
    "a name of two lines": (("a\nb", "1"), NAME),
    "a name that is not UTF-8": ((b"\xff", "1"), NAME),
    "a long name": (("ä" * 101, "1"), NAME),
    "no data": (("n",), "GATEWAY the data of a job is JSON of up to 1048576 bytes"),
    "data that is too large": (("n", '"' + "x" * 1048576 + '"'), "GATEWAY the data of a job is JSON of up to 1048576 bytes"),
    "data that is no JSON": (("n", "{"), "GATEWAY the data of a job is not JSON in UTF-8"),
    "data that is empty": (("n", ""), "GATEWAY the data of a job is not JSON in UTF-8"),
    "data that is not UTF-8": (("n", b'"\xff"'), "GATEWAY the data of a job is not JSON in UTF-8"),
    "data that is not a number": (("n", "NaN"), "GATEWAY the data of a job is not JSON in UTF-8"),
    "a negative priority": ((*JOBS, "priority", -1), "GATEWAY priority is a whole number from 0 to 9, not -1"),
    "half a priority": ((*JOBS, "priority", "1.5"), "GATEWAY priority is a whole number from 0 to 9, not 1.5"),
    "a delay of eleven years": (
        (*JOBS, "delay", 11 * YEAR),
        "GATEWAY delay is a number from 0 to 315360000, not 346896000",
    ),
    "a delay that is no number": ((*JOBS, "delay", "nan"), "GATEWAY delay is a number from 0 to 315360000, not nan"),
    "no attempts": ((*JOBS, "attempts", 0), "GATEWAY attempts is a whole number from 1 to 1000, not 0"),
    "no time": ((*JOBS, "timeout", 0), "GATEWAY timeout is a number from 0.001 to 604800, not 0"),
    "a time far away": ((*JOBS, "at", 9_999_999_999), "GATEWAY at is a number from 0 to 2115360000, not 9999999999"),
    "no room": ((*JOBS, "limit", 0), "GATEWAY limit is a whole number from 1 to 1000000000000, not 0"),
    "an id with spaces": ((*JOBS, "id", "a b"), "GATEWAY id is 1 to 100 letters, digits, - _ . and :"),
    "an empty key": ((*JOBS, "key", ""), "GATEWAY key is a text of 1 to 200 bytes without control characters"),
    "a serial key with a zero byte": ((*JOBS, "serial", "a\0b"), "GATEWAY serial is a text of 1 to 200 bytes without control characters"),
    "a long channel": ((*JOBS, "channel", "c" * 256), "GATEWAY channel is a text of 1 to 255 bytes without control characters"),
    "a long traceparent": ((*JOBS, "traceparent", "0" * 201), "GATEWAY traceparent is a text of 1 to 200 bytes without control characters"),
    "a version that is no number": ((*JOBS, "version", "-1"), "GATEWAY version is a whole number from 0"),
    "an unknown option": (
        (*JOBS, "prio", 1),
        "GATEWAY prio is not one of id, key, priority, delay, at, attempts, timeout, expires, expires_at, result_ttl, channel, serial, limit, version, "
        "version_epoch, or has no value",
    ),
    "an option without a value": (
        (*JOBS, "key"),
        "GATEWAY key is not one of id, key, priority, delay, at, attempts, timeout, expires, expires_at, result_ttl, channel, serial, limit, version, "
        "version_epoch, or has no value",
    ),
    "functions that were loaded anew": (
        (*JOBS, "generation", "old"),
        "GENERATION the functions were loaded anew: send again, the oldest first",
    ),
}


@pytest.mark.parametrize("case", REFUSED_JOBS)
def test_what_cannot_be_a_job_is_refused_in_words_and_changes_nothing(queue: QueueFunctions, case: str) -> None:
    args, words = REFUSED_JOBS[case]
    assert refusal(queue, "enqueue", *args) == words
    assert queue.own.client.keys("gw:queue:*") == []


REFUSED_WORK = {
    "a lease of 0": ("take", ("w", 0, 1), LEASE),
    "a lease that is no number": ("take", ("w", "nan", 1), LEASE),
    "a long lease": ("renew", ("w", 3600001), LEASE),
    "a negative lease": ("renew", ("w", -1), LEASE),
    "a worker with braces": ("take", ("{w}", 1000, 1), WORKER),
    "too many jobs": ("take", ("w", 1000, 1001), "GATEWAY a worker takes 0 to 1000 jobs"),
    "no number of jobs": ("take", ("w", 1000, "nan"), "GATEWAY a worker takes 0 to 1000 jobs"),
    "a rate that never comes": ("take", ("w", 1000, 1, "n", "nan", 1), RATE),
    "a burst of nothing": ("take", ("w", 1000, 1, "n", 10, 0), RATE),
    "half a run": ("finish", ("w", "id", 1), "GATEWAY after the worker it takes id, token and result of each job, of up to 10000"),
    "half a run to give back": ("give_back", ("w", "id"), "GATEWAY after the worker it takes id and token of each job, of up to 10000"),
    "too many runs": ("held", ("w", *["x"] * 20002), "GATEWAY after the worker it takes id and token of each job, of up to 10000"),
    "a time that is none": (
        "fail",
        ("w", "id", 1, "why", "soon"),
        "GATEWAY the time until a job is tried again is a number of milliseconds, or empty",
    ),
    "no serial key": ("park", ("w", "id", 1, ""), "GATEWAY serial is a text of 1 to 200 bytes without control characters"),
}


@pytest.mark.parametrize("case", REFUSED_WORK)
def test_what_no_worker_does_is_refused_in_words(queue: QueueFunctions, case: str) -> None:
    function, args, words = REFUSED_WORK[case]
    assert refusal(queue, function, *args[1:], worker=args[0]) == words


def test_other_calls_are_refused_in_words(queue: QueueFunctions) -> None:
    page = "GATEWAY it takes a state (ready, delayed, running or dead), where to begin, and how many"
    assert refusal(queue, "jobs", "parked", 0, 10) == page
    assert refusal(queue, "jobs", "ready", -1, 10) == page
    assert refusal(queue, "purge", "running") == "GATEWAY it removes the jobs that are ready, delayed or dead"
    assert refusal(queue, "purge", "dead", 0) == "GATEWAY it removes so many jobs, from 1"
    assert refusal(queue, "resend", *["x"] * 1001) == "GATEWAY it sends up to 1000 dead letters again"
    first = "GATEWAY the first key is gw:queue:{Q}, of a queue Q without braces"
    assert refusal(QueueFunctions(queue.own, "a{b}"), "enqueue", *JOBS) == first
    mixed = QueueFunctions(queue.own)
    mixed.keys = (*mixed.keys[:-1], b"gw:queue:{other}:ready:9")
    assert refusal(mixed, "enqueue", *JOBS).startswith("GATEWAY the keys are gw:queue:{Q} and, each after it, :jobs :runs")


@pytest.mark.parametrize("seconds", ["0.00005", "0.0001", "0.0123456789", "2592000"])
def test_a_job_runs_however_short_its_result_is_stored(queue: QueueFunctions, seconds: str) -> None:
    queue.call("enqueue", *JOBS, "id", "j", "result_ttl", seconds)
    assert list(queue.take("w")) == ["j"] and queue.counts("strays", "dead") == [0, 0]


def test_a_delay_of_a_year_and_the_last_second_of_ten_years_are_accepted(queue: QueueFunctions) -> None:
    for delay in (YEAR, 10 * YEAR):
        id, new = queue.call("enqueue", *JOBS, "delay", delay)
        assert new and queue.call("job", id)[:2] == [b"delayed", b"%d" % (NOW + delay * 1000)]
    assert queue.work("take", "w", 1000, 1) == [3600000]  # it looks again in an hour


def test_a_delayed_job_that_is_due_is_the_oldest_where_no_worker_runs(queue: QueueFunctions) -> None:
    queue.call("enqueue", *JOBS, "delay", 1)
    assert queue.counts("oldest_ms") == [0]
    queue.set_time(NOW + 61_000)
    assert queue.counts("ready", "delayed", "oldest_ms") == [0, 1, 60_000]
    queue.own.client.zadd(queue.key("delayed"), {"forged": float("-inf")})
    assert queue.counts("oldest_ms") == [0]


def test_a_job_that_was_taken_before_waits_since_it_is_due_anew(queue: QueueFunctions) -> None:
    """An hour of its runs is no hour for which it waits: an alert would be raised at each deployment."""
    queue.call("enqueue", *JOBS, "id", "j")
    token = queue.take("w")["j"]
    queue.set_time(NOW + 3_600_000)
    assert queue.work("give_back", "w", "j", token) == [1] and queue.counts("ready", "oldest_ms") == [1, 0]
    token = queue.take("w")["j"]
    queue.set_time(NOW + 7_200_000)
    assert queue.work("fail", "w", "j", token, "why", 0) == b"retried" and queue.counts("ready", "oldest_ms") == [1, 0]
    queue.set_time(NOW + 7_260_000)
    assert queue.counts("ready", "oldest_ms") == [1, 60_000]


def test_a_full_queue_refuses_and_counts_its_dead_letters(queue: QueueFunctions) -> None:
    for number in range(3):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
    queue.work("fail", "w", "j0", queue.take("w", 1)["j0"], "why", "")
    assert refusal(queue, "enqueue", *JOBS, "limit", 3) == "QUEUEFULL the queue holds 3 jobs, 1 of them dead letters; its limit is 3"
    assert queue.call("enqueue", *JOBS, "limit", 3, "id", "j1") == [b"j1", 0]


# What is repeated because its answer was lost.


def test_a_version_that_is_not_newer_is_not_enqueued_again_even_when_its_job_is_done(queue: QueueFunctions) -> None:
    words = (*JOBS, "id", "p-1", "version", 7, "version_epoch", "p")
    assert queue.call("enqueue", *words) == [b"p-1", 1]
    assert queue.call("enqueue", *words) == [b"p-1", 0]
    queue.work("finish", "w", "p-1", queue.take("w")["p-1"], "")
    assert queue.call("enqueue", *words) == [b"p-1", 0]
    assert queue.counts("ready", "enqueued", "finished") == [0, 1, 1]
    huge = str(2**70)
    assert queue.call("enqueue", *JOBS, "version", huge, "version_epoch", "p")[1] == 1
    assert queue.call("enqueue", *JOBS, "version", huge, "version_epoch", "p")[1] == 0


def test_many_version_epochs_are_forgotten_when_they_were_not_used_for_a_week(queue: QueueFunctions) -> None:
    for number in range(1000):
        queue.own.client.hset(queue.key(), f"v:old{number}", f"1 {NOW - 8 * 86400 * 1000}")
    for number in range(150):
        queue.call("enqueue", *JOBS, "version", 1, "version_epoch", f"new{number}")
    fields = {field.decode() for field in queue.own.client.hkeys(queue.key())}
    assert sum(field.startswith("v:new") for field in fields) == 150
    assert len(fields) < 1020


def test_the_last_ticks_of_schedules_are_not_forgotten(queue: QueueFunctions) -> None:
    """That of a month is used once in a month: a tick that no worker made would not be made up for."""
    ticks = {f"v:cron:monthly {number}": f"1 {NOW - 30 * 86400 * 1000}" for number in range(1000)}
    queue.own.client.hset(queue.key(), mapping=ticks)
    queue.call("enqueue", *JOBS, "version", 1, "version_epoch", "new")
    assert ticks.keys() <= {field.decode() for field in queue.own.client.hkeys(queue.key())}


def test_a_tick_comes_again_only_where_the_clock_was_set_back_by_more_than_ten_minutes(queue: QueueFunctions) -> None:
    def tick(seconds: int) -> int:
        queue.set_time(NOW + 1000 * seconds)
        return int(queue.call("enqueue", *JOBS, "version", NOW // 1000 + seconds, "version_epoch", "cron:x")[1])

    assert [tick(seconds) for seconds in (900, 900, 300, 299, 299, 300, 600)] == [1, 0, 0, 1, 0, 1, 1]
    queue.call("enqueue", *JOBS, "version", 2 * NOW, "version_epoch", "outbox")
    assert queue.call("enqueue", *JOBS, "version", 1, "version_epoch", "outbox")[1] == 0


def test_jobs_whose_take_was_not_answered_go_back_when_the_worker_names_what_it_has(queue: QueueFunctions) -> None:
    for number in range(4):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
    known = queue.take("w", 1)
    queue.take("w", 2)  # the answer is lost
    queue.call("cancel", "j0")
    assert queue.work("held", "w", "j0", known["j0"], "j1", 77) == [2, 2, 0]
    assert queue.counts("ready", "running", "given_back", "crashed") == [3, 1, 2, 0]
    assert list(queue.take("v")) == ["j1", "j2", "j3"]  # in their old order
    assert queue.work("held", "w", "j0", known["j0"]) == [0, 2]


def test_naming_what_a_worker_has_reads_no_job(queue: QueueFunctions) -> None:
    """A worker does so every few seconds: two hundred jobs of a megabyte took Valkey from all others for a third of a second each time."""
    queue.call("enqueue", *JOBS, "id", "j")
    token = queue.take("w")["j"]
    queue.own.ask("CONFIG", "RESETSTAT")
    assert queue.work("held", "w", "j", token) == [0, 1]
    assert queue.own.client.info("commandstats")["cmdstat_hget"]["calls"] == 1, "the run alone"


def test_a_job_whose_take_was_not_answered_goes_back_however_many_the_worker_has(queue: QueueFunctions) -> None:
    with queue.own.client.pipeline(transaction=False) as pipeline:
        for number in range(1001):
            pipeline.execute_command("FCALL", "gateway_enqueue", len(queue.keys), *queue.keys, *JOBS, "id", f"j{number}")
        pipeline.execute()
    known = queue.take("w", 1000)
    queue.take("w", 1)  # the answer is lost
    named = [word for run in known.items() for word in run]
    assert queue.work("held", "w", *named) == [1, *[1] * 1000]
    assert queue.counts("ready", "running") == [1, 1000]


def test_what_ends_a_run_is_refused_the_second_time_and_after_the_job_was_sent_again(queue: QueueFunctions) -> None:
    """The worker itself has the job again: only the token tells its two runs apart."""
    queue.call("enqueue", *JOBS, "id", "j")
    old = queue.take("w")["j"]
    assert queue.work("fail", "w", "j", old, "why", "") == b"dead"
    assert queue.call("resend") == [1, 0]
    new = queue.take("w")["j"]
    assert queue.work("finish", "w", "j", old, "") == [0]
    assert queue.work("fail", "w", "j", old, "why", "") == b"refused"
    assert queue.work("park", "w", "j", old, "s") == -1
    assert queue.work("finish", "w", "j", new, "", "j", new, "") == [1, 0]
    queue.call("enqueue", *JOBS, "id", "j")  # its id may be used again
    assert queue.take("w")["j"] > new
    assert queue.work("finish", "other", "j", new + 1, "") == [0]


def test_a_run_that_is_over_does_not_end_the_next_one_though_the_counter_of_runs_was_deleted(queue: QueueFunctions) -> None:
    """With the queue's own hash, whose key an operator may take for that of counters alone."""
    queue.call("enqueue", *JOBS, "id", "j")
    old = queue.take("w")["j"]
    queue.own.ask("DEL", queue.key())
    assert queue.work("fail", "w", "j", old, "why", 0) == b"retried"
    new = queue.take("w")["j"]
    assert queue.work("finish", "w", "j", old, "") == [0]
    assert queue.work("finish", "w", "j", new, "") == [1] and queue.counts("taken", "finished") == [1, 1]


def test_a_cancelled_run_ends_where_its_worker_vanished_without_a_lease(queue: QueueFunctions) -> None:
    queue.call("enqueue", *JOBS, "id", "j", "key", "k", "result_ttl", 60)
    queue.take("w")
    assert queue.call("cancel", "j") == b"running"
    assert queue.call("cancel", "j") == b"running"
    queue.own.client.zrem(queue.key("workers"), "w")
    assert queue.call("cancel", "j") == b"cancelled"
    assert queue.call("job", "j")[0::5] == [b"done", b'{"error":"cancelled"}']
    assert queue.call("enqueue", *JOBS, "key", "k")[1] == 1


def test_a_job_that_was_cancelled_while_it_ran_is_not_parked(queue: QueueFunctions) -> None:
    for id in ("a", "b"):
        queue.call("enqueue", *JOBS, "id", id)
    tokens = queue.take("w")
    assert queue.work("park", "w", "a", tokens["a"], "s") == 1
    queue.call("cancel", "b")
    assert queue.work("park", "w", "b", tokens["b"], "s") == -1
    assert queue.counts("running", "parked", "cancelled") == [1, 0, 1]


def test_the_next_of_a_serial_key_is_taken_at_once_when_the_first_has_expired(queue: QueueFunctions) -> None:
    queue.call("enqueue", *JOBS, "id", "a", "serial", "s", "expires", "0.01")
    queue.call("enqueue", *JOBS, "id", "b", "serial", "s")
    queue.set_time(NOW + 100)
    assert list(queue.take("w")) == ["b"]
    assert queue.state("a") == "dead"


def test_a_rate_does_not_hold_jobs_up_after_the_clock_was_ahead(queue: QueueFunctions) -> None:
    rate = ("n", 1000, 1)
    queue.set_time(NOW + 7_200_000)
    queue.call("enqueue", *JOBS, "id", "future")
    queue.work("finish", "w", "future", queue.take("w", 1, *rate)["future"], "")
    queue.set_time(NOW)
    for number in range(3):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
    taken = []
    for second in range(5):
        queue.set_time(NOW + 1000 * second)
        taken.append(list(queue.take("w", 10, *rate)))
    assert taken == [["j0"], ["j1"], ["j2"], [], []]


def test_the_rate_of_all_jobs_is_not_held_up_by_delayed_ones_after_the_clock_was_ahead(queue: QueueFunctions) -> None:
    rate = ("", 1000, 1)
    queue.call("enqueue", *JOBS)
    assert len(queue.take("w", 1, *rate)) == 1
    queue.set_time(NOW - 60_000)
    for _ in range(100):
        queue.call("enqueue", *JOBS, "delay", 3600)
    queue.call("enqueue", *JOBS, "id", "j")
    assert list(queue.take("w", 10, *rate)) == ["j"]


def test_a_job_that_ends_workers_makes_no_dead_letters_of_those_that_ran_beside_it(queue: QueueFunctions) -> None:
    for id in ("long", "poison", "longer"):
        queue.call("enqueue", *JOBS, "id", id)
    done = set()
    for number in range(20):
        queue.set_time(NOW + number * 20_000)
        tokens = queue.take(f"w{number}")
        if "poison" in tokens:
            queue.set_time(NOW + number * 20_000 + 10_001)
            queue.work("reclaim", f"w{number}")
        else:
            done |= {id for id, token in tokens.items() if queue.work("finish", f"w{number}", id, token, "") == [1]}
    assert (queue.state("poison"), done) == ("dead", {"long", "longer"})


def test_a_worker_with_more_jobs_than_a_page_is_reclaimed_page_by_page(queue: QueueFunctions) -> None:
    for number in range(1100):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
    taken = len(queue.take("w", 1000)) + len(queue.take("w", 1000))
    assert taken == 1100
    queue.set_time(NOW + 20_000)
    assert queue.work("renew", "v", 1000)[2:] == [b"w"]
    assert [queue.work("reclaim", "w") for _ in range(3)] == [1000, 100, 0]
    assert queue.counts("ready", "running", "crashed") == [1100, 0, 1100]


def test_large_jobs_are_not_blamed_for_the_one_that_was_before_though_they_are_reclaimed_in_parts(queue: QueueFunctions) -> None:
    queue.call("enqueue", *JOBS, "id", "ends-workers")
    queue.take("v")
    queue.set_time(NOW + 20_000)
    assert queue.work("reclaim", "v") == 1 and queue.counts("crashed") == [1]
    for number in range(11):
        queue.call("enqueue", "n", '"' + "x" * 1_000_000 + '"', "id", f"j{number}", "priority", 9)
    assert len(queue.take("w", 20)) + len(queue.take("w", 20)) == 12
    queue.set_time(NOW + 40_000)
    parts = [queue.work("reclaim", "w") for _ in range(3)]
    assert parts[1] > 0 and sum(parts) == 12 and queue.counts("crashed") == [2]


def test_replies_are_bounded_in_bytes_and_the_rest_follows(queue: QueueFunctions) -> None:
    large = json.dumps("x" * 1_000_000)
    for number in range(12):
        queue.call("enqueue", "n", large, "id", f"j{number}")
    page = queue.call("jobs", "ready", 0, 200)
    assert 1 < len(page) < 12
    assert [row[0] for row in page + queue.call("jobs", "ready", len(page), 200)] == [b"j%d" % number for number in range(12)]
    wait, *first = queue.work("take", "w", 1000, 100)
    assert wait == 0 and 1 < len(first) < 12
    assert len(first) + len(queue.take("w")) == 12


# What other programs wrote.


def test_large_jobs_come_due_are_sent_again_and_are_removed_a_few_at_a_time(queue: QueueFunctions) -> None:
    """Each is read whole: a thousand of a megabyte took Valkey from all others for seconds."""
    data = '"' + "x" * 1048000 + '"'
    queue.call("enqueue", "n", data, "id", "large")
    queue.work("finish", "w", "large", queue.take("w")["large"], "")  # from now on few are read at a time
    for number in range(11):
        queue.call("enqueue", "n", data, "id", f"j{number}", "delay", 1)
    queue.set_time(NOW + 1000)
    assert queue.work("take", "w", 1000, 0) == [0] and queue.counts("delayed") == [2]
    assert queue.work("take", "w", 1000, 0) == [-1] and queue.counts("delayed") == [0]
    while tokens := queue.take("w", lease=1000):
        assert len(tokens) <= 8
        for id, token in tokens.items():
            queue.work("fail", "w", id, token, "why", "")
    assert [queue.call("resend") for _ in range(3)] == [[9, 0], [2, 0], [0, 0]]
    assert [queue.call("purge", "ready") for _ in range(2)] == [[9, 2], [2, 0]]


def test_dead_letters_whose_key_another_job_has_do_not_hold_up_those_after_them(queue: QueueFunctions) -> None:
    """As those of a periodic job with a key that failed each minute for a day."""
    queue.call("enqueue", *JOBS, "id", "holder", "key", "k")
    job, client = queue.own.client.hget(queue.key("jobs"), "holder"), queue.own.client
    client.hset(queue.key("jobs"), mapping={f"d{number:04}": job for number in range(1500)})
    client.zadd(queue.key("dead"), {f"d{number:04}": number for number in range(1500)})
    queue.call("enqueue", *JOBS, "id", "other")
    queue.take("v", 1)
    queue.work("fail", "w", "other", queue.take("w")["other"], "why", "")
    assert queue.call("resend") == [1, 1500] and queue.state("other") == "ready"
    assert queue.call("resend") == [0, 1500]


def test_of_large_dead_letters_that_are_named_the_first_few_are_sent_again_in_one_call(queue: QueueFunctions) -> None:
    ids = [f"j{number}" for number in range(10)]
    for id in ids:
        queue.call("enqueue", "n", '"' + "x" * 1048000 + '"', "id", id)
    while tokens := queue.take("w"):
        for id, token in tokens.items():
            queue.work("fail", "w", id, token, "why", "")
    assert queue.call("resend", "none", *ids) == [9, 1]
    assert queue.call("resend", *ids[9:]) == [1, 0]


def test_of_the_dead_letters_as_many_are_removed_as_are_asked_for_the_oldest_first(queue: QueueFunctions) -> None:
    for number in range(5):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
        queue.work("fail", "w", f"j{number}", queue.take("w")[f"j{number}"], "why", "")
        queue.set_time(NOW + number + 1)
    assert queue.call("purge", "dead", 3) == [3, 2]
    assert [id for id, *_ in queue.call("jobs", "dead", 0, 9)] == [b"j4", b"j3"]


def test_an_entry_that_no_function_enqueued_becomes_a_dead_letter_and_costs_the_others_nothing(queue: QueueFunctions) -> None:
    client = queue.own.client
    queue.call("enqueue", *JOBS, "id", "a")
    client.lpush(queue.key("ready:0"), b"{\xff", b"{\xff", "a", "a", "x" * 2_000_000)
    client.zadd(queue.key("delayed"), {"nobody": 0})
    client.hset(queue.key("jobs"), "b", '{"priority":7}')
    client.rpush(queue.key("ready:9"), "b")
    queue.call("enqueue", *JOBS, "id", "c")
    assert set(queue.take("w")) == {"a", "c"}
    assert queue.counts("ready", "running", "dead_letters", "strays", "parked") == [0, 2, 5, 5, 0]
    rows = queue.call("jobs", "dead", 0, 10)
    assert all(json.loads(failures)[0]["error"] for *_, failures in rows)
    assert any(json.loads(job)["data"] == '{"priority":7}' for _, _, job, *_ in rows)
    assert queue.call("resend")[0] == 5  # even these are jobs now


def test_a_job_that_is_in_two_lists_runs_once_at_a_time_and_is_then_in_one_place(queue: QueueFunctions) -> None:
    client = queue.own.client
    for id, delay in (("a", 100), ("b", 0), ("c", 0)):
        queue.call("enqueue", *JOBS, "id", id, "delay", delay)
    queue.work("fail", "w", "b", queue.take("w", 1)["b"], "why", "")
    client.rpush(queue.key("ready:3"), "a", "b")
    tokens = queue.take("w", 10)
    assert set(tokens) == {"a", "b", "c"}
    client.rpush(queue.key("ready:3"), "a")
    assert queue.take("v") == {}
    client.rpush(queue.key("ready:3"), "a")
    queue.call("purge", "ready")  # it does not remove a job that runs
    assert queue.counts("ready", "delayed", "running", "dead_letters") == [0, 0, 3, 0]
    assert queue.work("finish", "w", *(word for id, token in tokens.items() for word in (id, token, ""))) == [1, 1, 1]
    assert queue.counts("ready", "delayed", "running", "dead_letters", "parked") == [0, 0, 0, 0, 0]


def test_a_member_of_a_serial_key_that_belongs_to_no_job_holds_nobody_up(queue: QueueFunctions) -> None:
    client = queue.own.client
    for id in ("a", "b"):
        queue.call("enqueue", *JOBS, "id", id, "serial", "s")
    client.zadd(queue.key("serial"), {"s\0000000:nobody": 0, "s\0nonsense": 0})
    client.hdel(queue.key("jobs"), "a")
    client.delete(queue.key())  # the numbers begin anew, and the order stays
    queue.call("enqueue", *JOBS, "id", "c", "serial", "s")
    for expected in ("b", "c"):
        tokens = queue.take("w")
        assert list(tokens) == [expected]
        assert queue.work("finish", "w", expected, tokens[expected], "") == [1]
    assert client.zcard(queue.key("serial")) == 0


def test_failures_that_another_program_wrote_do_not_keep_a_job_from_failing(queue: QueueFunctions) -> None:
    for text in ("garbage", "[nan]", '{"a":1}', '[1,null,{"at":1}]', '{"at":1,"x":[{}]}', "7", "[" * 900 + "]" * 900):
        queue.call("enqueue", *JOBS, "id", "j")
        token = queue.take("w")["j"]
        queue.own.client.hset(queue.key("failures"), "j", text)
        assert queue.work("fail", "w", "j", token, "ü" * 3000 + "\xff\0", "0") == b"retried"
        (failure,) = json.loads(queue.call("job", "j")[4])
        assert failure["error"] == "ü" * 1999 and failure["attempt"] == 1
        queue.call("cancel", "j")


def test_numbers_that_another_program_wrote_do_not_end_the_work(queue: QueueFunctions) -> None:
    wrong = {name: "many" for name in ("enqueued", "taken", "started", "start_ms", "finished", "retried", "picks", "seq", "dead", "next:n")}
    queue.own.client.hset(queue.key(), mapping=wrong)
    queue.call("enqueue", *JOBS, "id", "j", "serial", "s")
    queue.own.client.hset(queue.key("runs"), "j", "9" * 400 + " x y")
    token = queue.take("w", 1, "n", 10, 1)["j"]
    assert queue.work("fail", "w", "j", token, "why", "0") == b"retried"
    assert queue.work("finish", "w", "j", queue.take("w")["j"], "") == [1]
    assert queue.counts("enqueued", "taken", "finished") == [1, 2, 0]


def test_a_dead_worker_whose_list_is_of_a_wrong_type_does_not_hold_up_those_of_others(queue: QueueFunctions) -> None:
    queue.own.client.zadd(queue.key("workers"), {"forged": 1})
    queue.own.client.set(queue.key("taken:forged"), "no list")
    assert queue.work("reclaim", "forged") == -1
    assert queue.work("renew", "w", 1000) == [0, 60001]
    queue.set_time(NOW + 60_001)
    assert queue.work("renew", "w", 1000)[2:] == [b"forged"], "it may have been mended"


def test_what_is_no_worker_among_the_workers_is_removed_and_a_lease_without_end_is_an_hour(queue: QueueFunctions) -> None:
    queue.own.client.zadd(queue.key("workers"), {"{x}": 1, "gone": 2, "for-ever": float("inf")})
    assert queue.work("renew", "w", 1000) == [0, 3600000, b"gone"]
    assert queue.work("renew", "w", 1000)[0] == 1
    assert queue.own.client.zscore(queue.key("workers"), "{x}") is None


def test_the_jobs_of_a_dead_worker_are_taken_again_though_the_clock_was_set_back_by_days(queue: QueueFunctions) -> None:
    queue.call("enqueue", *JOBS)
    assert queue.take("dead")
    queue.set_time(NOW - 3 * 86_400_000)
    queue.work("renew", "w", 1000)
    queue.set_time(NOW - 3 * 86_400_000 + 3_600_001)
    assert queue.work("renew", "w", 1000)[2:] == [b"dead"]
    assert queue.work("reclaim", "dead") == 1


@pytest.mark.parametrize(
    "name", ["jobs", "runs", "keys", "delayed", "running", "dead", "serial", "results", "expiring", "ready:0", "taken:w", ""]
)
def test_a_key_of_a_wrong_type_loses_no_job(queue: QueueFunctions, name: str) -> None:
    """Each call may fail while it is there. When it is gone, each job is there once."""
    client, key = queue.own.client, queue.key(name)
    options = ("serial", "s", "result_ttl", 60, "expires", 3000)
    for number in range(3):
        queue.call("enqueue", *JOBS, "id", f"j{number}", "key", f"k{number}", *options)
    tokens = queue.take("w", 1)
    saved = client.dump(key)
    client.set(key, "x")
    refused = 0
    for function, args in (
        ("enqueue", (*JOBS, "id", "late", "key", "late")),
        ("enqueue", (*JOBS, "id", "later", *options)),
        ("take", ("w", 1000, 5)),
        ("finish", ("w", "j0", tokens["j0"], "1")),
        ("fail", ("w", "j0", tokens["j0"], "why", "")),
        ("give_back", ("w", "j0", tokens["j0"])),
        ("held", ("w",)),
        ("cancel", ("j1",)),
    ):
        try:
            queue.work(function, *args) if args[0] == "w" else queue.call(function, *args)
        except valkey.exceptions.ResponseError as error:
            assert "WRONGTYPE" in str(error)
            refused += 1
    assert refused
    client.delete(key)
    if saved is not None:
        client.restore(key, 0, saved)
    queue.work("held", "w")
    for id in ("late", "later"):
        queue.call("enqueue", *JOBS, "id", id, *(options if id == "later" else ("key", "late")))
    ended = set()
    for _ in range(12):
        for id, token in queue.take("w").items():
            assert queue.work("finish", "w", id, token, "") == [1]
            ended.add(id)
    numbers = queue.counts("ready", "delayed", "running", "parked")
    assert numbers == [0, 0, 0, 0], (numbers, ended)
    assert {"late", "later"} <= ended


# What Valkey refuses.


def test_a_valkey_without_memory_refuses_new_jobs_and_finishes_the_old(queue: QueueFunctions) -> None:
    client = queue.own.client
    for number in range(4):
        queue.call("enqueue", *JOBS, "id", f"j{number}")
    client.config_set("maxmemory", 1)
    try:
        assert refusal(queue, "enqueue", *JOBS).startswith("command not allowed when used memory > 'maxmemory'")
        tokens = queue.take("w", 3)
        assert queue.work("finish", "w", "j0", tokens["j0"], "") == [1]
        assert queue.work("fail", "w", "j1", tokens["j1"], "why", "10") == b"retried"
        assert queue.work("give_back", "w", "j2", tokens["j2"]) == [1]
        assert queue.work("renew", "w", 1000)[0] == 1
        assert queue.call("cancel", "j3") == b"cancelled"
    finally:
        client.config_set("maxmemory", 0)
    assert queue.counts("ready", "delayed", "running", "finished", "retried") == [1, 1, 0, 1, 1]


def test_a_replica_refuses_every_change_and_shows_the_queue(queue: QueueFunctions) -> None:
    client = queue.own.client
    queue.call("enqueue", *JOBS, "id", "j")
    token = queue.take("w")["j"]
    client.config_set("repl-diskless-load", "swapdb")  # what it holds stays while it has no primary
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        for words in (("enqueue", *JOBS), ("cancel", "j")):
            with pytest.raises(valkey.exceptions.ReadOnlyError):
                queue.call(*words)
        for words in (("take", "w", 1000, 1), ("finish", "w", "j", token, "")):
            with pytest.raises(valkey.exceptions.ReadOnlyError):
                queue.work(*words)
        assert queue.counts("running", "finished") == [1, 0]
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert queue.work("finish", "w", "j", token, "") == [1]
