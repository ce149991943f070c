"""Records what a program would publish, instead of publishing it.

A direct publication is recorded and is not sent. A repeated idempotency key, and a version that is not newer, are no publication here
either. A row of an outbox is written as always, and is recorded too; it counts unless its transaction or its savepoint is undone.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine, ExceptionContext, event

from gateway.publication import Position
from gateway.rules.notifications import channel_of

from .. import session_outbox
from ..outbox_jobs import queue_of, words_of
from ..outbox_rows import OutboxRow
from ..publisher import Publisher, SyncPublisher
from ..sync_database import SyncTransaction
from ..transaction import Transaction
from .undoing import Undoing

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
        self._keys: dict[tuple[str, str], Position | None] = {}  # channel and idempotency key → of the first publication
        self._versions: dict[tuple[str, str], int] = {}  # channel and version epoch → the newest version

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

    def add(self, channel: str, words: Sequence[Any]) -> Position | None:
        """Records a direct publication, ``words`` of ``publish_words``; returns a position, whose offset counts those of the channel.

        As in Valkey, a repeat changes nothing and returns the first position, or the newest; what is only announced has none.
        """
        options = dict(zip(words[1::2], words[2::2], strict=True))
        key, version, epoch = (
            (channel, options.get("key", "")),
            int(options.get("version", -1)),
            (channel, options.get("version_epoch", "")),
        )
        if key in self._keys:
            return self._keys[key]
        if "version" in options and version <= self._versions.get(epoch, -1):
            return Position("recorded", self._offsets[channel])
        self._entries.append((Publication(channel, json.loads(words[0])), _always))
        position = None
        if options.get("ttl") != 0 and options.get("size") != 0:
            self._offsets[channel] += 1
            position = Position("recorded", self._offsets[channel])
        if "key" in options:
            self._keys[key] = position
        if "version" in options:
            self._versions[epoch] = version
        return position

    def add_row(self, row: OutboxRow, is_valid: Callable[[], bool]) -> None:
        """Records a row of an outbox, which counts as long as ``is_valid`` returns True."""
        self._entries.append((_entry(row), is_valid))


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
    with pytest.MonkeyPatch.context() as patch, _undoing() as undoing:
        _record_publishers(published, patch)
        _record_transactions(published, patch, undoing)
        _record_sessions(published, patch, undoing)
        if "django" in sys.modules:
            _record_django(published, patch)
        yield published


def _record_publishers(published: Published, patch: pytest.MonkeyPatch) -> None:
    def record(_: Any, call: Any) -> Position | None:
        return published.add(call.channel, call.words)

    async def record_later(_: Any, call: Any) -> Position | None:
        return record(_, call)

    async def connect(_: Any) -> None:
        """There is nothing to connect to."""

    patch.setattr(SyncPublisher, "_publish", record)
    patch.setattr(Publisher, "_publish", record_later)
    patch.setattr(Publisher, "connect", connect)


@contextmanager
def _undoing() -> Iterator[Undoing]:
    """Follows the transactions and savepoints of all connections of SQLAlchemy, those of sessions too.

    A savepoint is announced before it has its name; so it is the innermost one that is undone or released.
    """
    undoing = Undoing()

    def undid_savepoint(connection: Connection, *_: Any) -> None:
        undoing.undid(connection, "savepoint")
        undoing.ended(connection, "savepoint")

    def undid_commit(context: ExceptionContext) -> None:
        if context.statement is None and context.connection is not None:
            undoing.undid(context.connection)

    listeners: dict[str, Callable[..., None]] = {
        "handle_error": undid_commit,
        "begin": undoing.committed,  # what the connection did before; a commit is announced before it is made, and may fail
        "savepoint": lambda connection, _: undoing.began(connection, "savepoint"),
        "release_savepoint": lambda connection, *_: undoing.ended(connection, "savepoint"),
        "rollback_savepoint": undid_savepoint,
        "rollback": lambda connection: undoing.undid(connection),
        "rollback_twophase": lambda connection, *_: undoing.undid(connection),
    }
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    try:
        yield undoing
    finally:
        for name, listener in listeners.items():
            event.remove(Engine, name, listener)


def _record_transactions(published: Published, patch: pytest.MonkeyPatch, undoing: Undoing) -> None:
    """Those that gather their rows write them as the last step before the commit, which may fail."""
    write, write_later = SyncTransaction.write_outbox, Transaction.write_outbox

    def written(rows: Sequence[OutboxRow], connection: Connection | None) -> None:
        for row in rows:
            published.add_row(row, undoing.wrote(connection))

    def record(transaction: SyncTransaction) -> None:
        write(transaction)
        written(transaction.rows, transaction.connection)

    async def record_later(transaction: Transaction) -> None:
        await write_later(transaction)
        written(transaction.rows, transaction.connection.sync_connection)

    patch.setattr(SyncTransaction, "write_outbox", record)
    patch.setattr(Transaction, "write_outbox", record_later)


def _record_sessions(published: Published, patch: pytest.MonkeyPatch, undoing: Undoing) -> None:
    write = session_outbox._write

    def record(session: Any, row: OutboxRow) -> None:
        write(session, row)
        published.add_row(row, undoing.wrote(session if isinstance(session, Connection) else session.connection()))

    patch.setattr(session_outbox, "_write", record)


def _record_django(published: Published, patch: pytest.MonkeyPatch) -> None:
    """Its callbacks for the commit are of no use: they are not called where another one raises, and outlive a savepoint that is undone by hand."""
    from django.db import connections
    from django.db.backends.base.base import BaseDatabaseWrapper

    from ..django import outbox

    undoing, write = Undoing(), outbox._write

    def record(row: OutboxRow, using: str) -> str:
        alias = write(row, using)
        connection = connections[alias]
        published.add_row(row, _always if connection.get_autocommit() else undoing.wrote(connection))
        return alias

    def follow(name: str, note: Callable[..., None]) -> None:
        method = getattr(BaseDatabaseWrapper, name)

        def followed(connection: Any, *given: Any, **options: Any) -> Any:
            result = method(connection, *given, **options)
            note(connection, *given[:1], result)
            return result

        patch.setattr(BaseDatabaseWrapper, name, followed)

    follow("savepoint", undoing.began)
    follow("savepoint_rollback", lambda connection, savepoint, _: undoing.undid(connection, savepoint))
    for name in ("rollback", "close"):
        follow(name, lambda connection, _: undoing.undid(connection))
    for name in ("commit", "set_autocommit"):
        follow(name, lambda connection, *_: undoing.committed(connection))
    patch.setattr(outbox, "_write", record)
