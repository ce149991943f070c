"""Processes that write jobs into an outbox, and relays of jobs that die by SIGKILL at the step they are given.

Each function below is what such a process does; ``forks.start`` begins it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.layout import Layout, Word
from gateway.store.library import Library
from gateway.work.queues import Queues
from publishers.database import Database, Transaction

from .relays import DyingHistory, DyingRelay, die

__all__ = ["dying_job_relay", "job_writer"]


async def dying_job_relay(database_url: str, valkey_url: str, prefix: str, step: str) -> None:
    async with Database(database_url) as database:
        commands = DyingJobCommands(Address(valkey_url), prefix, step)
        await commands.start()
        layout = Layout(prefix)
        relay = DyingRelay(database, DyingHistory(commands, layout), step)
        relay._queues = DyingQueues(commands, layout, step)
        await relay.drain()
        await commands.close()


class DyingQueues(Queues):
    def __init__(self, commands: ServerCommands, layout: Layout, step: str) -> None:
        super().__init__(commands, layout)
        self._step = step
        self._calls = 0

    async def enqueue(self, queue: str, words: list[Word], **version: Any) -> tuple[str, bool]:
        self._calls += 1
        if self._calls == 2 and self._step == "before the second job leaves":
            die()
        outcome = await super().enqueue(queue, words, **version)
        if self._calls == 2 and self._step == "when the second job is answered":
            die()
        return outcome


class DyingJobCommands(ServerCommands):
    def __init__(self, address: Address, prefix: str, step: str) -> None:
        super().__init__(address, functions=Library(None, prefix))
        self.step = step
        self._calls = 0
        self._witness = address.sync_client()
        self._jobs = Layout(prefix).queue("default")[1]

    def _flush(self) -> None:
        self._calls += any(b"gateway_enqueue" in command.text for command in self.queue.waiting)
        super()._flush()
        if self._calls == 2 and self.step == "before the answer of the second job is read":
            while self._witness.hlen(self._jobs) < 2:  # the loop stands still meanwhile, and reads nothing
                continue
            die()


async def job_writer(database_url: str, name: str, queues: Sequence[str], transactions: int) -> None:
    """Each transaction enqueues into several queues, in an order of its own; the jobs of a queue are numbered in the order of commits."""
    chance = random.Random(name)
    numbers = dict.fromkeys(queues, 0)
    async with Database(database_url) as database:
        for _ in range(transactions):
            chosen = chance.sample(queues, chance.randint(1, len(queues)))

            async def work(transaction: Transaction, chosen: list[str] = chosen) -> None:
                for queue in chosen:
                    transaction.enqueue("count", {"writer": name, "n": numbers[queue]}, queue=queue)

            await database.run(work)
            for queue in chosen:
                numbers[queue] += 1
