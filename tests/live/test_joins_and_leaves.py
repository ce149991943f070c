"""Joins and leaves of a channel with many observers: each gets all of them in order, and none of them fills a turn of the loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.live import joins_and_leaves
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.joins_and_leaves import MESSAGES_PER_WRITE, PASS_MOST, PASSED_AT_ONCE
from gateway.store.layout import JoinLeave

from ..kit.quiet_hub import quiet_hub
from ..kit.turns import TurnCounter
from ..kit.waiting import until


class Observer:
    def __init__(self, turns: TurnCounter) -> None:
        self.turns = turns
        self.got: list[bytes] = []

    def on_join_leave(self, joins_and_leaves: list[JoinLeave]) -> None:
        self.turns.work[self.turns.now] += 1 + len(joins_and_leaves) // MESSAGES_PER_WRITE
        self.got += [each.info for each in joins_and_leaves]


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = quiet_hub()
    yield hub
    await hub.close()


async def opened(hub: Hub, turns: TurnCounter, count: int) -> tuple[Channel, list[Observer]]:
    channel = hub.channel("posts:1")
    hub.on_subscribed(channel.key)
    await until(lambda: channel.is_open, "the channel is open")
    observers = [Observer(turns) for _ in range(count)]
    for observer in observers:
        channel.observe_joins_and_leaves(observer)
    return channel, observers


def announce(hub: Hub, channel: Channel, first: int, last: int) -> list[bytes]:
    infos = [b'{"client":"%d"}' % number for number in range(first, last)]
    hub.on_announcements({channel.key: [b"@join " + info for info in infos]})
    return infos


async def test_many_joins_reach_many_observers_in_portions_and_in_order(hub: Hub) -> None:
    turns = TurnCounter()
    channel, observers = await opened(hub, turns, 2000)
    with turns:
        infos = announce(hub, channel, 0, PASS_MOST + 10)
        infos += announce(hub, channel, PASS_MOST + 10, PASS_MOST + 20)
        late = Observer(turns)
        channel.observe_joins_and_leaves(late)
        channel.ignore_joins_and_leaves(observers[-1])
        await until(lambda: len(observers[-2].got) == len(infos), "all have got all")
    assert turns.most <= PASSED_AT_ONCE
    assert all(observer.got == infos for observer in observers[:-1])
    assert observers[-1].got == [], "it ended before its turn"
    assert late.got == infos[PASS_MOST:], "it came while the first pass was under way"


async def test_few_get_a_join_at_once(hub: Hub) -> None:
    turns = TurnCounter()
    channel, observers = await opened(hub, turns, 3)
    infos = announce(hub, channel, 0, 2)
    assert [observer.got for observer in observers] == [infos] * 3


async def test_of_more_than_can_be_handed_on_the_oldest_are_dropped(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten thousand that come and go in a channel where each gets each join: what waited grew without a bound, and came ever later."""
    most = 2 * PASS_MOST
    monkeypatch.setattr(joins_and_leaves, "WAITING_MOST", most)
    channel, observers = await opened(hub, TurnCounter(), 500)
    infos = announce(hub, channel, 0, PASS_MOST)
    for first in range(PASS_MOST, PASS_MOST + 3 * most, most):
        infos += announce(hub, channel, first, first + most)
    await until(lambda: observers[-1].got[-1:] == infos[-1:], "the newest came")
    assert all(observer.got == infos[:PASS_MOST] + infos[-most:] for observer in observers)
    assert caplog.text.count("join and leave faster than 500 others can be notified") == 1
