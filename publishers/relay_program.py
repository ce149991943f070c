"""What ``gateway relay`` runs, and ``gateway demo`` too: the relay of the outbox and its reports, and the updates of folded notifications where their tables are."""

from __future__ import annotations

import asyncio

from gateway.store.history import History

from .database import CLAIM_SECONDS, Database
from .folding import Folding
from .migrator import has_table
from .outbox_reporting import OutboxReporter
from .relay import Relay
from .tables import folds

__all__ = ["run_relay"]

HELD_SECONDS = 2 * CLAIM_SECONDS  # PostgreSQL ends a round that takes half of that


async def run_relay(database: Database, history: History) -> None:
    """Publishes the outbox of ``database`` through ``history`` until cancelled. The tables must exist: ``migrator.migrate``.

    From then on the database holds no connection for longer than HELD_SECONDS. Raises ConfigurationError if it cannot be used at first.
    """
    database.held_seconds = HELD_SECONDS
    has_folds = await has_table(database, folds.name)  # an outbox that another program's migrations made is alone there
    async with asyncio.TaskGroup() as group:
        group.create_task(Relay(database, history).run())
        if has_folds:
            group.create_task(Folding(database).run())
        group.create_task(OutboxReporter(database, history).run())
