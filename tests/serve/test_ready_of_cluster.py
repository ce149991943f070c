"""One shard of a cluster: ``/health/ready`` names it while it is away, and the log has one line for each loss and return."""

from __future__ import annotations

import json

import pytest

from ..kit.clusters import Cluster
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.scrapes import Scraped
from ..kit.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(shards: Cluster, start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES, valkey_url=shards.url)


def becomes(gateway: RunningGateway, **expected: str) -> None:
    """It is ready, and the body of the answer holds these texts."""

    def is_so() -> bool:
        status, body = gateway.http("GET", "/health/ready", headers={"X-API-Key": API_KEY})
        found = json.loads(body)
        return status == 200 and found.keys() == expected.keys() and all(text in found[key] for key, text in expected.items())

    wait_until(is_so, f"{expected}")


def links(gateway: RunningGateway) -> tuple[float, float]:
    """What the alert GatewayLinkLost looks at, and whether commands reach all shards."""
    read = Scraped.of(gateway.http("GET", "/metrics", headers={"X-API-Key": API_KEY})[1].decode())
    return read.value("gateway_link_up"), read.value("gateway_valkey_connected")


def test_a_dead_shard_is_named_and_the_gateway_stays_ready(gateway: RunningGateway, shards: Cluster) -> None:
    start, dead = gateway.log_path.stat().st_size, shards.primaries[1]
    place = f"127.0.0.1:{dead.port}"
    becomes(gateway, status="ready")
    shards.kill(dead)
    becomes(gateway, status="ready", impaired=f"no connection to Valkey at valkey://{place}")
    anybody = json.loads(gateway.http("GET", "/health/ready")[1])
    assert anybody == {"status": "ready", "impaired": "some shards of the cluster are away"}
    wait_until(lambda: links(gateway) == (0, 0), "an alert can fire")
    wait_until(lambda: len(gateway.lines_since(start)) >= 2, "both losses are logged")
    shards.start(dead)
    becomes(gateway, status="ready")
    wait_until(lambda: len(gateway.lines_since(start)) >= 4, "both returns are logged")
    wait_until(lambda: links(gateway) == (1, 1), "it ends")
    shards.wait_whole()
    lines = gateway.lines_since(start)
    for sentence in (
        "there is no link to valkey at",
        "commands do not reach valkey at",
        "the link to valkey at",
        "commands reach valkey at",
    ):
        assert sum(sentence in line and place in line for line in lines) == 1, (sentence, lines)
    assert len(lines) == 4, "\n".join(lines)


def test_a_shard_that_has_no_slots_any_more_is_no_error(gateway: RunningGateway, shards: Cluster) -> None:
    node = shards.add_node()
    first, _ = shards.spans(shards.primaries[0])[0]
    start = gateway.log_path.stat().st_size
    shards.migrate([(first, first + 99)], node)
    wait_until(lambda: node.ask("CLIENT", "LIST").count(b"name=gateway") == 2, "commands and a link are connected to it")
    shards.empty_and_forget(node)
    becomes(gateway, status="ready")
    assert gateway.lines_since(start) == []
