"""What a savepoint undoes is not published: a transaction loses the rows of the outbox that it gathered since the savepoint began."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, event

from .outbox_rows import OutboxRow

__all__ = ["follow_savepoints", "gather"]

_GATHERED = "gateway_gathered"  # an execution option, which a connection that is lost still has


class _Gathered(NamedTuple):
    """``at_savepoints`` is how many rows there were as each savepoint of the transaction began."""

    rows: list[OutboxRow]
    at_savepoints: list[int]


def follow_savepoints(engine: Engine) -> None:
    """From now on the savepoints of this engine's connections count for what ``gather`` names."""

    @event.listens_for(engine, "savepoint")
    def begin(connection: Connection, _: Any) -> None:
        gathered = _gathered(connection)
        gathered.at_savepoints.append(len(gathered.rows))

    @event.listens_for(engine, "rollback_savepoint")
    def undo(connection: Connection, name: str, _: Any) -> None:
        # SQLAlchemy numbers the savepoints of a connection, from 1 on: sa_savepoint_2. An outer one may be undone before those in it end.
        gathered = _gathered(connection)
        del gathered.rows[gathered.at_savepoints[int(name.rpartition("_")[2]) - 1] :]


def gather(connection: Connection, rows: list[OutboxRow]) -> None:
    """The transaction that begins on a new ``connection`` gathers its rows in this list."""
    connection.execution_options(**{_GATHERED: _Gathered(rows, [])})


def _gathered(connection: Connection) -> _Gathered:
    found: _Gathered = connection.get_execution_options()[_GATHERED]
    return found
