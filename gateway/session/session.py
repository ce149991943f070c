"""A session: one client's state, whatever carries it.

It takes messages of the protocol, answers through an ``Outlet``, and asks the hub, the history and the verifier for everything
else. It is synchronous wherever nothing has to be waited for; what must wait (publish, history, rpc) runs in a task that
ends with the reply. An idle session has no task: the wheel ticks it when a ping or an expiry is due.

    opened ──connect──▶ connecting ──its own channels begun──▶ connected ──▶ closed
       └─ 10 s without connect: 3502                               └─ no pong, expired, slow: 3012 3005 3008

Commands that come while it is connecting wait, so that no subscribe starts before connect is done. Illegal commands
raise Disconnect, which becomes the close code; nothing of a message is acted on behind the first.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .. import __version__
from ..errors import ClientError, Disconnect, Internal, KeyUnknown, PermissionDenied, StoreError, TokenExpired
from ..live.subscription import State
from ..live.wire_formats import Wire
from ..publication import Position
from ..rules.identity import ANONYMOUS, Grant, Identity, ServerSubscription
from ..rules.json_text import encode, raw_object
from ..rules.protocol import PONG, Command, Since, decode, error_reply, push, reply
from ..rules.rate_limit import spend
from .client_subscription import ClientSubscription, expiry
from .deadlines import CONNECT_SECONDS, NEVER, enforce, next_due
from .methods import HANDLERS, since_of
from .node import Node, new_id

__all__ = ["Outlet", "Session"]

log = logging.getLogger("gateway.session")

BUSY_MOST = 16  # commands of one client that wait for Valkey; each may answer with a page of history
NOWHERE = Since()
NOTHING = ServerSubscription()
CLIENT_LEFT = Disconnect(3000)

OPENED, CONNECTING, CONNECTED, CLOSED = "opened", "connecting", "connected", "closed"


class Outlet(Protocol):
    """The way to one client. ``write`` takes what the wire's ``join`` made, ``send`` one message of the protocol.

    What is sent while a message is being handled may leave together; ``flush`` lets it go before something is written.
    """

    wire: Wire
    write: Any
    paused: bool
    native_pings: bool  # the client asked for WebSocket pings instead of the protocol's
    return_path: dict[str, bytes]  # fields of the reply to connect that say where commands go, if not to where that comes from

    def send(self, message: bytes) -> None: ...

    def flush(self) -> None: ...

    def ping(self) -> None: ...

    def disconnect(self, code: int, reason: str) -> None: ...

    def hold_reading(self, hold: bool) -> None: ...


class Session:
    __slots__ = (
        "answers",
        "backlog",
        "bucket",
        "busy",
        "client",
        "commands_used",
        "connect_by",
        "connect_id",
        "identity",
        "learning",
        "leaving",
        "next_ping",
        "node",
        "outlet",
        "pings",
        "pong_by",
        "publishes_used",
        "slow_since",
        "state",
        "subscriptions",
    )

    def __init__(self, node: Node, outlet: Outlet, now: float, address: str = "") -> None:
        """Raises Disconnect if the process takes no more connections. ``now`` is the loop's clock, ``address`` the client's."""
        node.admission.admit(self, address)
        self.node = node
        self.outlet = outlet
        self.identity: Identity = ANONYMOUS
        self.state = OPENED
        self.client = ""
        self.subscriptions: dict[str, ClientSubscription] = {}
        self.backlog: list[Command] | None = None
        self.answers: dict[str, bytes] | None = None  # of server-side subscriptions, while connecting
        self.connect_id = 0
        self.busy = 0
        self.learning = False  # a key that a token names is being fetched
        self.leaving = False  # an unsubscribe waits for the reply to the subscribe before it
        self.publishes_used = self.commands_used = 0.0  # of limits.…_per_second, see `pace`
        self.bucket = 0
        self.connect_by = now + node.config.limits.first_command_seconds
        self.next_ping = NEVER
        self.pings = 0  # not answered yet; several, if they stand behind what the client is slow to read
        self.pong_by = NEVER
        self.slow_since = NEVER
        node.wheel.set(self, self.connect_by)

    # Commands.

    def receive(self, message: bytes) -> None:
        """Handles the commands of one message, in order."""
        try:
            commands = decode(message)
        except Disconnect as disconnect:
            self.close(disconnect)
        else:
            self._work_off(commands)

    def _work_off(self, commands: list[Command]) -> None:
        if self.backlog is not None:
            self.backlog += commands
            return
        try:
            for number, command in enumerate(commands):
                if self.state is CLOSED:
                    return
                if self._must_wait():
                    # Nothing more is read from this client either, so the backlog is bounded by a socket's buffer.
                    self.backlog = commands[number:]
                    self.outlet.hold_reading(True)
                    return
                self._handle(command)
        except Disconnect as disconnect:
            self.close(disconnect)

    def _must_wait(self) -> bool:
        """Until connect is answered, until others of its commands are, and until it reads what was answered.

        What comes behind an unsubscribe may subscribe to the same channel again, so it waits with it.
        """
        return self.state is CONNECTING or self.learning or self.leaving or self.busy >= BUSY_MOST or self.outlet.paused

    def _work_off_backlog(self) -> None:
        if self.backlog is not None and self.state is not CLOSED and not self._must_wait():
            backlog, self.backlog = self.backlog, None
            self._work_off(backlog)
            if self.backlog is None and self.state is not CLOSED:
                self.outlet.hold_reading(False)

    def _handle(self, command: Command) -> None:
        if command is PONG:
            self._on_pong()
            return
        method = command.method()
        if self.state is OPENED and method != "connect":
            raise Disconnect(3501, f"the first command is {method}, not connect")
        if command.id == 0 and method != "send":
            raise Disconnect(3501, f"{method} without an id")
        handler = Session._connect if method == "connect" else HANDLERS[method]
        try:
            rate = self.node.config.limits.commands_per_second
            self.commands_used = spend(self.commands_used, self.node.hub.now(), rate, "limits.commands_per_second")
            handler(self, command.id, getattr(command, method))
        except KeyUnknown as error:
            if self.learning:
                raise Disconnect(3500, str(error)) from None
            self.learning = True
            self.node.tasks.spawn(self._handle_with_keys(command))
        except ClientError as error:
            self._refuse(command.id, method, error)
            if method == "connect":
                # SDKs take the error and come back by themselves; a connection that is not connected has no use.
                self.close(Disconnect(3000, "connect was refused"))

    async def _handle_with_keys(self, command: Command) -> None:
        """The command again, once keys were fetched; what came behind it waits."""
        try:
            await self.node.authentication.learn()
            if self.state is not CLOSED:
                self._handle(command)
        except Disconnect as disconnect:
            self.close(disconnect)
        finally:
            self.learning = False
        self._work_off_backlog()

    def _refuse(self, id: int, method: str, error: ClientError) -> None:
        if not id:
            self.close(Disconnect(error.closes_with, f"{method} refused with {error.code} {error}"))
            return
        log.info("client %s: %s refused with %d %s", self.client or "-", method, error.code, error)
        self.outlet.send(error_reply(id, error))

    def _connect(self, id: int, request: Any) -> None:
        if self.state is not OPENED:
            raise Disconnect(3501, "a second connect")
        node = self.node
        identity = node.authentication.authenticate(request.token or "")
        recover = request.subs or {}
        own = dict.fromkeys(node.personal_channels(identity.user), NOTHING) | identity.channels
        if len(own) > node.config.limits.channels_per_client:
            raise Disconnect(
                3505, f"the token names {len(own)} channels; limits.channels_per_client is {node.config.limits.channels_per_client}"
            )
        for name in own:
            node.rules(name)
        starts = {name: since_of(recover.get(name, NOWHERE)) for name in own}
        node.admission.admit_user(self, identity.user)
        self.identity = identity
        self.client = new_id()
        self.connect_id = id
        self.connect_by = node.hub.now() + CONNECT_SECONDS
        self.state = CONNECTING
        if not starts:
            self._connected()
            return
        self.answers = {}
        for name, since in starts.items():
            delta = recover.get(name, NOWHERE).delta == "fossil"
            self.subscriptions[name] = ClientSubscription(self, node.hub.channel(name), since, server_side=own[name], delta=delta)
        for subscription in list(self.subscriptions.values()):
            node.hub.follow(subscription)

    def server_side_begun(self, channel: str, result: bytes) -> None:
        if self.answers is None:
            self.outlet.send(push(channel, "subscribe", result))
            return
        self.answers[channel] = result
        if len(self.answers) == len(self.subscriptions):
            self._connected()

    def _connected(self) -> None:
        config = self.node.config
        fields = {"client": encode(self.client), "version": encode(__version__), **expiry(self.identity.expires_at)}
        if self.answers:
            fields["subs"] = b"{%b}" % b",".join([b"%b:%b" % (encode(name), result) for name, result in self.answers.items()])
        if not self.outlet.native_pings:
            fields |= {"ping": b"%d" % max(1, round(config.ping_seconds)), "pong": b"true"}
        self.answers = None
        self.connect_by = NEVER
        self.state = CONNECTED
        self.outlet.send(reply(self.connect_id, "connect", raw_object(fields | self.outlet.return_path)))
        self.node.events.record("connected", self.identity.user, self.client)
        # The first ping comes at a random time, so that clients that came together are not pinged together for ever.
        self.next_ping = self.node.hub.now() + config.ping_seconds * random.uniform(0.5, 1)
        self.watch_deadlines()
        for subscription in list(self.subscriptions.values()):
            self.node.hub.drained(subscription)
        self._work_off_backlog()

    @property
    def connected(self) -> bool:
        return self.state is CONNECTED

    def leave(self, subscription: ClientSubscription) -> None:
        """Answers the unsubscribe that waited for this subscription, and goes on with what waited behind it."""
        self.leaving = False
        if self.state is not CLOSED:  # the reply before this one may have filled its socket
            self.drop(subscription)
            self.outlet.send(reply(subscription.leaving, "unsubscribe"))
            self._work_off_backlog()

    def drop(self, subscription: ClientSubscription) -> None:
        """Ends a subscription without a word to the client."""
        if self.subscriptions.get(subscription.channel.name) is subscription:
            del self.subscriptions[subscription.channel.name]
        self.node.hub.leave(subscription)

    def answer(self, id: int, method: str, work: Awaitable[bytes]) -> None:
        """Replies when ``work`` is done, unless ``id`` is 0; meanwhile other commands go on."""
        self.busy += 1
        self.node.tasks.spawn(self._reply_when_done(id, method, work))

    async def _reply_when_done(self, id: int, method: str, work: Awaitable[bytes]) -> None:
        try:
            result = await work
        except ClientError as error:
            self._refuse_late(id, method, error)
        except StoreError as error:
            self._refuse_late(id, method, Internal(str(error)))
        except Disconnect as disconnect:
            self.close(disconnect)
        except Exception:
            log.exception("client %s: %s failed", self.client, method)
            self._refuse_late(id, method, Internal())
        else:
            if id and self.state is not CLOSED:
                self.outlet.send(reply(id, method, result))
        finally:
            self.busy -= 1
            self._work_off_backlog()

    def _refuse_late(self, id: int, method: str, error: ClientError) -> None:
        if self.state is not CLOSED:
            self._refuse(id, method, error)

    # What a service asks for.

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None:
        """A server-side subscription. One that is there already stays, whoever asked for it."""
        if self.state is not CONNECTED or channel in self.subscriptions:
            return
        if len(self.subscriptions) >= self.node.config.limits.channels_per_client:
            log.info("client %s: not subscribed to %s, limits.channels_per_client is reached", self.client, channel)
            return
        self.node.rules(channel)
        subscription = ClientSubscription(self, self.node.hub.channel(channel), since, server_side=granted)
        self.subscriptions[channel] = subscription
        self.node.hub.follow(subscription)
        self.watch_deadlines()

    def remove(self, channel: str) -> None:
        """Ends a subscription, of either side, for good."""
        subscription = self.subscriptions.get(channel)
        if subscription is not None and self.state is CONNECTED:
            subscription.end_with(2000, "server unsubscribe", PermissionDenied())

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None:
        """Ends subscriptions whose own token was revoked; an SDK asks for another one, and comes back with it."""
        for subscription in list(self.subscriptions.values()):
            if subscription.grant is not None and revoked(subscription.grant):
                subscription.end_with(2501, "subscription expired", TokenExpired())

    def renew(self, identity: Identity) -> None:
        self.identity = identity
        if self.state is CONNECTED:
            self.outlet.send(push("", "refresh", raw_object(expiry(identity.expires_at))))
            self.watch_deadlines()

    # Time.

    def ponged(self) -> None:
        """A WebSocket pong: it may come unasked."""
        self.pong_by = NEVER

    def _on_pong(self) -> None:
        if not self.pings:
            raise Disconnect(3501, "a pong that nobody asked for")
        self.pings -= 1
        self.pong_by = NEVER

    def tick(self, now: float) -> float | None:
        """What is due: called by the wheel. Returns when something is due again."""
        try:
            enforce(self, now)
        except Disconnect as disconnect:
            self.close(disconnect)
            return None
        if now >= self.next_ping:
            self.pings += 1
            self.outlet.ping()
            config = self.node.config
            self.pong_by = now + min(config.pong_seconds, 0.9 * config.ping_seconds)  # one ping is answered before the next
            self.next_ping = now + config.ping_seconds
        return None if self.state is CLOSED else next_due(self, now)

    def watch_deadlines(self) -> None:
        """One came up that may be due before anything else."""
        now = self.node.hub.now()
        self.node.wheel.set(self, next_due(self, now))

    # The socket.

    def fell_behind(self, now: float) -> None:
        """The socket is full. What history holds waits there; where there is none, the client is too slow."""
        self.slow_since = now
        self.node.wheel.set(self, now + self.node.config.limits.slow_seconds)
        for subscription in list(self.subscriptions.values()):
            if subscription.state is State.LIVE and not subscription.channel.remembers:
                self.close(Disconnect(3008, "a channel without history to catch up from"))
                return
            subscription.fall_behind()

    def drained(self) -> None:
        self.slow_since = NEVER
        if self.pong_by != NEVER:  # the ping stood behind what the client was slow to read
            self.pong_by = self.node.hub.now() + self.node.config.pong_seconds
        for subscription in list(self.subscriptions.values()):
            if self.state is CLOSED or self.outlet.paused:
                return
            self.node.hub.drained(subscription)
        self._work_off_backlog()

    def drain(self) -> None:
        """The process is going away: the client comes back elsewhere."""
        self.close(Disconnect(3001))

    def close(self, disconnect: Disconnect) -> None:
        """Ends the session and tells the client why."""
        if self.state is not CLOSED:
            level = logging.DEBUG if disconnect.code in (3000, 3001) else logging.INFO
            log.log(level, "client %s closed: %s", self.client or "-", disconnect)
            self.closed(disconnect)
            self.outlet.disconnect(disconnect.code, disconnect.reason)

    def closed(self, disconnect: Disconnect = CLIENT_LEFT) -> None:
        """The connection is gone, whoever ended it."""
        if self.state is CLOSED:
            return
        known = self.state in (CONNECTING, CONNECTED)
        if self.state is CONNECTED:
            self.node.events.record("disconnected", self.identity.user, self.client, code=disconnect.code, reason=disconnect.reason)
        self.state = CLOSED
        self.node.wheel.remove(self)
        self.node.admission.forget(self, self.identity.user if known else None)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.leave(subscription)
        self.subscriptions.clear()
        self.backlog = None
