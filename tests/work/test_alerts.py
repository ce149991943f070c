"""Alerts: a queue that reaches a threshold is logged and published once, over all gateways; and again when that is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import valkey

from gateway.config import Alerts as Settings
from gateway.config import Config, Thresholds
from gateway.store.history import History
from gateway.work import alerts as alerts_module
from gateway.work.alerts import Alerts
from gateway.work.jobs import job_words
from gateway.work.queues import Queues

from ..kit.clients import client
from ..kit.gateways import Start
from ..kit.valkeys import opened_history
from ..kit.waiting import until

EVERY = 0.02


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> AsyncIterator[History]:
    async with opened_history(valkey_url, prefix, Config()) as history:
        yield history


@pytest.fixture
def queues(history: History) -> Queues:
    return Queues(history.commands, history.layout)


@contextlib.asynccontextmanager
async def looking(history: History, settings: Settings, gateways: int = 3) -> AsyncIterator[None]:
    """Gateways that look at the queues in turn."""
    queues = Queues(history.commands, history.layout)
    tasks = [asyncio.create_task(Alerts(settings, queues, history, every=EVERY).run()) for _ in range(gateways)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


@pytest.fixture
def published(history: History, store: valkey.Valkey) -> Callable[[], list[dict[str, Any]]]:
    stream = history.layout.keys("alerts")[1]
    return lambda: [json.loads(fields[b"data"]) for _, fields in store.xrange(stream)]


async def some_turns(store: valkey.Valkey, history: History) -> None:
    """Gateways have looked several times since."""
    for _ in range(3):
        await until(lambda: bool(store.exists(history.layout.alerts + b":turn")), "a turn begins")
        await until(lambda: not store.exists(history.layout.alerts + b":turn"), "a turn ends")


async def test_a_queue_is_announced_once_over_all_gateways_and_again_when_it_is_over(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.alerts")

    def logged() -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "gateway.alerts"]

    for queue in ("mail", "patient"):
        for _ in range(3):
            await queues.enqueue(queue, job_words("x", None))
    async with looking(history, Settings(ready=2, queues={"patient": Thresholds(ready=50)})):
        await until(lambda: len(published()) == 1, "it is raised")
        await some_turns(store, history)
        (raised,) = published()
        assert raised == {"queue": "mail", "alert": "ready", "state": "raised", "value": 3, "threshold": 2, "since": raised["since"]}
        await queues.purge("mail", "ready")
        await until(lambda: len(published()) == 2, "it is cleared")
        await some_turns(store, history)
        assert published()[1:] == [raised | {"state": "cleared", "value": 0}]
        await queues.enqueue("mail", job_words("x", None))
        await queues.enqueue("mail", job_words("x", None))
        await until(lambda: len(published()) == 3, "it is raised a second time")
        assert published()[2]["since"] > raised["since"]
        await until(lambda: len(logged()) == 3, "that is logged")
    assert logged() == [
        ("WARNING", "queue 'mail': 3 jobs are ready, and the alert is set to 2"),
        ("INFO", "queue 'mail': 0 jobs are ready; the alert is over"),
        ("WARNING", "queue 'mail': 2 jobs are ready, and the alert is set to 2"),
    ]


async def test_age_and_dead_letters_raise_alerts_too(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]]
) -> None:
    await queues.enqueue("mail", job_words("x", None))
    store.lpush(f"{history.layout.prefix}:queue:{{mail}}:ready:0", "of no job")  # it is a dead letter when a worker finds it
    async with looking(history, Settings(oldest_seconds=0.05, dead=1)):
        await until(lambda: [each["alert"] for each in published()] == ["oldest_seconds"], "its oldest job is old")
        keys = [*history.layout.queue("mail"), history.layout.taken("mail", "w")]
        await history.call(b"gateway_take", keys, "w", 10_000, 10)
        await until(lambda: len(published()) == 3, "the job is gone, the other one is dead")
        assert {(each["alert"], each["state"], each["value"]) for each in published()[1:]} == {
            ("oldest_seconds", "cleared", 0),
            ("dead", "raised", 1),
        }


@pytest.mark.parametrize("announced", ["0", "1"])
async def test_a_gateway_that_is_killed_between_two_steps_costs_no_alert_and_doubles_none(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]], announced: str
) -> None:
    """Another gateway noted when it was raised, and was killed before or after it published, or noted that it did."""
    first = Alerts(Settings(ready=1), Queues(history.commands, history.layout), history)
    await first._publish("mail", "ready", "raised", 1, 1, 17)
    store.hset(history.layout.alerts, "mail ready", f"17 {announced}")
    async with looking(history, Settings(ready=1)):
        await queues.enqueue("mail", job_words("x", None))
        await until(lambda: store.hget(history.layout.alerts, "mail ready") == b"17 1", "it is noted")
        await some_turns(store, history)
        assert len(published()) == 1
        await queues.purge("mail", "ready")
        await until(lambda: not store.hexists(history.layout.alerts, "mail ready"), "it is over")
        assert [(each["state"], each["since"]) for each in published()] == [("raised", 17), ("cleared", 17)]


async def test_an_alert_that_is_over_and_begins_anew_is_published_though_a_gateway_was_killed_in_between(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was published, and the gateway killed before it removed the entry: subscribers took it for over for as long as it lasted."""
    monkeypatch.setattr(alerts_module, "time", SimpleNamespace(time=count(1000).__next__))  # a second between two alerts
    first = Alerts(Settings(ready=1), queues, history)
    await queues.enqueue("mail", job_words("x", None))
    await first._look()
    await queues.purge("mail", "ready")
    with monkeypatch.context() as patch:
        patch.setattr(alerts_module.log, "info", lambda *words: asyncio.current_task().cancel())  # the step after it is published
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(first._look())
    await queues.enqueue("mail", job_words("x", None))
    for gateway in (Alerts(Settings(ready=1), queues, history), first):
        await gateway._look()
        assert [each["state"] for each in published()] == ["raised", "cleared", "raised"]
    assert len({each["since"] for each in published()}) == 2 and store.hget(history.layout.alerts, "mail ready").endswith(b" 1")


async def test_a_turn_that_lasts_for_a_day_since_valkeys_clock_was_set_back_holds_up_no_alert(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]]
) -> None:
    store.set(history.layout.alerts + b":turn", "another", px=86_400_000)
    await queues.enqueue("mail", job_words("x", None))
    async with looking(history, Settings(ready=1)):
        await until(lambda: len(published()) == 1, "it is raised")


async def test_what_other_programs_wrote_costs_itself_only(
    history: History, queues: Queues, store: valkey.Valkey, published: Callable[[], list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    layout = history.layout
    store.sadd(layout.queues, "{braces}", "two words", b"\xff", "wrong")
    store.set(layout.queue("wrong")[1], "of another type")
    store.hset(
        layout.alerts,
        mapping={"mail ready": "soon", "{braces} ready": "1 1", "mail speed": "1 1", b"\xff ready": "1 1", "gone ready": "5 1"},
    )
    async with looking(history, Settings(ready=1)):
        await queues.enqueue("mail", job_words("x", None))
        await until(lambda: len(published()) == 2, "one is raised, one is over")
        await some_turns(store, history)
        assert {(each["queue"], each["state"]) for each in published()} == {("mail", "raised"), ("gone", "cleared")}
        assert [*store.hkeys(layout.alerts)] == [b"mail ready"]
        store.set(layout.alerts, "of another type")
        await until(lambda: layout.faults.counts["alert"] >= 5, "it is noticed")
    assert layout.faults.counts["queue"] >= 4
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records), "each is logged once"


async def test_queues_of_a_shard_that_is_away_hold_up_no_others(
    history: History, queues: Queues, published: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each of them would be waited for, and the others be looked at minutes later."""
    overview, asked = Queues.overview, set()

    async def answer(queues: Queues, name: str) -> Any:
        asked.add(name)
        return await overview(queues, name)

    for name in ("away1", "away2", "mail"):
        await queues.enqueue(name, job_words("x", None))
    monkeypatch.setattr(Queues, "shard_fault", lambda _, name: "no connection" if name.startswith("away") else "")
    monkeypatch.setattr(Queues, "overview", answer)
    monkeypatch.setattr(history.commands, "sharded", True)
    async with looking(history, Settings(ready=1)):
        await until(lambda: [each["queue"] for each in published()] == ["mail"], "the others are looked at")
    assert asked == {"mail"}


def test_thresholds_of_a_queue_come_before_those_of_all() -> None:
    settings = Settings(ready=10, dead=1, queues={"mail": Thresholds(ready=0, oldest_seconds=5)})
    assert settings.of("mail") == Thresholds(ready=0, oldest_seconds=5, dead=1)
    assert settings.of("other") == Thresholds(ready=10, dead=1)
    assert settings.are_on and Settings(queues={"mail": Thresholds(dead=1)}).are_on
    assert not Settings().are_on and not Settings(queues={"mail": Thresholds()}).are_on


def test_the_channel_is_closed_where_there_are_alerts_and_is_like_any_other_where_there_are_none() -> None:
    plain = Config(channels={"subscribe": "anyone", "publish": "anyone", "history": "anyone", "history_size": 7})
    assert plain.rules("alerts") is plain.channels
    rules = plain.model_copy(update={"alerts": Settings(dead=1)}).rules("alerts")
    assert (rules.subscribe, rules.publish, rules.history, rules.presence_for) == ("token", "nobody", "subscriber", "subscriber")
    assert rules.history_size == 7


async def test_a_gateway_looks_when_it_starts_and_shows_alerts_to_whom_they_are_opened(
    valkey_url: str, prefix: str, start_gateway: Start
) -> None:
    async with opened_history(valkey_url, prefix, Config()) as history:
        await Queues(history.commands, history.layout).enqueue("mail", job_words("x", None))
    gateway = start_gateway('[alerts]\nready = 5\nsubscribe = "user"\n[alerts.queues.mail]\nready = 1\n')
    async with client(gateway, subscribe="alerts"):
        await until(lambda: "queue 'mail': 1 jobs are ready" in gateway.log(), "it is logged")
    assert gateway.api("history", channel="alerts", limit=-1)["result"]["publications"][0]["data"]["state"] == "raised"
