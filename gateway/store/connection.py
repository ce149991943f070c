"""One pipelined connection for commands: what becomes of each, and how the connection is opened again.

Every command enters one queue (``command_queue``) when it is called and leaves it in that order. Commands that are called within one turn of
the loop leave in one write; Valkey answers in order. A lost connection is opened again by itself. What becomes of a
command that gets no good answer:

| what happened                                    | ``repeatable`` commands                | others                       |
|--------------------------------------------------|----------------------------------------|------------------------------|
| the connection broke before the reply: whether   | are sent again, in their order and     | fail with Unavailable: the   |
| it was carried out is not known                  | before all newer ones                  | caller decides               |
| Valkey carried nothing out: it is loading, is    | are sent again, in their order and before all newer ones, once the    |
| not the primary, or has lost its functions       | cause is mended; meanwhile nothing newer is sent                      |
| the same, and a newer guarded one to the same    | fail with Unavailable: sent again they would be out of order          |
| channel was carried out meanwhile, or perhaps    |                                                                       |
| ``patience`` seconds are over                    | fail with Unavailable                                                 |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import libvalkey

from ..errors import StoreError, Unavailable
from ..runtime.tasks import end
from .command import GUARD_WORDS, Call, Command, Functions, Replies, Waiter, asking_command, guard_of, make_command
from .command_queue import CommandQueue
from .connect import Address, NotThePrimary, Server, close_connection, open_connection
from .connect_again import PAUSE_SECONDS, connect_again
from .not_permitted import for_people
from .outage_log import OutageLog, RefusalLog
from .refused_commands import NOT_LOGGED, NOT_THE_PRIMARY, OTHER_FUNCTIONS, REDIRECTS, REFUSED_FOR_NOW, RefusalPauses

__all__ = ["PATIENCE_SECONDS", "Redirects", "ServerCommands", "ServerListener"]

log = logging.getLogger("gateway.store")

SILENCE_SECONDS = 5.0  # the oldest command waits longer than this: the connection is dead
CHECK_SECONDS = 1.0
RETIRED_SECONDS = 1.0  # until a cluster is asked which server has the slots of one that is away: it may have none any more
REFUSALS_LOGGED = 5  # in a row: about a second of them
WRITES_CALM_SECONDS = 30.0  # without a refused write in a shard: it may get no more than one in so long
PATIENCE_SECONDS = 10.0
BARRIER_SECONDS = 2.0  # for the replies to what was written before a refusal
# The same where a cluster's server has lost slots: a server that was replaced must not acknowledge what its successor does not have.
SETTLE_SECONDS = 0.5


class Redirects(Protocol):
    """What knows the other servers of a cluster. Nothing here may raise."""

    def redirected(self, server: ServerCommands, command: Command, refusal: str) -> None:
        """Takes over a command that Valkey did not carry out, since its slot is elsewhere, moves, or is nowhere."""

    def carried_out(self, command: Command) -> None:
        """Valkey has carried out this guarded command, or perhaps has."""

    def unreachable(self, server: ServerCommands) -> None:
        """A connection could not be opened, or is silent: another server may have its slots by now."""

    async def shared_call(self, *words: Any) -> Any:
        """A command that passes the queue, sent to where its key is. Raises StoreError, Unavailable."""


class ServerListener(Protocol):
    """What depends on which server the commands are connected to: the link of the same shard."""

    def on_server(self) -> None:
        """They are connected to another server, or noticed that the one they were connected to is a replica now."""


class ServerCommands:
    """The commands of one server. ``store.access.Commands`` describes what is called from outside.

    ``patience``: seconds that a command may wait for a connection, and for Valkey to take it. ``redirects`` belongs to a cluster, of
    which this is one server: it takes over the commands that are to go elsewhere.
    """

    sharded = False

    def __init__(
        self,
        address: Address,
        *,
        patience: float = PATIENCE_SECONDS,
        functions: Functions | None = None,
        redirects: Redirects | None = None,
    ) -> None:
        self.address = address
        self._redirects = redirects
        self._patience = patience
        self._functions = functions
        self._guards = functions is not None
        self.guard_words = GUARD_WORDS if self._guards else 0
        self._guard = b""  # of the generation of the functions there, once it is known
        self.queue = CommandQueue(patience, f"no connection to Valkey at {address} for {patience:g} s")
        self._flushing = False
        self._pauses = RefusalPauses()
        self._mending: asyncio.Task[None] | None = None
        self._functions_come = False  # they are mended, and nothing has been refused again and again
        self._transport: asyncio.Transport | None = None
        self._writer: Any = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.server: Server | None = None  # to which it is connected
        self.demoted: Server | None = None  # a server that was found to be a replica since the last connection was made
        self._server_listener: ServerListener | None = None
        self.failure: Exception | None = None  # of the last attempt to connect again
        self._outage = OutageLog(
            log,
            f"commands do not reach valkey at {address}",
            f"commands reach valkey at {address} again",
            f"valkey at {address} has no hash slots any more: no commands are sent to it",
            grace=0.0 if redirects is None else RETIRED_SECONDS,
        )
        carried_out, writes = f"valkey at {address} carries commands out again", f"valkey at {address} refuses no writes any more"
        self._refusal_log = RefusalLog(log, f"valkey at {address} carries no commands out", carried_out, 2 * PAUSE_SECONDS)
        self._writes_log = RefusalLog(log, f"valkey at {address} refuses what gateways write", writes, WRITES_CALM_SECONDS)

    @property
    def connected(self) -> bool:
        """Whether commands reach Valkey now, or will in a moment, as where the functions were loaded anew."""
        return not self.queue.held or self._functions_come

    @property
    def shards(self) -> list[ServerCommands]:
        return [self]

    def shard(self, key: bytes) -> ServerCommands:
        return self

    def report_server_to(self, listener: ServerListener) -> None:
        """``listener`` is called whenever ``server`` or ``demoted`` is another one, in place of the listener before."""
        self._server_listener = listener

    def on_shards_changed(self, changed: Callable[[], None]) -> None:
        """Does nothing: the only server is always the only shard."""

    def look_again(self) -> None:
        """Does nothing: where there is one server, no slot can move."""

    async def publish(self, channel: bytes | str, payload: bytes | str) -> int:
        return int(await self.call(b"PUBLISH", channel, payload))

    def begin_connecting(self) -> None:
        """``start`` without waiting: it connects by itself, and tries again until it is closed."""
        self._keeper = asyncio.create_task(self._stay_connected(), name="valkey commands")

    async def start(self) -> None:
        """Connects once, so that a wrong address fails here and now; afterwards reconnects by itself. Raises StoreError, Unavailable."""
        try:
            await self._connect()
        except BaseException:
            await self.address.close()
            raise
        self.begin_connecting()

    async def close(self) -> None:
        await end(*[task for task in (self._keeper, self._mending) if task is not None])
        if self._transport is not None:
            close_connection(self._transport)
        self._drop("the connection was closed")
        self.queue.fail(float("inf"), "the connection was closed")
        await self.address.close()

    async def retire(self) -> None:
        """``close`` of a cluster's server that has no hash slots any more."""
        self._outage.retire()
        await self.close()

    def reconnect(self, reason: str) -> None:
        """Gives the connection up and asks for the address again: the server is not the primary any more."""
        if self._transport is not None:
            log.debug("the connection to valkey is given up: %s", reason)
            self._transport.abort()
            self._drop(reason)

    # Calling.

    async def call(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> Any:
        """One command, carried out after all that were called before it.

        ``repeatable``: carrying it out twice changes nothing more. ``guarded``: a function call that takes NAME VALUE pairs at its
        end, to which the generation is added. Raises StoreError for Valkey's error reply, Unavailable if it cannot be reached or
        the connection breaks before the reply.
        """
        return await self.begin(*words, repeatable=repeatable, guarded=guarded)

    def begin(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> asyncio.Future[Any]:
        """``call`` without waiting: the command is carried out before all that are called later."""
        command = make_command(words, guarded=guarded and self._guards, repeatable=repeatable)
        self.take(command)
        return command.future

    def begin_for(self, waiter: Waiter, *words: Any, guarded: bool = False) -> None:
        """``begin`` whose answer goes to ``waiter``."""
        self.take(make_command(words, guarded=guarded and self._guards, repeatable=False, waiter=waiter))

    def begin_packed(self, waiter: Waiter, key: bytes, text: bytes) -> None:
        """``begin_for`` of a guarded command that is packed already."""
        self.queue.waiting.append(Command(text, waiter, asyncio.get_running_loop().time(), self._guards))
        if not self._flushing:
            self._flush_soon()

    def send(self, *words: Any) -> asyncio.Future[Any]:
        """``call`` that fails at once, with Unavailable, where it would have to wait for a connection."""
        if not self.connected:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(Unavailable(f"no connection to Valkey at {self.address}"))
            return future
        return self.begin(*words)

    # What a cluster needs of its servers.

    def take(self, command: Command, *, asking: bool = False) -> None:
        """Takes a command that was made elsewhere. ``asking``: its slot is being moved to this server, which takes the command only after ASKING."""
        if asking:
            self.queue.waiting.append(asking_command())
        self.queue.waiting.append(command)
        if not self._flushing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self.queue.held:
            self.queue.watch_patience()
        else:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def withdraw(self, stays: Callable[[int], bool]) -> list[Command]:
        """Takes back the commands of slots for which ``stays`` is false and that were not written, or have to be written again; the oldest first."""
        return self.queue.withdraw(stays)

    async def settle(self) -> None:
        """Returns when everything that was written before is answered, or will never be."""
        try:
            await self._after_written(SETTLE_SECONDS)
        except Unavailable:
            return  # the connection is lost, and everything that was written with it
        except (StoreError, TimeoutError) as error:
            self.reconnect(str(error) or f"no reply for {SETTLE_SECONDS:g} s")

    def _flush(self) -> None:
        self._flushing = False
        if self.queue.held:
            self.queue.watch_patience()  # of what was called since it is held
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self.queue.take_parts(asyncio.get_running_loop().time(), self._guard)))

    def call_now(self, *words: Any) -> asyncio.Future[Any]:
        """Sends one command at once, before those in the queue."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        command = Command(libvalkey.pack_command(words), loop.create_future(), now, urgent=True, written=now)
        if self._transport is None or self._transport.is_closing():
            command.future.set_exception(Unavailable(f"no connection to Valkey at {self.address}"))
        else:
            self.queue.written.append(command)
            self._transport.write(command.text)
        return command.future

    @property
    def _shared_call(self) -> Call | None:
        return None if self._redirects is None else self._redirects.shared_call

    # Replies and refusals.

    def _on_replies(self, replies: list[Any]) -> None:
        written = self.queue.written
        for reply in replies:
            command = written.popleft()
            if command.guarded and (self.queue.refused or self._redirects is not None) and not isinstance(reply, StoreError):
                self._carried_out(command)
            if command.waiter.done():
                continue  # its caller was cancelled
            if isinstance(reply, StoreError):
                self._on_error(command, reply)
            else:
                command.waiter.set_result(reply)

    def _carried_out(self, command: Command) -> None:
        """Notes that this command was carried out, or may have been: refused older ones of its channel would come after it, and fail."""
        if self.queue.refused:
            self.queue.carried_out(command)
        if self._redirects is not None:
            self._redirects.carried_out(command)

    def _on_error(self, command: Command, error: StoreError) -> None:
        text = str(error)
        for_now = text.startswith(REFUSED_FOR_NOW + NOT_THE_PRIMARY)
        if command.slot >= 0 and self._redirects is not None and text.startswith(REDIRECTS):
            self._redirects.redirected(self, command, text)
            return
        error = for_people(error, command.text, self.address.user)
        if command.urgent:
            command.waiter.set_exception(Unavailable(text) if for_now else error)
        elif for_now or (self._functions is not None and text.startswith(OTHER_FUNCTIONS)):
            self.queue.refuse(command)
            if self._mending is None or command is self.queue.alone:  # the cause may be another one now
                self._functions_come = text.startswith(OTHER_FUNCTIONS)
                self._mending = asyncio.create_task(self._mend(text), name="valkey refusal")
        else:
            self._note_general(error)
            command.waiter.set_exception(error)

    async def _mend(self, refusal: str) -> None:
        """Mends what made Valkey refuse a command, then sends all that were refused, and what was called meanwhile."""
        log.debug("valkey carries nothing out for the moment: %s", refusal)
        if refusal.startswith(NOT_THE_PRIMARY):
            self._report_server(self.server)
        try:
            await self._after_written()
            if refusal.startswith(NOT_THE_PRIMARY):
                self.reconnect(refusal)
                return
            if refusal.startswith(OTHER_FUNCTIONS) and self._functions is not None:
                self._guard = guard_of(await self._functions.ready(self.call_now, self._shared_call))
            await self._pause_and_release(refusal)
        except (StoreError, TimeoutError) as error:
            self.reconnect(str(error) or "no reply")
        finally:
            if self._mending is asyncio.current_task():
                self._mending, self._functions_come = None, False

    async def _pause_and_release(self, refusal: str) -> None:
        """Writing goes on after a pause, which is longer with each refusal in a row.

        First the oldest is written alone: of thousands that are written together, Valkey may refuse the first and carry out the last."""
        pause = self._pauses.next(asyncio.get_running_loop().time(), refusal)
        self._functions_come = self._functions_come and pause == 0
        if self._pauses.in_a_row >= REFUSALS_LOGGED and not refusal.startswith(NOT_LOGGED):  # it goes on, as where replicas are missing
            self._refusal_log.refused(refusal)
        await asyncio.sleep(pause)
        if refusal.startswith(REFUSED_FOR_NOW) and self._write_alone():
            await self._after_written()
            if self._mending is not asyncio.current_task():
                return  # it was refused again
        self._release()

    def _write_alone(self) -> bool:
        """Writes the oldest that was refused. False where there is none, or no connection."""
        if self._transport is None or self._transport.is_closing():
            return False
        command = self.queue.take_alone(asyncio.get_running_loop().time())
        if command is not None:
            self._transport.write(command.text + self._guard if command.guarded else command.text)
        return command is not None

    def _note_general(self, error: StoreError) -> None:
        """Has the log say that a shard takes no writes. Where there is one server, the leases log it, which know when it takes them again."""
        if error.is_general and self._redirects is not None:
            self._writes_log.refused(error)

    async def _after_written(self, seconds: float = BARRIER_SECONDS) -> None:
        """Returns when Valkey answered everything that was written before. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self.call_now(b"PING")

    def _release(self) -> None:
        """Resumes writing, with the oldest command."""
        if self._transport is not None:
            self.queue.release()
            self._flush()

    # The connection.

    async def _connect(self) -> None:
        lost = asyncio.Event()

        def on_lost() -> None:
            if lost is self._lost:
                self._drop("the connection to Valkey was lost")
            lost.set()

        self._transport, self._writer, self.server = await open_connection(self.address, lambda: Replies(self._on_replies, on_lost))
        self._lost = lost
        try:
            await self._make_ready()
        except BaseException:
            if self._transport is not None:  # else it was lost meanwhile
                self._transport.abort()
            self._drop("the connection was not made", was_made=False)
            raise
        self._release()
        self._report_server(None)

    def _report_server(self, demoted: Server | None) -> None:
        self.demoted = demoted
        if self._server_listener is not None:
            self._server_listener.on_server()

    async def _make_ready(self) -> None:
        """Sees that the functions are there; waits while Valkey still reads its file."""
        until = asyncio.get_running_loop().time() + self._patience
        while self._functions is not None:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    self._guard = guard_of(await self._functions.ready(self.call_now, self._shared_call))
                return
            except TimeoutError:
                raise Unavailable(f"Valkey at {self.address} did not answer for {SILENCE_SECONDS:g} s") from None
            except Unavailable as error:
                if not str(error).startswith(REFUSED_FOR_NOW) or asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(self._pauses.next(asyncio.get_running_loop().time()))

    def _drop(self, reason: str, *, was_made: bool = True) -> None:
        """Forgets the connection; of the commands that were written, those that may be repeated wait for the next one.

        One that never ``was_made`` is no loss yet: its server may have had to ask another shard, which was not connected at that moment."""
        self._outage.begin(reason if was_made else "")
        self._transport, self._writer, self.server = None, None, None
        self._lost.set()
        if self._mending is not None and self._mending is not asyncio.current_task():
            self._mending.cancel()
        self._mending, self._functions_come = None, False
        for command in self.queue.written:
            if command.guarded:
                self._carried_out(command)
        self.queue.lose(reason)

    async def _stay_connected(self) -> None:
        while True:
            if self._transport is None:
                await connect_again(self._connect, self._outage, self._on_failure)
                self.failure = None
                self._outage.end()
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                await self._check()

    def _on_failure(self, reason: Exception) -> None:
        self.failure = reason
        if isinstance(reason, NotThePrimary):
            self._report_server(reason.server)
        if self._redirects is not None:
            self._redirects.unreachable(self)

    async def _check(self) -> None:
        self._writes_log.look()
        if not self.queue.held:
            self._refusal_log.look()
        written = self.queue.written
        silent = asyncio.get_running_loop().time() - written[0].written if written else 0.0
        if silent > CHECK_SECONDS and self._redirects is not None:
            self._redirects.unreachable(self)
        if silent > SILENCE_SECONDS:
            self.reconnect(f"valkey did not answer for {SILENCE_SECONDS:g} s")
        elif self.server is not None and await self.address.names_another(self.server):
            self.reconnect("Sentinel names another primary")
