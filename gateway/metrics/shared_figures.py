"""The figures that all gateways of one Valkey share: work queues and outboxes, read from Valkey at a scrape."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from ..errors import NotPermitted, StoreError, Unavailable
from ..session.node import Node
from ..store.outbox_report import read_outbox_reports
from ..work.queues import Overview
from .figures import Figures

__all__ = ["shared_figures"]

log = logging.getLogger("gateway.metrics")

READ_SECONDS = 1.0  # for each part
NAMED_MOST = 100  # queues with figures of their own
GONE_MOST = 1000  # names that are removed at once from these
READ_MOST = 1000  # queues that are read; further ones are counted only
AT_ONCE = 20  # questions to Valkey; the commands of clients come in between
OTHERS = "all others"  # no queue can be called so: its name has no space
STATES = ("ready", "delayed", "parked", "running", "dead_letters")
EVENTS = (
    *("enqueued", "taken", "started", "finished", "retried", "dead", "cancelled", "crashed"),
    *("given_back", "strays", "sent_again"),
)


async def shared_figures(node: Node) -> Figures:
    """The figures. A part that Valkey does not give whole in READ_SECONDS has what it gave by then; a queue that another program broke is left out."""
    figures = Figures()
    await asyncio.gather(
        _read(figures, "outbox", partial(_add_outbox, node=node)),
        _read(figures, "queues", partial(_add_queues, node=node)),
    )
    return figures


async def _read(figures: Figures, part: str, read: Callable[[Figures], Awaitable[None]]) -> None:
    found = Figures()
    try:
        async with asyncio.timeout(READ_SECONDS):
            await read(found)
    except (StoreError, TimeoutError) as error:
        log.debug("metrics: %s could not be read: %s", part, str(error) or f"not within {READ_SECONDS:g} s")
        figures.add("gateway_valkey_read", 0, part)
    else:
        figures.add("gateway_valkey_read", 1, part)
    figures.samples |= found.samples


async def _add_outbox(figures: Figures, node: Node) -> None:
    reports = await read_outbox_reports(node.history.commands, node.history.layout)
    figures.add("gateway_outbox_databases", len(reports))
    if reports:
        figures.add("gateway_outbox_rows", sum(report.rows for report in reports))
        figures.add("gateway_outbox_oldest_seconds", max(report.oldest_seconds for report in reports))


async def _add_queues(figures: Figures, node: Node) -> None:
    names = await node.queues.names()
    figures.add("gateway_queues", len(names))
    named = await _named(node, names)
    others: list[Overview] = []

    async def read(number: int) -> None:
        overview = await _overview(node, names[number])
        if overview is not None and names[number] in named:
            _add_queue(figures, names[number], [overview])
        elif overview is not None:
            others.append(overview)

    async def read_all(numbers: list[int]) -> None:
        if fault := node.queues.shard_fault(names[numbers[0]]):
            raise Unavailable(fault)
        for first in range(0, len(numbers), AT_ONCE):
            await asyncio.gather(*map(read, numbers[first : first + AT_ONCE]))

    # On a cluster a shard that is away, or does not answer, costs its own queues alone.
    names.sort(key=lambda name: name not in named)
    ended = await asyncio.gather(*map(read_all, _by_shard(node, names[:READ_MOST])), return_exceptions=True)
    for error in filter(None, ended):
        raise error
    if others:  # all of them: a sum that lacks some would look as if they were counted anew
        _add_queue(figures, OTHERS, others)


async def _named(node: Node, names: list[str]) -> set[str]:
    """Which of all queues have figures of their own. Valkey stores which these are, for all processes: a queue keeps its figures when others come, and a
    free place goes to the first by name. Raises StoreError for what fails for all."""
    key, call = node.history.layout.queues_shown, node.history.commands.call
    try:
        stored = {*await call(b"SMEMBERS", key, repeatable=True)}
    except StoreError as error:
        if error.is_general or isinstance(error, NotPermitted):
            raise
        node.history.layout.faults.found("queue", key.decode(), error)
        stored = set()
    known = [name for name in names if name.encode() in stored][:NAMED_MOST]
    new = [name for name in names if name.encode() not in stored][: NAMED_MOST - len(known)]
    gone = list(stored.difference(name.encode() for name in names))[:GONE_MOST]
    try:
        if gone:
            await call(b"SREM", key, *gone, repeatable=True)
        if new:
            await call(b"SADD", key, *new, repeatable=True)
    except StoreError as error:  # as where Valkey is out of memory: the next scrape tries again
        log.debug("metrics: which queues have figures of their own could not be stored: %s", error)
    return {*known, *new}


def _by_shard(node: Node, names: list[str]) -> list[list[int]]:
    """The numbers of the names, of queues, apart for each shard that has some of these."""
    commands, layout = node.history.commands, node.history.layout
    found: dict[object, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(commands.shard(layout.queue(name)[0]), []).append(number)
    return list(found.values())


async def _overview(node: Node, name: str) -> Overview | None:
    """The numbers of one queue; None if one of its keys is of another type. Raises StoreError for what fails for all queues."""
    try:
        return await node.queues.overview(name)
    except StoreError as error:
        if error.is_general or isinstance(error, NotPermitted):
            raise
        node.history.layout.faults.found("queue", name, error)
        return None


def _add_queue(figures: Figures, name: str, overviews: Iterable[Overview]) -> None:
    """One queue, or several together."""
    sums: Counter[str] = Counter()
    oldest = 0
    for overview in overviews:
        sums.update({field: getattr(overview, field) for field in (*STATES, *EVENTS, "workers", "start_ms", "finish_ms")})
        oldest = max(oldest, overview.oldest_ms)
    for state in STATES:
        figures.add("gateway_queue_jobs", sums[state], name, state)
    for event in EVENTS:
        figures.add("gateway_queue_events_total", sums[event], name, event)
    figures.add("gateway_queue_workers", sums["workers"], name)
    figures.add("gateway_queue_oldest_seconds", oldest / 1000, name)
    figures.add("gateway_queue_start_seconds_total", sums["start_ms"] / 1000, name)
    figures.add("gateway_queue_run_seconds_total", sums["finish_ms"] / 1000, name)
