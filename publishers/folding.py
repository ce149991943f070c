"""Folding: many reactions to one post or review are one notification, which is updated.

The first reaction opens a *fold* and is notified at once. For ``WINDOW_MS`` from then on, any other reaction to the same
target only makes the fold due again: it is published anew with the same id, after a second at first, then ever more rarely
(a quarter of its age), so a storm of ten thousand reactions is some thirty updates of one notification. After the window the
next reaction opens another fold.

Every transaction that reacts writes the fold's row, and so does the one that publishes it: the two wait for each other, and
neither can miss the other's change.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from sqlalchemy import bindparam, case, func, insert, select, update

from gateway.runtime.backoff import retrying

from .database import Database, Transaction, now_ms, reason_of
from .prepared import Prepared
from .relay import FAILURES
from .reviews import excerpt
from .tables import folds, posts, reactions, reviews

__all__ = ["WINDOW_MS", "Folding", "Reacted", "fold"]

log = logging.getLogger("gateway.relay")

WINDOW_MS = 10 * 60_000
PAUSE_MS = 1000  # between the first notification and its first update
SHARE = 4  # later updates wait for this part of the fold's age: a quarter
NAMED = 2  # users whom the notification names
LOOK_SECONDS = 0.5  # between two looks at the folds
AWAY_SECONDS = 10.0  # between two attempts while the database fails, at most
AT_ONCE = 100  # folds of one transaction
FOREVER_MS = 2**62


class Reacted(NamedTuple):
    """A user changed their reaction to ``target``, which belongs to ``recipient``; ``added`` False: the reaction was taken back."""

    target: str
    recipient: str
    user: str
    added: bool


_due = Prepared(
    update(folds)
    .where(folds.c.target == bindparam("of"), folds.c.started_at > bindparam("since"))
    .values(
        due_at=func.coalesce(folds.c.due_at, folds.c.published_at + PAUSE_MS + (folds.c.published_at - folds.c.started_at) // SHARE),
        # A reaction that waited for the target's row may be of an earlier moment than the one that opened the fold.
        started_at=case((folds.c.started_at > bindparam("now"), bindparam("now")), else_=folds.c.started_at),
    )
    .returning(folds.c.id)
)
_open = insert(folds).returning(folds.c.id)
_ripe = select(folds).where(folds.c.due_at <= bindparam("now")).order_by(folds.c.id).limit(AT_ONCE).with_for_update(skip_locked=True)
_published = update(folds).where(folds.c.id == bindparam("its_id")).values(published_at=bindparam("now"), due_at=None)
_since = (
    select(reactions.c.user)
    .where(
        reactions.c.target == bindparam("of"),
        reactions.c.at >= bindparam("since"),
        reactions.c.at < bindparam("until"),
        reactions.c.reaction.is_not(None),
        reactions.c.user != bindparam("author"),
    )
    .order_by(reactions.c.at.desc(), reactions.c.user)
)
_who, _how_many = _since.limit(NAMED), select(func.count()).select_from(_since.order_by(None).subquery())


async def fold(transaction: Transaction, reacted: list[Reacted], now: int) -> None:
    """Records reactions of the time ``now`` (unix milliseconds): a target's first is notified, others make its fold due."""
    by_target: dict[str, list[Reacted]] = {}
    for each in reacted:
        by_target.setdefault(each.target, []).append(each)
    for target in sorted(by_target):
        if await transaction.fetch(_due, {"of": target, "since": now - WINDOW_MS, "now": now}):
            continue
        added = [each for each in by_target[target] if each.added]
        if not added:
            continue
        first = added[0]
        row = {"target": target, "recipient": first.recipient, "started_at": now, "published_at": now, "due_at": None}
        id = (await transaction.execute(_open, row)).scalar_one()
        newest = [each.user for each in reversed(added)]
        text = await _text_of(transaction, target) or ""
        transaction.notify(first.recipient, _notification(id, target, text, newest[:NAMED], len(newest)))


class Folding:
    """Writes the updates of folds that are due into the outbox. ``await run()`` until cancelled, or ``await publish_due()`` once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Looks for due folds each LOOK_SECONDS. Where the database fails, it logs that once and tries again without end."""
        what = "folded notifications wait"
        while True:
            await retrying(self._publish_all, what, log, on=FAILURES, base=LOOK_SECONDS, ceiling=AWAY_SECONDS, reason=reason_of)
            await asyncio.sleep(LOOK_SECONDS)

    async def _publish_all(self) -> None:
        while await self.publish_due() == AT_ONCE:
            continue

    async def publish_due(self, now: int | None = None) -> int:
        """Publishes up to AT_ONCE folds that are due at ``now`` (unix milliseconds). Returns how many were due."""
        now = now_ms() if now is None else now
        async with self._database.reading() as connection:
            if (await connection.execute(select(folds.c.id).where(folds.c.due_at <= now).limit(1))).first() is None:
                return 0  # without a transaction, so that no row is locked
        return await self._database.run(lambda transaction: _publish_due(transaction, now))


async def _publish_due(transaction: Transaction, now: int) -> int:
    ripe = (await transaction.execute(_ripe, {"now": now})).all()
    for row in ripe:
        # A row that another process published while this one waited for its lock is not due any more, and not among these.
        text = await _text_of(transaction, row.target)
        later = select(func.min(folds.c.started_at)).where(folds.c.target == row.target, folds.c.id > row.id)
        until = (await transaction.execute(later)).scalar() or FOREVER_MS  # a later notification counts the reactions from there on
        asked = {"of": row.target, "since": row.started_at, "until": until, "author": row.recipient}
        users = list((await transaction.execute(_who, asked)).scalars())
        if users and text is not None:
            count = (await transaction.execute(_how_many, asked)).scalar_one()
            transaction.notify(row.recipient, _notification(row.id, row.target, text, users, count))
        await transaction.execute(_published, {"its_id": row.id, "now": now})
    return len(ripe)


async def _text_of(transaction: Transaction, target: str) -> str | None:
    """The target's own text; None if it was deleted meanwhile."""
    kind, _, id = target.partition(":")
    table = reviews if kind == "review" else posts
    text: str | None = (await transaction.execute(select(table.c.text).where(table.c.id == int(id)))).scalar()
    return text


def _notification(id: int, target: str, text: str, users: list[str], count: int) -> dict[str, Any]:
    kind = target.partition(":")[0]
    others = count - len(users)
    if others > 0:
        who = f"{', '.join(users)} and {others} other{'s' if others > 1 else ''}"
    else:
        who = " and ".join(users)
    return {
        "id": f"reactions:{id}",
        "type": "reaction",
        "text": f"{who} reacted to your {kind} “{excerpt(text)}”",
        "target": target,
        "actors": users,
        "count": count,
    }
