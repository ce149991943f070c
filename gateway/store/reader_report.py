"""Which groups of durable readers there are, so that gateways, which read nothing by group, can show them.

The hash ``gw:readers`` has a field for each group: its name → a ``ReaderReport`` in JSON, written when an instance connects, and each minute while
it runs. A group is forgotten EXPIRES_SECONDS after its last report, and the hash after that of any group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from heapq import nsmallest

import msgspec

from ..errors import StoreError
from .access import Commands
from .layout import Layout

__all__ = ["ReaderReport", "read_reader_reports", "report_reader"]

log = logging.getLogger("gateway.store")

CHANNELS_MOST = 200  # of one report
EXPIRES_SECONDS = 30 * 86400


class ReaderReport(msgspec.Struct):
    """What a group reads: a ``namespace``, or ``channels``, the first CHANNELS_MOST by name. ``at`` is when an instance last reported, in unix seconds."""

    namespace: str
    channels: list[str]
    at: float


async def report_reader(commands: Commands, layout: Layout, group: str, namespace: str, channels: Collection[str]) -> None:
    """A refusal of Valkey leaves the group out of what gateways show; a reader works without. It is logged."""
    report = ReaderReport(namespace, nsmallest(CHANNELS_MOST, channels), time.time())
    try:
        await commands.call(b"HSET", layout.reader_groups, group, msgspec.json.encode(report), repeatable=True)
        await commands.call(b"EXPIRE", layout.reader_groups, EXPIRES_SECONDS, repeatable=True)
    except StoreError as error:
        log.debug("group %s is not among those that gateways show: %s", group, error)


async def read_reader_reports(commands: Commands, layout: Layout) -> dict[str, ReaderReport]:
    """The reports by group. What another program wrote there is left out, and a group that has not reported for long is removed. Raises StoreError."""
    answer = await commands.call(b"HGETALL", layout.reader_groups, repeatable=True)
    read = {name: _read(text, layout) for name, text in zip(answer[::2], answer[1::2], strict=True)}
    reports = {name: report for name, report in read.items() if report is not None}
    oldest = time.time() - EXPIRES_SECONDS
    if over := {name for name, report in reports.items() if report.at < oldest}:
        await commands.call(b"HDEL", layout.reader_groups, *over, repeatable=True)
    return {name.decode(errors="replace"): report for name, report in reports.items() if name not in over}


def _read(text: bytes, layout: Layout) -> ReaderReport | None:
    try:
        return msgspec.json.decode(text, type=ReaderReport)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        layout.faults.found("reader", layout.reader_groups.decode(), error)
        return None
