"""A script keeps Valkey busy while the link asks for a channel."""

from __future__ import annotations

from typing import Any

from gateway.errors import StoreError
from gateway.store.connect import Address
from gateway.store.connection import ServerCommands
from gateway.store.shard_link import ShardLink

OWN = b"gw:node:n"


class Receiver:
    """Takes what a connection brings. ``asked_again``: how often it had to ask for all channels again."""

    def __init__(self) -> None:
        self.batch: dict[bytes, list[bytes]] = {}
        self.asked_again = 0

    def hand_over(self) -> None: ...

    def on_confirmed(self, link: ShardLink, channel: bytes) -> None: ...

    def on_allowed(self, link: ShardLink) -> None:
        self.asked_again += 1


async def test_a_channel_that_a_busy_valkey_refused_is_asked_for_again_once_it_is_not() -> None:
    """The refusal names neither the command nor the channel. Nobody asked again, so the channel's clients waited until the link was lost."""
    address = Address("valkey://127.0.0.1:1")
    receiver: Any = Receiver()
    link = ShardLink(ServerCommands(address), ServerCommands(address), OWN, receiver)
    try:
        link.on_beat()
        link.subscribe([b"gw:{a}"])
        link._on_replies([StoreError("BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")])
        assert receiver.asked_again == 0, "it would be refused again"
        link.on_beat()
        link.on_beat()
        assert receiver.asked_again == 1
    finally:
        await link.close()
