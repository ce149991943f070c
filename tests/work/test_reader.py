"""A durable reader sees every publication of its channels, in order, and is told what history had lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.errors import ConfigurationError
from gateway.publication import Position
from gateway.store.history import History
from gateway.store.layout import publish_words
from gateway.work import Delivery, Gap, Reader
from publishers import SyncPublisher

from ..kit.valkeys import opened_history
from ..kit.waiting import eventually, until

CONFIG = Config(
    namespaces={
        "kept": {"history_size": -1, "history_ttl": ""},
        "three": {"history_size": 3, "history_ttl": ""},
        "named": {"history_size": -1, "history_ttl": "", "index": True},
    }
)
Open = Callable[..., Reader]


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> AsyncIterator[History]:
    async with opened_history(valkey_url, prefix, CONFIG) as history:
        yield history


@pytest.fixture
def reader(valkey_url: str, prefix: str) -> Open:
    """Makes a reader of the group "g" with a short lease."""

    def make(*channels: str, **options: Any) -> Reader:
        return Reader(valkey_url, **{"group": "g", "channels": channels, "prefix": prefix, "lease": 0.4} | options)

    return make


async def publish(history: History, channel: str, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        await history.publish(channel, publish_words(str(number)))


async def take(reader: Reader, count: int, *, ack: bool = True) -> list[Delivery]:
    taken = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            taken.append(await anext(reader))
            if ack:
                assert await taken[-1].ack()
    return taken


def data(taken: list[Delivery]) -> list[Any]:
    return [each.data for each in taken]


async def nothing_more(reader: Reader, seconds: float = 0.1) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await anext(reader)


async def test_a_group_gets_what_history_holds_then_what_is_published_and_goes_on_where_it_was(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 3)
    async with reader("kept:a") as one:
        assert await one.lag() == {"kept:a": 3}
        taken = await take(one, 3)
        await history.publish("kept:a", publish_words(b'{"n":4}', tags={"k": "v"}))
        newest = (await take(one, 1))[0]
        assert await one.lag() == {"kept:a": 0}
    assert data(taken) == [1, 2, 3] and [each.offset for each in taken] == [1, 2, 3]
    assert (newest.channel, newest.data, newest.tags, newest.gap, newest.deliveries) == ("kept:a", {"n": 4}, {"k": "v"}, None, 1)
    assert abs(newest.time - datetime.now(UTC)) < timedelta(seconds=30)
    await publish(history, "kept:a", 1, 5)
    async with reader("kept:a") as two:
        assert data(await take(two, 1)) == [5]
    async with reader("kept:a", group="other") as other:
        assert data(await take(other, 2)) == [1, 2], "groups are independent"


async def test_what_was_not_acknowledged_is_given_again_and_the_position_moves_over_the_oldest(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 4)
    async with reader("kept:a") as one:
        taken = await take(one, 4, ack=False)
        assert await taken[2].ack() and await taken[0].ack() and await taken[0].ack(), "acknowledging twice changes nothing"
        assert await one.lag() == {"kept:a": 3}, "the position is before the oldest that is not acknowledged"
    async with reader("kept:a") as two:
        again = await take(two, 2)
        assert data(again) == [2, 4] and [each.deliveries for each in again] == [2, 2] and [each.gap for each in again] == [None, None]
        assert await two.lag() == {"kept:a": 0}


async def test_one_that_is_given_too_often_is_a_dead_letter_and_the_others_are_not(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 3)
    for deliveries in (1, 2, 3):
        async with reader("kept:a", deliveries=3) as crashing:
            poison = (await take(crashing, 1, ack=False))[0]
            assert (poison.data, poison.deliveries) == (1, deliveries)
    async with reader("kept:a", deliveries=3) as last:
        assert data(await take(last, 2)) == [2, 3]
        (dead,) = await last.dead_letters("kept:a")
        assert (dead.position, dead.deliveries, dead.data) == (poison.position, 3, b"1") and "3 times" in dead.reason


async def test_a_rejected_publication_is_a_dead_letter_with_its_reason(history: History, reader: Open, store: valkey.Valkey) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as one:
        bad = await anext(one)
        store.set(one._layout.reader("kept:a", "g")[3], "another program's")
        assert await bad.reject("no such dish \ud800" + "x" * 5000)
        assert data(await take(one, 1)) == [2]
        (dead,) = await one.dead_letters("kept:a")
        assert dead.reason.startswith("no such dish ?xxx") and len(dead.reason) == 1000


async def test_only_so_many_are_in_the_process(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 5)
    async with reader("kept:a", unacknowledged=2) as one:
        first, second = await take(one, 2, ack=False)
        await nothing_more(one)
        await second.ack()
        assert (await anext(one)).data == 3
        await nothing_more(one)
        await first.ack()
        assert (await anext(one)).data == 4


async def held(*readers: Reader) -> list[set[str]]:
    return [reader.held() for reader in readers]


async def test_instances_share_the_channels_evenly_and_give_back_what_is_settled(history: History, reader: Open) -> None:
    channels = [f"kept:{n}" for n in range(4)]
    for channel in channels:
        await publish(history, channel, 1)
    async with reader(*channels, lease=5) as one:
        taken = {each.channel: each for each in await take(one, 4, ack=False)}
        async with reader(*channels, lease=5) as two:
            moving = one._membership._shares.mine(channels, [one._membership._member, two._membership._member])
            await until(lambda: len(moving) == 2 and sum(hold.leaving for hold in one._holds.values()) == 2, "two channels move")
            await nothing_more(two)
            for each in taken.values():
                assert await each.ack(), "the application settles what it has before a channel is given back"
            await until(lambda: (len(one.held()), len(two.held())) == (2, 2), "each has two")
            assert one.held() | two.held() == set(channels) and not one.held() & two.held()
            for channel in channels:
                await publish(history, channel, 1, 2)
            assert {each.channel for each in await take(two, 2)} == two.held(), "nothing was given twice"
            await take(one, 2)
        await until(lambda: one.held() == set(channels), "channels that are given back are taken at once", 2)


async def test_an_instance_that_is_presumed_dead_cannot_acknowledge(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as frozen:
        mine, next_one = await take(frozen, 2, ack=False)
        frozen._running[0].cancel()  # it renews its lease no more
        async with reader("kept:a") as other:
            theirs = await take(other, 2)
            assert data(theirs) == [1, 2] and theirs[0].deliveries == 2
            assert not await mine.ack() and not await next_one.reject("late")
            assert await other.dead_letters("kept:a") == [] and frozen.held() == set()


async def test_an_application_that_settles_nothing_loses_a_channel_that_moves(history: History, reader: Open) -> None:
    channels = ["kept:a", "kept:b"]
    for channel in channels:
        await publish(history, channel, 1)
    async with reader(*channels) as stuck:
        taken = {each.channel: each for each in await take(stuck, 2, ack=False)}
        async with reader(*channels) as other:
            moved = (await take(other, 1))[0]
            assert not await taken[moved.channel].ack()


def gap(since: tuple[str, int], until: tuple[str, int]) -> Gap:
    return Gap(Position(*since), Position(*until))


async def test_what_was_trimmed_is_a_gap_until_the_publication_after_it_is_acknowledged(history: History, reader: Open) -> None:
    await publish(history, "three:a", 1)
    async with reader("three:a") as one:
        epoch = (await take(one, 1))[0].epoch
    await publish(history, "three:a", 6, 2)
    lost = gap((epoch, 1), (epoch, 4))
    assert lost.lost == 3
    for _ in range(2):
        async with reader("three:a") as two:
            assert [each.gap for each in await take(two, 2, ack=False)] == [lost, None]
    async with reader("three:a") as three:
        assert await three.lag() == {"three:a": 3}
        assert (await take(three, 1))[0].gap == lost
    async with reader("three:a") as four:
        assert [each.gap for each in await take(four, 2)] == [None, None]


async def test_what_was_trimmed_before_it_was_acknowledged_is_a_gap(history: History, reader: Open) -> None:
    await publish(history, "three:a", 3)
    async with reader("three:a") as one:
        epoch = (await take(one, 1))[0].epoch
        await take(one, 2, ack=False)
    await publish(history, "three:a", 2, 4)
    async with reader("three:a") as two:
        taken = await take(two, 3)
        assert [(each.offset, each.gap) for each in taken] == [(3, gap((epoch, 1), (epoch, 2))), (4, None), (5, None)]


async def test_a_hole_is_crossed_when_all_before_it_is_settled(history: History, reader: Open, store: valkey.Valkey) -> None:
    await publish(history, "kept:a", 5)
    stream = history.layout.keys("kept:a")[1]
    for offset in (3, 4):
        store.xdel(stream, store.xrange(stream, offset, offset)[0][0])
    async with reader("kept:a") as one:
        first, second = await take(one, 2, ack=False)
        await nothing_more(one)
        await second.ack()
        await first.ack()
        after = await anext(one)
        assert (after.offset, after.gap) == (5, gap((after.epoch, 2), (after.epoch, 4)))


async def test_a_new_life_of_the_history_is_a_gap_also_if_valkey_lost_everything(history: History, reader: Open, store: valkey.Valkey) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as one:
        old = (await take(one, 2))[-1]
        for lost in (history.layout.keys("kept:a"), (*history.layout.keys("kept:a"), *one._layout.reader("kept:a", "g")[2:], one._calls.instances)):
            store.delete(*lost)
            await publish(history, "kept:a", 2, 10)
            again = await take(one, 2)
            assert data(again) == [10, 11] and again[0].gap == gap((old.epoch, 2), (again[0].epoch, 0)) and again[0].gap.lost is None
            old = again[-1]
            assert await one.lag() == {"kept:a": 0}


async def test_a_valkey_that_came_back_older_is_a_gap_and_nothing_new_is_skipped(history: History, reader: Open, store: valkey.Valkey) -> None:
    keys = (*history.layout.keys("kept:a")[:2], history.layout.reader("kept:a", "g")[2])
    await publish(history, "kept:a", 3)
    async with reader("kept:a") as one:
        await take(one, 2)
        for key in keys:
            store.copy(key, key + b":saved", replace=True)
        old = (await take(one, 1))[0]
        await publish(history, "kept:a", 1, 4)
        await take(one, 1)
        for key in keys:
            store.copy(key + b":saved", key, replace=True)
        await asyncio.sleep(0.002)  # no two servers write at once: the new life begins in a later millisecond
        await publish(history, "kept:a", 3, 40)
        again = await take(one, 4)
        assert data(again) == [3, 40, 41, 42] and again[0].epoch != old.epoch
        assert again[0].gap == gap((old.epoch, 2), (again[0].epoch, 2)), "what follows the acknowledged position that is still there"


async def test_a_consumer_group_that_vanished_is_made_again_from_the_acknowledged_position(
    history: History, reader: Open, store: valkey.Valkey
) -> None:
    await publish(history, "kept:a", 3)
    stream = history.layout.keys("kept:a")[1]
    async with reader("kept:a", unacknowledged=2) as one:
        assert data(await take(one, 1)) == [1]
        second = await anext(one)
        store.xgroup_destroy(stream, "g")
        assert not await second.ack(), "it is not recorded, so it is given again"
        assert data(await take(one, 2)) == [2, 3]
        store.delete(history.layout.reader("kept:a", "g")[2])
        await publish(history, "kept:a", 1, 4)
        again = await take(one, 1)
        assert (again[0].data, again[0].gap) == (4, None), "the process still knows its position"


async def test_what_other_programs_wrote_costs_itself_only(history: History, reader: Open, store: valkey.Valkey) -> None:
    for channel in ("kept:a", "kept:b", "kept:c"):
        await publish(history, channel, 1)
    keys = {name: history.layout.reader(name, "g") for name in ("kept:a", "kept:b", "kept:c")}
    store.set(keys["kept:a"][2], "not a hash")
    store.hset(keys["kept:b"][2], mapping={"owner": b"\xff\xfe{}", "epoch": "a b", "offset": "-3", "reading": "\n"})
    store.xadd(keys["kept:b"][1], {"x": "y"}, id="1-99999999999999")
    store.xadd(keys["kept:b"][1], {"x": "y"}, id="900-1")
    store.set(Reader(group="g", channels=["x:y"], prefix=history.layout.prefix)._layout.readers("g"), "not a sorted set")
    async with reader(*keys) as one:
        taken = await take(one, 2)
        store.zadd(one._calls.instances, {b"\xff": 9e15, "a" * 12 + "." + one._following.digest: float("inf")})
        assert {each.channel for each in taken} == {"kept:b", "kept:c"} and data(taken) == [1, 1]
        assert one._layout.faults.counts["reader"] >= 1 and one._layout.faults.counts["entry"] == 1
        store.delete(keys["kept:a"][2])
        assert (await take(one, 1))[0].channel == "kept:a"


async def test_a_group_begins_where_it_is_told_to(history: History, reader: Open) -> None:
    await publish(history, "three:a", 4)
    middle = datetime.now(UTC)
    await asyncio.sleep(0.002)
    await publish(history, "three:a", 1, 5)
    top = (await history.read("three:a")).top
    lost = gap((top.epoch, 0), (top.epoch, 2))
    starts: list[tuple[Any, int | None, Gap | None]] = [
        (None, 3, None),
        (0, 3, lost),
        (4, 5, None),
        (Position(top.epoch, 3), 4, None),
        (f"{top.epoch}:4", 5, None),
        (Position("another", 4), 3, gap(("another", 4), (top.epoch, 2))),
        (middle, 5, None),
        (datetime.now(UTC) + timedelta(hours=1), None, None),
        (datetime.fromtimestamp(0, UTC), 3, None),
        (99, None, None),
    ]
    for number, (since, offset, expected) in enumerate(starts):
        async with reader("three:a", group=f"g{number}", since=since) as one:
            if offset is None:
                await until(lambda: one._known or (hold := one._holds.get("three:a")) and not one._changed and hold.live, "it was read")
                await publish(history, "three:a", 1, 6)
                offset = (await take(one, 1))[0].offset
                assert offset == (await history.read("three:a")).top.offset, since
                break
            first = (await take(one, 1))[0]
            assert (first.offset, first.gap) == (offset, expected), since


async def test_a_group_is_moved_back_and_forth_while_it_reads(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 3)
    async with reader("kept:a", since=0) as one, reader("kept:a", lease=5) as two:
        taken = [each async for each in firsts(3, one, two)]
        for each in taken[:2]:
            await each.ack()
        assert await two.rewind("kept:a", 0) == Position(taken[0].epoch, 0)
        assert not await taken[2].ack(), "it was given before"
        again = [each async for each in firsts(3, one, two)]
        assert data(again) == [1, 2, 3]
        await one.rewind("kept:a", taken[1].time)
        assert await one.rewind("kept:never", 0) is None


async def firsts(count: int, *readers: Reader) -> AsyncIterator[Delivery]:
    """The next publications of whichever of the readers holds the channel."""
    for _ in range(count):
        tasks = [asyncio.ensure_future(anext(reader)) for reader in readers]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert done
        yield done.pop().result()
