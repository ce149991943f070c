"""What a database of the publishers holds: its outbox, and all its tables."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import select, text

from publishers.database import Database
from publishers.tables import metadata, outbox

__all__ = ["everything", "rows", "said", "table_away"]


async def rows(database: Database) -> list[Any]:
    async with database.reading() as connection:
        return list((await connection.execute(select(outbox).order_by(outbox.c.id))).all())


async def said(database: Database, channel: str) -> list[Any]:
    """The data of a channel's rows in the outbox, oldest first."""
    async with database.reading() as connection:
        rows = await connection.execute(select(outbox.c.data).where(outbox.c.channel == channel).order_by(outbox.c.id))
        return [json.loads(data) for data in rows.scalars()]


async def everything(database: Database) -> dict[str, list[tuple]]:
    """All rows of all tables: what was refused has left none."""
    async with database.reading() as connection:
        return {table.name: sorted(map(repr, await connection.execute(select(table)))) for table in metadata.sorted_tables}


@asynccontextmanager
async def table_away(database: Database, table: str) -> AsyncIterator[None]:
    """The table is not there meanwhile, as in the middle of a restore."""
    await _rename(database, table, "away")
    try:
        yield
    finally:
        await _rename(database, "away", table)


async def _rename(database: Database, old: str, new: str) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
