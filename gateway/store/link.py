"""The link: the one Pub/Sub connection of a process.

It only reads. All announcements that arrived by the end of one turn of the loop are handed over together, channel by
channel, so that what arrived together is written together. It proves itself by publishing a heartbeat through Valkey to
itself; silence, whatever its reason, means connecting again. What was announced meanwhile does not reach this process:
``on_down`` and ``on_up`` let the listeners find it in Valkey.

A batch is handed over in a fixed order, since one thing may depend on another: first what came on the process's own
channel, then the channels that have a listener of their own, in the order in which these were added, then all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import libvalkey

from ..errors import NotPermitted, StoreError
from ..runtime.backoff import retrying
from ..runtime.tasks import end
from .connect import Address, Server, close_connection, open_connection
from .connection import Commands, Replies
from .not_permitted import for_people

__all__ = ["ChannelListener", "Link", "Listener", "OwnListener", "UpListener"]

log = logging.getLogger("gateway.link")

BEAT_SECONDS = 1.0
SILENT_BEATS = 4  # beats without any answer before the link is given up
SUBSCRIBE_AT_ONCE = 500  # channels of one SUBSCRIBE
REFUSED_AGAIN_SECONDS = 5.0  # until channels that Valkey refused are asked for again: the user may have got the right


class UpListener(Protocol):
    """Is called whenever the link is connected, the first time included."""

    def on_up(self) -> None: ...


class Listener(UpListener, Protocol):
    """Receives what no other listener receives; it asks for its channels again in ``on_up``. Nothing here may raise."""

    def on_down(self) -> None:
        """The connection is lost: until it is back and a channel is confirmed, what is announced there is missed."""

    def on_subscribed(self, key: bytes) -> None:
        """Valkey confirmed this Pub/Sub channel: everything that is announced there from now on arrives."""

    def on_refused(self, error: StoreError) -> None:
        """Valkey refused to subscribe to channels: those that are not confirmed. They are asked for again, by ``on_up``."""

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        """What arrived together: Pub/Sub channel → its payloads in order."""


class ChannelListener(Protocol):
    """Receives what is announced on one Pub/Sub channel, which the link subscribes to by itself. Nothing here may raise."""

    def on_subscribed(self) -> None:
        """Valkey confirmed the channel, at the start and after each lost connection."""

    def on_payloads(self, payloads: list[bytes]) -> None:
        """What arrived together, in order."""


class OwnListener(Protocol):
    """Receives what other programs publish to this process alone. It may not raise."""

    def on_own(self, payloads: list[bytes]) -> None: ...


class Link:
    """``own`` is the Pub/Sub channel of this process, which carries its heartbeats. Add the listeners, then ``start``."""

    def __init__(self, address: Address, commands: Commands, own: bytes) -> None:
        self.losses = 0  # how often the connection was lost
        self._address = address
        self._commands = commands
        self._own = own
        self._own_listeners: list[OwnListener] = []
        self._channel_listeners: dict[bytes, ChannelListener] = {}
        self._listeners: list[Listener] = []
        self._up_listeners: list[UpListener] = []
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._server: Server | None = None
        self._running: asyncio.Task[None] | None = None
        self._batch: dict[bytes, list[bytes]] = {}
        self._unsent: list[bytes] = []
        self._silent_beats = 0
        self._unproven_beats = 0
        self._proven = False
        self._refusal: StoreError | None = None  # why nothing is received, where Valkey said it
        self._asking_again: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._first_beat = asyncio.Event()

    def add_listener(self, listener: Listener) -> None:
        """For all channels that have no listener of their own."""
        self._listeners.append(listener)
        self._up_listeners.append(listener)

    def add_channel_listener(self, channel: bytes, listener: ChannelListener) -> None:
        self._channel_listeners[channel] = listener

    def add_own_listener(self, listener: OwnListener) -> None:
        self._own_listeners.append(listener)

    def add_up_listener(self, listener: UpListener) -> None:
        self._up_listeners.append(listener)

    @property
    def proven(self) -> bool:
        """Whether a heartbeat came through lately: what is announced reaches this process."""
        return self._proven

    async def start(self) -> None:
        """Connects and waits until the first heartbeat came through. Raises StoreError if it does not come, NotPermitted if it may not."""
        self._running = asyncio.create_task(self._run(), name="valkey link")
        beat = asyncio.create_task(self._first_beat.wait())
        await asyncio.wait((beat, self._running), timeout=10, return_when=asyncio.FIRST_COMPLETED)
        beat.cancel()
        if self._running.done():
            self._running.result()
        if not self._proven:
            raise self._refusal or StoreError(f"Valkey at {self._address} takes commands, but publishes nothing to its subscribers")

    async def close(self) -> None:
        if self._running is not None:
            await end(self._running)
        if self._transport is not None:
            close_connection(self._transport)
        if self._asking_again is not None:
            self._asking_again.cancel()

    def subscribe(self, channels: Iterable[bytes]) -> None:
        """Asks Valkey for these channels; without a connection it does nothing, since listeners ask again in ``on_up``."""
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

    # What arrives.

    def _on_replies(self, replies: list[Any]) -> None:
        self._silent_beats = 0
        batch = self._batch
        if not batch:
            asyncio.get_running_loop().call_soon(self._hand_over)
        for reply in replies:
            if isinstance(reply, StoreError):
                self._on_refused(reply)
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

    def _on_refused(self, reply: StoreError) -> None:
        verb = next((verb for verb in (b"UNSUBSCRIBE", b"PING") if f"'{verb.decode().lower()}'" in str(reply)), b"SUBSCRIBE")
        error = for_people(reply, libvalkey.pack_command((verb,)), self._address.user)
        if not isinstance(error, NotPermitted):  # which is logged already
            log.error("Valkey refuses to publish to this gateway: %s", error)
        if verb != b"SUBSCRIBE":
            return
        self._refuse(error)
        for listener in self._listeners:
            listener.on_refused(error)
        if self._asking_again is None:
            self._asking_again = asyncio.get_running_loop().call_later(REFUSED_AGAIN_SECONDS, self._ask_again)

    def _refuse(self, error: StoreError) -> None:
        """Nothing will come through: ``start`` need not wait for it."""
        self._refusal = error
        self._first_beat.set()

    def _ask_again(self) -> None:
        self._asking_again = None
        if self._transport is not None:
            self._ask_for_all()

    def _ask_for_all(self) -> None:
        self.subscribe([self._own, *self._channel_listeners])
        for listener in self._up_listeners:
            listener.on_up()

    def _on_confirmed(self, channel: bytes) -> None:
        if channel == self._own:
            return
        if listener := self._channel_listeners.get(channel):
            listener.on_subscribed()
            return
        for other in self._listeners:
            other.on_subscribed(channel)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, {}
        if own := batch.pop(self._own, None):
            for own_listener in self._own_listeners:
                own_listener.on_own([payload for payload in own if payload])
            self._on_beat()
        for channel, listener in self._channel_listeners.items():
            if payloads := batch.pop(channel, None):
                listener.on_payloads(payloads)
        if batch:
            for other in self._listeners:
                other.on_announcements(batch)

    def _on_beat(self) -> None:
        # Whatever comes on the process's own channel proves the way through Valkey, not heartbeats alone.
        self._proven = True
        self._unproven_beats = 0
        self._first_beat.set()

    # The connection.

    async def _run(self) -> None:
        while True:
            # Whatever the error is: a process without its link has nothing else to do.
            await retrying(self._connect, "the link to valkey could not be opened", log, on=Exception, ceiling=1.0)
            await self._beat_until_lost()
            self.losses += 1
            self._transport, self._writer, self._server, self._proven = None, None, None, False
            self._batch.clear()
            log.warning("the link to valkey was lost; connecting again")
            for listener in self._listeners:
                listener.on_down()

    async def _connect(self) -> None:
        lost = asyncio.Event()
        self._transport, self._writer, self._server = await open_connection(self._address, lambda: Replies(self._on_replies, lost.set))
        self._lost, self._silent_beats, self._unproven_beats, self._unsent = lost, 0, 0, []
        self._ask_for_all()

    async def _beat_until_lost(self) -> None:
        assert self._transport is not None
        while not self._lost.is_set():
            self._silent_beats += 1
            if fault := self._fault():
                log.warning("%s for %g s", fault, SILENT_BEATS * BEAT_SECONDS)
                self._transport.abort()
                return
            if self._is_apart():
                self._transport.abort()
                self._commands.reconnect("the live link is connected to another server")
                return
            self._beat(self._transport)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                continue

    def _fault(self) -> str:
        """Why the connection has to be given up, "" if it need not."""
        if self._silent_beats > SILENT_BEATS:
            return "the link to valkey was silent"
        if self._unproven_beats > SILENT_BEATS:
            return "the link to valkey answers, but no heartbeat came through it"
        return ""

    def _is_apart(self) -> bool:
        """Whether link and commands are connected to different servers: one of them follows a server that is not the primary any more."""
        here, there = self._server, self._commands.server
        return here is not None and there is not None and here.run_id != there.run_id

    def _beat(self, transport: asyncio.Transport) -> None:
        # The ping proves the connection, the heartbeat the way through Valkey; both count as an answer.
        if not transport.is_closing():
            transport.write(libvalkey.pack_command((b"PING",)))
        if self._commands.connected:
            self._unproven_beats += 1
            self._commands.send(b"FCALL", b"gateway_heartbeat", 1, self._own).add_done_callback(self._on_beat_sent)

    def _on_beat_sent(self, future: asyncio.Future[Any]) -> None:
        # A heartbeat that could not be sent shows in what does not arrive.
        if not future.cancelled() and isinstance(error := future.exception(), NotPermitted):
            self._refuse(error)
