"""One connection of the link, to one server that takes writes: the only one there is, or a shard of a cluster.

    connect ──▶ asks for its channels ──▶ beats ──closed, silent, unproven, apart──▶ lost ──▶ connect

A cluster has sharded Pub/Sub. There, a server refuses channels whose slot it does not hold, and its error names no channel: so each
channel is asked for by a command of its own, and what was asked is remembered in order, since the replies come in that order. A
``sunsubscribe`` that answers no command withdraws the channel: the server does not hold its slot any more.

On a cluster the heartbeats have a Pub/Sub channel of their own for each shard, whose slot that shard holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import libvalkey

from ..errors import NotPermitted, StoreError, Unavailable
from ..runtime.failure_log import FailureLog
from ..runtime.tasks import end
from . import heartbeats
from .access import Commands
from .command import Replies
from .connect import Server, close_connection, open_connection
from .connect_again import connect_again
from .connection import RETIRED_SECONDS, ServerCommands
from .heartbeats import BeatChannel, Heartbeats
from .not_permitted import for_people
from .outage_log import OutageLog
from .refused_commands import REFUSED_FOR_NOW

__all__ = ["Receiver", "ShardLink"]

log = logging.getLogger("gateway.link")

ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING")  # refusals that pass, or that another shard does not give


class Dialect(NamedTuple):
    """The words of one kind of Pub/Sub. ``at_once``: channels of one command."""

    subscribe: bytes
    unsubscribe: bytes
    at_once: int
    message: bytes
    confirmed: bytes
    withdrawn: bytes


PLAIN = Dialect(b"SUBSCRIBE", b"UNSUBSCRIBE", 500, b"message", b"subscribe", b"unsubscribe")
SHARDED = Dialect(b"SSUBSCRIBE", b"SUNSUBSCRIBE", 1, b"smessage", b"ssubscribe", b"sunsubscribe")


class Receiver(Protocol):
    """Takes what the connections bring, announcements in ``batch``: Pub/Sub channel → payloads in order. Nothing here may raise."""

    batch: dict[bytes, list[bytes]]

    def hand_over(self) -> None:
        """Empties the batch. Called once in each turn of the loop that brought something."""

    def on_connected(self, link: ShardLink) -> None:
        """The connection is open: the receiver subscribes it to its channels now."""

    async def on_lost(self, link: ShardLink) -> None:
        """Its connection is lost, and is not opened again before this returns."""

    def on_confirmed(self, link: ShardLink, channel: bytes) -> None: ...

    def on_outdated(self, link: ShardLink, channel: bytes) -> None:
        """The server confirms a channel that was left meanwhile."""

    def on_displaced(self, link: ShardLink, channel: bytes) -> None:
        """The server withdraws or refuses the channel, whose slot is elsewhere, or nowhere for now."""

    def on_refused(self, link: ShardLink, error: StoreError) -> None:
        """The server refuses channels for good, as where the user has no right to them: those that it does not confirm."""

    def on_allowed(self, link: ShardLink) -> None:
        """The server, which refused channels, brings heartbeats on theirs: others may be allowed by now too. It may also have refused channels
        that are allowed, as while a script keeps it busy."""


class ShardLink:
    """The connection to the server of ``shard``, one of those of ``commands``. ``own`` carries the heartbeats where there is one server."""

    def __init__(self, shard: ServerCommands, commands: Commands, own: bytes, receiver: Receiver) -> None:
        self.address = shard.address
        self.refusal: StoreError | None = None  # why no heartbeat comes, where Valkey said it
        self._shard = shard
        self._commands = commands
        self._receiver = receiver
        self._sharded = commands.sharded
        self._dialect = SHARDED if commands.sharded else PLAIN
        self._message = self._dialect.message
        self._where = f" at {shard.address}" if commands.sharded else ""
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._server: Server | None = None
        self._unsent: list[bytes] = []
        self._asked: deque[tuple[bytes, bytes]] = deque()  # on a cluster: verb and channel of each command without a reply
        self._leaving: Counter[bytes] = Counter()  # channel → its unsubscribes without a reply: what is confirmed before that is over again
        self._beat_channel = BeatChannel(own, shard, commands)
        self._heartbeats = Heartbeats(self._where)
        self._subscribe_refused = False  # on this connection
        self._refused_for_now = False  # something was on this connection, perhaps channels: a single server does not say what
        self._asks_singly = False  # a channel was refused on this connection: it must not be asked for together with others
        self._refusals = FailureLog(log, logging.ERROR)
        self._outage = OutageLog(
            log,
            f"there is no link to valkey{self._where}",
            f"the link to valkey{self._where} is back",
            f"valkey{self._where} has no hash slots any more: no link to it is needed",
            grace=RETIRED_SECONDS if commands.sharded else 0.0,
        )
        self._lost = asyncio.Event()
        self._first_beat = asyncio.Event()
        shard.report_server_to(self)
        self._running = asyncio.create_task(self._run(), name=f"valkey link{self._where}")

    @property
    def beat_channel(self) -> bytes:
        """The Pub/Sub channel of the heartbeats at the moment, b"" if there can be none."""
        return self._beat_channel.name

    @property
    def takes_commands(self) -> bool:
        """Whether heartbeats can be sent."""
        return self._shard.connected

    @property
    def proven(self) -> bool:
        """Whether a heartbeat came through lately: what the server announces reaches this process."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """Why it is not proven that what the server announces reaches this process; "" if it is."""
        doubt = self._heartbeats.doubt
        if doubt and self._heartbeats.refusal is None and self.refusal is not None:
            return str(self.refusal)
        return doubt

    async def first_beat(self) -> None:
        """Returns when the first heartbeat came through, or ``refusal`` says why none will, or the link is not needed any more."""
        beat = asyncio.create_task(self._first_beat.wait())
        try:
            await asyncio.wait((beat, self._running), return_when=asyncio.FIRST_COMPLETED)
        finally:
            beat.cancel()
        if self._running.done() and not self._running.cancelled():  # else the server holds no hash slots any more
            self._running.result()

    async def close(self) -> None:
        await end(self._running)
        if self._transport is not None:
            close_connection(self._transport)

    async def retire(self) -> None:
        """``close`` of a link to a cluster's server that has no hash slots any more."""
        self._outage.retire()
        await self.close()

    # Asking.

    def subscribe(self, channels: Sequence[bytes]) -> None:
        """Subscribes to these channels. Without a connection it does nothing: the receiver subscribes again in ``on_connected``."""
        self._ask(self._dialect.subscribe, channels)

    def unsubscribe(self, channels: Sequence[bytes]) -> None:
        self._leaving.update(channels)
        self._ask(self._dialect.unsubscribe, channels)

    def hold_reading(self, hold: bool) -> None:
        """True: reads nothing more from this connection until it is called with False."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if hold else self._transport.resume_reading)()

    def _ask(self, verb: bytes, channels: Sequence[bytes]) -> None:
        at_once = 1 if self._asks_singly else self._dialect.at_once
        self._send((verb, *channels[start : start + at_once]) for start in range(0, len(channels), at_once))

    def _send(self, commands: Iterable[tuple[bytes, ...]]) -> None:
        if self._transport is None:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        for command in commands:
            self._unsent.append(libvalkey.pack_command(command))
            if self._sharded:
                self._asked.append((command[0], command[-1]))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    # What arrives.

    def _on_replies(self, replies: list[Any]) -> None:
        self._heartbeats.silent = 0
        batch, message = self._receiver.batch, self._message
        if not batch:
            asyncio.get_running_loop().call_soon(self._receiver.hand_over)
        for reply in replies:
            if isinstance(reply, StoreError):
                self._on_refusal(reply)
                continue
            kind = reply[0]
            if kind == message:
                payloads = batch.get(reply[1])
                if payloads is None:
                    batch[reply[1]] = [reply[2]]
                else:
                    payloads.append(reply[2])
            else:
                self._on_answer(kind, reply)

    def _on_answer(self, kind: bytes | int, reply: Any) -> None:
        dialect = self._dialect
        if kind == dialect.confirmed:
            self._answered(dialect.subscribe, reply[1])
            if reply[1] in self._leaving:
                self._receiver.on_outdated(self, reply[1])
            else:
                self._receiver.on_confirmed(self, reply[1])
        elif kind == dialect.withdrawn:
            self._left(reply[1])
            if self._sharded and not self._answered(dialect.unsubscribe, reply[1]):
                self._displace(reply[1])
        elif self._sharded and (kind == b"pong" or reply == b"PONG"):  # the first while it is subscribed to anything, else the second
            self._answered(b"PING", b"PING")

    def _left(self, channel: bytes) -> None:
        self._leaving[channel] -= 1
        if self._leaving[channel] <= 0:
            del self._leaving[channel]

    def _answered(self, verb: bytes, channel: bytes) -> bool:
        """Whether the oldest command that has no reply yet is this one, which has it now."""
        if self._asked and self._asked[0] == (verb, channel):
            self._asked.popleft()
            return True
        return False

    def _on_refusal(self, error: StoreError) -> None:
        self._leaving.clear()  # it may be the reply to an unsubscribe
        verb, channel = self._asked.popleft() if self._asked else (b"", b"")
        if self._sharded and verb == self._dialect.unsubscribe:
            return  # the slot is elsewhere, and the server withdraws its channels by itself
        if verb == self._dialect.subscribe and str(error).startswith(ELSEWHERE):
            self._displace(channel)
        elif str(error).startswith(REFUSED_FOR_NOW):  # commands get and log the same
            self._refused_for_now = True
        elif not error.is_general:  # else of a ping
            self._refused(verb or _verb_in(str(error)), error)

    def _refused(self, verb: bytes, reply: StoreError) -> None:
        error = for_people(reply, libvalkey.pack_command((verb,)), self.address.user)
        if not isinstance(error, NotPermitted):  # which is logged already
            self._refusals.failed("Valkey%s refuses to publish to this gateway: %s", self._where, error)
        if verb == self._dialect.subscribe:
            self._subscribe_refused = self._asks_singly = True
            self._refuse(error)
            self._receiver.on_refused(self, error)

    def _refuse(self, error: StoreError) -> None:
        self.refusal = error
        if not self._heartbeats.proven:
            self._outage.failed(error)
        self._first_beat.set()

    def _displace(self, channel: bytes) -> None:
        if channel == self.beat_channel:
            self._beat_channel.displace()
        else:
            self._receiver.on_displaced(self, channel)

    # The connection.

    async def _run(self) -> None:
        while True:
            # Whatever the error is: a process without its link has nothing else to do.
            await connect_again(self._connect, self._outage, self._on_failure)
            because = await self._beat_until_lost()
            if not self._heartbeats.proven:  # it was opened, and brought nothing
                self._outage.failed(because)
            self._outage.begin(because)
            self._transport, self._writer, self._server, self._heartbeats.proven = None, None, None, False
            log.debug("the link to valkey%s was lost: %s", self._where, because)
            await self._receiver.on_lost(self)

    def _on_failure(self, reason: Exception) -> None:
        self._commands.look_again()  # a replica may hold the slots now

    async def _connect(self) -> None:
        lost = asyncio.Event()
        self._transport, self._writer, self._server = await open_connection(self.address, lambda: Replies(self._on_replies, lost.set))
        self._lost, self._unsent = lost, []
        self._heartbeats.begin()
        self._asked.clear()
        self._leaving.clear()
        self._subscribe_refused = self._refused_for_now = self._asks_singly = False
        if self._beat_channel.begin():
            self.subscribe([self.beat_channel])
        self._receiver.on_connected(self)

    async def _beat_until_lost(self) -> str:
        """Returns why the connection was lost, or was given up."""
        assert self._transport is not None
        while not self._lost.is_set():
            self._heartbeats.tick()
            if fault := self._heartbeats.fault:
                self._transport.abort()
                return fault
            if self._is_apart():
                self._transport.abort()
                self._shard.reconnect("the live link is connected to another server")
                return "commands go to another server"
            self._beat()
            try:
                async with asyncio.timeout(heartbeats.BEAT_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                continue
        self._transport.abort()
        return "the connection was closed"

    def _is_apart(self) -> bool:
        """Whether link and commands are connected to different servers: one of them follows a server that is not the primary any more."""
        here, there = self._server, self._shard.server
        return here is not None and there is not None and here.run_id != there.run_id

    def on_server(self) -> None:
        """Commands noticed that the primary is another one. A demoted server passes on what the new primary announces: what follows the link's
        positions there need not be what follows them in the new primary's history, so nothing more of it may arrive.
        """
        here, demoted = self._server, self._shard.demoted
        is_demoted = here is not None and demoted is not None and here.run_id == demoted.run_id
        if self._transport is not None and (is_demoted or self._is_apart()):
            self._transport.abort()

    # Heartbeats.

    def _beat(self) -> None:
        # The ping proves the connection, the heartbeat the way through Valkey; both count as an answer.
        self._send([(b"PING",)])
        self.check_beat_channel()
        if self._subscribe_refused and self.beat_channel:
            self.subscribe([self.beat_channel])
        if self._shard.connected and self.beat_channel:
            self._heartbeats.sent()
            self._shard.send(b"FCALL", b"gateway_heartbeat", 1, self.beat_channel).add_done_callback(self._on_beat_answered)

    def _on_beat_answered(self, answer: asyncio.Future[Any]) -> None:
        # A heartbeat that could not be sent shows in what does not arrive.
        error = None if answer.cancelled() else answer.exception()
        self._heartbeats.refusal = None
        if error is not None and str(error).startswith(ELSEWHERE):
            self._beat_channel.displace()
        elif isinstance(error, StoreError) and not isinstance(error, Unavailable):
            self._heartbeats.refused(error)
            if isinstance(error, NotPermitted):
                self._refuse(error)

    def on_beat(self) -> None:
        """A heartbeat came through: what is announced reaches this process."""
        if self._refused_for_now or (self._subscribe_refused and not self._heartbeats.proven):
            self._receiver.on_allowed(self)
        self._subscribe_refused, self._refused_for_now, self.refusal = False, False, None
        self._heartbeats.came()
        self._refusals.worked()
        self._outage.end()
        self._first_beat.set()

    def check_beat_channel(self) -> None:
        """Sends the heartbeats elsewhere if their slot is not the shard's any more."""
        if self._beat_channel.check():
            self.subscribe([self.beat_channel])


def _verb_in(refusal: str) -> bytes:
    """Which command a single server refuses: it names it, unless it refuses a channel."""
    return next((verb for verb in (b"UNSUBSCRIBE", b"PING") if f"'{verb.decode().lower()}'" in refusal), b"SUBSCRIBE")
