"""What a database of the publishers holds: its outbox, and all its tables."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from publishers.database import Database
from publishers.tables import metadata, outbox

__all__ = ["everything", "rows", "said"]


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
