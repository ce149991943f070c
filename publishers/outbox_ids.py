"""An outbox whose ids are given a second time, since its database came back older: from a backup, or by a standby that lacked the last transactions.

Valkey takes a row's id for its version, and drops what is not newer than what it has of the same identity. So new rows with old ids would
count as published, and be deleted. The relay therefore records in Valkey the greatest id that it published. Where the database has not given so
great an id, its outbox gets a new identity, of which Valkey knows no version. Rows that were published and still wait then come a second time.
"""

from __future__ import annotations

import logging
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import ConfigurationError, StoreError, Unavailable
from gateway.store.history import History

from .database import Database
from .migrator import identity

__all__ = ["current_identity", "record_newest"]

log = logging.getLogger("gateway.relay")

INSUFFICIENT_PRIVILEGE = "42501"  # PostgreSQL, appendix A
_MEMBER = b"id"


async def record_newest(history: History, outbox: str, id: int) -> None:
    """Records that rows up to this id of the outbox with this identity were published. Where Valkey refuses, that is passed over."""
    try:
        await history.commands.send(b"ZADD", history.layout.newest_id(outbox), b"GT", id, _MEMBER)
    except StoreError as error:
        log.debug("the newest id of the outbox was not recorded: %s", error)


async def current_identity(database: Database, history: History) -> tuple[str, int]:
    """The identity of the outbox, which is a new one if its ids are given a second time; and the greatest id that was published of it, as far as
    Valkey knows.

    Raises Unavailable where Valkey is away; ConfigurationError where the tables are not there, or ids are not given in the order of commits; the database's errors.
    """
    name = await identity(database)
    try:
        newest = int(await history.commands.send(b"ZSCORE", history.layout.newest_id(name), _MEMBER) or 0)
    except Unavailable:
        raise
    except (StoreError, ValueError) as error:
        log.debug("the newest id of the outbox could not be read: %s", error)
        return name, 0
    last = await _last_id(database) if newest else None
    if last is None or last >= newest:
        return name, newest
    log.error(
        "the database came back older: its outbox has given ids up to %d, and %d was published. It gets a new identity, so that new rows "
        "do not count as published; rows that wait, and were published before, come a second time",
        last,
        newest,
    )
    async with database.transaction() as transaction:
        renew = text("UPDATE outbox_identity SET value = :new WHERE name = 'outbox' AND value = :old")
        await transaction.execute(renew, {"new": uuid4().hex, "old": name})
    return await identity(database), 0


async def _last_id(database: Database) -> int | None:
    """The id that the outbox gave last; None if that cannot be found out. Raises ConfigurationError."""
    async with database.reading() as connection:
        try:
            return await (_last_on_sqlite if database.sqlite else _last_on_postgresql)(connection)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE and "no such table" not in str(error.orig):
                raise
            return None


async def _last_on_sqlite(connection: AsyncConnection) -> int | None:
    found: int | None = (await connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"))).scalar()
    return found


async def _last_on_postgresql(connection: AsyncConnection) -> int | None:
    """By the sequence of the column ``id``, whose name depends on what made the table. Raises ConfigurationError for one that caches."""
    wanted = "SELECT seqrelid::regclass, seqcache FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence('outbox', 'id')::regclass"
    sequence = (await connection.execute(text(wanted))).first()
    if sequence is None:
        return None
    name, cached = sequence
    if cached > 1:
        raise ConfigurationError(
            f"each connection takes {cached} numbers of the outbox's sequence {name} at a time, so rows are not numbered in the order of their commits, and "
            f"those with older numbers would be dropped: run `ALTER SEQUENCE {name} CACHE 1`, and start the programs that write anew"
        )
    found = await connection.execute(text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {name}"))
    last: int = found.scalar_one()
    return last
