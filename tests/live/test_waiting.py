"""Subscriptions that wait for their channel to open: what one of them does as its waiting ends harms no other."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import StoreError
from gateway.live.channel import Announced, Channel
from gateway.live.hub import Hub
from gateway.live.mending import MENDED_AT_ONCE
from gateway.publication import Publication

from ..kit.model import Recorder
from ..kit.quiet_hub import quiet_hub
from ..kit.waiting import until


class Acting(Recorder):
    """Calls ``act`` as it begins, or fails."""

    __slots__ = ("act",)

    def __init__(self, channel: Channel, act: Callable[[], object]) -> None:
        super().__init__(channel)
        self.act = act

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        super().begin(recovered, publications)
        self.act()

    def fail(self, error: StoreError) -> None:
        self.events.append("failed")
        super().fail(error)
        self.act()


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = quiet_hub()
    yield hub
    await hub.close()


def follow(hub: Hub, name: str, act: Callable[[], object]) -> Acting:
    subscription = Acting(hub.channel(name), act)
    hub.follow(subscription)
    return subscription


async def test_a_client_that_subscribes_to_another_channel_as_it_is_refused_does_not_stop_the_refusal_of_others(hub: Hub) -> None:
    subscriptions = [follow(hub, f"a{number}", lambda number=number: hub.channel(f"b{number}")) for number in range(3)]
    hub.on_refused(StoreError("NOPERM"))
    assert [subscription.events for subscription in subscriptions] == [["failed"]] * 3


async def test_a_client_that_subscribes_on_is_not_refused_for_channels_that_were_asked_for_before(hub: Hub) -> None:
    """The refusals of several channels arrive together, and none of them names its channel."""
    later: list[Acting] = []
    first = follow(hub, "a", lambda: later.append(follow(hub, "b", lambda: None)))
    for _ in range(3):
        hub.on_refused(StoreError("NOPERM"))
    assert first.events == ["failed"] and later[0].events == []
    hub.on_subscribed(later[0].channel.key)
    await until(lambda: later[0].events, "the other has begun")
    follow(hub, "c", lambda: None)
    hub.on_refused(StoreError("NOPERM"))
    assert later[0].events == ["begin"] and not hub.channel("c").waiters


async def test_a_channel_whose_held_announcements_fail_opens_all_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    subscriptions = [follow(hub, "a", lambda: None) for _ in range(3)]
    channel = hub.channel("a")
    announced = Channel.announced

    def failing(channel: Channel, items: list[Announced]) -> None:
        if items and channel.is_open:
            raise ZeroDivisionError
        announced(channel, items)

    monkeypatch.setattr(Channel, "announced", failing)
    hub.on_announcements({channel.key: [b"1"]})
    hub.on_subscribed(channel.key)
    await until(lambda: channel.live_count == 3, "all are live")
    assert [subscription.events for subscription in subscriptions] == [["begin"]] * 3


async def test_one_that_ends_with_another_that_begins_does_not_begin(hub: Hub) -> None:
    first = follow(hub, "a", lambda: hub.end(second))
    second, third = follow(hub, "a", lambda: None), follow(hub, "a", lambda: None)
    hub.on_subscribed(first.channel.key)
    await until(lambda: third.events, "the last has begun")
    assert (first.events, second.events, third.events) == (["begin"], [], ["begin"])
    assert first.channel.live_count == 2


async def test_a_mistake_with_one_costs_the_others_nothing(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    first, second = follow(hub, "a", lambda: 1 // 0), follow(hub, "a", lambda: None)
    with caplog.at_level(logging.ERROR):
        hub.on_subscribed(first.channel.key)
        await until(lambda: second.events, "the other has begun")
    assert second.events == ["begin"]
    assert "a subscription that waited for it failed" in caplog.text


async def test_channels_that_wait_for_a_place_get_those_of_channels_that_are_lost(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of a cluster does not answer, and is lost: the channels of other shards were left waiting until something else was mended."""
    asked: list[str] = []
    monkeypatch.setattr(hub._history, "begin_position", lambda waiter, channel: asked.append(channel))
    names = [f"a{number}" for number in range(MENDED_AT_ONCE)]
    for name in [*names, "other"]:
        follow(hub, name, lambda: None)
        hub.on_subscribed(hub.channel(name).key)
    assert asked == names
    hub.on_lost([hub.channel(name).key for name in names])
    assert asked == [*names, "other"]
