"""What all gateways share is read from Valkey: work queues and outboxes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.metrics import shared_figures as module
from gateway.metrics.exposition import exposition
from gateway.metrics.shared_figures import shared_figures
from gateway.store.history import History
from gateway.work import Queue
from gateway.work.queues import Queues
from publishers.database import Database
from publishers.outbox_reporting import OutboxReporter
from publishers.relay import Relay
from publishers.reviews import create_review

from ..kit.scrapes import Scraped
from ..kit.valkeys import opened_history


class Node:
    """As much of a node as is read."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.queues = Queues(history.commands, history.layout)


async def read(history: History) -> Scraped:
    node: Any = Node(history)
    return Scraped.of(exposition({}, await shared_figures(node)).decode())


async def test_queues_are_counted_the_first_by_name_and_the_others_together(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NAMED_MOST", 2)
    monkeypatch.setattr(module, "READ_MOST", 24)
    async with opened_history(valkey_url, prefix, Config()) as history, Queue(valkey_url, prefix=prefix) as queue:
        for number in range(30):
            for _ in range(number):
                await queue.enqueue("x", {}, queue=f"q{number:02d}")
        await queue.enqueue("x", {}, queue="q01", delay=60)
        figures = await read(history)
    assert figures.value("gateway_queues") == 29
    assert figures.values("queue") == {"q01", "q02", "all others"}
    assert figures.value("gateway_queue_jobs", queue="q01", state="ready") == 1
    assert figures.value("gateway_queue_jobs", queue="q01", state="delayed") == 1
    assert figures.value("gateway_queue_events_total", queue="q02", event="enqueued") == 2
    assert figures.value("gateway_queue_jobs", queue="all others", state="ready") == sum(range(3, 25)), "those past READ_MOST are not read"
    assert figures.value("gateway_valkey_read", part="queues") == 1


async def test_a_queue_keeps_its_figures_when_others_come_and_its_place_is_free_when_it_is_gone(
    valkey_url: str, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name before its own moved it to the others, whose counters jumped by all that it had counted."""
    monkeypatch.setattr(module, "NAMED_MOST", 2)

    async def own() -> set[str]:
        return (await read(history)).values("queue") - {"all others"}  # by another process each time

    async with opened_history(valkey_url, prefix, Config()) as history, Queue(valkey_url, prefix=prefix) as queue:
        for name in ("m", "n", "z"):
            await queue.enqueue("x", {}, queue=name)
        assert await own() == {"m", "n"}
        await queue.enqueue("x", {}, queue="a")
        assert await own() == {"m", "n"}
        store.srem(f"{prefix}:queues", "m")
        assert await own() == {"a", "n"}
        assert set(store.smembers(history.layout.queues_shown)) == {b"a", b"n"}
        store.set(history.layout.queues_shown, "no set")
        assert await own() == {"a", "n"}, "the first by name"


async def test_a_queue_that_another_program_broke_costs_its_own_figures_alone(valkey_url: str, prefix: str, store: valkey.Valkey) -> None:
    async with opened_history(valkey_url, prefix, Config()) as history, Queue(valkey_url, prefix=prefix) as queue:
        for name in ("bad", "good"):
            await queue.enqueue("x", {}, queue=name)
        store.set(history.layout.queue("bad")[0], "no hash")
        figures = await read(history)
    assert figures.values("queue") == {"good"}
    assert figures.value("gateway_valkey_read", part="queues") == 1
    assert history.layout.faults.counts["queue"] == 1


async def test_what_valkey_gave_in_time_is_shown(valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster of which a shard is away: its queues have no answer."""
    overview = Queues.overview

    async def answer(queues: Queues, name: str) -> Any:
        return await (asyncio.sleep(60) if name == "away" else overview(queues, name))

    monkeypatch.setattr(Queues, "overview", answer)
    monkeypatch.setattr(module, "READ_SECONDS", 2.0)  # a busy machine needs some of it for the queue that is there
    async with opened_history(valkey_url, prefix, Config()) as history, Queue(valkey_url, prefix=prefix) as queue:
        for name in ("away", "there"):
            await queue.enqueue("x", {}, queue=name)
        figures = await read(history)
    assert (figures.values("queue"), figures.value("gateway_valkey_read", part="queues")) == ({"there"}, 0)


async def test_a_relay_reports_its_outbox(database: Database, valkey_url: str, prefix: str, store: valkey.Valkey) -> None:
    async with opened_history(valkey_url, prefix, Config()) as history:
        assert (await read(history)).value("gateway_outbox_databases") == 0
        async with database.transaction() as transaction:
            await create_review(transaction, subject="42", author="u1", rating=5, text="good")
        await asyncio.sleep(0.01)
        await OutboxReporter(database, history).report()
        waiting = await read(history)
        await Relay(database, history).drain()
        await OutboxReporter(database, history).report()
        done = await read(history)
        store.hset(f"{prefix}:outbox", "another", "no report")
        store.hset(f"{prefix}:outbox", "old", '{"rows": 7, "oldest_seconds": 7, "at": 1}')
        assert await read(history) == done, "what is no report, or an old one, is left out"
    assert 0 < store.ttl(f"{prefix}:outbox") <= 30
    assert waiting.value("gateway_outbox_databases") == 1
    assert waiting.value("gateway_outbox_rows") >= 1
    assert 0.01 <= waiting.value("gateway_outbox_oldest_seconds") < 60
    assert (done.value("gateway_outbox_rows"), done.value("gateway_outbox_oldest_seconds")) == (0, 0)


async def test_the_outbox_of_a_relay_whose_clock_is_hours_behind_is_there(
    database: Database, valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reports seemed old, so that nobody was alerted of a backlog."""
    monkeypatch.setattr("publishers.outbox_reporting.time", SimpleNamespace(time=lambda: time.time() - 7200))
    async with opened_history(valkey_url, prefix, Config()) as history:
        await OutboxReporter(database, history).report()
        assert (await read(history)).value("gateway_outbox_databases") == 1


async def test_what_valkey_refuses_is_left_out_and_named(valkey_url: str, prefix: str, store: valkey.Valkey) -> None:
    store.set(f"{prefix}:queues", "no set")
    async with opened_history(valkey_url, prefix, Config()) as history:
        figures = await read(history)
    assert (figures.value("gateway_valkey_read", part="queues"), figures.value("gateway_valkey_read", part="outbox")) == (0, 1)
    assert "gateway_queues" not in figures.families
