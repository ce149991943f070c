"""The handlers of the protocol's methods, a function each.

A handler takes the session, the command's id and its request, and answers through the session: at once, or, where it needs
Valkey or a service, when that has answered. It raises ClientError for what becomes an error reply, and Disconnect for what
ends the connection. Source: docs/reference/wire-protocol.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from .. import __version__
from ..channel_rules import ChannelRules
from ..errors import AlreadySubscribed, BadRequest, ClientError, Disconnect, LimitExceeded, NotAvailable, PermissionDenied, TokenExpired
from ..live.wire_formats import FilteredWire
from ..publication import Position
from ..rpc.calls import Caller
from ..rules.filters import Filter, read_filter
from ..rules.identity import Identity, ServerSubscription
from ..rules.json_text import encode, is_json, raw_object
from ..rules.permissions import admits, may_subscribe
from ..rules.protocol import (
    BEGINNING,
    ChannelRequest,
    ConnectRequest,
    HistoryRequest,
    PingRequest,
    PublishRequest,
    RefreshRequest,
    RpcRequest,
    SendRequest,
    Since,
    SubscribeRequest,
    history_result,
    reply,
)
from ..rules.rate_limit import spend
from ..rules.recovery import recovery_start
from ..store.layout import publish_words
from .client_subscription import ClientSubscription, Owner, client_info, expiry
from .states import OPENED, ConnectionState

__all__ = ["HANDLERS", "HandledSession", "since_of"]

HISTORY_MOST = 300  # publications of one history command
FILTERS_BYTES = 256 * 1024  # of JSON, in all filters of one client together
NOWHERE = Since()  # of a channel that the client names no position of
NOTHING = ServerSubscription()  # how a personal channel is subscribed to: without info and data, by the rules alone


class HandledSession(Owner, Protocol):
    """The session as its handlers see it."""

    publishes_used: float
    unsubscribing: bool

    @property
    def state(self) -> ConnectionState: ...

    @property
    def subscriptions(self) -> dict[str, ClientSubscription]: ...

    def accept(self, id: int, identity: Identity) -> None: ...

    def follow_own(self, subscriptions: dict[str, ClientSubscription]) -> None: ...

    def follow(self, subscription: ClientSubscription) -> None: ...

    def answer(self, id: int, method: str, work: Awaitable[bytes]) -> None: ...

    def answer_in_turn(self, id: int, method: str, read: Callable[[], Awaitable[bytes]]) -> None: ...

    def watch_deadlines(self) -> None: ...

    def replace_identity(self, identity: Identity) -> None: ...


def since_of(request: Since) -> Position | None:
    """The position a client wants to recover from; None to start at the top. Raises BadRequest for one that cannot be."""
    position = request.position
    return position if request.recover else None


def _connect(session: HandledSession, id: int, request: ConnectRequest) -> None:
    if session.state is not OPENED:
        raise Disconnect(3501, "a second connect")
    node = session.node
    identity = node.authentication.authenticate(request.token or "")
    recover = request.subs or {}
    own = _own_channels(session, identity, recover)
    operator = identity.operator
    starts = {name: _start(node.rules(name, operator=operator), identity, name, recover.get(name, NOWHERE)) for name in own}
    session.accept(id, identity)
    session.follow_own(
        {
            name: ClientSubscription(
                session,
                node.hub.channel(name),
                since,
                server_side=own[name],
                delta=recover.get(name, NOWHERE).delta == "fossil",
            )
            for name, since in starts.items()
        }
    )


def _own_channels(session: HandledSession, identity: Identity, named: Iterable[str]) -> dict[str, ServerSubscription]:
    """The channels that the user is subscribed to on connecting: by the rules, by the token, and those ``named`` by the client that it may follow.

    SDKs name all server-side subscriptions that they had: those of a service, which no token has, would end in silence with the connection.
    """
    node = session.node
    most = node.config.limits.channels_per_client
    own = {**dict.fromkeys(node.personal_channels(identity.user), NOTHING), **identity.channels}
    own |= {name: NOTHING for name in named if name not in own and _may_follow(session, identity, name)}
    if len(own) > most:
        raise Disconnect(3505, f"the token and connect name {len(own)} channels; limits.channels_per_client is {most}")
    return own


def _may_follow(session: HandledSession, identity: Identity, channel: str) -> bool:
    """Whether the client could subscribe to it by a command of its own, without a subscription token."""
    try:
        return may_subscribe(session.node.rules(channel), identity, channel)
    except ClientError:  # no such channel, or the console's
        return False


def _subscribe(session: HandledSession, id: int, request: SubscribeRequest) -> None:
    _check_type(request)
    name, node = _channel_of(request), session.node
    present = session.subscriptions.get(name)
    if present is not None and not present.server_side:
        raise AlreadySubscribed
    most = node.config.limits.channels_per_client
    if len(session.subscriptions) >= most and present is None:
        raise LimitExceeded(f"limits.channels_per_client is {most}")
    rules, identity = node.rules(name), session.identity
    grant = node.authentication.grant(request.token, name, identity.user, session.client) if request.token else None
    if not may_subscribe(rules, identity, name, token=grant is not None):
        raise PermissionDenied(f"the rules of {name!r} do not admit user {identity.user!r}")
    filter = _filter_of(session, rules, name, bytes(request.tf))
    since = _start(rules, identity, name, request, token=grant is not None)
    if present is not None:
        session.end_subscription(present)  # the client subscribes to its own channel itself: from now on that is an ordinary subscription
    delta = request.delta == "fossil"
    subscription = ClientSubscription(session, node.hub.channel(name), since, asked=id, grant=grant, filter=filter, delta=delta)
    subscription.rejects = bool((request.flag or 0) & 2)
    # Joins and leaves show, one by one, who is present: they need the right to read presence.
    sees = admits(rules.presence_for, identity, name, subscribed=True, token=grant is not None)
    subscription.wants_joins_and_leaves = bool(request.join_leave) and sees
    session.follow(subscription)


def _filter_of(session: HandledSession, rules: ChannelRules, channel: str, text: bytes) -> Filter | None:
    if text in (b"", b"null"):
        return None
    if not rules.tags_filter:
        raise BadRequest(f"the rules of {channel!r} do not allow filters")
    filter = read_filter(text)
    if filter.size + sum(each.wire.size for each in session.subscriptions.values() if isinstance(each.wire, FilteredWire)) > FILTERS_BYTES:
        raise LimitExceeded(f"the filters of one client have {FILTERS_BYTES} bytes of JSON together, at most")
    return filter


def _unsubscribe(session: HandledSession, id: int, request: ChannelRequest) -> None:
    subscription = session.subscriptions.get(_channel_of(request))
    if subscription is not None and subscription.asked:
        subscription.unsubscribe_id = id  # the subscribe under way is answered first
        session.unsubscribing = True
        return
    if subscription is not None:
        session.end_subscription(subscription)
    session.outlet.send(reply(id, "unsubscribe"))


def _publish(session: HandledSession, id: int, request: PublishRequest) -> None:
    _check_type(request)
    name = _channel_of(request)
    rules = session.node.rules(name)
    data = bytes(request.data)
    if not data:
        raise BadRequest("no data")
    _check_acts(session)
    if not _may(session, rules.publish, name):
        raise PermissionDenied(f"the rules of {name!r} do not let user {session.identity.user!r} publish")
    if not is_json(data):
        raise BadRequest("data is nested too deep")
    rate = session.node.config.limits.publishes_per_second
    session.publishes_used = spend(session.publishes_used, session.node.hub.now(), rate, "limits.publishes_per_second")
    session.answer(id, "publish", _published(session, name, publish_words(data, info=_info(session, name))))


async def _published(session: HandledSession, channel: str, words: list[Any]) -> bytes:
    await session.node.history.publish(channel, words)
    return b"{}"


def _info(session: HandledSession, channel: str) -> bytes:
    """The publisher's ClientInfo."""
    subscription = session.subscriptions.get(channel)
    return subscription.info if subscription is not None else client_info(session.identity, session.client)


def _may(session: HandledSession, audience: str, channel: str) -> bool:
    """Whether a rule admits this client; its subscription to the channel counts."""
    subscription = session.subscriptions.get(channel)
    subscribed = subscription is not None and subscription.begun
    granted = subscription is not None and subscription.grant is not None
    return admits(audience, session.identity, channel, subscribed=subscribed, token=granted)


def _start(rules: ChannelRules, identity: Identity, channel: str, request: Since, *, token: bool = False) -> Position | None:
    """Where a client that is being subscribed to the channel starts, ``token``: by a subscription token. Raises BadRequest."""
    since = since_of(request)
    if since is None:
        return None
    return recovery_start(since, admitted=admits(rules.history, identity, channel, subscribed=True, token=token))


def _history(session: HandledSession, id: int, request: HistoryRequest) -> None:
    name = _channel_of(request)
    rules = session.node.rules(name, operator=session.identity.operator)
    if not rules.has_history:
        raise NotAvailable(f"{name!r} has no history")
    if not _may(session, rules.history, name):
        raise PermissionDenied(f"the rules of {name!r} do not let user {session.identity.user!r} read history")
    since = request.since.position if request.since is not None else BEGINNING
    session.answer_in_turn(id, "history", lambda: _read_history(session, name, since, request))


async def _read_history(session: HandledSession, channel: str, since: Position, request: HistoryRequest) -> bytes:
    limit = request.limit or 0
    limit = HISTORY_MOST if limit < 0 else min(limit, HISTORY_MOST)
    page = await session.node.history.after(channel, since, limit, reverse=bool(request.reverse))
    return history_result(page.top, page.publications)


def _rpc(session: HandledSession, id: int, request: RpcRequest) -> None:
    _check_acts(session)
    node, identity = session.node, session.identity
    method, data = request.method or "", bytes(request.data) or None
    if method in node.methods:
        session.answer_in_turn(id, "rpc", lambda: _called(node.methods.call(method, Caller(identity.user, session.client), data)))
    else:
        _check_services(session)
        session.answer(id, "rpc", _called(node.calls.call(method, identity, session.client, data)))


def _check_acts(session: HandledSession) -> None:
    """Raises PermissionDenied for a page of the console, whose live connection only follows channels: its operator may have the role ``read`` alone."""
    if session.identity.operator:
        raise PermissionDenied("the live connection of a console's page only follows channels: it cannot publish or call services")


def _check_services(session: HandledSession) -> None:
    if not admits(session.node.config.rpc, session.identity, ""):
        raise PermissionDenied(f"the setting rpc does not let user {session.identity.user!r} call services")


async def _called(work: Awaitable[bytes]) -> bytes:
    return b'{"data":%b}' % await work


def _presence(session: HandledSession, id: int, request: ChannelRequest) -> None:
    name = _presence_channel(session, request)
    session.answer_in_turn(id, "presence", lambda: session.node.presence.clients(name))


def _presence_stats(session: HandledSession, id: int, request: ChannelRequest) -> None:
    session.answer(id, "presence_stats", session.node.presence.counts(_presence_channel(session, request)))


def _presence_channel(session: HandledSession, request: ChannelRequest) -> str:
    """The channel. Raises PermissionDenied if this client may not see who is there."""
    name = _channel_of(request)
    rules = session.node.rules(name)
    if not rules.presence:
        raise NotAvailable(f"{name!r} has no presence")
    if not _may(session, rules.presence_for, name):
        raise PermissionDenied(f"the rules of {name!r} do not let user {session.identity.user!r} see who is there")
    return name


def _send(session: HandledSession, id: int, request: SendRequest) -> None:
    _check_acts(session)
    _check_services(session)
    session.answer(0, "send", session.node.calls.send(session.identity, session.client, bytes(request.data) or None))


def _ping(session: HandledSession, id: int, request: PingRequest) -> None:
    session.outlet.send(reply(id, "ping"))


def _refresh(session: HandledSession, id: int, request: RefreshRequest) -> None:
    try:
        identity = session.node.authentication.authenticate(request.token or "")
    except TokenExpired as error:
        # An error reply is final to SDKs. This code has them connect again, and there an expired token makes them ask for another.
        raise Disconnect(3005, str(error)) from None
    if not request.token or identity.user != session.identity.user:
        raise Disconnect(3500, "the new token is of another user")
    if identity.channels.keys() != session.identity.channels.keys():
        raise Disconnect(3010, "the new token names other channels: connecting again subscribes to them")
    session.replace_identity(identity)
    fields = {"client": encode(session.client), "version": encode(__version__), **expiry(identity.expires_at)}
    session.outlet.send(reply(id, "refresh", raw_object(fields)))


def _sub_refresh(session: HandledSession, id: int, request: RefreshRequest) -> None:
    name = _channel_of(request)
    subscription = session.subscriptions.get(name)
    if subscription is None or not subscription.begun:
        raise PermissionDenied(f"there is no subscription to {name!r}")
    try:
        subscription.grant = session.node.authentication.grant(request.token or "", name, session.identity.user, session.client)
    except TokenExpired:
        subscription.end_with(2501, "subscription expired")  # the error alone is final to SDKs; so they subscribe again, with another token
        raise
    except PermissionDenied as error:
        raise Disconnect(3500, str(error)) from None
    subscription.show()
    session.watch_deadlines()
    session.outlet.send(reply(id, "sub_refresh", raw_object(expiry(subscription.grant.expires_at))))


def _check_type(request: SubscribeRequest | PublishRequest) -> None:
    """Raises NotAvailable for a map, or another kind of subscription that the gateway does not have. As an ordinary one it would do something else than
    its client asks for."""
    if request.type:
        raise NotAvailable("map and shared poll subscriptions are not supported")


def _channel_of(request: ChannelRequest | SubscribeRequest | RefreshRequest) -> str:
    """Raises BadRequest if the command names none, as ``subscribe(undefined)`` of a page does; its other subscriptions go on."""
    if not request.channel:
        raise BadRequest("the command names no channel")
    return request.channel


# Each takes its own request struct, which is the value of the command's field of the method's name.
HANDLERS: dict[str, Callable[[HandledSession, int, Any], None]] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "rpc": _rpc,
    "send": _send,
    "refresh": _refresh,
    "sub_refresh": _sub_refresh,
    "ping": _ping,
}
