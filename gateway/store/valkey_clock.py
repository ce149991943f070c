"""Valkey's clock. Every shard of a cluster has one of its own, and these may differ: a time is compared with one of the same shard."""

from __future__ import annotations

from ..errors import Unavailable
from .access import Commands

__all__ = ["valkey_time"]


async def valkey_time(commands: Commands, key: bytes) -> float:
    """Unix seconds by the clock of the shard that holds the slot of ``key``. Raises StoreError, Unavailable."""
    shard = commands.shard(key)
    if shard is None:
        commands.look_again()
        raise Unavailable(f"no shard holds the slot of {key!r}")
    seconds, microseconds = await shard.call(b"TIME", repeatable=True)
    return int(seconds) + int(microseconds) / 1e6
