"""The schema, brought up to date by Alembic. Safe to run again, and by several processes at once: one of them does it."""

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

from .database import Database
from .tables import settings

__all__ = ["identity", "migrate"]

log = logging.getLogger("gateway.relay")

UNDEFINED_TABLE = "42P01"  # PostgreSQL, appendix A
_MIGRATING = 0x6763  # PostgreSQL's advisory lock of whoever migrates


async def migrate(database: Database) -> None:
    """Applies what is missing. Raises ConfigurationError, in one line, if the database cannot be used."""
    try:
        async with database.transaction() as transaction:
            if not database.sqlite:
                await transaction.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
            await transaction.connection.run_sync(_upgrade)
    except (OSError, SQLAlchemyError, TypeError, ValueError) as error:  # the latter two are asyncpg's, of a URL
        reason = str(getattr(error, "orig", error)).partition("\n")[0]
        raise ConfigurationError(f"the database {database.name} cannot be used: {reason}") from None


async def identity(database: Database) -> str:
    """Whose versions the outbox's ids are. Raises ConfigurationError where nothing was migrated yet."""
    try:
        async with database.reading() as connection:
            found = (await connection.execute(select(settings.c.value).where(settings.c.name == "outbox"))).scalar()
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
