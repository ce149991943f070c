"""Removes all that a gateway of one prefix left in a Valkey that is not its own: its keys, and its rules in the function library."""

from __future__ import annotations

from ..store.access import make_commands
from ..store.connect import Address
from ..store.connection import ServerCommands
from ..store.library import Library

__all__ = ["remove_prefix"]

PAGE = 1000  # keys that are looked at at a time


async def remove_prefix(url: str, prefix: str) -> None:
    """Raises StoreError, Unavailable."""
    commands = make_commands(Address(url))
    await commands.start()
    try:
        await Library({}, prefix).withdraw(commands)
        for shard in commands.shards:
            await _remove_keys(shard, f"{prefix}:*")
    finally:
        await commands.close()


async def _remove_keys(shard: ServerCommands, pattern: str) -> None:
    cursor = b"0"
    while True:
        cursor, keys = await shard.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", PAGE)
        for removal in [shard.begin(b"UNLINK", key) for key in keys]:  # one each: on a cluster they are in different slots
            await removal
        if cursor == b"0":
            return
