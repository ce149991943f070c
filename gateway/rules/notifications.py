"""Notifications: the names of their channels, and their ids. Pure."""

from __future__ import annotations

import msgspec

from ..errors import BadRequest
from ..publication import channel_fault
from .json_text import decode_json

__all__ = ["ID_BYTES", "NAMESPACE", "channel_of", "notification_id", "without_user"]

NAMESPACE = "notifications"
ID_BYTES = 200  # of a notification's id


def channel_of(user: str) -> str:
    """The channel that is a user's inbox. Raises ValueError for a user id that no channel can belong to."""
    name = f"{NAMESPACE}:{user}"
    fault = channel_fault(name) or ("a user id with a # has no channel of its own" if "#" in user else "")
    if fault or not user:
        raise ValueError(fault or "there is no user")
    return name


def without_user(channel: str) -> str:
    """The channel's name for those who must not learn whose it is: an inbox without its user, another name up to its ``#``."""
    return f"{NAMESPACE}:" if channel.startswith(f"{NAMESPACE}:") else channel.partition("#")[0]


class _Id(msgspec.Struct):
    id: str = ""


def notification_id(data: bytes) -> str:
    """The id of a notification, which is JSON. Raises BadRequest if ``data`` is not a notification."""
    try:
        id = decode_json(data, _Id).id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        id = ""
    if not 0 < len(id.encode()) <= ID_BYTES:
        raise BadRequest(f'a notification is a JSON object with an "id", a text of 1 to {ID_BYTES} bytes')
    return id
