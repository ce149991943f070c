"""The outbox, on either database: whatever is killed when, each publication comes into its channel once and in order.

Processes that die are those of ``relays``; what the living relay does afterwards is looked at in the channels themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
import valkey
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from gateway.errors import ConfigurationError, StoreError, Unavailable
from gateway.store.connect import Address
from gateway.store.history import History
from publishers import database as database_module
from publishers import outbox_reporting
from publishers import relay as outbox_module
from publishers.database import BROKEN, Database
from publishers.migrator import identity, migrate
from publishers.publisher import Publisher
from publishers.relay import Relay, backlog
from publishers.relay_program import run_relay
from publishers.reviews import create_review, story_of
from publishers.tables import reviews

from ..kit import forks, relays
from ..kit.outboxes import rows, table_away
from ..kit.programs import process
from ..kit.relays import CHANNELS, INBOX
from ..kit.valkeys import OwnValkey
from ..kit.waiting import eventually, until

Start = Callable[..., BaseProcess]
EACH = 3  # rows of a channel, where the number does not matter


# What is there, and who is at work.


@pytest.fixture
def start(migrated_url: str, valkey_url: str, prefix: str) -> Iterator[Start]:
    """``start(work, …)``: one of the processes of ``relays`` on the test's database, a relay on its Valkey too; ended with the test."""
    started: list[BaseProcess] = []

    def begin(work: Callable[..., Awaitable[None] | None], *arguments: Any) -> BaseProcess:
        where = (migrated_url, valkey_url, prefix) if "relay" in work.__name__ else (migrated_url,)
        started.append(forks.start(work, *where, *arguments))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.join()
        each.close()


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay of this process waits for no look."""
    monkeypatch.setattr(outbox_module, "LOOK_SECONDS", 0.02)


@pytest.fixture
def never_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay of this process does something only if it is woken."""
    monkeypatch.setattr(outbox_module, "LOOK_SECONDS", 3600.0)


@contextlib.asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def is_drained(database: Database) -> bool:
    return await backlog(database) == 0


async def contents(publisher: Publisher, channel: str) -> list[Any]:
    page = await publisher.history.read(channel, 0, -1)
    assert [each.offset for each in page.publications] == list(range(1, len(page.publications) + 1))
    return [json.loads(each.data) for each in page.publications]


async def holds(publisher: Publisher, channel: str, expected: list[Any]) -> None:
    """Waits until as much is there, and looks at what it is."""

    async def is_full() -> bool:
        return len(await contents(publisher, channel)) >= len(expected)

    await eventually(is_full, f"{len(expected)} publications in {channel}")
    assert await contents(publisher, channel) == expected


async def unread(publisher: Publisher) -> int:
    return (await publisher.history.call(b"gateway_inbox", publisher.history.layout.inbox_keys(INBOX), 0, 0))[2]


async def read_all(publisher: Publisher) -> None:
    await publisher.history.call(b"gateway_read", publisher.history.layout.inbox_keys(INBOX), "", "")


def document(channel: str, number: int) -> dict[str, Any]:
    return {"id": f"{channel}#{number}", "n": number}


def documents(channel: str, first: int, last: int) -> list[dict[str, Any]]:
    return [document(channel, number) for number in range(first, last)]


async def all_hold(publisher: Publisher, first: int, last: int) -> None:
    """Each channel holds the documents of these numbers, and nothing else."""
    for channel in CHANNELS:
        assert await contents(publisher, channel) == documents(channel, first, last)


async def write(database: Database, first: int = 0, last: int = EACH, channels: Sequence[str] = CHANNELS) -> None:
    """Numbers ``first`` to ``last`` into each channel, a transaction for each number. Stories are kept."""
    for number in range(first, last):
        async with database.transaction() as transaction:
            for channel in channels:
                transaction.publish(channel, document(channel, number), keep=channel.startswith("review:"))


async def only_kept_rows_are_left(database: Database, count: int) -> None:
    left = await rows(database)
    assert [(row.channel, row.published, json.loads(row.data)["n"]) for row in left] == [("review:1", True, n) for n in range(count)]


# Killed between any two steps.


@pytest.mark.parametrize(
    ("step", "published", "waiting"),
    [
        ("before it looks", 0, 9),
        ("before it claims", 0, 9),
        ("before it reads", 0, 9),
        ("before it publishes", 0, 9),
        ("before the second call leaves", 1, 9),
        ("before the answer of the second call is read", 2, 9),
        ("when the second call is answered", 2, 9),
        ("between two channels", 3, 9),
        ("before it settles", 9, 9),
        ("before the settling is committed", 9, 9),
        ("when it has settled", 9, 0),
        ("when the claim is released", 9, 0),
    ],
)
async def test_a_relay_killed_at_any_step_is_continued_by_another(
    database: Database, publisher: Publisher, start: Start, step: str, published: int, waiting: int
) -> None:
    """What was read in the inbox meanwhile stays read: nothing comes into it a second time."""
    await write(database)
    dying = start(relays.dying_relay, step)
    await until(lambda: dying.exitcode is not None, "it is dead")
    assert dying.exitcode == -signal.SIGKILL
    there = {channel: len(await contents(publisher, channel)) for channel in CHANNELS}
    assert (sum(there.values()), await backlog(database)) == (published, waiting), "it died at this step and no other"
    await read_all(publisher)

    relay = Relay(database, publisher.history)

    async def is_drained_by_it() -> bool:
        await relay.drain()  # PostgreSQL may still hold what the dead one claimed
        return await is_drained(database)

    await eventually(is_drained_by_it, "nothing waits any more")
    assert relay.published == waiting
    await all_hold(publisher, 0, EACH)
    assert await unread(publisher) == EACH - there[INBOX]
    await only_kept_rows_are_left(database, EACH)


@pytest.mark.parametrize(
    ("step", "is_committed"), [("before the outbox is written", False), ("before the commit", False), ("before anybody is woken", True)]
)
async def test_a_writer_killed_at_any_step_leaves_its_rows_and_outbox_or_neither(
    database: Database, publisher: Publisher, start: Start, step: str, is_committed: bool
) -> None:
    """What it committed is published although it woke no relay; it does not hold up later writers of the same channel."""
    async with running(Relay(database, publisher.history)):
        writer = start(relays.dying_writer, "cafe", step)
        await until(lambda: writer.exitcode is not None, "it is dead")
        assert writer.exitcode == -signal.SIGKILL
        async with database.reading() as connection:
            left = (await connection.execute(select(reviews.c.id))).scalars().all()
        assert len(left) == is_committed
        if is_committed:
            await eventually(lambda: contents(publisher, "reviews:cafe"), "what it committed is published")
        after = (await create_review(database, subject="cafe", author="u2", rating=1, text="…"))["id"]
        await eventually(lambda: contents(publisher, story_of(after)), "what was committed after it is published")
        await eventually(lambda: is_drained(database), "nothing waits any more")
    committed = [*left, after]
    assert [each["review"]["id"] for each in await contents(publisher, "reviews:cafe")] == committed
    assert [(row.channel, row.published) for row in await rows(database)] == [(story_of(id), True) for id in committed]
    for id in committed:
        assert [each["review"]["id"] for each in await contents(publisher, story_of(id))] == [id]


# Valkey is down meanwhile.


async def test_writers_commit_while_valkey_is_down_and_the_relay_publishes_later(
    database: Database, own: OwnValkey, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The writers do not notice; the relay logs it once."""
    async with Publisher(own.url, prefix=prefix, patience=0.05) as publisher, running(Relay(database, publisher.history)) as relay:
        await write(database, 0, 3)
        await eventually(lambda: is_drained(database), "the first are published")
        own.kill()
        await write(database, 3, 6)
        await until(lambda: relay.failures >= 3, "the relay tried again and again")
        await write(database, 6, 9)
        assert await backlog(database) == 18
        await asyncio.to_thread(own.start)
        await eventually(lambda: is_drained(database), "nothing waits any more")
        await all_hold(publisher, 0, 9)
        assert await unread(publisher) == 9
        await until(lambda: relay.failures == 0, "the relay is content")
    await only_kept_rows_are_left(database, 9)
    (line,) = [record.message for record in caplog.records if record.name == "gateway.relay" and "waits" in record.message]
    away = f"no connection to Valkey at {Address(own.url)}"  # it waited for one, or asked for one that is there at once
    assert line in (f"the outbox waits ({away} for 0.05 s); trying again", f"the outbox waits ({away}); trying again")


async def test_each_row_is_published_once_though_valkey_is_killed_meanwhile(database: Database, own: OwnValkey, prefix: str) -> None:
    async with (
        Publisher(own.url, prefix=prefix) as publisher,
        running(Relay(database, publisher.history)) as relay,
        asyncio.TaskGroup() as group,
    ):
        writes = group.create_task(write(database, 0, 60))
        for seen in (20, 80):
            await until(lambda seen=seen: relay.published >= seen, "it is in the middle")
            own.kill()
            await asyncio.to_thread(own.start)
        await writes
        await eventually(lambda: is_drained(database), "nothing waits any more")
        await all_hold(publisher, 0, 60)
        assert await unread(publisher) == 60
    await only_kept_rows_are_left(database, 60)


# Several at once.


class Watcher:
    """Reads the ids of all rows again and again: of a channel, none may appear below one that was seen."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.seen: dict[str, list[int]] = {}
        self.looks = 0

    async def run(self) -> None:
        while True:
            found: dict[str, list[int]] = {}
            for row in await rows(self._database):
                found.setdefault(row.channel, []).append(row.id)
            for channel, ids in found.items():
                before = self.seen.get(channel, [])
                assert ids[: len(before)] == before, f"{channel}: one appeared among {before[-3:]}: {ids}"
            self.seen = found
            self.looks += 1


async def test_rows_of_several_writers_stay_in_order_with_several_relays_of_which_one_is_killed(
    database: Database, publisher: Publisher, start: Start
) -> None:
    """All rows are kept here, so that the outbox shows what a channel has to hold: its rows, in the order of their ids."""
    channels = [INBOX, *(f"review:{name}" for name in "abc")]
    watcher = Watcher(database)
    watching = asyncio.create_task(watcher.run())
    writers = [start(relays.writer, name, channels, 40) for name in ("x", "y")]
    first = start(relays.relaying)
    await eventually(lambda: contents(publisher, "review:a"), "the first relay is at work")
    others = [start(relays.relaying), start(relays.relaying)]
    assert first.is_alive()
    first.kill()
    await until(lambda: all(writer.exitcode is not None for writer in writers), "all is written", 60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    await eventually(lambda: is_drained(database), "nothing waits any more")
    assert all(relay.is_alive() for relay in others)
    assert watcher.looks > 1 and not watching.done(), watching
    watching.cancel()
    await asyncio.wait([watching])

    written = await rows(database)
    assert all(row.published for row in written)
    for channel in channels:
        expected = [json.loads(row.data) for row in written if row.channel == channel]
        assert len(expected) > 40 and await contents(publisher, channel) == expected
    ids = [row.data for row in written if row.channel == INBOX]
    assert await unread(publisher) == len(set(ids)) == len(ids)


async def test_two_relays_in_one_process_publish_each_row_once(database: Database, publisher: Publisher) -> None:
    first, second = Relay(database, publisher.history), Relay(database, publisher.history)
    async with running(first), running(second):
        await write(database, 0, 20)
        await until(lambda: first.published + second.published == 60, "all are published, and counted once")
        assert await is_drained(database)
    await all_hold(publisher, 0, 20)


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_channels_ids_are_committed_in_their_order(database: Database) -> None:
    """A second writer waits for the first one's commit before it draws an id; a writer of another channel does not wait."""

    async def waits() -> bool:
        async with database.reading() as connection:
            found = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            return found.scalar_one() == 1

    async with database.transaction() as first:
        first.publish("posts:a", 1)
        await first.write_outbox()
        first.rows.clear()
        second = asyncio.create_task(write(database, 2, 3, ["posts:a"]))
        await eventually(waits, "the second one waits")
        await write(database, 3, 4, ["posts:b"])
        assert [row.channel for row in await rows(database)] == ["posts:b"]
        assert not second.done()
    await second
    assert [(row.channel, row.id) for row in await rows(database)] == [("posts:a", 1), ("posts:b", 2), ("posts:a", 3)]


class SlowRelay(Relay):
    """Waits between reading and publishing until ``goes_on`` is set."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        super().__init__(database, publisher.history)
        self.has_read = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def _publish(self, rows: Sequence[Any]) -> Any:
        self.has_read.set()
        await self.goes_on.wait()
        return await super()._publish(rows)


async def test_a_relay_leaves_alone_what_another_one_has_claimed(database: Database, publisher: Publisher) -> None:
    slow, quick = SlowRelay(database, publisher), Relay(database, publisher.history)
    await write(database, channels=["posts:a"])
    draining = asyncio.create_task(slow.drain())
    await slow.has_read.wait()
    await write(database, channels=["posts:b"])
    assert await quick.drain() == (0 if database.sqlite else EACH), "SQLite has one lock for all channels"
    slow.goes_on.set()
    assert await draining == (2 * EACH if database.sqlite else EACH)
    for channel in ("posts:a", "posts:b"):
        assert await contents(publisher, channel) == documents(channel, 0, EACH)


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_many_rows_that_another_relay_holds_hide_none_of_those_after_them(database: Database, publisher: Publisher) -> None:
    slow, quick = SlowRelay(database, publisher), Relay(database, publisher.history)
    await write(database, channels=["posts:a"] * outbox_module.ROUND)
    draining = asyncio.create_task(slow.drain())
    await slow.has_read.wait()
    await write(database, channels=["posts:b"])
    assert await quick.drain() == EACH
    slow.goes_on.set()
    assert await draining == EACH * outbox_module.ROUND


async def test_a_relay_forgets_what_another_one_held_once_it_looks_there_again(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that shared a backlog of channels with another one remembered a third of them all, and looked through them in each round."""
    relay = Relay(Database(f"sqlite:///{tmp_path / 'test.db'}"), publisher.history)
    monkeypatch.setattr(outbox_module, "LOOK_SECONDS", 0.0)
    for number in range(3):
        relay._pass_over([f"posts:{number}"], [])
    assert list(relay._held) == ["posts:2"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_postgresql_takes_a_claim_from_a_relay_that_is_frozen(
    database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session lives on, and for hours where its machine is gone. When it wakes, it publishes nothing a second time."""
    slow, quick = SlowRelay(database, publisher), Relay(database, publisher.history)
    claims = []

    class Noted:
        async def fetch_first(self, connection: Any, parameters: Any) -> Any:
            claims.append(connection)
            return await database_module.claiming(seconds=60).fetch_first(connection, parameters)

    await write(database)
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "_try", Noted())
        draining = asyncio.create_task(slow.drain())
        await slow.has_read.wait()
    await database_module.claiming(seconds=0.05).fetch_first(claims[0], {"keys": [0]})  # only now: on a busy machine it may read late
    await eventually(quick.drain, "the other one has all of it")
    slow.goes_on.set()
    with contextlib.suppress(*BROKEN):
        await draining
    await all_hold(publisher, 0, EACH)
    await only_kept_rows_are_left(database, EACH)


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_relay_that_lost_its_claim_publishes_nothing_twice(database: Database, publisher: Publisher) -> None:
    slow, quick = SlowRelay(database, publisher), Relay(database, publisher.history)
    await write(database)
    draining = asyncio.create_task(slow.drain())
    await slow.has_read.wait()
    assert await quick.drain() == 0
    async with database.reading() as connection:
        holder = "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory'"
        ended = await connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({holder}) AS holder"))
        assert ended.scalars().all() == [True]
    await write(database, EACH, 2 * EACH)
    await eventually(quick.drain, "the other one has all of it")
    await eventually(lambda: is_drained(database), "nothing waits any more")
    slow.goes_on.set()
    with contextlib.suppress(DBAPIError):
        await draining
    await all_hold(publisher, 0, 2 * EACH)
    await only_kept_rows_are_left(database, 2 * EACH)


# Wakes.


async def test_another_processs_commit_wakes_the_relay(database: Database, publisher: Publisher, start: Start, never_looking: None) -> None:
    """Each is written only when the one before is published: the relay has nothing to do by then."""
    ours, theirs = multiprocessing.Pipe()
    async with running(Relay(database, publisher.history)):
        start(relays.obedient_writer, "posts:a", theirs)
        for number in range(5):
            ours.send(number)
            await holds(publisher, "posts:a", list(range(number + 1)))
        ours.send(None)
    ours.close()
    theirs.close()


async def test_a_commit_of_its_own_process_wakes_the_relay(database: Database, publisher: Publisher, never_looking: None) -> None:
    async with running(Relay(database, publisher.history)):
        for number in range(5):
            await write(database, number, number + 1, ["posts:a"])
            await holds(publisher, "posts:a", documents("posts:a", 0, number + 1))


async def test_a_commit_right_after_the_relays_look_wakes_it(database: Database, publisher: Publisher, never_looking: None) -> None:
    class OvertakenRelay(Relay):
        written = 0

        async def _waiting(self) -> list[str]:
            names = await super()._waiting()
            if not names and self.written < 3:
                self.written += 1
                await write(database, self.written - 1, self.written, ["posts:a"])
            return names

    async with running(OvertakenRelay(database, publisher.history)):
        await holds(publisher, "posts:a", documents("posts:a", 0, 3))


class RestingRelay(Relay):
    rests = False

    async def _rest(self) -> None:
        self.rests = True
        await super()._rest()
        self.rests = False


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_relay_connects_to_its_database_again(
    database: Database, migrated_url: str, publisher: Publisher, never_looking: None
) -> None:
    """All of them while it rests; the one that listens is taken up again, or nothing would wake it."""
    async with running(RestingRelay(database, publisher.history)) as relay:
        for number in range(3):
            async with Database(migrated_url) as elsewhere:
                await write(elsewhere, number, number + 1, ["posts:a"])
                await holds(publisher, "posts:a", documents("posts:a", 0, number + 1))
                await eventually(lambda elsewhere=elsewhere: is_drained(elsewhere), "nothing waits any more")
            await until(lambda: relay.rests, "it rests")
            async with Database(migrated_url) as elsewhere, elsewhere.reading() as connection:
                others = "datname = current_database() AND pid <> pg_backend_pid()"
                await connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))


# What the relay takes out, and what it cannot publish.


async def test_only_kept_rows_stay_and_are_not_published_again(database: Database, publisher: Publisher) -> None:
    await write(database)
    relay = Relay(database, publisher.history)
    assert await relay.drain() == 3 * EACH
    await only_kept_rows_are_left(database, EACH)
    assert await relay.drain() == await Relay(database, publisher.history).drain() == 0
    assert await contents(publisher, "review:1") == documents("review:1", 0, EACH)


async def test_more_rows_than_a_round_holds_are_published(
    database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "CHUNK_BYTES", 1000)
    data = [{"id": f"n{number}", "text": "…" * (number % 7) * 100} for number in range(700)]
    async with database.transaction() as transaction:
        for each in data:
            transaction.publish("notifications:u1", each)
            transaction.publish("review:1", each)
    assert await Relay(database, publisher.history).drain() == 1400
    assert await contents_by_pages(publisher, "review:1") == await contents_by_pages(publisher, INBOX) == data
    assert await unread(publisher) == 700
    assert await rows(database) == []


async def test_a_round_reads_no_more_of_large_rows_than_fits_in_memory(
    database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "ROUND_BYTES", 1000)
    relay = Relay(database, publisher.history)
    async with database.transaction() as transaction:
        for number in range(10):
            transaction.publish("posts:a", "x" * (2000 if number == 5 else 198))
    reads = []
    while rows := await relay._read({"posts:a"}):
        reads.append([row.id for row in rows])
        await relay._settle(rows)
    assert reads == [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10]]


async def contents_by_pages(publisher: Publisher, channel: str) -> list[Any]:
    return [json.loads(each.data) for each in (await publisher.history.read(channel, 0, -1, max_bytes=2**30)).publications]


class SpoiltStream:
    """The stream of a channel is none for a while: whatever is published there is refused."""

    def __init__(self, store: valkey.Valkey, publisher: Publisher, channel: str) -> None:
        self._client = store
        self._key = publisher.history.layout.keys(channel)[1]
        self._client.rename(self._key, self._key + b":aside")
        self._client.set(self._key, "no stream")

    def mend(self) -> None:
        self._client.rename(self._key + b":aside", self._key)


@pytest.mark.parametrize("channel", ["posts:a", INBOX])
async def test_a_channel_that_valkey_refuses_does_not_delay_the_others(
    database: Database,
    publisher: Publisher,
    store: valkey.Valkey,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    always_looking: None,
    channel: str,
) -> None:
    """It is tried again, logged once, and published with what follows it when the fault is gone."""
    monkeypatch.setattr(outbox_module, "ASIDE_SECONDS", 0.1)
    tries: list[str] = []

    class CountingRelay(Relay):
        def _set_aside(self, name: str, *why: Any) -> None:
            tries.append(name)
            super()._set_aside(name, *why)

    async with running(CountingRelay(database, publisher.history)):
        await write(database, 0, 1, [channel])
        await holds(publisher, channel, documents(channel, 0, 1))
        fault = SpoiltStream(store, publisher, channel)
        await write(database, 1, 3, [channel, "posts:b"])
        await until(lambda: len(tries) >= 3, "it is tried again")
        await write(database, 3, 4, [channel, "posts:b"])
        await holds(publisher, "posts:b", documents("posts:b", 1, 4))

        async def is_all_that_waits() -> bool:
            return await backlog(database) == 3

        await eventually(is_all_that_waits, "the others are taken out, too")
        fault.mend()
        await holds(publisher, channel, documents(channel, 0, 4))
        await eventually(lambda: is_drained(database), "nothing waits any more")
    assert set(tries) == {channel}
    logged = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1 and logged[0].startswith(f"the outbox of {channel} waits, Valkey refuses rows ") and "WRONGTYPE" in logged[0]


async def test_many_channels_that_valkey_refuses_hide_none_of_those_after_them(
    database: Database, publisher: Publisher, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a round takes are refused, and each has been before."""
    monkeypatch.setattr(outbox_module, "CHANNELS_AT_ONCE", 3)
    monkeypatch.setattr(outbox_module, "backoff", lambda *_: 3600.0)
    refused = [f"posts:{number}" for number in range(10)]
    for name in refused:
        store.set(publisher.history.layout.keys(name)[0], "no hash")
    await write(database, 0, 1, refused)
    relay = Relay(database, publisher.history)
    assert await relay.drain() == 0
    relay._aside = dict.fromkeys(relay._aside, 0.0)  # all of them are tried again
    await write(database, 0, 1, ["posts:after"])
    assert await relay.drain() == 1


async def test_rows_of_a_shard_that_is_away_hide_none_of_the_other_shards(database: Database, publisher: Publisher) -> None:
    """One shard is away, another is lost as the call is under way."""
    history = publisher.history
    where = {history.layout.channel("posts:a"): False, history.layout.channel("posts:b"): True, history.layout.channel("posts:c"): True}

    class Cluster:
        sharded = True
        send = history.commands.send
        looks = 0

        def shard(self, key: bytes) -> Any:
            return SimpleNamespace(connected=where[key])

        def look_again(self) -> None:
            self.looks += 1

    async def relay(channel: str, *words: Any, **options: Any) -> None:
        if channel == "posts:b":
            raise Unavailable("lost")
        await History.relay(history, channel, *words, **options)

    of_a_cluster = cast(Any, SimpleNamespace(commands=Cluster(), layout=history.layout, relay=relay))
    for channel in ("posts:a", "posts:b", "posts:c"):
        await write(database, channels=[channel])
    assert await Relay(database, of_a_cluster).drain() == EACH and of_a_cluster.commands.looks > 0
    assert await contents(publisher, "posts:c") == documents("posts:c", 0, EACH) and await contents(publisher, "posts:a") == []


async def test_a_valkey_that_takes_no_writes_sets_no_channel_aside(
    database: Database, publisher: Publisher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, always_looking: None
) -> None:
    """It is logged once for all channels, and all are published as soon as it takes writes again."""
    monkeypatch.setattr(outbox_module, "backoff", lambda *_: 30.0)
    publish, refusals = publisher.history.relay, []

    async def full(*words: Any, **options: Any) -> None:
        refusals.append(words)
        raise StoreError("OOM command not allowed when used memory > 'maxmemory'")

    monkeypatch.setattr(publisher.history, "relay", full)
    await write(database)
    async with running(Relay(database, publisher.history)):
        await until(lambda: len(refusals) > 3 * len(CHANNELS), "it is tried again")
        monkeypatch.setattr(publisher.history, "relay", publish)
        await holds(publisher, "posts:a", documents("posts:a", 0, EACH))
    assert [record.message[:23] for record in caplog.records if record.name == "gateway.relay"] == ["the outbox waits (OOM c"]


async def test_a_row_refused_for_a_moment_is_not_overtaken(
    database: Database, publisher: Publisher, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call would be taken; its version would make the refused one look old for ever."""
    monkeypatch.setattr(outbox_module, "CHUNK_BYTES", 1)
    relay = Relay(database, publisher.history)
    await write(database, 0, 1)
    await relay.drain()
    fault = SpoiltStream(store, publisher, "posts:a")

    class MendsAtOnce(Relay):
        def _set_aside(self, name: str, *why: Any) -> None:
            fault.mend()
            super()._set_aside(name, *why)

    await write(database, 1, 4)
    assert await MendsAtOnce(database, publisher.history).drain() >= 2 * EACH
    await relay.drain()
    await all_hold(publisher, 0, 4)


async def test_rows_of_another_database_are_published_though_ids_repeat(database: Database, publisher: Publisher, tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'another.db'}") as another:
        await migrate(another)
        assert await identity(another) != await identity(database)
        await write(database, 0, 3)
        await Relay(database, publisher.history).drain()
        await write(another, 3, 5)
        assert (await rows(another))[0].id == 1
        await Relay(another, publisher.history).drain()
        await write(database, 5, 7)
        await Relay(database, publisher.history).drain()
    await all_hold(publisher, 0, 7)


async def test_a_relay_outlasts_the_middle_of_a_restore_in_which_the_tables_are_not_there(
    database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, always_looking: None
) -> None:
    monkeypatch.setattr(outbox_reporting, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(outbox_module, "IDENTITY_SECONDS", 0.0)
    running_relay = asyncio.create_task(run_relay(database, publisher.history))
    async with table_away(database, "outbox_identity"):
        await write(database, 0, 1)
        await until(lambda: {"the outbox waits", "the outbox canno"} <= {record.message[:16] for record in caplog.records}, "both fail")
    await write(database, 1, 2)
    await holds(publisher, "posts:a", documents("posts:a", 0, 2))
    assert not running_relay.done()
    running_relay.cancel()
    await asyncio.wait([running_relay])


async def go_back(database: Database) -> None:
    """The outbox is as it was after its first row."""
    async with database.transaction() as transaction:
        await transaction.execute(text("DELETE FROM outbox"))
        back = "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'outbox'" if database.sqlite else "SELECT setval('outbox_id_seq', 1)"
        await transaction.execute(text(back))


@pytest.mark.parametrize(
    "is_found",
    ["by a relay that starts", "by a relay that runs", "by its next look", "by its new connections", "by the ids of the rows"],
)
async def test_rows_of_a_database_that_came_back_older_are_published_though_their_ids_were_before(
    database: Database, publisher: Publisher, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_found: str
) -> None:
    """As after a restore of last night's backup: its rows would count as published, and be deleted."""
    relay = Relay(database, publisher.history)
    database.relayed_here = True  # nothing is notified, which would take a connection
    await write(database)
    assert await relay.drain() == 3 * EACH
    await go_back(database)
    before = await identity(database)
    await write(database, EACH, EACH + 1)
    if is_found == "by a relay that starts":
        relay = Relay(database, publisher.history)
    elif is_found == "by its next look":
        monkeypatch.setattr(relay, "_identity_until", 0.0)
    elif is_found == "by its new connections":
        await database.engine.dispose()
    elif is_found == "by a relay that runs":
        with monkeypatch.context() as patch, pytest.raises(OSError, match="restarts"):
            patch.setattr(relay, "_waiting", AsyncMock(side_effect=OSError("the database restarts")))
            await relay._counted_drain()
    assert await relay.drain() == 3
    await all_hold(publisher, 0, EACH + 1)
    assert await identity(database) != before
    assert ["came back older" in record.message for record in caplog.records if record.levelno == logging.ERROR] == [True]
    await write(database, EACH + 1, 3 * EACH)
    await relay.drain()
    await Relay(database, publisher.history).drain()
    await all_hold(publisher, 0, 3 * EACH)


async def test_rows_wait_while_it_is_not_known_whether_their_database_came_back_older(
    database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay went on while Valkey was away, and Valkey was back before the rows were published: they counted as published, and were deleted."""
    await write(database)
    await Relay(database, publisher.history).drain()
    await go_back(database)
    await write(database, EACH, EACH + 1)
    relay = Relay(database, publisher.history)
    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(publisher.history.commands, "send", AsyncMock(side_effect=Unavailable("no connection")))
        await relay.drain()
    assert await relay.drain() == 3
    await all_hold(publisher, 0, EACH + 1)


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_ids_that_are_not_given_in_the_order_of_commits_stop_the_relay(database: Database, publisher: Publisher) -> None:
    """Rows that were committed later and had lower ids counted as published, and were deleted."""
    relay = Relay(database, publisher.history)
    await write(database, 0, 1, ["posts:a"])
    await relay.drain()
    async with database.transaction() as transaction:
        await transaction.execute(text("ALTER SEQUENCE outbox_id_seq CACHE 10"))
    with pytest.raises(ConfigurationError, match="run `ALTER SEQUENCE outbox_id_seq CACHE 1`"):
        await Relay(database, publisher.history).drain()


async def test_an_emptied_valkey_takes_the_rows_that_follow(database: Database, own: OwnValkey, prefix: str) -> None:
    """It knows no versions and no functions any more."""
    async with Publisher(own.url, prefix=prefix) as publisher:
        relay = Relay(database, publisher.history)
        await write(database, 0, 3)
        await relay.drain()
        own.empty()
        await write(database, 3, 6)
        await relay.drain()
        await all_hold(publisher, 3, 6)


# The program.


@pytest.fixture
def config(tmp_path: Path, prefix: str) -> str:
    file = tmp_path / "relay.toml"
    file.write_text(f'prefix = "{prefix}"\n')
    return str(file)


async def test_gateway_relay_makes_tables_and_publishes(database_url: str, publisher: Publisher, valkey_url: str, config: str) -> None:
    """Two of them come to an empty database at once, and one goes on when the other is ended."""
    arguments = ("relay", "--config", config, "--valkey-url", valkey_url, "--database-url", database_url)
    async with Database(database_url) as database:
        with process(*arguments) as first, process(*arguments) as second:
            for relay in (first, second):
                ready = await asyncio.to_thread(relay.line)
                assert ready == f"the outbox of {database.name} is published to {Address(valkey_url)}; Ctrl-C ends it"
            outcomes = []
            for number, (relay, way) in enumerate(((first, signal.SIGTERM), (second, signal.SIGINT))):
                await write(database, number, number + 1)
                for channel in CHANNELS:
                    await holds(publisher, channel, documents(channel, 0, number + 1))
                await eventually(lambda: is_drained(database), "nothing waits any more")
                outcomes.append(await asyncio.to_thread(relay.end, way))
        await only_kept_rows_are_left(database, 2)
    assert [(outcome.status, outcome.out) for outcome in outcomes] == [(0, ""), (0, "")]
    assert sorted("the database's tables are at version" in outcome.error for outcome in outcomes) == [False, True]
    assert sum(outcome.error.count("\n") for outcome in outcomes) == 1, outcomes


def test_a_relay_of_one_connection_is_a_mistake_that_is_named(publisher: Publisher) -> None:
    """Its claim would have it, and it would wait 30 s for another one, again and again."""
    with pytest.raises(ConfigurationError, match="pool=2 or more"):
        Relay(Database("postgresql://host/name", pool=1), publisher.history)


async def test_a_relay_of_sqlite_leaves_the_one_connection_of_its_database_to_others(
    sqlite_template: Path, tmp_path: Path, publisher: Publisher
) -> None:
    """It held the connection for as long as it ran, so that nothing was written and nothing was published."""
    shutil.copy(sqlite_template, tmp_path / "test.db")
    async with Database(f"sqlite:///{tmp_path / 'test.db'}", pool=1) as database, running(Relay(database, publisher.history)):
        for number in range(3):
            await write(database, number, number + 1, ["posts:a"])
            await holds(publisher, "posts:a", documents("posts:a", 0, number + 1))


def test_a_relay_that_cannot_start_prints_one_line(tmp_path: Path, valkey_url: str, postgresql: str) -> None:
    taken = socket.socket()  # and nobody listens on it
    taken.bind(("127.0.0.1", 0))
    nobody = taken.getsockname()[1]
    (tmp_path / "text.db").write_text("no database\n" * 100)
    good, elsewhere = f"sqlite:///{tmp_path}/test.db", f"valkey://127.0.0.1:{nobody}"
    cases = {
        "nobody listens": (f"postgresql://u:secret@127.0.0.1:{nobody}/name", valkey_url, "cannot be used"),
        "no such database": (str(make_url(postgresql).set(database="nowhere")), valkey_url, "nowhere"),
        "another kind": ("mysql://host/name", valkey_url, "mysql"),
        "no URL": ("nonsense", valkey_url, "database_url"),
        "a file of something else": (f"sqlite:///{tmp_path}/text.db", valkey_url, "not a database"),
        "no gateway runs": (good, "", "no gateway runs"),
        "no Valkey": (good, elsewhere, "no Valkey"),
    }
    running = {}
    for name, (database_url, url, _) in cases.items():
        (folder := tmp_path / name).mkdir()
        where = ["--valkey-url", url] if url else ["--data-dir", str(folder / "empty")]
        arguments = ("relay", "--database-url", database_url, *where)
        running[name] = forks.Program("gateway.cli", folder / "out", folder / "error", *arguments)
    for name, (_, _, word) in cases.items():
        assert running[name].wait(60) == 1, name
        assert (tmp_path / name / "out").read_text() == ""
        logged = [line for line in (tmp_path / name / "error").read_text().splitlines() if " INFO " not in line]
        assert len(logged) == 1 and logged[0].startswith("gateway: ") and word in logged[0], (name, logged)
        assert "secret" not in logged[0]
    taken.close()
