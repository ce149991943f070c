"""The outbox in transactions of SQLAlchemy's own: a ``Session`` or a ``Connection`` that a program already has.

    with Session(engine) as session:
        session.add(Order(…))
        publish_on_commit(session, "orders:17", {"status": "placed"})
        session.commit()                                                 # the order and its publication: both, or neither

A row is written when the function is called, in the transaction that is under way. So what a savepoint undoes is not published, and
the channel is locked from the call to the end of the transaction: another transaction that publishes in the same channel waits for it.
Call these functions last in a transaction. The session is flushed first: its changes would lock their rows after the channel otherwise, and those of a
transaction that was flushed earlier before it, so that the two wait for each other. Transactions that publish in several channels do so in the same order of channels, since
PostgreSQL ends one of two that wait for each other. An ``AsyncSession`` runs them by ``await session.run_sync(publish_on_commit, …)``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Unpack

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from gateway.work.jobs import JobOptions

from .engines import name_of
from .outbox_rows import (
    ADD_ON_POSTGRESQL,
    ADD_ON_SQLITE,
    NOTIFY,
    REMEDY,
    OutboxRow,
    check_dialect,
    columns_of,
    job_row,
    notification_row,
    publication_row,
    writing_outbox,
)
from .prepared import DRIVER_ERRORS

__all__ = ["enqueue_on_commit", "notify_on_commit", "publish_on_commit", "wake_relays", "write_rows"]

log = logging.getLogger("gateway.relay")

_on_sqlite = text(ADD_ON_SQLITE)
_on_postgresql = text(ADD_ON_POSTGRESQL)
_ENGINE = "gateway_outbox_engine"  # in Session.info: of the database whose relays are woken
_COMMITTED = "gateway_outbox_committed"


def publish_on_commit(session: Session | Connection, channel: str, data: Any, *, keep: bool = False) -> None:
    """Publishes ``data``, which is JSON, in ``channel`` once the transaction is committed. ``keep``: its row stays in the outbox for good.

    Raises Invalid for an impossible channel, data that is not JSON, or an inbox's data that is no notification; MissingOutbox where
    the database has no outbox; SQLAlchemy's errors.
    """
    _write(session, publication_row(channel, data, keep=keep))


def notify_on_commit(session: Session | Connection, user: str, notification: Mapping[str, Any]) -> None:
    """Publishes into the inbox of ``user``. The notification's ``id``, a text, names it: the same id again is an update.

    Raises as ``publish_on_commit``, TypeError for a user that is no text, ValueError for a user that no inbox can belong to.
    """
    _write(session, notification_row(user, notification))


def enqueue_on_commit(
    session: Session | Connection, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]
) -> str:
    """Enqueues a job for the handler of ``name``, with the options of ``gateway.work.Queue.enqueue``. Returns the job's id.

    Raises as ``publish_on_commit``.
    """
    row, id = job_row(name, data, queue, **options)
    _write(session, row)
    return id


def write_rows(connection: Connection, rows: list[OutboxRow]) -> None:
    """Writes rows of the outbox: locks their channels, and only then draws the rows' ids. Raises MissingOutbox, SQLAlchemy's errors."""
    check_dialect(connection.dialect.name)
    with writing_outbox(name_of(connection.engine.url), REMEDY):
        if connection.dialect.name == "sqlite":  # there, a writer has locked the whole database
            connection.execute(_on_sqlite, rows)
        else:
            connection.execute(_on_postgresql, columns_of(rows))


def wake_relays(engine: Engine) -> None:
    """Wakes the relays of a PostgreSQL, since the outbox has a new row; those of SQLite look at its data version.

    It is no part of the transaction, since NOTIFY makes commits wait for each other. A failure costs a second: relays also look by themselves.
    """
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(NOTIFY)
    except (SQLAlchemyError, OSError, *DRIVER_ERRORS) as error:  # asyncpg's own where it cannot connect; the transaction is committed
        log.debug("the relays were not woken (%s); each looks at the outbox once a second", error)


def _write(given: object, row: OutboxRow) -> None:
    """Raises TypeError for what is no Session, as one of asyncio, and no Connection."""
    if isinstance(given, Connection):
        write_rows(given, [row])
        return
    session = given() if isinstance(given, scoped_session) else given
    if not isinstance(session, Session):
        kind = type(session).__name__
        raise TypeError(
            f"it takes a Session or a Connection of SQLAlchemy, no {kind}; those of asyncio run it: `await session.run_sync(publish_on_commit, …)`"
        )
    if not session._flushing:  # it is, in some of SQLAlchemy's events
        session.flush()
    connection = session.connection()
    write_rows(connection, [row])
    if isinstance(session.get_bind(), Engine):  # else the transaction is that of a connection which the session was given
        session.info[_ENGINE] = connection.engine


@event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if _ENGINE in session.info:
        session.info[_COMMITTED] = not session.in_nested_transaction()


@event.listens_for(Session, "after_transaction_end")
def _wake_after_commit(session: Session, transaction: SessionTransaction) -> None:
    """The session has given its connection back by now, so that a pool of one connection has one for the wake."""
    if transaction.parent is None and _ENGINE in session.info:
        engine, committed = session.info.pop(_ENGINE), session.info.pop(_COMMITTED, False)
        if committed:
            wake_relays(engine)
