"""The figures that all gateways of one Valkey share: work queues and outboxes, read from Valkey at a scrape."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable

from ..errors import StoreError
from ..session.node import Node
from ..store.outbox_report import read_outbox_reports
from ..store.untrusted import Faults
from ..work.queues import Overview, Queues
from .figures import Figures

__all__ = ["shared_figures"]

log = logging.getLogger("gateway.metrics")

READ_SECONDS = 1.0  # for each part
NAMED_MOST = 100  # queues with figures of their own: the first by name, so that all workers choose the same
READ_MOST = 1000  # queues that are read; further ones are counted only
AT_ONCE = 20  # questions to Valkey; the commands of clients come in between
OTHERS = "all others"  # no queue can be called so: its name has no space
STATES = ("ready", "delayed", "parked", "running", "dead_letters")
EVENTS = (
    *("enqueued", "taken", "started", "finished", "retried", "dead", "cancelled", "crashed"),
    *("given_back", "strays", "sent_again"),
)


async def shared_figures(node: Node) -> Figures:
    """A part that Valkey does not give in READ_SECONDS is left out."""
    figures = Figures()
    await asyncio.gather(
        _read(figures, "outbox", _outbox_figures(node)),
        _read(figures, "queues", _queue_figures(node.queues, node.history.layout.faults)),
    )
    return figures


async def _read(figures: Figures, part: str, read: Awaitable[Figures]) -> None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            found = await read
    except (StoreError, TimeoutError) as error:
        log.debug("metrics: %s could not be read: %s", part, str(error) or f"not within {READ_SECONDS:g} s")
        figures.add("gateway_valkey_read", 0, part)
    else:
        figures.add("gateway_valkey_read", 1, part)
        figures.samples |= found.samples


async def _outbox_figures(node: Node) -> Figures:
    figures = Figures()
    reports = await read_outbox_reports(node.history.commands, node.history.layout)
    figures.add("gateway_outbox_databases", len(reports))
    if reports:
        figures.add("gateway_outbox_rows", sum(report.rows for report in reports))
        figures.add("gateway_outbox_oldest_seconds", max(report.oldest_seconds for report in reports))
    return figures


async def _queue_figures(queues: Queues, faults: Faults) -> Figures:
    figures = Figures()
    names = await queues.names()
    figures.add("gateway_queues", len(names))
    overviews: list[Overview | None] = []
    for first in range(0, min(len(names), READ_MOST), AT_ONCE):
        page = names[first : min(first + AT_ONCE, READ_MOST)]
        overviews += await asyncio.gather(*[_overview(queues, name, faults) for name in page])
    for name, overview in zip(names[:NAMED_MOST], overviews, strict=False):
        if overview is not None:
            _add_queue(figures, name, [overview])
    if others := [overview for overview in overviews[NAMED_MOST:] if overview is not None]:
        _add_queue(figures, OTHERS, others)
    return figures


async def _overview(queues: Queues, name: str, faults: Faults) -> Overview | None:
    """None for a queue of which another program made something else: it costs the others no figures."""
    try:
        return await queues.overview(name)
    except StoreError as error:
        if not error.is_wrong_type:
            raise
        faults.found("queue", name, error)
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
