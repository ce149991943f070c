"""Every device of a user ends with the count that Valkey has, whatever was lost on the way to it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.live.catchup import State
from gateway.publication import Position

from ...kit.channels import new_user
from ...kit.clients import client, connected_socket, stream
from ...kit.devices import Device, running, settled
from ...kit.examples import examples
from ...kit.gateways import RunningGateway
from ...kit.inboxes import SIZE, Box, Model, opened_box
from ...kit.model import KEY, NAME, Recorder, World
from ...kit.publishing import publish_many
from ...kit.valkeys import OwnValkey
from ...kit.waiting import until


async def test_a_read_is_announced_to_all_devices_of_the_user(gateway: RunningGateway, other_gateway: RunningGateway, user: str) -> None:
    channel = f"notifications:{user}"
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    async with (
        client(gateway, user) as phone,
        client(other_gateway, user) as laptop,
        stream(gateway, channel, user=user) as third,
        client(gateway, new_user()) as stranger,
    ):
        assert (await third.next()).name == "connected"
        gateway.api("notify", user=user, data={"id": "b"})
        state = {"unread": 2, "change": 2, "epoch": epoch}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"id": "b"}, "offset": 2}
            assert await wire.publication() == {"channel": channel, "data": {"inbox": state}}
        answer = await phone.result("rpc", method="inbox.read", data={"ids": ["a"]})
        state = {"unread": 1, "change": 3, "epoch": epoch}
        assert answer["data"] == state | {"offset": 2}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"inbox": state | {"read": ["a"]}}}
        await laptop.result("rpc", method="inbox.read", data={"all": True})
        last = {"unread": 0, "change": 4, "epoch": epoch, "upto": 2}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"inbox": last}}
        received = [event.data["data"] for event in await third.many(4)]
        assert received[1:] == [{"inbox": {"unread": 2, "change": 2, "epoch": epoch}}, {"inbox": state | {"read": ["a"]}}, {"inbox": last}]
        await stranger.result("ping")
        assert not stranger.rest


NAMES = st.sampled_from(["n0", "n1", "n2", "n3", "n4"])
WHO = st.integers(0, 1)
BACK = st.integers(0, SIZE)
HAPPENINGS = st.one_of(
    st.tuples(st.just("notify"), NAMES),
    st.tuples(st.just("notify"), NAMES),
    st.tuples(st.just("plain")),
    st.tuples(st.just("read"), WHO, NAMES),
    st.tuples(st.just("upto"), WHO, BACK),
    st.tuples(st.just("seen"), WHO, NAMES, BACK),
    st.tuples(st.just("all"), WHO),
    st.tuples(st.sampled_from(["cut", "connect", "hold", "release"]), WHO),
    st.tuples(st.sampled_from(["cut", "connect", "hold", "release"]), WHO),
)


@settings(max_examples=examples(100))
@given(st.lists(HAPPENINGS, max_size=30))
def test_two_devices_end_with_the_count_of_valkey_and_of_the_model(
    own: OwnValkey, gateway: RunningGateway, other_gateway: RunningGateway, happenings: list[tuple[Any, ...]]
) -> None:
    """Whatever they do, on a gateway each, and however often each is cut off and comes back."""

    async def play() -> None:
        user = new_user()
        async with asyncio.timeout(20), opened_box(own, gateway.prefix, user) as box:
            model = Model()
            devices = [Device(gateway, user), Device(other_gateway, user)]
            position = await box.notify("first", size=SIZE)
            model.notify("first", SIZE)
            async with running(*devices):
                for happening in happenings:
                    await _happen(box, model, devices, position.epoch, *happening)
                for device in devices:
                    device.release()
                    device.wanted.set()
                await settled(box, devices)
                assert set(box.unread()) == model.unread

    asyncio.run(play())


async def _happen(box: Box, model: Model, devices: list[Device], epoch: str, kind: str, *words: Any) -> None:
    if kind == "notify":
        await box.notify(words[0], size=SIZE)
        model.notify(words[0], SIZE)
    elif kind == "plain":
        await box.plain()
        model.plain()
    elif kind == "connect":
        devices[words[0]].wanted.set()
    elif kind in ("cut", "hold", "release"):
        getattr(devices[words[0]], kind)()
    else:
        ids = [words[1]] if kind in ("read", "seen") else None
        upto = max(0, model.top - words[-1]) if kind in ("upto", "seen") else None
        named = {"ids": ids, "upto": None if upto is None else f"{epoch}:{upto}", "all": kind == "all"}
        if await devices[words[0]].read(**named):
            model.read(ids, upto)


async def test_an_answer_that_a_newer_state_overtook_does_not_bring_back_the_older_count(gateway: RunningGateway, box: Box) -> None:
    device = Device(gateway, box.user)
    await box.notify("a")
    device.hold()
    async with running(device):
        await until(lambda: device.connections and device.is_answered, "the answer came, and is held")
        await box.notify("b")
        await settled(box, [device])
        device.release()
        await settled(box, [device])


# Announcements that were lost on the way.


async def test_a_state_lost_with_a_killed_link_is_announced_again_to_connected_devices(
    own: OwnValkey, gateway: RunningGateway, other_gateway: RunningGateway, box: Box
) -> None:
    devices = [Device(gateway, box.user), Device(other_gateway, box.user)]
    await box.notify("a")
    await box.notify("b")
    async with running(*devices):
        await settled(box, devices)
        for words in (box.read_words("a"), box.notify_words("c"), box.notify_words("c"), box.read_words()):
            own.kill_links(*words)
            await settled(box, devices)
        for id in ("d", "e"):
            own.kill_links(*box.notify_words(id))
            own.kill_links(*box.read_words("d"))
        await settled(box, devices)
        assert [device.connections for device in devices] == [1, 1], "no connection ended"
        assert [device.unread for device in devices] == [1, 1]


async def test_a_device_whose_socket_was_full_ends_with_the_right_count(gateway: RunningGateway, box: Box) -> None:
    await box.notify("a")
    async with await connected_socket(gateway, user=box.user, small=True) as raw:
        filling = ["x" * 60_000] * 300  # 18 MB: far more than the kernel holds
        await asyncio.to_thread(publish_many, gateway, box.channel, filling)
        for number in range(5):
            await box.notify(f"n{number}")
            await box.read(ids=[f"n{number}"])
        await box.notify("last")
        _, change = await box.state()
        received: list[dict[str, Any]] = []
        while not received or received[-1]["change"] != change:
            publication = (await raw.read_object()).get("push", {}).get("pub", {})
            if "offset" not in publication:
                received.append(publication["data"]["inbox"])
        assert len(received) < change - 1, "this socket was never full, so that the test shows nothing"
        assert received[-1]["unread"] == len(box.unread()) == 2


async def test_a_connected_device_is_notified_when_history_is_removed(gateway: RunningGateway, box: Box) -> None:
    device = Device(gateway, box.user)
    await box.notify("a")
    async with running(device):
        await settled(box, [device])
        gateway.api("history_remove", channel=box.channel)
        await until(lambda: device.unread == 0, "it counts none")


async def go_on(world: World) -> None:
    """Valkey or the link does the next thing, if there is one."""
    for action in ("execute", "message", "arrive"):
        if action in world.possible():
            world.do(action)
            break
    await world.steps(3)


async def test_a_state_announced_while_a_device_catches_up_is_announced_again() -> None:
    """It asks for the state when its subscription begins, with the first page; a read on another device meanwhile is not announced to it."""
    world, missed = World(clients=()), []
    world.on_missed_ephemeral = missed.append
    for _ in range(5):  # more than a page of the model
        world.valkey.publish()
    channel = world.hub.channel(NAME)
    device = Recorder(channel, Position("e1", 0))
    world.hub.follow(device)
    async with asyncio.timeout(5):
        while not device.begun:
            await go_on(world)
        assert device.state is State.CATCHING_UP
        world.hub.on_announcements({KEY: [b"0"]})
        while device.state is not State.LIVE:
            await go_on(world)
        assert 0 in device.events or missed == [channel]
    await world.close()


async def test_a_state_announced_while_the_link_was_lost_reaches_a_device_whose_socket_was_full() -> None:
    """No subscription of the channel is live when the link is back, and what another process's device read meanwhile was not announced here."""
    world, missed = World(clients=()), []
    world.on_missed_ephemeral = missed.append
    world.valkey.publish()
    channel = world.hub.channel(NAME)
    device = Recorder(channel, Position("e1", 0), full=True)
    world.hub.follow(device)
    async with asyncio.timeout(5):
        while device.state is not State.BEHIND:
            await go_on(world)
        assert not missed
        for _ in range(2):
            world.do("link")
        while not channel.is_open:
            await go_on(world)
    assert missed == [channel], "the state is announced once more"
    world.hub.on_announcements({KEY: [b"0"]})
    device.full = False
    world.hub.drained(device)
    assert device.state is State.LIVE and missed == [channel] * 2, "this device did not get that, so it is announced again"
    await world.close()
