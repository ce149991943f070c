"""How the link asks its connections for many channels: some at a time, so that their confirmations come some at a time.

Asked for all at once, a connection may bring the confirmations of thousands in one turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice

from .shard_link import ShardLink

__all__ = ["ANSWER_SECONDS", "ASKED_AT_ONCE", "Asking"]

ASKED_AT_ONCE = 500  # channels of one turn of the loop; what their confirmations lead to takes about 5 ms
ANSWER_SECONDS = 1.0  # after so long without an answer, the next channels are asked for all the same


class Asking:
    """Which channels each connection is still to be asked for. ``ask`` asks a connection for those of some channels that are still wanted
    there, and returns these; it is called with ASKED_AT_ONCE channels, and with the next ones when the last of these is answered."""

    def __init__(self, ask: Callable[[ShardLink, list[bytes]], list[bytes]]) -> None:
        self._ask = ask
        self._under_way: dict[ShardLink, _Rest] = {}

    def begin(self, connection: ShardLink, channels: list[bytes]) -> None:
        """Asks for these channels, and for none that are left of an earlier call."""
        self.stop(connection)
        self._under_way[connection] = _Rest(iter(channels))
        self._go_on(connection)

    def _go_on(self, connection: ShardLink) -> None:
        rest = self._under_way[connection]
        if some := list(islice(rest.channels, ASKED_AT_ONCE)):
            asked = self._ask(connection, some)
            rest.last = asked[-1] if asked else b""
            rest.next = asyncio.get_running_loop().call_later(ANSWER_SECONDS if asked else 0, self._go_on, connection)
        else:
            del self._under_way[connection]

    def answered(self, connection: ShardLink, channel: bytes) -> None:
        """Valkey confirmed this channel, or the connection does not get it."""
        rest = self._under_way.get(connection)
        if rest is not None and channel == rest.last:
            self.refused(connection)

    def refused(self, connection: ShardLink) -> None:
        """Valkey refused channels that it does not name, perhaps the last ones that it was asked for."""
        if rest := self._under_way.get(connection):
            rest.next.cancel()
            rest.next = asyncio.get_running_loop().call_soon(self._go_on, connection)

    def stop(self, connection: ShardLink) -> None:
        """Asks this connection for nothing more."""
        if rest := self._under_way.pop(connection, None):
            rest.next.cancel()


class _Rest:
    """The channels that a connection is not asked for yet: some of them at ``next``, or once ``last`` is answered."""

    __slots__ = ("channels", "last", "next")

    def __init__(self, channels: Iterator[bytes]) -> None:
        self.channels = channels
        self.last = b""
        self.next: asyncio.Handle
