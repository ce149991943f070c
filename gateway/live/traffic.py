"""What the live part counts, in plain numbers that cost its paths next to nothing; ``metrics`` reads them.

Whatever is counted for each publication or round is in the ``Traffic`` of the channel's namespace, which the channel holds, so that
counting takes no look-up. A round counts its deliveries once, not subscription by subscription.
"""

from __future__ import annotations

import time
from collections import Counter

from ..channel_rules import CONSOLE
from ..config import Config
from ..runtime.histogram import Histogram
from ..runtime.loop_lag import SECONDS

__all__ = ["LiveCounts", "Traffic"]

SAMPLED = 16  # one fan-out of so many is timed
MEND_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
NAMESPACES_MOST = 100  # that are counted separately; the others are counted together
NO_NAMESPACE, OTHERS = "(none)", "(other)"  # no namespace can be called so


class LiveCounts:
    """What all channels of a process count together.

    ``delivery`` has the seconds from a publish, on Valkey's clock, until its last live subscription was written to; ``mend`` those
    from the loss of the link until a channel was open again. ``pages`` and ``page_publications`` count what catching-up
    subscriptions were given, by its source, "ring" or "history".
    """

    def __init__(self, config: Config) -> None:
        self.delivery = Histogram(SECONDS)
        self.mend = Histogram(MEND_SECONDS)
        self.pages: Counter[str] = Counter()
        self.page_publications: Counter[str] = Counter()
        self._own = {*list(config.namespaces)[:NAMESPACES_MOST]}
        # By namespace; all from the start, since Prometheus misses the first increase of a series that begins with it.
        self.traffic = {name: Traffic(self) for name in (NO_NAMESPACE, *sorted(self._own))}
        self._config = config

    def of(self, channel: str) -> Traffic:
        """The traffic of the channel's namespace. What the console follows of this process is in no figure."""
        if channel == CONSOLE and self._config.is_reserved(channel):
            return Traffic(LiveCounts(self._config))  # of no account: the console's figures would count themselves
        namespace, colon, _ = channel.partition(":")
        name = (namespace if namespace in self._own else OTHERS) if colon else NO_NAMESPACE
        return self.traffic.setdefault(name, Traffic(self))

    def took_page(self, source: str, publications: int) -> None:
        """A subscription that catches up was given so many publications that it had missed."""
        self.pages[source] += 1
        self.page_publications[source] += publications


class Traffic:
    """What the channels of one namespace count.

    ``publications``: how many came from Valkey. ``deliveries``: to how many live subscriptions each of these was written, added up. ``bytes``: of all
    publications that were written, to live subscriptions and to others that caught up. ``holes``: how often announcements were missing. ``gaps``: how
    many subscriptions were notified of a gap, by when: "live", "catch_up" or "subscribe". ``untimed``: after how many more fan-outs to few
    subscriptions one is timed.
    """

    __slots__ = ("bytes", "counts", "deliveries", "gaps", "holes", "publications", "untimed")

    def __init__(self, counts: LiveCounts) -> None:
        self.counts = counts
        self.publications = self.deliveries = self.bytes = self.holes = 0
        self.gaps: Counter[str] = Counter()
        self.untimed = 1  # the first is timed

    def wrote(self, payload: object, subscriptions: int, publications: int) -> None:
        """A payload of so many publications was written to so many subscriptions. The bytes of one that is not encoded yet are counted where it is."""
        self.deliveries += subscriptions * publications
        if type(payload) is bytes:
            self.bytes += len(payload) * subscriptions

    def time_delivery(self, ms: int) -> None:
        """A publication of that time, unix milliseconds or 0 if it is unknown, was written to the last of its live subscriptions."""
        self.untimed = SAMPLED
        if ms:
            self.counts.delivery.add(max(0.0, time.time() - ms / 1000))
