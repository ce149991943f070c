"""The outbox without asyncio: SyncDatabase, a Session and a Connection of SQLAlchemy, on either kind of database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from gateway.errors import ConfigurationError
from publishers.database import Database
from publishers.engines import SYNC_DRIVERS, driver_url
from publishers.migrator import identity, migrate
from publishers.outbox_rows import MissingOutbox, check_dialect
from publishers.publisher import Publisher
from publishers.relay import Relay
from publishers.relay_program import run_relay
from publishers.session_outbox import enqueue_on_commit, notify_on_commit, publish_on_commit
from publishers.sync_database import SyncDatabase
from publishers.tables import outbox_tables

from ..kit.outboxes import rows
from ..kit.waiting import eventually, wait_until

Write = Callable[[Engine, str, Any], None]


@contextmanager
def opened(url: str, pool: int = 2) -> Iterator[Engine]:
    engine = create_engine(driver_url(url, SYNC_DRIVERS), pool_size=pool, max_overflow=0)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    with opened(migrated_url) as engine:
        yield engine


@pytest.fixture
def empty(database_url: str) -> Iterator[Engine]:
    """Of a database without tables."""
    with opened(database_url) as engine:
        yield engine


def by_database(engine: Engine, channel: str, data: Any) -> None:
    with SyncDatabase(engine).transaction() as transaction:
        transaction.publish(channel, data)


def by_session(engine: Engine, channel: str, data: Any) -> None:
    with Session(engine) as session:
        publish_on_commit(session, channel, data)
        session.commit()


def by_connection(engine: Engine, channel: str, data: Any) -> None:
    with engine.begin() as connection:
        publish_on_commit(connection, channel, data)


async def said(database: Database) -> list[tuple[str, str]]:
    return [(row.channel, row.data) for row in await rows(database)]


async def test_what_each_kind_of_transaction_writes_is_published_in_order(
    database: Database, engine: Engine, relay: Relay, publisher: Publisher
) -> None:
    for number, write in enumerate((by_database, by_session, by_connection)):
        write(engine, "posts:a", number)
    assert await relay.drain() == 3
    assert [each.data for each in (await publisher.history.read("posts:a", 0, -1)).publications] == [b"0", b"1", b"2"]


async def test_a_database_of_its_own_commits_everything_or_nothing(database: Database, migrated_url: str) -> None:
    with SyncDatabase(migrated_url) as own:
        with pytest.raises(ZeroDivisionError), own.transaction() as transaction:
            transaction.publish("posts:a", 1)
            raise ZeroDivisionError
        assert own.run(lambda transaction: transaction.notify("u1", {"id": "1"})) is None
        with own.transaction() as transaction:
            transaction.execute(text("INSERT INTO settings (name, value) VALUES ('a', 'b')"))
            transaction.enqueue("orders.bill", 17)
        with own.reading() as connection:
            assert connection.execute(text("SELECT value FROM settings WHERE name = 'a'")).scalar() == "b"
    assert [channel for channel, _ in await said(database)] == ["notifications:u1", "{default}"]


async def test_what_a_session_undoes_is_not_published(database: Database, engine: Engine) -> None:
    with Session(engine) as session:
        publish_on_commit(session, "posts:a", "kept")
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            notify_on_commit(session, "u1", {"id": "undone"})
            raise ZeroDivisionError
        session.commit()
        enqueue_on_commit(session, "orders.bill", "undone")
        session.rollback()
    assert await said(database) == [("posts:a", '"kept"')]


async def test_what_a_savepoint_undoes_is_not_published_and_what_it_releases_is(database: Database, engine: Engine) -> None:
    with SyncDatabase(engine).transaction() as transaction:
        nested = transaction.connection.begin_nested
        transaction.publish("posts:a", 1)
        with pytest.raises(ZeroDivisionError), nested():
            transaction.publish("posts:a", "undone")
            raise ZeroDivisionError
        with nested():
            transaction.publish("posts:a", 2)
        outer, _ = nested(), transaction.publish("posts:a", "undone")
        nested()
        transaction.enqueue("orders.bill", "undone")
        with pytest.warns(SAWarning, match="already deassociated"):
            outer.rollback()
    async with database.transaction() as other:
        other.publish("posts:a", 3)
        savepoint = await other.connection.begin_nested()
        other.publish("posts:a", "undone")
        await savepoint.rollback()
    assert await said(database) == [("posts:a", str(number)) for number in (1, 2, 3)]


async def test_a_connection_that_is_lost_within_a_savepoint_is_the_error(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction, transaction.connection.begin_nested():
            transaction.publish("posts:a", 1)
            await transaction.connection.invalidate()
            raise ZeroDivisionError
    assert await said(database) == []


async def test_a_session_of_asyncio_writes_too(database: Database) -> None:
    async with AsyncSession(database.engine) as session:
        await session.run_sync(publish_on_commit, "posts:a", 1)
        await session.commit()
    assert await said(database) == [("posts:a", "1")]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_commit_after_which_no_relay_can_be_woken_does_not_fail(database: Database, migrated_url: str) -> None:
    """It raised, though it was made: the database went away after it, or took no more connections."""
    connects = iter([asyncpg.connect])

    async def connect() -> Any:
        for each in connects:
            return await each(migrated_url)
        raise ConnectionRefusedError

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with AsyncSession(engine) as session:
        await session.run_sync(publish_on_commit, "posts:a", 1)
        await session.commit()
    assert await said(database) == [("posts:a", "1")]


async def test_a_session_of_asyncio_that_is_given_itself_is_a_mistake_that_is_named(database: Database) -> None:
    """It was "'coroutine' object has no attribute 'dialect'"."""
    session: Any = AsyncSession(database.engine)
    with pytest.raises(TypeError, match=r"no AsyncSession; those of asyncio run it: `await session\.run_sync\(publish_on_commit"):
        publish_on_commit(session, "posts:a", 1)
    await session.close()


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_channel_is_locked_from_a_sessions_publication_to_its_commit(database: Database, engine: Engine, migrated_url: str) -> None:
    """So the order of ids is that of commits, and a relay never sees id 2 of a channel before id 1."""
    with Session(engine) as session:
        publish_on_commit(session, "posts:a", "first")
        later = threading.Thread(target=by_database, args=(engine, "posts:a", "second"))
        later.start()
        waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        with opened(migrated_url) as another, another.connect() as observer:
            await asyncio.to_thread(wait_until, lambda: observer.execute(waits).scalar(), "the second writer waits")
        by_other = await said(database)
        session.commit()
    await asyncio.to_thread(later.join)
    assert by_other == []
    assert await said(database) == [("posts:a", '"first"'), ("posts:a", '"second"')]


class Base(DeclarativeBase): ...


class Setting(Base):
    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_a_session_locks_its_rows_before_its_channels_as_every_other_transaction(
    database: Database, engine: Engine, migrated_url: str
) -> None:
    """It locked them as it was committed, so that PostgreSQL ended one of two transactions for a deadlock."""

    def by_statement() -> None:
        with SyncDatabase(engine).transaction() as transaction:
            transaction.execute(text("UPDATE settings SET value = 'second' WHERE name = 'outbox'"))
            transaction.publish("posts:a", "second")

    with Session(engine) as session:
        setting = session.get_one(Setting, "outbox")
        setting.value = "first"
        publish_on_commit(session, "posts:a", "first")
        later = asyncio.create_task(asyncio.to_thread(by_statement))
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with opened(migrated_url) as another, another.connect() as observer:
            await asyncio.to_thread(wait_until, lambda: observer.execute(waits).scalar(), "the second one waits")
        await asyncio.to_thread(session.commit)
    await later
    assert await said(database) == [("posts:a", '"first"'), ("posts:a", '"second"')]


async def test_a_session_publishes_in_the_middle_of_a_flush_too(database: Database, engine: Engine) -> None:
    session = scoped_session(sessionmaker(engine))

    @event.listens_for(session, "after_flush")
    def publish(*_: Any) -> None:
        publish_on_commit(session, "posts:a", "flushed")

    session.add(Setting(name="a", value="b"))
    publish_on_commit(session, "posts:a", "last")
    session.commit()
    session.remove()
    assert await said(database) == [("posts:a", '"flushed"'), ("posts:a", '"last"')]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("write", [by_session, by_database])
async def test_a_commit_wakes_the_relay_over_a_pool_of_one_connection(
    database: Database, migrated_url: str, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr("publishers.relay.LOOK_SECONDS", 3600.0)
    relay = Relay(database, publisher.history)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: is_listening(database), "the relay listens")
    with opened(migrated_url, pool=1) as engine:
        await asyncio.to_thread(write, engine, "posts:a", 1)

    async def is_published() -> bool:
        return relay.published == 1

    await eventually(is_published, "the publication")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def is_listening(database: Database) -> bool:
    async with database.reading() as connection:
        asked = text("SELECT 1 FROM pg_stat_activity WHERE query ILIKE 'LISTEN%' AND datname = current_database()")
        return (await connection.execute(asked)).scalar() is not None


async def test_a_missing_table_is_one_sentence_that_says_what_to_run(empty: Engine, database_url: str) -> None:
    for write in (by_database, by_session, by_connection):
        with pytest.raises(MissingOutbox, match=r"^the database .* has no table outbox: start `gateway relay` .*create_all\(engine\)$"):
            write(empty, "posts:a", 1)
    async with Database(database_url) as database:
        with pytest.raises(MissingOutbox, match="has no table outbox"):
            async with database.transaction() as transaction:
                transaction.publish("posts:a", 1)


async def test_a_relay_leaves_a_database_alone_whose_own_migrations_made_the_outbox(
    empty: Engine, database_url: str, publisher: Publisher
) -> None:
    outbox_tables.create_all(empty)
    by_session(empty, "posts:a", 1)
    async with Database(database_url) as database:
        await migrate(database)
        assert sorted(inspect(empty).get_table_names()) == ["outbox", "outbox_identity"]
        assert await identity(database) == await identity(database)
        running = asyncio.create_task(run_relay(database, publisher.history))

        async def is_published() -> bool:
            return len((await publisher.history.read("posts:a", 0, -1)).publications) == 1

        await eventually(is_published, "the publication")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_outbox_of_an_older_version_keeps_its_identity(database: Database, engine: Engine) -> None:
    """Else its ids would be versions of another epoch, and a row that was published would be published again."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_identity"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        before = connection.execute(text("SELECT value FROM settings WHERE name = 'outbox'")).scalar()
    await migrate(database)
    assert await identity(database) == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_relay_needs_no_rights_but_those_to_the_outbox_that_other_migrations_made(
    empty: Engine, database_url: str, publisher: Publisher
) -> None:
    """It read the other program's version: "permission denied for table alembic_version"."""
    outbox_tables.create_all(empty)
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("CREATE ROLE relays LOGIN"))
        connection.execute(text("GRANT SELECT, INSERT, UPDATE, DELETE ON outbox, outbox_identity TO relays"))
    by_session(empty, "posts:a", 1)
    try:
        async with Database(make_url(database_url).set(username="relays").render_as_string(hide_password=False)) as database:
            await migrate(database)
            assert await Relay(database, publisher.history).drain() == 1
    finally:
        with empty.begin() as connection:
            connection.execute(text("DROP OWNED BY relays"))
            connection.execute(text("DROP ROLE relays"))


@pytest.mark.parametrize("version", ["1975ea83b712", "0002", "0017"])
async def test_a_database_with_other_migrations_and_no_outbox_gets_a_sentence(empty: Engine, database_url: str, version: str) -> None:
    """Versions of four digits were taken for those of this package: it made tables, and set the other program's version."""
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text(f"INSERT INTO alembic_version VALUES ('{version}')"))
    async with Database(database_url) as database:
        with pytest.raises(ConfigurationError, match=r"add publishers\.tables\.outbox_tables to their target_metadata"):
            await migrate(database)
        outbox_tables.create_all(empty)
        await migrate(database)
        assert "posts" not in inspect(empty).get_table_names()


async def test_a_database_with_other_tables_of_the_same_names_gets_a_sentence(empty: Engine, database_url: str) -> None:
    """It was "cannot be used: table posts already exists", which said nothing of the tables that are enough."""
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE posts (title text)"))
    async with Database(database_url) as database:
        with pytest.raises(ConfigurationError, match=r"has a table posts of another program's.*outbox_tables\.create_all\(engine\)"):
            await migrate(database)
        outbox_tables.create_all(empty)
        await migrate(database)
        assert sorted(inspect(empty).get_table_names()) == ["outbox", "outbox_identity", "posts"]


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_an_engine_that_commits_each_statement_is_refused_before_the_first(engine: Engine) -> None:
    """The change before a failure stayed, and its publication did not come to be."""
    with (
        pytest.raises(ConfigurationError, match="AUTOCOMMIT"),
        SyncDatabase(engine.execution_options(isolation_level="AUTOCOMMIT")).transaction(),
    ):
        raise AssertionError("the block is not entered")


def test_a_database_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="it cannot be in mysql"):
        check_dialect("mysql")
    with pytest.raises(ConfigurationError, match="database_url: mysql"):
        SyncDatabase(str(make_url("mysql://host/name")))
