"""What a scrape of ``GET /metrics`` says, read by prometheus-client's own parser."""

from __future__ import annotations

from typing import Any, NamedTuple, Self
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from .gateways import RunningGateway

__all__ = ["METRICS_KEY", "Scraped", "scraped", "scraped_port"]

METRICS_KEY = "test-metrics-key"


class Scraped(NamedTuple):
    """``samples`` are (name, labels) → value; ``families`` the names and types of all metrics that have any."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    families: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Self:
        samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        families = {}
        for family in text_string_to_metric_families(text):
            families[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in samples, f"twice: {key}"
                samples[key] = sample.value
        return cls(samples, families)

    def value(self, metric: str, **labels: Any) -> float:
        """The sum of the metric's samples that have these labels."""
        wanted = {(name, str(value)) for name, value in labels.items()}
        found = [value for (name, has), value in self.samples.items() if name == metric and wanted <= has]
        assert found, f"no {metric} with {labels}"
        return sum(found)

    def values(self, label: str) -> set[str]:
        """All values of a label, of whatever metric."""
        return {value for _, labels in self.samples for name, value in labels if name == label}


def scraped(gateway: RunningGateway) -> Scraped:
    status, text = gateway.http("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}"})
    assert status == 200, text
    return Scraped.of(text.decode())


def scraped_port(port: int) -> Scraped:
    """From a port of its own."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return Scraped.of(answer.read().decode())
