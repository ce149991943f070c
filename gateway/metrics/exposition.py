"""Figures as Prometheus' text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .catalog import METRICS, Metric
from .figures import Figures, Spread

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # any Prometheus reads it, whichever its age
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


def exposition(workers: Mapping[int, Figures | None], shared: Figures) -> bytes:
    """The text of one scrape. ``workers`` are by number, None for one that did not answer."""
    return generate_latest(_Scraped(workers, shared))


class _Scraped(Collector):
    def __init__(self, workers: Mapping[int, Figures | None], shared: Figures) -> None:
        self._workers = {str(number): figures for number, figures in sorted(workers.items())}
        self._shared = shared

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.all_labels)
            for labels, value in self._samples(metric):
                if isinstance(value, Spread):
                    family.add_metric(labels, _buckets(value), value.total)
                else:
                    family.add_metric(labels, value)
            if family.samples:
                yield family

    def _samples(self, metric: Metric) -> Iterator[tuple[tuple[str, ...], float | Spread]]:
        if metric.shared:
            yield from self._shared.samples.get(metric.name, ())
            return
        for worker, figures in self._workers.items():
            if metric.name == "gateway_worker_up":
                yield (worker,), float(figures is not None)
            elif figures is not None:
                yield from (((worker, *labels), value) for labels, value in figures.samples.get(metric.name, ()))


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    """The upper end of each range, and how many values lie up to it."""
    ends = [*map(floatToGoString, spread.bounds), "+Inf"]
    return list(zip(ends, accumulate(spread.counts), strict=True))
