"""Traces: what a request, a call or a transaction begins, its publications, jobs and services continue."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from gateway.errors import ConfigurationError, Failure
from gateway.rpc import Service
from gateway.runtime import tracing
from gateway.runtime.spans import Spans
from gateway.work import Queue, SyncQueue, Worker
from gateway.work.jobs import read_job
from publishers import Publisher, SyncPublisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.relay import Relay

from ..kit.clients import client
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.jobs import working
from ..kit.programs import run
from ..kit.services import running
from ..kit.traces import Collector, OwnSpans, own_spans

PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{PARENT[0]}-{PARENT[1]}-01"
INVALID = ["", "nonsense", TRACEPARENT[:-1], TRACEPARENT.replace(PARENT[0], "0" * 32), TRACEPARENT.replace("00-", "ff-"), "0" * 600]
TRACED = "[telemetry]\ntraces = true\npublication_tags = true\n"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start, collector: Collector) -> RunningGateway:
    return start_gateway_once(RULES + TRACED, environment=collector.environment)


@pytest.fixture
def spans() -> Iterator[OwnSpans]:
    with own_spans() as spans:
        yield spans


@pytest.fixture
async def queue(gateway: RunningGateway, valkey_url: str) -> AsyncIterator[Queue]:
    async with Queue(valkey_url, prefix=gateway.prefix) as queue:
        yield queue


async def post(gateway: RunningGateway, method: str, traceparent: str = TRACEPARENT, /, **request: Any) -> None:
    headers = {"X-API-Key": API_KEY, "traceparent": traceparent}
    status, answer = await asyncio.to_thread(gateway.http, "POST", f"/api/{method}", json.dumps(request).encode(), headers)
    assert status == 200 and b'"result"' in answer, answer


# Publications.


async def test_a_page_that_receives_a_publication_finds_the_trace_of_the_request_in_its_tags(
    gateway: RunningGateway, collector: Collector, channel: str
) -> None:
    async with client(gateway, subscribe=channel) as wire:
        await post(gateway, "publish", channel=channel, data={"secret": 1}, tags={"kind": "a"})
        tags = (await wire.publication())["tags"]
    request = await collector.span("POST /api/publish", PARENT[0])
    assert request.parent == PARENT[1]
    assert tags == {"kind": "a", "traceparent": f"00-{PARENT[0]}-{request.span}-01"}
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/publish",
        "messaging.destination.name": channel,
    }
    assert collector.services == {"gateway"}


async def test_a_notification_has_the_trace_of_its_request_and_its_span_does_not_name_the_user(
    gateway: RunningGateway, collector: Collector, user: str
) -> None:
    async with client(gateway, user) as wire:
        await post(gateway, "notify", user=user, data={"id": "n1"})
        assert PARENT[0] in (await wire.publication())["tags"]["traceparent"]
    assert user not in str(await collector.span("POST /api/notify"))


@pytest.mark.parametrize("invalid", INVALID)
async def test_an_invalid_traceparent_is_ignored(gateway: RunningGateway, collector: Collector, channel: str, invalid: str) -> None:
    async with client(gateway, subscribe=channel) as wire:
        await post(gateway, "publish", invalid, channel=channel, data=1)
        given = (await wire.publication())["tags"]["traceparent"]
    assert tracing.is_traceparent(given) and not tracing.is_traceparent(invalid)
    request = await collector.span("POST /api/publish", given.split("-")[1])
    assert request.parent == "" and request.trace != PARENT[0]


async def test_a_request_that_is_refused_is_a_span_that_failed(gateway: RunningGateway, collector: Collector) -> None:
    headers = {"X-API-Key": API_KEY, "traceparent": TRACEPARENT.replace(PARENT[0], "1" * 32)}
    await asyncio.to_thread(gateway.http, "POST", "/api/publish", b'{"channel": "nowhere:1", "data": 1}', headers)
    refused = await collector.span("POST /api/publish", "1" * 32)
    assert refused.failed and refused.attributes["error.type"] == "102"


async def test_a_gateway_without_traces_passes_the_trace_of_a_request_on(start_gateway: Start, channel: str) -> None:
    gateway = start_gateway(RULES + "[telemetry]\npublication_tags = true\n")
    async with client(gateway, subscribe=channel) as wire:
        await post(gateway, "publish", channel=channel, data=1)
        await post(gateway, "publish", "nonsense", channel=channel, data=2)
        first, second = await wire.publications(2)
    assert first["tags"] == {"traceparent": TRACEPARENT} and "tags" not in second


async def test_a_publisher_that_is_asked_for_it_tags_publications_with_its_span(
    gateway: RunningGateway, valkey_url: str, channel: str, spans: OwnSpans, user: str
) -> None:
    options: dict[str, Any] = {"prefix": gateway.prefix, "trace": True}
    async with client(gateway, user, subscribe=channel) as wire, Publisher(valkey_url, **options) as publisher:
        with spans.tracer.start_as_current_span("order"):
            await publisher.publish(channel, 1, tags={"kind": "a"})
            with SyncPublisher(valkey_url, **options) as plain:
                await asyncio.to_thread(plain.publish, channel, 2)
            await publisher.notify(user, {"id": "n1"})
        await publisher.publish(channel, 3)
        received = await wire.publications(5)  # one is the count of unread notifications
    order = await spans.span("order")
    traceparent = f"00-{order.trace}-{order.span}-03"  # sampled, and its id is random
    # Between two channels there is no order.
    tags = {str(each["data"]): each.get("tags") for each in received if "inbox" not in str(each["data"])}
    tagged = {"traceparent": traceparent}
    assert tags == {"1": {"kind": "a", **tagged}, "2": tagged, str({"id": "n1"}): tagged, "3": None}


# Jobs.


async def test_a_job_continues_the_trace_of_the_request_that_enqueued_it(
    gateway: RunningGateway, collector: Collector, valkey_url: str, spans: OwnSpans
) -> None:
    worker = Worker(url=valkey_url, prefix=gateway.prefix, queues=["mail"])

    @worker.job("mail.send")
    async def send(job: Any, data: Any) -> None:
        raise ValueError("the password is 1234")

    async with working(worker):
        await post(gateway, "enqueue", name="mail.send", data={"to": "ann"}, queue="mail", attempts=1)
        run = await spans.span("run mail.send")
    enqueue = await collector.span("enqueue", PARENT[0])
    request = await collector.span("POST /api/enqueue", PARENT[0])
    assert (run.trace, run.parent, enqueue.parent, request.parent) == (PARENT[0], enqueue.span, request.span, PARENT[1])
    assert enqueue.attributes == {"messaging.destination.name": "mail", "gateway.job": "mail.send"}
    assert run.failed and run.attributes["error.type"] == "ValueError"
    assert "1234" not in str(run) and "ann" not in str((run, enqueue, request))


async def test_jobs_of_producers_continue_their_traces_and_a_batch_is_linked_to_each(
    gateway: RunningGateway, queue: Queue, valkey_url: str, spans: OwnSpans
) -> None:
    worker = Worker(url=valkey_url, prefix=gateway.prefix, queues=["letters"])
    plain = SyncQueue(valkey_url, prefix=gateway.prefix)

    @worker.job("letters.send", batch=2, within=5)
    async def send(jobs: list[Any], data: list[Any]) -> None: ...

    @worker.job("letters.write")
    def write(job: Any) -> None:
        spans.tracer.start_span("written").end()

    with spans.tracer.start_as_current_span("order"):
        await queue.enqueue("letters.send", 1, queue="letters")
        await asyncio.to_thread(plain.enqueue, "letters.send", 2, queue="letters")
        await queue.enqueue("letters.write", queue="letters")
    plain.close()
    async with working(worker):
        batch, run, written = [await spans.span(name) for name in ("run letters.send", "run letters.write", "written")]
    order = await spans.span("order")
    enqueued = [span for span in spans.all() if span.name == "enqueue"]
    assert [span.parent for span in enqueued] == [order.span] * 3
    assert batch.parent == "" and batch.links == [(order.trace, span.span) for span in enqueued[:2]]
    assert (run.trace, run.parent, written.parent) == (order.trace, enqueued[2].span, run.span), "a handler in a thread is in the span, too"


async def test_a_job_without_a_trace_begins_one_and_no_producer_without_spans_names_any(
    gateway: RunningGateway, queue: Queue, valkey_url: str
) -> None:
    worker = Worker(url=valkey_url, prefix=gateway.prefix, queues=["plain"])

    @worker.job("plain")
    async def plain(job: Any) -> None: ...

    job = await queue.enqueue("plain", queue="plain")
    view = await job.look()
    assert view.job is not None and view.job.traceparent is None
    with own_spans() as spans, spans.tracer.start_as_current_span("the worker's own program"):
        async with working(worker):
            run = await spans.span("run plain")
    assert run.parent == ""


async def test_the_relay_is_linked_to_the_transaction_and_the_job_continues_it(
    gateway: RunningGateway, queue: Queue, tmp_path: Path, valkey_url: str, spans: OwnSpans, user: str
) -> None:
    worker = Worker(url=valkey_url, prefix=gateway.prefix, queues=["bills"])

    @worker.job("bills.send")
    async def send(job: Any) -> None: ...

    async with Database(f"sqlite:///{tmp_path}/shop.db") as database, Publisher(valkey_url, prefix=gateway.prefix) as publisher:
        await migrate(database)
        with spans.tracer.start_as_current_span("buy"):
            async with database.transaction() as transaction:
                transaction.enqueue("bills.send", queue="bills")
                transaction.notify(user, {"id": "n1"})
        await Relay(database, publisher.history).drain()
    async with working(worker):
        run = await spans.span("run bills.send")
    buy = await spans.span("buy")
    relayed = {span.attributes["messaging.destination.name"]: span for span in spans.all() if span.name == "relay"}
    assert (run.trace, run.parent) == (buy.trace, buy.span)
    assert relayed["bills"].links == [(buy.trace, buy.span)] and relayed["bills"].parent == ""
    assert relayed.keys() == {"bills", "notifications:"}, "no span names the user of an inbox"


# Services.


async def test_a_service_continues_the_trace_of_the_call(
    gateway: RunningGateway, collector: Collector, valkey_url: str, spans: OwnSpans
) -> None:
    service = Service(valkey_url, prefix=gateway.prefix)

    @service.method("orders.cancel")
    def cancel(caller: Any, data: Any) -> Any:
        if not data:
            raise Failure(409, "it was shipped")
        return tracing.traceparent()

    async with running(service), client(gateway) as wire:
        inside = (await wire.result("rpc", method="orders.cancel", data={"order": 17}))["data"]
        call, served = await collector.span("rpc orders.cancel"), await spans.span("rpc orders.cancel")
        assert (served.trace, served.parent, call.parent) == (call.trace, call.span, "")
        assert inside.split("-")[1:3] == [call.trace, served.span]
        assert call.attributes == served.attributes == {"rpc.method": "orders.cancel"} and not served.failed
        await wire.error("rpc", method="orders.cancel", data=0)
    assert (await spans.span("rpc orders.cancel")).failed


# Where they are made.


def test_nothing_is_imported_where_nothing_is_configured() -> None:
    modules = "gateway.serve.server, gateway.work, gateway.rpc, publishers.relay_program"
    code = f"import sys, {modules}; from gateway.runtime import tracing; tracing.start(False); print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "False\n"


def test_without_a_provider_nothing_happens() -> None:
    with tracing.span("a", "server", parent=TRACEPARENT, links=[TRACEPARENT], attributes={"a": 1}):
        tracing.note("a", 1)
        tracing.fail("a")
        assert tracing.traceparent() == "" and not tracing.is_on()
    tracing.end()


def test_the_provider_of_the_program_is_used_and_not_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(provider, "shutdown", lambda: pytest.fail("it is the program's"))
    try:
        tracing.start(True)
        with tracing.span("a"):
            assert tracing.is_traceparent(tracing.traceparent())
        tracing.end()
        assert tracing.is_on()
    finally:
        tracing.use(None)


def test_missing_packages_and_exporters_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(ConfigurationError, match="'zipkin', and no package that is installed has that exporter"):
        tracing.start(True)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delattr("opentelemetry.sdk.trace")
    with pytest.raises(ConfigurationError, match=r"pip install 'gateway\[telemetry\]'"):
        tracing.start(True)


def test_check_names_an_exporter_that_is_missing(valkey_url: str) -> None:
    environment = {"GATEWAY_TELEMETRY__TRACES": "true", "OTEL_TRACES_EXPORTER": "zipkin"}
    checked = run("check", "--valkey-url", valkey_url, environment=environment)
    assert checked.status == 1 and "OTEL_TRACES_EXPORTER names 'zipkin'" in checked.error


def test_a_collector_that_is_away_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "END_SECONDS", 0.05)
    provider, over, ended = TracerProvider(shutdown_on_exit=False), threading.Event(), list[bool]()
    monkeypatch.setattr(provider, "shutdown", lambda: ended.append(over.wait(10)))
    tracing.use(Spans(provider, ours=True))
    tracing.end()
    assert not ended and not tracing.is_on()
    over.set()


def test_a_job_of_an_older_producer_is_read() -> None:
    job = read_job(b'{"name":"a","priority":0,"attempts":1,"expires":0,"due":1,"result_ttl":0,"timeout":1,"enqueued":1,"data":1}')
    assert job is not None and job.traceparent is None
