"""A client's subscription: what happens in a channel, as messages of the protocol to one client."""

from __future__ import annotations

import time
from typing import Any, Protocol

from ..errors import ClientError, Disconnect, Internal, StoreError, UnrecoverablePosition
from ..live.channel import Channel
from ..live.subscription import State
from ..live.wire_formats import NOTHING, DeltaWire, FilteredWire, Wire, delta_wire
from ..publication import Position, Publication
from ..rules.filters import Filter
from ..rules.identity import Grant, Identity, ServerSubscription
from ..rules.json_text import encode
from ..rules.permissions import overridden
from ..rules.protocol import error_reply, push, reply, subscribe_result
from ..rules.recovery import NEVER_WAS
from ..store.layout import JoinLeave
from .deadlines import TimedSubscription
from .node import Node
from .outlet import Outlet

__all__ = ["ClientSubscription", "Owner", "client_info", "expiry", "seconds_left"]

TTL_MOST = 2**32 - 1  # a uint32 of the protocol: SDKs of typed languages end a connection that brings more, as for a token until 9999999999


class Owner(Protocol):
    """The session that a subscription belongs to, as far as the subscription uses it."""

    identity: Identity

    @property
    def node(self) -> Node: ...

    @property
    def outlet(self) -> Outlet: ...

    @property
    def client(self) -> str: ...

    @property
    def since_ms(self) -> int:
        """When connect was answered, in unix ms, 0 before."""
        ...

    @property
    def unconfirmed_bytes(self) -> int: ...

    @property
    def connected(self) -> bool:
        """Whether connect was answered."""
        ...

    @property
    def takes_pages(self) -> bool:
        """Whether the reply to connect is still to be sent, and takes another page of publications."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether a reply takes publications."""
        ...

    def count_pages(self, size: int) -> None: ...

    def server_side_begun(self, channel: str, result: bytes) -> None: ...

    def server_side_failed(self, subscription: ClientSubscription, error: StoreError) -> None: ...

    def end_subscription(self, subscription: ClientSubscription) -> None: ...

    def unsubscribe(self, subscription: ClientSubscription) -> None: ...

    def subscribe_answered(self, channel: str) -> None: ...

    def close(self, disconnect: Disconnect) -> None: ...


class ClientSubscription(TimedSubscription):
    """A subscription of a session: by the client's own command, or ``server_side``, by its token, the rules or a service.

    ``asked`` is the id of the subscribe command that waits for its reply, ``unsubscribe_id`` that of an unsubscribe that came
    before this reply; 0 for none. ``grant`` is what its own token allows. ``since`` and ``delta`` are what the client asks
    for: it recovers where the rules let it; it gets deltas where the rules allow them and it has no filter. ``rejects``: it
    would rather be refused than begin with a gap. ``wants_joins_and_leaves``: it asks for joins and leaves. ``present``: it is in presence.
    """

    __slots__ = (
        *("asked", "grant", "override", "present", "rejects", "rules", "server_side", "session"),
        *("unsubscribe_id", "wants_joins_and_leaves"),
    )

    def __init__(
        self,
        session: Owner,
        channel: Channel,
        since: Position | None,
        *,
        asked: int = 0,
        server_side: ServerSubscription | None = None,
        grant: Grant | None = None,
        filter: Filter | None = None,
        delta: bool = False,
    ) -> None:
        granted = grant or server_side
        self.override = granted.override if granted is not None else None
        self.rules = overridden(channel.rules, self.override)
        wire: Wire = session.outlet.wire
        if filter is not None:
            wire = FilteredWire(wire, filter)
        elif delta and self.rules.allows_delta:
            wire = delta_wire(wire)
        if since is not None and not self.rules.recovers:
            since = NEVER_WAS  # the rules let clients recover when it was given its position
        super().__init__(channel, wire, session.outlet.write, since)
        self.session = session
        self.server_side = server_side
        self.asked = asked
        self.unsubscribe_id = 0
        self.rejects = False
        self.wants_joins_and_leaves = False
        self.present = False
        self.grant = grant

    @property
    def expires_at(self) -> float:
        granted = self.grant or self.server_side
        return 0.0 if granted is None else granted.expires_at

    @property
    def is_server_side(self) -> bool:
        return self.server_side is not None

    @property
    def takes_first_page(self) -> bool:
        # The push that announces a server-side subscription has no field for publications, and the reply to connect is one frame.
        return self.session.has_room if self.server_side is None else self.session.takes_pages

    @property
    def paused(self) -> bool:
        # Nothing of a server-side subscription is written before the reply to connect.
        return self.session.outlet.paused or (self.server_side is not None and not self.session.connected)

    def deliver(self, joined: Any) -> None:
        if joined is NOTHING:
            return
        self.session.outlet.flush()
        super().deliver(joined)

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        session = self.session
        recovering = self.recovered is not None
        if recovering and not recovered and self.rejects and self.rules.recovers:
            self.refuse(UnrecoverablePosition())
            return
        top = self.channel.offset
        reached = publications[-1].offset if publications else self.offset
        if isinstance(self.wire, FilteredWire | DeltaWire):
            publications = self.wire.take(self.channel, publications)
        result = subscribe_result(
            self.position if self.rules.recovers else None,
            recovered=recovered and recovering,
            was_recovering=recovering,
            ttl=seconds_left(self.expires_at),
            publications=publications,
            top=top if recovered and reached < top else 0,
            data=self.server_side.data if self.server_side else None,
            delta=isinstance(self.wire, DeltaWire),
        )
        self._enter()
        if publications:
            session.count_pages(len(result))
        if self.server_side:
            session.server_side_begun(self.channel.name, result)
            return
        session.outlet.send(reply(self.asked, "subscribe", result))
        self.asked = 0
        session.subscribe_answered(self.channel.name)
        if self.unsubscribe_id:
            session.unsubscribe(self)

    def refuse(self, error: ClientError) -> None:
        """Ends it before it began: ``error`` is the reply to its subscribe."""
        self.begun = False  # its client was sent nothing of it, and no lifecycle event reported it
        self.session.end_subscription(self)
        self.session.outlet.send(error_reply(self.asked, error))
        self.session.subscribe_answered(self.channel.name)
        if self.unsubscribe_id:
            self.session.unsubscribe(self)

    def fail(self, error: StoreError) -> None:
        """A server-side subscription is left out; a subscribe command gets an error reply."""
        if self.server_side:
            self.session.server_side_failed(self, error)
        else:
            self.refuse(Internal.of(error))

    def _enter(self) -> None:
        """Puts it into presence, and among the subscriptions that get joins and leaves, as the rules have it."""
        rules = self.rules
        self.session.node.events.subscribed(self.session.identity, self.session.client, self)
        # Only a client in presence is announced. Where the channel's rules have no presence, nobody can read it, and the client is put there for its
        # announcements; where they have it, a client that an override hides is neither shown nor announced.
        self.present = rules.presence or (rules.announces and not self.channel.rules.presence)
        self.show()
        if self._gets_joins_and_leaves:
            self.channel.observe_joins_and_leaves(self)

    def show(self) -> None:
        """If its client is in presence, writes there what is known of it now."""
        if self.present:
            self.session.node.presence.enter(self.channel.name, self.session.client, self.info, self.rules.announces)

    def grant_again(self, granted: ServerSubscription) -> None:
        """A service subscribes its client once more, for instance with a later expiry. A subscription by the client's own command stays as it is."""
        if self.server_side is not None:
            self.server_side = self.server_side._replace(info=granted.info, expires_at=granted.expires_at)
            self.show()

    @property
    def _gets_joins_and_leaves(self) -> bool:
        """Whether joins and leaves are sent to it."""
        if self.override is not None and self.override.force_push_join_leave is not None:
            return self.override.force_push_join_leave
        how = self.channel.rules.join_leave
        return how == "all" or (how == "asked" and self.wants_joins_and_leaves)

    @property
    def info(self) -> bytes:
        """The protocol's ClientInfo."""
        granted = self.grant or self.server_side
        return client_info(self.session.identity, self.session.client, granted.info if granted else None)

    def on_join_leave(self, joins_and_leaves: list[JoinLeave]) -> None:
        if self.paused:
            return  # they would pile up, and history does not hold them
        outlet, name = self.session.outlet, self.channel.name
        corked = outlet.cork()
        for each in joins_and_leaves:
            each.push = each.push or push(name, each.kind, b'{"info":%b}' % each.info)
            outlet.send(each.push)
        if corked:
            outlet.uncork()

    def end(self) -> None:
        is_recorded = self.begun and self.state is not State.ENDED and self.session.node.events.on
        super().end()
        if is_recorded:
            session = self.session
            if self.server_side and not session.since_ms:
                self.offset = self.unbroken  # it was to be in the reply to connect, which was not sent
            session.node.events.unsubscribed(session, self, self.position, closed=not session.connected)
        self.channel.ignore_joins_and_leaves(self)
        if self.present:
            self.present = False
            self.session.node.presence.leave(self.channel.name, self.session.client, self.rules.announces)

    def lost(self, before: Position) -> None:
        """It ends where it was: ``gap`` ends every subscription of a session."""
        if self.state is State.LIVE:
            self._leave_live(State.CATCHING_UP)
            self.epoch, self.offset = before
        super().lost(before)

    def gap(self) -> None:
        session = self.session
        if self.server_side:
            session.close(Disconnect(3010))
        else:
            self.end_with(2500, "insufficient state")

    def end_with(self, code: int, reason: str, refusal: ClientError | None = None) -> None:
        """Ends it, and notifies its client if the client knows of it; after codes from 2500 on, SDKs subscribe again by themselves.

        ``refusal`` answers the subscribe command instead, where that still waits for its reply. Ending it twice changes nothing.
        """
        if self.state is State.ENDED:
            return
        if self.asked and refusal is not None:
            self.refuse(refusal)
            return
        is_known = self.begun and self.session.connected
        self.session.end_subscription(self)
        if is_known:
            self.session.outlet.send(push(self.channel.name, "unsubscribe", b'{"code":%d,"reason":%b}' % (code, encode(reason))))


def client_info(identity: Identity, client: str, chan_info: bytes | None = None) -> bytes:
    """A client as others see it (docs/reference/wire-protocol.md, Commands), in JSON."""
    conn_info = b"" if identity.info is None else b',"conn_info":' + identity.info
    chan_info = b"" if chan_info is None else b',"chan_info":' + chan_info
    return b'{"user":%b,"client":"%b"%b%b}' % (encode(identity.user), client.encode(), conn_info, chan_info)


def expiry(expires_at: float) -> dict[str, bytes]:
    """The fields of a reply about a token that ends at that unix time; none for 0, which is never."""
    return {"expires": b"true", "ttl": b"%d" % seconds_left(expires_at)} if expires_at else {}


def seconds_left(expires_at: float) -> int:
    """Whole seconds until a unix time, at least 1 and at most TTL_MOST; 0 for an expiry of 0, which is none."""
    return min(max(1, round(expires_at - time.time())), TTL_MOST) if expires_at else 0
