"""A publication in a channel with many filters: each is asked once, in slices, and each subscriber gets what its own filter admits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.config import Config
from gateway.live.channel import Channel
from gateway.live.fanout import SLICE
from gateway.live.hub import Hub
from gateway.live.subscription import State
from gateway.live.wire_formats import NODES_PER_WRITE, FilteredWire
from gateway.publication import Publication, Tags
from gateway.rules.filters import NODES_MOST, Filter
from gateway.store.layout import Announcement

from ..kit.model import NAME, WIRE, ModelValkey, Recorder, World


class Turns:
    """Counts the turns of the loop, and in which of them a filter was asked."""

    def __init__(self) -> None:
        self.now = 0
        self.asked: Counter[int] = Counter()
        self._task = asyncio.create_task(self._count())

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.now += 1

    def stop(self) -> None:
        self._task.cancel()

    def filter(self, name: str, nodes: int = NODES_MOST) -> Filter:
        """Admits the publications whose tag ``for`` holds the name."""

        def test(tags: Tags) -> bool:
            self.asked[self.now] += 1
            return name in tags.texts["for"].split()

        return Filter(name.encode(), nodes, test)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    turns = Turns()
    yield turns
    turns.stop()


@pytest.fixture
async def channel() -> AsyncIterator[Channel]:
    world = World(Config(), ModelValkey())
    channel = world.hub.channel(NAME)
    world.do("execute")
    world.do("message")
    await world.steps(2)
    world.do("execute")
    world.do("arrive")
    await world.steps(5)
    assert channel.is_open
    yield channel
    await world.close()


def hub_of(channel: Channel) -> Hub:
    assert isinstance(channel.mender, Hub)
    return channel.mender


def follow(channel: Channel, filter: Filter) -> Recorder:
    subscription = Recorder(channel, wire=FilteredWire(WIRE, filter))
    hub_of(channel).follow(subscription)
    assert subscription.state is State.LIVE
    subscription.events.remove("begin")
    return subscription


def announce(channel: Channel, *named: str) -> None:
    """Publications for those that are named, all at once."""
    first = channel.offset + 1
    tags = [b'{"for":"%b"}' % names.encode() for names in named]
    items = [Announcement(channel.epoch, Publication(first + n, b"1", 7, tags[n])) for n in range(len(named))]
    channel.announced(list(items))


async def settle(channel: Channel) -> None:
    while channel.round is not None:
        await asyncio.sleep(0)


async def test_many_different_filters_are_asked_in_slices(channel: Channel, turns: Turns) -> None:
    subscriptions = [follow(channel, turns.filter(f"n{number}")) for number in range(1000)]
    announce(channel, "n1 n700", "n700")
    assert channel.round is not None
    await settle(channel)
    assert sum(turns.asked.values()) == 2 * 1000, "each filter is asked once for each publication"
    assert max(turns.asked.values()) * (NODES_MOST // NODES_PER_WRITE) <= SLICE + 20
    assert {number: each.events for number, each in enumerate(subscriptions) if each.events} == {1: [1], 700: [1, 2]}


async def test_few_filters_are_asked_at_once(channel: Channel, turns: Turns) -> None:
    subscription = follow(channel, turns.filter("me"))
    announce(channel, "me", "you", "me")
    assert channel.round is None and subscription.events == [1, 3]


async def test_equal_filters_are_asked_once_for_all_subscriptions(channel: Channel, turns: Turns) -> None:
    subscriptions = [follow(channel, turns.filter("us")) for _ in range(SLICE + 500)]
    announce(channel, "us")
    await settle(channel)
    assert sum(turns.asked.values()) == 1
    assert all(each.events == [1] for each in subscriptions)


async def test_what_is_announced_during_a_round_of_filters_follows_it(channel: Channel, turns: Turns) -> None:
    subscriptions = [follow(channel, turns.filter(f"n{number}")) for number in range(1000)]
    everybody = " ".join(f"n{number}" for number in range(1000))
    announce(channel, everybody)
    assert channel.round is not None
    leaving, late = subscriptions[0], follow(channel, turns.filter("late"))
    hub_of(channel).end(leaving)
    channel.announced([Announcement(channel.epoch, Publication(2, b"2", 7, b'{"for":"%b late"}' % everybody.encode()))])
    while channel.round is not None or channel.waiting:
        await asyncio.sleep(0)
    assert leaving.events == [], "its turn had not come"
    assert late.events == [2]
    assert all(each.events == [1, 2] for each in subscriptions[1:])
    for each in [*subscriptions[1:], late]:
        hub_of(channel).end(each)
    assert channel.filter_work == 0 and channel.live_count == 0
