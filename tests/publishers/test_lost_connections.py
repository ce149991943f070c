"""Connections to PostgreSQL that are lost unnoticed, or whose server takes no writes any more."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from gateway.errors import ConfigurationError
from publishers import database as database_module
from publishers import lost_connections, relay_program
from publishers import relay as relay_module
from publishers.database import Database
from publishers.lost_connections import SILENT_SECONDS
from publishers.migrator import identity, migrate
from publishers.prepared import driver_of
from publishers.publisher import Publisher
from publishers.relay_program import run_relay
from publishers.sync_database import SyncDatabase

from ..kit.clock import FrozenClock
from ..kit.outboxes import said
from ..kit.proxies import ANSWER, ASK, Proxy
from ..kit.waiting import eventually

ON_POSTGRESQL = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
STANDBY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"

Publish = Callable[[], Awaitable[None]]


@pytest.fixture(params=["with asyncio", "without"])
def publish(database: Database, plain: SyncDatabase, request: pytest.FixtureRequest) -> Publish:
    """Publishes in a transaction of a Database or a SyncDatabase, each with one connection."""

    async def publish() -> None:
        async with database.transaction() as transaction:
            transaction.publish("posts:a", 1)

    async def publish_plainly() -> None:
        with plain.transaction() as transaction:
            transaction.publish("posts:a", 1)

    return publish if request.param == "with asyncio" else publish_plainly


@pytest.fixture
def plain(migrated_url: str) -> Iterator[SyncDatabase]:
    with SyncDatabase(migrated_url, pool=1) as plain:
        yield plain


async def end_connections(url: str) -> None:
    connection = await asyncpg.connect(url)
    mine = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await connection.execute(f"SELECT pg_terminate_backend(pid, 10000) {mine}")
    await connection.close()


@ON_POSTGRESQL
async def test_a_connection_that_the_server_ended_while_it_was_idle_fails_no_transaction(
    publish: Publish, database: Database, migrated_url: str
) -> None:
    await publish()
    await end_connections(migrated_url)
    await publish()
    assert await said(database, "posts:a") == [1, 1]


@ON_POSTGRESQL
async def test_a_connection_to_what_has_become_a_standby_fails_one_transaction(
    publish: Publish, database: Database, plain: SyncDatabase
) -> None:
    """It failed each, for as long as the program ran: a standby that had been the primary refused no connection."""
    async with database.reading() as connection:
        await connection.execute(text(STANDBY))
        await connection.commit()
    with plain.reading() as plain_connection:
        make_standby(plain_connection)
    with pytest.raises(DBAPIError, match="read-only"):
        await publish()
    await publish()
    assert await said(database, "posts:a") == [1]


def make_standby(connection: Connection) -> None:
    connection.execute(text(STANDBY))
    connection.commit()


@pytest.fixture
async def proxy(migrated_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(Path(str(make_url(migrated_url).query["host"])) / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
def over_tcp(migrated_url: str, proxy: Proxy) -> str:
    """The database's URL through the proxy."""
    port = int(proxy.url.rpartition(":")[2])
    return make_url(migrated_url).set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)


@ON_POSTGRESQL
async def test_tcp_gives_up_a_host_that_vanished(over_tcp: str) -> None:
    """It sent again for a quarter of an hour, in which a relay published nothing."""
    async with Database(over_tcp) as database:
        assert await identity(database)
        for connecting in (database.reading, database.apart):
            async with connecting() as connection:
                await connection.execute(text("SELECT 1"))
                there = driver_of(connection)._transport.get_extra_info("socket")
                options = (socket.SO_KEEPALIVE, socket.SOL_SOCKET), (socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP)
                assert [there.getsockopt(level, name) for name, level in options] == [1, SILENT_SECONDS * 1000]


@ON_POSTGRESQL
@pytest.mark.parametrize("way", [ASK, ANSWER])
async def test_a_relay_outlasts_a_proxy_that_is_silent(
    over_tcp: str, proxy: Proxy, database: Database, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It waited for an answer for ever, and its end too. To TCP the proxy is alive."""
    monkeypatch.setattr(relay_program, "HELD_SECONDS", 0.5)
    monkeypatch.setattr(relay_module, "LISTEN_SECONDS", 0.5)
    monkeypatch.setattr(lost_connections, "END_SECONDS", 0.1)

    async def published() -> list[Any]:
        return [each.data for each in (await publisher.history.read("posts:a", 0, -1)).publications]

    async def publishes(*numbers: int) -> None:
        async with database.transaction() as transaction:
            transaction.publish("posts:a", numbers[-1])
        wanted = [b"%d" % number for number in numbers]
        await eventually(lambda: is_equal(published, wanted), f"{wanted} are published")

    async with Database(over_tcp) as relayed:
        running = asyncio.create_task(run_relay(relayed, publisher.history))
        await publishes(1)
        with proxy.silenced(way):
            """All connections that there are stay so."""
        await publishes(1, 2)
        await publishes(1, 2, 3)
        with proxy.silenced(way):
            running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


@ON_POSTGRESQL
@pytest.mark.parametrize("way", [ASK, ANSWER])
async def test_a_plain_program_may_bound_how_long_it_waits_for_a_proxy_that_is_silent(
    over_tcp: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """psycopg waited for ever, and so did the thread and the request that it served."""
    clock = FrozenClock()
    monkeypatch.setattr(lost_connections, "time", SimpleNamespace(monotonic=clock))
    url = make_url(over_tcp).update_query_dict({"command_timeout": "60"}).render_as_string(hide_password=False)
    with SyncDatabase(url, pool=1) as plain:

        def publish() -> None:
            with plain.transaction() as transaction:
                transaction.publish("posts:a", 1)

        await asyncio.to_thread(publish)
        with proxy.silenced(way), pytest.raises(OperationalError, match="no answer came within 60 s"):
            waiting = asyncio.create_task(asyncio.to_thread(publish))
            while not waiting.done():
                clock.pass_time(30)
                await asyncio.sleep(0.02)
            await waiting
        await asyncio.to_thread(publish)


@ON_POSTGRESQL
async def test_a_statement_that_takes_longer_than_its_url_allows_fails_with_either_driver(migrated_url: str) -> None:
    url = make_url(migrated_url).update_query_dict({"command_timeout": "1"}).render_as_string(hide_password=False)
    long = text("SELECT pg_sleep(60)")
    with SyncDatabase(url) as plain, plain.reading() as connection, pytest.raises(OperationalError):
        connection.execute(long)
    async with Database(url) as bounded, bounded.reading() as reading:
        with pytest.raises(TimeoutError):
            await reading.execute(long)


def test_what_a_url_asks_of_libpq_is_done_by_asyncpg_or_refused_in_a_sentence() -> None:
    url = make_url("postgresql+asyncpg://u@h/name?connect_timeout=3")
    assert lost_connections.connecting(url) == (make_url("postgresql+asyncpg://u@h/name"), {"timeout": 3})
    assert lost_connections.connecting(url.update_query_dict({"connect_timeout": "0"}))[1] == {"timeout": lost_connections.CONNECT_SECONDS}
    url, arguments = lost_connections.connecting(make_url("postgresql+asyncpg://u@h/name?sslmode=verify-full&sslrootcert=system"))
    assert not url.query and arguments["ssl"].check_hostname, "it was a file of this name"
    assert arguments["ssl"].verify_mode is ssl.CERT_REQUIRED
    for asked in ("channel_binding=require", "connect_timeout=soon"):
        with pytest.raises(ConfigurationError, match=asked.partition("=")[0]):
            Database(f"postgresql://u@127.0.0.1:1/name?{asked}")


@pytest.mark.parametrize("seconds", ["soon", "0", "inf", "-1"])
@pytest.mark.parametrize("kind", [Database, SyncDatabase])
def test_a_bound_of_statements_that_is_no_time_is_a_sentence(kind: Callable[[str], Any], seconds: str) -> None:
    with pytest.raises(ConfigurationError, match="command_timeout is a number of seconds"):
        kind(f"postgresql://u@127.0.0.1:1/name?command_timeout={seconds}")


async def is_equal(ask: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return bool(await ask() == wanted)


@ON_POSTGRESQL
async def test_a_wake_over_a_connection_that_is_silent_takes_no_other_wake_with_it(
    over_tcp: str, proxy: Proxy, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as the program ran, relays of other processes looked once a second, and it had one connection less."""
    monkeypatch.setattr(database_module, "NOTIFY_SECONDS", 0.1)
    monkeypatch.setattr(lost_connections, "END_SECONDS", 0.1)
    woken = asyncio.Event()
    async with Database(over_tcp, pool=1) as database, Database(migrated_url).listening(woken.set):
        assert await identity(database)
        with proxy.silenced(ANSWER):
            database.wake()
        waking = database._waking
        assert waking is not None
        await waking
        monkeypatch.setattr(database_module, "NOTIFY_SECONDS", 30.0)  # a new connection is made
        database.wake()
        await asyncio.wait_for(woken.wait(), 30)


@ON_POSTGRESQL
async def test_what_libpq_takes_in_a_url_is_taken(migrated_url: str) -> None:
    """ "connect() got an unexpected keyword argument", though SyncDatabase took the same URL."""
    theirs = {"connect_timeout": "10", "channel_binding": "prefer", "gssencmode": "disable", "keepalives": "1", "keepalives_idle": "30"}
    url = make_url(migrated_url).update_query_dict({"application_name": "a shop", "options": "-c work_mem=1MB"} | theirs)
    async with Database(url.render_as_string(hide_password=False)) as database:
        for connecting in (database.reading, database.apart):
            async with connecting() as connection:
                shown = [(await connection.execute(text(f"SHOW {name}"))).scalar() for name in ("application_name", "work_mem")]
                assert shown == ["a shop", "1MB"]
    verified = "sslmode=verify-full&sslrootcert=/nowhere.pem"
    async with Database(f"postgresql://u@127.0.0.1:1/name?{verified}") as database:
        with pytest.raises(ConfigurationError, match=r"cannot be used: .*No such file"):
            await migrate(database)


@ON_POSTGRESQL
def test_a_forked_process_takes_connections_of_its_own(plain: SyncDatabase) -> None:
    """Two processes wrote to one connection, and read each other's answers."""

    def backend() -> int:
        with plain.reading() as connection:
            return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

    mine = backend()
    if not (child := os.fork()):
        signal.alarm(30)  # of a child that waits for ever
        os._exit(backend() == mine)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend() == mine


@ON_POSTGRESQL
@pytest.mark.parametrize("use", [identity, Database.close], ids=["to be used", "to be closed"])
def test_a_database_whose_event_loop_was_closed_belongs_to_the_next_one(migrated_url: str, use: Callable[[Database], Any]) -> None:
    """As by a script that calls asyncio.run twice. Each call failed, "another operation is in progress"; on SQLite none did."""
    database = Database(migrated_url)
    with asyncio.Runner() as first:
        first.run(identity(database))
        with asyncio.Runner() as another, pytest.raises(RuntimeError, match="in one event loop"):
            another.run(use(database))
    with warnings.catch_warnings(), asyncio.Runner() as second:
        warnings.simplefilter("ignore", ResourceWarning)  # of the connection that went with its loop
        second.run(use(database))
        second.run(database.close())
        gc.collect()
