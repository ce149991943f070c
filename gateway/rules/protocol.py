"""The Centrifuge JSON protocol: text ⇄ values. Source: docs/reference/wire-protocol.md.

Pure: bytes in, values out, and back. What arrives becomes a list of ``Command``; what leaves is built from
bytes that are already JSON (``data`` is never parsed), so that one publication is encoded once for all subscribers.
No raw newline ever leaves, because a newline separates two objects in one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec.structs import astuple

from ..errors import BadRequest, ClientError, Disconnect
from ..publication import MAX_OFFSET, Position, Publication
from .identity import Override
from .json_text import encode, mend_surrogates

__all__ = [
    "BEGINNING",
    "METHODS",
    "PING",
    "PONG",
    "ChannelRequest",
    "Command",
    "ConnectRequest",
    "HistoryRequest",
    "OverrideRequest",
    "PingRequest",
    "PublishRequest",
    "RefreshRequest",
    "RpcRequest",
    "SendRequest",
    "Since",
    "StreamPosition",
    "SubscribeRequest",
    "decode",
    "error_json",
    "error_reply",
    "history_result",
    "publication_json",
    "publication_object",
    "publications_json",
    "push",
    "push_prefix",
    "read_position",
    "reply",
    "subscribe_result",
]

PING = b"{}"
BEGINNING = Position("", 0)

Id = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"maximum": MAX_OFFSET})]  # past it is an error reply, not the end


_NOTHING = msgspec.Raw()  # msgspec has no optional Raw; this one is empty


class _Request(msgspec.Struct, gc=False):
    """The fields of one command. Unknown fields are ignored; null means the zero value, as in the reference server."""


class StreamPosition(_Request):
    """A position as clients send it; an absent epoch agrees with any, an absent offset is 0."""

    epoch: str | None = None
    offset: Count | None = None

    @property
    def position(self) -> Position:
        """Raises BadRequest for an offset that no channel can have."""
        if (self.offset or 0) > MAX_OFFSET:
            raise BadRequest(f"an offset past {MAX_OFFSET}")
        return Position(self.epoch or "", self.offset or 0)


class Since(StreamPosition):
    """Where a subscription recovers from, and ``delta``: the format of changes that the client understands ("fossil")."""

    recover: bool | None = None
    delta: str | None = None


class ConnectRequest(_Request):
    """Authenticates the connection, the first command on it; ``subs`` are positions of server-side subscriptions, by channel."""

    token: str | None = None
    data: msgspec.Raw = _NOTHING
    subs: dict[str, Since] | None = None
    name: str | None = None
    version: str | None = None
    headers: dict[str, str] | None = None
    flag: int | None = None


class _Value(_Request):
    value: bool = False


class OverrideRequest(_Request):
    """``override`` of tokens and of the server API. Subscriptions always have positions, so ``force_positioning`` is ignored."""

    presence: _Value | None = None
    join_leave: _Value | None = None
    force_push_join_leave: _Value | None = None
    force_recovery: _Value | None = None

    @property
    def override(self) -> Override:
        """The override as ``rules.permissions`` takes it."""
        return Override(*(None if given is None else given.value for given in astuple(self)))


class SubscribeRequest(Since):
    """Subscribes to ``channel``; ``tf`` is a tags filter in JSON, ``type`` another kind of subscription than this, which is 0."""

    channel: str | None = None
    token: str | None = None
    data: msgspec.Raw = _NOTHING
    positioned: bool | None = None
    recoverable: bool | None = None
    join_leave: bool | None = None
    tf: msgspec.Raw = _NOTHING
    flag: int | None = None
    type: int | None = None


class ChannelRequest(_Request):
    """A command that takes a channel and no more: unsubscribe, presence, presence_stats."""

    channel: str | None = None


class PublishRequest(ChannelRequest):
    """Publishes ``data``, raw JSON, to the channel; ``type`` as of a subscription."""

    data: msgspec.Raw = _NOTHING
    type: int | None = None


class HistoryRequest(ChannelRequest):
    """Reads history after ``since`` (``reverse``: before it); ``limit`` 0 or absent asks for the position alone, -1 for all."""

    limit: int | None = None
    since: StreamPosition | None = None
    reverse: bool | None = None


class RpcRequest(_Request):
    """Calls a method of the gateway or of a service; the client waits for the reply."""

    method: str | None = None
    data: msgspec.Raw = _NOTHING


class SendRequest(_Request):
    """Sends ``data`` to the services; there is no reply."""

    data: msgspec.Raw = _NOTHING


class RefreshRequest(_Request):
    """A new token: of the connection (refresh), or of the subscription to ``channel`` (sub_refresh)."""

    channel: str | None = None
    token: str | None = None


class PingRequest(_Request):
    """Has no fields."""


class Command(msgspec.Struct, gc=False):
    """One command of a client: ``id`` and exactly one method."""

    id: Id = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    rpc: RpcRequest | None = None
    send: SendRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: RefreshRequest | None = None
    ping: PingRequest | None = None

    @property
    def has_token(self) -> bool:
        """Whether it brings a token of a connection that is there, or of a subscription."""
        request = self.subscribe or self.sub_refresh or self.refresh
        return request is not None and bool(request.token)

    def method(self) -> str:
        """The method that the command names. Raises Disconnect 3501 if it names none, or several."""
        requests = astuple(self)[1:]
        count = len(METHODS) - requests.count(None)
        if count == 1:
            # Not by next() of a generator: Python ends one that is not exhausted by an exception, and that takes as long as all of this.
            for method, request in zip(METHODS, requests, strict=True):
                if request is not None:
                    return method
        raise Disconnect(3501, f"a command with {count} methods" if count else "a command with no known method")


METHODS = Command.__struct_fields__[1:]
PONG = Command()  # `{}`: no id, no method

_commands = msgspec.json.Decoder(Command)


def decode(message: bytes) -> list[Command]:
    """The commands of one WebSocket message, in order; a pong comes as the ``PONG`` object itself.

    Raises Disconnect 3501 if any part of it is not a command: nothing of the message is acted on then.
    """
    if message == PING:
        return [PONG]
    try:
        return _decode_lines(message)
    except msgspec.DecodeError as error:
        if b"\\u" in message:
            mended = mend_surrogates(message)
            if mended != message:
                return decode(mended)
        raise Disconnect(3501, str(error)) from None
    except UnicodeDecodeError as error:
        raise Disconnect(3501, str(error)) from None
    except RecursionError:
        raise Disconnect(3501, "data is nested too deep") from None


def _decode_lines(message: bytes) -> list[Command]:
    return [PONG if line == PING else _command(line) for line in message.removesuffix(b"\n").split(b"\n")]


def _command(line: bytes) -> Command:
    command = _commands.decode(line)
    return PONG if command.id == 0 and b'"' not in line else command  # `{ }`, as some libraries write an object without fields


def read_position(text: str | None) -> Position:
    """``EPOCH:OFFSET`` of a request; without one, the beginning of the history, whatever its epoch. Raises BadRequest."""
    try:
        return Position.parse(text) if text else BEGINNING
    except ValueError as error:
        raise BadRequest(str(error)) from None


# What leaves. Zero values are left out, as the protocol prescribes.


def reply(id: int, method: str, result: bytes = b"{}") -> bytes:
    """The reply to command ``id``; ``result`` is JSON."""
    return b'{"id":%d,"%s":%s}' % (id, method.encode(), result)


def error_reply(id: int, error: ClientError) -> bytes:
    """The reply to command ``id`` that it failed."""
    temporary = b',"temporary":true' if error.temporary else b""
    return b'{"id":%d,"error":{"code":%d,"message":%s%s}}' % (id, error.code, encode(error.message), temporary)


def error_json(error: ClientError | Disconnect) -> bytes:
    """The Error object as it is sent over HTTP: the protocol's code and text, and a sentence for people."""
    message = error.reason if isinstance(error, Disconnect) else error.message
    return encode({"code": error.code, "message": message, "hint": error.hint or message})


def push(channel: str, kind: str, body: bytes) -> bytes:
    """A push of ``kind`` with ``body``, which is JSON; ``channel`` "" is for a push to the connection itself."""
    named = b'"channel":%b,' % encode(channel) if channel else b""
    return b'{"push":{%b"%b":%b}}' % (named, kind.encode(), body)


def push_prefix(channel: str) -> bytes:
    """What precedes the Publication object in a push of ``channel``; ``}}`` follows it."""
    return b'{"push":{"channel":%s,"pub":' % encode(channel)


def publication_json(publication: Publication) -> bytes:
    """The protocol's Publication object; it is made once, and cached in the publication."""
    if publication.json is None:
        publication.json = publication_object(publication, publication.data)
    return publication.json


def publication_object(publication: Publication, data: bytes, *, delta: bool = False) -> bytes:
    """The Publication object with ``data``, which is JSON; ``delta``: ``data`` is the text of a delta."""
    offset = b',"offset":%d' % publication.offset if publication.offset else b""
    sign = b',"delta":true' if delta else b""
    if publication.info is None and publication.tags is None:
        return b'{"data":%b%b%b}' % (data, sign, offset)
    info = b"" if publication.info is None else b',"info":' + publication.info
    tags = b"" if publication.tags is None else b',"tags":' + publication.tags
    return b'{"data":%b%b%b%b%b}' % (data, sign, info, offset, tags)


def publications_json(publications: Sequence[Publication]) -> bytes:
    """A JSON array of Publication objects."""
    return b"[%s]" % b",".join([publication_json(publication) for publication in publications])


class _SubscribeResult(msgspec.Struct, omit_defaults=True, gc=False):
    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False
    delta: bool = False
    top: int = 0


def subscribe_result(
    position: Position | None,
    *,
    recovered: bool = False,
    was_recovering: bool = False,
    ttl: int = 0,
    publications: Sequence[Publication] = (),
    top: int = 0,
    data: bytes | None = None,
    delta: bool = False,
) -> bytes:
    """The SubscribeResult. ``position`` None: subscribers of this channel cannot recover; ``ttl`` > 0: it expires in that many seconds.

    ``top`` is an addition of ours to the protocol: where ``publications`` are the first page of several, the offset at which
    catching up ends.
    """
    result = _SubscribeResult(expires=ttl > 0, ttl=ttl, recovered=recovered, was_recovering=was_recovering, delta=delta, top=top)
    if position is not None:
        result.recoverable = result.positioned = True
        result.epoch, result.offset = position
    parts = [encode(result)[1:-1]]
    if data is not None:
        parts.append(b'"data":%b' % data)
    if publications:
        parts.append(b'"publications":%b' % publications_json(publications))
    return b"{%b}" % b",".join(filter(None, parts))


def history_result(top: Position, publications: list[Publication]) -> bytes:
    """The HistoryResult; ``top`` is the channel's newest position."""
    return b'{"publications":%s,"epoch":%s,"offset":%d}' % (publications_json(publications), encode(top.epoch), top.offset)
