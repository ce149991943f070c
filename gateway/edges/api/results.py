"""The results of the server API and of the simple clients' paths, for their schema. Source: docs/reference/http.md.

The JSON itself is built from bytes that are JSON already; ``tests/edges/test_openapi.py`` compares it with these structs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "BroadcastResult",
    "ChannelsResult",
    "EnqueueResult",
    "Fault",
    "Health",
    "HistoryResult",
    "InboxResult",
    "InboxState",
    "InfoResult",
    "Nothing",
    "NotifyResult",
    "PresenceResult",
    "PresenceStatsResult",
    "PublishResult",
]

Count = Annotated[int, Meta(ge=0)]
Json = Annotated[msgspec.Raw, Meta(description="any JSON")]


def _left_out() -> msgspec.Raw:
    return msgspec.field(default_factory=msgspec.Raw)


class Nothing(msgspec.Struct):
    """An empty object."""


class Fault(msgspec.Struct):
    """100 internal server error, 102 unknown channel, 107 bad request, 108 not available, 111 too many requests, 112 unrecoverable position, and others."""

    code: int
    message: str
    hint: Annotated[str, Meta(description="what is wrong, in a sentence for people")] | UnsetType = UNSET


class PublishResult(msgspec.Struct):
    """The position of the publication; no fields where the channel has no history."""

    offset: Count | UnsetType = UNSET
    epoch: str | UnsetType = UNSET


class Response(msgspec.Struct):
    """What came of one channel or user: the result, or the error."""

    result: PublishResult | UnsetType = UNSET
    error: Fault | UnsetType = UNSET


class BroadcastResult(msgspec.Struct):
    """What came of each channel, in the order of the request."""

    responses: list[Response]


class NotifyResult(PublishResult):
    """Where the request has ``user``, the position; where it has ``users``, a response for each, in their order."""

    responses: list[Response] | UnsetType = UNSET


class EnqueueResult(msgspec.Struct):
    """The job. ``new`` is false where a job with the same key waits or runs already: then it is that job."""

    id: str
    new: bool


class Publication(msgspec.Struct):
    """One document of a channel; ``info`` is who published it."""

    data: Json
    offset: Count
    info: Json = _left_out()
    tags: dict[str, str] | UnsetType = UNSET


class HistoryResult(msgspec.Struct):
    """A page of publications, and the newest position of the channel."""

    publications: list[Publication]
    epoch: str
    offset: Count


class Present(msgspec.Struct):
    """One client in a channel; ``conn_info`` is of its token, ``chan_info`` of its subscription token."""

    user: str
    client: str
    conn_info: Json = _left_out()
    chan_info: Json = _left_out()


class PresenceResult(msgspec.Struct):
    """The clients in a channel, or a page of them."""

    presence: Annotated[dict[str, Present], Meta(description="by the clients' ids")]
    cursor: Annotated[str, Meta(description="where the next page begins; the last one has none")] | UnsetType = UNSET


class PresenceStatsResult(msgspec.Struct):
    """How many clients and users are in a channel."""

    num_clients: Count
    num_users: Count


class Followed(msgspec.Struct):
    """How many clients follow a channel."""

    num_clients: Count


class ChannelsResult(msgspec.Struct):
    """The channels that clients follow."""

    channels: Annotated[dict[str, Followed], Meta(description="by name")]


class Used(msgspec.Struct):
    """What a process uses of its machine."""

    cpu: Annotated[float, Meta(ge=0, description="seconds")]
    rss: Annotated[int, Meta(ge=0, description="bytes, at most")]


class Process(msgspec.Struct):
    """One process of a gateway, and what it carries."""

    uid: str
    name: str
    version: str
    num_clients: Count
    num_users: Count
    num_channels: Count
    num_subs: Count
    uptime: Annotated[int, Meta(ge=0, description="seconds")]
    process: Used


class InfoResult(msgspec.Struct):
    """All processes that share this Valkey."""

    nodes: Annotated[list[Process], Meta(description="every process of every gateway")]


# Of the simple clients' paths.


class InboxState(msgspec.Struct):
    """How much is unread. ``change`` counts the changes of it: of two states of one epoch, the one with the higher ``change`` is newer."""

    unread: Count
    change: Count
    epoch: str
    offset: Count


class Notification(msgspec.Struct):
    """The newest version of one notification."""

    id: str
    offset: Count
    ms: Annotated[int, Meta(ge=0, description="unix time in milliseconds")]
    unread: bool
    data: Json


class InboxResult(InboxState):
    """Newest first, each notification once; ``next`` is the ``before`` of the following page, null on the last page."""

    notifications: list[Notification]
    next: str | None


class Health(msgspec.Struct):
    """``status``, and the ``reason`` where it is "not ready"; ``refused`` where the request is of a page that may not connect."""

    status: str
    reason: str | UnsetType = UNSET
    refused: str | UnsetType = UNSET
