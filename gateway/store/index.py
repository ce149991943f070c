"""The index: the names of a namespace's channels, in Valkey, where its rules have ``index``, for readers that follow all of them.

A channel's keys are in one hash slot and the index in another, so ``gateway_publish`` cannot write it. Instead each process that publishes
to a channel, or follows it, writes the name before its first publication there. On one server the two commands leave together, in this
order; on a cluster, where nothing orders two slots, the publication waits for the answer, unless the index's shard is away: then the name
is written when it is back. It is written again where the answer shows that the channel's history began anew: Valkey has lost the index
then, too. And it is written again after a minute: the index may be lost without the history, as where its shard's replica takes over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .layout import Layout, Word

__all__ = ["ChannelIndex"]

NAMES_MOST = 100_000  # that a process remembers as written, about 10 MB; beyond it writes them again
AGAIN_SECONDS = 60.0  # after which Valkey may have lost the names, and the rules of a namespace without an index may have changed
AWAY_SECONDS = 5.0  # for which names that were written before are left alone, where the shard of the index is away
FULL = -1


class ChannelIndex:
    """What this process knows of the index: which names it has written, and which namespaces have none. ``now`` is in seconds."""

    def __init__(self, layout: Layout, now: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._now = now
        self._written: set[str] = set()
        self._earlier: set[str] = set()  # those that were written before these
        self._written_until = now() + AGAIN_SECONDS
        self._away: dict[str, float] = {}  # namespace → until when its names of earlier are left alone
        self._with: set[str] = set()  # namespaces that have an index; the rules name them, so they are few
        self._without: dict[str, float] = {}  # namespace → when it is looked at again

    def command(self, channel: str) -> tuple[Word, ...] | None:
        """The command that writes the channel's name; None if that is not necessary."""
        if channel in self._written:
            if self._now() < self._written_until:
                return None
            self._earlier, self._written = self._written, set()
            self._written_until = self._now() + AGAIN_SECONDS
        namespace, colon, _ = channel.partition(":")
        if not colon or not namespace or self._without.get(namespace, 0) > self._now():
            return None
        if channel in self._earlier and self._away.get(namespace, 0) > self._now():
            return None
        return b"FCALL", b"gateway_index", 1, self._layout.index(namespace), channel

    def answered(self, channel: str, answer: int) -> None:
        """Valkey's answer to the command."""
        self.asked(channel, answer != 0)
        if answer == 0:
            return
        if answer == FULL:
            self._layout.faults.found("index", channel, "the index of its namespace is full: no reader of the namespace follows it")
        if len(self._written) >= NAMES_MOST:
            self._written.clear()
        self._written.add(channel)

    def unreachable(self, channel: str) -> None:
        """The command was not answered: to wait for its shard with each publication to a channel whose name is there, most likely, would be too long."""
        self._away[channel.partition(":")[0]] = self._now() + AWAY_SECONDS

    def is_known(self, channel: str) -> bool:
        """Whether the channel's namespace has an index, as far as this process knows."""
        return channel.partition(":")[0] in self._with

    def asked(self, channel: str, has_index: bool) -> None:
        """Whether the channel's namespace has an index, as Valkey answered."""
        namespace = channel.partition(":")[0]
        if has_index:
            self._with.add(namespace)
            return
        self._with.discard(namespace)
        if len(self._without) >= NAMES_MOST:
            self._without.clear()
        self._without[namespace] = self._now() + AGAIN_SECONDS

    def began(self, channel: str) -> None:
        """The channel's history began anew, or may have, so its name may be missing."""
        self._written.discard(channel)
        self._earlier.discard(channel)
