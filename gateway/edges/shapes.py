"""What the methods of the server API take, as they are really parsed. Source: PROTOCOL.md, section 2.

Whatever has a shape at all is refused here; the rules of channels and users are the methods' own to ask. Unknown fields are
ignored, as in the reference server.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ..protocol import Place

__all__ = [
    "BatchRequest",
    "BroadcastRequest",
    "ChannelRequest",
    "ChannelsRequest",
    "DisconnectRequest",
    "HistoryRequest",
    "InfoRequest",
    "NotifyRequest",
    "PublishRequest",
    "Reason",
    "RefreshRequest",
    "RevokeRequest",
    "SubscribeRequest",
    "UnsubscribeRequest",
    "Whom",
]

Count = Annotated[int, Meta(ge=0)]


def _nothing() -> msgspec.Raw:
    return msgspec.field(default_factory=msgspec.Raw)  # JSON that may be left out: msgspec has no optional Raw


class _Publication(msgspec.Struct):
    data: msgspec.Raw = _nothing()
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: Count = 0
    version_epoch: str = ""


class PublishRequest(_Publication, kw_only=True):
    channel: str


class BroadcastRequest(_Publication, kw_only=True):
    channels: list[str]


class NotifyRequest(msgspec.Struct):
    user: str = ""
    users: list[str] = []
    data: msgspec.Raw = _nothing()
    idempotency_key: str = ""


class Whom(msgspec.Struct):
    user: str = ""
    client: str = ""
    session: str = ""


class SubscribeRequest(Whom, kw_only=True):
    channel: str
    info: msgspec.Raw = _nothing()
    b64info: str = ""
    data: msgspec.Raw = _nothing()
    b64data: str = ""
    recover_since: Place | None = None
    expire_at: float = 0
    override: msgspec.Raw = _nothing()


class UnsubscribeRequest(Whom, kw_only=True):
    channel: str


class Reason(msgspec.Struct):
    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=123)] = ""


class DisconnectRequest(Whom):
    whitelist: list[str] = []
    disconnect: Reason | None = None


class RefreshRequest(Whom):
    expired: bool = False
    expire_at: float = 0
    info: msgspec.Raw = _nothing()


class RevokeRequest(msgspec.Struct):
    user: str = ""
    token_id: str = ""
    issued_before: float = 0
    expire_at: float = 0


class ChannelRequest(msgspec.Struct):
    channel: str


class HistoryRequest(ChannelRequest):
    limit: int | None = None
    since: Place | None = None
    reverse: bool | None = None


class ChannelsRequest(msgspec.Struct):
    pattern: str | None = None


class InfoRequest(msgspec.Struct):
    pass


class BatchRequest(msgspec.Struct):
    commands: list[dict[str, msgspec.Raw]] = []
    parallel: bool | None = None
