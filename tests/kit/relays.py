"""Processes that relay, write and react, some of which die by SIGKILL at the step they are given.

Each function below is what such a process does; ``forks.start`` begins it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Never

from sqlalchemy import event

from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.history import History
from gateway.store.layout import Layout
from gateway.store.library import Library
from publishers import relay as outbox
from publishers.database import Database, Transaction
from publishers.publisher import Publisher
from publishers.reactions import REACTIONS, Reactions, react
from publishers.relay import Relay
from publishers.reviews import create_review

__all__ = [
    "CHANNELS",
    "INBOX",
    "DyingHistory",
    "DyingRelay",
    "die",
    "dying_relay",
    "dying_writer",
    "obedient_writer",
    "reacting",
    "relaying",
    "writer",
]

CHANNELS = FIRST, INBOX, STORY = "posts:a", "notifications:u1", "review:1"  # in the order in which a dying relay takes them


def die() -> Never:
    """Ends this process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("the process is dead")


# Relays.


async def relaying(database_url: str, valkey_url: str, prefix: str) -> None:
    async with Database(database_url) as database, Publisher(valkey_url, prefix=prefix) as publisher:
        await Relay(database, publisher.history).run()


async def dying_relay(database_url: str, valkey_url: str, prefix: str, step: str) -> None:
    """Each row is one call, one at a time, so that the same was done before a step each time."""
    outbox.CHUNK_BYTES = 1
    async with Database(database_url) as database:
        commands = DyingCommands(Address(valkey_url), prefix, step)
        await commands.start()
        await DyingRelay(database, DyingHistory(commands, Layout(prefix)), step).drain()
        await commands.close()


class DyingRelay(Relay):
    def __init__(self, database: Database, history: DyingHistory, step: str) -> None:
        super().__init__(database, history)
        self._step = step
        self._one_by_one = asyncio.Lock()
        self._settling = False
        event.listen(database.engine.sync_engine, "commit", self._before_commit)

    def _at(self, step: str) -> None:
        if step == self._step:
            die()

    async def _round(self) -> int | None:
        count = await super()._round()
        self._at("when the claim is released")
        return count

    async def _waiting(self) -> list[str]:
        self._at("before it looks")
        names = await super()._waiting()
        self._at("before it claims")
        return names

    async def _read(self, names: set[str]) -> Any:
        self._at("before it reads")
        rows = await super()._read(names)
        self._at("before it publishes")
        return rows

    async def _publish_channel(self, name: str, rows: list[Any]) -> Any:
        async with self._one_by_one:
            outcome = await super()._publish_channel(name, rows)
            self._at("between two channels")
            return outcome

    async def _settle(self, done: Sequence[Any]) -> None:
        self._at("before it settles")
        self._settling = True
        await super()._settle(done)
        self._settling = False
        self._at("when it has settled")

    def _before_commit(self, connection: Any) -> None:
        if self._settling:
            self._at("before the settling is committed")


class DyingHistory(History):
    def __init__(self, commands: DyingCommands, layout: Layout) -> None:
        super().__init__(commands, layout)
        self._step = commands.step
        self._calls = 0

    async def relay(self, *words: Any, **options: Any) -> None:
        self._calls += 1
        if self._calls == 2 and self._step == "before the second call leaves":
            die()
        await super().relay(*words, **options)
        if self._calls == 2 and self._step == "when the second call is answered":
            die()


class DyingCommands(ServerCommands):
    def __init__(self, address: Address, prefix: str, step: str) -> None:
        super().__init__(address, functions=Library(None, prefix))
        self.step = step
        self._calls = 0
        self._witness = address.sync_client()
        self._stream = Layout(prefix).keys(FIRST)[1]

    def _flush(self) -> None:
        self._calls += any(b"gateway_relay" in command.text for command in self.queue.waiting)
        super()._flush()
        if self._calls == 2 and self.step == "before the answer of the second call is read":
            while self._witness.xlen(self._stream) < 2:  # the loop stands still meanwhile, and reads nothing
                continue
            die()


# Writers.


async def dying_writer(database_url: str, subject: str, step: str) -> None:
    """Writes a review and what is said about it."""
    write_outbox = Transaction.write_outbox

    async def dying(transaction: Transaction) -> None:
        if step == "before the outbox is written":
            die()
        await write_outbox(transaction)
        if step == "before the commit":
            die()

    class DyingDatabase(Database):
        def wake(self) -> None:
            if step == "before anybody is woken":
                die()
            super().wake()

    Transaction.write_outbox = dying  # type: ignore[method-assign]
    async with DyingDatabase(database_url) as database:
        await create_review(database, subject=subject, author="u1", rating=5, text="…")


async def writer(database_url: str, name: str, channels: Sequence[str], transactions: int) -> None:
    """Two tasks that write at once, each transaction into several channels, in an order of its own."""
    chance = random.Random(name)

    async def write(task: int) -> None:
        for number in range(transactions):
            chosen = chance.sample(channels, chance.randint(1, len(channels)))

            async def work(transaction: Transaction, chosen: list[str] = chosen, number: int = number) -> None:
                for channel in chosen:
                    transaction.publish(channel, {"id": f"{name}.{task}.{number}"}, keep=True)

            await database.run(work)

    async with Database(database_url) as database:
        await asyncio.gather(write(0), write(1))


async def reacting(database_url: str, targets: Sequence[str], seed: str, both: Any) -> None:
    """Sixty reactions of five users at once, half of them in shared transactions, when ``both`` processes are ready."""
    chance = random.Random(seed)
    async with Database(database_url, pool=4) as database:
        ways = [Reactions(database).react, lambda **wanted: react(database, **wanted)]
        await asyncio.to_thread(both.wait, 30)
        await asyncio.gather(
            *[
                chance.choice(ways)(
                    user=f"u{chance.randrange(5)}", target=chance.choice(targets), reaction=chance.choice([*REACTIONS, None])
                )
                for _ in range(60)
            ]
        )


async def obedient_writer(database_url: str, channel: str, orders: Connection) -> None:
    """Publishes what it receives, each in a transaction of its own."""
    async with Database(database_url) as database:
        while (data := await asyncio.to_thread(orders.recv)) is not None:
            async with database.transaction() as transaction:
                transaction.publish(channel, data)
