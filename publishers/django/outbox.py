"""Publications, notifications and jobs as rows of the outbox, in the transactions of Django's database connections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, Unpack

from django.db import connections, transaction

from gateway.work.jobs import JobOptions

from ..outbox_rows import (
    ADD_ON_POSTGRESQL,
    ADD_ON_SQLITE,
    NOTIFY,
    OutboxRow,
    check_dialect,
    columns_of,
    job_row,
    notification_row,
    publication_row,
    writing_outbox,
)
from ..publisher import SyncPublisher
from .gateway_settings import gateway_settings

__all__ = ["REMEDY", "enqueue_on_commit", "get_publisher", "notify_on_commit", "publish_on_commit"]

REMEDY = "run `python manage.py migrate gateway_outbox`"


def _placeholders(statement: str) -> str:
    """``statement`` with its parameters as Django's cursors take them."""
    return re.sub(r":(\w+)", r"%(\1)s", statement)


_ON_SQLITE = _placeholders(ADD_ON_SQLITE)
_ON_POSTGRESQL = _placeholders(ADD_ON_POSTGRESQL)


def publish_on_commit(channel: str, data: Any, *, keep: bool = False, using: str = "") -> None:
    """Publishes ``data``, which is JSON, in ``channel`` once the transaction is committed; outside a transaction at once.

    ``keep``: its row stays in the outbox for good. ``using``: the alias of the database, else the setting's. Raises Invalid for an impossible
    channel, data that is not JSON, or an inbox's data that is no notification; MissingOutbox where the table is not there; Django's errors.
    """
    _write(publication_row(channel, data, keep=keep), using)


def notify_on_commit(user: str, notification: Mapping[str, Any], *, using: str = "") -> None:
    """Publishes into the inbox of ``user``. The notification's ``id``, a text, names it: the same id again is an update.

    Raises as ``publish_on_commit``, TypeError for a user that is no text, ValueError for a user that no inbox can belong to.
    """
    _write(notification_row(user, notification), using)


def enqueue_on_commit(name: str, data: Any = None, *, queue: str = "default", using: str = "", **options: Unpack[JobOptions]) -> str:
    """Enqueues a job for the handler of ``name``, with the options of ``gateway.work.Queue.enqueue``. Returns the job's id.

    Raises as ``publish_on_commit``.
    """
    row, id = job_row(name, data, queue, **options)
    _write(row, using)
    return id


@cache
def get_publisher() -> SyncPublisher:
    """The publisher of this process, for what belongs to no transaction. It connects when it is first used."""
    configured = gateway_settings()
    return SyncPublisher(configured.valkey_url, prefix=configured.prefix)


def _write(row: OutboxRow, using: str) -> str:
    """Returns the alias of the database that has the row now."""
    alias = using or gateway_settings().database
    connection = connections[alias]
    check_dialect(connection.vendor)
    with writing_outbox(str(connection.settings_dict["NAME"]), REMEDY), connection.cursor() as cursor:
        if connection.vendor == "sqlite":  # there, a writer has locked the whole database
            cursor.execute(_ON_SQLITE, row)
            return alias
        cursor.execute(_ON_POSTGRESQL, columns_of([row]))
    wake = _Wake(alias)
    if all(entry[1] != wake for entry in connection.run_on_commit):  # once for a transaction
        transaction.on_commit(wake, using=alias, robust=True)
    return alias


class _Wake(NamedTuple):
    """Wakes the relays of a PostgreSQL after a commit; in the transaction, NOTIFY would make commits wait for each other."""

    alias: str

    def __call__(self) -> None:
        with connections[self.alias].cursor() as cursor:
            cursor.execute(NOTIFY)
