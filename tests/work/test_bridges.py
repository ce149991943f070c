"""Bridges: programs that know nothing of the gateway push, add and publish as they did before, and its clients receive it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import time
from typing import Any
from unittest.mock import Mock

import pytest
import valkey

from gateway.bridging import BridgeRules
from gateway.config import Config
from gateway.errors import StoreError, Unavailable
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout
from gateway.work import exclusive, foreign_keys, foreign_messages, source
from gateway.work.bridges import Bridges

from ..kit.bridging import bridged, bridging, configured, published
from ..kit.clients import client
from ..kit.gateways import Start
from ..kit.valkeys import OwnValkey, opened_history
from ..kit.waiting import PATIENCE, until, wait_until


@pytest.fixture
def key(prefix: str) -> str:
    """The name of a foreign key or channel that no other test uses."""
    return f"foreign-{prefix}"


def _failures(store: valkey.Valkey, prefix: str, key: str, name: str = "") -> list[dict[str, Any]]:
    """The records of what failed, oldest first."""
    return [json.loads(each) for each in reversed(store.lrange(f"{prefix}:bridge:{{{key}}}:{name or key}:failed", 0, -1))]


async def test_a_client_receives_what_programs_push_add_and_publish_as_they_did_before(
    start_gateway: Start, store: valkey.Valkey, key: str
) -> None:
    gateway = await asyncio.to_thread(
        start_gateway,
        f"""
        bridges = [
            {{list = "{key}:events", channel = "posts:tech"}},
            {{stream = "{key}:Reviews", channel = "reviews:{{product}}", key = "{{id}}"}},
            {{pubsub = "{key}:tech_news", channel = "posts:tech"}},
            {{pattern = "{key}:news.*", channel = "posts:{{*}}"}},
        ]
        """,
    )
    async with client(gateway) as wire:
        for channel in ("posts:tech", "posts:sport", "reviews:7"):
            await wire.result("subscribe", channel=channel)
        store.lpush(f"{key}:events", '{"event": 1}')
        for id in ("a", "a", "b"):
            store.xadd(f"{key}:Reviews", {"product": "7", "id": id})
        store.publish(f"{key}:tech_news", "hello")
        store.publish(f"{key}:news.sport", '{"score": "1:0"}')
        pushes = [(await wire.next())["push"] for _ in range(5)]
    assert sorted([(push["channel"], push["pub"]["data"]) for push in pushes], key=repr) == [
        ("posts:sport", {"score": "1:0"}),
        ("posts:tech", "hello"),
        ("posts:tech", {"event": 1}),
        ("reviews:7", {"product": "7", "id": "a"}),
        ("reviews:7", {"product": "7", "id": "b"}),
    ]


@pytest.mark.every_valkey
@pytest.mark.parametrize("take, push", [("right", "lpush"), ("left", "rpush")])
async def test_entries_of_a_list_come_in_order_and_equal_ones_each(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, take: str, push: str
) -> None:
    texts = ["1", "2", "2", "2", '{"a":\n 1}', "no JSON", "3"]
    getattr(store, push)(key, *texts)
    async with bridged(valkey_url, prefix, {"list": key, "channel": "endless:a", "take": take}) as bridges:
        await until(lambda: bridges.statistics[key].bridged == len(texts), "they are published")
        getattr(store, push)(key, "4")
        await until(lambda: bridges.statistics[key].bridged == len(texts) + 1, "one that comes later is published")
    assert published(store, prefix, "endless:a") == [1, 2, 2, 2, {"a": 1}, "no JSON", 3, 4]
    assert not store.exists(key, f"{prefix}:bridge:{{{key}}}:{key}:taken"), "nothing is left"


@pytest.mark.every_valkey
async def test_entries_of_a_stream_come_in_order_and_the_stream_stays(valkey_url: str, store: valkey.Valkey, prefix: str, key: str) -> None:
    store.xadd(key, {"n": 1, "é": "ü"})
    store.xadd(key, {"data": "[2]"})
    store.xadd(key, {"data": "3", "more": "x"})
    rules = {"stream": key, "channel": "endless:a"}
    named = {**rules, "name": "field", "channel": "endless:b", "field": "data"}
    new = {**rules, "name": "new", "channel": "endless:c", "start": "new"}
    async with bridged(valkey_url, prefix, rules, named, new) as bridges:
        await until(lambda: bridges.statistics[key].bridged == 3, "they are published")
        store.xadd(key, {"data": "4"})
        await until(lambda: all(published(store, prefix, f"endless:{name}")[-1:] == [4] for name in "abc"), "one that is added later")
    assert published(store, prefix, "endless:a") == [{"n": "1", "é": "ü"}, [2], {"data": "3", "more": "x"}, 4]
    assert published(store, prefix, "endless:b") == [[2], 3, 4]
    assert published(store, prefix, "endless:c") == [4]
    assert [each["reason"] for each in _failures(store, prefix, key, "field")] == ["it has no field 'data'"]
    assert store.xlen(key) == 4


async def test_a_stream_that_is_made_anew_is_read_from_its_beginning_and_removed_entries_are_counted(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(foreign_keys, "BLOCK_SECONDS", 0.05)
    rules = {"stream": key, "channel": "endless:a"}
    store.xadd(key, {"data": "1"}, id="100-1")
    async with bridged(valkey_url, prefix, rules) as bridges:
        await until(lambda: bridges.statistics[key].bridged == 1, "the first is published")
    for n in range(2, 7):
        store.xadd(key, {"data": n}, id=f"100-{n}", maxlen=2, approximate=False)
    async with bridged(valkey_url, prefix, rules) as bridges:
        await until(lambda: bridges.statistics[key].lost, "it is noticed that three are gone")
        store.delete(key)
        store.xadd(key, {"data": "7"}, id="1-1")
        await until(lambda: bridges.statistics[key].bridged == 3, "the new stream is read")
    assert published(store, prefix, "endless:a") == [1, 5, 6, 7]
    assert bridges.statistics[key].lost == 3
    assert "3 entries were removed from the stream before they were read" in caplog.text


@pytest.mark.parametrize("start", ["new", "beginning"])
@pytest.mark.parametrize("is_lost", ["all", "the state alone"])
async def test_a_stream_is_bridged_without_loss_or_repeat_where_valkey_lost_the_state(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, start: str, is_lost: str
) -> None:
    """A bridge of what is new took what was added to an emptied Valkey before it looked for old; one from the beginning published all again."""
    state = f"{prefix}:bridge:{{{key}}}:{key}"
    async with bridged(valkey_url, prefix, {"stream": key, "channel": "endless:a", "start": start}) as bridges:
        store.xadd(key, {"data": "1"})
        await until(lambda: bridges.statistics[key].bridged == 1, "the first is published")
        with store.pipeline() as transaction:
            transaction.delete(state, *([key] if is_lost == "all" else []))
            transaction.xadd(key, {"data": "2"})
            transaction.execute()
        await until(lambda: bridges.statistics[key].bridged == 2, "the next is published")
        store.xadd(key, {"data": "3"})
        await until(lambda: bridges.statistics[key].bridged == 3, "and the one after it")
    assert published(store, prefix, "endless:a") == [1, 2, 3] and bridges.statistics[key].lost == 0


INVALID = {
    "no JSON where a field is needed": ("text", "it has no 'to'"),
    "no such field": ('{"from": "a"}', "it has no 'to'"),
    "a field that is no text": ('{"to": {}}', "its 'to' is not a text or a whole number"),
    "an empty field": ('{"to": ""}', "its 'to' is not a text or a whole number"),
    "an impossible channel": ('{"to": "{"}', "holds a brace, a control character or half a surrogate pair"),
    "a long channel": (json.dumps({"to": "x" * 300}), "longer than 255 characters"),
    "not UTF-8": (b'{"to": "\xff"}', "it is not UTF-8"),
    "too deep": ('{"to":' * 300 + "1" + "}" * 300, "it has no 'to'"),
    "too large": ('{"to": "a", "more": "%s"}' % ("x" * 2200), "it is too large"),
    "a long key": (json.dumps({"to": "a", "id": "é" * 300}), "its key is longer than 512 bytes"),
    "no notification": ('{"to": "a", "id": 1}', "a notification is a JSON object"),
}


async def test_the_log_has_the_reason_of_the_first_that_failed_and_the_list_it_is_in_in_words(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was a record of Python's bytes, with two kinds of quotes and backslashes, and no word of where the List is."""
    store.lpush(key, '{"id": 2}', '{"id": 3}')
    async with bridged(valkey_url, prefix, {"list": key, "channel": "orders:{order.id}", "key": "{id}"}) as bridges:
        await until(lambda: bridges.statistics[key].failed == 2, "they failed")
    [line] = [each for each in caplog.messages if "could not be published" in each]
    failed = f"{prefix}:bridge:{{{key}}}:{key}:failed"
    assert line == (
        f"bridge {key}: entry 1 could not be published: it has no 'order.id'; it is in the List {failed}, where later ones are added without a "
        "line here"
    )


async def test_what_is_not_valid_goes_to_the_list_of_what_failed_and_the_bridge_goes_on(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SHOWN", 100)
    rules = {"list": key, "channel": "{to}", "key": "{id}", "name": "any"}
    config = configured(prefix, rules)
    config = config.model_copy(update={"limits": config.limits.model_copy(update={"api_bytes": 2200})})
    store.set(f"{prefix}:{{endless:wrong}}:meta", "no hash")
    async with opened_history(valkey_url, prefix, config) as history:
        bridges = Bridges(config, Address(valkey_url), history, "one")
        await bridges.start()
        store.lpush(key, *[text.replace('"a"', '"notifications:a"') if isinstance(text, str) else text for text, _ in INVALID.values()])
        store.lpush(key, '{"to": "unknown:a", "id": 1}', '{"to": "endless:wrong", "id": 1}')
        store.lpush(key, '{"to": "endless:a", "id": 1}', '{"to": "notifications:u1", "id": "1"}')
        await until(lambda: bridges.statistics["any"].bridged == 2, "what is valid is published")
        await bridges.close()
    failures = _failures(store, prefix, key, "any")
    reasons = [reason for _, reason in INVALID.values()] + ["no namespace 'unknown' is configured", "WRONGTYPE"]
    assert len(failures) == len(reasons) == bridges.statistics["any"].failed
    for found, reason in zip(failures, reasons, strict=True):
        assert reason in found["reason"] and found["source"] == key and abs(found["at"] / 1000 - time.time()) < 60
    assert failures[0]["entry"] == "text" and failures[0]["id"].isdigit()
    assert len(failures[8]["entry"]) == 100, "a long entry ends early"
    assert published(store, prefix, "endless:a") == [{"to": "endless:a", "id": 1}]
    assert store.zcard(f"{prefix}:{{notifications:u1}}:unread") == 1, "it is in the inbox, unread"


async def test_the_list_of_what_failed_is_bounded_and_what_it_drops_is_counted(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (foreign_keys, foreign_messages):
        monkeypatch.setattr(module, "FAILED_MOST", 3)
    rules = [{"list": key, "json_only": True, "failed": f"{key}:dead"}, {"pubsub": key, "name": "messages", "json_only": True}]
    async with bridged(valkey_url, prefix, *[{**each, "channel": "endless:a"} for each in rules]) as bridges:
        store.lpush(key, *[f"text {n}" for n in range(5)])
        store.xadd(f"{key}:other", {"a": 1})
        for n in range(4):
            store.publish(key, f"text {n}")
        await until(lambda: [each.failed for each in bridges.statistics.values()] == [5, 4], "they failed")
    assert [json.loads(each)["entry"] for each in store.lrange(f"{key}:dead", 0, -1)] == ["text 4", "text 3", "text 2"]
    assert [each["entry"] for each in _failures(store, prefix, key, "messages")] == ["text 1", "text 2", "text 3"]
    assert [each.forgotten for each in bridges.statistics.values()] == [2, 1]


async def test_messages_that_come_while_too_many_wait_are_dropped_and_counted(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_messages, "WAITING_BYTES", 2000)
    async with bridged(valkey_url, prefix, {"pubsub": key, "channel": "endless:a"}) as bridges:
        with store.pipeline(transaction=True) as together:
            for n in range(500):
                together.publish(key, f"{n} {'x' * 500}")
            together.execute()
        await until(lambda: bridges.statistics[key].lost + bridges.statistics[key].bridged == 500, "each is published or counted")
    assert bridges.statistics[key].lost
    assert len(published(store, prefix, "endless:a")) == bridges.statistics[key].bridged


async def test_messages_that_wait_when_valkey_refuses_for_longer_than_the_lease_are_published_afterwards(
    own: OwnValkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "RENEW_SECONDS", 0.05)
    async with bridged(own.url, prefix, {"pubsub": key, "channel": "endless:a"}) as bridges:
        own.client.publish(key, "1")
        await until(lambda: bridges.statistics[key].bridged == 1, "it is published")
        own.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        try:
            for number in (2, 3):
                own.client.publish(key, str(number))
            (bridge,) = bridges._bridges
            bridge._exclusive._until = 0.0  # a short lease could be over before, too: what is published at that moment is missed
            await until(lambda: not bridge._exclusive.working, "its lease is over")
        finally:
            own.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        await until(lambda: bridges.statistics[key].bridged == 3, "all are published")
    assert published(own.client, prefix, "endless:a") == [1, 2, 3] and bridges.statistics[key].lost == 0


async def test_a_message_waits_for_a_shard_of_which_its_channels_index_is_asked(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge began anew there, and what it had received was lost and not counted."""
    write_first, refused = History.write_index_first, []

    async def away(self: History, channel: str, **options: Any) -> None:
        if not refused:
            refused.append(channel)
            raise Unavailable("its shard is away")
        await write_first(self, channel, **options)

    async with bridged(valkey_url, prefix, {"pubsub": key, "channel": "endless:a"}) as bridges:
        monkeypatch.setattr(History, "write_index_first", away)
        store.publish(key, "1")
        await until(lambda: refused, "the first attempt")
        store.publish(key, "2")
        await until(lambda: bridges.statistics[key].bridged == 2, "both are published")
    assert published(store, prefix, "endless:a") == [1, 2]


@pytest.mark.every_valkey
async def test_a_pattern_for_everything_does_not_bridge_what_the_gateway_announces(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str
) -> None:
    async with bridged(valkey_url, prefix, {"pattern": f"*{prefix}*", "channel": "endless:a"}) as bridges:
        store.publish(key, "1")
        await until(lambda: bridges.statistics[f"*{prefix}*"].bridged == 1, "it is published, and announced")
        store.publish(key, "2")
        await until(lambda: bridges.statistics[f"*{prefix}*"].bridged == 2, "the announcement was not bridged before it")
    assert published(store, prefix, "endless:a") == [1, 2]


async def test_one_process_works_and_another_takes_over(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "LEASE_SECONDS", 60.0)  # however busy the machine is, the first works until it is closed
    monkeypatch.setattr(exclusive, "RENEW_SECONDS", 60.0)
    rules = [{"list": key, "channel": "endless:a"}, {"pubsub": key, "name": "messages", "channel": "endless:b"}]
    async with bridged(valkey_url, prefix, *rules, process="second-after") as first:
        monkeypatch.setattr(exclusive, "LEASE_SECONDS", 0.5)
        monkeypatch.setattr(exclusive, "RENEW_SECONDS", 0.1)
        async with bridged(valkey_url, prefix, *rules, process="stand-by") as second:
            store.lpush(key, "1")
            store.publish(key, "1")
            await until(lambda: [each.bridged for each in first.statistics.values()] == [1, 1], "the first works")
            assert [each.working for each in second.statistics.values()] == [False, False]
            await first.close()
            await until(lambda: all(each.working for each in second.statistics.values()), "the second takes over")
            store.lpush(key, "2")
            await until(lambda: second.statistics[key].bridged == 1, "the second works")
            store.set(f"{prefix}:bridge:{{{key}}}:{key}:lease", "a third", px=500)
            await until(lambda: not second.statistics[key].working, "it notices that the lease is another's")
            store.lpush(key, "3")
            await until(lambda: second.statistics[key].bridged == 2, "it works again when that one is dead")
    assert published(store, prefix, "endless:a") == [1, 2, 3]
    assert published(store, prefix, "endless:b") == [1]


async def test_messages_are_published_though_valkeys_clock_was_set_back_before_the_process_began(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message has a number, which begins with the time: those of the last process would be greater, and these count as old."""
    time_of_valkey, ahead = foreign_messages.valkey_time, [7200.0]

    async def valkey_time(*of: Any) -> float:
        return await time_of_valkey(*of) + ahead[0]

    monkeypatch.setattr(foreign_messages, "valkey_time", valkey_time)
    monkeypatch.setattr(foreign_messages, "RESERVED", 4)
    for first in (1, 11):
        async with bridged(valkey_url, prefix, {"pubsub": key, "channel": "endless:a"}) as bridges:
            for number in range(first, first + 10):
                store.publish(key, str(number))
            await until(lambda: bridges.statistics[key].bridged == 10, "they are published")
        ahead[0] = 0.0
    assert published(store, prefix, "endless:a") == list(range(1, 21))


@pytest.mark.parametrize("forged", ["for longer than any lease", "no text"])
async def test_a_lease_that_another_program_wrote_is_taken_over(valkey_url: str, store: valkey.Valkey, prefix: str, forged: str) -> None:
    key = f"{prefix}:bridge:{{x}}:x:lease"
    if forged == "no text":
        store.lpush(key, "x")
        store.pexpire(key, 60_000)
    else:
        store.set(key, "x", px=10**9)
    async with opened_history(valkey_url, prefix, Config()) as history:
        assert await history.call(b"gateway_lease", [key.encode()], "process", 3000) == 0
        assert 0 < await history.call(b"gateway_lease", [key.encode()], "other", 3000) <= 3000


async def test_a_process_that_was_taken_for_dead_finishes_nothing(valkey_url: str, store: valkey.Valkey, prefix: str, key: str) -> None:
    rules = {"list": key, "channel": "endless:a"}
    config = configured(prefix, rules)
    store.lpush(key, "1", "2", "3")
    async with opened_history(valkey_url, prefix, config) as history:
        (each,) = config.bridges
        frozen = foreign_keys.ForeignList(Address(valkey_url), history, each, 1000)
        batch = await frozen.take()
        assert [entry.content for entry in batch.entries] == [b"1", b"2", b"3"]
        async with bridged(valkey_url, prefix, rules) as bridges:
            await until(lambda: bridges.statistics[key].bridged == 3, "another process works")
            store.lpush(key, "4", "5")
            await until(lambda: bridges.statistics[key].bridged == 5, "and goes on")
        store.lpush(key, "6")
        await frozen.take()
        assert await frozen.finish(batch, [b"{}"]) == -1
    assert store.llen(f"{prefix}:bridge:{{{key}}}:{key}:taken") == 1, "the sixth is still to be published"
    assert not _failures(store, prefix, key)


async def test_what_failed_is_not_lost_where_the_list_for_it_is_none(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The bridge waits until the key is mended."""
    failed = f"{prefix}:bridge:{{{key}}}:{key}:failed"
    store.set(failed, "another program's")
    async with bridged(valkey_url, prefix, {"list": key, "channel": "endless:{to}"}) as bridges:
        store.lpush(key, "text")
        await until(lambda: "cannot be marked as finished" in caplog.text, "it is noticed")
        store.delete(failed)
        await until(lambda: bridges.statistics[key].failed == 1, "it goes on")
    assert [each["entry"] for each in _failures(store, prefix, key)] == ["text"]


@pytest.mark.parametrize("is_taken", [False, True])
async def test_entries_after_a_failover_of_the_lists_shard_are_no_repeats(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, is_taken: bool
) -> None:
    """The replica lacked the last entries, which are published: the channel is in another shard. Others come in their place."""
    rules = {"list": key, "channel": "endless:a"}
    state, taken = f"{prefix}:bridge:{{{key}}}:{key}", f"{prefix}:bridge:{{{key}}}:{key}:taken"
    async with bridged(valkey_url, prefix, rules) as bridges:
        store.lpush(key, "1", "2")
        await until(lambda: bridges.statistics[key].bridged == 2, "the first are published")
    if is_taken:
        store.lpush(key, "3")
        async with opened_history(valkey_url, prefix, configured(prefix, rules)) as history:
            (each,) = configured(prefix, rules).bridges
            await foreign_keys.ForeignList(Address(valkey_url), history, each, 1000).take()
        store.copy(taken, f"{taken}:saved")
    store.copy(state, f"{state}:saved")
    async with bridged(valkey_url, prefix, rules) as bridges:
        store.lpush(key, "4", "5")
        await until(lambda: bridges.statistics[key].bridged == 2 + is_taken, "they are published")
    store.copy(f"{state}:saved", state, replace=True)
    if is_taken:
        store.copy(f"{taken}:saved", taken, replace=True)
    async with bridged(valkey_url, prefix, rules) as bridges:
        store.lpush(key, "6", "7")
        await until(lambda: bridges.statistics[key].bridged == 2 + is_taken, "those that follow are published")
    assert published(store, prefix, "endless:a") == [1, 2, *([3] if is_taken else []), 4, 5, 6, 7]


async def test_a_valkey_that_refuses_for_now_stops_the_bridges_and_loses_nothing(own: OwnValkey, prefix: str, key: str) -> None:
    rules = [{"list": key, "channel": "endless:a"}, {"stream": f"{key}:s", "channel": "endless:b"}]
    async with bridged(own.url, prefix, *rules) as bridges:
        own.together(
            *[("LPUSH", key, n) for n in range(250)],
            *[("XADD", f"{key}:s", "*", "data", n) for n in range(250)],
            ("CONFIG", "SET", "maxmemory", "1"),
        )
        await until(lambda: own.client.info("errorstats").get("errorstat_OOM"), "Valkey refuses")
        own.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: [each.bridged for each in bridges.statistics.values()] == [250, 250], "all are published")
        own.kill_links()
        own.client.client_kill_filter(_type="normal", skipme=True)
        own.ask("LPUSH", key, 250)
        await until(lambda: published(own.client, prefix, "endless:a")[-1:] == [250], "it goes on over other connections")
    assert published(own.client, prefix, "endless:a") == list(range(251))
    assert published(own.client, prefix, "endless:b") == list(range(250))
    assert not any(each.failed for each in bridges.statistics.values())


# Death.


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_a_process_that_dies_before_or_after_any_step_neither_loses_nor_repeats(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, kind: str
) -> None:
    """Steps of a bridge are its calls: it prepares, takes, publishes and finishes, and again."""
    rules = [{kind: key, "channel": "endless:a", "name": "dying", "json_only": True}]
    expected: list[Any] = []
    for step in range(1, 9):
        with bridging(valkey_url, prefix, rules, step) as process:
            for text in (f"{step}", f"{step}", "not JSON"):
                store.lpush(key, text) if kind == "list" else store.xadd(key, {"data": text})
            expected += [step, step]
            process.join(PATIENCE)
            assert process.exitcode == -9, f"it did not reach step {step}"
    with bridging(valkey_url, prefix, rules):
        store.lpush(key, "0") if kind == "list" else store.xadd(key, {"data": "0"})
        wait_until(lambda: published(store, prefix, "endless:a")[-1:] == [0], "the last is published")
    assert published(store, prefix, "endless:a") == [*expected, 0]
    assert len(_failures(store, prefix, key, "dying")) == 8, "each failure is recorded once"


@pytest.mark.parametrize("seed", [23])
def test_entries_come_once_and_in_order_over_kill_9_and_frozen_processes(
    valkey_url: str, store: valkey.Valkey, prefix: str, key: str, seed: int
) -> None:
    """Two processes, one of which works; at random moments either is killed, or frozen for a while, and another one begins."""
    chance = random.Random(seed)
    channels = [f"endless:{n}" for n in range(3)]
    rules = [{"list": f"{key}:list", "channel": "{to}"}, {"stream": f"{key}:stream", "channel": "{to}"}]
    expected: dict[str, list[int]] = {channel: [] for channel in channels}
    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(bridging(valkey_url, prefix, rules)) for _ in range(2)]
        frozen: list[Any] = []
        for _ in range(8):
            killed = time.monotonic() + chance.uniform(0, 0.2)
            while time.monotonic() < killed:
                _add(store, key, chance, expected, [next(numbers) for _ in range(chance.randint(1, 20))])
            for thawed in frozen:
                os.kill(thawed.pid, signal.SIGCONT)
            victim = processes.pop(chance.randrange(2))
            frozen = [victim] if chance.random() < 0.5 else []
            os.kill(victim.pid, signal.SIGSTOP if frozen else signal.SIGKILL)
            processes.append(stack.enter_context(bridging(valkey_url, prefix, rules)))
        whole = 2 * sum(map(len, expected.values()))
        wait_until(lambda: sum(store.xlen(f"{prefix}:{{{channel}}}:stream") for channel in channels) >= whole, f"all {whole} are published")
    for channel in channels:
        found = published(store, prefix, channel)
        for kind in ("list", "stream"):
            assert [each["n"] for each in found if each["from"] == kind] == expected[channel]


def _add(store: valkey.Valkey, key: str, chance: random.Random, expected: dict[str, list[int]], numbers: list[int]) -> None:
    """Pushes and adds each number, for a channel that is drawn."""
    with store.pipeline(transaction=False) as pipeline:
        for number in numbers:
            channel = chance.choice(list(expected))
            expected[channel].append(number)
            pipeline.lpush(f"{key}:list", json.dumps({"from": "list", "to": channel, "n": number}))
            pipeline.xadd(f"{key}:stream", {"data": json.dumps({"from": "stream", "to": channel, "n": number})})
        pipeline.execute()


def test_a_subscription_that_valkey_refuses_is_logged_once_until_it_is_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    """It is asked for every few seconds, for as long as the user lacks the right."""
    rules = BridgeRules(pubsub="news", channel="posts:x")
    bridged = foreign_messages.ForeignMessages(Address("valkey://localhost"), History(Mock(), Layout("gw")), rules, 1000)
    for _ in range(2):
        bridged._on_replies([StoreError("NOPERM")])
        bridged._on_replies([StoreError("NOPERM")])
        bridged._on_replies([[b"subscribe", b"news", 1]])
    assert caplog.messages == ["bridge news: Valkey refuses to publish to it: NOPERM"] * 2
