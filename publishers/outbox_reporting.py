"""Reports to Valkey how many rows of the outbox wait, and since when, for the metrics of gateways."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import func, select

from gateway.runtime.backoff import retrying
from gateway.store.history import History
from gateway.store.outbox_report import EVERY_SECONDS, report_outbox

from .database import Database, reason_of
from .migrator import identity
from .relay import FAILURES
from .tables import outbox

__all__ = ["OutboxReporter"]

log = logging.getLogger("gateway.relay")

COUNTED_MOST = 1_000_000  # rows; to count more would take the database seconds

_waiting = select(outbox.c.id).where(~outbox.c.published)
_rows = select(func.count()).select_from(_waiting.limit(COUNTED_MOST).subquery())
_oldest = select(outbox.c.at).where(~outbox.c.published).order_by(outbox.c.id).limit(1)


class OutboxReporter:
    """``await run()`` until cancelled: one report each EVERY_SECONDS."""

    def __init__(self, database: Database, history: History) -> None:
        self._database = database
        self._history = history

    async def run(self) -> None:
        while True:
            await retrying(self.report, "the outbox cannot be counted", log, on=FAILURES, ceiling=EVERY_SECONDS, reason=reason_of)
            await asyncio.sleep(EVERY_SECONDS)

    async def report(self) -> None:
        """Counts and reports once. Raises StoreError, or the database's error."""
        name = await identity(self._database)
        async with self._database.reading() as connection:
            rows = (await connection.execute(_rows)).scalar_one()
            oldest = (await connection.execute(_oldest)).scalar()
        age = max(0.0, time.time() - oldest / 1000) if oldest is not None else 0.0
        await report_outbox(self._history.commands, self._history.layout, name, rows, age)
