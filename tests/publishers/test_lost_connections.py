"""Connections to PostgreSQL that are lost unnoticed, or whose server takes no writes any more."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from publishers.database import Database
from publishers.lost_connections import SILENT_SECONDS
from publishers.migrator import identity
from publishers.prepared import driver_of
from publishers.sync_database import SyncDatabase

from ..kit.outboxes import said
from ..kit.proxies import Proxy

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


@ON_POSTGRESQL
async def test_tcp_gives_up_a_host_that_vanished(migrated_url: str) -> None:
    """It sent again for a quarter of an hour, in which a relay published nothing."""
    url = make_url(migrated_url)
    async with Proxy(Path(str(url.query["host"])) / ".s.PGSQL.5432") as proxy:
        port = int(proxy.url.rpartition(":")[2])
        over_tcp = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        async with Database(over_tcp) as database:
            assert await identity(database)
            for connecting in (database.reading, database.apart):
                async with connecting() as connection:
                    await connection.execute(text("SELECT 1"))
                    there = driver_of(connection)._transport.get_extra_info("socket")
                    options = (socket.SO_KEEPALIVE, socket.SOL_SOCKET), (socket.TCP_USER_TIMEOUT, socket.IPPROTO_TCP)
                    assert [there.getsockopt(level, name) for name, level in options] == [1, SILENT_SECONDS * 1000]


@ON_POSTGRESQL
def test_a_forked_process_takes_connections_of_its_own(plain: SyncDatabase) -> None:
    """Two processes wrote to one connection, and read each other's answers."""

    def backend() -> int:
        with plain.reading() as connection:
            return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

    mine = backend()
    if not (child := os.fork()):
        signal.alarm(5)  # of a child that waits for ever
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
