"""The figures that this process publishes once a second to the console's channel, while a page of the console is open somewhere.

A page calls ``watch`` every few seconds, which reaches every process. Where nobody does, nothing runs. The counters are totals since the
process started; the page computes rates. New lines of the log are published beside them, without being stored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..channel_rules import CONSOLE, CONSOLE_RULES
from ..config import Config
from ..errors import StoreError
from ..live.traffic import LiveCounts
from ..metrics.process_figures import CLIENTS_AT_ONCE, Measured
from ..rules.json_text import encode
from ..runtime.histogram import Histogram
from ..runtime.memory import resident_bytes
from ..session.admission import Admission
from ..session.client_counts import ACCEPTED
from ..store.layout import PublishOptions, publish_words
from .log_lines import LogLines

__all__ = ["LiveFigures", "link_of", "quantile"]

log = logging.getLogger("gateway.console")

WATCH_SECONDS = 20.0
EVERY_SECONDS = 1.0
LINES_MOST = 50  # of the log, in one publication
LINES_BYTES = 32 * 1024
# Valkey's functions know only the rules of namespaces that are configured.
_KEPT: PublishOptions = {"size": CONSOLE_RULES.history_size, "ttl": CONSOLE_RULES.history_ttl}


class LiveFigures:
    """Publishes this process's figures; ``name`` is how people call the process. Nothing is published where there is no console."""

    def __init__(self, config: Config, measured: Measured, lines: LogLines, name: str) -> None:
        self._is_on = config.has_console
        self._measured = measured
        self._lines = lines
        self._name = name
        self._now = measured.node.hub.now
        self._task: asyncio.Task[None] | None = None
        self._until = 0.0
        self._seen = 0  # lines of the log
        self._deliveries = _Interval(measured.node.hub.counts.delivery)
        self._lags = _Interval(measured.lag.histogram)

    def watch(self) -> None:
        """Publishes for the next WATCH_SECONDS."""
        self._until = self._now() + WATCH_SECONDS
        if self._is_on and (self._task is None or self._task.done()):
            self._task = self._measured.node.tasks.spawn(self._run())

    async def _run(self) -> None:
        self._seen = self._lines.count
        self._deliveries.take()
        self._lags.take()
        due = self._now()
        while self._now() < self._until:
            try:
                await self._publish()
            except StoreError as error:  # logged once a second, it would be what the log consists of
                log.debug("figures for the console were not published: %s", error)
            due = max(due + EVERY_SECONDS, self._now())  # what took too long is not made good
            await asyncio.sleep(due - self._now())

    async def _publish(self) -> None:
        history = self._measured.node.history
        figures = encode(await self._figures())
        await history.publish(CONSOLE, publish_words(figures, **_KEPT))
        if lines := self._new_lines():
            await history.publish(CONSOLE, publish_words(encode(lines), ttl=0))

    async def _figures(self) -> dict[str, object]:
        measured, node = self._measured, self._measured.node
        admission, hub = node.admission, node.hub
        return {
            "kind": "figures",
            "node": node.uid,
            "name": self._name,
            "ms": time.time_ns() // 1_000_000,
            "clients": len(admission.clients),
            "users": len(admission.users),
            "channels": hub.channel_count,
            "subs": hub.subscriptions,
            "connects": sum(count for (_, code), count in admission.counts.connects.items() if code == ACCEPTED),
            **_traffic(hub.counts, admission.counts.sent),
            "slow": await _slow(admission),
            "latency_ms": self._latency(),
            "loop_lag_ms": self._lags.mean_ms(),
            "cpu": round(time.process_time(), 3),
            "rss": resident_bytes(),
            "link": link_of(measured),
            "draining": admission.draining,
        }

    def _latency(self) -> dict[str, float | None]:
        counts = self._deliveries.take()
        bounds = self._deliveries.bounds
        return {"p50": quantile(bounds, counts, 0.5), "p99": quantile(bounds, counts, 0.99)}

    def _new_lines(self) -> dict[str, object] | None:
        found = self._lines.since(self._seen)
        missed = self._lines.count - self._seen
        self._seen = self._lines.count
        room, shown = LINES_BYTES, 0
        while shown < min(len(found), LINES_MOST) and (room := room - len(found[-1 - shown].text.encode()) - 100) > 0:
            shown += 1
        if not missed:
            return None
        newest = found[len(found) - shown :]
        return {"kind": "log", "node": self._measured.node.uid, "name": self._name, "lines": newest, "more": missed - shown}


class _Interval:
    """What a histogram was given since the last look at it."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self.bounds = histogram.bounds
        self._counts = list(histogram.counts)
        self._total = histogram.total

    def take(self) -> list[int]:
        """How many values in each range."""
        new = [now - before for now, before in zip(self._histogram.counts, self._counts, strict=True)]
        self._counts, self._total = list(self._histogram.counts), self._histogram.total
        return new

    def mean_ms(self) -> float | None:
        """The mean of the values, which are seconds, in milliseconds; None if there are none. It takes them."""
        total = self._histogram.total - self._total
        count = sum(self.take())
        return round(total / count * 1000, 3) if count else None


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value, in milliseconds, below which that share of the values lies; None without values. ``bounds`` are seconds.

    Within a range the values are taken to be spread evenly; above the last bound they are taken for it.
    """
    wanted = sum(counts) * share
    if not wanted:
        return None
    passed, lower = 0.0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and passed + count >= wanted:
            return round((lower + (upper - lower) * (wanted - passed) / count) * 1000, 3)
        passed, lower = passed + count, upper
    return bounds[-1] * 1000


def _traffic(counts: LiveCounts, sent: int) -> Mapping[str, Any]:
    every = list(counts.traffic.values())
    return {
        "publications": sum(each.publications for each in every),
        "deliveries": sum(each.deliveries for each in every),
        "bytes": sent + sum(each.bytes for each in every),
        "gaps": sum(each.gaps.total() for each in every),
        "recovered": counts.page_publications.total(),
        "pages": counts.pages.total(),
    }


async def _slow(admission: Admission) -> int:
    """How many clients have a full socket; with many clients it takes some turns of the loop."""
    slow = 0
    for number, client in enumerate(list(admission.clients), 1):
        slow += client.paused
        if not number % CLIENTS_AT_ONCE:
            await asyncio.sleep(0)
    return slow


def link_of(measured: Measured) -> str:
    """ "up", or why publications may not reach this process."""
    doubts = "; ".join(measured.link.doubts.values())
    return doubts or ("up" if measured.link.proven else "there is no live link to Valkey")
