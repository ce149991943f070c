"""What the tests of publishers share: databases that are quick to empty, a publisher, and a relay that runs when it is asked to."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from publishers import Publisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.relay import Relay
from publishers.tables import metadata


@pytest.fixture
async def publisher(valkey_url: str, prefix: str) -> AsyncIterator[Publisher]:
    async with Publisher(valkey_url, prefix=prefix) as publisher:
        await publisher.history.read("posts:none")  # the functions are loaded
        yield publisher


@pytest.fixture
def relay(database: Database, publisher: Publisher) -> Relay:
    """``drain`` publishes what waits."""
    return Relay(database, publisher.history)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_server(request: pytest.FixtureRequest) -> str:
    """PostgreSQL's URL; "" for SQLite."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgresql")


@pytest.fixture
async def quick_database(database_server: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    """An empty one of either kind, as everywhere; but made once, then copied or emptied, and it does not wait for the disk."""
    if database_server:
        url = await emptied_postgresql(database_server)
    else:
        url = await copied_sqlite(tmp_path_factory.getbasetemp() / "migrated.db", tmp_path / "test.db")
    async with Database(url) as database:
        if database.sqlite:
            event.listen(database.engine.sync_engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        yield database


async def copied_sqlite(template: Path, copy: Path) -> str:
    if not template.exists():
        async with Database(f"sqlite:///{template}") as database:
            await migrate(database)
    shutil.copy(template, copy)
    return f"sqlite:///{copy}"


async def emptied_postgresql(server: str) -> str:
    url = str(make_url(server).set(database="emptied").render_as_string(hide_password=False))
    connection = await asyncpg.connect(server)
    made = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'emptied'")
    if not made:
        await connection.execute("CREATE DATABASE emptied")
        await connection.execute("ALTER DATABASE emptied SET synchronous_commit = off")
    await connection.close()
    async with Database(url) as database:
        if not made:
            await migrate(database)
        async with database.transaction() as transaction:
            names = ", ".join(name for name in metadata.tables if name != "settings")
            await transaction.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    return url
