"""Any bytes on a channel of Pub/Sub: the hub raises nothing, and what other channels got in the same read arrives."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.live.channel import Announced, Channel
from gateway.live.hub import Hub

from ..kit.model import Recorder
from ..kit.quiet_hub import quiet_hub
from ..kit.waiting import until

DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000  # hypothesis raises the limit of recursion
PAYLOADS = (
    st.binary(max_size=40)
    | st.sampled_from(
        [b'@1 e1 5 {"tags":' + DEEP + b"}\n1", b"@join " + DEEP, b"@leave \xff", b"@reset e1 0", b"@1 e1 5\n\xff", b"@9 e2 5\n1", DEEP]
    )
    | st.builds(lambda offset, data: b"@%d e1 5\n%b" % (offset, data), st.integers(-2, 3), st.binary(max_size=9))
)


async def followed(hub: Hub, name: str) -> tuple[Channel, list[int]]:
    """The channel, and what a live subscription of it gets: offsets, and the numbers of what has none."""
    channel = hub.channel(name)
    subscription = Recorder(channel)
    hub.follow(subscription)
    hub.on_subscribed(channel.key)
    await until(lambda: channel.live_count == 1, "it is live")
    subscription.events.remove("begin")
    return channel, subscription.events


@settings(max_examples=60)
@given(st.lists(PAYLOADS, max_size=6))
def test_what_arrives_with_any_bytes_of_another_channel_arrives(payloads: list[bytes]) -> None:
    async def scene() -> None:
        hub = quiet_hub()
        bad, _ = await followed(hub, "posts:bad")
        good, came = await followed(hub, "posts:good")
        hub.on_announcements({bad.key: payloads, good.key: [b"@1 e1 5\n1", b"2"]})
        assert came == [1, 2]
        await hub.close()

    asyncio.run(scene())


async def test_a_channel_that_fails_costs_the_others_nothing_and_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = quiet_hub()
    bad, _ = await followed(hub, "posts:bad")
    good, came = await followed(hub, "posts:good")
    announced = Channel.announced

    def failing(channel: Channel, items: list[Announced]) -> None:
        if channel is bad and items:
            raise ZeroDivisionError
        announced(channel, items)

    monkeypatch.setattr(Channel, "announced", failing)
    hub.on_announcements({bad.key: [b"1"], good.key: [b"1"]})
    assert len(came) == 1 and not bad.is_open
    await until(lambda: bad.is_open, "it is mended")
    await hub.close()
