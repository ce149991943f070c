"""The relay: publishes what the outbox holds, each row exactly once in its channel, in order, whatever is killed when.

Theory of operation. A row is committed together with what it tells of; it is taken out again only after Valkey has
acknowledged it. In between anything may die: the row is then published a second time, with the same *version*, its id,
which Valkey keeps beside the channel's counter and drops what is not newer. So the order within a channel must be the
order of the ids, always:

- writers lock a channel before they draw ids for it, to the end of their transaction (``Transaction.write_outbox``):
  nobody sees id 8 of a channel while id 7 of it can still appear;
- a relay reads all rows of a channel that wait, and never sends one without those before it: the rows of a channel
  are one call of ``gateway_relay``, which publishes them as one atomic act or not at all;
- it takes whole channels by another lock, so that several relays share the work instead of doing it twice. Should that
  lock be lost under it, the versions still keep the order.

Any number of relays may run. They are woken at commit: by an event in this process, by LISTEN on PostgreSQL; on SQLite
by its data version, which changes with every commit of another process. Should a wake be lost, they look each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg
from sqlalchemy import bindparam, delete, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import StoreError, Unavailable
from gateway.rules.notifications import NAMESPACE
from gateway.runtime.backoff import backoff
from gateway.store.history import History

from .database import Database
from .migrator import identity
from .tables import outbox

__all__ = ["BROKEN", "Relay", "backlog"]

log = logging.getLogger("gateway.relay")

ROUND = 500  # rows of one round
CHANNELS_AT_ONCE = 200  # each is a lock, of which PostgreSQL has 64 for each of its connections
CHUNK_BYTES = 256 * 1024  # of one call: Valkey does nothing else meanwhile
ASIDE_SECONDS = 30.0  # the longest a channel is set aside
LOOK_SECONDS = 1.0
GLANCE_SECONDS = 0.02  # at SQLite's data version, where another process may have written
# What may pass: the database is away, or its pool is exhausted.
BROKEN = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

_ids = bindparam("ids", expanding=True)
_names = bindparam("names", expanding=True)
_waiting = select(outbox.c.channel).where(~outbox.c.published, outbox.c.channel.not_in(_names)).order_by(outbox.c.id).limit(ROUND)
_rows = (
    select(outbox.c.id, outbox.c.channel, outbox.c.data, outbox.c.keep)
    .where(~outbox.c.published, outbox.c.channel.in_(_names))
    .order_by(outbox.c.id)
    .limit(ROUND)
)
_forget = delete(outbox).where(outbox.c.id.in_(_ids))
_mark = update(outbox).where(outbox.c.id.in_(_ids)).values(published=True)

Row = Any  # id, channel, data, keep


class Relay:
    """``await run()`` until cancelled, or ``await drain()`` once. ``published`` and ``failures`` in a row can be asked for."""

    def __init__(self, database: Database, history: History) -> None:
        self._database = database
        self._history = history
        self._identity = ""
        self._woken = asyncio.Event()
        self._aside: dict[str, float] = {}  # channels that Valkey refused something of → when they are tried again
        self._refusals: dict[str, int] = {}
        self.published = 0
        self.failures = 0

    async def run(self) -> None:
        """Publishes whatever comes. What fails is said once and tried again, for as long as it takes."""
        self._database.relayed_here = True
        async with self._wakes():
            while True:
                try:
                    await self.drain()
                    self.failures = 0
                except (StoreError, *BROKEN) as error:
                    self.failures += 1
                    if self.failures == 1:
                        log.warning("the outbox waits: %s; trying again", str(getattr(error, "orig", error)).partition("\n")[0])
                    await asyncio.sleep(backoff(self.failures, 0.05, 1.0))
                    continue
                await self._rest()

    async def drain(self) -> int:
        """Publishes until nothing waits that no other relay holds; how many rows that were.

        Raises Unavailable, and whatever the database raises; what was published until then is published.
        """
        total = 0
        while True:
            self._database.changed.clear()
            self._woken.clear()
            aside = len(self._aside)
            count = await self._round()
            total += count
            if count == 0 and len(self._aside) == aside:
                return total

    async def _rest(self) -> None:
        """Until something is there, or a second is over: another relay may have died over what it held."""
        waits = [asyncio.create_task(self._database.changed.wait()), asyncio.create_task(self._woken.wait())]
        try:
            await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # One round, in steps: tests kill the process between any two.

    async def _round(self) -> int:
        """How many rows were published."""
        self._identity = self._identity or await identity(self._database)
        names = await self._waiting()
        if not names:
            return 0
        async with self._database.claim(names) as claimed:
            rows = await self._read(claimed) if claimed else []
            done, failure = await self._publish(rows)
            await self._settle(done)
        self.published += len(done)
        if failure is not None:
            raise failure
        return len(done)

    async def _waiting(self) -> list[str]:
        """Channels with rows to publish, the longest waiting first; those set aside wait longer."""
        now = asyncio.get_running_loop().time()
        aside = [name for name, until in self._aside.items() if until > now]
        async with self._database.reading() as connection:
            names = dict.fromkeys((await connection.execute(_waiting, {"names": aside or [""]})).scalars())
        return list(names)[:CHANNELS_AT_ONCE]

    async def _read(self, names: set[str]) -> Sequence[Row]:
        async with self._database.reading() as connection:
            return (await connection.execute(_rows, {"names": sorted(names)})).all()

    async def _publish(self, rows: Sequence[Row]) -> tuple[list[Row], Unavailable | None]:
        """Those that are in their channels now; why others are not, if Valkey is away."""
        by_channel: dict[str, list[Row]] = {}
        for row in rows:
            by_channel.setdefault(row.channel, []).append(row)
        outcomes = await asyncio.gather(*[self._publish_channel(name, some) for name, some in by_channel.items()])
        return [row for done, _ in outcomes for row in done], next((failure for _, failure in outcomes if failure), None)

    async def _publish_channel(self, name: str, rows: list[Row]) -> tuple[list[Row], Unavailable | None]:
        done: list[Row] = []
        for some in _in_chunks(rows):
            try:
                await self._history.relay(
                    name, self._identity, [(row.id, row.data) for row in some], notify=name.startswith(f"{NAMESPACE}:")
                )
            except Unavailable as error:
                return done, error
            except StoreError as error:
                self._set_aside(name, f"rows {some[0].id} to {some[-1].id}: {error}")
                return done, None
            done += some
        self._aside.pop(name, None)
        self._refusals.pop(name, None)
        return done, None

    def _set_aside(self, name: str, reason: str) -> None:
        """Valkey refuses something of this channel; the others need not wait for it."""
        times = self._refusals[name] = self._refusals.get(name, 0) + 1
        self._aside[name] = asyncio.get_running_loop().time() + backoff(times, 0.1, ASIDE_SECONDS)
        if times == 1:
            log.error("the outbox of %s waits, Valkey refuses %s", name, reason)

    async def _settle(self, done: Sequence[Row]) -> None:
        """Takes out what is published; what is kept is marked."""
        if not done:
            return
        gone, kept = [row.id for row in done if not row.keep], [row.id for row in done if row.keep]
        async with self._database.transaction() as transaction:
            if gone:
                await transaction.execute(_forget, {"ids": gone})
            if kept:
                await transaction.execute(_mark, {"ids": kept})

    # Wakes.

    @contextlib.asynccontextmanager
    async def _wakes(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._glance() if self._database.sqlite else self._listen())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._database.relayed_here = False

    async def _glance(self) -> None:
        """SQLite tells nobody of a commit, but it counts those of other connections."""
        async with self._database.engine.connect() as connection:
            seen = None
            while True:
                version = (await connection.execute(text("PRAGMA data_version"))).scalar()
                await connection.rollback()
                if version != seen:
                    self._woken.set()
                seen = version
                await asyncio.sleep(GLANCE_SECONDS)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with self._database.listening(self._woken.set) as lost:
                    self._woken.set()  # what was said before anybody listened
                    failures = 0
                    await lost.wait()
            except BROKEN as error:
                failures += 1
                if failures == 2:
                    log.warning("the outbox cannot be listened to: %s; it is looked at each second", str(error).partition("\n")[0])
            await asyncio.sleep(backoff(failures + 1, 0.05, 1.0))


def _in_chunks(rows: list[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    taken = 0
    for row in rows:
        if chunk and taken + len(row.data) > CHUNK_BYTES:
            yield chunk
            chunk, taken = [], 0
        chunk.append(row)
        taken += len(row.data)
    if chunk:
        yield chunk


async def backlog(database: Database) -> int:
    """How many rows wait."""
    async with database.reading() as connection:
        return (await connection.execute(select(func.count()).select_from(outbox).where(~outbox.c.published))).scalar_one()
