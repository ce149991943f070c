"""Statements that every reaction and every row of the outbox executes: on PostgreSQL the driver executes them, without SQLAlchemy's work.

SQLAlchemy spends 150 to 250 µs of CPU on an execution, for its context, its cursor, its result and the switches between greenlets, where
asyncpg takes 25 µs to send a statement that it has prepared and to read the rows. So these statements are written and compiled with
SQLAlchemy, once, and asyncpg executes them inside the transaction that SQLAlchemy began and will commit or undo.

SQLAlchemy begins a transaction with the first statement that it executes, so the first one is its own. On SQLite all are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["DRIVER_ERRORS", "Parameters", "Prepared", "Rows", "driver_of", "sync_of"]

Parameters = Mapping[str, Any]
Rows = Sequence[Sequence[Any]]
# The last is what asyncpg raises on a connection that the server has just ended.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # its __init__ has no types


class Prepared:
    """One statement for both kinds of database, or one for each: ``sqlite`` is SQLite's, PostgreSQL's is compiled here.

    Its parameters are texts, numbers, booleans, None, or lists of them, which asyncpg takes as they are.
    """

    def __init__(self, sqlite: Executable, postgresql: Executable | None = None) -> None:
        self.sqlite = sqlite
        statement: Any = postgresql if postgresql is not None else sqlite
        compiled = statement.compile(dialect=_dialect)
        self._sql: str = compiled.string
        self._names: list[str] = compiled.positiontup
        self._own = {
            name: value for name, value in compiled.params.items() if value is not None
        }  # parameters that the statement has itself

    async def fetch_first(self, connection: AsyncConnection, parameters: Parameters) -> Rows:
        """Executes it as the first statement of a transaction, which SQLAlchemy begins, and returns its rows. Raises SQLAlchemy's errors."""
        result = await connection.exec_driver_sql(self._sql, tuple(self._arguments(parameters)))
        return result.all() if result.returns_rows else []

    async def fetch(self, driver: Any, parameters: Parameters) -> Rows:
        """Executes it as a later statement of a transaction, and returns its rows. Raises SQLAlchemy's DBAPIError."""
        return await self._rows(driver.fetch(self._sql, *self._arguments(parameters)))

    async def fetch_each(self, driver: Any, several: Sequence[Parameters]) -> Rows:
        """The same for each of ``several``, in order and in one round trip; returns the rows of all."""
        return await self._rows(driver.fetchmany(self._sql, [self._arguments(each) for each in several]))

    def _arguments(self, parameters: Parameters) -> list[Any]:
        given = {**self._own, **parameters}
        return [given[name] for name in self._names]

    async def _rows(self, answer: Awaitable[Rows]) -> Rows:
        try:
            return await answer
        except DRIVER_ERRORS as error:
            raise DBAPIError(self._sql, None, error) from error


def driver_of(connection: AsyncConnection) -> Any:
    """asyncpg's connection."""
    return sync_of(connection).connection.driver_connection


def sync_of(connection: AsyncConnection) -> Connection:
    """SQLAlchemy's connection that is adapted to asyncio."""
    adapted = connection.sync_connection
    assert adapted is not None, "the connection is closed"
    return adapted
