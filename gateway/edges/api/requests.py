"""The requests of the server API, as they are parsed. Source: docs/reference/http.md.

A request of another shape never reaches a method; the methods themselves check the rules of channels and users. Unknown fields
are ignored, as in the reference server.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from ...publication import MAX_CHANNEL_LENGTH, MAX_OFFSET
from ...rules.notifications import ID_BYTES, NAMESPACE
from ...rules.protocol import OverrideRequest, StreamPosition
from ...work.jobs import ATTEMPTS, DELAY_SECONDS, NAME_BYTES, QUEUE_BYTES, RESULT_SECONDS, TIMEOUT_SECONDS

__all__ = [
    "BatchRequest",
    "BroadcastRequest",
    "Channel",
    "ChannelRequest",
    "ChannelsRequest",
    "DisconnectRequest",
    "EnqueueRequest",
    "HistoryRequest",
    "InfoRequest",
    "NotifyRequest",
    "PresenceRequest",
    "PublishRequest",
    "Reason",
    "RefreshRequest",
    "RevokeRequest",
    "Shape",
    "SubscribeRequest",
    "UnsubscribeRequest",
    "Whom",
]

PATTERN_MOST = 1024  # characters: every process makes a regular expression of it, some 10 ms; of a megabyte that took 10 s
YEAR_10000 = 253402300800  # unix time in seconds: the standard library has no later dates

# The form of the names that are allowed. msgspec does not check it, so that the answer is ours: the methods check the names.
_NAME = r"[^\x00-\x1f\x7f-\x9f{}]+"
Channel = Annotated[
    str,
    Meta(
        description="`namespace:name` or a bare name, without braces and control characters",
        extra_json_schema={"minLength": 1, "maxLength": MAX_CHANNEL_LENGTH, "pattern": f"^{_NAME}$"},
    ),
]
_CHANNEL_OR_NONE = {"maxLength": MAX_CHANNEL_LENGTH, "pattern": f"^({_NAME})?$"}
User = Annotated[
    str,
    Meta(
        description="a user's id, without braces, # and control characters",
        extra_json_schema={"maxLength": MAX_CHANNEL_LENGTH - len(f"{NAMESPACE}:"), "pattern": f"^({_NAME.replace('{}', '{}#')})?$"},
    ),
]
Key = Annotated[
    str, Meta(max_length=1024, description="a repeat of it in the same channel publishes nothing; the result is the first position")
]
Limit = Annotated[
    int, Meta(ge=-MAX_OFFSET, le=MAX_OFFSET, description="0 asks for the position alone, a negative number for all publications")
]
Seconds = Annotated[float, Meta(ge=0, lt=YEAR_10000, description="unix time in seconds; 0 for none")]
Version = Annotated[
    int,
    Meta(
        ge=0,
        description="a publication that is not newer than the channel's last version is dropped; 0 for none",
        extra_json_schema={"maximum": 2**64 - 1},
    ),
]
Json = Annotated[msgspec.Raw, Meta(description="any JSON")]
Notification = Annotated[
    msgspec.Raw,
    Meta(
        description="an object with an `id`; the same id again is an update",
        extra_json_schema={
            "type": "object",
            "properties": {"id": {"type": "string", "minLength": 1, "maxLength": ID_BYTES}},
            "required": ["id"],
        },
    ),
]
InBase64 = Annotated[
    str,
    Meta(
        description="JSON in base64, in place of the field of this name without `b64`",
        extra_json_schema={
            "contentEncoding": "base64",
            "contentMediaType": "application/json",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        },
    ),
]
_TEXT = r"[^\x00-\x1f\x7f]"
JobName = Annotated[
    str, Meta(description="of the handler", extra_json_schema={"minLength": 1, "maxLength": NAME_BYTES, "pattern": f"^{_TEXT}+$"})
]
JobText = Annotated[str, Meta(extra_json_schema={"maxLength": NAME_BYTES, "pattern": f"^{_TEXT}*$"})]
QueueName = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": QUEUE_BYTES, "pattern": r"^[^{}\s\x00-\x1f\x7f]+$"})]


def _nothing() -> msgspec.Raw:
    return msgspec.field(default_factory=msgspec.Raw)  # JSON that may be left out: msgspec has no optional Raw


class Shape(msgspec.Struct):
    """A request. At least one of its fields ``any_of``, or exactly one of ``one_of``, must not be empty: msgspec cannot express that."""

    any_of: ClassVar[tuple[str, ...]] = ()
    one_of: ClassVar[tuple[str, ...]] = ()

    def fault(self) -> str:
        """What is missing, or too much, in words; "" if nothing is."""
        for name in self.any_of:
            if getattr(self, name):
                break
        else:
            if self.any_of:
                return f"give {' or '.join(self.any_of)}"
        if self.one_of and sum(bool(getattr(self, name)) for name in self.one_of) != 1:
            return f"give either {' or '.join(self.one_of)}"
        return ""


class _Publication(Shape):
    any_of = ("data", "b64data")

    data: Json = _nothing()
    b64data: InBase64 = ""
    skip_history: Annotated[bool, Meta(description="live only: it gets no offset")] = False
    tags: dict[str, str] | None = None
    idempotency_key: Key = ""
    delta: Annotated[bool, Meta(description="of no effect: the channel's rules say whether changes are sent as deltas")] = False
    version: Version = 0
    version_epoch: Annotated[str, Meta(max_length=1024)] = ""


class PublishRequest(_Publication, kw_only=True):
    """Publishes to one ``channel``."""

    channel: Channel


class BroadcastRequest(_Publication, kw_only=True):
    """Publishes the same to several ``channels``."""

    channels: Annotated[list[str], Meta(min_length=1, description="names of channels; each has an answer of its own")]


class NotifyRequest(Shape, kw_only=True):
    """Notifies one ``user``, or several ``users``."""

    one_of = ("user", "users")

    user: User = ""
    users: Annotated[list[str], Meta(description="each has an answer of its own")] = []
    data: Notification
    idempotency_key: Key = ""


class EnqueueRequest(Shape, kw_only=True):
    """Enqueues a job ``name`` with ``data`` for the workers of ``queue``. Times are in seconds; "" and 0 are as if left out."""

    name: JobName
    data: Json = _nothing()
    queue: QueueName = "default"
    key: Annotated[JobText, Meta(description="unique while the job waits or runs: the same again is that job, and `new` is false")] = ""
    priority: Annotated[int, Meta(ge=0, le=9, description="9 is first")] = 0
    delay: Annotated[float, Meta(ge=0, le=DELAY_SECONDS)] = 0
    at: Annotated[Seconds, Meta(description="when it is due, unix time in seconds, within ten years")] = 0
    attempts: Annotated[int, Meta(ge=1, le=ATTEMPTS)] = 5
    timeout: Annotated[float, Meta(ge=0.001, le=TIMEOUT_SECONDS, description="of one attempt")] = 60
    expires: Annotated[
        float,
        Meta(
            ge=0,
            le=DELAY_SECONDS,
            description="it is a dead letter if it is to start, or to be tried again, later than so long after it was due",
            extra_json_schema={"anyOf": [{"enum": [0]}, {"minimum": 0.001}]},
        ),
    ] = 0
    result_ttl: Annotated[float, Meta(ge=0, le=RESULT_SECONDS, description="how long its result is stored")] = 0
    channel: Annotated[str, Meta(description="where its progress is published", extra_json_schema=_CHANNEL_OR_NONE)] = ""
    serial: Annotated[JobText, Meta(description="jobs of one serial key run one after another")] = ""


class Whom(Shape):
    """Which clients are meant. Fields combine: a client must match every field that is given."""

    any_of = ("user", "client", "session")

    user: Annotated[str, Meta(description="all connections of this user")] = ""
    client: Annotated[str, Meta(description="the connection of this id")] = ""
    session: Annotated[str, Meta(description="the connection of this session of emulation")] = ""


class SubscribeRequest(Whom, kw_only=True):
    """Subscribes clients to ``channel``. ``info`` is what presence shows of them, ``data`` is sent to them."""

    channel: Channel
    info: Json = _nothing()
    b64info: InBase64 = ""
    data: Json = _nothing()
    b64data: InBase64 = ""
    recover_since: StreamPosition | None = None
    expire_at: Seconds = 0
    override: Annotated[OverrideRequest | None, Meta(description="what holds instead of the channel's rules")] = None


class UnsubscribeRequest(Whom, kw_only=True):
    """Unsubscribes clients from ``channel``."""

    channel: Channel


class Reason(msgspec.Struct):
    """The close code of a connection, and its text."""

    code: Annotated[
        int,
        Meta(ge=0, le=4999, description="3000 to 4999; 0 is 3503", extra_json_schema={"anyOf": [{"enum": [0]}, {"minimum": 3000}]}),
    ] = 0
    reason: Annotated[str, Meta(max_length=123)] = ""


class DisconnectRequest(Whom):
    """Closes connections, except those of the clients in ``whitelist``."""

    whitelist: list[str] = []
    disconnect: Reason | None = None


class RefreshRequest(Whom):
    """Moves the expiry of connections to ``expire_at``, or ends them as ``expired``."""

    expired: bool = False
    expire_at: Seconds = 0
    info: Json = _nothing()


class RevokeRequest(Shape):
    """Revokes all tokens of ``user`` issued before a time, by default now, or the one token whose ``jti`` is ``token_id``."""

    one_of = ("user", "token_id")

    user: str = ""
    token_id: str = ""
    issued_before: Seconds = 0
    expire_at: Annotated[
        Seconds, Meta(description="when the tokens end by themselves: the revocation is stored so long; 0: 30 days from now")
    ] = 0


class ChannelRequest(Shape):
    """A request that names a channel and no more."""

    channel: Channel


class HistoryRequest(ChannelRequest):
    """Publications after ``since``, or, in ``reverse``, before it."""

    limit: Limit | None = None
    since: StreamPosition | None = None
    reverse: bool | None = None


class PresenceRequest(ChannelRequest):
    """All clients in a channel, or, with ``limit``, a page of about so many."""

    limit: Annotated[int, Meta(ge=0, description="0 for all clients; `limits.presence_clients` at most")] = 0
    cursor: Annotated[str, Meta(pattern="^[0-9]{0,20}$", description="that of the page before")] = ""

    def fault(self) -> str:
        """A cursor that no page had, or one without a limit, in words."""
        if int(self.cursor or 0) >= 2**64:
            return "cursor is that of the page before"
        return "cursor goes with limit" if self.cursor and not self.limit else super().fault()


class ChannelsRequest(Shape):
    """Channels whose names match ``pattern``; all without one."""

    pattern: Annotated[str, Meta(max_length=PATTERN_MOST, description="a glob")] | None = None


class InfoRequest(Shape):
    """Has no fields."""


class BatchRequest(Shape):
    """Several commands in one request, one after the other, or in ``parallel``."""

    commands: list[dict[str, msgspec.Raw]] = []
    parallel: bool | None = None
