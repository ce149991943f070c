"""Which instance of a group reads which channel. Every instance computes the same from the same names, so none has to be asked.

Each channel prefers the instances in an order of its own, drawn from a hash (rendezvous hashing): where an instance joins or ends, only the
channels move that it takes or leaves. A list of channels that is fixed is small, so there nobody gets more than an equal part; the channels
of a namespace are many and change, and there the hash alone decides, which moves none of them when another is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from hashlib import blake2b

__all__ = ["Shares"]


class Shares:
    """The channels of ``member``. ``evenly``: none gets more than an equal part, which moves channels when another is added."""

    def __init__(self, member: str, *, evenly: bool) -> None:
        self._member = member
        self._evenly = evenly
        self._members: list[str] = []
        self._reader: dict[str, str] = {}  # channel → member

    def mine(self, channels: Collection[str], members: Collection[str]) -> set[str]:
        """Those of ``channels`` that this member reads, where these are all members."""
        present = sorted({*members, self._member})
        if present != self._members or self._evenly:
            self._members, self._reader = present, {}
        most = -(-len(channels) // len(present)) if self._evenly else len(channels)
        load: Counter[str] = Counter()
        for channel in sorted(set(channels) - self._reader.keys()):
            for member in self._preferred(channel):
                if load[member] < most:
                    load[member] += 1
                    self._reader[channel] = member
                    break
        return {channel for channel in channels if self._reader[channel] == self._member}

    def _preferred(self, channel: str) -> list[str]:
        return sorted(self._members, key=lambda member: blake2b(f"{member} {channel}".encode(), digest_size=8).digest())
