"""A durable reader sees every publication of its channels, in order, and is told what history had lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
import valkey

from gateway.config import Config
from gateway.errors import ConfigurationError, Unavailable
from gateway.publication import Position
from gateway.runtime.tasks import end
from gateway.store.history import History
from gateway.store.layout import publish_words
from gateway.store.untrusted import Faults
from gateway.work import Delivery, Gap, Reader, following
from gateway.work.membership import Membership
from gateway.work.reader_calls import ReaderCalls
from gateway.work.sharing import Shares
from publishers import Publisher, SyncPublisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.reactions import react
from publishers.relay import Relay
from publishers.reviews import create_review, list_reviews, respond, story_of

from ..kit.servers import ValkeyServer
from ..kit.valkeys import OwnValkey, opened_history
from ..kit.waiting import until

CONFIG = Config(
    namespaces={
        "kept": {"history_size": -1, "history_ttl": ""},
        "three": {"history_size": 3, "history_ttl": ""},
        "eight": {"history_size": 8, "history_ttl": ""},
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


@pytest.mark.every_valkey
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


async def test_a_publication_of_another_life_is_given_though_it_is_of_the_millisecond_of_the_acknowledged_one(
    history: History, reader: Open, store: valkey.Valkey
) -> None:
    await publish(history, "kept:a", 1)
    async with reader("kept:a") as one:
        await take(one, 1)
    store.delete(*history.layout.keys("kept:a"))
    await publish(history, "kept:a", 1, 2)
    state = history.layout.reader("kept:a", "g")[2]
    store.hset(state, "ms", store.hget(history.layout.keys("kept:a")[0], "ms"))  # as a program that is quick has it by chance
    async with reader("kept:a") as two:
        assert data(await take(two, 1)) == [2]


async def test_a_number_that_no_float_holds_is_infinite_and_does_not_end_the_reader(history: History, reader: Open) -> None:
    texts = ("[1e999,-1e999]", "1" * 5000, "3")
    for text in texts:
        await history.publish("kept:a", publish_words(text))
    async with reader("kept:a") as one:
        assert data(await take(one, 3)) == [[float("inf"), float("-inf")], float("inf"), 3]


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


async def test_what_was_never_given_is_no_dead_letter_where_each_is_given_once(history: History, reader: Open) -> None:
    """They were read ahead by an instance that ended."""
    await publish(history, "kept:a", 4)
    async with reader("kept:a", deliveries=1) as one:
        assert data(await take(one, 1, ack=False)) == [1]
        await until(lambda: len(one._channels.ready) == 3, "the others are in the process")
    async with reader("kept:a", deliveries=1) as two:
        taken = await take(two, 3)
        assert data(taken) == [2, 3, 4] and {each.deliveries for each in taken} == {1}
        assert [each.data for each in await two.dead_letters("kept:a")] == [b"1"]


@pytest.mark.parametrize("deliveries", [1, 5])
async def test_what_counts_as_given_is_given_though_its_channel_moves_meanwhile(
    history: History, reader: Open, monkeypatch: pytest.MonkeyPatch, deliveries: int
) -> None:
    await publish(history, "kept:a", 2)
    if deliveries > 1:
        async with reader("kept:a") as before:
            await take(before, 2, ack=False)
    async with reader("kept:a", deliveries=deliveries) as one:
        again = one._calls.again

        async def moved_meanwhile(*words: Any) -> bool:
            monkeypatch.undo()
            one._channels.on_moved("kept:a")
            return await again(*words)

        monkeypatch.setattr(one._calls, "again", moved_meanwhile)
        taken = await take(one, 2)
    assert data(taken) == [1, 2] and {each.deliveries for each in taken} == {1 if deliveries == 1 else 2}
    async with reader("kept:a") as two:
        assert await two.dead_letters("kept:a") == [] and await two.lag() == {"kept:a": 0}


async def test_who_waited_and_was_cancelled_takes_no_publication_with_it(
    history: History, reader: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a", deliveries=1) as one:
        await until(lambda: one._channels.ready, "they are in the process")
        waiting = asyncio.create_task(anext(one))
        call = one._calls._call

        async def cancelled_meanwhile(*words: Any) -> Any:
            await call(*words)
            raise asyncio.CancelledError

        monkeypatch.setattr(one._calls, "_call", cancelled_meanwhile)
        await asyncio.wait([waiting])
        monkeypatch.undo()
        assert waiting.cancelled()
    async with reader("kept:a", deliveries=1) as two:
        assert data(await take(two, 2)) == [1, 2] and await two.dead_letters("kept:a") == []


async def test_a_rejected_publication_is_a_dead_letter_with_its_reason(history: History, reader: Open, store: valkey.Valkey) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as one:
        bad = await anext(one)
        store.set(one._layout.reader("kept:a", "g")[3], "another program's")
        assert await bad.reject("no such dish \ud800" + "x" * 5000)
        assert data(await take(one, 1)) == [2]
        (dead,) = await one.dead_letters("kept:a", limit=10**5000)  # more digits than Python writes
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


async def test_instances_share_the_channels_evenly_and_give_back_what_is_settled(history: History, reader: Open) -> None:
    channels = [f"kept:{n}" for n in range(4)]
    for channel in channels:
        await publish(history, channel, 1)
    async with reader(*channels, lease=5) as one:
        taken = {each.channel: each for each in await take(one, 4, ack=False)}
        async with reader(*channels, lease=5) as two:
            moving = one._membership._shares.mine(channels, [one._membership._member, two._membership._member])
            await until(lambda: len(moving) == 2 and sum(hold.leaving for hold in one._channels._holds.values()) == 2, "two channels move")
            await nothing_more(two)
            for each in taken.values():
                assert await each.ack(), "the application settles what it has before a channel is given back"
            await until(lambda: (len(one._channels.held()), len(two._channels.held())) == (2, 2), "each has two")
            assert one._channels.held() | two._channels.held() == set(channels) and not one._channels.held() & two._channels.held()
            for channel in channels:
                await publish(history, channel, 1, 2)
            assert {each.channel for each in await take(two, 2)} == two._channels.held(), "nothing was given twice"
            await take(one, 2)
        await until(lambda: one._channels.held() == set(channels), "channels that are given back are taken at once", 2)


async def test_an_instance_that_is_presumed_dead_cannot_acknowledge(history: History, reader: Open) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as frozen:
        mine, next_one = await take(frozen, 2, ack=False)
        frozen._running[0].cancel()  # it renews its lease no more
        async with reader("kept:a") as other:
            theirs = await take(other, 2)
            assert data(theirs) == [1, 2] and theirs[0].deliveries == 2
            assert not await mine.ack() and not await next_one.reject("late")
            assert await other.dead_letters("kept:a") == [] and frozen._channels.held() == set()


async def test_an_acknowledgement_whose_answer_was_lost_is_recorded_though_its_channel_is_anothers_by_then(
    history: History, reader: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returned False, "not recorded": an application that undid its work then did it never."""
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as cut_off:
        mine, next_one = await take(cut_off, 2, ack=False)
        settle = cut_off._calls.settle

        async def settle_unanswered(*words: Any) -> bool:
            await settle(*words)
            monkeypatch.undo()
            cut_off._running[0].cancel()  # it renews its lease no more
            other = await asyncio.create_task(others_first(reader))
            assert data([other]) == [2], "the first one is recorded"
            raise Unavailable("the answer was lost")

        monkeypatch.setattr(cut_off._calls, "settle", settle_unanswered)
        assert await mine.ack()
        assert not await next_one.ack(), "the other instance acknowledged it"
        assert await cut_off.lag() == {"kept:a": 0}


async def others_first(reader: Open) -> Delivery:
    async with reader("kept:a") as other:
        return (await take(other, 1))[0]


class OneChannel:
    """What a membership is given: a reader of one channel."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def followed(self) -> set[str]:
        return {"kept:a"}

    def held(self) -> set[str]:
        return set(self.taken)

    def on_taken(self, channel: str, owner: str) -> None:
        self.taken.add(channel)

    def on_moved(self, channel: str) -> None: ...

    def on_announced(self, channel: str) -> None: ...


async def test_a_living_instance_keeps_its_channel_when_valkeys_clock_is_set(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease is over then, until it comes back."""
    calls, channels = ReaderCalls(history.commands, history.layout, "g", "", 5, 1000), OneChannel()
    living, member = "a" * 12, f"{'a' * 12}.12345678"
    membership = Membership(calls, channels, "12345678", 10, history.layout.faults, evenly=False)
    await calls.beat(member, 10_000)
    assert await calls.take("kept:a", f"{living}/1") == ""
    await membership._look()

    async def set_forward(*_: Any) -> float:
        return datetime.now(UTC).timestamp() + 3600

    monkeypatch.setattr("gateway.work.reader_calls.valkey_time", set_forward)
    await calls.beat(member, 0)  # as by that clock
    await membership._look()
    assert channels.taken == set()


async def test_an_instance_renews_its_lease_while_it_takes_very_many_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500,000 that lasts for longer than the lease: others would take them from it."""
    beats, taken = asyncio.Semaphore(0), asyncio.Event()

    class Calls:
        async def beat(self, member: str, lease_ms: int) -> set[str]:
            beats.release()
            return {member}

        async def time(self) -> float:
            return 0.0

        async def take(self, channel: str, owner: str, holder: str) -> str:
            for _ in range(4):  # the first is that of the look
                await beats.acquire()
            taken.set()
            return ""

    membership = Membership(cast(Any, Calls()), OneChannel(), "12345678", 0.1, Faults(), evenly=False)
    async with asyncio.timeout(10):
        running = asyncio.create_task(membership.run())
        await taken.wait()
    await end(running)


async def test_a_membership_announces_after_a_failure_what_it_could_not_and_logs_failures_in_a_row_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a channel that was moved, its owner learns by the announcement alone."""
    announced: list[tuple[str, ...]] = []
    outcomes = iter([False, False, True, False, True])
    finished = asyncio.Event()

    class Calls:
        async def beat(self, member: str, lease_ms: int, *free: str) -> set[str]:
            outcome = next(outcomes, None)
            if outcome is None:
                finished.set()
                await asyncio.Event().wait()
            membership.wake()  # it looks again at once
            if not outcome:
                raise Unavailable("away")
            announced.append(free)
            return {member}

        async def time(self) -> float:
            return 0.0

        async def take(self, channel: str, owner: str, holder: str) -> str:
            return ""

    membership = Membership(cast(Any, Calls()), OneChannel(), "12345678", 10, Faults(), evenly=False)
    membership.announce_free("kept:a", "kept:b")
    async with asyncio.timeout(10):
        running = asyncio.create_task(membership.run())
        await finished.wait()
    await end(running)
    assert announced == [("kept:a", "kept:b"), ()]
    assert caplog.messages == ["the lease of this reader was not renewed: away; trying again"] * 2


async def test_an_acknowledgement_waits_while_valkeys_disk_is_full(disk: ValkeyServer) -> None:
    async with opened_history(disk.url, "gw", CONFIG) as history, Reader(disk.url, group="g", channels=["kept:a"]) as one:
        await publish(history, "kept:a", 1)
        (only,) = await take(one, 1, ack=False)
        with disk.full_disk():
            settling, asked = asyncio.create_task(only.ack()), refusals(disk)
            await until(lambda: settling.done() or refusals(disk) > asked + 1, "it is refused, and asked again")
        assert await settling


def refusals(server: ValkeyServer) -> int:
    return int(server.client.info("errorstats").get("errorstat_MISCONF", {"count": 0})["count"])


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


async def test_what_was_trimmed_while_a_group_took_over_what_was_pending_is_a_gap(history: History, reader: Open) -> None:
    """The second instance reads what the first one left two at a time, and history lets go of the next ones meanwhile."""
    await publish(history, "eight:a", 8)
    async with reader("eight:a") as one:
        epoch = (await take(one, 8, ack=False))[0].epoch
    async with reader("eight:a", unacknowledged=2) as two:
        pending = await take(two, 2, ack=False)
        assert [each.offset for each in pending] == [1, 2]
        await publish(history, "eight:a", 4, 9)
        for each in pending:
            assert await each.ack()
        taken = await take(two, 8)
    assert [each.offset for each in taken] == list(range(5, 13))
    assert [each.gap for each in taken] == [gap((epoch, 2), (epoch, 4)), *[None] * 7]


async def test_a_dead_letter_hides_no_gap_before_it(history: History, reader: Open) -> None:
    await publish(history, "three:a", 3)
    async with reader("three:a") as one:
        taken = await take(one, 3, ack=False)
        assert await taken[2].ack()
    await publish(history, "three:a", 1, 4)
    async with reader("three:a", deliveries=1) as two:
        first = (await take(two, 1))[0]
        assert [each.position.offset for each in await two.dead_letters("three:a")] == [2]
        assert (first.offset, first.gap) == (4, gap((first.epoch, 0), (first.epoch, 3)))
    async with reader("three:a") as three:
        assert await three.lag() == {"three:a": 0}


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


async def test_a_new_life_of_the_history_is_a_gap_also_if_valkey_lost_everything(
    history: History, reader: Open, store: valkey.Valkey
) -> None:
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as one:
        old = (await take(one, 2))[-1]
        for lost in (
            history.layout.keys("kept:a"),
            (*history.layout.keys("kept:a"), *one._layout.reader("kept:a", "g")[2:], one._calls.instances),
        ):
            store.delete(*lost)
            await publish(history, "kept:a", 2, 10)
            again = await take(one, 2)
            assert data(again) == [10, 11] and again[0].gap == gap((old.epoch, 2), (again[0].epoch, 0)) and again[0].gap.lost is None
            old = again[-1]
            assert await one.lag() == {"kept:a": 0}


@pytest.mark.parametrize("dies", [False, True])
async def test_each_instance_reports_the_gaps_of_its_channels_where_valkey_lost_everything(
    history: History, reader: Open, store: valkey.Valkey, dies: bool
) -> None:
    """The first one to come back took the channels of the others, which alone knew how far those were read: nobody reported their gaps."""
    channels = [f"kept:{name}" for name in "abcdef"]
    for channel in channels:
        await publish(history, channel, 1)
    async with reader(*channels, lease=1) as one, reader(*channels, lease=1) as two:
        await until(lambda: len(one._channels.held()) == len(two._channels.held()) == 3, "they share the channels")
        await asyncio.gather(take(one, 3), take(two, 3))
        theirs = two._channels.held()
        if dies:
            two._running[0].cancel()
        lost = [key for channel in channels for key in (*history.layout.keys(channel), history.layout.reader(channel, "g")[2])]
        store.delete(*lost, one._calls.instances)
        await one._membership._look()
        assert not one._channels.held() & theirs
        for channel in channels:
            await publish(history, channel, 1)
        again = await take(one, 6) if dies else [each for some in await asyncio.gather(take(one, 3), take(two, 3)) for each in some]
        assert {each.channel for each in again} == set(channels)
        assert dies or all(each.gap is not None for each in again)


async def test_an_instance_that_was_given_nothing_reports_the_gap_too_where_valkey_lost_everything(
    history: History, reader: Open, store: valkey.Valkey
) -> None:
    """All was read before it began, as by the process that a new version replaced."""
    await publish(history, "kept:a", 2)
    async with reader("kept:a") as one:
        old = (await take(one, 2))[-1]
    async with reader("kept:a") as two:
        await until(lambda: "kept:a" in two._channels._holds and two._channels._holds["kept:a"].known is not None, "it has looked for more")
        store.delete(*history.layout.keys("kept:a"), history.layout.reader("kept:a", "g")[2], two._calls.instances)
        await publish(history, "kept:a", 1)
        (new,) = await take(two, 1)
        assert new.gap == gap((old.epoch, 2), (new.epoch, 0))


async def test_acknowledgements_that_valkey_lost_hold_up_nothing(history: History, reader: Open, store: valkey.Valkey) -> None:
    """What a failover lost of them was pending for as long as the reader ran: it counted as waiting, and nothing after a hole was given."""
    keys = (*history.layout.keys("three:a")[:2], history.layout.reader("three:a", "g")[2])
    await publish(history, "three:a", 3)
    async with reader("three:a") as one:
        taken = await take(one, 3, ack=False)
        for key in keys:
            store.copy(key, key + b":saved", replace=True)
        assert all([await each.ack() for each in taken])
        for key in keys:
            store.copy(key + b":saved", key, replace=True)
        assert await one.lag() == {"three:a": 3}
        at_once = [word for number in range(4, 9) for word in (1, number)]
        store.fcall("gateway_publish_all", 3, *history.layout.keys("three:a"), *at_once)  # the first two of them are gone
        after = await take(one, 3)
        assert data(after) == [6, 7, 8] and after[0].gap == gap((after[0].epoch, 3), (after[0].epoch, 5))
        assert await one.lag() == {"three:a": 0}


async def test_nothing_waits_in_a_new_epoch_of_which_all_was_read_before(history: History, reader: Open) -> None:
    """All that history holds counted as waiting until something was published."""
    await publish(history, "kept:a", 3)
    async with reader("kept:a") as one:
        old = (await take(one, 3))[-1]
        await history.read("kept:a", seen=(Position(old.epoch, 4), 1))  # as a gateway that has seen more
        await nothing_more(one)
        assert await one.lag() == {"kept:a": 0}
        await publish(history, "kept:a", 1, 4)
        assert await one.lag() == {"kept:a": 1}
        (new,) = await take(one, 1)
        assert new.gap == gap((old.epoch, 3), (new.epoch, 3)) and await one.lag() == {"kept:a": 0}


@pytest.mark.parametrize("more", [1, 3])
async def test_a_valkey_that_came_back_older_than_where_a_group_began_is_a_gap(
    history: History, reader: Open, store: valkey.Valkey, more: int
) -> None:
    """Nothing was acknowledged yet: what got the offsets again was skipped, or the gap ended before it began."""
    keys = history.layout.keys("kept:a")[:2]
    await publish(history, "kept:a", 3)
    for key in keys:
        store.copy(key, key + b":saved", replace=True)
    await publish(history, "kept:a", 2)
    async with reader("kept:a", since=5):
        await until(lambda: bool(store.hget(history.layout.reader("kept:a", "g")[2], "reading")), "it begins")
    old = (await history.read("kept:a")).top
    for key in keys:
        store.copy(key + b":saved", key, replace=True)
    await asyncio.sleep(0.002)  # no two servers write at once
    await publish(history, "kept:a", more, 40)
    async with reader("kept:a", since=5) as two:
        taken = await take(two, 3 + more)
        assert data(taken) == [1, 2, 3, *range(40, 40 + more)] and taken[0].gap == gap((old.epoch, 5), (taken[0].epoch, 0))
        assert taken[0].epoch != old.epoch


async def test_a_valkey_that_came_back_older_is_a_gap_and_nothing_new_is_skipped(
    history: History, reader: Open, store: valkey.Valkey
) -> None:
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


async def test_a_reader_that_runs_for_long_is_reported_again(
    reader: Open, prefix: str, store: valkey.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report expires after a month, and goes with a Valkey that comes back empty: gateways would not show a reader that runs, nor what waits for it."""
    assert following.REPORT_SECONDS <= 60, "it was missing for up to a day"
    monkeypatch.setattr("gateway.work.following.REPORT_SECONDS", 0.01)
    async with reader("kept:1"):
        assert store.delete(f"{prefix}:readers") == 1
        await until(lambda: store.hexists(f"{prefix}:readers", "g"), "it is reported again")


async def test_instances_that_come_and_go_leave_nothing_in_the_stream(history: History, reader: Open, store: valkey.Valkey) -> None:
    """A consumer of each would stay for ever, in every channel: a restart each day is thousands in some years."""
    for _ in range(3):
        await publish(history, "kept:1", 1)
        async with reader("kept:1") as one:
            await take(one, 1)
    stream = history.layout.keys("kept:1")[1]
    assert [each["name"] for each in store.xinfo_consumers(stream, "g")] == [b"reader"]


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


async def test_a_group_begins_where_it_is_told_to(history: History, reader: Open, store: valkey.Valkey) -> None:
    await publish(history, "three:a", 4)
    await asyncio.sleep(0.002)  # to another millisecond: publications have no finer time
    middle = datetime.now(UTC)
    await publish(history, "three:a", 1, 5)
    top = (await history.read("three:a")).top
    lost = gap((top.epoch, 0), (top.epoch, 2))
    starts: list[tuple[Any, int, Gap | None]] = [
        (None, 3, None),
        (0, 3, lost),
        (4, 5, None),
        (Position(top.epoch, 3), 4, None),
        (f"{top.epoch}:4", 5, None),
        (Position("another", 4), 3, gap(("another", 4), (top.epoch, 2))),
        (middle, 5, None),
        (datetime.fromtimestamp(0, UTC), 3, None),
        (datetime.now(UTC) + timedelta(hours=1), 6, None),
        (99, 7, None),
    ]
    for number, (since, offset, expected) in enumerate(starts):
        async with reader("three:a", group=f"g{number}", since=since) as one:
            if offset > 5:  # after all that there is
                state = history.layout.reader("three:a", f"g{number}")[2]
                await until(partial(store.hexists, state, "reading"), "the group has a position")
                await publish(history, "three:a", 1, offset)
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


async def test_a_group_that_was_moved_is_announced_again_where_valkey_did_not_take_it(
    history: History, reader: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a channel to which nothing is published it read on where it was, for ever."""
    await publish(history, "kept:a", 2)
    async with reader("kept:a", lease=3000) as one:
        await take(one, 2)
        beat, refused = one._calls.beat, asyncio.Event()

        async def beat_refused(member: str, lease_ms: int, *free: str) -> set[str]:
            if free and not refused.is_set():
                refused.set()
                raise Unavailable("the connection was lost")
            return await beat(member, lease_ms, *free)

        monkeypatch.setattr(one._calls, "beat", beat_refused)
        await one.rewind("kept:a", 0)
        await refused.wait()
        one._membership.wake()
        assert data(await take(one, 2)) == [1, 2]


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


# A namespace.


@pytest.mark.every_valkey
async def test_all_channels_of_a_namespace_are_read_also_those_that_come_later(
    history: History, reader: Open, valkey_url: str, store: valkey.Valkey
) -> None:
    await publish(history, "named:a", 1)
    await publish(history, "kept:z", 1)
    await history.read("named:followed")
    index = history.layout.index("named")
    store.sadd(index, b"\xff", "kept:z", "named:{")
    async with reader(namespace="named") as one:
        assert await one.lag() == {"named:a": 1, "named:followed": 0}
        assert (await take(one, 1))[0].channel == "named:a"
        await publish(history, "named:b", 1)
        assert (await take(one, 1))[0].channel == "named:b"
        with SyncPublisher(valkey_url, prefix=history.layout.prefix) as plain:
            plain.publish("named:c", 1)
            assert (await take(one, 1))[0].channel == "named:c"
            store.delete(index, *history.layout.keys("named:c"))
            plain.publish("named:c", 2)
            assert store.sismember(index, "named:c"), "the history began anew, so the name is written again"
        store.delete(index)
        await history.relay("named:d", "e", [(1, "1")], notify=False)
        assert {each.channel for each in await take(one, 2)} == {"named:c", "named:d"}
        assert one._layout.faults.counts["index"] == 3
    assert not store.exists(history.layout.index("kept"))


async def test_a_channel_is_in_the_index_again_when_a_relay_or_a_bridge_publishes_to_it_in_an_emptied_valkey(
    history: History, store: valkey.Valkey
) -> None:
    for number in range(1, 4):
        await history.relay("named:a", "e", [(number, "1")], notify=False)
        await history.write_index_first("named:b", again=True)  # as a bridge does
        await history.restore("named:c", "e", 1, [(1, "1")])
        index = history.layout.index("named")
        assert set(store.smembers(index)) == {b"named:a", b"named:b", b"named:c"}
        store.delete(index, *(key for name in "abc" for key in history.layout.keys(f"named:{name}")))


async def test_a_namespace_without_an_index_is_a_mistake_that_is_named(history: History, reader: Open) -> None:
    with pytest.raises(ConfigurationError, match=r"namespaces\.kept\.index is not set"):
        await reader(namespace="kept").connect()


async def test_an_index_key_of_another_type_costs_no_publication(history: History, valkey_url: str, store: valkey.Valkey) -> None:
    store.set(history.layout.index("named"), "another program's")
    await publish(history, "named:a", 2)
    with SyncPublisher(valkey_url, prefix=history.layout.prefix) as plain:
        assert plain.publish("named:a", 3) is not None
    assert history.layout.faults.counts["index"] == 3, "before the first, after the first, before the second"


# Event sourcing.


async def test_the_state_of_a_review_is_rebuilt_from_its_history(tmp_path: Any, valkey_url: str, prefix: str) -> None:
    async with Database(f"sqlite:///{tmp_path / 'reviews.db'}") as database, Publisher(valkey_url, prefix=prefix) as publisher:
        await migrate(database)
        review = (await create_review(database, subject="r42", author="u1", rating=4, text="Good soup"))["id"]
        await respond(database, review=review, author="u2", text="Which one?")
        for user, reaction in (("u3", "like"), ("u4", "like"), ("u3", None), ("u5", "love")):
            await react(database, user=user, target=story_of(review), reaction=reaction)
        await respond(database, review=review, author="u1", text="The red one")
        await Relay(database, publisher.history).drain()
        (expected,) = await list_reviews(database, subject="r42")
        async with Reader(valkey_url, group="state", channels=[story_of(review)], since=0, prefix=prefix) as reader:
            assert rebuilt(await take(reader, 7)) == expected
            await reader.rewind(story_of(review), 0)
            assert rebuilt(await take(reader, 7)) == expected, "as often as it is wanted"


def rebuilt(story: list[Delivery]) -> dict[str, Any]:
    """A review as ``list_reviews`` has it, made of what happened to it."""
    review: dict[str, Any] = {}
    for each in story:
        assert each.gap is None
        match each.data:
            case {"type": "review.created", "review": created}:
                review = created | {"responses": []}
            case {"type": "response.created", "response": response}:
                review["responses"].append(response)
            case {"type": "reaction", "counts": counts}:
                review["reactions"] = counts
    return review


# Opening, closing, and what cannot be.


async def test_iteration_ends_when_the_reader_is_closed(history: History, reader: Open) -> None:
    one = reader("kept:a")
    await one.connect()
    seen: list[Any] = []

    async def follow() -> None:
        async for publication in one:
            seen.append(publication)

    following = asyncio.create_task(follow())
    await publish(history, "kept:a", 1)
    await until(lambda: seen, "it follows")
    await one.close()
    await one.close()
    await asyncio.wait_for(following, 5)
    assert not await seen[0].ack(), "the channel was given back"


async def test_what_stops_a_reader_is_raised_where_it_is_read(history: History, reader: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with reader("kept:a") as one:
        monkeypatch.setattr(one._channels, "_read", None)
        await publish(history, "kept:a", 1)
        with pytest.raises(TypeError):
            await anext(one)


async def test_a_reader_outlasts_valkey(tmp_path: Any) -> None:
    own = OwnValkey(tmp_path / "own")
    own.start()
    try:
        async with opened_history(own.url, "gw", CONFIG) as history, Reader(own.url, group="g", channels=["kept:a"], lease=1) as one:
            await publish(history, "kept:a", 2)
            first = await anext(one)
            own.kill()
            acknowledging = asyncio.create_task(first.ack())
            await asyncio.sleep(0)
            own.start()
            assert await acknowledging and data(await take(one, 1)) == [2]
            await publish(history, "kept:a", 1, 3)
            assert data(await take(one, 1)) == [3]
    finally:
        own.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": ""}, "the group has no name"),
        ({"group": "a{b}"}, "the group's name holds a brace"),
        ({"channels": ["a\n"]}, "holds a brace, a control character or half a surrogate pair"),
        ({"channels": []}, "either channels or a namespace"),
        ({"namespace": "reviews"}, "either channels or a namespace"),
        ({"channels": [], "namespace": "a:b"}, "not the name of a namespace"),
        ({"deliveries": 0}, "at least 1"),
        ({"unacknowledged": 0}, "at least 1"),
        ({"lease": 0}, "a lease is from"),
        ({"lease": float("nan")}, "a lease is from"),
        ({"since": "yesterday"}, "is not a position"),
        ({"since": Position("a b", 3)}, "is not a position"),
        ({"since": -1}, "a number from 0"),
        ({"since": 2**53}, "a number from 0"),
        ({"since": datetime(2026, 1, 1)}, "needs a time zone"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_a_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Reader(**{"group": "g", "channels": ["a"]} | options)


def test_a_start_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="a start is"):
        Reader(group="g", channels=["a"], since=1.5)  # type: ignore[arg-type]  # the mistake is the point


# Sharing.


@pytest.mark.parametrize("evenly", [True, False])
def test_every_channel_is_one_instances_and_few_move(evenly: bool) -> None:
    channels, members = [f"c:{n}" for n in range(200)], [f"m{n}" for n in range(5)]

    def readers(present: list[str]) -> dict[str, str]:
        found = [(channel, me) for me in present for channel in Shares(me, evenly=evenly).mine(channels, present)]
        assert len(found) == len(channels), "each is read once"
        return dict(found)

    four, five = readers(members[:4]), readers(members)
    loads = Counter(five.values())
    assert max(loads.values()) <= (40 if evenly else 60)
    moved = sum(four[channel] != five[channel] for channel in channels)
    assert moved <= (120 if evenly else 60), f"{moved} moved"
    shares = Shares("m0", evenly=evenly)
    before = shares.mine(channels, members)
    after = shares.mine([*channels, "c:new"], members)
    assert evenly or before == after - {"c:new"}, "another channel of a namespace moves none"
