"""The recipes for Prometheus and Grafana, loaded into a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.metrics.catalog import METRICS
from gateway.recipes import Installation, recipe
from gateway.work import Queue, Reject, Worker
from publishers import Publisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.relay_program import run_relay

from ..kit.channels import new_channel
from ..kit.clients import client
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.jobs import working
from ..kit.prometheus import Prometheus, needs_prometheus, promtool
from ..kit.waiting import wait_until

RECIPES = Path(str(files("gateway") / "recipes"))
ALERTS = RECIPES / "prometheus_alerts.yml"
DASHBOARD = json.loads((RECIPES / "grafana_dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
NAME = re.compile(r"\b(?:gateway|process)_[a-z_]+\b(?=[{\[)]|$)")

KEY = "a-key-of-prometheus"
SCRAPES = 8
GRAFANA = {"$__rate_interval": "5s", "$instance": ".*"}  # its variables, as Grafana fills them in


def names_in(expression: str) -> set[str]:
    """The names of metrics, of a histogram without what is added to them."""
    return {name.removesuffix("_bucket") for name in NAME.findall(expression)}


# The files.


@needs_prometheus
def test_the_alerts_fire_for_the_series_that_they_should_and_for_no_others() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", Path(__file__).parent / "alerts.yml")


def test_every_metric_of_the_alerts_and_the_dashboard_is_one_that_the_gateway_has() -> None:
    used = set().union(*map(names_in, EXPRESSIONS.values()), names_in(" ".join(re.findall(r"gateway_[a-z_]+[{\[)]", ALERTS.read_text()))))
    assert used <= {metric.name for metric in METRICS}


def test_every_alert_is_documented_and_says_what_to_do() -> None:
    page = (Path(__file__).parent.parent.parent / "static/docs/how-to/monitor.md").read_text()
    names = re.findall(r"alert: (\w+)", ALERTS.read_text())
    assert len(names) == 6
    assert all(f"| `{name}` |" in page for name in names)
    for annotation in ("summary", "description", "action", "severity"):
        assert len(re.findall(rf"^ +{annotation}: ", ALERTS.read_text(), re.MULTILINE)) == 6


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["instance"]["datasource"] == source
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["uid"] and DASHBOARD["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["type"] == "timeseries" and panel["title"] and panel["description"] and panel["datasource"] == source
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"] and len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == source and target["legendFormat"] and target["expr"].count('instance=~"$instance"')


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
        assert one["x"] + one["w"] <= 24


# A real Prometheus.


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(f'metrics_key = "{KEY}"\n{RULES}[[bridges]]\npubsub = "tech_news"\nchannel = "posts:tech"\n')


@pytest.fixture(scope="module")
def prometheus(gateway: RunningGateway, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped a gateway with clients, publications, jobs and an outbox for a while."""
    folder = tmp_path_factory.mktemp("prometheus")
    key = folder / "metrics_key"
    key.write_text(KEY)
    config = recipe("prometheus", Config(port=gateway.port), Installation("live.example.org", "/", "", ""))
    for given, ours in (
        ("/etc/prometheus/gateway_metrics_key", str(key)),
        ("scrape_interval: 15s", "scrape_interval: 200ms"),
    ):
        assert given in config
        config = config.replace(given, ours)
    (folder / "prometheus.yml").write_text("global: {evaluation_interval: 200ms}\n" + config)
    (folder / ALERTS.name).write_text(ALERTS.read_text())
    prometheus = Prometheus(folder / "prometheus.yml")
    try:
        wait_until(lambda: _scrapes(prometheus), "a first scrape")
        asyncio.run(_traffic(gateway, valkey_url, folder, prometheus))
        yield prometheus
    finally:
        prometheus.close()


def _scrapes(prometheus: Prometheus) -> float:
    samples = prometheus.query('sum_over_time(up{job="gateway"}[1m])')
    return float(samples[0]["value"][1]) if samples else 0


async def _traffic(gateway: RunningGateway, valkey_url: str, folder: Path, prometheus: Prometheus) -> None:
    """Every part of a gateway has something to do for SCRAPES scrapes; queries are then made of that time."""
    worker = Worker(url=valkey_url, prefix=gateway.prefix)

    @worker.job("work")
    async def work(job: Any, data: Any) -> None:
        if data % 2:
            raise Reject("odd")

    channel = new_channel()
    async with (
        Database(f"sqlite:///{folder}/outbox.db") as database,
        Publisher(valkey_url, prefix=gateway.prefix) as publisher,
        Queue(valkey_url, prefix=gateway.prefix) as queue,
        working(worker),
        client(gateway, subscribe=channel) as wire,
    ):
        await migrate(database)
        relay = asyncio.create_task(run_relay(database, publisher.history))
        number = 0
        while await asyncio.to_thread(_scrapes, prometheus) < SCRAPES:
            async with client(gateway, "u2") as other:
                assert await other.error("subscribe", channel="nowhere:1") == 102
                await other.result("subscribe", channel=channel, recover=True, offset=0, epoch="")
            await asyncio.to_thread(gateway.api, "publish", channel=channel, data=number)
            await publisher.publish_many(channel, range(20))
            await queue.enqueue("work", number)
            async with database.transaction() as transaction:
                transaction.publish(channel, number)
            await wire.publications(22)
            number += 1
        prometheus.now = f"{time.time():.3f}"
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)


@needs_prometheus
def test_prometheus_scrapes_the_gateway_with_its_key_and_evaluates_the_six_alerts(prometheus: Prometheus) -> None:
    [target] = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    [group] = prometheus.ask("rules")["groups"]
    rules = {rule["name"]: (rule["type"], rule["health"], rule.get("lastError")) for rule in group["rules"]}
    assert len(rules) == 6 and set(rules.values()) == {("alerting", "ok", None)}


@needs_prometheus
def test_every_metric_of_the_dashboard_is_scraped(prometheus: Prometheus) -> None:
    scraped = set(prometheus.ask("label/__name__/values"))
    scraped |= {name.removesuffix("_bucket") for name in scraped}
    assert set().union(*map(names_in, EXPRESSIONS.values())) <= scraped


@needs_prometheus
@pytest.mark.parametrize("panel", EXPRESSIONS)
def test_every_expression_of_the_dashboard_finds_data(prometheus: Prometheus, panel: str) -> None:
    expression = EXPRESSIONS[panel]
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    assert prometheus.query(expression), expression
