"""Jobs in the outbox, on either database: enqueued with the change that they belong to or not at all, once and in order, whatever is killed."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from gateway.work import Queue
from gateway.work.jobs import DATA_BYTES, DELAY_SECONDS
from gateway.work.queues import JobView, Queues
from publishers import Publisher
from publishers.database import Database
from publishers.faults import Invalid
from publishers.migrator import identity, migrate
from publishers.outbox_rows import now_ms
from publishers.relay import Relay, backlog

from ..kit import forks, job_relays, relays
from ..kit.outboxes import everything, rows
from ..kit.waiting import eventually, until

HOUR = 3600.0


@pytest.fixture
def queues(publisher: Publisher) -> Queues:
    return Queues(publisher.history.commands, publisher.history.layout)


@pytest.fixture
def quick_relay(quick_database: Database, publisher: Publisher) -> Relay:
    return Relay(quick_database, publisher.history)


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """``start(work, *arguments)``: a process that is ended with the test."""
    started: list[BaseProcess] = []

    def begin(work: Callable[..., Awaitable[None] | None], *arguments: Any) -> BaseProcess:
        started.append(forks.start(work, *arguments))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.join()
        each.close()


async def ready(queues: Queues, queue: str = "default") -> list[Any]:
    """The data of a queue's ready jobs, in the order in which they are taken."""
    views: list[JobView] = []
    while page := await queues.jobs(queue, "ready", first=len(views), limit=200):
        views += page
    return [msgspec.json.decode(view.job.data) for view in views if view.job is not None]


async def enqueue(database: Database, first: int, last: int, *names: str) -> None:
    """The numbers ``first`` to ``last`` into each queue, a transaction for each."""
    for number in range(first, last):
        async with database.transaction() as transaction:
            for queue in names or ("default",):
                transaction.enqueue("count", number, queue=queue)


# In the transaction.


async def test_a_job_is_committed_with_its_change_or_not_at_all(quick_database: Database, quick_relay: Relay, queues: Queues) -> None:
    async def work(fails: bool) -> str:
        async with quick_database.transaction() as transaction:
            transaction.publish("posts:a", "placed")
            id = transaction.enqueue("orders.process", {"order": 17}, queue="orders", key="order-17")
            if fails:
                raise RuntimeError
            return id

    before = await everything(quick_database)
    with pytest.raises(RuntimeError):
        await work(True)
    assert await everything(quick_database) == before and await quick_relay.drain() == 0
    assert (await queues.overview("orders")).enqueued == 0
    id = await work(False)
    assert [row.channel for row in await rows(quick_database)] == ["posts:a", "{orders}"]
    assert await quick_relay.drain() == 2 and await rows(quick_database) == []
    view = await queues.job("orders", id)
    assert view.state == "ready" and view.job is not None and view.job.name == "orders.process" and view.job.key == "order-17"
    assert await queues.names() == ["orders"]


async def test_a_committed_job_wakes_the_relay(
    quick_database: Database, quick_relay: Relay, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publishers.relay.LOOK_SECONDS", 3600.0)
    running = asyncio.create_task(quick_relay.run())
    for number in range(3):
        await enqueue(quick_database, number, number + 1)
        await eventually(lambda number=number: has(queues, number + 1), "the job is in its queue")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def has(queues: Queues, count: int) -> bool:
    return len(await ready(queues)) == count


def described(view: JobView) -> dict[str, Any]:
    """A job without its id and the moments that no two have in common; its expiry counts from when it is due."""
    assert view.job is not None
    fields = msgspec.structs.asdict(view.job)
    due, enqueued, expires = fields.pop("due"), fields.pop("enqueued"), fields["expires"]
    return {
        **fields,
        "state": view.state,
        "data": bytes(fields["data"]),
        "expires": expires and round((expires - due) / 1000),
        "in": round((due - enqueued) / HOUR),
    }


OPTIONS: list[dict[str, Any]] = [
    {},
    {"key": "k", "priority": 9, "attempts": 7, "timeout": 1.5, "result_ttl": 60},
    {"serial": "é 1", "channel": "orders:17", "expires": 90, "key": None, "at": None},
    {"delay": HOUR, "expires": 0.5},
    {"at": datetime.now(UTC) + timedelta(hours=3), "delay": HOUR},
    {"at": 5.0, "delay": 0, "expires": HOUR},
]


async def test_the_options_are_those_of_a_queue(
    quick_database: Database, quick_relay: Relay, queues: Queues, valkey_url: str, prefix: str
) -> None:
    data = {"text": "“soup” \u0000", "list": [1, 2.5, None, True]}
    async with Queue(valkey_url, prefix=prefix) as queue:
        for options in OPTIONS:
            async with quick_database.transaction() as transaction:
                id = transaction.enqueue("a", data, queue="one", **options)
            job = await queue.enqueue("a", data, queue="two", **options)
            assert await quick_relay.drain() == 1
            assert described(await queues.job("one", id)) == described(await job.look()), options


LARGE = "x" * (DATA_BYTES - 2)
DEEP: Any = 1
for _ in range(256):
    DEEP = [DEEP]


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "the name of a job is a text of 1 to 200 bytes"),
    ({"name": "a\nb"}, "the name of a job is a text of 1 to 200 bytes"),
    ({"name": "a\ud800"}, "surrogates not allowed"),
    ({"name": 17}, "the name of a job is a text, not 17"),
    ({"data": object()}, "the data of a job is not JSON"),
    ({"data": float("nan")}, "the data of a job holds nan"),
    ({"data": 10**5000}, "digits"),
    ({"data": "\udc00"}, "surrogates not allowed"),
    ({"data": msgspec.Raw(b"{nonsense")}, "the data of a job is not JSON"),
    ({"data": [DEEP]}, "the data of a job is nested too deep"),
    ({"data": LARGE + "x"}, f"the data of a job is at most {DATA_BYTES} bytes"),
    ({"queue": ""}, "a queue is named by 1 to 100 bytes"),
    ({"queue": "a}b"}, "a queue is named by 1 to 100 bytes"),
    ({"queue": b"a"}, "the queue is a text"),
    ({"priority": -1}, "priority is a whole number from 0 to 9"),
    ({"delay": -1}, "delay is a number of seconds"),
    ({"delay": DELAY_SECONDS + 1}, "delay is a number of seconds"),
    ({"at": datetime.now(UTC) + timedelta(days=3660)}, "a job is due within 10 years"),
    ({"at": time.time() + HOUR, "delay": DELAY_SECONDS}, "a job is due within 10 years"),
    ({"at": datetime(2030, 1, 1)}, "at is a datetime with a time zone"),
    ({"at": float("inf")}, "at is a datetime with a time zone, or unix seconds"),
    ({"expires": 0}, "expires is a number of seconds"),
    ({"attempts": 0}, "attempts is a whole number from 1"),
    ({"channel": "a{b}"}, "the channel's name holds a brace"),
    ({"key": "k" * 201}, "key is a text of 1 to 200 bytes"),
    ({"id": "mine"}, "a job has no option 'id'"),
]


async def test_an_impossible_job_is_refused_before_the_commit(quick_database: Database) -> None:
    async with quick_database.transaction() as transaction:
        for job, message in IMPOSSIBLE:
            with pytest.raises(Invalid) as raised:
                transaction.enqueue(**{"name": "a", "data": 1, **job})
            assert message in str(raised.value)
        assert transaction.gathered == 0
    assert await rows(quick_database) == []


async def test_valkey_takes_whatever_a_transaction_takes(quick_database: Database, quick_relay: Relay, queues: Queues) -> None:
    """The extremes of all options: a row that Valkey refused would stop its queue for good."""
    extremes: list[dict[str, Any]] = [
        {"name": "é" * 100, "queue": "é" * 50, "key": "k" * 200, "serial": "s" * 200},
        {"data": LARGE},
        {"data": DEEP},
        {"data": [2**64, -(10**400), -(2**63), 1e308, 5e-324, "\u2028\u007f"]},
        {"priority": 9, "attempts": 1000, "timeout": 7 * 86400, "result_ttl": 30 * 86400, "channel": "c" * 200},
        {"delay": DELAY_SECONDS - 60, "expires": DELAY_SECONDS, "timeout": 0.001},
        {"at": 0, "expires": 0.001, "delay": 1e-9},
    ]
    async with quick_database.transaction() as transaction:
        for job in extremes:
            transaction.enqueue(**{"name": "a", "data": None, "queue": "b", **job})
    assert await quick_relay.drain() == len(extremes)
    assert (await queues.overview("b")).enqueued == len(extremes) - 1


# Times.


# Options; how the job is enqueued after the hour, in how many seconds it is due, whether it expired.
TIMES: list[tuple[dict[str, float], str, float, bool]] = [
    ({}, "ready", 0, False),
    ({"delay": HOUR - 60}, "ready", 0, False),
    ({"delay": HOUR + 60}, "delayed", 60, False),
    ({"expires": HOUR + 60}, "ready", 0, False),
    ({"expires": HOUR - 60}, "ready", 0, True),
    ({"delay": HOUR - 60, "expires": 30}, "ready", 0, True),
    ({"delay": HOUR - 60, "expires": 90}, "ready", 0, False),
    ({"delay": HOUR + 60, "expires": 30}, "delayed", 60, False),
]


async def test_times_count_from_the_transaction_though_the_relay_was_away(
    quick_database: Database, quick_relay: Relay, queues: Queues, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was away for an hour. A job that expired meanwhile is a dead letter, and no worker runs it."""
    monkeypatch.setattr("publishers.outbox_rows.now_ms", lambda: now_ms() - HOUR * 1000)
    for number, (options, state, due, dies) in enumerate(TIMES):
        queue = str(number)
        async with quick_database.transaction() as transaction:
            id = transaction.enqueue("a", queue=queue, **options)
        await quick_relay.drain()
        view = await queues.job(queue, id)
        assert view.state == state and view.job is not None, options
        assert abs(view.job.due / 1000 - time.time() - due) < 30, options
        keys = (*publisher.history.layout.queue(queue), publisher.history.layout.taken(queue, "w"))
        taken = await publisher.history.call(b"gateway_take", keys, "w", 15000, 10)
        assert len(taken) == 1 + (state == "ready" and not dies), options
        view = await queues.job(queue, id)
        assert view.state == ("dead" if dies else "delayed" if due else "running"), options
        assert [failure.error for failure in view.failures] == ["it expired before a worker took it"] * dies


# Once and in order.


@pytest.mark.parametrize(
    ("step", "enqueued", "waiting"),
    [
        ("before the second job leaves", 1, 3),
        ("before the answer of the second job is read", 2, 3),
        ("when the second job is answered", 2, 3),
        ("before it settles", 3, 3),
        ("before the settling is committed", 3, 3),
        ("when it has settled", 3, 0),
    ],
)
async def test_a_relay_killed_at_any_step_is_continued_by_another(
    database: Database,
    migrated_url: str,
    publisher: Publisher,
    queues: Queues,
    valkey_url: str,
    prefix: str,
    start: Callable[..., BaseProcess],
    step: str,
    enqueued: int,
    waiting: int,
) -> None:
    """Though the jobs that it enqueued were done before the other one came: they are not enqueued again."""
    await enqueue(database, 0, 3)
    dying = start(job_relays.dying_job_relay, migrated_url, valkey_url, prefix, step)
    await until(lambda: dying.exitcode is not None, "it is dead")
    assert dying.exitcode == -signal.SIGKILL
    assert await ready(queues) == list(range(enqueued))
    assert await backlog(database) == waiting, "it died at this step and no other"
    assert await queues.purge("default", "ready") == (enqueued, 0)

    relay = Relay(database, publisher.history)

    async def is_drained_by_it() -> bool:
        await relay.drain()  # PostgreSQL may still hold what the dead one claimed
        return await backlog(database) == 0

    await eventually(is_drained_by_it, "nothing waits any more")
    assert relay.published == waiting
    assert await ready(queues) == list(range(enqueued, 3))
    assert (await queues.overview("default")).enqueued == 3


@pytest.mark.parametrize("seed", ["a", "b"])
async def test_jobs_of_several_writers_are_enqueued_once_and_in_order_though_relays_are_killed(
    database: Database, migrated_url: str, queues: Queues, valkey_url: str, prefix: str, start: Callable[..., BaseProcess], seed: str
) -> None:
    chance = random.Random(seed)
    relaying = (relays.relaying, migrated_url, valkey_url, prefix)
    names = ["default", "low"]
    writers = {name: start(job_relays.job_writer, migrated_url, name, names, 40) for name in (f"{seed}x", f"{seed}y")}
    living = [start(*relaying), start(*relaying)]
    for _ in range(3):
        await asyncio.sleep(chance.uniform(0.02, 0.1))
        victim = living.pop(chance.randrange(2))
        victim.kill()
        living.append(start(*relaying))
    await until(lambda: all(writer.exitcode is not None for writer in writers.values()), "all is written", 60)
    assert [writer.exitcode for writer in writers.values()] == [0, 0]

    async def is_drained() -> bool:
        return await backlog(database) == 0

    await eventually(is_drained, "nothing waits any more")
    for queue in names:
        jobs = await ready(queues, queue)
        for writer in writers:
            numbers = [job["n"] for job in jobs if job["writer"] == writer]
            assert len(numbers) > 15 and numbers == list(range(len(numbers)))
        assert (await queues.overview(queue)).enqueued == len(jobs)


async def test_two_relays_with_the_same_rows_enqueue_each_job_once(quick_database: Database, publisher: Publisher, queues: Queues) -> None:
    """As when one of them lost its claim."""
    first, second = Relay(quick_database, publisher.history), Relay(quick_database, publisher.history)
    await enqueue(quick_database, 0, 20)
    first._identity = await identity(quick_database)
    stale = await first._read({"{default}"})
    await asyncio.gather(first._publish(stale), second.drain())
    await enqueue(quick_database, 20, 25)
    await second.drain()
    await first._publish(stale)
    assert await ready(queues) == list(range(25))
    assert (await queues.overview("default")).enqueued == 25


async def test_jobs_of_another_database_are_enqueued_though_its_ids_begin_at_1(
    quick_database: Database, quick_relay: Relay, publisher: Publisher, queues: Queues, tmp_path: Any
) -> None:
    async with Database(f"sqlite:///{tmp_path / 'another.db'}") as another:
        await migrate(another)
        await enqueue(quick_database, 0, 3)
        await quick_relay.drain()
        await enqueue(another, 3, 5)
        await Relay(another, publisher.history).drain()
    assert await ready(queues) == list(range(5))


async def test_a_database_that_came_back_older_loses_no_job_once_its_outbox_has_a_new_identity(
    quick_database: Database, quick_relay: Relay, publisher: Publisher, queues: Queues
) -> None:
    """Its numbers begin again where Valkey has seen them. The page on backups names the statement."""
    await enqueue(quick_database, 0, 3)
    await quick_relay.drain()
    rewind = "DELETE FROM sqlite_sequence WHERE name = 'outbox'" if quick_database.sqlite else "ALTER SEQUENCE outbox_id_seq RESTART"
    async with quick_database.transaction() as transaction:
        await transaction.execute(text(rewind))
        await transaction.execute(text("DELETE FROM outbox_identity"))
    await enqueue(quick_database, 3, 5)
    await Relay(quick_database, publisher.history).drain()
    assert await ready(queues) == list(range(5))


# Refused.


def limit_last(transaction: Any, limit: int) -> None:
    """The last job that the transaction gathered is refused by a queue that holds so many."""
    row = transaction.rows[-1]
    name, data, options = msgspec.json.decode(row["data"])
    row["data"] = msgspec.json.encode([name, data, [*options, "limit", limit]]).decode()


async def test_a_full_queue_is_passed_by_none_of_its_jobs_and_delays_no_other(
    quick_database: Database, quick_relay: Relay, queues: Queues, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs after the refused one would be taken, and their versions would make it look old for ever."""
    monkeypatch.setattr("publishers.relay.ASIDE_SECONDS", 0.05)
    for number in range(8):
        async with quick_database.transaction() as transaction:
            transaction.enqueue("count", number)
            if number < 5:
                limit_last(transaction, 3)
            transaction.enqueue("count", number, queue="low")
    for _ in range(3):
        await quick_relay.drain()
    assert await ready(queues) == [0, 1, 2]
    assert await ready(queues, "low") == list(range(8))
    assert await backlog(quick_database) == 5
    await queues.purge("default", "ready")

    async def is_drained() -> bool:
        await quick_relay.drain()
        return await backlog(quick_database) == 0

    await eventually(is_drained, "the others are enqueued")
    assert await ready(queues) == [3, 4, 5, 6, 7]
    logged = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1 and logged[0].startswith("the outbox of {default} waits, Valkey refuses rows "), logged
    assert "the queue holds 3 jobs" in logged[0]


NO_JOBS = [
    "nonsense",
    "[1,2,3]",
    '["count",1]',
    '["count",1,["nonsense",1]]',
    '["count",1,["priority",10]]',
    f'["count",{"[" * 50_000}{"]" * 50_000},[]]',
]


async def test_a_row_that_is_no_job_stops_its_queue_and_no_other(
    quick_database: Database, quick_relay: Relay, queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program wrote it. The jobs after it wait until it is mended, and the reason is logged."""
    for number, data in enumerate(NO_JOBS):
        async with quick_database.transaction() as transaction:
            transaction.enqueue("count", 0, queue=str(number))
            transaction.rows[-1]["data"] = data
    await enqueue(quick_database, 1, 3, "low", *map(str, range(len(NO_JOBS))))
    await quick_relay.drain()
    assert await ready(queues, "low") == [1, 2] and await queues.names() == ["low"]
    assert await backlog(quick_database) == 3 * len(NO_JOBS)
    logged = [record.message.partition(" waits")[0] for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(logged) == [f"the outbox of {{{number}}}" for number in range(len(NO_JOBS))]
