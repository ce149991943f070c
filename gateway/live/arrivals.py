"""What the link brought, handed to the channels: a bounded amount in each turn of the loop.

Most channels of a batch have one announcement in it, which is their next publication. Such publications are all read and encoded first, and their
writes are made afterwards, one after the other: the processor then runs the same few instructions again and again, which takes a tenth less time than
by turns. Before any other announcement is handled, the writes that were collected until then are made. So a batch is written in its order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from ..store.layout import read_announcement
from ..store.untrusted import Faults
from .channel import Channel
from .fanout import Part, write_all, writes_of

__all__ = ["ANNOUNCED_AT_ONCE", "PUBLICATION_WORK", "AnnouncementSource", "Arrivals"]

ANNOUNCED_AT_ONCE = 1000  # work of announcements in one turn of the loop, in writes to subscribers: about 10 ms
PUBLICATION_WORK = 2  # writes that take as long as it takes to read and encode a publication


class AnnouncementSource(Protocol):
    """Where announcements come from: ``store.link.Link``."""

    def hold_reading(self, hold: bool) -> None:
        """True: reads nothing more from Valkey until it is called with False."""


class Arrivals:
    """``channels`` are those that are followed, by their Pub/Sub channel. ``failed`` is called for one that raised as it took announcements."""

    def __init__(
        self, channels: Mapping[bytes, Channel], source: AnnouncementSource, faults: Faults, failed: Callable[[Channel], None]
    ) -> None:
        self._channels = channels
        self._source = source
        self._faults = faults
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._room = 0  # of ANNOUNCED_AT_ONCE, what is left in this turn of the loop
        self._delayed: OrderedDict[Channel, int] = OrderedDict()  # their announcements wait for a later turn, so many bytes of them

    def take(self, batch: Mapping[bytes, list[bytes]]) -> None:
        """``batch``: Pub/Sub channel → the payloads that arrived, in order. Channels that are not followed are ignored.

        Once the work of this turn of the loop is used up, the other channels' announcements wait for the next turns, and nothing more
        is read from Valkey until they were handled.
        """
        channels, was_delayed = self._channels, bool(self._delayed)
        self._room = 0 if was_delayed else ANNOUNCED_AT_ONCE
        parts: list[Part] = []
        for key, payloads in batch.items():
            channel = channels.get(key)
            if channel is not None:
                try:
                    if self._room > 0 and len(payloads) == 1 and channel.take_next(payloads[0], parts):
                        self._room -= PUBLICATION_WORK + channel.live_count * writes_of(len(payloads[0]))
                    else:
                        write_all(parts)
                        parts.clear()
                        self._announce(channel, payloads)
                except Exception:  # the other channels of the batch must not lose theirs
                    self._failed(channel)
        write_all(parts)
        if self._delayed and not was_delayed:
            self._source.hold_reading(True)
            self._loop.call_soon(self._announce_delayed)

    def _announce(self, channel: Channel, payloads: list[bytes]) -> None:
        items = [read_announcement(payload, self._faults, channel.name) for payload in payloads]
        size = sum(map(len, payloads))
        if self._room > 0:
            self._room -= len(items) * PUBLICATION_WORK + channel.live_count * writes_of(size)
            channel.announced(items)
        else:
            channel.delay(items)
            self._delayed[channel] = self._delayed.get(channel, 0) + size

    def _announce_delayed(self) -> None:
        self._room = ANNOUNCED_AT_ONCE
        while self._delayed and self._room > 0:
            channel, size = self._delayed.popitem(last=False)
            self._room -= len(channel.waiting) * PUBLICATION_WORK + channel.live_count * writes_of(size)
            try:
                channel.announce_waiting()
            except Exception:
                self._failed(channel)
        if self._delayed:
            self._loop.call_soon(self._announce_delayed)
        else:
            self._source.hold_reading(False)
