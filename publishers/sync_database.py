"""The database of the outbox without asyncio: for Flask, scripts, threads.

    with SyncDatabase("postgresql://…") as database:                   # or SyncDatabase(engine), an engine of SQLAlchemy that is there
        with database.transaction() as transaction:
            transaction.execute(insert(orders).values(…))              # a change of any table
            transaction.publish("orders:17", {"status": "shipped"})    # and its publication: both are committed, or neither
            transaction.enqueue("orders.bill", {"order": 17})          # and a job for a worker, the same

As ``Database``, it gathers publications and jobs, and writes them to the outbox as the last step of the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, Executable, create_engine
from sqlalchemy.exc import DBAPIError

from gateway.errors import ConfigurationError

from .database import ATTEMPTS, is_given_up
from .engines import POOL, SYNC_DRIVERS, database_url, driver_url, make_engine, name_of, prepare_transactions
from .lost_connections import is_of_standby, replace_lost
from .outbox_rows import Gathering, check_dialect
from .prepared import Parameters
from .savepoints import follow_savepoints, gather
from .session_outbox import wake_relays, write_rows

__all__ = ["SyncDatabase", "SyncTransaction"]

Result = TypeVar("Result")


class SyncTransaction(Gathering):
    """Changes of tables, and their publications and jobs, committed together.

    ``connection`` is SQLAlchemy's; what its ``begin_nested()`` undoes is not published either.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def execute(self, statement: Executable, parameters: Parameters | Sequence[Parameters] | None = None) -> CursorResult[*tuple[Any, ...]]:
        """Executes one statement, as SQLAlchemy's ``Connection.execute``; a list of parameters executes it for each. Raises its errors."""
        return self.connection.execute(statement, parameters)

    def write_outbox(self) -> None:
        """Writes the rows that it gathered. Raises MissingOutbox, SQLAlchemy's errors."""
        if self.rows:
            write_rows(self.connection, self.rows)


class SyncDatabase:
    """A database with an outbox: PostgreSQL, or SQLite in one file. Threads may share it.

    ``database`` is a URL or an engine of SQLAlchemy, of any driver; a URL of PostgreSQL needs psycopg, which is not installed with this
    package, and may end in ``?command_timeout=60``, the seconds after which a statement without an answer fails. Without one, the configuration's ``database_url`` is used, else SQLite in ``data_dir``. ``pool`` is how many connections it
    may open. Raises ConfigurationError for a URL that cannot be used. ``gateway relay`` makes the tables, and sends what they hold.
    """

    def __init__(self, database: str | Engine = "", *, data_dir: str | Path = "", pool: int = POOL) -> None:
        self._owned = not isinstance(database, Engine)
        if isinstance(database, Engine):
            check_dialect(database.dialect.name)
            self._engine = database
        else:
            url = driver_url(database or database_url(data_dir), SYNC_DRIVERS)
            self._engine = make_engine(create_engine, url, pool)
            prepare_transactions(self._engine)
            replace_lost(self._engine)
        self._writing = self._engine.execution_options(gateway_writes=True)  # the same pool
        follow_savepoints(self._writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections; an engine that it was given stays open."""
        if self._owned:
            self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine."""
        return self._engine

    @property
    def name(self) -> str:
        """The URL without its password and its query, which may hold one too, for messages."""
        return name_of(self._engine.url)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read by; on SQLite it does not wait for writers."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[SyncTransaction]:
        """Commits at the end of the block and wakes the relays; undoes everything if the block raises."""
        with self._writing.connect() as connection, _ended_on_standby(connection), connection.begin():
            _check_commits(connection)
            transaction = SyncTransaction(connection)
            gather(connection, transaction.rows)
            try:
                yield transaction
            finally:
                transaction.end()
            transaction.write_outbox()
        if transaction.gathered:
            wake_relays(self._engine)

    def run(self, work: Callable[[SyncTransaction], Result]) -> Result:
        """Calls ``work`` in a transaction and returns its result.

        Where PostgreSQL gave the transaction up in favour of another (a deadlock, a serialization failure), it is tried again.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                with self.transaction() as transaction:
                    return work(transaction)
            except DBAPIError as error:
                if not is_given_up(error):
                    raise
        with self.transaction() as transaction:
            return work(transaction)


def _check_commits(connection: Connection) -> None:
    """Raises ConfigurationError for an engine with which PostgreSQL commits each statement by itself."""
    if connection.dialect.name == "postgresql" and getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise ConfigurationError(
            "the engine's isolation level is AUTOCOMMIT, so nothing is undone where a transaction fails: give another one"
        )


@contextmanager
def _ended_on_standby(connection: Connection) -> Iterator[None]:
    """The connection does not go back to the pool where its server takes no writes."""
    try:
        yield
    except DBAPIError as error:
        if is_of_standby(error):
            connection.invalidate()
        raise
