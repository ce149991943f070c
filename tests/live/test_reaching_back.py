"""A subscription that starts so many publications back, as ``/sse?last=100`` does, in a channel whose history is full and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.live.subscription import State
from gateway.publication import Position

from ..kit.model import NAME, Recorder, World


class ReachingBack(Recorder):
    __slots__ = ()

    reaches_back = True


class WithoutPages(ReachingBack):
    """Its pages follow its beginning, as in an event stream."""

    __slots__ = ()

    takes_first_page = False


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Six publications were made."""
    world = World(clients=())
    for _ in range(6):
        world.valkey.publish()
    yield world
    await world.close()


async def followed(world: World, kind: type[Recorder], *, full: bool = False) -> Recorder:
    """Follows from the oldest of them on, until the subscription waits for nothing."""
    subscription = kind(world.hub.channel(NAME), Position("e1", 0), full=full)
    world.hub.follow(subscription)
    await settle(world, subscription)
    return subscription


async def settle(world: World, subscription: Recorder) -> None:
    while subscription.state is State.CATCHING_UP:
        for action in ("execute", "message", "arrive"):
            if action in world.possible():
                world.do(action)
        await world.steps(3)


@pytest.mark.parametrize(
    ("kind", "expected"), [(ReachingBack, ["recovered", 4, 5, 6]), (WithoutPages, ["recovered", 4, 5, 6]), (Recorder, ["begin"])]
)
async def test_what_history_let_go_since_it_was_asked_is_no_gap(world: World, kind: type[Recorder], expected: list[object]) -> None:
    """One that asks for the last hundred of a busy channel was given a gap, and nothing of what history has. Who knows a position gets a gap."""
    del world.valkey.stream[:3]
    assert (await followed(world, kind)).events == expected


async def test_what_history_let_go_before_anything_was_written_is_no_gap(world: World) -> None:
    subscription = await followed(world, WithoutPages, full=True)
    assert subscription.state is State.BEHIND and subscription.events == ["recovered"]
    del world.valkey.stream[:3]
    subscription.full = False
    world.hub.drained(subscription)
    await settle(world, subscription)
    assert subscription.events == ["recovered", 4, 5, 6]


async def test_what_history_let_go_after_a_publication_was_written_is_a_gap(world: World) -> None:
    subscription = await followed(world, ReachingBack, full=True)
    assert subscription.events == ["recovered", 1, 2]
    del world.valkey.stream[:3]
    subscription.full = False
    world.hub.drained(subscription)
    await settle(world, subscription)
    assert subscription.events == ["recovered", 1, 2, "gap"]
