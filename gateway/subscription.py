"""A client's subscription: how what happens in a channel is said to it in the protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .catchup import State, Subscription
from .channel import NOTHING, Channel, FilteredWire
from .config import ChannelRules
from .errors import ClientError, Disconnect, UnrecoverablePosition
from .filters import Filter
from .permissions import Grant, Identity, ServerSide
from .protocol import encode, error_reply, push, raw_object, reply, subscribe_result
from .publication import Position, Publication
from .store.layout import Movement

if TYPE_CHECKING:
    from .session import Session

__all__ = ["ClientSubscription", "client_info", "seconds_left"]


class ClientSubscription(Subscription):
    """``asked`` is the id of the subscribe command that waits for its reply, ``leaving`` that of an unsubscribe behind it."""

    __slots__ = ("asked", "grant", "leaving", "present", "recovering", "rejects", "server_side", "session", "watches")

    def __init__(
        self,
        session: Session,
        channel: Channel,
        since: Position | None,
        *,
        asked: int = 0,
        server_side: ServerSide | None = None,
        grant: Grant | None = None,
        filter: Filter | None = None,
    ) -> None:
        wire = session.outlet.wire if filter is None else FilteredWire(session.outlet.wire, filter)
        super().__init__(channel, wire, session.outlet.write, since)
        self.session = session
        self.server_side = server_side
        self.asked = asked
        self.leaving = 0
        self.recovering = since is not None
        self.rejects = False
        self.watches = False  # the client asked for joins and leaves
        self.present = False
        self.grant = grant

    @property
    def expires_at(self) -> float:
        """Unix seconds; 0 for never."""
        return 0.0 if self.grant is None else self.grant.expires_at

    @property
    def takes_first_page(self) -> bool:  # type: ignore[override]
        # The push that announces a server-side subscription has no room for publications.
        return not (self.server_side and self.session.connected)

    @property
    def paused(self) -> bool:
        # The reply to connect comes before anything of a server-side subscription.
        return self.session.outlet.paused or (self.server_side and not self.session.connected)

    def deliver(self, joined: Any) -> None:
        if joined is NOTHING:
            return
        self.session.outlet.flush()
        super().deliver(joined)

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        session = self.session
        if self.recovering and not recovered and self.rejects:
            self.refuse(UnrecoverablePosition())
            return
        rules, top = self.channel.rules, self.channel.offset
        reached = publications[-1].offset if publications else top
        if isinstance(self.wire, FilteredWire):
            publications = self.wire.wanted(publications)
        result = subscribe_result(
            self.position if rules.recover and rules.has_history else None,
            recovered=recovered and self.recovering,
            was_recovering=self.recovering,
            ttl=seconds_left(self.expires_at),
            publications=publications,
            top=top if recovered and reached < top else 0,
            data=self.server_side.data if self.server_side else None,
        )
        self._enter(rules)
        if self.server_side:
            session.server_side_begun(self.channel.name, result)
            return
        session.outlet.send(reply(self.asked, "subscribe", result))
        self.asked = 0
        if self.leaving:
            session.leave(self)

    def refuse(self, error: ClientError) -> None:
        """Ends it before it began: ``error`` is the reply to its subscribe."""
        self.session.drop(self)
        self.session.outlet.send(error_reply(self.asked, error))
        if self.leaving:
            self.session.leave(self)

    def _enter(self, rules: ChannelRules) -> None:
        """It is there, for whoever asks or watches."""
        self.session.node.lifecycle.tell("subscribed", self.session.identity.user, self.session.client, channel=self.channel.name)
        if rules.presence or rules.join_leave != "off":
            self.present = True
            self.session.node.presence.enter(self.channel.name, self.session.client, self.info)
        if rules.join_leave == "all" or (rules.join_leave == "asked" and self.watches):
            if self.channel.watchers is None:
                self.channel.watchers = {}
            self.channel.watchers[self] = None

    @property
    def info(self) -> bytes:
        """The protocol's ClientInfo."""
        granted = self.grant or self.server_side
        return client_info(self.session.identity, self.session.client, granted.info if granted else None)

    def watch(self, moved: list[Movement]) -> None:
        if self.state is State.LIVE:
            for movement in moved:
                self.session.outlet.send(push(self.channel.name, movement.kind, b'{"info":%b}' % movement.info))

    def end(self) -> None:
        if self.begun and self.state is not State.ENDED:
            self.session.node.lifecycle.tell("unsubscribed", self.session.identity.user, self.session.client, channel=self.channel.name)
        super().end()
        if self.present:
            self.present = False
            self.session.node.presence.leave(self.channel.name, self.session.client)

    def gap(self) -> None:
        session = self.session
        if self.server_side:
            session.close(Disconnect(3010))
        else:
            self.end_with(2500, "insufficient state")

    def end_with(self, code: int, reason: str) -> None:
        """Ends it, and tells the client; SDKs subscribe again by themselves after 2500 and more."""
        self.session.drop(self)
        self.session.outlet.send(push(self.channel.name, "unsubscribe", b'{"code":%d,"reason":%b}' % (code, encode(reason))))


def client_info(identity: Identity, client: str, chan_info: bytes | None = None) -> bytes:
    """ClientInfo of PROTOCOL.md 1.4, in JSON."""
    fields = {"user": encode(identity.user), "client": encode(client)}
    if identity.info is not None:
        fields["conn_info"] = identity.info
    if chan_info is not None:
        fields["chan_info"] = chan_info
    return raw_object(fields)


def seconds_left(expires_at: float) -> int:
    """Whole seconds until a unix time, at least 1; 0 for an expiry of 0, which is none."""
    return max(1, round(expires_at - time.time())) if expires_at else 0
