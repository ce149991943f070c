"""The migrator: Alembic makes the tables and brings them up to date. Safe to run again, and by several processes at once: one migrates."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.errors import ConfigurationError

from .database import Database, reason_of
from .tables import folds, metadata, outbox, outbox_identity

__all__ = ["has_table", "identity", "migrate"]

log = logging.getLogger("gateway.relay")

UNDEFINED_TABLE = "42P01"  # PostgreSQL, appendix A
_MIGRATING = 0x6763  # PostgreSQL's advisory lock of the process that migrates


async def migrate(database: Database) -> None:
    """Applies the migrations that are missing; where another program's migrations made the outbox's tables, as Django's, it applies none.

    Raises ConfigurationError, in one line, if the database cannot be used.
    """
    with _usable(database):
        async with database.transaction() as transaction:
            if not database.sqlite:
                await transaction.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            await transaction.connection.run_sync(_upgrade)


async def has_table(database: Database, name: str) -> bool:
    """Whether the database has this table. Raises ConfigurationError, in one line, if the database cannot be used."""
    with _usable(database):
        async with database.reading() as connection:
            return await connection.run_sync(lambda plain: inspect(plain).has_table(name))


@contextmanager
def _usable(database: Database) -> Iterator[None]:
    try:
        yield
    except (OSError, SQLAlchemyError, TypeError, ValueError) as error:  # asyncpg raises the latter two for parts of a URL
        raise ConfigurationError(f"the database {database.name} cannot be used: {reason_of(error)}") from None


async def identity(database: Database) -> str:
    """The random text that names this database's outbox, made when it is first read; the rows' ids are versions of this epoch.

    Raises ConfigurationError where the table is not there.
    """
    try:
        return await _read_identity(database) or await _make_identity(database)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE and "no such table" not in str(error.orig):
            raise
    raise ConfigurationError(f"the database {database.name} has no tables yet; start `gateway relay`, which makes them")


async def _read_identity(database: Database) -> str | None:
    async with database.reading() as connection:
        wanted = select(outbox_identity.c.value).where(outbox_identity.c.name == "outbox")
        return (await connection.execute(wanted)).scalar()


async def _make_identity(database: Database) -> str:
    """Of several relays that make one, the first does; all return the same."""
    async with database.transaction() as transaction:
        add = text("INSERT INTO outbox_identity (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING")
        await transaction.execute(add, {"name": "outbox", "value": uuid4().hex})
    found = await _read_identity(database)
    assert found is not None, "it was inserted"
    return found


def _upgrade(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", "publishers:migrations")
    tables = set(inspect(connection).get_table_names())
    has_all, has_outbox = folds.name in tables, outbox_identity.name in tables
    # A version may be that of another program's migrations. It is not read without need: the relay's user may not be allowed to.
    there = MigrationContext.configure(connection).get_current_revision() if has_all or not has_outbox else None
    ours = there is not None and has_all
    if not ours and has_outbox:
        log.info("the outbox's tables were made by another program's migrations, which also bring them up to date")
        return
    if not ours:
        _check_room(there, tables)
    elif there not in {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}:
        raise ConfigurationError(f"the database is at version {there}, newer than this program; install the newer one")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    reached = MigrationContext.configure(connection).get_current_revision()
    if reached != there:
        log.info("the database's tables are at version %s now", reached)


def _check_room(version: str | None, tables: set[str]) -> None:
    """Raises ConfigurationError where the first migration would meet what another program has in the database."""
    if version is not None:
        raise ConfigurationError(
            f"the database is at version {version} of another program's migrations and has no outbox: "
            "add publishers.tables.outbox_tables to their target_metadata, make a migration, and apply it"
        )
    if outbox.name in tables:
        raise ConfigurationError(
            "the database has a table outbox of another program's: give the relay, and the programs that publish, a database of their own, or in PostgreSQL "
            "a schema, as by ?options=-csearch_path%3Dgateway"
        )
    if taken := sorted(tables & metadata.tables.keys()):
        raise ConfigurationError(
            f"the database has a table {taken[0]} of another program's, and the relay would make one of that name: make the outbox's tables alone, "
            "by publishers.tables.outbox_tables.create_all(engine), and start the relay again, which makes no others then"
        )
