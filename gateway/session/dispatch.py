"""The commands of one client: decoded, queued while they have to wait, and handed on in order.

    message ──decode──▶ commands ──▶ may the next one go? ──yes──▶ ``perform``: its handler answers now, or when Valkey did
                                            └──no──▶ ``backlog``; nothing more is read from the client until that is empty

Commands wait while connect is not answered, while a key for a token is fetched, while an unsubscribe, or another command about a
channel, waits for the reply to the subscribe before it, while BUSY_MOST of them are in work, while the client does not read its
answers, and for a later turn of the loop where one message holds many of them, or where many clients could go on at the same moment, as when
Valkey's answers to them came together: of many such clients, a few go on in each turn.
Since nothing is read meanwhile, the backlog holds one message's commands and what the socket's buffer brought with it.

Answers that may be large take turns (``answer_in_turn``): each is read when the client has taken those before it, but for
``limits.waiting_bytes``. So what waits for a client is bounded by bytes, however many of them it asks for at once.

A handler raises ClientError for an error reply, and Disconnect for what ends the connection; after that no command of the
same message is acted on.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable

from ..errors import ClientError, Disconnect, Internal, KeyUnknown, StoreError
from ..rules.identity import ANONYMOUS
from ..rules.protocol import PONG, Command, decode, error_reply, reply
from ..rules.rate_limit import spend
from ..runtime.turns import Turns
from .deadlines import Followed, TimedClient
from .node import Node
from .outlet import Outlet
from .refusals import Refusals
from .states import CLOSED, CONNECTING, OPENED

__all__ = ["CommandingClient"]

log = logging.getLogger("gateway.session")

BUSY_MOST = 16  # commands of one client that wait for Valkey or a service
TURN_MOST = 128  # commands of one message in one turn of the loop: some milliseconds, in which no other client is served
TOKEN_COST = 16  # commands that one with a token counts as: the signature of a public key takes 40 to 750 microseconds
# Commands, and bytes of a message, that take as long as a client takes to connect and subscribe, which is one slot of ``Admission.turns``.
SLOT_COMMANDS = 16
SLOT_BYTES = 16 * 1024

Read = Callable[[], Awaitable[bytes]]


class CommandingClient(TimedClient[Followed]):
    """A client that sends commands. ``backlog`` is those that wait, None if none does; ``busy`` counts those in work.
    ``awaited`` is the channel of the subscribe that the first of them waits for, "" for none.

    ``fetching_keys``: keys are being fetched for the token of a command. ``unsubscribing``: an unsubscribe waits for the
    reply to the subscribe before it. ``awaits_turn``: the backlog goes on in a later turn of the loop, whatever is answered before that.
    ``commands_used`` is the state of its rate limit. ``reads``: the answers that wait for
    their turn, as id, method and how it is made; ``reading``: one has its turn. ``refusals`` is None until the first.
    """

    __slots__ = (
        *("awaited", "awaits_turn", "backlog", "busy", "commands_used", "fetching_keys", "outlet", "reading", "reads", "refusals"),
        "unsubscribing",
    )

    def __init__(self, node: Node, outlet: Outlet, open_by: float) -> None:
        super().__init__(node, ANONYMOUS, OPENED, open_by)
        self.outlet = outlet
        self.backlog: list[Command] | None = None
        self.awaited = ""
        self.awaits_turn = False
        self.busy = 0
        self.commands_used = 0.0
        self.fetching_keys = False
        self.unsubscribing = False
        self.reading = False
        self.reads: tuple[tuple[int, str, Read], ...] = ()
        self.refusals: Refusals | None = None

    # What a session implements.

    @abstractmethod
    def perform(self, method: str, command: Command) -> None:
        """Calls the method's handler. Raises ClientError or Disconnect."""

    @abstractmethod
    def is_subscribing(self, channel: str) -> bool:
        """Whether a subscribe of the channel is not answered yet."""

    @abstractmethod
    def pong(self) -> None:
        """The client answered a ping of the protocol. Raises Disconnect if there was none."""

    # In order.

    def receive(self, message: bytes) -> None:
        """Acts on the commands of one message, as far as they need not wait."""
        if more := len(message) // SLOT_BYTES:
            self.node.admission.turns.take_more(more)
        try:
            commands = decode(message)
        except Disconnect as disconnect:
            self.close(disconnect)
        else:
            self._take(commands, self.node.admission.turns)

    def resume(self) -> None:
        """Goes on with the commands and answers that waited, if they need not wait any longer. The commands may wait for a later turn."""
        self._read_next()
        if self._goes_on:
            if self.node.admission.resumptions.take():
                self._go_on()
            else:
                self._await_turn()

    @property
    def _goes_on(self) -> bool:
        return self.backlog is not None and self.state is not CLOSED and not self._must_wait()

    def _await_turn(self) -> None:
        self.awaits_turn = True
        self.node.admission.resumptions.later(self._have_turn)

    def _have_turn(self) -> None:
        self.awaits_turn = False
        if self._goes_on:
            self._go_on()

    def _go_on(self) -> None:
        backlog, self.backlog = self.backlog or [], None
        corked = self.outlet.cork()  # a write for each answer takes longer than most commands
        self._take(backlog, self.node.admission.resumptions)
        if corked:
            self.outlet.uncork()
        if self.backlog is None and self.state is not CLOSED:
            self.outlet.hold_reading(False)

    def _take(self, commands: list[Command], turns: Turns) -> None:
        """``turns``: where the client has its slot for them; many commands take more slots."""
        if self.backlog is not None:
            self.backlog += commands
            return
        room = TURN_MOST
        try:
            for number, command in enumerate(commands):
                if self.state is CLOSED:
                    return
                if room <= 0:
                    self._await_turn()
                if self._must_wait() or self._awaits_subscribe(command):
                    self.backlog = commands[number:]
                    self.outlet.hold_reading(True)
                    return
                room -= TOKEN_COST if command.has_token else 1
                self._handle(command)
        except Disconnect as disconnect:
            self.close(disconnect)
        finally:
            if more := (TURN_MOST - room) // SLOT_COMMANDS:
                turns.take_more(more)

    def _must_wait(self) -> bool:
        # A command after an unsubscribe may subscribe to the same channel again, so it waits for the unsubscribe.
        is_waiting = self.awaits_turn or self.fetching_keys or self.unsubscribing or self.awaited != ""
        return is_waiting or self.state is CONNECTING or self.busy >= BUSY_MOST or self.outlet.paused

    def _awaits_subscribe(self, command: Command) -> bool:
        """Whether the subscribe of its channel is not answered: before that a subscriber's rights are not there, nor would a client that publishes
        receive its own publication."""
        request = command.publish or command.history or command.presence or command.presence_stats or command.sub_refresh
        if request is None or not request.channel or not self.is_subscribing(request.channel):
            return False
        self.awaited = request.channel
        return True

    def subscribe_answered(self, channel: str) -> None:
        """The commands that waited for that go on in the next turn of the loop."""
        if channel == self.awaited:
            self.awaited = ""
            asyncio.get_running_loop().call_soon(self.resume)

    # One command.

    def _handle(self, command: Command) -> None:
        if command is PONG:
            self.pong()
            return
        method = command.method()
        if self.state is OPENED and method != "connect":
            raise Disconnect(3501, f"the first command is {method}, not connect")
        if command.id == 0 and method != "send":
            raise Disconnect(3501, f"{method} without an id")
        if not self.fetching_keys:  # else it is handled for the second time
            self.counts.commands[method] += 1
        try:
            rate = self.node.config.limits.commands_per_second
            self.commands_used = spend(self.commands_used, self.node.hub.now(), rate, "limits.commands_per_second")
            self.perform(method, command)
        except KeyUnknown as error:
            if self.fetching_keys:
                self._refuse_command(command.id, method, Internal(str(error)))
            else:
                self.fetching_keys = True
                self.node.tasks.spawn(self._handle_with_keys(command))
        except ClientError as error:
            self._refuse_command(command.id, method, error)

    def _refuse_command(self, id: int, method: str, error: ClientError) -> None:
        self._refuse(id, method, error)
        if method == "connect":
            # SDKs take the error and come back by themselves; a connection that is not connected has no use.
            self.close(Disconnect(3000, "connect was refused"))

    async def _handle_with_keys(self, command: Command) -> None:
        """Handles the command again after keys were fetched; those after it wait."""
        try:
            await self.node.authentication.learn()
            if self.state is not CLOSED:
                self._handle(command)
        except Disconnect as disconnect:
            self.close(disconnect)
        finally:
            self.fetching_keys = False
        self.resume()

    # Its answer, where that comes later.

    def answer(self, id: int, method: str, work: Awaitable[bytes]) -> None:
        """Replies with what ``work`` returns, unless ``id`` is 0; meanwhile other commands go on."""
        self.busy += 1
        self.node.tasks.spawn(self._reply_when_done(id, method, work))

    def answer_in_turn(self, id: int, method: str, read: Read) -> None:
        """``answer`` with what ``read()`` returns, which may be large: called when those before it are answered and mostly taken."""
        self.busy += 1
        self.reads += ((id, method, read),)
        self._read_next()

    def _read_next(self) -> None:
        if self.reads and not self.reading and not self.outlet.paused and self.state is not CLOSED:
            self.reading = True
            (id, method, read), *rest = self.reads
            self.reads = tuple(rest)
            self.node.tasks.spawn(self._read_and_reply(id, method, read))

    async def _read_and_reply(self, id: int, method: str, read: Read) -> None:
        await self._reply_when_done(id, method, read())
        self.reading = False
        self._read_next()

    async def _reply_when_done(self, id: int, method: str, work: Awaitable[bytes]) -> None:
        try:
            result = await work
        except ClientError as error:
            self._refuse(id, method, error)
        except StoreError as error:
            self._refuse(id, method, Internal.of(error))
        except Disconnect as disconnect:
            self.close(disconnect)
        except Exception:
            log.exception("client %s: %s failed", self.client, method)
            self._refuse(id, method, Internal())
        else:
            if id and self.state is not CLOSED:
                self.outlet.send(reply(id, method, result))
        finally:
            self.busy -= 1
            self.resume()

    def _refuse(self, id: int, method: str, error: ClientError) -> None:
        if self.state is CLOSED:
            return
        self.counts.failed(method, error.code)
        if method == "connect":
            self.counts.refused(self.outlet.transport, error.code)
        if not id:
            self.close(Disconnect(error.closes_with, f"{method} refused with {error.code} {error}"))
            return
        refusals = self.refusals = self.refusals or Refusals(self.node.config.limits.channels_per_client)
        now = self.node.hub.now()
        try:
            refusals.count(error, now)
        except Disconnect as disconnect:
            self.close(disconnect)
            return
        if not error.is_general and refusals.takes_line(now):
            before = refusals.take_unlogged()
            log.info("client %s: %s refused with %d %s%s", self.client or "-", method, error.code, error, before)
        self.outlet.send(error_reply(id, error))
