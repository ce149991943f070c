"""Commands for Valkey, whether it is one server or a cluster.

``make_commands`` gives what fits an address: ``ServerCommands`` for one server, which Sentinels may name, ``ClusterCommands``
for a cluster. A *shard* is a server that takes writes for a part of the hash slots; one server alone is the only shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from ..errors import StoreError, Unavailable
from .cluster import ClusterCommands
from .command import Functions, Waiter
from .connect import Address
from .connection import PATIENCE_SECONDS, ServerCommands

__all__ = ["Commands", "make_commands", "read_or_fault", "shard_fault"]

Read = TypeVar("Read")


class Commands(Protocol):
    """``await commands.call(b"HGET", key, field)``. Start it with ``start()``, end it with ``close()``.

    Every method that sends takes the words of one command, whose keys are all in one hash slot. Commands of one slot are carried out
    in the order in which they were called; on a cluster those of different slots are not.
    """

    @property
    def sharded(self) -> bool:
        """Whether it is a cluster: announcements go through sharded Pub/Sub, and commands of different slots have no order."""

    @property
    def guard_words(self) -> int:
        """How many words are written after each guarded command."""

    @property
    def connected(self) -> bool:
        """Whether commands reach Valkey now; on a cluster, whether those of any shard do."""

    @property
    def shards(self) -> Sequence[ServerCommands]:
        """The shards that hold slots now, as far as is known."""

    def shard(self, key: bytes) -> ServerCommands | None:
        """The shard that holds the key's slot now; None if none does."""

    def on_shards_changed(self, changed: Callable[[], None]) -> None:
        """``changed`` is called whenever slots are held by other shards than before. It may not raise."""

    def look_again(self) -> None:
        """Something suggests that slots have moved: a cluster is asked, soon, which servers hold them."""

    async def start(self) -> None:
        """Connects once, so that a wrong address fails here and now; afterwards reconnects by itself. Raises StoreError, Unavailable."""

    async def close(self) -> None: ...

    async def call(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> Any:
        """One command. ``ServerCommands.call`` describes the arguments. Raises StoreError, Unavailable."""

    def begin(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> asyncio.Future[Any]:
        """``call`` without waiting: the command is carried out before those of its slot that are called later."""

    def begin_for(self, waiter: Waiter, *words: Any, guarded: bool = False) -> None:
        """``begin`` whose answer goes to ``waiter``, which is cheaper where nobody awaits it."""

    def begin_packed(self, waiter: Waiter, key: bytes, text: bytes) -> None:
        """``begin_for`` of a guarded function call with this key. ``text`` is the call as Valkey reads it, whose number of words has
        ``guard_words`` more."""

    def send(self, *words: Any) -> asyncio.Future[Any]:
        """``call`` that fails at once, with Unavailable, where it would have to wait for a connection."""

    async def publish(self, channel: bytes | str, payload: bytes | str) -> int:
        """Announces on a Pub/Sub channel, as the library's functions do. Returns how many receive it, of those that Valkey knows of."""


def shard_fault(commands: Commands, key: bytes) -> str:
    """On a cluster: why a command with this key would have to wait now, in a sentence that names the shard; "" if it need not."""
    if not commands.sharded:
        return ""
    shard = commands.shard(key)
    if shard is None:
        return "no shard of the cluster holds its hash slot"
    return "" if shard.connected else f"no connection to Valkey at {shard.address}"


async def read_or_fault(commands: Commands, key: bytes, read: Callable[[], Awaitable[Read]]) -> Read | str:
    """What ``read`` returns; why it cannot, where that concerns what is read alone: its keys are of other types, or the shard of ``key`` is away.

    Raises Unavailable where Valkey as a whole is away.
    """
    if fault := shard_fault(commands, key):
        return fault
    try:
        return await read()
    except StoreError as error:
        if isinstance(error, Unavailable) and not commands.sharded:
            raise
        return str(error)


def make_commands(address: Address, *, patience: float = PATIENCE_SECONDS, functions: Functions | None = None) -> Commands:
    """``patience``: seconds that a command may wait for a connection, and for Valkey to take it."""
    if address.is_cluster:
        return ClusterCommands(address, patience=patience, functions=functions)
    return ServerCommands(address, patience=patience, functions=functions)
