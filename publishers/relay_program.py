"""What ``gateway relay`` runs, and ``gateway demo`` too: the relay of the outbox and its reports, and the updates of folded notifications."""

from __future__ import annotations

import asyncio

from gateway.store.history import History

from .database import Database
from .folding import Folding
from .outbox_reporting import OutboxReporter
from .relay import Relay

__all__ = ["run_relay"]


async def run_relay(database: Database, history: History) -> None:
    """Publishes the outbox of ``database`` through ``history`` until cancelled. The tables must exist: ``migrator.migrate``."""
    async with asyncio.TaskGroup() as group:
        group.create_task(Relay(database, history).run())
        group.create_task(Folding(database).run())
        group.create_task(OutboxReporter(database, history).run())
