"""What ``gateway relay`` runs, and ``gateway demo`` beside its site: the outbox's relay and the folded notifications."""

from __future__ import annotations

import asyncio

from gateway.store.history import History

from .database import Database
from .folding import Folding
from .relay import Relay

__all__ = ["relay"]


async def relay(database: Database, history: History) -> None:
    """Runs until cancelled. The tables must be there: ``migrator.migrate``."""
    async with asyncio.TaskGroup() as group:
        group.create_task(Relay(database, history).run())
        group.create_task(Folding(database).run())
