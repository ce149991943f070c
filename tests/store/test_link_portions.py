"""A link with many channels asks for them, and announces their loss, a portion in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store.asking import ASKED_AT_ONCE
from gateway.store.connect import Address
from gateway.store.link import LOST_AT_ONCE, Link
from gateway.store.topology import slot_of

from ..kit.turns import TurnCounter
from ..kit.waiting import until

CHANNELS = [b"gw:{c%d}" % number for number in range(6 * LOST_AT_ONCE + 1)]


class Connection:
    """In place of the connection to the one server: counts which channels it is asked for, and confirms them with ``confirm``."""

    def __init__(self, turns: TurnCounter) -> None:
        self.unconfirmed: list[bytes] = []
        self.turns = turns
        self.asked: Counter[bytes] = Counter()
        self.lost: Counter[bytes] = Counter()

    def subscribe(self, channels: list[bytes]) -> None:
        self.asked.update(channels)
        self.unconfirmed += channels
        self.turns.work[self.turns.now] += len(channels)

    def confirm(self, link: Any) -> bool:
        """True if there was something to confirm."""
        channels, self.unconfirmed = self.unconfirmed, []
        for channel in channels:
            link.on_confirmed(self, channel)
        return bool(channels)

    def unsubscribe(self, channels: list[bytes]) -> None: ...

    # As the link's listener.

    def on_subscribed(self, channel: bytes) -> None: ...

    def on_refused(self, error: StoreError) -> None: ...

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        assert channels is not None
        self.lost.update(channels)
        self.turns.work[self.turns.now] += len(channels)


@pytest.fixture
def turns() -> TurnCounter:
    return TurnCounter()


@pytest.fixture
def connection(turns: TurnCounter) -> Connection:
    return Connection(turns)


@pytest.fixture
def link(connection: Connection, turns: TurnCounter) -> Any:
    commands: Any = SimpleNamespace(sharded=False, shard=lambda channel: "server")
    link: Any = Link(Address("valkey://127.0.0.1:1"), commands, b"own")
    link._connections["server"] = connection
    link.add_listener(connection)
    link.subscribe(CHANNELS)
    connection.asked.clear()
    turns.work.clear()
    return link


async def test_all_channels_are_asked_for_again_in_portions(link: Any, connection: Connection, turns: TurnCounter) -> None:
    with turns:
        link.on_connected(connection)
        link.unsubscribe(CHANNELS[-1:])  # its turn had not come
        await until(lambda: not connection.confirm(link) and len(connection.asked) == len(CHANNELS) - 1, "all are asked for")
        await asyncio.sleep(0.01)
    assert connection.asked == Counter(CHANNELS[:-1])
    assert turns.most <= ASKED_AT_ONCE


async def test_the_next_channels_are_asked_for_when_the_last_ones_are_answered(link: Any, connection: Connection) -> None:
    """However slowly Valkey confirms them: no turn of the loop has the confirmations of more."""
    link.on_connected(connection)
    await asyncio.sleep(0.01)
    assert len(connection.asked) == ASKED_AT_ONCE
    link.on_confirmed(connection, CHANNELS[0])
    await asyncio.sleep(0.01)
    assert len(connection.asked) == ASKED_AT_ONCE, "the last one is not confirmed yet"
    link.on_confirmed(connection, CHANNELS[ASKED_AT_ONCE - 1])
    await until(lambda: len(connection.asked) == 2 * ASKED_AT_ONCE, "the next are asked for")
    link.on_refused(connection, StoreError("NOPERM"))
    await until(lambda: len(connection.asked) == 3 * ASKED_AT_ONCE, "a refusal does not hold up the next ones")
    link.on_displaced(connection, CHANNELS[3 * ASKED_AT_ONCE - 1])
    await until(lambda: len(connection.asked) == 4 * ASKED_AT_ONCE, "nor does a channel that is elsewhere")


async def test_channels_that_are_never_answered_hold_up_the_next_ones_for_a_second(
    link: Any, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.asking.ANSWER_SECONDS", 0.02)
    link.on_connected(connection)
    await until(lambda: len(connection.asked) == len(CHANNELS), "all are asked for")


async def test_a_connection_that_is_made_again_is_asked_for_each_channel_once(link: Any, connection: Connection) -> None:
    link.on_connected(connection)
    await link.on_lost(connection)
    connection.asked.clear()
    connection.unconfirmed.clear()
    link.on_connected(connection)
    await until(lambda: not connection.confirm(link) and len(connection.asked) == len(CHANNELS), "all are asked for")
    assert connection.asked == Counter(CHANNELS)


async def test_a_lost_connection_is_announced_in_portions(link: Any, connection: Connection, turns: TurnCounter) -> None:
    with turns:
        losing = asyncio.create_task(link.on_lost(connection))
        await until(lambda: connection.lost, "it begins")
        link.unsubscribe(CHANNELS[-1:])
        await losing
    assert Counter(CHANNELS) - connection.lost in (Counter(), Counter(CHANNELS[-1:])), "every channel that is still wanted is lost"
    assert max(connection.lost.values()) == 1 and turns.most <= LOST_AT_ONCE
    assert link.losses == 1


class Shard(Connection):
    """A connection to one of two shards, which notes the turn of each channel that it is asked for."""

    beat_channel = b""

    def check_beat_channel(self) -> None: ...


async def test_hash_slots_that_moved_are_asked_for_elsewhere_in_portions(turns: TurnCounter) -> None:
    old, new = Shard(turns), Shard(turns)
    commands: Any = SimpleNamespace(sharded=True, shards=["old", "new"], shard=lambda channel: "old", look_again=lambda: None)
    link: Any = Link(Address("valkey://127.0.0.1:1"), commands, b"own")
    link._connections = {"old": old, "new": new}
    link.add_listener(old)
    link.subscribe(CHANNELS)
    slots = {slot_of(channel) for channel in CHANNELS}
    assert len(slots) > 2 * LOST_AT_ONCE
    commands.shard = lambda channel: "new"
    turns.work.clear()
    with turns:
        link._on_shards_changed()
        link.unsubscribe(CHANNELS[-1:])  # its turn may not have come
        await asyncio.sleep(0)
        link._on_shards_changed()  # some moved already
        await until(lambda: len(new.asked) >= len(CHANNELS) - 1, "all are asked for")
        await asyncio.sleep(0.01)
    assert Counter(CHANNELS) - new.asked in (Counter(), Counter(CHANNELS[-1:])) and max(new.asked.values()) == 1
    assert Counter(CHANNELS) - old.lost in (Counter(), Counter(CHANNELS[-1:])), "each is lost where it was"
    assert turns.most <= 3 * LOST_AT_ONCE < turns.total, "channels are lost and asked for, and some slots have two"
