"""One event stream: from the hub's subscriptions to the bytes of a response.

Events are prepared chunks, which an ``output`` takes. A stream of one channel shares its bytes with all others of that channel;
in a stream of several, the ``id:`` with all their positions is its own and the rest is shared.

    opening ──every channel begun──▶ `connected`, gaps ──▶ catch-up, live ──▶ closed: refused, drained, gone

A stream ends when the first of its tokens does, the connection's or one of a channel: until its end nobody can show it a new
one. `expiring` says so in time for the client to come back with one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping

from ...errors import Disconnect
from ...live.channel import Channel
from ...live.fanout import GONE
from ...live.subscription import State, Subscription
from ...live.wire_formats import ChannelView
from ...publication import Position, Publication
from ...rules.identity import Grant, Identity, ServerSubscription
from ...rules.json_text import encode, raw_object
from ...rules.permissions import overridden
from ...session.client_subscription import client_info, seconds_left
from ...session.node import Node, new_id
from ..outlets import Buffered, Direct, chunk

__all__ = ["NEVER_WAS", "EventStream", "refusal"]

log = logging.getLogger("gateway.sse")

RETRY_MS = 1000  # after an ordinary loss
RETRY_SPREAD_MS = (2000, 12000)  # after a refusal or a drain, so that all do not come back at once
EXPIRING_SECONDS = 25.0  # before its end a stream says so: what a WebSocket's client has behind it, see session.GRACE_SECONDS
NEVER = float("inf")
OPEN_SECONDS = 30.0  # for Valkey to say where the channels stand
NEVER_WAS = Position("?", 0)  # a position that cannot be recovered from


def event(name: str, data: bytes, id: bytes = b"") -> bytes:
    line = b"id: %b\n" % id if id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (line, name.encode(), data)


def _retry(refused: bool = False) -> bytes:
    return b"retry: %d\n" % (random.randint(*RETRY_SPREAD_MS) if refused else RETRY_MS)


def _body(channel: ChannelView, publication: Publication) -> bytes:
    """The event without its id: shared by all streams."""
    if publication.sse is None:
        fields = {"channel": encode(channel.name)}
        if publication.offset:
            fields["offset"] = b"%d" % publication.offset
        fields["data"] = publication.data
        if publication.tags is not None:
            fields["tags"] = publication.tags
        if publication.info is not None:
            fields["info"] = publication.info
        publication.sse = b"data: %b\n\n" % raw_object(fields)
    return publication.sse


def _mark(position: Position) -> bytes:
    """A position inside an id; a channel without history has none."""
    return str(position).encode() if position.offset or position.epoch not in ("", "-") else b"-"


class SingleWire:
    """One channel: every stream gets the same bytes. ``chunked``: framed for HTTP already."""

    def __init__(self, chunked: bool) -> None:
        self._chunked = chunked

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        offset = next((p.offset - 1 for p in publications if p.offset), channel.offset)
        parts: list[bytes] = []
        for publication in publications:
            offset = publication.offset or offset
            parts += b"id: %b\n" % _mark(Position(channel.epoch, offset)), _body(channel, publication)
        text = b"".join(parts)
        return chunk(text) if self._chunked else text


class SeveralWire:
    """Several channels: every stream writes ids of its own, so it gets the publications."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> tuple[ChannelView, list[Publication]]:
        return channel, publications


CHUNKED, PLAIN, SEVERAL = SingleWire(True), SingleWire(False), SeveralWire()


class StreamSubscription(Subscription):
    __slots__ = ("asked", "grant", "number", "rules", "stream")

    takes_first_page = False

    def __init__(self, stream: EventStream, number: int, channel: Channel, since: Position | None, grant: Grant | None) -> None:
        wire = SEVERAL if stream.several else CHUNKED if stream.direct else PLAIN
        super().__init__(channel, wire, stream.write_several if stream.several else stream.write, since)
        self.stream = stream
        self.number = number
        self.asked = since is not None
        self.grant = grant
        self.rules = overridden(channel.rules, grant.override if grant is not None else None)

    @property
    def paused(self) -> bool:
        return self.stream.full or not self.stream.open

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        if self.rules.presence or self.rules.announces:
            self.stream.enter(self)
        self.stream.begun(self, recovered)

    def end(self) -> None:
        super().end()
        self.stream.leave(self)

    def gap(self) -> None:
        self.stream.gap(self)


class EventStream:
    """One client's stream: it stands between the hub's subscriptions and the response."""

    __slots__ = (
        "_loop",
        "_node",
        "_positions",
        "_told",
        "bucket",
        "client",
        "direct",
        "done",
        "expires_at",
        "expiring",
        "expiring_at",
        "full",
        "identity",
        "next_comment",
        "open",
        "output",
        "slow_since",
        "subscriptions",
        "write",
    )

    def __init__(
        self,
        node: Node,
        output: Direct | Buffered,
        identity: Identity,
        starts: dict[str, Position | None],
        grants: Mapping[str, Grant],
        address: str = "",
    ) -> None:
        """Raises Disconnect if the process takes no more connections, UnknownChannel for a namespace that is not configured.

        ``starts`` says behind which position each channel begins, ``grants`` which of them came with a subscription token.
        """
        node.admission.admit_user(self, identity.user)
        try:
            node.admission.admit(self, address)
        except Disconnect:
            node.admission.forget(self, identity.user)
            raise
        self._node = node
        self._loop = asyncio.get_running_loop()
        self.output = output
        self.direct = output.direct
        self.write = output.write
        self.identity = identity
        self.client = new_id()
        self.expiring = ""  # the channel whose subscription token ends first; "" for the connection's token
        self.bucket = 0
        self.full = False
        self.open = False
        self.done = False
        self.next_comment = self.slow_since = self.expires_at = self.expiring_at = NEVER
        self._told: list[tuple[str, bool, Position, bool, int, int]] | None = []  # channel, recovered, position, gap, top, number
        self._positions: list[Position] = [Position("", 0)] * len(starts)
        self.subscriptions: list[StreamSubscription] = []
        node.wheel.set(self, self._loop.time() + OPEN_SECONDS)
        output.carry(self, node.config.limits.waiting_bytes)
        for number, (name, since) in enumerate(starts.items()):
            self.subscriptions.append(StreamSubscription(self, number, node.hub.channel(name), since, grants.get(name)))
        for subscription in self.subscriptions:
            node.hub.follow(subscription)

    @property
    def several(self) -> bool:
        return len(self._positions) > 1

    def enter(self, subscription: StreamSubscription) -> None:
        info = client_info(self.identity, self.client, subscription.grant.info if subscription.grant is not None else None)
        self._node.presence.enter(subscription.channel.name, self.client, info, subscription.rules.announces)

    def leave(self, subscription: StreamSubscription) -> None:
        self._node.presence.leave(subscription.channel.name, self.client, subscription.rules.announces)

    # From the hub.

    def begun(self, subscription: StreamSubscription, recovered: bool) -> None:
        assert self._told is not None
        self._positions[subscription.number] = subscription.position
        gap = subscription.asked and not recovered
        channel = subscription.channel
        self._told.append((channel.name, recovered and subscription.asked, subscription.position, gap, channel.offset, subscription.number))
        if len(self._told) == len(self._positions):
            self._open()

    def _open(self) -> None:
        told, self._told = self._told or [], None
        channels = b",".join(
            b'%b:{"epoch":%b,"offset":%d,"recovered":%b}' % (encode(name), encode(position.epoch), position.offset, encode(recovered))
            for name, recovered, position, _, _, _ in told
        )
        # A lost channel's mark is one that never was, until its gap is told: else a line cut in between would hide it.
        marks = b",".join(_mark(NEVER_WAS if gap else self._positions[n]) for n, gap in sorted((n, gap) for _, _, _, gap, _, n in told))
        tops = b",".join(b"%b:%d" % (encode(name), top) for name, recovered, _, _, top, _ in told if recovered)  # where catching up ends
        self._watch_expiry()
        ttl = b',"ttl":%d' % seconds_left(self.expires_at) if self.expires_at < NEVER else b""
        opening = event("connected", b'{"client":%b,"channels":{%b},"tops":{%b}%b}' % (encode(self.client), channels, tops, ttl), marks)
        gaps = [self._gap_event(name, position) for name, _, position, gap, _, _ in told if gap]
        self._write_text(_retry() + opening + b"".join(gaps))
        self._tell("connected")
        for name, *_ in told:
            self._tell("subscribed", channel=name)
        now = self._loop.time()
        self.open = True
        self.next_comment = now + self._node.config.ping_seconds * random.uniform(0.5, 1)
        self._node.wheel.set(self, self._due(now))
        for subscription in self.subscriptions:
            self._node.hub.drained(subscription)

    def gap(self, subscription: StreamSubscription) -> None:
        position = subscription.channel.position
        self._positions[subscription.number] = position
        self._write_text(self._gap_event(subscription.channel.name, position))

    def _gap_event(self, channel: str, position: Position) -> bytes:
        data = b'{"channel":%b,"epoch":%b,"offset":%d}' % (encode(channel), encode(position.epoch), position.offset)
        return event("gap", data, self._id())

    def write_several(self, joined: tuple[ChannelView, list[Publication]]) -> None:
        channel, publications = joined
        number = next(s.number for s in self.subscriptions if s.channel is channel)
        parts: list[bytes] = []
        for publication in publications:
            if publication.offset:
                self._positions[number] = Position(channel.epoch, publication.offset)
            parts += b"id: %b\n" % self._id(), _body(channel, publication)
        self._write_text(b"".join(parts))

    def _id(self) -> bytes:
        return b",".join(map(_mark, self._positions))

    def _write_text(self, text: bytes) -> None:
        try:
            self.write(chunk(text) if self.direct else text)
        except GONE as error:
            log.debug("a client's socket is gone: %s", error)  # its disconnect is on the way

    def _tell(self, event: str, **more: object) -> None:
        self._node.events.record(event, self.identity.user, self.client, **more)

    # From the socket and the clock.

    def pause_writing(self) -> None:
        if self.full:
            return
        self.full = True
        self.slow_since = self._loop.time()
        self._node.wheel.set(self, self.slow_since + self._node.config.limits.slow_seconds)
        for subscription in self.subscriptions:
            if subscription.state is State.LIVE and not subscription.channel.remembers:
                self.close(Disconnect(3008, "a channel without history to catch up from"))
                return
            subscription.fall_behind()

    def gone(self) -> None:
        """The socket is closed."""
        self.close(Disconnect(3000))

    def resume_writing(self) -> None:
        self.full = False
        self.slow_since = NEVER
        for subscription in self.subscriptions:
            if self.full or self.done:
                return
            self._node.hub.drained(subscription)

    def tick(self, now: float) -> float | None:
        if not self.open:
            self.close(Disconnect(3004, "Valkey did not say in time where the channels stand"))
            return None
        if now >= self.slow_since + self._node.config.limits.slow_seconds:
            self.close(Disconnect(3008), abort=True)
            return None
        today = time.time()
        if today >= self.expires_at:
            self._expire(self.expiring)
            return None
        if today >= self.expiring_at:
            self.expiring_at = NEVER
            self._write_text(event("expiring", _about(b'"ttl":%d' % seconds_left(self.expires_at), self.expiring)))
        if now >= self.next_comment:
            self._write_text(b":\n\n")
            self.next_comment = now + self._node.config.ping_seconds
        return self._due(now)

    def _due(self, now: float) -> float:
        due = min(self.next_comment, self.slow_since + self._node.config.limits.slow_seconds)
        return min(due, now + max(0.0, min(self.expires_at, self.expiring_at) - time.time()))

    def _watch_expiry(self) -> None:
        """Which token ends first, when, and when to say so. It may open a stream within ``tokens.leeway``, so it holds for as long."""
        ends = [(self.identity.expires_at, "")]
        ends += [(each.grant.expires_at, each.channel.name) for each in self.subscriptions if each.grant is not None]
        leeway = self._node.config.tokens.leeway
        self.expires_at, self.expiring = min(((end + leeway, channel) for end, channel in ends if end), default=(NEVER, ""))
        left = self.expires_at - time.time()
        self.expiring_at = self.expires_at - min(EXPIRING_SECONDS, left / 2) if left < NEVER else NEVER

    def _expire(self, channel: str) -> None:
        """The connection's token, or that of a channel, holds no longer."""
        self._write_text(refusal(109, "token expired", channel))
        self.close(Disconnect(3005))

    # What a service asks for. A stream's channels are those of its request.

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None:
        return

    def remove(self, channel: str) -> None:
        if any(subscription.channel.name == channel for subscription in self.subscriptions):
            self._write_text(refusal(103, "permission denied"))
            self.close(Disconnect(3507, f"unsubscribed from {channel} by the server API"))

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None:
        """A client that has another token for the channel comes back with it."""
        for subscription in self.subscriptions:
            if subscription.grant is not None and revoked(subscription.grant):
                self._expire(subscription.channel.name)
                return

    def renew(self, identity: Identity) -> None:
        self.identity = identity
        if self.open:
            self._watch_expiry()
            self._node.wheel.set(self, self._due(self._loop.time()))

    def drain(self) -> None:
        """The process is going away: the client comes back elsewhere, at a time of its own."""
        if self.open:
            self._write_text(_retry(refused=True) + b"\n")
        else:
            self._write_text(refusal(3001, "shutdown"))
        self.close(Disconnect(3001))

    def close(self, reason: Disconnect, *, abort: bool = False) -> None:
        if not self.done:
            log.log(logging.DEBUG if reason.code in (3000, 3001) else logging.INFO, "stream %s closed: %s", self.client, reason)
            self.done = True
            self._node.wheel.remove(self)
            self._node.admission.forget(self, self.identity.user)
            for subscription in self.subscriptions:
                self._node.hub.leave(subscription)
                if self.open:
                    self._tell("unsubscribed", channel=subscription.channel.name)
            if self.open:
                self._tell("disconnected", code=reason.code, reason=reason.reason)
            self.output.finish(abort)


def refusal(code: int, message: str, channel: str = "") -> bytes:
    """Without an id, so that the browser keeps the last one it saw. ``channel``: the one whose subscription token is the cause."""
    return _retry(refused=True) + event("refused", _about(b'"code":%d,"message":%b' % (code, encode(message)), channel))


def _about(fields: bytes, channel: str) -> bytes:
    return b'{%b,"channel":%b}' % (fields, encode(channel)) if channel else b"{%b}" % fields
