"""Inboxes: what a user has there, read and unread."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ..edges.api.requests import Shape
from ..errors import BadRequest
from ..live.inbox import LIST_DEFAULT, LIST_MOST
from ..publication import MAX_CHANNEL_LENGTH
from ..rules.json_text import raw_object
from ..rules.notifications import channel_of
from ..rules.protocol import read_position
from .caller import Caller, read_method

__all__ = ["METHODS"]

EMPTY = {"notifications": b"[]", "unread": b"0", "next": b"null"}


class InboxRequest(Shape, kw_only=True):
    """The notifications of ``user`` before the position ``before``, ``EPOCH:OFFSET``; the newest without one."""

    user: Annotated[str, Meta(min_length=1, max_length=MAX_CHANNEL_LENGTH)]
    before: str | None = None
    limit: Annotated[int, Meta(ge=1, le=LIST_MOST)] = LIST_DEFAULT


async def inbox(caller: Caller, request: InboxRequest) -> bytes:
    """The newest notifications first, whatever the rules let the user do. ``total`` is how many history holds, ``next`` the ``before`` of the
    following page, null after the last. Raises BadRequest, UnrecoverablePosition for a ``before`` of another epoch."""
    node = caller.node
    try:
        channel = channel_of(request.user)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    before = read_position(request.before)
    keys = node.history.layout.inbox_keys(channel)
    if not await node.history.commands.call(b"EXISTS", keys[0], repeatable=True):
        return raw_object({**EMPTY, "total": b"0"})  # looking at an inbox that is not there must not make one
    fields = await node.inbox.page(channel, before, request.limit)
    total = await node.history.commands.call(b"ZCARD", keys[4], repeatable=True)
    return raw_object({name: fields[name] for name in EMPTY} | {"total": b"%d" % total})


METHODS = {"inbox": read_method(inbox, InboxRequest)}
