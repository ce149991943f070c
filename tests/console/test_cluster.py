"""The console and the metrics on a cluster of which a shard is away: what the others have is shown, and the shard is named."""

from __future__ import annotations

import json
import time

import pytest

from ..kit.clusters import Cluster, Node
from ..kit.gateways import API_KEY, RunningGateway, Start
from ..kit.operators import WITH_CONSOLE, Operator, log_in
from ..kit.scrapes import METRICS_KEY, scraped
from ..kit.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(shards: Cluster, start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(f'metrics_key = "{METRICS_KEY}"\n' + WITH_CONSOLE, valkey_url=shards.url)


@pytest.fixture(scope="module")
def dead(gateway: RunningGateway, shards: Cluster) -> Node:
    """A primary that is killed; the names of queues and of readers are elsewhere."""
    needed = {shards.owner(f"{gateway.prefix}:{key}").port for key in ("queues", "readers")}
    return next(node for node in shards.primaries if node.port not in needed)


@pytest.fixture(scope="module")
def operator(gateway: RunningGateway, shards: Cluster, dead: Node) -> Operator:
    """With a queue and a durable reader in each shard, one of which is away since."""
    channels = []
    for node in shards.primaries:
        queue = next(name for name in map("q{}".format, range(1000)) if shards.owner(f"x{{{name}}}") is node)
        channels.append(next(name for name in map("posts:{}".format, range(1000)) if shards.owner(f"x{{{name}}}") is node))
        assert gateway.api("enqueue", queue=queue, name="x", data={})["result"]["new"]
        gateway.publish(channels[-1], 1)
    report = json.dumps({"namespace": "", "channels": channels, "at": time.time()})
    shards.owner(f"{gateway.prefix}:readers").ask("HSET", f"{gateway.prefix}:readers", "search", report)
    operator = log_in(gateway)
    shards.kill(dead)
    noticed = f"127.0.0.1:{dead.port}".encode()
    wait_until(lambda: noticed in gateway.http("GET", "/health/ready", headers={"X-API-Key": API_KEY})[1], "the loss is noticed")
    return operator


def test_queues_of_a_shard_that_is_away_hide_no_others(operator: Operator, shards: Cluster, dead: Node) -> None:
    rows = operator.call("queues")["queues"]
    assert len(rows) == 3 and sum(row.get("ready", 0) for row in rows) == 2
    (lost,) = [row for row in rows if "error" in row]
    assert lost["error"] == f"no connection to Valkey at valkey://127.0.0.1:{dead.port}"
    assert operator.refusal("queue", queue=lost["name"], state="ready") == lost["error"]


def test_their_metrics_are_missing_and_those_of_others_are_not(operator: Operator, gateway: RunningGateway, dead: Node) -> None:
    (lost,) = [row["name"] for row in operator.call("queues")["queues"] if "error" in row]
    figures = scraped(gateway)
    assert len(figures.values("queue")) == 2 and lost not in figures.values("queue")
    assert (figures.value("gateway_queues"), figures.value("gateway_valkey_read", part="queues")) == (3, 0)
    assert f"queues could not be read: no connection to Valkey at valkey://127.0.0.1:{dead.port}" in gateway.log()


def test_durable_readers_of_a_shard_that_is_away_hide_no_others(operator: Operator, dead: Node) -> None:
    rows = operator.call("readers")["readers"]
    assert [row.get("error", "") for row in rows].count(f"no connection to Valkey at valkey://127.0.0.1:{dead.port}") == 1
    assert len(rows) == 3 and sum(row.get("lag", 0) for row in rows) == 2


def test_processes_that_cannot_be_asked_are_not_waited_for(
    operator: Operator, gateway: RunningGateway, shards: Cluster, dead: Node
) -> None:
    """Where the shard of their leases was away, the page of processes came after 10 s."""
    shards.start(dead)
    shards.wait_whole()
    wait_until(lambda: b"impaired" not in gateway.http("GET", "/health/ready")[1], "its return is noticed")
    lost = shards.owner(f"{gateway.prefix}:nodes")
    shards.kill(lost)
    fault = f"no connection to Valkey at valkey://127.0.0.1:{lost.port}"
    wait_until(lambda: fault.encode() in gateway.http("GET", "/health/ready", headers={"X-API-Key": API_KEY})[1], "the loss is noticed")
    found = operator.call("nodes")
    assert (len(found["nodes"]), found["warning"]) == (1, f"the other processes cannot be asked: {fault}")
    assert operator.refusal("log") == fault
