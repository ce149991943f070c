"""Subscriptions that wait for their channel to open."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from gateway.publication import Publication

from ..kit.model import NAME, Recorder, World


class Beginning(Recorder):
    """Calls ``then`` when it begins."""

    then: Callable[[], None]

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        super().begin(recovered, publications)
        self.then()


def crash() -> None:
    raise RuntimeError("a mistake of ours")


async def opened_for(world: World, *subscriptions: Recorder) -> None:
    for subscription in subscriptions:
        world.hub.follow(subscription)
    for action in ("execute", "message", "execute", "arrive"):  # subscribed and confirmed, position read
        world.do(action)
        await world.steps(5)


async def test_one_that_ends_with_another_that_begins_does_not_begin() -> None:
    world = World(clients=())
    channel = world.hub.channel(NAME)
    first, second, third = Beginning(channel), Recorder(channel), Recorder(channel)
    first.then = lambda: world.hub.leave(second)
    await opened_for(world, first, second, third)
    assert (first.events, second.events, third.events) == (["begin"], [], ["begin"])
    assert channel.live_count == 2
    await world.close()


async def test_a_mistake_with_one_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(clients=())
    channel = world.hub.channel(NAME)
    first, second = Beginning(channel), Recorder(channel)
    first.then = crash
    with caplog.at_level(logging.ERROR):
        await opened_for(world, first, second)
    assert second.events == ["begin"]
    assert "a subscription that waited for it failed" in caplog.text
    await world.close()
