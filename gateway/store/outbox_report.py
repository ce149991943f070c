"""What relays report of their outboxes, so that gateways, which have no database, can show it.

The hash ``gw:outbox`` has a field for each database: the relay's identity of it → an ``OutboxReport`` in JSON. The hash expires
EXPIRES_SECONDS after the last report of any relay; a report that is older is ignored, if another database's keeps the hash.
"""

from __future__ import annotations

import logging

import msgspec

from .access import Commands
from .layout import Layout
from .valkey_clock import valkey_time

__all__ = ["EVERY_SECONDS", "OutboxReport", "outbox_reports_by_database", "read_outbox_reports", "report_outbox"]

log = logging.getLogger("gateway.store")

EVERY_SECONDS = 5.0  # between two reports of a relay
EXPIRES_SECONDS = 30
OLD_SECONDS = 60.0


class OutboxReport(msgspec.Struct):
    """``rows`` wait to be published, the oldest since ``oldest_seconds``; ``at`` is when they were counted, in unix seconds, by Valkey's
    clock: a relay and a gateway on different machines may have different ones."""

    rows: int
    oldest_seconds: float
    at: float


async def report_outbox(commands: Commands, layout: Layout, database: str, rows: int, oldest_seconds: float) -> None:
    """Reports what was counted now. Raises StoreError."""
    report = OutboxReport(rows, oldest_seconds, await valkey_time(commands, layout.outbox))
    await commands.call(b"HSET", layout.outbox, database, msgspec.json.encode(report), repeatable=True)
    await commands.call(b"EXPIRE", layout.outbox, EXPIRES_SECONDS, repeatable=True)


async def read_outbox_reports(commands: Commands, layout: Layout) -> list[OutboxReport]:
    """One for each database whose relay reported lately. What another program wrote there is left out. Raises StoreError."""
    return list((await outbox_reports_by_database(commands, layout)).values())


async def outbox_reports_by_database(commands: Commands, layout: Layout) -> dict[str, OutboxReport]:
    """The same, by what the relays call their databases."""
    answer = await commands.call(b"HGETALL", layout.outbox, repeatable=True)
    pairs = zip(answer[::2], answer[1::2], strict=True)
    reports = {name.decode(errors="replace"): report for name, text in pairs if (report := _read(text, layout)) is not None}
    if not reports:
        return {}
    oldest = await valkey_time(commands, layout.outbox) - OLD_SECONDS
    return {name: report for name, report in reports.items() if report.at > oldest}


def _read(text: bytes, layout: Layout) -> OutboxReport | None:
    try:
        return msgspec.json.decode(text, type=OutboxReport)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        layout.faults.found("outbox", layout.outbox.decode(), error)
        return None
