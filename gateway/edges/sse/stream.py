"""One event stream: from the hub's subscriptions to the bytes of a response.

Events are prepared chunks, which an ``output`` takes. A stream of one channel shares its bytes with all others of that channel;
in a stream of several, the ``id:`` with all their positions is its own and the rest is shared.

    CONNECTING ──every channel begun──▶ CONNECTED: `connected`, gaps, catch-up, live ──▶ CLOSED: refused, drained, gone

A stream ends with the first of its tokens, the connection's or one of a channel: nothing can be sent to it, so a new token
takes a new stream. `expiring` announces the end in time for the client to open one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from ...errors import Disconnect, Internal, StoreError
from ...live.channel import Channel
from ...live.fanout import GONE
from ...live.wire_formats import ChannelView
from ...publication import Position, Publication
from ...rules.identity import Grant, Identity, ServerSubscription
from ...rules.permissions import overridden
from ...session.client_counts import BY_SSE
from ...session.client_subscription import client_info, seconds_left
from ...session.deadlines import CONNECT_SECONDS, GRACE_SECONDS, NEVER, OF_MANY, TimedClient, TimedSubscription
from ...session.node import Node, new_id
from ...session.states import CLOSED, CONNECTING
from ..outlets import Buffered, Direct, chunk
from .event_formats import (
    CHUNKED,
    PLAIN,
    SEVERAL,
    Start,
    about,
    event,
    gap_event,
    mark_of,
    opening_events,
    publication_event,
    refusal,
    retry,
    several_ids,
)

__all__ = ["EventStream"]

log = logging.getLogger("gateway.sse")

EXPIRING_SECONDS = GRACE_SECONDS  # before its end: what a session's client has after it


class StreamSubscription(TimedSubscription):
    """A channel of a stream, the ``number``th in its ids. ``grant`` is of its subscription token."""

    __slots__ = ("grant", "number", "rules", "stream")

    takes_first_page = False

    def __init__(self, stream: EventStream, number: int, channel: Channel, since: Position | None, grant: Grant | None) -> None:
        wire = SEVERAL if stream.several else CHUNKED if stream.output.direct else PLAIN
        super().__init__(channel, wire, stream.write_several if stream.several else stream.write, since)
        self.stream = stream
        self.number = number
        self.grant = grant
        self.rules = overridden(channel.rules, grant.override if grant is not None else None)

    @property
    def expires_at(self) -> float:
        return self.grant.expires_at if self.grant is not None else 0.0

    @property
    def paused(self) -> bool:
        return self.stream.paused or not self.stream.connected

    @property
    def reaches_back(self) -> bool:
        return self.stream.reaches_back

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        self.show()
        self.stream.begun(self, recovered)

    def show(self) -> None:
        """Where the rules have presence, that shows its client as it is now."""
        if self.rules.presence or self.rules.announces:
            self.stream.enter(self)

    def end(self) -> None:
        super().end()
        self.stream.leave(self)

    def start_over(self) -> None:
        if not self.begun:
            super().start_over()
            return
        self._ended_at(self.position)
        super().start_over()
        self._went_on()

    def lost(self, before: Position) -> None:
        self._ended_at(before)
        super().lost(before)
        self._went_on()

    def _ended_at(self, at: Position) -> None:
        """The lifecycle event of what was written before a gap."""
        self.stream.node.events.unsubscribed(self.stream, self, at, gap=True)

    def _went_on(self) -> None:
        """The lifecycle event of where it goes on after a gap, unless the write of the gap ended the stream."""
        if self.stream.connected:
            self.stream.node.events.subscribed(self.stream.identity, self.stream.client, self)

    def gap(self) -> None:
        self.stream.gap(self)

    def fail(self, error: StoreError) -> None:
        self.stream.fail(error)


class EventStream(TimedClient[StreamSubscription]):
    """One client's stream: what its subscriptions bring goes into one response. ``reaches_back``: it starts some publications back."""

    __slots__ = ("_marks", "_starts", "expiring_at", "output", "pings", "reaches_back", "subscriptions", "write")

    transport = BY_SSE

    def __init__(
        self,
        node: Node,
        output: Direct | Buffered,
        identity: Identity,
        starts: dict[str, Position | None],
        grants: Mapping[str, Grant],
        address: str = "",
        *,
        pings: bool = False,
        reaches_back: bool = False,
    ) -> None:
        """Raises Disconnect if the process takes no more connections, UnknownChannel for a namespace that is not configured.

        ``starts`` has the position after which each channel begins, ``grants`` what the subscription tokens of channels allow.
        ``pings``: its pings are events, which a page sees, and no comments.
        """
        node.admission.admit_user(self, identity.user)
        try:
            node.admission.admit(self, address, output.place)
        except Disconnect:
            node.admission.forget(self, identity.user)
            raise
        super().__init__(node, identity, CONNECTING, node.hub.now() + CONNECT_SECONDS)
        self.client = new_id()
        self.output = output
        self.pings = pings
        self.reaches_back = reaches_back
        self.write: Callable[[bytes], object] = output.write
        self.expiring_at = NEVER  # unix seconds; when the end of its first token is announced
        self._starts: list[Start] | None = []  # of the channels that have begun, until all have
        self._marks = [mark_of(Position("", 0))] * len(starts)  # of its positions; one publication changes one of them, and each has an id
        self.subscriptions: list[StreamSubscription] = []
        output.carry(self, node.config.limits.waiting_bytes)
        if isinstance(output, Direct):  # it answers no ping, and more time than a slow client has is not needed
            output.end_unconfirmed(node.config.limits.slow_seconds + node.config.ping_seconds)
        for number, (name, since) in enumerate(starts.items()):
            self.subscriptions.append(StreamSubscription(self, number, node.hub.channel(name), since, grants.get(name)))
        for subscription in self.subscriptions:
            node.hub.follow(subscription)

    @property
    def several(self) -> bool:
        """Whether it has several channels."""
        return len(self._marks) > 1

    @property
    def paused(self) -> bool:
        return self.slow_since < NEVER

    @property
    def waiting_bytes(self) -> int:
        return self.output.waiting_bytes

    @property
    def unconfirmed_bytes(self) -> int:
        return self.output.unconfirmed_bytes

    def followed(self) -> Collection[StreamSubscription]:
        return self.subscriptions

    def enter(self, subscription: StreamSubscription) -> None:
        """Its client is present in the channel from now on."""
        info = client_info(self.identity, self.client, subscription.grant.info if subscription.grant is not None else None)
        self.node.presence.enter(subscription.channel.name, self.client, info, subscription.rules.announces)

    def leave(self, subscription: StreamSubscription) -> None:
        """Its client is no longer present in the channel."""
        self.node.presence.leave(subscription.channel.name, self.client, subscription.rules.announces)

    # From the hub.

    def begun(self, subscription: StreamSubscription, recovered: bool) -> None:
        assert self._starts is not None
        channel, position, asked = subscription.channel, subscription.position, subscription.recovered is not None
        self._marks[subscription.number] = mark_of(position)
        start = Start(channel.name, recovered and asked, position, asked and not recovered, channel.offset, subscription.number)
        self._starts.append(start)
        if len(self._starts) == len(self._marks):
            self._open()

    def _open(self) -> None:
        starts, self._starts = self._starts or [], None
        self._watch_expiry()
        end, _ = self._first_end()
        ttl, ping = seconds_left(end) if end < NEVER else 0, max(1, round(self.node.config.ping_seconds)) if self.pings else 0
        self._write_text(retry() + opening_events(self.client, starts, self._marks, ttl=ttl, ping=ping))
        if self.state is CLOSED:  # by that write, of which the socket became full
            return
        self._record("connected")
        for start in starts:
            self.node.events.subscribed(self.identity, self.client, self.subscriptions[start.number])
        self.opened()
        self.counts.connected(self.transport)
        self.log_start()
        for subscription in self.subscriptions:
            self.node.hub.client_connected(subscription)

    def gap(self, subscription: StreamSubscription) -> None:
        position = subscription.channel.position
        self._marks[subscription.number] = mark_of(position)
        self._write_text(gap_event(subscription.channel.name, position, self._id()))

    def fail(self, error: StoreError) -> None:
        """Valkey refuses to read the history of one of its channels: the stream does not open."""
        self._write_text(refusal(Internal.code, Internal.message))
        self._end(Disconnect(3004, str(error)))

    def write_several(self, joined: tuple[ChannelView, list[Publication]]) -> None:
        """Writes a channel's publications with ids that have the positions of all channels."""
        if self.state is CLOSED:  # by a write of another channel's publications, of which the socket became full
            return
        channel, publications = joined
        number = next(s.number for s in self.subscriptions if s.channel is channel)
        parts: list[bytes] = []
        for publication in publications:
            if publication.offset:
                self._marks[number] = mark_of(Position(channel.epoch, publication.offset))
            parts += b"id: %b\n" % self._id(), publication_event(channel, publication)
        framed = self._framed(b"".join(parts))
        self.subscriptions[number].channel.traffic.bytes += len(framed)
        self._put(framed)

    def _id(self) -> bytes:
        return several_ids(self._marks)

    def _write_text(self, text: bytes) -> None:
        framed = self._framed(text)
        self.counts.sent += len(framed)
        self._put(framed)

    def _framed(self, text: bytes) -> bytes:
        return chunk(text) if self.output.direct else text

    def _put(self, framed: bytes) -> None:
        try:
            self.write(framed)
        except GONE as error:
            log.debug("a client's socket is gone: %s", error)  # its disconnect is on the way

    def _record(self, event: str, **more: object) -> None:
        """A lifecycle event of its client."""
        self.node.events.record(event, self.identity, self.client, **more)

    # From the socket.

    def pause_writing(self) -> None:
        if not self.paused:
            self.fell_behind(self.node.hub.now())

    def resume_writing(self) -> None:
        self.drained()

    def gone(self) -> None:
        """The socket is closed."""
        self._end(Disconnect(3000))

    # From the clock.

    def ping(self, now: float) -> None:
        """Keeps proxies from closing the connection, and finds out whether the client is there. A page does not see a comment."""
        self._write_text(event("ping", b"{}") if self.pings else b":\n\n")

    def enforce(self, now: float) -> None:
        super().enforce(now)
        if time.time() >= self.expiring_at:
            self.expiring_at = NEVER
            end, channel = self._first_end()
            self._write_text(event("expiring", about(b'"ttl":%d' % seconds_left(end), channel)))

    def next_due(self, now: float) -> float:
        return min(super().next_due(now), now + max(0.0, self.expiring_at - time.time()))

    def cut_off(self, disconnect: Disconnect) -> None:
        # What a full socket did not take in all that time is not waited for any longer.
        self._end(disconnect, abort=disconnect.code == 3008)

    def expired(self, subscription: StreamSubscription | None) -> None:
        _, channel = self._first_end()
        self._refuse_expired(channel)
        raise Disconnect(3005)

    def _refuse_expired(self, channel: str) -> None:
        self._write_text(refusal(109, "token expired", channel))

    def _first_end(self) -> tuple[float, str]:
        """When the first of its tokens ends, in unix seconds, and the channel that the token is for; "" is the connection's token."""
        ends = [(end, "" if subscription is None else subscription.channel.name) for end, subscription in self.token_ends()]
        return min(ends, default=(NEVER, ""))

    def _watch_expiry(self) -> None:
        end, _ = self._first_end()
        left = end - time.time()
        self.expiring_at = end - min(EXPIRING_SECONDS, left / 2) if left < NEVER else NEVER

    # What a service asks for. A stream's channels are those of its request.

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None:
        return

    def remove(self, channel: str) -> None:
        if any(subscription.channel.name == channel for subscription in self.subscriptions):
            self._write_text(refusal(2000, "server unsubscribe", channel))
            self._end(Disconnect(3507, f"unsubscribed from {channel} by the server API"))

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None:
        """Ends the stream if the token of one of its channels was revoked; a client with another token opens a new stream."""
        for subscription in self.subscriptions:
            if subscription.grant is not None and revoked(subscription.grant):
                self._refuse_expired(subscription.channel.name)
                self._end(Disconnect(3005))
                return

    def renew(self, identity: Identity) -> None:
        self.identity = identity
        for subscription in self.subscriptions:
            if subscription.begun:
                subscription.show()
        if self.connected:
            self._watch_expiry()
            self.watch_deadlines()

    # The end.

    def drain(self) -> None:
        """The process ends: the client opens another stream elsewhere, at a random time."""
        if self.connected:
            self._write_text(retry(refused=True) + b"\n")
        else:
            self._write_text(refusal(3001, "shutdown"))
        self._end(Disconnect(3001))

    def close(self, disconnect: Disconnect) -> None:
        """Ends the stream. Closing it twice changes nothing.

        The end of a response has no code. So a client that is not to come back by itself, or only with another token, receives the reason in
        an event.
        """
        if self.state is not CLOSED and disconnect.code == 3005:
            self._refuse_expired("")
        elif self.state is not CLOSED and disconnect.is_final:
            self._write_text(refusal(disconnect.code, disconnect.reason))
        self._end(disconnect)

    def _end(self, disconnect: Disconnect, *, abort: bool = False) -> None:
        """Ends the stream; its client was sent all that it is to learn. ``abort``: what the client has not taken yet is lost."""
        if self.state is CLOSED:
            return
        log.log(logging.DEBUG if disconnect.code in OF_MANY else logging.INFO, "stream %s closed: %s", self.client, disconnect)
        known = self.connected
        self.count_end(disconnect.code)
        self.move(CLOSED)
        self.log_end(disconnect)
        self.node.wheel.remove(self)
        self.node.admission.forget(self, self.identity.user)
        for subscription in self.subscriptions:
            self.node.hub.end(subscription)
            if known:
                self.node.events.unsubscribed(self, subscription, subscription.position, closed=True)
        if known:
            self._record("disconnected", code=disconnect.code, reason=disconnect.reason)
        self.output.finish(abort)
        self.subscriptions = []  # they and this object hold each other
