"""A session: one client of the protocol, from its connection's first byte to its end, whatever carries it.

It is synchronous wherever nothing has to be waited for. What must wait (publish, history, rpc) runs in a task that ends
with the reply; an idle session has no task. This file holds its life: connect, its subscriptions, what services ask of it,
pings, the end. ``states`` has the states, ``dispatch`` the commands, ``methods`` a handler for each of them,
``deadlines`` time and the full socket, ``client_subscription`` what a channel brings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from .. import __version__
from ..errors import Disconnect, PermissionDenied, StoreError, TokenExpired
from ..publication import Position
from ..rules.identity import Grant, Identity, ServerSubscription
from ..rules.json_text import encode, raw_object
from ..rules.protocol import Command, push, reply
from .client_subscription import ClientSubscription, expiry, seconds_left
from .deadlines import CLIENT_LEFT, CONNECT_SECONDS, NEVER, OF_MANY
from .dispatch import CommandingClient
from .methods import HANDLERS
from .node import Node, new_id
from .outlet import Outlet
from .states import CLOSED, CONNECTED, CONNECTING, OPENED

__all__ = ["REPLY_BYTES", "REPLY_SECONDS", "Session"]

log = logging.getLogger("gateway.session")

_VERSION = b'"version":%b' % encode(__version__)

# SDKs wait 5 s for each reply, and connect again if one is missing. So the reply to connect, and the replies to subscribes of so long, take no
# further page of history after so many bytes.
REPLY_BYTES = 64 * 1024
REPLY_SECONDS = 5.0


class Session(CommandingClient[ClientSubscription]):
    """One client's session. ``subscriptions`` are by channel; ``answers`` are those of its own channels, while connecting.

    ``pings`` counts the pings that are not answered yet: several, if they wait in front of a client that does not read.
    ``pong_by`` is when one must be answered, ``unread`` how many bytes were unconfirmed when that was last over; ``connect_id`` is the id of connect;
    ``publishes_used`` is the state of a rate limit. ``replied_bytes`` are those of replies with pages of history, counted until
    ``replied_until``.
    """

    __slots__ = ("answers", "connect_id", "pings", "pong_by", "publishes_used", "replied_bytes", "replied_until", "subscriptions", "unread")

    has_grace = True

    def __init__(self, node: Node, outlet: Outlet, now: float, address: str = "") -> None:
        """Raises Disconnect if the process takes no more connections. ``now`` is the loop's clock, ``address`` the client's."""
        try:
            node.admission.admit(self, address, outlet.place)
        except Disconnect as refusal:
            node.admission.counts.refused(outlet.transport, refusal.code)
            raise
        super().__init__(node, outlet, now + node.config.limits.first_command_seconds)
        self.subscriptions: dict[str, ClientSubscription] = {}
        self.answers: dict[str, bytes] | None = None
        self.connect_id = 0
        self.publishes_used = 0.0
        self.pings = 0
        self.pong_by = NEVER
        self.unread = NEVER
        self.replied_bytes = 0
        self.replied_until = 0.0

    @property
    def paused(self) -> bool:
        return self.outlet.paused

    @property
    def transport(self) -> str:
        return self.outlet.transport

    @property
    def waiting_bytes(self) -> int:
        return self.outlet.waiting_bytes

    @property
    def unconfirmed_bytes(self) -> int:
        return self.outlet.unconfirmed_bytes

    def followed(self) -> Collection[ClientSubscription]:
        return self.subscriptions.values()

    def is_subscribing(self, channel: str) -> bool:
        subscription = self.subscriptions.get(channel)
        return subscription is not None and subscription.asked != 0

    def perform(self, method: str, command: Command) -> None:
        HANDLERS[method](self, command.id, getattr(command, method))

    # Connecting.

    def accept(self, id: int, identity: Identity) -> None:
        """Its connect, of that id, is accepted, and answered by ``follow_own``. Raises Disconnect if the user has too many connections."""
        self.node.admission.admit_user(self, identity.user)
        self.move(CONNECTING)
        self.identity = identity
        self.client = new_id()
        self.connect_id = id
        self.open_by = self.node.hub.now() + CONNECT_SECONDS

    def follow_own(self, subscriptions: dict[str, ClientSubscription]) -> None:
        """Subscribes it to the channels that its token and the rules name. With the last one's beginning, connect is answered."""
        self.answers = {}
        self.subscriptions = subscriptions
        begun = list(subscriptions.values())  # one that fails at once leaves ``subscriptions``
        for subscription in begun:
            self.node.hub.follow(subscription)
        if not begun:
            self._answer_connect()

    @property
    def takes_pages(self) -> bool:
        """Whether the reply to connect is still to be sent, and takes another page of publications: what it does not take follows it."""
        return self.answers is not None and self.has_room

    @property
    def has_room(self) -> bool:
        """Whether a reply takes publications: what it does not take follows it."""
        return self.replied_bytes < REPLY_BYTES or self.node.hub.now() >= self.replied_until

    def count_pages(self, size: int) -> None:
        """A reply to connect or to a subscribe has so many bytes, with a page of history."""
        now = self.node.hub.now()
        if now >= self.replied_until:
            self.replied_bytes, self.replied_until = 0, now + REPLY_SECONDS
        self.replied_bytes += size

    def server_side_begun(self, channel: str, result: bytes) -> None:
        """A server-side subscription began: ``result`` is its SubscribeResult, for the reply to connect or a push."""
        if self.answers is None:
            self.outlet.send(push(channel, "subscribe", result))
            return
        self.answers[channel] = result
        self._answer_connect_if_complete()

    def server_side_failed(self, subscription: ClientSubscription, error: StoreError) -> None:
        """Valkey refuses to read the channel's history: the client gets its other channels without this one."""
        level = logging.DEBUG if error.is_general else logging.WARNING
        log.log(level, "client %s: not subscribed to %s, %s", self.client, subscription.channel.name, error)
        self.end_subscription(subscription)

    def _answer_connect_if_complete(self) -> None:
        if self.answers is not None and len(self.answers) == len(self.subscriptions):
            self._answer_connect()

    def _answer_connect(self) -> None:
        answers, self.answers = self.answers or {}, None
        self.opened()
        self.counts.connected(self.transport)
        self.log_start()
        corked = self.outlet.cork()  # together with the answers to the commands that waited for it
        self.outlet.send(reply(self.connect_id, "connect", self._connect_result(answers)))
        self.node.events.record("connected", self.identity, self.client)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.client_connected(subscription)
        self.resume()
        if corked:
            self.outlet.uncork()

    def _connect_result(self, answers: dict[str, bytes]) -> bytes:
        # In one go, since every client gets it: with a dict of its fields it took 5 µs more.
        result = b'{"client":"%b",%b' % (self.client.encode(), _VERSION)
        if expires_at := self.identity.expires_at:
            result += b',"expires":true,"ttl":%d' % seconds_left(expires_at)
        if answers:
            result += b',"subs":{%b}' % b",".join([b"%b:%b" % (encode(name), answer) for name, answer in answers.items()])
        if not self.outlet.native_pings:
            result += b',"ping":%d,"pong":true' % max(1, round(self.node.config.ping_seconds))
        if self.outlet.return_path:
            result += b",%b" % raw_object(self.outlet.return_path)[1:-1]
        return result + b"}"

    # Subscriptions.

    def follow(self, subscription: ClientSubscription) -> None:
        self.subscriptions[subscription.channel.name] = subscription
        if subscription.expires_at:
            self.watch_deadlines()
        self.node.hub.follow(subscription)

    def end_subscription(self, subscription: ClientSubscription) -> None:
        """Ends it without a message to the client. One that is still connecting does not find the channel in the reply to connect."""
        if self.subscriptions.get(subscription.channel.name) is subscription:
            del self.subscriptions[subscription.channel.name]
        self.node.hub.end(subscription)
        if self.answers is not None:
            self.answers.pop(subscription.channel.name, None)
            self._answer_connect_if_complete()

    def unsubscribe(self, subscription: ClientSubscription) -> None:
        """Answers the unsubscribe that waited for this subscription's reply, and goes on with the commands after it."""
        self.unsubscribing = False
        if self.state is not CLOSED:  # the reply before this one may have filled its socket
            self.end_subscription(subscription)
            self.outlet.send(reply(subscription.unsubscribe_id, "unsubscribe"))
            self.resume()

    # What a service asks for.

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None:
        """Subscribes it from the server's side. A subscription to the channel that exists already stays; if it is server-side too, it gets the new info and expiry.

        A client that is still connecting finds the channel among its own in the reply to connect.
        """
        if self.state is OPENED or self.state is CLOSED:
            return
        if (present := self.subscriptions.get(channel)) is not None:
            present.grant_again(granted)
            self.watch_deadlines()
            return
        if len(self.subscriptions) >= self.node.config.limits.channels_per_client:
            log.info("client %s: not subscribed to %s, limits.channels_per_client is reached", self.client, channel)
            return
        self.node.rules(channel)
        self.follow(ClientSubscription(self, self.node.hub.channel(channel), since, server_side=granted))

    def remove(self, channel: str) -> None:
        """Ends a subscription, of either side; SDKs do not subscribe again."""
        subscription = self.subscriptions.get(channel)
        if subscription is not None:
            subscription.end_with(2000, "server unsubscribe", PermissionDenied())

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None:
        """Ends subscriptions whose own token was revoked; an SDK asks for another token, and subscribes again with it."""
        for subscription in list(self.subscriptions.values()):
            if subscription.grant is not None and revoked(subscription.grant):
                subscription.end_with(2501, "subscription expired", TokenExpired())

    def renew(self, identity: Identity) -> None:
        """``replace_identity``; the client learns when that ends."""
        self.replace_identity(identity)
        if self.state is CONNECTED:
            self.outlet.send(push("", "refresh", raw_object(expiry(identity.expires_at))))

    def replace_identity(self, identity: Identity) -> None:
        """Replaces the identity: it is the same user, from now on with what another token says."""
        self.identity = identity
        for subscription in self.subscriptions.values():
            subscription.show()
        if self.state is CONNECTED:
            self.watch_deadlines()

    # Time and the socket.

    def ping(self, now: float) -> None:
        self.pings += 1
        self.unread = NEVER
        self.outlet.ping()
        config = self.node.config
        self.pong_by = now + min(config.pong_seconds, 0.9 * config.ping_seconds)  # one ping is answered before the next

    def pong(self) -> None:
        if not self.pings:
            raise Disconnect(3501, "a pong without a ping")
        self.pings -= 1
        self.pong_by = NEVER

    def ponged(self) -> None:
        """A WebSocket pong came. It may come unasked, so it is not counted."""
        self.pong_by = NEVER

    def enforce(self, now: float) -> None:
        if self.outlet.waits_for_turn:
            if self.state is OPENED:
                return  # its connect is here; SDKs would not connect again after 3502
        # A pong may wait in a socket that is not read at the moment, or follow a ping that the client has not read.
        elif now >= self.pong_by and not self.outlet.paused and self.backlog is None and not self._reads_on(now):
            raise Disconnect(3012)
        super().enforce(now)

    def _reads_on(self, now: float) -> bool:
        """Whether the ping may wait in the system, after much else that the client's machine takes bit by bit: then it has more time."""
        before, self.unread = self.unread, self.outlet.unconfirmed_bytes
        if not self.node.config.limits.waiting_bytes < self.unread < before:
            return False
        self.pong_by = now + self.node.config.pong_seconds
        return True

    def next_due(self, now: float) -> float:
        return min(super().next_due(now), max(self.pong_by, now + 1))

    def expired(self, subscription: ClientSubscription | None) -> None:
        if subscription is None:
            raise Disconnect(3005)
        subscription.end_with(2501, "subscription expired", TokenExpired())

    def drained(self) -> None:
        if self.pong_by != NEVER:  # until now the ping waited in front of a client that did not read
            self.pong_by = self.node.hub.now() + self.node.config.pong_seconds
        self.slow_since = NEVER
        self.resume()  # before what it missed: SDKs wait for an answer for 5 s, and catching up may take longer
        if not self.paused:
            super().drained()

    # The end.

    def drain(self) -> None:
        """The process ends: the client connects again elsewhere."""
        self.close(Disconnect(3001))

    def close(self, disconnect: Disconnect) -> None:
        """Ends the session, and sends the client the code and the reason. Closing it twice changes nothing."""
        if self.state is not CLOSED:
            level = logging.DEBUG if disconnect.code in OF_MANY else logging.INFO
            log.log(level, "client %s closed: %s", self.client or "-", disconnect)
            self.closed(disconnect)
            self.outlet.disconnect(disconnect.code, disconnect.reason)

    def closed(self, disconnect: Disconnect = CLIENT_LEFT) -> None:
        """The connection is gone, whichever side ended it."""
        before = self.state
        if before is CLOSED:
            return
        if before is CONNECTED:
            self.node.events.record("disconnected", self.identity, self.client, code=disconnect.code, reason=disconnect.reason)
        self.count_end(disconnect.code)
        self.move(CLOSED)
        self.log_end(disconnect)
        if self.refusals is not None and self.refusals.unlogged:
            log.info("client %s is gone%s", self.client or "-", self.refusals.take_unlogged())
        self.node.wheel.remove(self)
        self.node.admission.forget(self, None if before is OPENED else self.identity.user)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.end(subscription)
        self.subscriptions.clear()
        self.backlog = None
        self.reads = ()
