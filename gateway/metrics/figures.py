"""The values of metrics: of one process, or of what all processes share. One worker sends them to another as msgpack."""

from __future__ import annotations

import msgspec

from ..runtime.histogram import Histogram

__all__ = ["Figures", "Spread"]


class Spread(msgspec.Struct):
    """The state of a histogram, as ``runtime.histogram`` describes it."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float


class Figures(msgspec.Struct):
    """``samples``: metric → the values of its labels (without ``worker``), and the figure itself."""

    samples: dict[str, list[tuple[tuple[str, ...], float | Spread]]] = {}

    def add(self, metric: str, value: float, *labels: str) -> None:
        self.samples.setdefault(metric, []).append((labels, float(value)))

    def add_histogram(self, metric: str, histogram: Histogram) -> None:
        self.samples.setdefault(metric, []).append(((), Spread(histogram.bounds, list(histogram.counts), histogram.total)))
