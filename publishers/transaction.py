"""A transaction: changes of tables, and the publications and jobs that belong to them, which are rows of the outbox in the same commit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import CursorResult, Executable, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.runtime.tasks import to_its_end

from .engines import name_of
from .outbox_rows import ADD_ON_POSTGRESQL, REMEDY, WRITERS, Gathering, columns_of, lock_key, writing_outbox
from .prepared import Parameters, Prepared, Rows, driver_of
from .tables import outbox

__all__ = ["Transaction"]

_add = Prepared(insert(outbox), text(ADD_ON_POSTGRESQL))
_lock = Prepared(text(f"SELECT pg_advisory_xact_lock({WRITERS}, k) FROM unnest(CAST(:keys AS int[])) AS k"))


class Transaction(Gathering):
    """Changes of tables, and their publications and jobs, committed together. ``Database.transaction`` makes, commits and undoes it.

    ``connection`` is SQLAlchemy's; what its ``begin_nested()`` undoes is not published either. ``sqlite`` is whether the database is SQLite, PostgreSQL otherwise.
    """

    def __init__(self, connection: AsyncConnection, *, sqlite: bool) -> None:
        super().__init__()
        self.connection = connection
        self.sqlite = sqlite

    async def execute(
        self, statement: Executable, parameters: Parameters | Sequence[Parameters] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Executes one statement, as SQLAlchemy's ``AsyncConnection.execute``; a list of parameters executes it for each.

        Raises SQLAlchemy's errors. On SQLite a statement that has begun is finished even if its caller is cancelled: a
        connection that is closed in the middle of a statement holds the write lock until it is collected.
        """
        work = self.connection.execute(statement, parameters)
        return await (to_its_end(work) if self.sqlite else work)

    async def fetch(self, prepared: Prepared, parameters: Parameters) -> Rows:
        """Executes a statement that is executed often, and returns its rows, each a sequence. Raises SQLAlchemy's errors."""
        if self.sqlite:
            return await self._fetch_on_sqlite(prepared, parameters)
        driver = driver_of(self.connection)
        if driver.is_in_transaction():
            return await prepared.fetch(driver, parameters)
        return await prepared.fetch_first(self.connection, parameters)

    async def fetch_each(self, prepared: Prepared, several: Sequence[Parameters]) -> Rows:
        """The same for each of ``several``, in order; returns the rows of all."""
        if self.sqlite:
            return await self._fetch_on_sqlite(prepared, several)
        driver = driver_of(self.connection)
        if len(several) > 1 and driver.is_in_transaction():
            return await prepared.fetch_each(driver, several)
        return [row for each in several for row in await self.fetch(prepared, each)]

    async def _fetch_on_sqlite(self, prepared: Prepared, parameters: Parameters | Sequence[Parameters]) -> Rows:
        result = await self.execute(prepared.sqlite, parameters)
        return result.all() if result.returns_rows else []

    async def lock(self, names: Collection[str]) -> None:
        """No other transaction writes to these channels until this one ends. All transactions lock in the same order."""
        if not self.sqlite:
            await self.fetch(_lock, {"keys": sorted({lock_key(name) for name in names})})

    async def write_outbox(self) -> None:
        """Writes the rows that it gathered: locks their channels, and only then draws the rows' ids. Raises MissingOutbox, SQLAlchemy's errors."""
        if not self.rows:
            return
        with writing_outbox(name_of(self.connection.engine.url), REMEDY):
            if self.sqlite:  # there, a writer has locked the whole database
                await self.fetch_each(_add, self.rows)
            else:
                await self.fetch(_add, columns_of(self.rows))
