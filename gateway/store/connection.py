"""One pipelined connection for commands.

Any number of commands wait for their replies at once; Valkey answers in order, so a queue of futures is all the
bookkeeping there is. Commands that are sent within one turn of the loop leave in one write. A lost connection is opened
again by itself; ``call`` waits for it, up to ``patience`` seconds.

A command whose connection broke before the reply fails with Unavailable: whether it was carried out is not known,
and only the caller knows whether repeating it is safe.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import libvalkey

from ..errors import StoreError, Unavailable
from ..runtime.backoff import retrying
from .connect import Address, open_connection

__all__ = ["Commands", "Replies"]

log = logging.getLogger("gateway.store")

SILENCE_SECONDS = 5.0  # the oldest command waits longer than this: the connection is dead
CHECK_SECONDS = 1.0
NOT_NOW = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")  # refused for the moment: nothing was carried out


class Replies(asyncio.Protocol):
    """Reads replies with libvalkey. ``on_replies`` gets all that one read of the socket brought, ``on_lost`` is called when it is closed."""

    def __init__(self, on_replies: Callable[[list[Any]], None], on_lost: Callable[[], None]) -> None:
        self._on_replies = on_replies
        self._on_lost = on_lost
        self._reader = libvalkey.Reader(replyError=StoreError)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        replies: list[Any] = []
        append, gets = replies.append, reader.gets
        while (reply := gets()) is not False:
            append(reply)
        if replies:
            self._on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()


class Commands:
    """``await commands.call(b"HGET", key, field)``. Start it with ``start()``, end it with ``close()``.

    ``patience`` is how many seconds ``call`` waits for a connection.
    """

    def __init__(self, address: Address, *, patience: float = 10.0) -> None:
        self._address = address
        self._patience = patience
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._connected = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._lost: asyncio.Event = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    async def start(self) -> None:
        """Connects once, so that a wrong address fails here and now; afterwards it reconnects by itself. Raises StoreError."""
        await self._connect()
        self._running = asyncio.create_task(self._run(), name="valkey commands")

    async def close(self) -> None:
        """Commands that still wait for their replies fail with Unavailable."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()
        self._drop("the connection was closed")

    async def call(self, *words: Any) -> Any:
        """One command's reply. Raises StoreError for Valkey's error reply, Unavailable if it cannot be reached or the connection breaks."""
        if self._transport is None:
            try:
                async with asyncio.timeout(self._patience):
                    await self._connected.wait()
            except TimeoutError:
                raise Unavailable(f"no connection to Valkey at {self._address} for {self._patience:g} s") from None
        return await self.send(*words)

    def send(self, *words: Any) -> asyncio.Future[Any]:
        """``call`` without waiting for a connection: commands that are sent one after the other arrive in that order."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if self._transport is None:
            future.set_exception(Unavailable(f"no connection to Valkey at {self._address}"))
            return future
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(libvalkey.pack_command(words))
        self._waiting.append((future, loop.time()))
        return future

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    async def _connect(self) -> None:
        lost = asyncio.Event()

        def on_lost() -> None:
            if lost is self._lost:
                self._drop("the connection to Valkey was lost")
            lost.set()

        self._transport, self._writer = await open_connection(self._address, lambda: Replies(self._on_replies, on_lost))
        self._lost = lost
        self._connected.set()

    def _on_replies(self, replies: list[Any]) -> None:
        waiting = self._waiting
        for reply in replies:
            future, _ = waiting.popleft()
            if future.done():
                continue  # its caller went away
            if isinstance(reply, StoreError):
                future.set_exception(Unavailable(str(reply)) if str(reply).startswith(NOT_NOW) else reply)
            else:
                future.set_result(reply)

    def _drop(self, reason: str) -> None:
        """Forgets the connection; every command that still waits fails."""
        self._transport, self._writer = None, None
        self._connected.clear()
        self._unsent.clear()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(Unavailable(reason))

    async def _run(self) -> None:
        while True:
            await self._watch_for_silence()
            # Whatever the error is, the next attempt may succeed.
            await retrying(self._connect, "the connection to Valkey could not be opened", log, on=Exception, ceiling=1.0)

    async def _watch_for_silence(self) -> None:
        """Returns when the connection is gone. One on which the oldest command waits too long is given up."""
        loop = asyncio.get_running_loop()
        while self._transport is not None:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                if self._waiting and loop.time() - self._waiting[0][1] > SILENCE_SECONDS:
                    log.warning("Valkey did not answer for %g s; connecting again", SILENCE_SECONDS)
                    self._transport.abort()
                    self._drop("Valkey did not answer in time")
