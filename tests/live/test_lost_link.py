"""The link to Valkey is lost, and history does not hold what was published meanwhile: the subscribers are notified of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config import Config
from gateway.live.channel import NOTIFIED_AT_ONCE
from gateway.live.subscription import State

from ..kit.channels import new_channel
from ..kit.clients import client, stream
from ..kit.gateways import RULES, RunningGateway, shared_gateway
from ..kit.model import KEY, NAME, ModelValkey, Recorder, World
from ..kit.python_sdk import PythonSdk, python_sdk
from ..kit.valkeys import OwnValkey
from ..kit.waiting import until

__all__ = ["python_sdk"]

INSUFFICIENT = {"code": 2500, "reason": "insufficient state"}

gateway = shared_gateway(RULES, own=True, both_edges=True)


def lose(own: OwnValkey, gateway: RunningGateway, channel: str, data: str = "1") -> None:
    """Cuts the link, and publishes what it does not bring."""
    assert own.kill_links("PUBLISH", f"{gateway.prefix}:{{{channel}}}", data) == 0


def test_an_sdk_subscribes_again_to_a_channel_without_history(own: OwnValkey, gateway: RunningGateway, python_sdk: PythonSdk) -> None:
    client = python_sdk.client(gateway, token=gateway.token())
    client.call("connect")
    subscription = client.subscribed("forgetful:sdk")
    gateway.publish("forgetful:sdk", 1)
    subscription.until("publication")
    lose(own, gateway, "forgetful:sdk")
    subscription.until("subscribed", 2)
    gateway.publish("forgetful:sdk", 3)
    assert subscription.data(2) == [1, 3] and subscription.codes("subscribing")[1] == 2500
    kinds = [said["kind"] for said in python_sdk.said if said.get("id") == subscription.id]
    assert kinds == ["subscribing", "subscribed", "publication"] * 2
    assert len(client.told("connected")) == 1, "its connection stays"
    client.call("disconnect")


async def test_an_event_stream_gets_a_gap(own: OwnValkey, gateway: RunningGateway) -> None:
    async with stream(gateway, "forgetful:sse") as one, stream(gateway, "chat:1", "forgetful:sse") as several:
        for events in (one, several):
            await events.connected()
        lose(own, gateway, "forgetful:sse")
        for events in (one, several):
            event = await events.next()
            assert (event.name, event.data) == ("gap", {"channel": "forgetful:sse", "epoch": "-", "offset": 0})
        gateway.publish("forgetful:sse", 2)
        for events in (one, several):
            assert (await events.next()).data["data"] == 2


async def test_the_connection_of_a_server_side_subscription_is_closed(own: OwnValkey, gateway: RunningGateway) -> None:
    async with client(gateway, token=gateway.token("u1", channels=["forgetful:own"])) as wire:
        lose(own, gateway, "forgetful:own")
        assert await wire.ended() == (3010, "insufficient state")


async def test_a_channel_of_ephemeral_publications_alone_counts_as_one_without_history(own: OwnValkey, gateway: RunningGateway) -> None:
    typing, quiet_channel = new_channel(), new_channel()
    async with client(gateway, subscribe=typing) as wire, client(gateway, subscribe=quiet_channel) as quiet:
        own.ask("PUBLISH", f"{gateway.prefix}:{{{typing}}}", "1")
        assert (await wire.publication())["data"] == 1
        lose(own, gateway, typing)
        assert (await wire.next())["push"]["unsubscribe"] == INSUFFICIENT
        await wire.result("subscribe", channel=typing)
        gateway.publish(quiet_channel, 1)
        assert (await quiet.publication())["data"] == 1, "history has all that there ever was"
        gateway.publish(typing, 2)
        lose(own, gateway, quiet_channel)
        assert (await wire.publication())["data"] == 2
        await wire.result("subscribe", channel="forgetful:after")  # answered when the link is back
        gateway.publish(typing, 3)
        assert (await wire.publication())["data"] == 3, "from the first publication in history on, nothing is announced as lost"


# The order of events, step by step.


class Noting(Recorder):
    """``ends`` with a gap, as a client's own subscription does."""

    __slots__ = ("ends", "world")

    def __init__(self, world: World, *, ends: bool = False, full: bool = False) -> None:
        super().__init__(world.hub.channel(NAME), full=full)
        self.world = world
        self.ends = ends

    def gap(self) -> None:
        super().gap()
        if self.ends:
            self.world.hub.end(self)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(Config(namespaces={"posts": {"history_size": 0}}), ModelValkey(), clients=())  # type: ignore[dict-item]  # pydantic takes it
    yield world
    await world.close()


def announce(world: World, data: int) -> None:
    world.hub.on_announcements({KEY: [b"%d" % data]})


async def confirm(world: World) -> None:
    world.hub.on_subscribed(KEY)
    await world.steps(8)


def noting(world: World, **options: Any) -> Noting:
    subscription = Noting(world, **options)
    world.hub.follow(subscription)
    return subscription


async def test_the_gap_comes_before_what_is_announced_after_it(world: World) -> None:
    subscription = noting(world)
    await confirm(world)
    announce(world, 1)
    world.hub.on_lost()
    world.hub.on_subscribed(KEY)
    announce(world, 2)
    await world.steps(8)
    assert subscription.events == ["begin", 1, "gap", 2]


async def test_the_first_connect_and_what_subscribes_while_the_link_is_down_get_no_gap(world: World) -> None:
    first = noting(world)
    world.hub.on_lost()  # before it was confirmed
    await confirm(world)
    world.hub.on_lost()
    late = noting(world)
    await world.steps(2)
    await confirm(world)
    announce(world, 1)
    assert first.events == ["begin", "gap", 1] and late.events == ["begin", 1]


async def test_one_whose_socket_is_full_gets_the_gap_when_it_has_drained(world: World) -> None:
    """It begins with a full socket, so that it is not live when the link is lost, or when something is announced."""
    lost, missed, fine = (noting(world, full=True) for _ in range(3))
    await confirm(world)
    for each in (lost, missed, fine):
        assert each.state is State.BEHIND
        each.full = False
    world.hub.drained(fine)
    announce(world, 1)
    world.hub.drained(missed)
    world.hub.on_lost()
    await confirm(world)
    world.hub.drained(lost)
    assert (fine.events, missed.events, lost.events) == (["begin", 1, "gap"], ["begin", "gap", "gap"], ["begin", "gap"])


async def test_one_that_is_connected_later_has_missed_nothing_before(world: World) -> None:
    subscription = noting(world, full=True)
    await confirm(world)
    announce(world, 1)
    subscription.full = False
    world.hub.client_connected(subscription)
    announce(world, 2)
    assert subscription.events == ["begin", 2]


async def test_one_that_is_connected_while_the_link_is_down_misses_what_is_announced_until_it_is_back(world: World) -> None:
    subscription = noting(world, full=True)
    await confirm(world)
    world.hub.on_lost()
    subscription.full = False
    world.hub.client_connected(subscription)
    await confirm(world)
    announce(world, 1)
    assert subscription.events == ["begin", "gap", 1]


async def test_many_are_notified_in_slices_and_those_that_left_meanwhile_are_not(world: World) -> None:
    subscriptions = [noting(world, ends=number % 2 == 0) for number in range(3 * NOTIFIED_AT_ONCE)]
    await confirm(world)
    world.hub.on_lost()
    world.hub.on_subscribed(KEY)
    notified = [each for each in subscriptions if "gap" in each.events]
    while not notified:
        await asyncio.sleep(0)
        notified = [each for each in subscriptions if "gap" in each.events]
    assert len(notified) == NOTIFIED_AT_ONCE
    leaving = subscriptions[-1]
    world.hub.end(leaving)
    await world.steps(12)
    announce(world, 1)
    assert leaving.events == ["begin"]
    for each in subscriptions[:-1]:
        assert each.events == (["begin", "gap"] if each.ends else ["begin", "gap", 1])


async def test_a_link_that_is_lost_again_meanwhile_leaves_no_subscription_out(world: World) -> None:
    subscriptions = [noting(world) for _ in range(2 * NOTIFIED_AT_ONCE)]
    await confirm(world)
    world.hub.on_lost()
    world.hub.on_subscribed(KEY)
    await until(lambda: "gap" in subscriptions[0].events, "the first are notified")
    world.hub.on_lost()
    await confirm(world)
    assert all("gap" in each.events for each in subscriptions)
