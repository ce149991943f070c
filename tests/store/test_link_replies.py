"""What a connection of the link makes of Valkey's replies to its commands, which come in the order of these."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.shard_link import ShardLink

CHANNEL = b"gw:{a}"
BUSY = StoreError("BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")


class Receiver:
    """Takes what a connection brings. ``asked_again``: how often it had to ask for all channels again."""

    def __init__(self) -> None:
        self.batch: dict[bytes, list[bytes]] = {}
        self.confirmed = self.outdated = self.asked_again = 0

    def hand_over(self) -> None: ...

    def on_confirmed(self, link: ShardLink, channel: bytes) -> None:
        self.confirmed += 1

    def on_outdated(self, link: ShardLink, channel: bytes) -> None:
        self.outdated += 1

    def on_allowed(self, link: ShardLink) -> None:
        self.asked_again += 1


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def link(receiver: Any) -> AsyncIterator[ShardLink]:
    address = Address("valkey://127.0.0.1:1")
    link = ShardLink(ServerCommands(address), ServerCommands(address), b"gw:node:n", receiver)
    yield link
    await link.close()


async def test_a_channel_that_a_busy_valkey_refused_is_asked_for_again_once_it_is_not(link: ShardLink, receiver: Receiver) -> None:
    """The refusal names neither the command nor the channel. Nobody asked again, so the channel's clients waited until the link was lost."""
    link.on_beat()
    link.subscribe([CHANNEL])
    link._on_replies([BUSY])
    assert receiver.asked_again == 0, "it would be refused again"
    link.on_beat()
    link.on_beat()
    assert receiver.asked_again == 1


async def test_a_confirmation_of_before_an_unsubscribe_does_not_count(link: ShardLink, receiver: Receiver) -> None:
    """The channel was left and is followed again. What is published between the two is not announced, so history must not be read before it."""
    for _ in range(2):
        link.subscribe([CHANNEL])
        link.unsubscribe([CHANNEL])
    link.subscribe([CHANNEL])
    for _ in range(2):
        link._on_replies([[b"subscribe", CHANNEL, 1], [b"unsubscribe", CHANNEL, 0]])
    assert (receiver.confirmed, receiver.outdated) == (0, 2)
    link._on_replies([[b"subscribe", CHANNEL, 1]])
    assert receiver.confirmed == 1


async def test_an_unsubscribe_that_is_refused_holds_no_confirmation_up(link: ShardLink, receiver: Receiver) -> None:
    link.unsubscribe([CHANNEL])
    link.subscribe([CHANNEL])
    link._on_replies([BUSY, [b"subscribe", CHANNEL, 1]])
    assert receiver.confirmed == 1
