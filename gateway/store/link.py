"""The link: the one Pub/Sub connection of a process.

It reads and never waits: all announcements that arrived by the end of one turn of the loop are handed over together,
channel by channel, so that what arrived together is written together. It proves itself by publishing a heartbeat
through Valkey to itself; silence, whatever its reason, means connecting again. What was announced meanwhile is lost to
it, and the hub's to find in history: ``on_down`` and ``on_up`` tell it so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import libvalkey

from ..errors import StoreError
from ..runtime.backoff import backoff
from .connect import Address, open_connection
from .connection import Commands, Replies

__all__ = ["Link"]

log = logging.getLogger("gateway.link")

BEAT_SECONDS = 1.0
SILENT_BEATS = 4  # beats without any answer before the link is given up
SUBSCRIBE_AT_ONCE = 500  # channels of one SUBSCRIBE


class Link:
    """``on_announcements`` gets {Pub/Sub channel: payloads in order}; ``on_subscribed`` each channel that Valkey confirmed."""

    def __init__(self, address: Address, commands: Commands, heartbeat: bytes) -> None:
        self.on_announcements: Callable[[dict[bytes, list[bytes]]], None] = lambda batch: None
        self.on_subscribed: Callable[[bytes], None] = lambda channel: None
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[], None] = lambda: None
        self.on_own: Callable[[list[bytes]], None] = lambda payloads: None  # on the heartbeat's channel, heartbeats included
        self.reconnects = 0
        self._address = address
        self._commands = commands
        self._heartbeat = heartbeat
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._keeper: asyncio.Task[None] | None = None
        self._batch: dict[bytes, list[bytes]] = {}
        self._unsent: list[bytes] = []
        self._silent_beats = 0
        self._unproven_beats = 0
        self._proven = False
        self._lost = asyncio.Event()
        self._first_beat = asyncio.Event()

    @property
    def proven(self) -> bool:
        """Whether a heartbeat came through lately: what is announced reaches this process."""
        return self._proven

    async def start(self) -> None:
        """Connects and waits until the first heartbeat came through. Raises Unavailable if it does not come."""
        self._keeper = asyncio.create_task(self._keep_connected(), name="valkey link")
        beat = asyncio.create_task(self._first_beat.wait())
        await asyncio.wait((beat, self._keeper), timeout=10, return_when=asyncio.FIRST_COMPLETED)
        beat.cancel()
        if self._keeper.done():
            self._keeper.result()
        if not self._proven:
            raise StoreError(f"Valkey at {self._address} takes commands, but publishes nothing to its subscribers")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Asks Valkey for these channels; without a connection it does nothing, since ``on_up`` asks for all."""
        self._ask(b"SUBSCRIBE", list(channels))

    def unsubscribe(self, channels: Iterable[bytes]) -> None:
        self._ask(b"UNSUBSCRIBE", list(channels))

    def _ask(self, verb: bytes, channels: list[bytes]) -> None:
        if self._transport is None:
            return
        if not self._unsent and channels:
            asyncio.get_running_loop().call_soon(self._flush)
        for start in range(0, len(channels), SUBSCRIBE_AT_ONCE):
            self._unsent.append(libvalkey.pack_command((verb, *channels[start : start + SUBSCRIBE_AT_ONCE])))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    def _on_replies(self, replies: list[Any]) -> None:
        self._silent_beats = 0
        batch = self._batch
        if not batch:
            asyncio.get_running_loop().call_soon(self._hand_over)
        for reply in replies:
            if isinstance(reply, StoreError):
                log.error("valkey refuses to publish to this gateway: %s", reply)
                continue
            kind = reply[0]
            if kind == b"message":
                payloads = batch.get(reply[1])
                if payloads is None:
                    batch[reply[1]] = [reply[2]]
                else:
                    payloads.append(reply[2])
            elif kind == b"subscribe":
                self._on_confirmed(reply[1])

    def _on_confirmed(self, channel: bytes) -> None:
        if channel != self._heartbeat:
            self.on_subscribed(channel)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, {}
        if own := batch.pop(self._heartbeat, None):
            self.on_own(own)
            self._proven = True
            self._unproven_beats = 0
            self._first_beat.set()
        if batch:
            self.on_announcements(batch)

    async def _keep_connected(self) -> None:
        attempt = 0
        while True:
            try:
                await self._connect()
            except Exception as error:  # whatever it is, without the link there is nothing to live for
                attempt += 1
                if attempt == 1:
                    log.warning("%s; trying again", error)
                await asyncio.sleep(backoff(attempt, 0.05, 1.0))
                continue
            attempt = 0
            await self._beat_until_lost()
            self.reconnects += 1
            self._transport, self._writer, self._proven = None, None, False
            self._batch.clear()
            log.warning("the link to valkey was lost; connecting again")
            self.on_down()

    async def _connect(self) -> None:
        lost = asyncio.Event()
        self._transport, self._writer = await open_connection(self._address, lambda: Replies(self._on_replies, lost.set))
        self._lost, self._silent_beats, self._unproven_beats, self._unsent = lost, 0, 0, []
        self.subscribe([self._heartbeat])
        self.on_up()

    async def _beat_until_lost(self) -> None:
        assert self._transport is not None
        while not self._lost.is_set():
            self._silent_beats += 1
            if self._silent_beats > SILENT_BEATS:
                log.warning("the link to valkey was silent for %g s", SILENT_BEATS * BEAT_SECONDS)
                self._transport.abort()
                return
            if self._unproven_beats > SILENT_BEATS:
                log.warning("the link to valkey answers, but no heartbeat came through it for %g s", SILENT_BEATS * BEAT_SECONDS)
                self._transport.abort()
                return
            # The ping proves the connection, the heartbeat the way through Valkey; both count as an answer.
            if not self._transport.is_closing():
                self._transport.write(libvalkey.pack_command((b"PING",)))
            if self._commands.connected:
                self._unproven_beats += 1
                self._commands.send(b"PUBLISH", self._heartbeat, b"").add_done_callback(_ignore_unavailable)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                continue


def _ignore_unavailable(future: asyncio.Future[Any]) -> None:
    # A heartbeat that could not be sent shows in what does not arrive.
    if not future.cancelled():
        future.exception()
