"""A link with many channels asks for them, and announces their loss, a portion in each turn of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.store.connect import Address
from gateway.store.link import ASKED_AT_ONCE, LOST_AT_ONCE, Link

from ..kit.turns import TurnCounter
from ..kit.waiting import until

CHANNELS = [b"gw:{c%d}" % number for number in range(3 * LOST_AT_ONCE + 1)]


class Connection:
    """In place of the connection to the one server: counts which channels it is asked for."""

    def __init__(self, turns: TurnCounter) -> None:
        self.turns = turns
        self.asked: Counter[bytes] = Counter()
        self.lost: Counter[bytes] = Counter()

    def subscribe(self, channels: list[bytes]) -> None:
        self.asked.update(channels)
        self.turns.work[self.turns.now] += len(channels)

    def unsubscribe(self, channels: list[bytes]) -> None: ...

    # As the link's listener.

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
        await until(lambda: len(connection.asked) == len(CHANNELS) - 1, "all are asked for")
        await asyncio.sleep(0.01)
    assert connection.asked == Counter(CHANNELS[:-1])
    assert turns.most <= ASKED_AT_ONCE


async def test_a_lost_connection_is_announced_in_portions(link: Any, connection: Connection, turns: TurnCounter) -> None:
    with turns:
        losing = asyncio.create_task(link.on_lost(connection))
        await until(lambda: connection.lost, "it begins")
        link.unsubscribe(CHANNELS[-1:])
        await losing
    assert Counter(CHANNELS) - connection.lost in (Counter(), Counter(CHANNELS[-1:])), "every channel that is still wanted is lost"
    assert max(connection.lost.values()) == 1 and turns.most <= LOST_AT_ONCE
    assert link.losses == 1
