"""What clients may say once they are connected: one function per method of the protocol.

Each takes the session, the command's id and its request, and answers through the session: at once, or, where Valkey is
asked, when the answer is there. It raises ClientError for what becomes an error reply, and Disconnect for what ends the
connection. Source: PROTOCOL.md 1.4–1.8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import AlreadySubscribed, BadRequest, Disconnect, LimitExceeded, NotAvailable, PermissionDenied, TokenExpired
from ..publication import Position
from ..rpc.calls import Caller
from ..rules.filters import Filter, read_filter
from ..rules.json_text import encode, is_json, raw_object
from ..rules.permissions import admits
from ..rules.protocol import BEGINNING, Since, history_result, reply
from ..rules.rate_limit import spend
from ..store.layout import publish_words
from .client_subscription import ClientSubscription, client_info, expiry

if TYPE_CHECKING:
    from .session import Session

__all__ = ["HANDLERS", "since_of"]

HISTORY_MOST = 300  # publications of one history command


def since_of(request: Since) -> Position | None:
    """The position a client wants to recover from; None to start at the top. Raises BadRequest for one that cannot be."""
    position = request.position
    return position if request.recover else None


def _subscribe(session: Session, id: int, request: Any) -> None:
    name, node = _channel_of(request), session.node
    present = session.subscriptions.get(name)
    if present is not None and not present.server_side:
        raise AlreadySubscribed
    most = node.config.limits.channels_per_client
    if len(session.subscriptions) >= most and present is None:
        raise LimitExceeded(f"limits.channels_per_client is {most}")
    node.rules(name)
    grant = node.authentication.grant(request.token, name, session.identity.user) if request.token else None
    if not node.may_subscribe(session.identity, name, token=grant is not None):
        raise PermissionDenied(f"the rules of {name!r} do not admit user {session.identity.user!r}")
    filter = _filter_of(session, name, bytes(request.tf))
    since = since_of(request)
    if present is not None:
        session.drop(present)  # the client asks for its own channel itself: from now on it is an ordinary subscription
    delta = request.delta == "fossil"
    subscription = ClientSubscription(session, node.hub.channel(name), since, asked=id, grant=grant, filter=filter, delta=delta)
    subscription.rejects = bool((request.flag or 0) & 2)
    subscription.watches = bool(request.join_leave)
    session.subscriptions[name] = subscription
    if grant is not None and grant.expires_at:
        session.watch_deadlines()
    node.hub.follow(subscription)


def _filter_of(session: Session, channel: str, text: bytes) -> Filter | None:
    if text in (b"", b"null"):
        return None
    if not session.node.rules(channel).tags_filter:
        raise BadRequest(f"the rules of {channel!r} do not allow filters")
    return read_filter(text)


def _unsubscribe(session: Session, id: int, request: Any) -> None:
    subscription = session.subscriptions.get(_channel_of(request))
    if subscription is not None and subscription.asked:
        subscription.leaving = id  # the subscribe under way is answered first
        session.leaving = True
        return
    if subscription is not None and not subscription.server_side:
        session.drop(subscription)
    session.outlet.send(reply(id, "unsubscribe"))


def _publish(session: Session, id: int, request: Any) -> None:
    name = _channel_of(request)
    rules = session.node.rules(name)
    data = bytes(request.data)
    if not data:
        raise BadRequest("no data")
    if not _may(session, rules.publish, name):
        raise PermissionDenied(f"the rules of {name!r} do not let user {session.identity.user!r} publish")
    if not is_json(data):
        raise BadRequest("data is nested too deep")
    rate = session.node.config.limits.publishes_per_second
    session.publishes_used = spend(session.publishes_used, session.node.hub.now(), rate, "limits.publishes_per_second")
    session.answer(id, "publish", _published(session, name, publish_words(data, info=_info(session, name))))


async def _published(session: Session, channel: str, words: list[Any]) -> bytes:
    await session.node.history.publish(channel, words)
    return b"{}"


def _info(session: Session, channel: str) -> bytes:
    """Who published."""
    subscription = session.subscriptions.get(channel)
    return subscription.info if subscription is not None else client_info(session.identity, session.client)


def _may(session: Session, audience: str, channel: str) -> bool:
    """Whether a rule admits this client, with what its subscription to the channel gives it."""
    subscription = session.subscriptions.get(channel)
    subscribed = subscription is not None and subscription.begun
    granted = subscription is not None and subscription.grant is not None
    return admits(audience, session.identity, channel, subscribed=subscribed, token=granted)


def _history(session: Session, id: int, request: Any) -> None:
    name = _channel_of(request)
    rules = session.node.rules(name)
    if not _may(session, rules.history, name):
        raise PermissionDenied(f"the rules of {name!r} do not let user {session.identity.user!r} read history")
    if not rules.has_history:
        raise NotAvailable(f"{name!r} keeps no history")
    since = request.since.position if request.since is not None else BEGINNING
    session.answer(id, "history", _read_history(session, name, since, request))


async def _read_history(session: Session, channel: str, since: Position, request: Any) -> bytes:
    limit = request.limit or 0
    limit = HISTORY_MOST if limit < 0 else min(limit, HISTORY_MOST)
    page = await session.node.history.after(channel, since, limit, reverse=bool(request.reverse))
    return history_result(page.top, page.publications)


def _rpc(session: Session, id: int, request: Any) -> None:
    node, identity = session.node, session.identity
    method, data = request.method or "", bytes(request.data) or None
    if method in node.methods:
        work = node.methods.call(method, Caller(identity.user, session.client), data)
    else:
        _check_services(session)
        work = node.calls.call(method, identity, session.client, data)
    session.answer(id, "rpc", _called(work))


def _check_services(session: Session) -> None:
    if not admits(session.node.config.rpc, session.identity, ""):
        raise PermissionDenied(f"the setting rpc does not let user {session.identity.user!r} call services")


async def _called(work: Awaitable[bytes]) -> bytes:
    return b'{"data":%b}' % await work


def _presence(session: Session, id: int, request: Any) -> None:
    session.answer(id, "presence", session.node.presence.clients(_presence_channel(session, request)))


def _presence_stats(session: Session, id: int, request: Any) -> None:
    session.answer(id, "presence_stats", session.node.presence.counts(_presence_channel(session, request)))


def _presence_channel(session: Session, request: Any) -> str:
    """The channel, if this client may know who is there."""
    name = _channel_of(request)
    rules = session.node.rules(name)
    if not _may(session, rules.presence_for, name):
        raise PermissionDenied(f"the rules of {name!r} do not tell user {session.identity.user!r} who is there")
    if not rules.presence:
        raise NotAvailable(f"{name!r} keeps no presence")
    return name


def _send(session: Session, id: int, request: Any) -> None:
    _check_services(session)
    session.answer(0, "send", session.node.calls.send(session.identity, session.client, bytes(request.data) or None))


def _ping(session: Session, id: int, request: Any) -> None:
    session.outlet.send(reply(id, "ping"))


def _refresh(session: Session, id: int, request: Any) -> None:
    try:
        identity = session.node.authentication.authenticate(request.token or "")
    except TokenExpired as error:
        # An error reply is final to SDKs. This code has them connect again, and there an expired token makes them ask for another.
        raise Disconnect(3005, str(error)) from None
    if not request.token or identity.user != session.identity.user:
        raise Disconnect(3500, "the new token is another user's")
    if identity.channels.keys() != session.identity.channels.keys():
        raise Disconnect(3010, "the new token names other channels: connecting again subscribes to them")
    session.identity = identity
    session.watch_deadlines()
    fields = {"client": encode(session.client), "version": encode(__version__), **expiry(identity.expires_at)}
    session.outlet.send(reply(id, "refresh", raw_object(fields)))


def _sub_refresh(session: Session, id: int, request: Any) -> None:
    name = _channel_of(request)
    subscription = session.subscriptions.get(name)
    if subscription is None or not subscription.begun:
        raise PermissionDenied(f"there is no subscription to {name!r}")
    try:
        subscription.grant = session.node.authentication.grant(request.token or "", name, session.identity.user)
    except TokenExpired:
        subscription.end_with(2501, "subscription expired")  # the error alone is final to SDKs; so they subscribe again, with another token
        raise
    except PermissionDenied as error:
        raise Disconnect(3500, str(error)) from None
    session.watch_deadlines()
    session.outlet.send(reply(id, "sub_refresh", raw_object(expiry(subscription.grant.expires_at))))


def _channel_of(request: Any) -> str:
    if not request.channel:
        raise Disconnect(3501, "a command without a channel")
    return request.channel


HANDLERS: dict[str, Callable[[Session, int, Any], None]] = {
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
