"""What history let go, the memory of a gateway does not serve: it expired, it was removed, whether that was announced or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.publication import Position

from ..kit.channels import new_channel
from ..kit.clients import client
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.model import KEY, NAME, ModelValkey, Recorder, World
from ..kit.valkeys import OwnValkey
from ..kit.waiting import until

RULES = '[namespaces.chat]\n[namespaces.brief]\nhistory_ttl = "1s"\n'

gateway = shared_gateway(RULES, own=True)


def keys(gateway: RunningGateway, channel: str) -> tuple[str, str, str]:
    base = f"{gateway.prefix}:{{{channel}}}"
    return f"{base}:meta", f"{base}:stream", f"{base}:keys"


async def since(gateway: RunningGateway, channel: str, epoch: str, offset: int = 0) -> dict[str, Any]:
    """The reply to a client that recovers from there."""
    async with client(gateway) as wire:
        return await wire.result("subscribe", channel=channel, recover=True, epoch=epoch, offset=offset)


def offsets(result: dict[str, Any]) -> list[int] | None:
    """Of the publications that were recovered; None for a gap."""
    return [publication["offset"] for publication in result.get("publications", [])] if result.get("recovered") else None


async def expired(own: OwnValkey, gateway: RunningGateway, channel: str) -> None:
    await until(lambda: not own.client.exists(keys(gateway, channel)[1]), "history expired")


async def test_a_publication_does_not_bring_back_what_expired_before_it(own: OwnValkey, gateway: RunningGateway) -> None:
    channel = new_channel("brief")
    async with client(gateway, subscribe=channel) as follower:
        epoch = gateway.publish(channel, 1)["epoch"]
        await follower.publication()
        await expired(own, gateway, channel)
        gateway.publish(channel, 2)
        await follower.publication()
        assert offsets(await since(gateway, channel, epoch)) is None
        assert offsets(await since(gateway, channel, epoch, 1)) == [2]


@pytest.mark.parametrize("followed", [True, False])
async def test_the_time_to_live_of_a_publication_holds_for_the_ring(own: OwnValkey, gateway: RunningGateway, followed: bool) -> None:
    """Whether the ring got the publication from an announcement or from a page of history, which other clients share then."""
    channel = new_channel()
    epoch = gateway.epoch(channel)
    async with client(gateway, **({"subscribe": channel} if followed else {})):
        own.ask("FCALL", "gateway_publish", 3, *keys(gateway, channel), "1", "ttl", "1")
        assert offsets(await since(gateway, channel, epoch)) == [1]
        await expired(own, gateway, channel)
        assert offsets(await since(gateway, channel, epoch)) is None


async def test_a_removal_that_was_not_announced_to_this_gateway_holds(own: OwnValkey, gateway: RunningGateway) -> None:
    channel = new_channel()
    async with client(gateway, subscribe=channel) as follower:
        epoch = gateway.publish(channel, 1)["epoch"]
        await follower.publication()
        own.kill_links("FCALL", "gateway_remove", 3, *keys(gateway, channel))
        assert offsets(await since(gateway, channel, epoch)) is None


async def test_a_publication_that_trims_while_the_link_is_lost_holds_for_the_ring(own: OwnValkey, gateway: RunningGateway) -> None:
    channel = new_channel()
    async with client(gateway, subscribe=channel) as follower:
        epoch = gateway.publish(channel, 1)["epoch"]
        gateway.publish(channel, 2)
        await follower.publications(2)
        own.kill_links("FCALL", "gateway_publish", 3, *keys(gateway, channel), "3", "size", "1")
        assert (await follower.publication())["offset"] == 3
        assert offsets(await since(gateway, channel, epoch)) is None
        assert offsets(await since(gateway, channel, epoch, 2)) == [3]


# Removed while a read is under way.


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(valkey=ModelValkey(), clients=())
    yield world
    await world.close()


def reading(world: World) -> Recorder:
    """A client that takes what follows its position."""
    subscription = Recorder(world.hub.channel(NAME), Position("e1", 0))
    world.hub.follow(subscription)
    return subscription


async def test_a_page_that_was_read_before_a_removal_is_not_shared_after_it(world: World) -> None:
    valkey = world.valkey
    valkey.publish()
    valkey.publish()
    first = reading(world)
    for action in ("execute", "message", "execute", "arrive"):  # subscribed and confirmed, position read
        world.do(action)
        await world.steps(5)
    world.do("execute")  # its page is read, and the reply is on its way
    valkey.stream.clear()
    world.hub.on_announcements({KEY: [b"@reset e1 2"]})
    second = reading(world)
    await world.steps(3)
    assert len(valkey.asked) == 1, "it has a read of its own"
    world.do("arrive")
    await world.steps(3)
    third = reading(world)
    while valkey.asked or valkey.replies:
        world.do("execute" if valkey.asked else "arrive")
        await world.steps(3)
    assert first.events == ["recovered", 1, 2], "it was read when history still held it"
    assert second.events == third.events == ["begin"]
