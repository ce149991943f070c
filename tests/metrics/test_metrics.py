"""``GET /metrics``: what a scene did is what the figures moved by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.metrics.catalog import METRICS
from gateway.metrics.figures import Figures
from gateway.metrics.process_figures import _add_bridges
from gateway.work.bridges import BridgeStatistics

from ..kit.clients import client, connected_socket, opened, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway
from ..kit.scrapes import METRICS_KEY, Scraped, scraped
from ..kit.valkeys import OwnValkey
from ..kit.waiting import wait_until

PAGE = (Path(__file__).parents[2] / "static/docs/reference/metrics.md").read_text()

gateway = shared_gateway(f'metrics_key = "{METRICS_KEY}"\n{RULES}', own=True, both_edges=True)


class Scene:
    """``moved(metric, …)`` is by how much a figure has changed since the scene began."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway
        self._before = self._after = scraped(gateway)

    def moved(self, metric: str, **labels: object) -> float:
        before = self._before.value(metric, **labels) if self._has(metric, labels) else 0
        return self._after.value(metric, **labels) - before

    def _has(self, metric: str, labels: dict[str, object]) -> bool:
        wanted = {(name, str(value)) for name, value in labels.items()}
        return any(name == metric and wanted <= has for name, has in self._before.samples)

    def end(self) -> None:
        self._after = scraped(self._gateway)


@contextmanager
def scene(gateway: RunningGateway) -> Iterator[Scene]:
    """Figures are read before and after its body."""
    played = Scene(gateway)
    yield played
    played.end()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"Authorization": f"Bearer {API_KEY}x"}, 401),
        ({"X-API-Key": API_KEY}, 200),
        ({"Authorization": f"apikey {API_KEY}"}, 200),
        ({"X-API-Key": METRICS_KEY}, 200),
        ({"Authorization": f"Bearer {METRICS_KEY}"}, 200),
    ],
)
def test_metrics_are_closed_without_a_key(gateway: RunningGateway, headers: dict[str, str], status: int) -> None:
    assert gateway.http("GET", "/metrics", headers=headers)[0] == status


def test_the_key_of_metrics_opens_nothing_else(gateway: RunningGateway) -> None:
    for headers in ({"X-API-Key": METRICS_KEY}, {"Authorization": f"apikey {METRICS_KEY}"}):
        assert gateway.http("POST", "/api/info", b"{}", headers)[0] == 401


async def test_connects_commands_and_closes_are_counted(gateway: RunningGateway) -> None:
    with scene(gateway) as told:
        async with client(gateway, "u1", subscribe="chat:counted") as one, client(gateway, "u2", subscribe="chat:counted"):
            assert await one.error("subscribe", channel="sealed:x") == 103
            assert await one.error("subscribe", channel="sealed:y") == 103
            async with stream(gateway, "chat:counted") as events:
                await events.connected()
                told.end()
                assert told.moved("gateway_connections", transport="websocket") == 2
                assert told.moved("gateway_connections", transport="sse") == 1
                assert told.moved("gateway_subscriptions") - told.moved("gateway_channels") == 2, (
                    "one channel with three of them, and inboxes"
                )
        async with opened(gateway) as refused:
            await refused.send({"id": 1, "connect": {"token": "x.y.z"}})
            assert (await refused.ended())[0] == 3500
        async with stream(gateway, "chat:counted", token="x.y.z") as late:
            await late.refused()
        wait_until(lambda: scraped(gateway).value("gateway_connections") == 0, "all are gone")
    assert told.moved("gateway_connects_total", transport="websocket", code=0) == 2
    assert told.moved("gateway_connects_total", transport="sse", code=0) == 1
    assert told.moved("gateway_connects_total", transport="websocket", code=3500) == 1
    assert told.moved("gateway_connects_total", transport="sse", code=3500) == 1
    assert told.moved("gateway_closes_total", code=3000) == 3
    assert told.moved("gateway_closes_total", code=3500) == 1
    assert told.moved("gateway_commands_total", method="connect") == 3
    assert told.moved("gateway_commands_total", method="subscribe") == 4
    assert told.moved("gateway_command_errors_total", method="subscribe", code=103) == 2
    assert told.moved("gateway_received_bytes_total", source="websocket") > 100


async def test_publications_and_deliveries_are_counted(gateway: RunningGateway) -> None:
    async with client(gateway, "u1", subscribe="chat:three") as one, client(gateway, "u2", subscribe="chat:three") as two:
        with scene(gateway) as told:
            for number in range(3):
                gateway.publish("chat:three", {"text": "x" * 1000, "number": number})
            await one.publications(3)
            await two.publications(3)
    assert told.moved("gateway_publications_total", namespace="chat") == 3
    assert told.moved("gateway_deliveries_total", namespace="chat") == 6
    assert told.moved("gateway_deliveries_total") == 6, "and none elsewhere"
    assert 6000 < told.moved("gateway_sent_bytes_total", kind="publications") < 7000
    assert told.moved("gateway_api_requests_total", method="publish", code=0) == 3
    assert told.moved("gateway_received_bytes_total", source="api") > 3000


async def test_the_time_from_publish_to_delivery_is_sampled(gateway: RunningGateway) -> None:
    async with client(gateway, "u1", subscribe="member:sampled") as one:
        with scene(gateway) as told:
            for number in range(33):  # one by one: each is a fan-out
                gateway.publish("member:sampled", number)
                await one.publication()
    assert told.moved("gateway_delivery_seconds_count") == 3
    assert 0 <= told.moved("gateway_delivery_seconds_sum") < 3


async def test_a_filter_counts_what_it_admits(start_filtered: RunningGateway) -> None:
    wanted = {"key": "lang", "cmp": "eq", "val": "en"}
    async with client(start_filtered) as one, client(start_filtered, subscribe="tagged:1") as two:
        await one.result("subscribe", channel="tagged:1", tf=wanted)
        with scene(start_filtered) as told:
            for lang in ("en", "de", "en"):
                start_filtered.publish("tagged:1", 1, tags={"lang": lang})
            await one.publications(2)
            await two.publications(3)
    assert told.moved("gateway_deliveries_total", namespace="tagged") == 5


@pytest.fixture
def start_filtered(start_gateway) -> RunningGateway:
    return start_gateway(f'metrics_key = "{METRICS_KEY}"\n[namespaces.tagged]\ntags_filter = true\n')


async def test_catch_ups_and_gaps_are_counted_by_where_they_come_from(gateway: RunningGateway, channel: str) -> None:
    for number in range(5):
        gateway.publish(channel, number)
    epoch = gateway.epoch(channel)
    with scene(gateway) as told:
        async with client(gateway) as one:
            await one.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=2)
        async with client(gateway) as two:
            await two.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=2)
        async with client(gateway) as three:
            await three.result("subscribe", channel=channel, recover=True, epoch="elsewhere", offset=2)
    assert told.moved("gateway_catchup_pages_total", source="history") == 1
    assert told.moved("gateway_catchup_pages_total", source="ring") == 1, "what the first read is in the ring for the second"
    assert told.moved("gateway_catchup_publications_total") == 6
    assert told.moved("gateway_history_reads_total") >= 1
    assert told.moved("gateway_gaps_total", namespace="chat", when="subscribe") == 1


async def test_a_client_that_reads_too_slowly_shows_with_what_waits_for_it(gateway: RunningGateway, channel: str) -> None:
    async with await connected_socket(gateway, channel, small=True) as slow:
        for _ in range(3):  # one is more than the kernel takes, and another server takes one before it notices
            gateway.publish(channel, "x" * 6_000_000)
        wait_until(lambda: scraped(gateway).value("gateway_slow_clients") == 1, "its socket is full")
        read = scraped(gateway)
        assert read.value("gateway_subscriptions_behind") >= 1
        assert read.value("gateway_waiting_bytes") > 65536
        slow.writer.transport.abort()
    wait_until(lambda: scraped(gateway).value("gateway_waiting_bytes") == 0, "nothing waits for a client that is gone")


async def test_a_lost_link_shows_with_the_time_until_its_channels_are_open_again(gateway: RunningGateway, own: OwnValkey) -> None:
    async with client(gateway, subscribe="chat:linked") as one:
        with scene(gateway) as told:
            own.kill_links()
            wait_until(lambda: told.end() or told.moved("gateway_link_losses_total") == 1, "a loss")
            gateway.publish("chat:linked", "after")
            assert (await one.publication())["data"] == "after"
            wait_until(lambda: scraped(gateway).value("gateway_link_up") == 1, "the link is back")
    assert told.moved("gateway_mend_seconds_count") >= 1
    assert told.moved("gateway_mend_seconds_sum") < 10


def test_a_scrape_answers_while_valkey_hangs(gateway: RunningGateway, own: OwnValkey) -> None:
    with own.frozen():
        read = scraped(gateway)
    assert (read.value("gateway_valkey_read", part="queues"), read.value("gateway_valkey_read", part="outbox")) == (0, 0)
    assert read.value("gateway_worker_up") == 1
    wait_until(lambda: scraped(gateway).value("gateway_valkey_read") == 2, "it answers again")


async def test_a_code_that_a_service_chose_counts_as_other(gateway: RunningGateway) -> None:
    with scene(gateway) as told:
        async with client(gateway, "u9") as one:
            gateway.api("disconnect", user="u9", disconnect={"code": 4321, "reason": "so"})
            assert (await one.ended())[0] == 4321
    assert told.moved("gateway_closes_total", code="other") == 1


def test_a_method_or_a_code_that_is_not_known_counts_as_other(gateway: RunningGateway) -> None:
    with scene(gateway) as told:
        for name in ("x", "y" * 60, 'a"}b'):
            gateway.http("POST", f"/api/{name}".replace('"', "%22"), b"{}", {"X-API-Key": API_KEY})
    assert told.moved("gateway_api_requests_total", method="other", code=104) == 3


def test_no_channel_user_or_key_is_in_a_scrape(gateway: RunningGateway) -> None:
    status, text = gateway.http("GET", "/metrics", headers={"X-API-Key": API_KEY})
    assert status == 200
    for secret in (b"chat:", b"three", b"u1", METRICS_KEY.encode(), API_KEY.encode(), gateway.prefix.encode()):
        assert secret not in text


def test_every_metric_is_documented() -> None:
    for metric in METRICS:
        assert f"`{metric.name}`" in PAGE, metric.name
        for label in metric.labels:
            assert f"`{label}`" in PAGE


def test_every_metric_that_has_a_value_is_in_the_catalog_with_its_type(gateway: RunningGateway) -> None:
    families = scraped(gateway).families
    kinds = {metric.name: metric.kind for metric in METRICS}
    assert families.items() <= kinds.items()
    sometimes = {name for name in kinds if name.startswith(("gateway_bridge_", "gateway_outbox_", "gateway_queue_"))}
    assert kinds.keys() - families.keys() <= sometimes | {"gateway_command_errors_total"}


def test_label_values_from_outside_are_escaped_and_bounded() -> None:
    from gateway.metrics.exposition import exposition
    from gateway.metrics.figures import Figures

    hostile = 'a"} 1\n# TYPE x counter\nx{y="\\ü\u2028'
    shared = Figures()
    shared.add("gateway_queue_workers", 2, hostile)
    read = Scraped.of(exposition({0: Figures()}, shared).decode())
    assert read.value("gateway_queue_workers", queue=hostile) == 2
    assert read.families.keys() == {"gateway_worker_up", "gateway_queue_workers"}


def test_what_waits_for_a_bridge_is_known_to_the_process_that_works_alone() -> None:
    """A process that worked once would show for good what it left then, and a dashboard shows the most of all processes."""
    worked, works = BridgeStatistics(waiting=5000), BridgeStatistics(waiting=2, working=True)
    figures, bridges = Figures(), Mock(statistics={"worked": worked, "works": works})
    _add_bridges(figures, bridges)
    assert figures.samples["gateway_bridge_waiting"] == [(("works",), 2.0)]
    assert figures.samples["gateway_bridge_working"] == [(("worked",), 0.0), (("works",), 1.0)]
