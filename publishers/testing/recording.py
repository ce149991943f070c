"""Records what a program would publish, instead of publishing it.

A direct publication is recorded and is not sent. A row of an outbox is written as always, and is recorded too; it counts unless its
transaction or its savepoint is undone. Those of a ``Connection`` of SQLAlchemy count even then: it announces no savepoint.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from gateway.publication import Position
from gateway.rules.notifications import channel_of

from .. import session_outbox
from ..outbox_jobs import queue_of, words_of
from ..outbox_rows import OutboxRow
from ..publisher import Publisher, SyncPublisher
from ..sync_database import SyncTransaction
from ..transaction import Transaction

__all__ = ["Job", "Publication", "Published", "recording"]


class Publication(NamedTuple):
    """``data`` is what the JSON document holds."""

    channel: str
    data: Any


class Job(NamedTuple):
    """A job for the handler of ``name``."""

    queue: str
    name: str
    data: Any


class Published:
    """What would be published, in the order in which the program published it.

    In a transaction that is still open, as that of Django's ``TestCase``, what its commit would publish counts.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Publication | Job, Callable[[], bool]]] = []
        self._offsets: Counter[str] = Counter()

    @property
    def all(self) -> list[Publication | Job]:
        """Publications, notifications and jobs."""
        return [entry for entry, is_valid in self._entries if is_valid()]

    def of(self, channel: str) -> list[Any]:
        """The documents of one channel."""
        return [each.data for each in self.all if isinstance(each, Publication) and each.channel == channel]

    def notifications(self, user: str) -> list[Any]:
        """What was published into the user's inbox; an update of a notification is another entry."""
        return self.of(channel_of(user))

    def jobs(self, queue: str = "default") -> list[Job]:
        """The jobs of one queue."""
        return [each for each in self.all if isinstance(each, Job) and each.queue == queue]

    def clear(self) -> None:
        """Forgets all that it recorded."""
        self._entries.clear()

    def add(self, channel: str, data: Any) -> Position:
        """Records a direct publication; returns a position, whose offset counts those of the channel."""
        self._entries.append((Publication(channel, data), _always))
        self._offsets[channel] += 1
        return Position("recorded", self._offsets[channel])

    def add_row(self, row: OutboxRow, is_valid: Callable[[], bool] | None = None) -> None:
        """Records a row of an outbox, which counts as long as ``is_valid`` returns True."""
        self._entries.append((_entry(row), is_valid or _always))


def _always() -> bool:
    return True


def _entry(row: OutboxRow) -> Publication | Job:
    queue = queue_of(row["channel"])
    if queue is None:
        return Publication(row["channel"], json.loads(row["data"]))
    name, data, *_ = words_of(row["data"])
    assert isinstance(data, bytes)
    return Job(queue, str(name), json.loads(data))


@contextmanager
def recording() -> Iterator[Published]:
    """In its block publishers and outboxes are recorded."""
    published = Published()
    with pytest.MonkeyPatch.context() as patch, _sessions(published, patch):
        _record_publishers(published, patch)
        _record_transactions(published, patch)
        if "django" in sys.modules:
            _record_django(published, patch)
        yield published


def _record_publishers(published: Published, patch: pytest.MonkeyPatch) -> None:
    def record(_: Any, call: Any) -> Position:
        return published.add(call.channel, json.loads(call.words[0]))

    async def record_later(_: Any, call: Any) -> Position:
        return record(_, call)

    async def connect(_: Any) -> None:
        """There is nothing to connect to."""

    patch.setattr(SyncPublisher, "_publish", record)
    patch.setattr(Publisher, "_publish", record_later)
    patch.setattr(Publisher, "connect", connect)


def _record_transactions(published: Published, patch: pytest.MonkeyPatch) -> None:
    """Those that gather their rows write them as the last step before the commit."""
    write, write_later = SyncTransaction.write_outbox, Transaction.write_outbox

    def written(transaction: SyncTransaction | Transaction) -> None:
        for row in transaction.rows:
            published.add_row(row)

    def record(transaction: SyncTransaction) -> None:
        write(transaction)
        written(transaction)

    async def record_later(transaction: Transaction) -> None:
        await write_later(transaction)
        written(transaction)

    patch.setattr(SyncTransaction, "write_outbox", record)
    patch.setattr(Transaction, "write_outbox", record_later)


@contextmanager
def _sessions(published: Published, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Follows the transactions and savepoints of sessions: one that ends without a commit was undone."""
    committed: set[SessionTransaction] = set()
    undone: set[SessionTransaction] = set()
    write = session_outbox._write

    def record(session: Session | Connection, row: OutboxRow) -> None:
        write(session, row)
        around = set(_transactions_of(session)) if isinstance(session, Session) else set()
        published.add_row(row, lambda: not around & undone)

    def note_commit(session: Session) -> None:
        committed.update(_transactions_of(session)[:1])

    def note_end(session: Session, transaction: SessionTransaction) -> None:
        if transaction not in committed:
            undone.add(transaction)

    patch.setattr(session_outbox, "_write", record)
    listeners = (("after_commit", note_commit), ("after_transaction_end", note_end))
    for name, listener in listeners:
        event.listen(Session, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(Session, name, listener)


def _transactions_of(session: Session) -> list[SessionTransaction]:
    """The savepoints in which a session is, the innermost first, and its transaction."""
    found: list[SessionTransaction] = []
    each = session.get_nested_transaction() or session.get_transaction()
    while each is not None:
        if each.nested or each.parent is None:
            found.append(each)
        each = each.parent
    return found


def _record_django(published: Published, patch: pytest.MonkeyPatch) -> None:
    """Django forgets a callback for the commit where it undoes the savepoint or the transaction: so each row has one."""
    from django.db import connections, transaction

    from ..django import outbox

    write = outbox._write

    def record(row: OutboxRow, using: str) -> str:
        alias = write(row, using)
        committed: list[bool] = []

        def note_commit() -> None:
            committed.append(True)

        transaction.on_commit(note_commit, using=alias)
        published.add_row(row, lambda: bool(committed) or any(entry[1] is note_commit for entry in connections[alias].run_on_commit))
        return alias

    patch.setattr(outbox, "_write", record)
