"""Lifecycle events: who connected, subscribed, left, and why, in a stream that backends read by consumer group.

``gw:events`` in Valkey; each entry has the fields ``event`` (connected, disconnected, subscribed, unsubscribed), ``user``,
``client``, ``process``, ``ms``, and where there are any ``channel``, ``code``, ``reason``. Off by default (``events = true``),
bounded (``events_size``): the oldest go. Entries are gathered for a moment; while Valkey is away so many wait, and what is more
is dropped and counted. They tell what happened; presence tells what is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from ..config import Config
from ..runtime.tasks import keep_writing
from ..store.history import History

__all__ = ["Lifecycle"]

log = logging.getLogger("gateway.events")

WAITING_MOST = 50_000
AT_ONCE = 1000


class Lifecycle:
    """``waiting`` and ``dropped`` can be asked for."""

    def __init__(self, config: Config, history: History, process: str) -> None:
        self._on = config.events
        self._size = config.events_size
        self._history = history
        self._process = process
        self._key = f"{history.layout.prefix}:events"
        self._waiting: deque[tuple[str, ...]] = deque()
        self._more = asyncio.Event()
        self.dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def tell(self, event: str, user: str, client: str, **more: object) -> None:
        if not self._on:
            return
        if len(self._waiting) >= WAITING_MOST:
            self.dropped += 1
            if self.dropped == 1:
                log.error("lifecycle events are dropped: Valkey does not take them")
            return
        words = ("event", event, "user", user, "client", client, "process", self._process, "ms", str(time.time_ns() // 1_000_000))
        self._waiting.append((*words, *(str(word) for pair in more.items() for word in pair)))
        self._more.set()

    async def keep(self) -> None:
        """Writes what waits, until cancelled."""
        await keep_writing(self._more, self.flush)

    async def flush(self) -> None:
        """Raises StoreError; what was not acknowledged waits on, and may come twice."""
        while self._waiting:
            some = [self._waiting[number] for number in range(min(AT_ONCE, len(self._waiting)))]
            call = self._history.commands.call
            await asyncio.gather(*[call(b"XADD", self._key, b"MAXLEN", b"~", self._size, b"*", *words) for words in some])
            for _ in some:
                self._waiting.popleft()
