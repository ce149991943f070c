"""A transaction: changes of tables, and the publications and jobs that belong to them, which are rows of the outbox in the same commit."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Unpack

from sqlalchemy import CursorResult, Executable, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest
from gateway.publication import channel_fault
from gateway.rules.json_values import json_of
from gateway.rules.notifications import NAMESPACE, notification_id
from gateway.work.jobs import JobOptions

from .checks import inbox_of
from .faults import Invalid
from .outbox_jobs import row_of_job
from .prepared import Parameters, Prepared, Rows, driver_of
from .tables import outbox

__all__ = ["Transaction", "lock_key", "now_ms"]

_WRITERS = 0x6761  # the space of the writers' advisory locks

# On PostgreSQL the locks and the rows are one round trip: the count is there, and with it every lock, before the first id is drawn.
_lock_and_add = f"""
    INSERT INTO outbox (channel, data, at, keep)
    SELECT u.channel, u.data, u.at, u.keep
    FROM (SELECT count(pg_advisory_xact_lock({_WRITERS}, k)) FROM unnest(CAST(:keys AS int[])) AS k) AS locked,
        unnest(CAST(:channel AS text[]), CAST(:data AS text[]), CAST(:at AS bigint[]), CAST(:keep AS boolean[]))
            WITH ORDINALITY AS u(channel, data, at, keep, number)
    ORDER BY u.number
"""
_add = Prepared(insert(outbox), text(_lock_and_add))
_lock = Prepared(text(f"SELECT pg_advisory_xact_lock({_WRITERS}, k) FROM unnest(CAST(:keys AS int[])) AS k"))


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def lock_key(channel: str) -> int:
    """32 bits of a channel's name; two channels that share them wait for each other, which is harmless."""
    return int.from_bytes(hashlib.blake2b(channel.encode(), digest_size=4).digest(), signed=True)


class Transaction:
    """Changes of tables, and their publications and jobs, committed together. ``Database.transaction`` makes, commits and undoes it.

    ``connection`` is SQLAlchemy's. ``sqlite`` is whether the database is SQLite, PostgreSQL otherwise.
    """

    def __init__(self, connection: AsyncConnection, *, sqlite: bool) -> None:
        self.connection = connection
        self.sqlite = sqlite
        self._rows: list[dict[str, Any]] = []  # of the outbox

    async def execute(
        self, statement: Executable, parameters: Parameters | Sequence[Parameters] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Executes one statement, as SQLAlchemy's ``AsyncConnection.execute``; a list of parameters executes it for each.

        Raises SQLAlchemy's errors. On SQLite a statement that has begun is finished even if its caller is cancelled: a
        connection that is closed in the middle of a statement holds the write lock until it is collected.
        """
        work = self.connection.execute(statement, parameters)
        if not self.sqlite:
            return await work
        running = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

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

    def publish(self, channel: str, data: Any, *, keep: bool = False) -> None:
        """Publishes ``data``, which is JSON, in ``channel`` once this is committed. ``keep``: its row stays in the outbox for good.

        Raises Invalid for an impossible channel, data that is not JSON, or an inbox's data that is no notification.
        """
        fault = channel_fault(channel)
        if fault:
            raise Invalid(fault)
        try:
            document = json_of(data).decode()
        except (TypeError, ValueError) as error:
            raise Invalid(str(error)) from None
        if channel.startswith(f"{NAMESPACE}:"):
            try:
                notification_id(document.encode())
            except BadRequest as error:
                raise Invalid(error.hint) from None
        self._rows.append({"channel": channel, "data": document, "at": now_ms(), "keep": keep})

    def notify(self, user: str, notification: Mapping[str, Any]) -> None:
        """Publishes into the inbox of ``user``. The notification's ``id``, a text, names it: the same id again is an update.

        Raises TypeError for a user that is no text, ValueError for a user that no inbox can belong to, Invalid for an impossible notification.
        """
        self.publish(inbox_of(user), notification)

    def enqueue(self, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]) -> str:
        """Enqueues a job once this is committed, in the order of commits: ``data``, which becomes JSON, for the handler of ``name``.

        The options are those of ``gateway.work.Queue.enqueue``; ``delay`` and ``expires`` count from now. Returns the job's id, by which
        ``Queue`` finds it; where a job with its ``key`` waits or runs, no job of this id comes to be. Raises Invalid for what cannot be a job.
        """
        now = now_ms()
        channel, row, id = row_of_job(now, queue, name, data, **options)
        self._rows.append({"channel": channel, "data": row, "at": now, "keep": False})
        return id

    @property
    def gathered(self) -> int:
        """How many rows it has for the outbox: publications and jobs."""
        return len(self._rows)

    async def lock(self, names: Collection[str]) -> None:
        """No other transaction writes to these channels until this one ends. All transactions lock in the same order."""
        if not self.sqlite:
            await self.fetch(_lock, {"keys": sorted({lock_key(name) for name in names})})

    async def write_outbox(self) -> None:
        """Writes the rows that it gathered: locks their channels, and only then draws the rows' ids."""
        rows = self._rows
        if not rows:
            return
        if self.sqlite:  # there, a writer has locked the whole database
            await self.fetch_each(_add, rows)
            return
        columns = {name: [row[name] for row in rows] for name in ("channel", "data", "at", "keep")}
        keys = sorted({lock_key(name) for name in columns["channel"]})
        await self.fetch(_add, {"keys": keys, **columns})
