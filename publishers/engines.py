"""Engines of SQLAlchemy for the databases that this package uses, with and without asyncio: PostgreSQL, and SQLite in one file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from gateway.config import load
from gateway.errors import ConfigurationError
from gateway.store.data_folder import make_private, open_private

from .lost_connections import connecting

__all__ = [
    "ASYNC_DRIVERS",
    "LOCK_SECONDS",
    "POOL",
    "SYNC_DRIVERS",
    "database_url",
    "driver_url",
    "make_engine",
    "name_of",
    "prepare_transactions",
]

POOL = 10
BUSY_SECONDS = 10.0  # SQLite has one writer at a time; another one waits up to this long
LOCK_SECONDS = 0.01  # between two attempts at a lock of SQLite that cannot be waited for
ASYNC_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
SYNC_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}

AnyEngine = TypeVar("AnyEngine")


def database_url(data_dir: str | Path = "") -> str:
    """The configuration's ``database_url``; without one, that of SQLite in the data folder, which is made if it is not there."""
    config = load(data_dir=str(data_dir) if data_dir else None)
    if config.database_url:
        return config.database_url
    make_private(config.data_path)
    return f"sqlite:///{config.data_path / 'gateway.db'}"


def name_of(url: URL) -> str:
    """The URL without its password and its query, which may hold one too, for messages."""
    return url.set(query={}).render_as_string(hide_password=True)


def driver_url(url: str, drivers: Mapping[str, str]) -> URL:
    """``url`` with its driver of ``drivers``: ASYNC_DRIVERS or SYNC_DRIVERS. Raises ConfigurationError for a URL of neither PostgreSQL nor SQLite."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database_url is not a URL; write postgresql://user:password@host/name or sqlite:///path") from None
    driver = drivers.get(parsed.drivername.partition("+")[0])
    if driver is None:
        raise ConfigurationError(f"database_url: {parsed.drivername} is not spoken here; PostgreSQL and SQLite are")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("database_url: SQLite needs a file, as in sqlite:///path")
    if not driver.startswith("sqlite") and url.count("@") > (parsed.username is not None):
        raise ConfigurationError(
            "database_url: the login does not end before the host; write / ? # @ : % of a password as %2F %3F %23 %40 %3A %25"
        )
    return parsed.set(drivername=driver)


def make_engine(create: Callable[..., AnyEngine], url: URL, pool: int) -> AnyEngine:
    """An engine of ``create``, which is SQLAlchemy's function, with ``pool`` connections at most.

    Raises ConfigurationError for a file that cannot be opened, and a driver that is not installed.
    """
    try:
        if url.get_backend_name() != "sqlite":
            url, arguments = connecting(url)
            return create(url, pool_size=pool, max_overflow=0, connect_args=arguments)
        _make_file(Path(url.database or "").resolve())
        return create(url, pool_size=pool, max_overflow=0, connect_args={"timeout": BUSY_SECONDS})
    except ModuleNotFoundError as error:  # the drivers with asyncio are always installed, psycopg is not
        raise ConfigurationError(f"PostgreSQL without asyncio needs {error.name}: run `pip install '{error.name}[binary]'`") from None
    except (NoSuchModuleError, OSError) as error:
        raise ConfigurationError(f"database_url cannot be used: {error}") from None


def _make_file(file: Path) -> None:
    """Makes the file and its folder where they are not there. Raises OSError for a path that cannot be opened.

    A file that is there is not opened: with its end this process would lose all locks that it has on the file (fcntl(2)), those of its
    other connections included. The next process that ends would then remove the write-ahead log that they still write to.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.close(open_private(file, os.O_RDWR | os.O_EXCL))
    except FileExistsError:
        if not file.is_file():
            raise OSError(f"{file} is not a file") from None
        if not os.access(file, os.R_OK | os.W_OK):
            raise OSError(f"{file} cannot be read and written by this user") from None


def prepare_transactions(engine: Engine) -> None:
    """On SQLite, connections write ahead, and a transaction with the execution option ``gateway_writes`` begins as a writer."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; see below
        _write_ahead(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A writer begins as one: a transaction that began as a reader could not begin to write while another one writes.
        writes = connection.get_execution_options().get("gateway_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _write_ahead(connection: Any) -> None:
    """Turns on the write-ahead log. While another process does so too, SQLite refuses at once, whatever its timeout: try again."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(LOCK_SECONDS)
