"""A session: one client's state, whatever carries it.

It takes decoded commands, answers through an ``Outlet``, and asks the hub, the history and the verifier for everything
else. It is synchronous wherever nothing has to be waited for; what must wait (publish, history, rpc) runs in a task that
ends with the reply. An idle session has no task: the wheel ticks it when a ping or an expiry is due.

    opened ──connect──▶ connecting ──its own channels begun──▶ connected ──▶ closed
       └─ 10 s without connect: 3502                               └─ no pong, expired, slow: 3012 3005 3008

Commands that come while it is connecting wait, so that no subscribe starts before connect is done. Illegal commands
raise Disconnect, which ``receive`` turns into the close code; nothing of a message is acted on behind the first.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable
from typing import Any, Protocol

from . import __version__
from .catchup import State, Subscription
from .channel import Wire
from .errors import (
    AlreadySubscribed,
    BadRequest,
    ClientError,
    Disconnect,
    GatewayError,
    Internal,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    StoreError,
    TokenExpired,
    TooManyRequests,
    UnrecoverablePosition,
)
from .node import Node, new_id
from .permissions import ANONYMOUS, Identity, admits
from .protocol import METHODS, PONG, Command, Since, encode, error_reply, history_result, is_json, push, raw_object, reply, subscribe_result
from .publication import MAX_OFFSET, Position, Publication
from .rpc import Caller
from .store.history import publish_words

__all__ = ["Outlet", "Session"]

log = logging.getLogger("gateway.session")

STALE_SECONDS = 10.0  # to the first connect
GRACE_SECONDS = 25.0  # from an expiry to the end, for a refresh to come
HISTORY_MOST = 300  # publications of one history command
BUSY_MOST = 128  # commands of one client that wait for an answer; past that nothing more is read from it
NEVER = float("inf")

OPENED, CONNECTING, CONNECTED, CLOSED = "opened", "connecting", "connected", "closed"


class Outlet(Protocol):
    """The way to one client. ``write`` takes what the wire's ``join`` made, ``send`` one message of the protocol.

    What is sent while a message is being handled may leave together; ``flush`` lets it go before something is written.
    """

    wire: Wire
    write: Any
    paused: bool
    native_pings: bool  # the client asked for WebSocket pings instead of the protocol's

    def send(self, message: bytes) -> None: ...

    def flush(self) -> None: ...

    def ping(self) -> None: ...

    def disconnect(self, code: int, reason: str) -> None: ...

    def hold_reading(self, hold: bool) -> None: ...


class ClientSubscription(Subscription):
    """``asked`` is the id of the subscribe command that waits for its reply, ``leaving`` that of an unsubscribe behind it."""

    __slots__ = ("asked", "expires_at", "leaving", "recovering", "rejects", "server_side", "session")

    def __init__(self, session: Session, channel: Any, since: Position | None, *, asked: int = 0, server_side: bool = False) -> None:
        super().__init__(channel, session.outlet.wire, session.outlet.write, since)
        self.session = session
        self.server_side = server_side
        self.asked = asked
        self.leaving = 0
        self.recovering = since is not None
        self.rejects = False
        self.expires_at = 0.0

    @property
    def paused(self) -> bool:
        # The reply to connect comes before anything of a server-side subscription.
        return self.session.outlet.paused or (self.server_side and self.session.state is not CONNECTED)

    def deliver(self, joined: Any) -> None:
        self.session.outlet.flush()
        super().deliver(joined)

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        session = self.session
        if self.recovering and not recovered and self.rejects:
            session.drop(self)
            session.outlet.send(error_reply(self.asked, UnrecoverablePosition()))
            return
        rules = self.channel.rules
        result = subscribe_result(
            self.position if rules.recover and rules.has_history else None,
            recovered=recovered and self.recovering,
            was_recovering=self.recovering,
            ttl=_seconds_left(self.expires_at),
            publications=publications,
        )
        if self.server_side:
            session.server_side_begun(self.channel.name, result)
            return
        session.outlet.send(reply(self.asked, "subscribe", result))
        self.asked = 0
        if self.leaving:
            session.drop(self)
            session.outlet.send(reply(self.leaving, "unsubscribe"))

    def gap(self) -> None:
        session = self.session
        if self.server_side:
            session.close(Disconnect(3010))
        else:
            session.drop(self)
            session.unsubscribed(self.channel.name, 2500, "insufficient state")


class Session:
    __slots__ = (
        "answers",
        "backlog",
        "bucket",
        "busy",
        "client",
        "connect_id",
        "identity",
        "next_ping",
        "node",
        "opened_at",
        "outlet",
        "pong_by",
        "slow_since",
        "spent",
        "state",
        "subscriptions",
    )

    def __init__(self, node: Node, outlet: Outlet, now: float) -> None:
        """Raises Disconnect if the process takes no more connections. ``now`` is the loop's clock."""
        node.admit(self)
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
        self.spent = 0.0  # of limits.publishes_per_second: when the bucket was last full
        self.bucket = 0
        self.opened_at = now
        self.next_ping = NEVER
        self.pong_by = NEVER
        self.slow_since = NEVER
        node.wheel.set(self, now + STALE_SECONDS)

    # Commands.

    def receive(self, commands: list[Command]) -> None:
        """Handles the commands of one message, in order."""
        try:
            for command in commands:
                if self.state is CLOSED:
                    return
                if self.state is CONNECTING:
                    self._wait_for_connect(command)
                else:
                    self._handle(command)
        except Disconnect as disconnect:
            self.close(disconnect)

    def _wait_for_connect(self, command: Command) -> None:
        if self.backlog is None:
            self.backlog = []
        if len(self.backlog) >= BUSY_MOST + self.node.config.limits.channels_per_client:
            raise Disconnect(3013, "too many commands before connect was answered")
        self.backlog.append(command)

    def _handle(self, command: Command) -> None:
        if command is PONG:
            self._on_pong()
            return
        method = command.method()
        if self.state is OPENED and method != "connect":
            raise Disconnect(3501, f"the first command is {method}, not connect")
        if command.id == 0 and method != "send":
            raise Disconnect(3501, f"{method} without an id")
        try:
            self._HANDLERS[method](self, command.id, getattr(command, method))
        except ClientError as error:
            self._refuse(command.id, method, error)
        if method == "connect" and self.state is OPENED:
            # SDKs take the error and come back by themselves; a connection that is not connected has no use.
            self.close(Disconnect(3000, "connect was refused"))

    def _refuse(self, id: int, method: str, error: ClientError) -> None:
        log.info("client %s: %s refused with %d %s", self.client or "-", method, error.code, error)
        self.outlet.send(error_reply(id, error))

    def _connect(self, id: int, request: Any) -> None:
        if self.state is not OPENED:
            raise Disconnect(3501, "a second connect")
        node = self.node
        identity = node.authenticate(request.token or "")
        node.admit_user(identity.user)
        self.identity = identity
        self.client = new_id()
        self.connect_id = id
        self.state = CONNECTING
        names = node.personal_channels(identity.user)
        if not names:
            self._connected()
            return
        self.answers = {}
        recover = request.subs or {}
        for name in names:
            subscription = ClientSubscription(
                self, node.hub.channel(name), self._since(name, recover.get(name, NOWHERE)), server_side=True
            )
            self.subscriptions[name] = subscription
            node.hub.follow(subscription)

    def server_side_begun(self, channel: str, result: bytes) -> None:
        assert self.answers is not None
        self.answers[channel] = result
        if len(self.answers) == len(self.node.personal_channels(self.identity.user)):
            self._connected()

    def _connected(self) -> None:
        config = self.node.config
        parts = [b'{"client":"%b","version":"%b"' % (self.client.encode(), __version__.encode())]
        if self.identity.expires_at:
            parts.append(b',"expires":true,"ttl":%d' % _seconds_left(self.identity.expires_at))
        if self.answers:
            parts.append(b',"subs":{%b}' % b",".join([b"%b:%b" % (encode(name), result) for name, result in self.answers.items()]))
        if not self.outlet.native_pings:
            parts.append(b',"ping":%d,"pong":true' % max(1, round(config.ping_seconds)))
        parts.append(b"}")
        self.answers = None
        self.state = CONNECTED
        self.outlet.send(reply(self.connect_id, "connect", b"".join(parts)))
        # The first ping comes at a random time, so that clients that came together are not pinged together for ever.
        now = self.node.hub.now()
        self.next_ping = now + config.ping_seconds * random.uniform(0.5, 1)
        self.node.wheel.set(self, self._due(now))
        for subscription in list(self.subscriptions.values()):
            self.node.hub.drained(subscription)
        backlog, self.backlog = self.backlog, None
        if backlog:
            self.receive(backlog)

    def _since(self, channel: str, request: Since) -> Position | None:
        """The position a client wants to recover from; None to start at the top."""
        if (request.offset or 0) > MAX_OFFSET:
            raise BadRequest(f"an offset past {MAX_OFFSET}")
        rules = self.node.rules(channel)
        return request.position if request.recover and rules.recover and rules.has_history else None

    def _subscribe(self, id: int, request: Any) -> None:
        name, node = _channel_of(request), self.node
        present = self.subscriptions.get(name)
        if present is not None and not present.server_side:
            raise AlreadySubscribed
        if len(self.subscriptions) >= node.config.limits.channels_per_client and present is None:
            raise LimitExceeded(f"limits.channels_per_client is {node.config.limits.channels_per_client}")
        node.rules(name)
        grant = node.grant(request.token, name, self.identity.user) if request.token else None
        if not node.may_subscribe(self.identity, name, token=grant is not None):
            raise PermissionDenied(f"the rules of {name!r} do not admit user {self.identity.user!r}")
        if bytes(request.tf) not in (b"", b"null"):
            raise BadRequest("this channel does not allow filters")
        since = self._since(name, request)
        if present is not None:
            self.drop(present)  # the client asks for its own channel itself: from now on it is an ordinary subscription
        subscription = ClientSubscription(self, node.hub.channel(name), since, asked=id)
        subscription.rejects = bool((request.flag or 0) & 2)
        if grant is not None and grant.expires_at:
            subscription.expires_at = grant.expires_at
            node.wheel.set(self, node.hub.now() + _seconds_left(grant.expires_at) + GRACE_SECONDS)
        self.subscriptions[name] = subscription
        node.hub.follow(subscription)

    def _unsubscribe(self, id: int, request: Any) -> None:
        subscription = self.subscriptions.get(_channel_of(request))
        if subscription is not None and subscription.asked:
            subscription.leaving = id  # the subscribe under way is answered first
            return
        if subscription is not None and not subscription.server_side:
            self.drop(subscription)
        self.outlet.send(reply(id, "unsubscribe"))

    def drop(self, subscription: ClientSubscription) -> None:
        """Ends a subscription without a word to the client."""
        if self.subscriptions.get(subscription.channel.name) is subscription:
            del self.subscriptions[subscription.channel.name]
        self.node.hub.leave(subscription)

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        self.outlet.send(push(channel, "unsubscribe", b'{"code":%d,"reason":%s}' % (code, encode(reason))))

    def _publish(self, id: int, request: Any) -> None:
        name = _channel_of(request)
        rules = self.node.rules(name)
        data = bytes(request.data)
        if not data:
            raise BadRequest("no data")
        subscribed = self._follows(name)
        if not admits(rules.publish, self.identity, name, subscribed=subscribed):
            raise PermissionDenied(f"the rules of {name!r} do not let user {self.identity.user!r} publish")
        if not is_json(data):
            raise BadRequest("data is nested too deep")
        self._spend_publish()
        words = publish_words(data, info=self._info())
        self._answer(id, "publish", self._published(name, words))

    async def _published(self, channel: str, words: list[Any]) -> bytes:
        await self.node.history.publish(channel, words)
        return b"{}"

    def _spend_publish(self) -> None:
        """``spent`` is the time up to which the allowance is used; a second's worth may be used at once."""
        rate = self.node.config.limits.publishes_per_second
        if rate:
            now = self.node.hub.now()
            used = max(self.spent, now)
            if used - now > max(0.0, 1 - 1 / rate):
                raise TooManyRequests(f"limits.publishes_per_second is {rate:g}")
            self.spent = used + 1 / rate

    def _info(self) -> bytes:
        fields = {"user": encode(self.identity.user), "client": encode(self.client)}
        if self.identity.info is not None:
            fields["conn_info"] = self.identity.info
        return raw_object(fields)

    def _history(self, id: int, request: Any) -> None:
        name = _channel_of(request)
        rules = self.node.rules(name)
        if not admits(rules.history, self.identity, name, subscribed=self._follows(name)):
            raise PermissionDenied(f"the rules of {name!r} do not let user {self.identity.user!r} read history")
        if not rules.has_history:
            raise NotAvailable(f"{name!r} keeps no history")
        if request.since is not None and (request.since.offset or 0) > MAX_OFFSET:
            raise BadRequest(f"an offset past {MAX_OFFSET}")
        self._answer(id, "history", self._read_history(name, request))

    async def _read_history(self, channel: str, request: Any) -> bytes:
        limit = request.limit or 0
        limit = HISTORY_MOST if limit < 0 else min(limit, HISTORY_MOST)
        since = request.since.position if request.since is not None else Position("", 0)
        page = await self.node.history.read(channel, since.offset, limit, reverse=bool(request.reverse))
        if since.epoch and since.epoch != page.top.epoch:
            raise UnrecoverablePosition(f"the epoch is {page.top.epoch} now")
        return history_result(page.top, page.publications)

    def _follows(self, channel: str) -> bool:
        subscription = self.subscriptions.get(channel)
        return subscription is not None and subscription.begun

    def _rpc(self, id: int, request: Any) -> None:
        data = bytes(request.data) or None
        caller = Caller(self.identity.user, self.client)
        self._answer(id, "rpc", self._called(request.method or "", caller, data))

    async def _called(self, method: str, caller: Caller, data: bytes | None) -> bytes:
        return b'{"data":%s}' % await self.node.methods.call(method, caller, data)

    def _presence(self, id: int, request: Any) -> None:
        self.node.rules(_channel_of(request))
        raise NotAvailable("presence is not part of this version")

    def _send(self, id: int, request: Any) -> None:
        raise Disconnect(3508, "nothing here takes messages without a reply")

    def _ping(self, id: int, request: Any) -> None:
        self.outlet.send(reply(id, "ping"))

    def _refresh(self, id: int, request: Any) -> None:
        identity = self.node.authenticate(request.token or "")
        if not request.token or identity.user != self.identity.user:
            raise Disconnect(3500, "the new token is another user's")
        self.identity = identity
        fields = {"client": encode(self.client), "version": encode(__version__)}
        if identity.expires_at:
            fields |= {"expires": b"true", "ttl": b"%d" % _seconds_left(identity.expires_at)}
        self.outlet.send(reply(id, "refresh", raw_object(fields)))

    def _sub_refresh(self, id: int, request: Any) -> None:
        name = _channel_of(request)
        subscription = self.subscriptions.get(name)
        if subscription is None:
            raise PermissionDenied(f"there is no subscription to {name!r}")
        try:
            grant = self.node.grant(request.token or "", name, self.identity.user)
        except PermissionDenied as error:
            raise Disconnect(3500, str(error)) from None
        subscription.expires_at = grant.expires_at
        fields = {"expires": b"true", "ttl": b"%d" % _seconds_left(grant.expires_at)} if grant.expires_at else {}
        self.outlet.send(reply(id, "sub_refresh", raw_object(fields)))

    _HANDLERS = dict(
        zip(
            METHODS,
            (
                _connect,
                _subscribe,
                _unsubscribe,
                _publish,
                _presence,
                _presence,
                _history,
                _rpc,
                _send,
                _refresh,
                _sub_refresh,
                _ping,
            ),
            strict=True,
        )
    )

    def _answer(self, id: int, method: str, work: Awaitable[bytes]) -> None:
        """Replies when ``work`` is done; meanwhile other commands go on."""
        self.busy += 1
        if self.busy == BUSY_MOST:
            self.outlet.hold_reading(True)
        self.node.spawn(self._reply_when_done(id, method, work))

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
            if self.state is not CLOSED:
                self.outlet.send(reply(id, method, result))
        finally:
            self.busy -= 1
            if self.busy == BUSY_MOST - 1 and self.state is not CLOSED:
                self.outlet.hold_reading(False)

    def _refuse_late(self, id: int, method: str, error: ClientError) -> None:
        if self.state is not CLOSED:
            self._refuse(id, method, error)

    # Time.

    def ponged(self) -> None:
        """A WebSocket pong: it may come unasked."""
        self.pong_by = NEVER

    def _on_pong(self) -> None:
        if self.pong_by == NEVER:
            raise Disconnect(3501, "a pong that nobody asked for")
        self.pong_by = NEVER

    def tick(self, now: float) -> float | None:
        """What is due: called by the wheel. Returns when something is due again."""
        try:
            self._check_limits(now)
        except Disconnect as disconnect:
            self.close(disconnect)
            return None
        if now >= self.next_ping:
            self.outlet.ping()
            self.pong_by = now + self.node.config.pong_seconds
            self.next_ping = now + self.node.config.ping_seconds
        return self._due(now)

    def _check_limits(self, now: float) -> None:
        if self.state is OPENED and now >= self.opened_at + STALE_SECONDS:
            raise Disconnect(3502, f"no connect within {STALE_SECONDS:g} s")
        if now >= self.slow_since + self.node.config.limits.slow_seconds:
            raise Disconnect(3008)
        if now >= self.pong_by and not self.outlet.paused:
            raise Disconnect(3012)
        today = time.time()
        if self.identity.expires_at and today >= self.identity.expires_at + GRACE_SECONDS:
            raise Disconnect(3005)
        for subscription in list(self.subscriptions.values()):
            if subscription.expires_at and today >= subscription.expires_at + GRACE_SECONDS:
                self.drop(subscription)
                self.unsubscribed(subscription.channel.name, 2501, "subscription expired")

    def _due(self, now: float) -> float:
        due = min(self.next_ping, max(self.pong_by, now + 1), self.slow_since + self.node.config.limits.slow_seconds)
        if self.state is OPENED:
            due = min(due, self.opened_at + STALE_SECONDS)
        expiries = [subscription.expires_at for subscription in self.subscriptions.values() if subscription.expires_at]
        if self.identity.expires_at:
            expiries.append(self.identity.expires_at)
        if expiries:
            due = min(due, now + max(0.0, min(expiries) - time.time()) + GRACE_SECONDS)
        return min(due, now + 60)

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
        for subscription in list(self.subscriptions.values()):
            if self.state is CLOSED or self.outlet.paused:
                return
            self.node.hub.drained(subscription)

    def drain(self) -> None:
        """The process is going away: the client comes back elsewhere."""
        self.close(Disconnect(3001))

    def close(self, disconnect: Disconnect) -> None:
        """Ends the session and tells the client why."""
        if self.state is not CLOSED:
            level = logging.DEBUG if disconnect.code in (3000, 3001) else logging.INFO
            log.log(level, "client %s closed: %s", self.client or "-", disconnect)
            self.closed()
            self.outlet.disconnect(disconnect.code, disconnect.reason)

    def closed(self) -> None:
        """The connection is gone, whoever ended it."""
        if self.state is CLOSED:
            return
        known = self.state in (CONNECTING, CONNECTED)
        self.state = CLOSED
        self.node.wheel.remove(self)
        self.node.forget(self, self.identity.user if known else None)
        for subscription in list(self.subscriptions.values()):
            self.node.hub.leave(subscription)
        self.subscriptions.clear()
        self.backlog = None


NOWHERE = Since()


def _channel_of(request: Any) -> str:
    if not request.channel:
        raise Disconnect(3501, "a command without a channel")
    return request.channel


def _seconds_left(expires_at: float) -> int:
    """Whole seconds until a unix time, at least 1; 0 for an expiry of 0, which is none."""
    return max(1, round(expires_at - time.time())) if expires_at else 0
