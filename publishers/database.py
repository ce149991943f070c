"""The database of posts, reviews and reactions: SQLite beside the embedded Valkey, or PostgreSQL by URL.

    async with Database() as database:                                  # or Database("postgresql://…")
        async with database.transaction() as transaction:
            await transaction.execute(insert(orders).values(…))         # whatever happened, in tables of one's own too
            transaction.publish("orders:17", {"status": "shipped"})     # and what is said about it: both, or neither

A transaction gathers its publications and writes them to the outbox last of all, under a lock on their channels, so that
the order of a channel's rows is the order in which they are committed. ``gateway relay`` publishes them (``outbox.py``).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from sqlalchemy import event, insert, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.config import load
from gateway.errors import BadRequest, ConfigurationError
from gateway.publication import channel_fault
from gateway.rules.notifications import NAMESPACE, channel_of, notification_id

from .faults import Invalid
from .tables import outbox

__all__ = ["Database", "Transaction", "lock_key", "now_ms", "within"]

POOL = 10
BUSY_SECONDS = 10.0  # SQLite has one writer at a time; so long another one waits
ATTEMPTS = 5  # of a transaction that PostgreSQL gave up in favour of another
_RETRIED = ("40001", "40P01")  # serialization failure, deadlock. Source: PostgreSQL, appendix A
WAKE = "gateway_outbox"  # the channel of LISTEN and NOTIFY
WAKE_SECONDS = 0.02  # between two wakes of one process
_WRITERS, _RELAYS = 0x6761, 0x6762  # two spaces of advisory locks

Result = TypeVar("Result")

_add = insert(outbox)
# The locks and the rows in one round trip: the count is there, and with it every lock, before the first id is drawn.
_lock_and_add = text(f"""
    INSERT INTO outbox (channel, data, at, keep)
    SELECT u.channel, u.data, u.at, u.keep
    FROM (SELECT count(pg_advisory_xact_lock({_WRITERS}, k)) FROM unnest(CAST(:keys AS int[])) AS k) AS locked,
        unnest(CAST(:channels AS text[]), CAST(:data AS text[]), CAST(:at AS bigint[]), CAST(:keep AS boolean[]))
            WITH ORDINALITY AS u(channel, data, at, keep, number)
    ORDER BY u.number
""")
_lock = text(f"SELECT pg_advisory_xact_lock({_WRITERS}, k) FROM unnest(CAST(:keys AS int[])) AS k")
_take = text(f"SELECT pg_advisory_xact_lock({_RELAYS}, k) FROM unnest(CAST(:keys AS int[])) AS k")
_notify = text(f"NOTIFY {WAKE}")
_try = text(f"SELECT k FROM unnest(CAST(:keys AS int[])) AS k WHERE pg_try_advisory_xact_lock({_RELAYS}, k)")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def lock_key(channel: str) -> int:
    """32 bits of a channel's name; two channels that share them wait for each other, no more."""
    return int.from_bytes(hashlib.blake2b(channel.encode(), digest_size=4).digest(), signed=True)


class Transaction:
    """What happens, and what is said about it. ``Database.transaction`` makes, commits and undoes it."""

    def __init__(self, connection: AsyncConnection, *, sqlite: bool) -> None:
        self.connection = connection
        self.execute = self._execute_to_the_end if sqlite else connection.execute
        self.sqlite = sqlite
        self._publications: list[dict[str, Any]] = []

    async def _execute_to_the_end(self, *statement: Any) -> Any:
        """A connection that is dropped in the middle of a statement keeps SQLite's write lock until it is collected."""
        work = asyncio.ensure_future(self.connection.execute(*statement))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def publish(self, channel: str, data: Any, *, keep: bool = False) -> None:
        """Says ``data`` in ``channel`` once this is committed; ``keep``: the database remembers it for good.

        Raises Invalid for an impossible channel or data that is not JSON.
        """
        fault = channel_fault(channel)
        if fault:
            raise Invalid(fault)
        try:
            document = msgspec.json.encode(data).decode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"the data is not JSON, or nested too deep: {error}") from None
        if channel.startswith(f"{NAMESPACE}:"):
            try:
                notification_id(document.encode())
            except BadRequest as error:
                raise Invalid(error.hint) from None
        self._publications.append({"channel": channel, "data": document, "at": now_ms(), "keep": keep})

    def notify(self, user: str, notification: Mapping[str, Any]) -> None:
        """Into the inbox of ``user``; its ``id`` names it, and the same id again is an update."""
        self.publish(channel_of(user), notification)

    @property
    def publications(self) -> int:
        return len(self._publications)

    async def lock(self, names: Collection[str]) -> None:
        """Nobody else writes to these channels until this is over. All transactions lock in the same order."""
        if not self.sqlite:
            await self.connection.execute(_lock, {"keys": sorted({lock_key(name) for name in names})})

    async def write_outbox(self) -> None:
        """Locks the channels, and only then draws the rows' ids."""
        rows = self._publications
        if not rows:
            return
        if self.sqlite:  # there, whoever writes has the whole database
            await self.execute(_add, rows)
            return
        columns = {name: [row[name] for row in rows] for name in ("data", "at", "keep")}
        names = [row["channel"] for row in rows]
        await self.execute(_lock_and_add, {"keys": sorted({lock_key(name) for name in names}), "channels": names, **columns})


class Database:
    """``url`` "" is the configuration's ``database_url``, or SQLite in ``data_dir``."""

    def __init__(self, url: str = "", *, data_dir: str | Path = "", pool: int = POOL) -> None:
        if not url:
            config = load(data_dir=str(data_dir) if data_dir else None)
            url = config.database_url or f"sqlite:///{config.data_path / 'gateway.db'}"
        self.url = _driver_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.changed = asyncio.Event()  # something was written to the outbox by this process
        self.relayed_here = False  # then nobody else has to be woken
        self._engine = _engine(self.url, pool)
        self._waking: asyncio.Task[None] | None = None
        self._wake_again = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._waking is not None:
            await asyncio.gather(self._waking, return_exceptions=True)
        await self._engine.dispose()

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    @property
    def name(self) -> str:
        """For people: without the password."""
        return self.url.render_as_string(hide_password=True)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read by; SQLite's writers are not in its way."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, undoes it if the block raises; then wakes the relay."""
        connection = await self._engine.connect()
        try:
            await connection.execution_options(gateway_writes=True)
            async with connection.begin():
                transaction = Transaction(connection, sqlite=self.sqlite)
                yield transaction
                await transaction.write_outbox()
        finally:
            await connection.close()
        if transaction.publications:
            self.wake()

    async def run(self, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
        """``work`` in a transaction, again where the database gave it up in favour of another one."""
        for _ in range(ATTEMPTS - 1):
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _RETRIED:
                    raise
        async with self.transaction() as transaction:
            return await work(transaction)

    def wake(self) -> None:
        """The outbox has something new. A relay elsewhere is told too, at most once at a time."""
        self.changed.set()
        if self.sqlite or self.relayed_here:
            return
        self._wake_again = True
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        # Not inside the transactions: NOTIFY makes commits wait for each other. If this fails, the relay looks by itself.
        try:
            while self._wake_again:
                self._wake_again = False
                async with self._engine.connect() as connection:
                    await connection.execute(_notify)
                    await connection.commit()
                await asyncio.sleep(WAKE_SECONDS)  # a relay that is at work takes what comes meanwhile
        except SQLAlchemyError:
            return

    @asynccontextmanager
    async def listening(self, woken: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        """Calls ``woken`` at each wake; the event is set when the connection is lost. PostgreSQL only."""
        engine = create_async_engine(self.url, poolclass=NullPool)  # for itself: it is held for as long as somebody listens
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            lost = asyncio.Event()
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(WAKE, lambda *_: woken())
            yield lost

    @asynccontextmanager
    async def alone_with(self, channel: str) -> AsyncIterator[Transaction]:
        """A transaction during which nobody writes to the channel, and no relay publishes from it.

        On SQLite a relay's lock comes before the writers', as relays take them; on PostgreSQL both belong to the transaction.
        """
        if self.sqlite:
            async with self.claim([channel], wait=True), self.transaction() as transaction:
                yield transaction
            return
        async with self.transaction() as transaction:
            await transaction.execute(_take, {"keys": [lock_key(channel)]})
            await transaction.lock([channel])
            yield transaction

    @asynccontextmanager
    async def claim(self, names: Collection[str], *, wait: bool = False) -> AsyncIterator[set[str]]:
        """Holds whole channels, for whoever publishes from them, to the end of the block; yields those that nobody else holds.

        SQLite has one such lock for all its channels: a file beside it, which the system unlocks when its holder dies.
        """
        if not self.sqlite:
            keys = {lock_key(name) for name in names}
            async with self._engine.connect() as connection, connection.begin():
                found = await connection.execute(_take if wait else _try, {"keys": sorted(keys)})
                free = keys if wait else {row[0] for row in found}
                yield {name for name in names if lock_key(name) in free}
            return
        with open(os.open(f"{self.url.database}.relay", os.O_RDWR | os.O_CREAT, 0o600), "rb+") as file:
            while not (free := _try_flock(file.fileno())) and wait:
                await asyncio.sleep(0.01)
            yield set(names) if free else set()


async def within(database: Database | Transaction, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
    """``work`` in a transaction of its own, or as part of the one that is given."""
    return await (work(database) if isinstance(database, Transaction) else database.run(work))


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _driver_url(url: str) -> URL:
    """Raises ConfigurationError for what is no URL of a database we speak to."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database_url is not a URL; write postgresql://user:password@host/name or sqlite:///path") from None
    driver = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}.get(
        parsed.drivername.partition("+")[0]
    )
    if driver is None:
        raise ConfigurationError(f"database_url: {parsed.drivername} is not spoken here; PostgreSQL and SQLite are")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("database_url: SQLite needs a file, as in sqlite:///path")
    query = dict(parsed.query)
    if "sslmode" in query:  # as libpq, and so everybody's hosting, spells it
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername=driver, query=query)


def _engine(url: URL, pool: int) -> AsyncEngine:
    try:
        if url.get_backend_name() != "sqlite":
            return create_async_engine(url, pool_size=pool, max_overflow=0, pool_pre_ping=False)
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(url.database or "", os.O_RDWR | os.O_CREAT, 0o600))  # what cannot be opened says so here
        engine = create_async_engine(url, pool_size=pool, max_overflow=0, connect_args={"timeout": BUSY_SECONDS})
    except (NoSuchModuleError, OSError) as error:
        raise ConfigurationError(f"database_url cannot be used: {error}") from None

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; see below
        _write_ahead(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # A writer says so at once: one that began as a reader could not become one while another writes.
        writes = connection.get_execution_options().get("gateway_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(connection: Any) -> None:
    """While another process opens the same new file, SQLite refuses this at once, whatever time it was given."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.01)
