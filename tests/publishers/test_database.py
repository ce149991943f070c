"""The database: what is in a transaction is committed together or not at all, on either kind."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from msgspec import Raw
from sqlalchemy import event, select

from gateway.errors import ConfigurationError
from publishers.database import Database
from publishers.engines import _write_ahead
from publishers.faults import Invalid
from publishers.migrator import has_table, identity, migrate
from publishers.outbox_rows import publication_row
from publishers.sync_database import SyncDatabase
from publishers.tables import metadata, outbox

from ..kit import forks


async def test_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    def differences(connection) -> list:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    before = await identity(database)
    await migrate(database)
    assert await identity(database) == before


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.transaction() as transaction:
            transaction.publish("posts:a", 1)
            raise RuntimeError
    async with database.reading() as connection:
        assert (await connection.execute(select(outbox))).all() == []


async def test_one_who_is_cancelled_as_the_transaction_ends_gives_the_connection_back(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It was thrown away, with an error in the log: so ended a relay that was stopped as it had deleted its last rows."""

    async def publish() -> None:
        async with database.transaction() as transaction:
            transaction.publish("posts:a", 1)

    publishing = asyncio.create_task(publish())
    event.listen(database.engine.sync_engine.pool, "reset", lambda *_: publishing.cancel())
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert database.engine.pool.checkedin() == 1  # type: ignore[attr-defined]  # it is a QueuePool


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("", 1),
        ("posts:{a}", 1),
        ("posts:a", object()),
        ("notifications:u", {"text": "no id"}),
        ("notifications:u", "a text"),
        (17, 1),
        (b"posts:a", 1),
        ("posts:a", Raw(b"")),
        ("posts:a", {"a": Raw(b"{")}),
    ],
)
async def test_data_that_could_not_be_published_is_refused_before_the_commit(database: Database, channel: Any, data: object) -> None:
    async with database.transaction() as transaction:
        with pytest.raises(Invalid):
            transaction.publish(channel, data)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_an_invalid_database_url_raises_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database_url"):
        Database(url)


@pytest.mark.parametrize("login", ["u:sec@ret", "u:sec@ret?x", "u/sec:ret", "u:sec@ret/x"])
def test_a_login_that_does_not_end_before_the_host_is_refused_and_not_shown(login: str) -> None:
    with pytest.raises(ConfigurationError, match="database_url: the login does not end before the host") as raised:
        Database(f"postgresql://{login}@host/name")
    assert "sec" not in str(raised.value) and "ret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:sec?ret@host/name", "postgresql://u:sec/ret@host/name", "postgresql://host/name?password=secret"]
)
def test_a_database_is_named_without_its_password(url: str) -> None:
    name = Database(url).name
    assert name.endswith("host/name") and "sec" not in name and "ret" not in name


async def test_a_database_without_tables_raises_one_line(database_url: str) -> None:
    async with Database(database_url) as database:
        with pytest.raises(ConfigurationError, match="gateway relay"):
            await identity(database)


async def test_a_database_that_cannot_be_reached_is_one_line_to_the_relay_of_django_too() -> None:
    async with Database("postgresql://u:secret@127.0.0.1:1/name") as database:
        with pytest.raises(ConfigurationError, match=r"^the database .*/name cannot be used: .*Connect") as raised:
            await has_table(database, "outbox")
    assert "secret" not in str(raised.value)


FILES = 30


def _open_each(folder: str, everybody: Any) -> None:
    """``everybody`` comes to each file at the same moment."""
    for number in range(FILES):
        connection = sqlite3.connect(f"{folder}/{number}.db")
        everybody.wait(30)
        _write_ahead(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.close()


def test_several_may_open_the_same_new_file_at_once(tmp_path: Path) -> None:
    """SQLite refuses all but one of those that turn it to writing ahead, without a moment's patience."""
    everybody = forks.barrier(4)
    opening = [forks.start(_open_each, str(tmp_path), everybody) for _ in range(4)]
    for process in opening:
        process.join(60)
    assert [process.exitcode for process in opening] == [0] * 4
    assert len(list(tmp_path.glob("*.db"))) == FILES


def _read_and_end(file: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("SELECT 1 FROM outbox").fetchall()


async def test_a_second_database_of_a_process_ends_no_locks_of_the_first(sqlite_template: Path, tmp_path: Path) -> None:
    """The next process that ended removed the write-ahead log, to which the first went on writing: what it committed was seen by no other process."""
    file = tmp_path / "test.db"
    shutil.copy(sqlite_template, file)
    async with Database(f"sqlite:///{file}") as first:
        assert await identity(first)
        Database(f"sqlite:///{file}")
        await asyncio.to_thread(lambda: forks.start(_read_and_end, str(file)).join(60))
        assert Path(f"{file}-wal").exists()


def test_half_of_a_surrogate_pair_in_a_browsers_json_is_mended_before_valkey_refuses_it() -> None:
    """The row of such a notification held up the inbox of its user for good."""
    row = publication_row("notifications:u", {"id": "n", "text": Raw(b'"\\ud83d"')})
    assert row["data"] == '{"id":"n","text":"\\ufffd"}'


async def test_a_transaction_that_has_ended_takes_nothing_more(database: Database) -> None:
    """What was published after its block was lost, and no error was raised."""
    async with database.transaction() as ended:
        ended.publish("posts:a", 1)
    with SyncDatabase(database.url.render_as_string(hide_password=False)) as plain, plain.transaction() as ended_too:
        ended_too.publish("posts:a", 2)
    for transaction in (ended, ended_too):
        for call in (
            lambda each: each.publish("posts:a", 3),
            lambda each: each.notify("u1", {"id": "n"}),
            lambda each: each.enqueue("job"),
        ):
            with pytest.raises(RuntimeError, match="inside its block"):
                call(transaction)
