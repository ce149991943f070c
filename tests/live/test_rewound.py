"""Valkey came back older than this process knew it, and counted on from there, while the link was not yet known to be lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import valkey

from gateway.config import Config
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.subscription import State
from gateway.store.history import History
from gateway.store.layout import publish_words

from ..kit.model import Recorder
from ..kit.valkeys import opened_history
from ..kit.waiting import until

CHANNEL = "posts:1"


class QuietFeed:
    """The test confirms what the hub subscribes to. Nothing is announced."""

    def subscribe(self, channels: list[bytes]) -> None: ...

    def unsubscribe(self, channels: list[bytes]) -> None: ...

    def hold_reading(self, hold: bool) -> None: ...

    def on_missed_ephemeral(self, channel: Channel) -> None: ...


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> AsyncIterator[History]:
    async with opened_history(valkey_url, prefix, Config()) as history:
        yield history


@pytest.fixture
async def hub(history: History) -> AsyncIterator[Hub]:
    hub = Hub(Config(), history.layout, history, QuietFeed(), QuietFeed())
    yield hub
    await hub.close()


async def test_a_client_of_a_faster_gateway_does_not_hide_what_live_clients_lost(hub: Hub, history: History, store: valkey.Valkey) -> None:
    """Its position is past this process's, so the channel is read; and what replaced publications 2 and 3 was given to nobody here."""
    meta, stream, _ = (key.decode() for key in history.layout.keys(CHANNEL))
    await history.publish(CHANNEL, publish_words(b"1"))
    for key in (meta, stream):
        store.copy(key, f"{key}:older", replace=True)
    for _ in range(2):
        await history.publish(CHANNEL, publish_words(b"1"))
    live = Recorder(hub.channel(CHANNEL))
    hub.follow(live)
    hub.on_subscribed(live.channel.key)
    await until(lambda: live.state is State.LIVE, "it is live")
    position = live.position
    for key in (meta, stream):
        store.copy(f"{key}:older", key, replace=True)
    moment = store.time()[1] // 1000
    await until(lambda: store.time()[1] // 1000 != moment, "no two servers write in the same millisecond")
    for _ in range(3):
        await history.publish(CHANNEL, publish_words(b"2"))
    late = Recorder(live.channel, position._replace(offset=4))
    hub.follow(late)
    await until(lambda: late.state is State.LIVE, "the other is live, too")
    assert live.events == ["begin", "gap"]
    assert late.events == ["begin"], "it has not recovered"
