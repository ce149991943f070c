"""Rows of the outbox: what a transaction gathers for it, and the statement that writes one at once where nothing gathers them.

A row that is written at once is written under the lock on its channel or queue, as the rows of ``Transaction.write_outbox`` are: the
lock is there before the id is drawn, and stays to the end of the transaction, so that the order of ids is the order of commits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, Unpack

from gateway.errors import BadRequest, ConfigurationError
from gateway.publication import channel_fault
from gateway.rules.json_values import kind_of
from gateway.rules.notifications import NAMESPACE, notification_id
from gateway.work.jobs import JobOptions

from .checks import document_of, inbox_of
from .faults import Invalid
from .outbox_jobs import row_of_job

__all__ = [
    "ADD_ON_POSTGRESQL",
    "ADD_ON_SQLITE",
    "NOTIFY",
    "REMEDY",
    "WAKE",
    "WRITERS",
    "Gathering",
    "MissingOutbox",
    "OutboxRow",
    "check_dialect",
    "columns_of",
    "job_row",
    "lock_key",
    "notification_row",
    "now_ms",
    "publication_row",
    "writing_outbox",
]

WRITERS = 0x6761  # the space of the writers' advisory locks
WAKE = "gateway_outbox"  # the channel of LISTEN and NOTIFY
NOTIFY = f"NOTIFY {WAKE}"
REMEDY = "start `gateway relay` with its --database-url, which makes the tables, or call publishers.tables.outbox_tables.create_all(engine)"
UNDEFINED_TABLE = "42P01"  # PostgreSQL, appendix A

# One row, with its columns as parameters.
ADD_ON_SQLITE = "INSERT INTO outbox (channel, data, at, keep) VALUES (:channel, :data, :at, :keep)"
# Any number of rows, with the parameters of ``columns_of``. The locks and the rows are one round trip: the count is there, and with it
# every lock, before the first id is drawn.
ADD_ON_POSTGRESQL = f"""
    INSERT INTO outbox (channel, data, at, keep)
    SELECT u.channel, u.data, u.at, u.keep
    FROM (SELECT count(pg_advisory_xact_lock({WRITERS}, k)) FROM unnest(CAST(:keys AS int[])) AS k) AS locked,
        unnest(CAST(:channel AS text[]), CAST(:data AS text[]), CAST(:at AS bigint[]), CAST(:keep AS boolean[]))
            WITH ORDINALITY AS u(channel, data, at, keep, number)
    ORDER BY u.number
"""


class OutboxRow(TypedDict):
    """``channel`` is a channel, or a queue in braces; ``data`` is JSON; ``at`` is unix milliseconds; ``keep``: it stays once it is published."""

    channel: str
    data: str
    at: int
    keep: bool


class MissingOutbox(ConfigurationError):
    """The database has no table ``outbox``. The message says what to run."""


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def lock_key(channel: str) -> int:
    """32 bits of a channel's name; two channels that share them wait for each other, which is harmless."""
    return int.from_bytes(hashlib.blake2b(channel.encode(), digest_size=4).digest(), signed=True)


def publication_row(channel: str, data: Any, *, keep: bool = False) -> OutboxRow:
    """The row of a publication. Raises Invalid for an impossible channel, data that is not JSON, or an inbox's data that is no notification."""
    fault = channel_fault(channel) if isinstance(channel, str) else f"the channel is a text, not {kind_of(channel)}"
    if fault:
        raise Invalid(fault)
    try:
        document = document_of(data).decode()
    except (TypeError, ValueError) as error:
        raise Invalid(str(error)) from None
    if channel.startswith(f"{NAMESPACE}:"):
        try:
            notification_id(document.encode())
        except BadRequest as error:
            raise Invalid(error.hint) from None
    return OutboxRow(channel=channel, data=document, at=now_ms(), keep=keep)


def notification_row(user: str, data: Mapping[str, Any]) -> OutboxRow:
    """The row of a notification to ``user``. Raises TypeError for a user that is no text, ValueError for one that no inbox can belong to, Invalid."""
    return publication_row(inbox_of(user), data)


def job_row(name: str, data: Any, queue: str, **options: Unpack[JobOptions]) -> tuple[OutboxRow, str]:
    """The row of a job, and the job's id, which is new. Raises Invalid for what cannot be a job."""
    now = now_ms()
    channel, row, id = row_of_job(now, queue, name, data, **options)
    return OutboxRow(channel=channel, data=row, at=now, keep=False), id


def columns_of(rows: Sequence[OutboxRow]) -> dict[str, list[Any]]:
    """The parameters of ADD_ON_POSTGRESQL: each column as a list, and the keys of the locks in the order in which all transactions take them."""
    columns: dict[str, list[Any]] = {
        "channel": [row["channel"] for row in rows],
        "data": [row["data"] for row in rows],
        "at": [row["at"] for row in rows],
        "keep": [row["keep"] for row in rows],
    }
    return {"keys": sorted({lock_key(name) for name in columns["channel"]}), **columns}


@contextmanager
def writing_outbox(database: str, remedy: str) -> Iterator[None]:
    """In its block the outbox of ``database`` is written. Raises MissingOutbox with the ``remedy`` where the table is not there."""
    try:
        yield
    except Exception as error:
        if _is_missing_table(getattr(error, "orig", None) or error.__cause__):
            raise MissingOutbox(f"the database {database} has no table outbox: {remedy}") from error
        raise


def _is_missing_table(error: BaseException | None) -> bool:
    """Whether it is a driver's error for a table that is not there."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg's and asyncpg's, psycopg2's
    return state == UNDEFINED_TABLE or "no such table: outbox" in str(error)


def check_dialect(name: str) -> None:
    """Raises ConfigurationError for a kind of database whose order of ids is not that of commits."""
    if name not in ("postgresql", "sqlite"):
        raise ConfigurationError(f"the outbox is a table of PostgreSQL or SQLite; it cannot be in {name}")


class Gathering:
    """Publications and jobs that a transaction gathers, to be written as its last step.

    Each method raises RuntimeError once its block has ended: what it took then would never be published, and nobody would know.
    """

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []
        self._ended = False

    def end(self) -> None:
        """The block of the transaction has ended."""
        self._ended = True

    def _add(self, row: OutboxRow) -> None:
        if self._ended:
            raise RuntimeError("the transaction has ended, so nothing is published with it: publish inside its block")
        self.rows.append(row)

    def publish(self, channel: str, data: Any, *, keep: bool = False) -> None:
        """Publishes ``data``, which is JSON, in ``channel`` once this is committed. ``keep``: its row stays in the outbox for good.

        Raises Invalid for an impossible channel, data that is not JSON, or an inbox's data that is no notification.
        """
        self._add(publication_row(channel, data, keep=keep))

    def notify(self, user: str, notification: Mapping[str, Any]) -> None:
        """Publishes into the inbox of ``user``. The notification's ``id``, a text, names it: the same id again is an update.

        Raises TypeError for a user that is no text, ValueError for a user that no inbox can belong to, Invalid for an impossible notification.
        """
        self.publish(inbox_of(user), notification)

    def enqueue(self, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]) -> str:
        """Enqueues a job once this is committed, in the order of commits: ``data``, which becomes JSON, for the handler of ``name``.

        The options are those of ``gateway.work.Queue.enqueue``; ``delay`` and ``expires`` count from now. Returns the job's id, by which
        ``Queue`` finds it; where a job with its ``key`` waits or runs, no job of this id comes to be. Raises Invalid for what cannot be a job.
        """
        row, id = job_row(name, data, queue, **options)
        self._add(row)
        return id

    @property
    def gathered(self) -> int:
        """How many rows it has for the outbox: publications and jobs."""
        return len(self.rows)
