"""Workers that process orders, some of which die by SIGKILL at the step whose number they are given. ``forks.start`` begins one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, text

from gateway.work import Worker
from publishers.database import Database
from publishers.orders import Declined, register

from .relays import die

__all__ = ["make_payments", "order_worker", "payments"]

LEASE_SECONDS = 0.5  # the shortest


async def make_payments(database: Database) -> None:
    """A payment service: a table in which each idempotency key is paid once."""
    async with database.transaction() as transaction:
        await transaction.execute(text("DROP TABLE IF EXISTS payments"))
        await transaction.execute(text("CREATE TABLE payments (key TEXT PRIMARY KEY, asked INTEGER NOT NULL)"))


async def payments(database: Database) -> dict[str, int]:
    """Idempotency key → how often it was asked for."""
    async with database.reading() as connection:
        rows = await connection.execute(text("SELECT key, asked FROM payments"))
        return {row.key: row.asked for row in rows}


class Steps:
    """Counts the steps of this process, which is dead at number ``last``; 0 is never."""

    def __init__(self, last: int) -> None:
        self._left = last

    def __call__(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            die()


async def order_worker(database_url: str, valkey_url: str, prefix: str, last: int) -> None:
    """Orders of an odd amount are declined. The steps: before and after each commit, and around each payment and shipment."""
    step = Steps(last)

    class SteppingDatabase(Database):
        def wake(self) -> None:
            step()
            super().wake()

    async with SteppingDatabase(database_url) as database:
        event.listen(database.engine.sync_engine, "commit", step)

        async def charge(order: dict[str, Any], key: str) -> None:
            step()
            if order["amount"] % 2:
                raise Declined("no credit")
            async with database.transaction() as transaction:
                paid = "INSERT INTO payments VALUES (:key, 1) ON CONFLICT (key) DO UPDATE SET asked = payments.asked + 1"
                await transaction.execute(text(paid), {"key": key})
            step()

        async def ship(order: dict[str, Any], key: str) -> None:
            step()

        worker = Worker(url=valkey_url, prefix=prefix, lease=LEASE_SECONDS, concurrency=4)
        register(worker, database, charge=charge, ship=ship)
        await worker.run()
