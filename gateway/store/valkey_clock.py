"""Valkey's clock. Every shard of a cluster has one of its own, and these may differ: a time is compared with one of the same shard."""

from __future__ import annotations

from ..errors import Unavailable
from .access import Commands

__all__ = ["SetForward", "valkey_time"]


async def valkey_time(commands: Commands, key: bytes) -> float:
    """Unix seconds by the clock of the shard that holds the slot of ``key``. Raises StoreError, Unavailable."""
    shard = commands.shard(key)
    if shard is None:
        commands.look_again()
        raise Unavailable(f"no shard holds the slot of {key!r}")
    seconds, microseconds = await shard.call(b"TIME", repeatable=True)
    return int(seconds) + int(microseconds) / 1e6


class SetForward:
    """Notices that Valkey's clock was set forward by more than ``least`` seconds: the leases of living processes look as if they were over then."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._ahead = float("inf")  # by how many seconds it was ahead of this process's clock

    def is_noticed(self, valkey: float, now: float) -> bool:
        """Whether it was since the last call. ``valkey`` is its time, ``now`` that of this process's monotonic clock."""
        before, self._ahead = self._ahead, valkey - now
        return self._ahead > before + self._least
