"""The relay: sends what the outbox holds, each row exactly once to its channel or queue, in order, whatever is killed when.

Theory of operation. A row is committed together with the change that it reports; it is deleted only after Valkey has
acknowledged it. In between anything may die: the row is then published a second time, with the same *version*, its id.
Valkey stores a channel's newest version beside the channel's counter and drops a publication that is not newer. So the
order within a channel must be the order of the ids, always:

- writers lock a channel before they draw ids for it, to the end of their transaction (``Transaction.write_outbox``):
  no relay sees id 8 of a channel while id 7 of it can still appear;
- a relay reads all rows of a channel that wait, and never sends one without those before it: the rows of a channel
  are one call of ``gateway_relay``, which publishes them as one atomic act or not at all;
- it takes whole channels by another lock, so that several relays share the work instead of doing it twice. Should a relay
  lose that lock while it publishes, the versions still hold the order.

Jobs are rows too: their channel is the queue's name in braces (``outbox_jobs.py``), and a queue stores versions as a channel does.
Each job is a call of its own and is sent when the one before it was acknowledged. At the first that Valkey refuses, as where the
queue is full, the relay stops: a later job's version would make the refused one look old for ever.

What a relay may not publish now, because another relay has claimed the channel, Valkey refuses a row of it, or its shard is away, it passes
over for a while, so that it hides none of the rows after it. Where the database came back older, ids are given a second time: ``outbox_ids.py``.

Any number of relays may run. They are woken at commit: by an event in this process, by LISTEN on PostgreSQL; on SQLite
by its data version, which changes with every commit of another process. In case a wake is lost, they look each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, String, bindparam, delete, func, select, text, true, update

from gateway.errors import ConfigurationError, StoreError, Unavailable, is_general
from gateway.rules.notifications import NAMESPACE, without_user
from gateway.runtime import tracing
from gateway.runtime.backoff import backoff, retrying
from gateway.store.history import History
from gateway.work.queues import Queues

from .database import BROKEN, Database, reason_of
from .outbox_ids import current_identity, record_newest
from .outbox_jobs import queue_of, trace_of, words_of
from .prepared import Prepared
from .tables import outbox

__all__ = ["BROKEN", "FAILURES", "Relay", "backlog"]

log = logging.getLogger("gateway.relay")

ROUND = 500  # rows of one round, at most
ROUND_BYTES = 16 * 1024 * 1024  # of their data, which is all in memory; one row may pass it
CHANNELS_AT_ONCE = 200  # each is a lock, of which PostgreSQL has 64 for each of its connections
CHUNK_BYTES = 256 * 1024  # of one call, in which Valkey serves no other client
ASIDE_SECONDS = 30.0  # the longest a channel is set aside
AWAY_SECONDS = 2.0  # the same for one whose shard is away
LOOK_SECONDS = 1.0  # between two looks at the outbox, where no wake comes
LISTEN_SECONDS = 300.0  # by one connection
GLANCE_SECONDS = 0.02  # between two looks at SQLite's data version, which is how another process's commit is noticed
PAUSE_MOST = 1.0  # seconds between two attempts
FAILURES = (StoreError, ConfigurationError, *BROKEN)  # the second where the tables are not there, as in the middle of a restore
IDENTITY_SECONDS = 2.0  # between two looks at whether the database came back older, where no error shows it


def _rows_of(condition: ColumnElement[bool], length: Callable[..., Any]) -> Select[Any]:
    """The oldest rows of some channels, up to ROUND, and up to so many bytes; the first one whatever it has."""
    waiting = select(outbox.c.id, length(outbox.c.data).label("size")).where(~outbox.c.published, condition)
    oldest = waiting.order_by(outbox.c.id).limit(ROUND).subquery().c  # SQLite would add up the sizes of all rows that wait otherwise
    sums = select(oldest.id, (func.sum(oldest.size).over(order_by=oldest.id) - oldest.size).label("before")).subquery().c
    fitting = select(sums.id).where(sums.before < bindparam("bytes"))
    return select(outbox.c.id, outbox.c.channel, outbox.c.data, outbox.c.keep).where(outbox.c.id.in_(fitting)).order_by(outbox.c.id)


_of_ids = (outbox.c.id.in_(bindparam("ids", expanding=True)), outbox.c.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))
_in_names = (
    outbox.c.channel.in_(bindparam("names", expanding=True)),
    outbox.c.channel == func.any(bindparam("names", type_=ARRAY(String))),
)
_names = select(outbox.c.channel).where(~outbox.c.published).order_by(outbox.c.id).limit(ROUND)
# Each is one statement for SQLite and one for PostgreSQL.
_names_waiting = Prepared(*[_names.where(~condition) for condition in _in_names])
_rows_waiting = Prepared(*[_rows_of(*each) for each in zip(_in_names, (func.length, func.octet_length), strict=True)])
_forget = Prepared(*[delete(outbox).where(condition) for condition in _of_ids])
_mark = Prepared(*[update(outbox).where(condition).values(published=true()) for condition in _of_ids])


class Waiting(NamedTuple):
    """A row of the outbox that is not published yet."""

    id: int
    channel: str
    data: str
    keep: bool


class Relay:
    """``await run()`` until cancelled, or ``await drain()`` once. Jobs are enqueued over the connection of ``history``.

    ``published`` counts the rows that this relay has sent, ``failures`` the attempts of ``run`` that failed in a row. Raises ConfigurationError
    for a PostgreSQL with a pool of one connection: a relay reads and deletes by a second one while it holds its claim.
    """

    def __init__(self, database: Database, history: History) -> None:
        if not database.sqlite and database.pool < 2:
            raise ConfigurationError("a relay needs a Database with pool=2 or more: it holds a connection while it uses another one")
        self._database = database
        self._history = history
        self._queues = Queues(history.commands, history.layout)
        self._identity = ""  # not known, or it may be another one by now
        self._identity_until = 0.0  # then it is looked at again
        self._newest = 0  # the greatest id that was published of this identity, as far as this relay knows
        self._opened = 0  # connections to the database, when it was looked at
        self._woken = asyncio.Event()
        self._aside: dict[str, float] = {}  # channels that Valkey refused something of → when they are tried again
        self._refusals: dict[str, int] = {}
        self._held: dict[str, float] = {}  # channels that another relay holds → when they are tried again
        self.published = 0
        self.failures = 0

    async def run(self) -> None:
        """Publishes every row that is written. Where Valkey or the database fails, it logs that once and tries again without end."""
        self._database.relayed_here = True
        async with self._wakes():
            while True:
                await retrying(self._counted_drain, "the outbox waits", log, on=FAILURES, ceiling=PAUSE_MOST, reason=reason_of)
                await self._rest()

    async def _counted_drain(self) -> None:
        try:
            await self.drain()
        except FAILURES:
            self.failures += 1
            self._identity, self._identity_until = "", 0.0  # the database may be another one when it is back
            raise
        self.failures = 0

    async def drain(self) -> int:
        """Publishes until no row waits but those that another relay holds. Returns how many rows it published.

        Raises StoreError if Valkey cannot be reached or takes no writes, or the database's error; rows published until then stay published.
        """
        total = 0
        self._held.clear()
        while True:
            self._database.changed.clear()
            self._woken.clear()
            count = await self._round()
            if count is None:
                return total
            total += count

    async def _rest(self) -> None:
        """Waits for a wake, or LOOK_SECONDS: another relay may have died and left the rows that it held."""
        waits = [asyncio.create_task(self._database.changed.wait()), asyncio.create_task(self._woken.wait())]
        try:
            await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    # One round, in steps: tests kill the process between any two.

    async def _round(self) -> int | None:
        """Returns how many rows it published; None if no channel waits that it may take now."""
        if not self._identity:
            await self._look_at_identity()
        names = await self._waiting()
        if not names:
            return None
        async with self._database.claim(names) as claimed:
            if not claimed and self._database.sqlite:
                return None  # another relay has all of them
            rows = await self._read(claimed) if claimed else []
            await self._look_at_identity(rows)
            done, failure = await self._publish(rows)
            if done:
                self._newest = max(self._newest, *[row.id for row in done])
                await record_newest(self._history, self._identity, self._newest)
            await self._settle(done)
        self._pass_over(names, claimed)
        self.published += len(done)
        if failure is not None:
            raise failure
        return len(done)

    async def _look_at_identity(self, rows: Sequence[Waiting] = ()) -> None:
        """At times, and before it sends ``rows`` that may be of a database that came back older: where a connection is new, and where an id is not
        newer than one that was published. Raises Unavailable where nobody knows: Valkey may be back before the rows are sent, and take them for
        old ones."""
        now, opened = asyncio.get_running_loop().time(), self._database.opened
        if now < self._identity_until and opened == self._opened and not (rows and rows[0].id <= self._newest):
            return
        try:
            self._identity, self._newest = await current_identity(self._database, self._history)
        except Unavailable:
            if not self._identity or not self._history.commands.sharded:  # on a cluster the one shard that knows may be away for long
                raise
        else:
            self._opened, self._identity_until = opened, now + IDENTITY_SECONDS

    async def _waiting(self) -> list[str]:
        """Channels with rows to publish, the longest waiting first, without those that are set aside or another relay's."""
        now = asyncio.get_running_loop().time()
        aside = [name for some in (self._aside, self._held) for name, until in some.items() if until > now]
        names = dict.fromkeys(name for (name,) in await self._database.fetch(_names_waiting, {"names": aside or [""]}))
        return list(names)[:CHANNELS_AT_ONCE]

    async def _read(self, names: set[str]) -> Sequence[Waiting]:
        wanted = {"names": sorted(names), "bytes": ROUND_BYTES}
        return [Waiting(*row) for row in await self._database.fetch(_rows_waiting, wanted)]

    async def _publish(self, rows: Sequence[Waiting]) -> tuple[list[Waiting], StoreError | None]:
        """Returns the rows that are in their channels now, and the error if others are not because Valkey is away, or takes no writes."""
        by_channel: dict[str, list[Waiting]] = {}
        for row in rows:
            by_channel.setdefault(row.channel, []).append(row)
        outcomes = await asyncio.gather(*[self._publish_channel(name, some) for name, some in by_channel.items()])
        return [row for done, _ in outcomes for row in done], next((failure for _, failure in outcomes if failure), None)

    async def _publish_channel(self, name: str, rows: list[Waiting]) -> tuple[list[Waiting], StoreError | None]:
        done: list[Waiting] = []
        for some in _in_chunks(rows, CHUNK_BYTES if queue_of(name) is None else 0):
            try:
                self._look_for_shard(name)
                await self._send(name, some)
            except (StoreError, ValueError) as error:  # the latter for what is no job
                if isinstance(error, StoreError) and error.is_general and not self._history.commands.sharded:
                    return done, error
                self._set_aside(name, f"rows {some[0].id} to {some[-1].id}", error)
                return done, None
            done += some
        self._aside.pop(name, None)
        self._refusals.pop(name, None)
        return done, None

    def _look_for_shard(self, name: str) -> None:
        """Raises Unavailable where the shard of a cluster that takes these rows is away: to wait for it would hold up the rows of all others."""
        commands, layout, queue = self._history.commands, self._history.layout, queue_of(name)
        if commands.sharded:
            shard = commands.shard(layout.channel(name) if queue is None else layout.queue(queue)[0])
            if shard is None or not shard.connected:
                commands.look_again()
                raise Unavailable("its shard cannot be reached")

    async def _send(self, name: str, rows: Sequence[Waiting]) -> None:
        """Rows of one channel as one act, or the one job. Raises ValueError for a row that is no job."""
        queue = queue_of(name)
        if queue is None:
            notify = name.startswith(f"{NAMESPACE}:")
            with _span(without_user(name), len(rows)):
                await self._history.relay(name, self._identity, [(row.id, row.data) for row in rows], notify=notify)
            return
        for row in rows:
            words = words_of(row.data)
            with _span(queue, 1, trace_of(words)):
                await self._queues.enqueue(queue, words, version=row.id, version_epoch=self._identity)

    def _pass_over(self, names: Collection[str], claimed: Collection[str]) -> None:
        """Of channels that another relay holds, this one looks at the others next: their rows would hide those of all that wait after them."""
        now = asyncio.get_running_loop().time()
        self._held = {name: until for name, until in self._held.items() if until > now}
        self._held |= {name: now + LOOK_SECONDS for name in names if name not in claimed}

    def _set_aside(self, name: str, rows: str, error: Exception) -> None:
        """Valkey refuses a row of this channel or queue, or its shard is away: it waits, so that the others need not."""
        times = self._refusals[name] = self._refusals.get(name, 0) + 1
        away = is_general(error)  # which the connection to the shard logs, once for all channels
        self._aside[name] = asyncio.get_running_loop().time() + backoff(times, 0.1, AWAY_SECONDS if away else ASIDE_SECONDS)
        if times == 1 and not away:
            log.error("the outbox of %s waits, Valkey refuses %s: %s", name, rows, error)

    async def _settle(self, done: Sequence[Waiting]) -> None:
        """Deletes the rows that are published; those with ``keep`` are marked and stay."""
        if not done:
            return
        gone, kept = [row.id for row in done if not row.keep], [row.id for row in done if row.keep]
        async with self._database.transaction() as transaction:
            if gone:
                await transaction.fetch(_forget, {"ids": gone})
            if kept:
                await transaction.fetch(_mark, {"ids": kept})

    # Wakes.

    @contextlib.asynccontextmanager
    async def _wakes(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._notice_commits())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._database.relayed_here = False

    async def _notice_commits(self) -> None:
        what = "the relay is not notified of new rows and looks each second"
        notice = self._glance if self._database.sqlite else self._listen
        while True:
            await retrying(notice, what, log, on=BROKEN, ceiling=PAUSE_MOST, reason=reason_of)
            await asyncio.sleep(backoff(1, 0.05, PAUSE_MOST))

    async def _glance(self) -> None:
        """Wakes at commits of other connections to SQLite: it announces none, but its data version changes with each."""
        async with self._database.apart() as connection:
            seen = None
            while True:
                version = (await connection.execute(text("PRAGMA data_version"))).scalar()
                await connection.rollback()
                if version != seen:
                    self._woken.set()
                seen = version
                await asyncio.sleep(GLANCE_SECONDS)

    async def _listen(self) -> None:
        """Wakes at PostgreSQL's NOTIFY; returns when the connection is lost, or might be: nothing shows that over one on which nothing comes."""
        async with self._database.listening(self._woken.set) as lost:
            self._woken.set()  # for rows that were committed before it listened
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_SECONDS):
                    await lost.wait()


def _span(destination: str, rows: int, link: str = "") -> AbstractContextManager[None]:
    """The span of one call for rows of the outbox, a trace of its own; ``link`` is the traceparent of the transaction that wrote them."""
    attributes: dict[str, str | int] = {"messaging.destination.name": destination, "messaging.batch.message_count": rows}
    return tracing.span("relay", "producer", parent="", links=[link] if link else [], attributes=attributes)


def _in_chunks(rows: list[Waiting], size: int) -> Iterator[list[Waiting]]:
    """In order, each of up to ``size`` bytes or one row."""
    chunk: list[Waiting] = []
    taken = 0
    for row in rows:
        if chunk and taken + len(row.data) > size:
            yield chunk
            chunk, taken = [], 0
        chunk.append(row)
        taken += len(row.data)
    if chunk:
        yield chunk


async def backlog(database: Database) -> int:
    """How many rows wait to be published."""
    async with database.reading() as connection:
        return (await connection.execute(select(func.count()).select_from(outbox).where(~outbox.c.published))).scalar_one()
