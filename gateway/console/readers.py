"""What goes on while nobody is connected, besides queues: durable readers, and the outboxes that relays publish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from ..control.questions import ROWS_MOST
from ..errors import StoreError
from ..publication import channel_fault
from ..rules.json_text import encode, is_utf8
from ..session.node import Node
from ..store.access import read_or_fault, shard_fault
from ..store.outbox_report import outbox_reports_by_database
from ..store.reader_report import ReaderReport, read_reader_reports
from ..store.valkey_clock import valkey_time
from .caller import Caller, Empty, read_method

__all__ = ["METHODS", "ReaderRow", "groups_of", "reader_row"]

INSTANCES_MOST = 1000  # of one group, as in membership.lua
AT_ONCE = 10  # groups in one channel, each of which is asked for by five commands


class ReaderRow(msgspec.Struct, omit_defaults=True):
    """A group in one channel: it has settled all up to ``epoch`` and ``offset``. ``owner`` is the instance that reads the channel now, "" for none.
    ``pending`` were given to it and are not settled; ``lag`` are not settled, pending ones included; ``dead`` are its dead letters. ``error`` is
    why it is not known: what Valkey answers where another program wrote to its keys, or which shard of a cluster is away. ``instances`` is null where
    that is not known."""

    group: str
    channel: str
    epoch: str = ""
    offset: int = 0
    owner: str = ""
    pending: int = 0
    lag: int = 0
    dead: int = 0
    instances: int | None = 0
    namespace: str = ""
    error: str = ""


class ReadersResult(msgspec.Struct):
    """``more``: there are more rows than these."""

    readers: list[ReaderRow]
    more: bool


class Outbox(msgspec.Struct):
    """``rows`` wait to be published, the oldest for ``oldest_seconds``. ``at`` is when its relay counted them, in unix seconds."""

    name: str
    rows: int
    oldest_seconds: float
    at: float


async def outbox(caller: Caller, request: Empty) -> bytes:
    """The outboxes whose relays reported lately."""
    found = await outbox_reports_by_database(caller.node.history.commands, caller.node.history.layout)
    rows = [Outbox(name, each.rows, each.oldest_seconds, each.at) for name, each in sorted(found.items())]
    return encode({"databases": rows})


async def readers(caller: Caller, request: Empty) -> bytes:
    """The groups of durable readers, a row for each channel that they read, ROWS_MOST of them."""
    node = caller.node
    reports = await read_reader_reports(node.history.commands, node.history.layout)
    named: list[tuple[str, str]] = []
    rows: list[ReaderRow] = []
    more = False
    for group, report in sorted(reports.items()):
        if report.namespace and (fault := shard_fault(node.history.commands, node.history.layout.index(report.namespace))):
            rows.append(ReaderRow(group, "", namespace=report.namespace, error=f"the names of its channels cannot be read: {fault}"))
            continue
        channels = await _channels(node, report)
        named += [(group, channel) for channel in channels]
        more = more or len(channels) >= ROWS_MOST
    found = await _rows(node, named[:ROWS_MOST])
    instances = {group: await _instances(node, group) for group in {row.group for row in found}}
    for row in found:
        row.namespace = reports[row.group].namespace
        alive = instances[row.group]
        row.instances = None if alive is None else len(alive)
        if alive is not None and row.owner not in alive:
            row.owner = ""  # it was killed, and no other has taken the channel from it
    return encode(ReadersResult(rows + found, more or len(named) > ROWS_MOST))


async def _channels(node: Node, report: ReaderReport) -> list[str]:
    """Some of the channels that a group reads."""
    if not report.namespace:
        return [name for name in report.channels if not channel_fault(name)][:ROWS_MOST]
    key = node.history.layout.index(report.namespace)
    _, names = await node.history.commands.call(b"SSCAN", key, b"0", b"COUNT", ROWS_MOST, repeatable=True)
    return sorted(name.decode() for name in names if is_utf8(name) and not channel_fault(name.decode()))[:ROWS_MOST]


async def _rows(node: Node, named: Sequence[tuple[str, str]]) -> list[ReaderRow]:
    rows: list[ReaderRow] = []
    for first in range(0, len(named), AT_ONCE):
        rows += await asyncio.gather(*[reader_row(node, group, channel) for group, channel in named[first : first + AT_ONCE]])
    return rows


async def reader_row(node: Node, group: str, channel: str) -> ReaderRow:
    """A group in a channel. Raises Unavailable where Valkey as a whole is away."""
    key = node.history.layout.channel(channel)
    found = await read_or_fault(node.history.commands, key, lambda: _read_row(node, group, channel))
    return ReaderRow(group, channel, error=found) if isinstance(found, str) else found


async def _read_row(node: Node, group: str, channel: str) -> ReaderRow:
    call, keys = node.history.commands.call, node.history.layout.reader(channel, group)
    _, stream, state, dead = keys
    fields, pending, lag, letters = await asyncio.gather(
        call(b"HMGET", state, b"owner", b"epoch", b"offset", repeatable=True),
        _pending(node, stream, group),
        call(b"FCALL", b"gateway_reader_lag", len(keys), *keys, repeatable=True),
        call(b"XLEN", dead, repeatable=True),
    )
    owner, epoch, offset = ((field or b"").decode(errors="replace") for field in fields)
    settled = int(offset[:16]) if offset.isdecimal() else 0
    return ReaderRow(group, channel, epoch, settled, owner.partition("/")[0], pending, int(lag), int(letters))


async def _pending(node: Node, stream: bytes, group: str) -> int:
    try:
        count, *_ = await node.history.commands.call(b"XPENDING", stream, group, repeatable=True)
    except StoreError as error:
        if str(error).startswith("NOGROUP"):
            return 0  # it has not read the channel yet
        raise
    return int(count)


async def _instances(node: Node, group: str) -> set[str] | None:
    """The instances of a group whose lease is not over; None where the shard that knows them is away."""
    key, commands = node.history.layout.readers(group), node.history.commands
    if shard_fault(commands, key):
        return None
    now = await valkey_time(commands, key)  # by which leases end
    members = await commands.call(b"ZRANGEBYSCORE", key, int(now * 1000), b"+inf", b"LIMIT", 0, INSTANCES_MOST, repeatable=True)
    return {member.decode(errors="replace").partition(".")[0] for member in members}


async def groups_of(node: Node, channel: str) -> list[str]:
    """The groups that read the channel, at most ROWS_MOST: the consumer groups of its stream that have a position. Raises StoreError."""
    call, layout = node.history.commands.call, node.history.layout
    _, stream, _ = layout.keys(channel)
    try:
        found: list[list[Any]] = await call(b"XINFO", b"GROUPS", stream, repeatable=True)
    except StoreError as error:
        if "no such key" in str(error):
            return []
        raise
    names = [name for group in found[:ROWS_MOST] if is_utf8(name := dict(zip(group[::2], group[1::2], strict=True)).get(b"name", b""))]
    keys = [layout.reader(channel, name.decode())[2] for name in names if not channel_fault(name.decode())]
    known = await asyncio.gather(*[call(b"EXISTS", key, repeatable=True) for key in keys])
    return [key.decode().rpartition(":reader:")[2] for key, there in zip(keys, known, strict=True) if there]


METHODS = {
    "outbox": read_method(outbox, Empty),
    "readers": read_method(readers, Empty),
}
