"""The database of posts, reviews, reactions and orders: SQLite beside the embedded Valkey, or PostgreSQL by URL.

    async with Database() as database:                                  # or Database("postgresql://…")
        async with database.transaction() as transaction:
            await transaction.execute(insert(orders).values(…))         # a change of any table, your own included
            transaction.publish("orders:17", {"status": "shipped"})     # and its publication: both are committed, or neither
            transaction.enqueue("orders.bill", {"order": 17})           # and a job for a worker, the same

A transaction gathers its publications and jobs, and writes them to the outbox as its last step, under a lock on their channels and
queues, so that the order of their rows is the order in which they are committed. ``gateway relay`` sends them (``relay.py``).
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.runtime import tracing
from gateway.runtime.tasks import to_its_end
from gateway.store.data_folder import open_private

from .engines import ASYNC_DRIVERS, LOCK_SECONDS, POOL, database_url, driver_url, make_engine, name_of, prepare_transactions
from .lost_connections import connecting, cut, is_of_standby, replace_lost, sqlstate_of
from .outbox_rows import NOTIFY, WAKE, lock_key, now_ms
from .prepared import DRIVER_ERRORS, Parameters, Prepared, Rows, driver_of, sync_of
from .savepoints import follow_savepoints, gather
from .transaction import Transaction

__all__ = ["BROKEN", "Database", "Transaction", "is_given_up", "lock_key", "now_ms", "reason_of", "within"]

log = logging.getLogger("gateway.relay")

ATTEMPTS = 5  # of a transaction that PostgreSQL gave up in favour of another
_RETRIED = ("40001", "40P01")  # serialization failure, deadlock. Source: PostgreSQL, appendix A
WAKE_SECONDS = 0.02  # between two wakes of one process
NOTIFY_SECONDS = 5.0  # that one of them may take
CLAIM_SECONDS = 60.0  # for the rows of a claim to be published, which takes a second, or the publisher's patience of 10
# Errors that may pass by themselves: the database is away, or its pool is exhausted.
BROKEN = (SQLAlchemyError, OSError, *DRIVER_ERRORS)
_RELAYS = 0x6762  # the space of the relays' advisory locks

Result = TypeVar("Result")

_take = Prepared(text(f"SELECT pg_advisory_xact_lock({_RELAYS}, k) FROM unnest(CAST(:keys AS int[])) AS k"))
_notify = Prepared(text(NOTIFY))


def claiming(seconds: float) -> Prepared:
    """Takes the locks of ``keys`` that are free. PostgreSQL ends a transaction that does nothing for so long afterwards, and gives its locks back.

    Such a relay is frozen, or its machine is gone, which its connection may show after hours only.
    """
    ends = f"set_config('idle_in_transaction_session_timeout', '{seconds * 1000:.0f}', true)"
    return Prepared(text(f"SELECT k FROM unnest(CAST(:keys AS int[])) AS k, {ends} WHERE pg_try_advisory_xact_lock({_RELAYS}, k)"))


_try = claiming(CLAIM_SECONDS)


def is_given_up(error: DBAPIError) -> bool:
    """Whether PostgreSQL undid the transaction in favour of another: it may be tried again."""
    return sqlstate_of(error) in _RETRIED


def reason_of(error: Exception) -> str:
    """One line for a log: the first of the driver's message, without the statement that SQLAlchemy adds."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


class Database:
    """A database with the tables of this package and any others: PostgreSQL, or SQLite in one file.

    ``url`` is ``postgresql://…`` or ``sqlite:///path``; without one it is the configuration's ``database_url``, else SQLite in
    ``data_dir``. ``pool`` is how many connections it may open. It is used in one event loop at a time, as is a Publisher. Raises
    ConfigurationError for a URL that cannot be used. ``migrator.migrate`` makes the tables.
    """

    def __init__(self, url: str = "", *, data_dir: str | Path = "", pool: int = POOL) -> None:
        self.url = driver_url(url or database_url(data_dir), ASYNC_DRIVERS)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.pool = pool
        self.changed = asyncio.Event()  # this process has written to the outbox
        self.opened = 0  # connections, since this was made
        self.relayed_here = False  # a relay runs in this process, so that no other has to be woken
        self.held_seconds: float | None = None  # after so long outside the pool a connection to PostgreSQL is cut
        self._engine = make_engine(create_async_engine, self.url, pool)
        prepare_transactions(self._engine.sync_engine)
        replace_lost(self._engine.sync_engine)
        event.listen(self._engine.sync_engine, "connect", self._count_opened)
        self._writing = self._engine.execution_options(gateway_writes=True)  # the same pool
        follow_savepoints(self._writing.sync_engine)
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the connections to PostgreSQL belong
        self._waking: asyncio.Task[None] | None = None
        self._wake_again = False

    async def __aenter__(self) -> Self:
        tracing.find()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections, once the relays were woken for what was committed."""
        self._enter_loop()
        if self._waking is not None:
            await asyncio.gather(self._waking, return_exceptions=True)
        await self._engine.dispose()

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine."""
        return self._engine

    @property
    def name(self) -> str:
        """The URL without its password and its query, which may hold one too, for messages."""
        return name_of(self.url)

    def _count_opened(self, *_: object) -> None:
        self.opened += 1

    def _enter_loop(self) -> None:
        """Forgets the connections of a loop that is closed, which went with it. Raises RuntimeError where another loop uses them."""
        loop = asyncio.get_running_loop()
        if self._loop is loop or self.sqlite:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise RuntimeError("a Database is used in one event loop; give each loop a Database of its own, or use SyncDatabase")
            self._engine.sync_engine.dispose(close=False)
            self.changed, self._waking = asyncio.Event(), None
        self._loop = loop

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read by; on SQLite it does not wait for writers."""
        self._enter_loop()
        async with _returned(self._engine, self.held_seconds) as connection:
            yield connection

    async def fetch(self, prepared: Prepared, parameters: Parameters) -> Rows:
        """Executes one statement that changes no table, and returns its rows, each a sequence. Raises SQLAlchemy's errors.

        On PostgreSQL it is in no transaction: one round trip.
        """
        async with self.reading() as connection:
            if self.sqlite:
                return (await connection.execute(prepared.sqlite, parameters)).all()
            try:
                return await prepared.fetch(driver_of(connection), parameters)
            except (DBAPIError, asyncio.CancelledError):
                await connection.invalidate()  # it may be lost, which SQLAlchemy only notices where it executes a statement itself
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block and wakes the relay; undoes everything if the block raises."""
        self._enter_loop()
        async with _returned(self._writing, self.held_seconds) as connection, connection.begin():
            transaction = Transaction(connection, sqlite=self.sqlite)
            gather(sync_of(connection), transaction.rows)
            try:
                yield transaction
            finally:
                transaction.end()
            await transaction.write_outbox()
        if transaction.gathered:
            self.wake()

    async def run(self, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
        """Awaits ``work`` in a transaction and returns its result.

        Where PostgreSQL gave the transaction up in favour of another (a deadlock, a serialization failure), it is tried again.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except DBAPIError as error:
                if not is_given_up(error):
                    raise
        async with self.transaction() as transaction:
            return await work(transaction)

    def wake(self) -> None:
        """Wakes the relays, since the outbox has a new row: by an event in this process, by NOTIFY in others."""
        self.changed.set()
        if self.sqlite or self.relayed_here:
            return
        self._wake_again = True
        if self._waking is None or self._waking.done():
            # Its context is its own: it is no task of the caller, whose transaction is over.
            self._waking = contextvars.Context().run(asyncio.create_task, self._notify())

    async def _notify(self) -> None:
        # Not inside the transactions: NOTIFY makes commits wait for each other.
        try:
            while self._wake_again:
                self._wake_again = False
                async with asyncio.timeout(NOTIFY_SECONDS):
                    await self.fetch(_notify, {})
                await asyncio.sleep(WAKE_SECONDS)  # a relay that is at work takes what comes meanwhile
        except BROKEN as error:
            log.debug("the relays were not woken (%s); each looks at the outbox once a second", reason_of(error))

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[AsyncConnection]:
        """A connection that is none of the pool's, for what holds it as long as it runs."""
        url, arguments = connecting(self.url)
        engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments)
        replace_lost(engine.sync_engine)
        async with engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def listening(self, woken: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        """Calls ``woken`` at each wake; the event is set when the connection is lost. PostgreSQL only."""
        async with self.apart() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            lost = asyncio.Event()
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(WAKE, lambda *_: woken())
            yield lost

    @asynccontextmanager
    async def alone_with(self, channel: str) -> AsyncIterator[Transaction]:
        """A transaction during which no other writes to the channel, and no relay publishes from it.

        On SQLite it takes the relays' lock before the writers', as relays do; on PostgreSQL both belong to the transaction.
        """
        if self.sqlite:
            async with self.claim([channel], wait=True), self.transaction() as transaction:
                yield transaction
            return
        async with self.transaction() as transaction:
            await transaction.fetch(_take, {"keys": [lock_key(channel)]})
            await transaction.lock([channel])
            yield transaction

    @asynccontextmanager
    async def claim(self, names: Collection[str], *, wait: bool = False) -> AsyncIterator[set[str]]:
        """Locks whole channels for a relay to the end of the block; yields those that no other relay holds.

        ``wait``: waits until all are free. SQLite has one such lock for all its channels: a file beside it, which the system
        unlocks when the process that holds it dies.
        """
        if not self.sqlite:
            keys = {lock_key(name) for name in names}
            async with self.reading() as connection, connection.begin():
                found = await (_take if wait else _try).fetch_first(connection, {"keys": sorted(keys)})
                free = keys if wait else {row[0] for row in found}
                yield {name for name in names if lock_key(name) in free}
            return
        with open(open_private(Path(f"{self.url.database}.relay"), os.O_RDWR), "rb+") as file:
            while not (locked := _try_flock(file.fileno())) and wait:
                await asyncio.sleep(LOCK_SECONDS)
            yield set(names) if locked else set()


@asynccontextmanager
async def _returned(engine: AsyncEngine, held_seconds: float | None) -> AsyncIterator[AsyncConnection]:
    """A connection that is back in the pool when the block ends. One whose return is interrupted is thrown away, with an error in the log."""
    connection = await engine.connect()
    with _held(connection, held_seconds):
        try:
            yield connection
        except DBAPIError as error:
            if is_of_standby(error):
                await connection.invalidate()
            raise
        finally:
            await to_its_end(connection.close())


@contextmanager
def _held(connection: AsyncConnection, seconds: float | None) -> Iterator[None]:
    """A connection to PostgreSQL is cut in this block after so long: a caller that waits for an answer over it then gets the driver's error."""
    if seconds is None or connection.dialect.name != "postgresql":
        yield
        return
    limit = asyncio.get_running_loop().call_later(seconds, cut, driver_of(connection))
    try:
        yield
    finally:
        limit.cancel()


async def within(database: Database | Transaction, work: Callable[[Transaction], Awaitable[Result]]) -> Result:
    """Awaits ``work`` and returns its result: in a transaction of its own, or as part of the one that is given."""
    return await (work(database) if isinstance(database, Transaction) else database.run(work))


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
