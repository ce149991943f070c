"""Reactions to posts and reviews: each user has one per target, and the counts are right however many react at once.

A target is ``post:7`` or ``review:12``. Each change is published in the post's channel or in the review's story:

    {"type": "reaction", "target": "review:12", "user": "u2", "reaction": "like" | None, "counts": {"like": 3}}

The target's author gets one notification of many reactions (``folding.py``).

    counts = await react(database, user="u2", target="review:12", reaction="like")      # None takes it back
    reactions = Reactions(database); await reactions.react(…)                           # the same for many at once

The target's row is locked first, so reactions to one target come one after the other, in the order of their
publications. Reactions that ``Reactions`` receives while a transaction is under way share the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Table, bindparam, case, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from .database import Database, Transaction, now_ms, within
from .faults import Fault, Invalid, NotFound, checked_choice, checked_user
from .folding import Reacted, fold
from .prepared import Prepared
from .reviews import story_of
from .tables import posts, reactions, reviews

__all__ = ["REACTIONS", "Reactions", "my_reactions", "react"]

REACTIONS = ("like", "love", "laugh", "wow", "sad")
SHARED_MOST = 200  # reactions of one transaction
TARGETS_MOST = 1000  # of one call of my_reactions
WAITING_MOST = 10_000  # reactions that a `Reactions` holds; it refuses more

Counts = dict[str, int]

_TARGETS: dict[str, Table] = {"post": posts, "review": reviews}


class Reaction(NamedTuple):
    """What a user asked for; ``reaction`` None takes theirs back."""

    user: str
    target: str
    reaction: str | None

    @property
    def kind(self) -> str:
        """``post`` or ``review``."""
        return self.target.partition(":")[0]

    @property
    def id(self) -> int:
        """The id of the post or review."""
        return int(self.target.partition(":")[2])


Waiting = tuple[Reaction, asyncio.Future[Counts]]


async def react(database: Database | Transaction, *, user: str, target: str, reaction: str | None) -> Counts:
    """Adds or changes the user's reaction, or with None takes it back. Returns the target's counts afterwards.

    Raises Invalid, NotFound.
    """
    wanted = _checked(user, target, reaction)
    outcome = (await within(database, partial(_apply, [wanted])))[0]
    if isinstance(outcome, Fault):
        raise outcome
    return outcome


class Reactions:
    """Reactions that come at the same time share a transaction of up to ``shared_most``; each call returns when it is committed.

    At most WAITING_MOST wait; ``waiting`` is how many do now, ``peak`` the most that ever did.
    """

    def __init__(self, database: Database, *, shared_most: int = SHARED_MOST) -> None:
        self._database = database
        self._shared_most = shared_most
        self._waiting: list[Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self.peak = 0

    @property
    def waiting(self) -> int:
        """How many reactions wait for a transaction."""
        return len(self._waiting)

    async def react(self, *, user: str, target: str, reaction: str | None) -> Counts:
        """As the function ``react``. Raises Invalid also where WAITING_MOST wait already."""
        wanted = _checked(user, target, reaction)
        if len(self._waiting) >= WAITING_MOST:
            raise Invalid(f"{WAITING_MOST} reactions wait for the database already; try again later")
        future: asyncio.Future[Counts] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        self.peak = max(self.peak, len(self._waiting))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch = self._take()
            wanted = [each for each, _ in batch]
            try:
                outcomes: Sequence[Counts | Exception] = await self._database.run(partial(_apply, wanted))
            except Exception as error:  # of the database: each caller gets it
                outcomes = [error] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _take(self) -> list[Waiting]:
        """The next ones, at most one of a user and target: a second changes the first, and is left for the next transaction."""
        batch: list[Waiting] = []
        left: list[Waiting] = []
        seen: set[tuple[str, str]] = set()
        for waiting in self._waiting:
            wanted = waiting[0]
            if len(batch) < self._shared_most and (wanted.user, wanted.target) not in seen:
                batch.append(waiting)
            else:
                left.append(waiting)
            seen.add((wanted.user, wanted.target))
        self._waiting = left
        return batch


async def my_reactions(database: Database, *, user: str, targets: Sequence[str]) -> dict[str, str]:
    """Target → the user's reaction, for those of ``targets`` that the user has reacted to. Raises Invalid."""
    if not isinstance(targets, list | tuple) or len(targets) > TARGETS_MOST:
        raise Invalid(f"the targets are a list of at most {TARGETS_MOST}")
    for target in targets:
        _checked(user, target, None)
    mine = (reactions.c.user == checked_user(user), reactions.c.target.in_(targets or [""]))
    wanted = select(reactions.c.target, reactions.c.reaction).where(*mine)
    async with database.reading() as connection:
        return {row.target: row.reaction for row in await connection.execute(wanted) if row.reaction is not None}


def _checked(user: str, target: str, reaction: str | None) -> Reaction:
    checked_user(user)
    if not isinstance(target, str):
        raise Invalid(f"the target is a text, not {type(target).__name__}")
    kind, _, digits = target.partition(":")
    if kind not in _TARGETS or not (digits.isascii() and digits.isdigit() and str(int(digits[:30])) == digits):
        raise Invalid(f"a target is post:ID or review:ID, not {target[:60]!r}")
    if len(digits) > 18 or digits == "0":
        raise NotFound(f"there is no {kind} {digits[:30]}")
    if reaction is not None:
        checked_choice(reaction, REACTIONS, "reaction")
    return Reaction(user, target, reaction)


def _upsert(row: Any) -> Any:
    same = reactions.c.reaction.is_not_distinct_from(row.excluded.reaction)  # a repeat changes nothing, so its time stays
    at = case((same, reactions.c.at), else_=row.excluded.at)
    changed = {"previous": reactions.c.reaction, "reaction": row.excluded.reaction, "at": at}
    return row.on_conflict_do_update(index_elements=["target", "user"], set_=changed)


def _lock_and_write(table: Table, place: Any) -> Prepared:
    """PostgreSQL: locks the target's row, and only then writes the reaction, which is selected from that row."""
    its = select(table.c.id, table.c.author, table.c.counts, place.label("place"))
    locked = its.where(table.c.id == bindparam("id")).with_for_update().cte("locked")
    row = select(*[bindparam(column.name, type_=column.type) for column in reactions.c]).select_from(locked)
    upsert = _upsert(postgresql.insert(reactions).from_select(list(reactions.c), row))
    written = upsert.returning(reactions.c.user, reactions.c.previous).cte("written")
    return Prepared(select(locked, written).select_from(locked.join(written, true())))


def _select(table: Table, place: Any) -> Any:
    """SQLite, where a transaction has locked the whole database."""
    return select(table.c.id, table.c.author, table.c.counts, place).where(table.c.id.in_(bindparam("ids", expanding=True)))


_PLACES = {"post": posts.c.channel, "review": reviews.c.subject}
_locks_and_writes = {kind: _lock_and_write(table, _PLACES[kind]) for kind, table in _TARGETS.items()}
_selects = {kind: _select(table, _PLACES[kind]) for kind, table in _TARGETS.items()}
_write = _upsert(sqlite.insert(reactions)).returning(reactions.c.target, reactions.c.user, reactions.c.previous)
_write_counts = {
    kind: Prepared(update(table).where(table.c.id == bindparam("its_id")).values(counts=bindparam("its_counts")))
    for kind, table in _TARGETS.items()
}


class _Target:
    """The locked row of a post or review: what is reacted to."""

    def __init__(self, kind: str, id: int, author: str, counts: str, place: str) -> None:
        self.kind, self.id, self.author, self.place = kind, id, author, place
        self.name = f"{kind}:{id}"
        self.counts: Counts = msgspec.json.decode(counts)
        self.changed = False

    @property
    def channel(self) -> str:
        """Where its reactions are published."""
        return story_of(self.id) if self.kind == "review" else f"posts:{self.place}"

    def change(self, previous: str | None, reaction: str | None) -> None:
        """Counts one user's reaction instead of their previous one."""
        self.changed = True
        counts = dict(self.counts)
        if previous is not None:
            counts[previous] = counts.get(previous, 0) - 1
        if reaction is not None:
            counts[reaction] = counts.get(reaction, 0) + 1
        self.counts = {kind: counts[kind] for kind in REACTIONS if counts.get(kind, 0) > 0}


# The targets that exist, by name, and the reactions that were replaced, by target and user.
Written = tuple[dict[str, _Target], dict[tuple[str, str], str | None]]


async def _apply(wanted: list[Reaction], transaction: Transaction) -> list[Counts | Fault]:
    """All of them in one transaction, each user and target at most once. Returns the outcome of each, in order."""
    now = now_ms()
    targets, previous = await (_write_on_sqlite if transaction.sqlite else _write_on_postgresql)(transaction, wanted, now)
    outcomes: list[Counts | Fault] = []
    reacted: list[Reacted] = []
    for each in wanted:
        target = targets.get(each.target)
        if target is None:
            outcomes.append(NotFound(f"there is no {each.target.replace(':', ' ')}"))
            continue
        before = previous[each.target, each.user]
        if before != each.reaction:
            target.change(before, each.reaction)
            document = {"type": "reaction", "target": target.name, "user": each.user, "reaction": each.reaction, "counts": target.counts}
            transaction.publish(target.channel, document, keep=target.kind == "review")
            if each.user != target.author:
                reacted.append(Reacted(target.name, target.author, each.user, each.reaction is not None))
        outcomes.append(target.counts)
    await _store_counts(transaction, [target for target in targets.values() if target.changed])
    await fold(transaction, reacted, now)
    return outcomes


async def _write_on_postgresql(transaction: Transaction, wanted: list[Reaction], now: int) -> Written:
    """Locks the targets, in the same order in every transaction, and writes the reactions to them."""
    targets: dict[str, _Target] = {}
    previous: dict[tuple[str, str], str | None] = {}
    for kind in sorted(_TARGETS):
        rows = sorted([{"id": each.id, **_row(each, now)} for each in wanted if each.kind == kind], key=itemgetter("id"))
        if rows:
            for id, author, counts, place, user, before in await transaction.fetch_each(_locks_and_writes[kind], rows):
                target = _Target(kind, id, author, counts, place)
                previous[target.name, user] = before
                targets.setdefault(target.name, target)
    return targets, previous


async def _write_on_sqlite(transaction: Transaction, wanted: list[Reaction], now: int) -> Written:
    targets: dict[str, _Target] = {}
    for kind, statement in _selects.items():
        if ids := {each.id for each in wanted if each.kind == kind}:
            some = [_Target(kind, *row) for row in await transaction.execute(statement, {"ids": sorted(ids)})]
            targets |= {target.name: target for target in some}
    rows = [_row(each, now) for each in wanted if each.target in targets]
    written = await transaction.execute(_write, rows) if rows else ()
    return targets, {(row.target, row.user): row.previous for row in written}


def _row(wanted: Reaction, now: int) -> dict[str, Any]:
    return {"target": wanted.target, "user": wanted.user, "reaction": wanted.reaction, "previous": None, "at": now}


async def _store_counts(transaction: Transaction, targets: list[_Target]) -> None:
    for kind, prepared in _write_counts.items():
        rows = [{"its_id": each.id, "its_counts": msgspec.json.encode(each.counts).decode()} for each in targets if each.kind == kind]
        if rows:
            await transaction.fetch_each(prepared, rows)
