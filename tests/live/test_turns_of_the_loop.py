"""No work of the live part fills a turn of the loop: bursts are cut into portions, which these tests count. ``tests/benchmark_turns.py`` has the seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import gateway.runtime.backoff
from gateway.config import Config
from gateway.errors import StoreError, Unavailable
from gateway.live.arrivals import ANNOUNCED_AT_ONCE, PUBLICATION_WORK
from gateway.live.channel import NOTIFIED_AT_ONCE, Channel
from gateway.live.fanout import BYTES_PER_WRITE, SLICE
from gateway.live.hub import DROPPED_AT_ONCE, PAGES_AT_ONCE, Hub
from gateway.live.mending import MENDED_AT_ONCE
from gateway.live.opening import WOKEN_AT_ONCE
from gateway.live.subscription import State
from gateway.publication import Position, Publication
from gateway.store.history import Page
from gateway.store.layout import Layout

from ..kit.model import Recorder
from ..kit.turns import TurnCounter
from ..kit.waiting import until

EPOCH = "e1"


class Valkey:
    """A history that holds one publication of each channel, or refuses those in ``broken``; ``reading`` counts the reads under way."""

    def __init__(self, turns: TurnCounter) -> None:
        self.turns = turns
        self.broken: dict[str, StoreError] = {}
        self.reading = self.most_reading = 0
        self.top = 0
        self.epoch = EPOCH
        self.asked: list[bytes] = []
        self.reading_held = False

    async def read(self, channel: str, since: int = 0, limit: int = 0, *, reverse: bool = False, seen: Any = None) -> Page:
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        await asyncio.sleep(0.001)
        self.reading -= 1
        if channel in self.broken:
            raise self.broken[channel]
        run = [Publication(offset, b"1", 7) for offset in range(since + 1, self.top + 1)][:limit]
        return Page(Position(self.epoch, self.top), 7, run)

    def begin_position(self, waiter: Any, channel: str) -> None:
        def answer(read: asyncio.Task[Page]) -> None:
            if not read.cancelled():
                error = read.exception()
                waiter.set_result(read.result()) if error is None else waiter.set_exception(error)

        asyncio.ensure_future(self.read(channel)).add_done_callback(answer)

    def subscribe(self, channels: list[bytes]) -> None:
        self.asked += channels

    def unsubscribe(self, channels: list[bytes]) -> None:
        if channels:  # of none nothing is written
            self.turns.note()
        self.asked = [channel for channel in self.asked if channel not in channels]

    def hold_reading(self, hold: bool) -> None:
        self.reading_held = hold

    def on_missed_ephemeral(self, channel: Channel) -> None: ...


class Counted(Recorder):
    """Notes in its turn counter what is done for it."""

    __slots__ = ("turns",)

    def __init__(self, turns: TurnCounter, channel: Channel, since: Position | None = None) -> None:
        self.turns = turns
        super().__init__(channel, since)

    def take(self, joined: tuple[str, list[Publication]]) -> None:
        self.turns.note()
        super().take(joined)

    def gap(self) -> None:
        self.turns.note()
        super().gap()


@pytest.fixture
def turns() -> TurnCounter:
    return TurnCounter()


@pytest.fixture
def valkey(turns: TurnCounter) -> Valkey:
    return Valkey(turns)


@pytest.fixture
async def hub(valkey: Valkey) -> AsyncIterator[Hub]:
    hub = Hub(Config(namespaces={"forgetful": {"history_size": 0}}), Layout("gw"), valkey, valkey, valkey)
    yield hub
    await hub.close()


def follow(hub: Hub, turns: TurnCounter, names: list[str], since: Position | None = None) -> list[Counted]:
    subscriptions = [Counted(turns, hub.channel(name), since) for name in names]
    for subscription in subscriptions:
        hub.follow(subscription)
    return subscriptions


def confirm(hub: Hub, valkey: Valkey) -> None:
    for key in valkey.asked:
        hub.on_subscribed(key)


async def live(subscriptions: list[Counted]) -> None:
    await until(lambda: all(each.state is State.LIVE for each in subscriptions), "all are live", 60)


async def test_a_publication_to_a_hundred_thousand_is_written_in_slices(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    confirm_one = follow(hub, turns, ["c"])
    confirm(hub, valkey)
    await live(confirm_one)
    subscriptions = [*confirm_one, *follow(hub, turns, ["c"] * 99_999)]
    await live(subscriptions)
    turns.work.clear()
    with turns:
        hub.on_announcements({subscriptions[0].channel.key: [b"@1 %b 7\n1" % EPOCH.encode()]})
        await until(lambda: subscriptions[0].channel.round is None, "the round is over", 60)
    assert turns.total == 100_000 and turns.most <= SLICE
    assert {each.offset if each.state is not State.LIVE else each.position.offset for each in subscriptions} == {1}


async def test_rounds_of_several_large_channels_take_turns(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number % 5}" for number in range(25 * SLICE)])
    confirm(hub, valkey)
    await live(subscriptions)
    turns.work.clear()
    with turns:
        hub.on_announcements(announced(subscriptions[:5], 1))
        await until(lambda: turns.total == len(subscriptions), "all are written to", 60)
    assert turns.most <= 2 * SLICE, "a slice of a round that goes on, and the first of another"
    assert all(each.position.offset == 1 for each in subscriptions)


def announced(subscriptions: list[Counted], offset: int) -> dict[bytes, list[bytes]]:
    return {each.channel.key: [b"@%d %b 7\n1" % (offset, EPOCH.encode())] for each in subscriptions}


async def test_what_is_announced_in_many_channels_at_once_is_handed_on_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(3000)])
    confirm(hub, valkey)
    await live(subscriptions)
    turns.work.clear()
    with turns:
        hub.on_announcements(announced(subscriptions, 1))
        assert valkey.reading_held, "nothing more is read meanwhile"
        hub.on_announcements(announced(subscriptions[::-1], 2))  # was read before reading was held
        await until(lambda: not valkey.reading_held, "all is handed on")
    assert turns.most * (PUBLICATION_WORK + 1) <= 2 * ANNOUNCED_AT_ONCE, "a channel's publications are not parted"
    assert all(each.events == ["begin", 1, 2] for each in subscriptions)


async def test_who_subscribes_before_a_delayed_publication_gets_it_once(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(1000)])
    confirm(hub, valkey)
    await live(subscriptions)
    hub.on_announcements(announced(subscriptions, 1))
    (late,) = follow(hub, turns, ["c999"])
    hub.end(subscriptions[998])
    await until(lambda: not valkey.reading_held, "all is handed on")
    assert late.events == ["begin", 1]
    assert subscriptions[998].events == ["begin"], "its turn had not come"


async def test_a_link_that_is_lost_while_publications_are_delayed(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(1000)])
    confirm(hub, valkey)
    await live(subscriptions)
    hub.on_announcements(announced(subscriptions, 1))
    valkey.top = 2
    hub.on_lost()
    confirm(hub, valkey)
    await until(lambda: all(each.channel.is_open for each in subscriptions), "all are open", 60)
    assert all(each.events == ["begin", 1, 2] for each in subscriptions)
    assert not valkey.reading_held


async def test_after_a_lost_link_few_channels_read_history_at_a_time(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(1000)])
    confirm(hub, valkey)
    await live(subscriptions)
    hub.on_lost(valkey.asked)
    valkey.top, valkey.most_reading = 1, 0
    turns.work.clear()
    with turns:
        confirm(hub, valkey)
        await until(lambda: all(each.channel.is_open for each in subscriptions), "all are open", 60)
    assert valkey.most_reading == MENDED_AT_ONCE
    assert all(each.events == ["begin", 1] for each in subscriptions), "each got what it missed, once"


async def test_channels_whose_history_cannot_be_read_do_not_delay_others(
    hub: Hub, valkey: Valkey, turns: TurnCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.runtime.backoff, "backoff", lambda *delays: 3600.0)
    valkey.broken = {f"broken{number}": Unavailable("away") for number in range(2 * MENDED_AT_ONCE)}
    follow(hub, turns, list(valkey.broken))
    others = follow(hub, turns, ["c1", "c2"])
    confirm(hub, valkey)
    await live(others)


async def test_a_link_that_is_lost_again_while_channels_wait_to_be_mended(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(3 * MENDED_AT_ONCE)])
    for _ in range(3):
        confirm(hub, valkey)
        await asyncio.sleep(0)
        hub.on_lost()
    confirm(hub, valkey)
    await live(subscriptions)


async def test_those_that_waited_for_a_channel_go_on_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, ["c"] * (5 * WOKEN_AT_ONCE))
    with turns:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        turns.work.clear()
        confirm(hub, valkey)
        await live(subscriptions)
    assert turns.total == len(subscriptions) and turns.most <= WOKEN_AT_ONCE


async def test_those_that_waited_for_the_same_page_go_on_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    valkey.top = 5
    first = follow(hub, turns, ["c"])
    confirm(hub, valkey)
    await live(first)
    turns.work.clear()
    with turns:
        subscriptions = follow(hub, turns, ["c"] * (4 * PAGES_AT_ONCE), Position(EPOCH, 0))
        await live(subscriptions)
    assert turns.most <= PAGES_AT_ONCE
    assert hub.history_reads == 2, "one for the channel's position, one for all of them"
    assert all(each.events == ["recovered", 1, 2, 3, 4, 5] for each in subscriptions)


@pytest.mark.parametrize("channels", [1, 10])
async def test_a_loss_is_announced_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter, channels: int) -> None:
    subscriptions = follow(hub, turns, [f"forgetful:c{number % channels}" for number in range(5 * NOTIFIED_AT_ONCE)])
    confirm(hub, valkey)
    await live(subscriptions)
    hub.on_lost()
    turns.work.clear()
    with turns:
        confirm(hub, valkey)
        await until(lambda: all(each.events[-1] == "gap" for each in subscriptions), "all know")
    assert turns.total == len(subscriptions) and turns.most <= NOTIFIED_AT_ONCE


async def test_idle_channels_are_dropped_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_SECONDS", "SWEEP_SECONDS"):
        monkeypatch.setattr(f"gateway.live.hub.{name}", 0.0)
    names = [f"c{number}" for number in range(2 * DROPPED_AT_ONCE + 5)]
    subscriptions = follow(hub, turns, names)
    confirm(hub, valkey)
    await live(subscriptions)
    for subscription in subscriptions:
        hub.end(subscription)
    turns.work.clear()
    upkeep = asyncio.create_task(hub.run_upkeep())
    await until(lambda: not valkey.asked, "all are dropped")
    upkeep.cancel()
    assert turns.total == 3, "each portion is one write to Valkey"


async def test_those_that_waited_for_channels_that_open_together_go_on_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number % MENDED_AT_ONCE}" for number in range(MENDED_AT_ONCE * WOKEN_AT_ONCE)])
    with turns:
        await asyncio.sleep(0)
        turns.work.clear()
        confirm(hub, valkey)
        await live(subscriptions)
    assert turns.total == len(subscriptions) and turns.most <= WOKEN_AT_ONCE
    assert all(not each.channel.waiters for each in subscriptions)


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_gap_is_announced_in_portions(hub: Hub, valkey: Valkey, turns: TurnCounter, is_open: bool) -> None:
    """After the link was lost, and where the history is found to be another one while the channel is open."""
    valkey.top = 5
    subscriptions = follow(hub, turns, ["c"] * (3 * NOTIFIED_AT_ONCE))
    confirm(hub, valkey)
    await live(subscriptions)
    leaves, falls_behind, *others = subscriptions[::-1]
    channel, before = leaves.channel, leaves.position
    valkey.epoch = "e2"
    turns.work.clear()
    with turns:
        if is_open:
            follow(hub, turns, ["c"], before._replace(offset=6))
        else:
            hub.on_lost()
            confirm(hub, valkey)
        while not channel.unnotified:
            await asyncio.sleep(0)
        hub.end(leaves)
        falls_behind.fall_behind()
        assert leaves.position == falls_behind.position == before
        await until(lambda: all(each.events[-1] == "gap" for each in others), "all know")
    assert turns.total == len(others) + is_open and turns.most <= NOTIFIED_AT_ONCE
    assert leaves.events == falls_behind.events == ["begin"]
    hub.drained(falls_behind)
    assert falls_behind.events == ["begin", "gap"] and falls_behind.state is State.LIVE
    hub.on_announcements({channel.key: [b"@6 e2 7\n6"]})
    assert all(each.events[1:] == ["gap", 6] for each in [falls_behind, *others])


async def test_a_link_that_is_lost_while_a_gap_is_announced(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, ["c"] * (3 * NOTIFIED_AT_ONCE))
    confirm(hub, valkey)
    await live(subscriptions)
    valkey.epoch = "e2"
    hub.on_lost()
    confirm(hub, valkey)
    while not 0 < len(subscriptions[0].channel.unnotified) < len(subscriptions):
        await asyncio.sleep(0)
    hub.on_lost()
    valkey.top = 1
    confirm(hub, valkey)
    await until(lambda: subscriptions[0].channel.is_open, "the channel is open")
    assert all(each.events == ["begin", "gap", 1] for each in subscriptions)


def announced_large(subscriptions: list[Counted]) -> dict[bytes, list[bytes]]:
    """64 KB each, which count as eight writes more."""
    return {each.channel.key: [b'@1 %b 7\n"%b"' % (EPOCH.encode(), b"x" * 8 * BYTES_PER_WRITE)] for each in subscriptions}


async def test_a_large_publication_is_written_to_fewer_in_a_turn(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, ["c"] * 500)
    confirm(hub, valkey)
    await live(subscriptions)
    turns.work.clear()
    with turns:
        hub.on_announcements(announced_large(subscriptions))
        await until(lambda: subscriptions[0].channel.round is None, "the round is over")
    assert turns.total == 500 and (turns.most - 1) * 9 <= SLICE


async def test_large_publications_in_many_channels_are_handed_on_in_smaller_portions(hub: Hub, valkey: Valkey, turns: TurnCounter) -> None:
    subscriptions = follow(hub, turns, [f"c{number}" for number in range(500)])
    confirm(hub, valkey)
    await live(subscriptions)
    turns.work.clear()
    with turns:
        hub.on_announcements(announced_large(subscriptions))
        await until(lambda: not valkey.reading_held, "all is handed on")
    assert turns.total == 500 and (turns.most - 1) * (PUBLICATION_WORK + 9) <= 2 * ANNOUNCED_AT_ONCE
