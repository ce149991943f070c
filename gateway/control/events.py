"""Lifecycle events: which client connected, subscribed, left, and why, in a stream that backends read by consumer group.

An entry of ``gw:events`` in Valkey has these fields:

| field                                         | of                        | is                                                            |
|-----------------------------------------------|---------------------------|---------------------------------------------------------------|
| ``event``                                     | all                       | connected, disconnected, subscribed, unsubscribed             |
| ``user``, ``client``, ``process``, ``ms``     | all                       | who, on which process, when (unix ms)                         |
| ``code``, ``reason``                          | disconnected              | the close code and its text                                   |
| ``channel``                                   | subscribed, unsubscribed  | the channel                                                   |
| ``epoch``, ``offset``                         | the same, with history    | where the subscription began, or ended                        |
| ``recovered``                                 | subscribed                | where a position was asked for: 1, or 0 after a gap           |
| ``after``                                     | unsubscribed              | each publication after it, up to ``offset``, was written      |
| ``filtered``                                  | unsubscribed              | 1: of these only the ones that the filter admitted            |
| ``closed``                                    | unsubscribed              | 1: it ended with its connection                               |
| ``waiting``                                   | unsubscribed              | bytes that the client's machine had not confirmed then        |
| ``gap``                                       | unsubscribed              | 1: an event stream, which goes on after a gap: see below      |

An event stream that goes on after a gap has two events: the end before the gap and the beginning after it.

Events are off by default (``events = true`` turns them on). The stream is bounded by ``events_size``: the oldest entries are removed. Entries are
gathered for a moment; while Valkey is away up to WAITING_MOST wait, and further ones are dropped and counted. Events are what happened; presence
is what is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import Protocol

from ..config import Config
from ..live.subscription import Subscription
from ..live.wire_formats import FilteredWire
from ..publication import Position
from ..rules.identity import Identity
from ..runtime.tasks import write_changes
from ..store.history import History

__all__ = ["LifecycleEvents"]

log = logging.getLogger("gateway.events")

WAITING_MOST = 50_000  # events
LOOK_SECONDS = 0.05  # until it is noticed that all are written
AT_ONCE = 200  # events that are written together, in one turn of the loop: about 2 ms


class Client(Protocol):
    """The client that an event is about."""

    identity: Identity

    @property
    def client(self) -> str:
        """Its id."""

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes written for it that its machine has not confirmed."""


class LifecycleEvents:
    """The events of ``process``, this gateway's id. ``waiting`` and ``dropped`` are how many wait and how many were lost;
    ``on`` is whether they are recorded at all."""

    def __init__(self, config: Config, history: History, process: str) -> None:
        self.on = config.events
        self._size = config.events_size
        self._history = history
        self._process = process
        self._key = f"{history.layout.prefix}:events"
        self._waiting: deque[tuple[str, ...]] = deque()
        self._more = asyncio.Event()
        self._written = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def record(self, event: str, identity: Identity, client: str, **more: object) -> None:
        """Records an event of this moment; ``more`` are further fields of the entry. Nothing happens where events are off, and for operators."""
        if not self.on or identity.operator:
            return
        if len(self._waiting) >= WAITING_MOST:
            self.dropped += 1
            if self.dropped == 1:
                log.error("lifecycle events are dropped: Valkey does not take them")
            return
        words = ("event", event, "user", identity.user, "client", client, "process", self._process, "ms", str(time.time_ns() // 1_000_000))
        self._waiting.append((*words, *(str(word) for pair in more.items() for word in pair)))
        self._more.set()

    def subscribed(self, identity: Identity, client: str, subscription: Subscription) -> None:
        """Records that a subscription began, and where."""
        if self.on:
            fields = _position_fields(subscription, Position(subscription.position.epoch, subscription.unbroken))
            if fields and subscription.recovered is not None:
                fields["recovered"] = int(subscription.recovered)
            self.record("subscribed", identity, client, channel=subscription.channel.name, **fields)

    def unsubscribed(self, client: Client, subscription: Subscription, at: Position, *, closed: bool = False, gap: bool = False) -> None:
        """Records that a subscription ended at that position, and what was written to its client. ``closed``: its connection ended too; ``gap``: it goes
        on after a gap."""
        if self.on:
            fields = _position_fields(subscription, at)
            if fields:
                waiting = client.unconfirmed_bytes
                fields |= {"after": subscription.unbroken} | ({"filtered": 1} if isinstance(subscription.wire, FilteredWire) else {})
                fields |= ({"closed": 1} if closed else {}) | ({"gap": 1} if gap else {}) | ({"waiting": waiting} if waiting else {})
            self.record("unsubscribed", client.identity, client.client, channel=subscription.channel.name, **fields)

    async def written(self, seconds: float) -> int:
        """Returns when those that were recorded until now are written, at the latest after so many seconds: how many are not."""
        until = self._written + len(self._waiting)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._written < until:
                    await asyncio.sleep(LOOK_SECONDS)
        return max(0, until - self._written)

    async def run(self) -> None:
        """Writes what waits. Runs until cancelled."""
        await write_changes(self._more, self.flush)

    async def flush(self) -> None:
        """Writes all that waits. Raises StoreError; what Valkey did not acknowledge goes on waiting, and may be written twice."""
        while self._waiting:
            some = [self._waiting[number] for number in range(min(AT_ONCE, len(self._waiting)))]
            begin = self._history.commands.begin
            await asyncio.gather(*[begin(b"XADD", self._key, b"MAXLEN", b"~", self._size, b"*", *words) for words in some])
            for _ in some:
                self._waiting.popleft()
                self._written += 1


def _position_fields(subscription: Subscription, at: Position) -> dict[str, object]:
    """Epoch and offset; nothing where the channel has no history, and so no positions."""
    return {"epoch": at.epoch, "offset": at.offset} if subscription.channel.has_history else {}
