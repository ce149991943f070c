"""Foreign Pub/Sub channels and patterns, whose messages come at most once: Valkey forgets a message as soon as it is sent.

A message that this process received is published exactly once, if the process lives: it is numbered, and the number is its version. The
numbers begin with Valkey's time in microseconds, so that those of the next process are greater, and what a process that lost its lease
still publishes counts as old; where Valkey's clock was set back, they begin after those that the last process reserved. What waits to be published is bounded; what comes beyond that is dropped and counted.

The connection is one of its own: a foreign program that publishes more than can be taken harms no client of the gateway. In a cluster it goes
to any of the shards, for PUBLISH reaches all nodes, and to another one where that one holds no slots any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import libvalkey

from ..bridging import KEYSPACE, STAR, BridgeRules
from ..errors import StoreError, Unavailable
from ..runtime.backoff import retrying
from ..runtime.failure_log import FailureLog
from ..store.command import Replies
from ..store.connect import Address, close_connection, open_connection
from ..store.connection import ServerCommands
from ..store.history import History
from ..store.valkey_clock import valkey_time
from .mapping import Entry
from .source import BATCH, BATCH_BYTES, FAILED_MOST, Batch

__all__ = ["ForeignMessages"]

log = logging.getLogger("gateway.work")

BEAT_SECONDS = 1.0
SILENT_BEATS = 4  # beats without any answer before the connection is given up
SUBSCRIBE_SECONDS = 5.0
WAITING_BYTES = 16 * 1024 * 1024  # of messages that wait to be published; each counts for MESSAGE_BYTES more
MESSAGE_BYTES = 200
SHOWN = 4096  # bytes that are shown of a message that is too large
RESERVED = 1_000_000  # numbers, of which half are left when more are reserved


class ForeignMessages:
    """``most`` is the most bytes that a message may have. ``dropped`` is how many came while too many waited, or waited when another process took over."""

    def __init__(self, address: Address, history: History, rules: BridgeRules, most: int) -> None:
        self.dropped = 0
        self._address = address
        self._history = history
        self._rules = rules
        self._most = most
        self._title = f"bridge {rules.title}"
        self._state = history.layout.bridge(rules.source, rules.title)  # the clock of its shard counts, whichever process works
        self.failed = rules.failed.encode() or self._state + b":failed"
        prefix, _, suffix = rules.source.encode().partition(STAR.encode())
        self._star = slice(len(prefix), -len(suffix) or None)
        self._ours = (f"{history.layout.prefix}:".encode(), KEYSPACE.encode())
        self._number = 0  # of the last message
        self._reserved = self._asked = 0  # up to where no other process begins; what Valkey was asked for last
        self._entries: deque[Entry] = deque()
        self._taken: list[Entry] = []  # of the batch that is not finished yet
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._shard: ServerCommands | None = None  # of a cluster, to which the connection goes
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._lost = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._refusals = FailureLog(log, logging.ERROR)  # it is asked again every few seconds
        self._silent_beats = 0
        self._listening: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """There is nothing to prepare: what no process receives is lost."""

    async def open(self) -> None:
        """Returns when Valkey has confirmed that it will send what is published. What was left of the last time is published first, unless
        another process has worked meanwhile: it would count as old."""
        commands = self._history.commands
        text = await commands.call(b"HGET", self._state, b"number", repeatable=True)
        reserved = int(text) if text and text.isdigit() and len(text) < 20 else 0
        now = int(1e6 * await valkey_time(commands, self._state))
        self._entries.extendleft(reversed(self._taken))
        self._taken = []
        if reserved not in (0, self._reserved, self._asked):  # 0: Valkey has lost the state
            self.dropped += len(self._entries)
            self._entries.clear()
        self._bytes = sum(len(entry.content) + MESSAGE_BYTES for entry in self._entries)
        if self._entries:
            self._arrived.set()
        else:
            self._arrived.clear()
        self._number = max(now, reserved, self._number)
        await self._reserve()
        await self._connect()
        self._listening = asyncio.create_task(self._stay_connected(), name=self._title)

    async def _reserve(self) -> None:
        """Where Valkey takes no writes for now, it is asked again with the next batch."""
        self._asked = self._number + RESERVED
        try:
            await self._history.commands.call(b"HSET", self._state, b"number", self._asked, repeatable=True)
        except StoreError as error:
            log.debug("%s: no numbers were reserved: %s", self._title, error)
        else:
            self._reserved = self._asked

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
        if self._transport is not None:
            close_connection(self._transport)
        await self._address.close()

    async def take(self) -> Batch:
        await self._arrived.wait()
        if self._number > self._reserved - RESERVED // 2:
            await self._reserve()
        entries: list[Entry] = []
        size = 0
        while self._entries and len(entries) < BATCH and size < BATCH_BYTES:
            entry = self._entries.popleft()
            entries.append(entry)
            size += len(entry.content)
        self._bytes -= size + MESSAGE_BYTES * len(entries)
        self._taken = entries
        if not self._entries:
            self._arrived.clear()
        return Batch(f"bridge:{self._rules.title}", entries, waiting=len(self._entries))

    async def finish(self, batch: Batch, failures: Sequence[bytes]) -> int:
        forgotten = int(await self._history.call(b"gateway_bridge_fail", [self.failed], FAILED_MOST, *failures)) if failures else 0
        self._taken = []
        return forgotten

    # What arrives.

    def _on_replies(self, replies: list[Any]) -> None:
        self._silent_beats = 0
        for reply in replies:
            if isinstance(reply, StoreError):
                self._refusals.failed("%s: Valkey refuses to publish to it: %s", self._title, reply)
            elif reply[0] == b"message":
                self._on_message(reply[1], reply[2])
            elif reply[0] == b"pmessage" and not reply[2].startswith(self._ours):
                self._on_message(reply[2], reply[3])
            elif reply[0] in (b"subscribe", b"psubscribe"):
                self._refusals.worked()
                self._confirmed.set()

    def _on_message(self, channel: bytes, text: bytes) -> None:
        self._number += 1
        if self._bytes > WAITING_BYTES:
            self.dropped += 1
            return
        size = len(text) if len(text) > self._most else 0
        content = text[:SHOWN] if size else text
        star = channel[self._star].decode(errors="replace")
        self._entries.append(Entry(str(self._number), content, star=star, size=size))
        self._bytes += len(content) + MESSAGE_BYTES
        self._arrived.set()

    # The connection.

    async def _connect(self) -> None:
        lost, self._silent_beats = asyncio.Event(), 0
        self._confirmed.clear()
        address = self._choose_address()
        self._transport, self._writer, _ = await open_connection(address, lambda: Replies(self._on_replies, lost.set))
        self._lost = lost
        verb = b"PSUBSCRIBE" if self._rules.kind == "pattern" else b"SUBSCRIBE"
        self._transport.write(libvalkey.pack_command((verb, self._rules.source)))
        try:
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                await self._confirmed.wait()
        except TimeoutError:
            self._transport.abort()
            raise Unavailable(f"Valkey at {address} does not confirm a subscription") from None

    def _choose_address(self) -> Address:
        commands = self._history.commands
        if not commands.sharded:
            return self._address
        shards = [shard for shard in commands.shards if shard.connected]
        if not shards:
            raise Unavailable(f"no shard of the cluster at {self._address} can be reached")
        self._shard = random.choice(shards)
        return self._shard.address

    async def _stay_connected(self) -> None:
        while True:
            await self._beat_until_lost()
            log.warning("%s: the connection to valkey was lost; what is published meanwhile is missed", self._title)
            await retrying(self._connect, f"{self._title}: valkey cannot be listened to", log, on=Exception, ceiling=1.0)

    async def _beat_until_lost(self) -> None:
        assert self._transport is not None
        while not self._lost.is_set():
            self._silent_beats += 1
            is_removed = self._shard is not None and self._shard not in self._history.commands.shards
            if self._silent_beats > SILENT_BEATS or is_removed:
                self._transport.abort()
                return
            self._transport.write(libvalkey.pack_command((b"PING",)))
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                continue
