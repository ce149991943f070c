"""What the server API and the simple clients' paths answer, for their schema. Source: PROTOCOL.md, section 2, and INTERFACE.md.

Answers are written by hand, of bytes that are JSON already; ``tests/test_openapi.py`` holds them to these structs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "BroadcastResult",
    "ChannelsResult",
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
    """100 internal server error, 102 unknown channel, 107 bad request, 108 not available, 112 unrecoverable position, and others."""

    code: int
    message: str


class PublishResult(msgspec.Struct):
    """The position that it got; empty where the channel remembers nothing."""

    offset: Count | UnsetType = UNSET
    epoch: str | UnsetType = UNSET


class Response(msgspec.Struct):
    """One of the two."""

    result: PublishResult | UnsetType = UNSET
    error: Fault | UnsetType = UNSET


class BroadcastResult(msgspec.Struct):
    """In the order of the request."""

    responses: list[Response]


class NotifyResult(PublishResult):
    """Of ``user`` the position, of ``users`` the responses, in their order."""

    responses: list[Response] | UnsetType = UNSET


class Publication(msgspec.Struct):
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
    user: str
    client: str
    conn_info: Json = _left_out()
    chan_info: Json = _left_out()


class PresenceResult(msgspec.Struct):
    presence: Annotated[dict[str, Present], Meta(description="by the clients' ids")]


class PresenceStatsResult(msgspec.Struct):
    num_clients: Count
    num_users: Count


class Followed(msgspec.Struct):
    num_clients: Count


class ChannelsResult(msgspec.Struct):
    channels: Annotated[dict[str, Followed], Meta(description="by name")]


class Used(msgspec.Struct):
    cpu: Annotated[float, Meta(ge=0, description="seconds")]
    rss: Annotated[int, Meta(ge=0, description="bytes, at most")]


class Process(msgspec.Struct):
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
    nodes: Annotated[list[Process], Meta(description="every process of every gateway")]


# Of the simple clients' paths.


class InboxState(msgspec.Struct):
    """``change`` counts changes of what is unread: of two states of one epoch the higher is the newer."""

    unread: Count
    change: Count
    epoch: str
    offset: Count


class Notification(msgspec.Struct):
    id: str
    offset: Count
    ms: Annotated[int, Meta(ge=0, description="unix time in milliseconds")]
    unread: bool
    data: Json


class InboxResult(InboxState):
    """Newest first, each notification once; ``next`` is the ``before`` of the following page, null behind the last."""

    notifications: list[Notification]
    next: str | None


class Health(msgspec.Struct):
    status: str
    reason: str | UnsetType = UNSET
