"""The migrator: Alembic makes the tables and brings them up to date. Safe to run again, and by several processes at once: one migrates."""

from __future__ import annotations

import logging
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.errors import ConfigurationError

from .database import Database, reason_of
from .tables import settings

__all__ = ["identity", "migrate"]

log = logging.getLogger("gateway.relay")

UNDEFINED_TABLE = "42P01"  # PostgreSQL, appendix A
_MIGRATING = 0x6763  # PostgreSQL's advisory lock of the process that migrates


async def migrate(database: Database) -> None:
    """Applies the migrations that are missing. Raises ConfigurationError, in one line, if the database cannot be used."""
    try:
        async with database.transaction() as transaction:
            if not database.sqlite:
                await transaction.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            await transaction.connection.run_sync(_upgrade)
    except (OSError, SQLAlchemyError, TypeError, ValueError) as error:  # asyncpg raises the latter two for parts of a URL
        raise ConfigurationError(f"the database {database.name} cannot be used: {reason_of(error)}") from None


async def identity(database: Database) -> str:
    """The random text that names this database's outbox, made by the first migration; the rows' ids are versions of this epoch.

    Raises ConfigurationError where no migration was applied yet.
    """
    try:
        async with database.reading() as connection:
            found: str | None = (await connection.execute(select(settings.c.value).where(settings.c.name == "outbox"))).scalar()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE and "no such table" not in str(error.orig):
            raise
        found = None
    if found is None:
        raise ConfigurationError(f"the database {database.name} has no tables yet; start `gateway relay`, which makes them")
    return found


def _upgrade(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", "publishers:migrations")
    there = MigrationContext.configure(connection).get_current_revision()
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if there is not None and there not in known:
        raise ConfigurationError(f"the database is at version {there}, newer than this program; install the newer one")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    reached = MigrationContext.configure(connection).get_current_revision()
    if reached != there:
        log.info("the database's tables are at version %s now", reached)
