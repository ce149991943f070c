"""The inbox: ``notifications:{user}``, read as a list with read marks.

What is unread is kept in Valkey, by the functions of ``store/inbox.lua``, and every change of it is announced to the
user's devices as an ephemeral publication ``{"inbox": {"unread", "change", "epoch", …}}``. Announcements can be lost on
the way; so a state carries the number of its change, a device asks for the state whenever its subscription begins, and
``retell`` says it again where this process may have dropped one without the device's knowledge.

One object of clients' requests, over HTTP and rpc alike:

    list  {"limit": 20, "before": "EPOCH:OFFSET"}         newest first, each notification once
    read  {"ids": […]} | {"upto": "EPOCH:OFFSET"} | {"ids": […], "upto": …} | {"all": true}
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from ..config import Config
from ..errors import BadRequest, PermissionDenied, StoreError
from ..publication import Publication
from ..rules.identity import Identity
from ..rules.json_text import decode_json, encode, raw_object
from ..rules.notifications import ID_BYTES, NAMESPACE, channel_of
from ..rules.permissions import admits
from ..rules.protocol import read_position
from ..rules.recovery import same_life
from ..runtime.backoff import backoff
from ..store.history import History
from ..store.layout import Announcement, read_entry
from .channel import Channel

__all__ = ["LIST_DEFAULT", "LIST_MOST", "Inbox", "ReadRequest"]

LIST_DEFAULT, LIST_MOST = 20, 100
IDS_MOST = 500
RETELLINGS = 10


class _List(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=0)] = LIST_DEFAULT
    before: str | None = None


class ReadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to mark as read: these ids, all up to a position ``EPOCH:OFFSET``, both, or all there is."""

    ids: list[str] | None = None
    upto: str | None = None
    all: bool = False


class Inbox:
    """The inboxes of all users. ``user`` is whoever asks: nobody reads another's."""

    def __init__(self, config: Config, history: History) -> None:
        self._config = config
        self._history = history

    async def list(self, user: str, request: bytes | None) -> bytes:
        """JSON: ``{"notifications": [{"id", "offset", "ms", "unread", "data"}], "unread", "change", "epoch", "offset", "next"}``.

        ``next`` is where the following page begins, None behind the last. Raises BadRequest, PermissionDenied for the
        anonymous, UnrecoverablePosition for a ``before`` of another epoch.
        """
        asked = _decode(request, _List)
        before = read_position(asked.before)
        limit = min(asked.limit, LIST_MOST)
        epoch, top, unread, change, entries = await self._call(b"gateway_inbox", user, before.offset, limit)
        same_life(before, epoch.decode())
        listed = [(read_entry(entry[:2]), entry[2], entry[3]) for entry in entries]
        fields = {
            "notifications": b"[%b]" % b",".join([_notification(publication, bool(mark), id) for publication, mark, id in listed]),
            **_state(epoch, top, unread, change),
            "next": encode(f"{epoch.decode()}:{listed[-1][0].offset}") if limit and len(listed) == limit else b"null",
        }
        return raw_object(fields)

    async def read(self, user: str, request: bytes | None) -> bytes:
        """Marks as read, and announces it; JSON of the state afterwards: ``{"unread", "change", "epoch", "offset"}``."""
        asked = _decode(request, ReadRequest)
        if asked.ids == []:
            raise BadRequest("ids is empty")
        if not (asked.ids or asked.upto or asked.all):
            raise BadRequest('nothing is named: give "ids", "upto" or "all": true')
        if len(asked.ids or ()) > IDS_MOST or any(not 0 < len(id.encode()) <= ID_BYTES for id in asked.ids or ()):
            raise BadRequest(f"ids are up to {IDS_MOST} texts of 1 to {ID_BYTES} bytes")
        upto = read_position(asked.upto)
        limits = (upto.epoch, upto.offset) if asked.upto else ("", "")
        return raw_object(_state(*await self._call(b"gateway_read", user, *limits, *(asked.ids or ()))))

    async def retell(self, channel: Channel) -> None:
        """Says the state again to whoever is live on this process."""
        for attempt in range(RETELLINGS):
            try:
                epoch, top, unread, change, _ = await self.state(channel.name)
            except StoreError:
                await asyncio.sleep(backoff(attempt + 1, 0.1, 2.0))
                continue
            if change:  # else nothing was ever announced
                state = raw_object(_state(epoch, top, unread, change))
                channel.announced([Announcement("", Publication(0, b'{"inbox":%b}' % state))])
            return

    async def state(self, channel: str) -> list:
        """Epoch, offset, unread and change of an inbox; what history forgot meanwhile is forgotten, and told. Raises StoreError."""
        return await self._history.call(b"gateway_inbox", self._history.layout.inbox_keys(channel), 0, 0)

    async def _call(self, function: bytes, user: str, *words: object) -> list:
        try:
            channel = channel_of(user)
        except ValueError as error:
            raise PermissionDenied(f"an inbox belongs to a user: {error}") from None
        if not admits(self._config.rules(channel).subscribe, Identity(user), channel):
            raise PermissionDenied(f"the rules of {NAMESPACE!r} let nobody follow an inbox")
        return await self._history.call(function, self._history.layout.inbox_keys(channel), *words)


def _state(epoch: bytes, top: int, unread: int, change: int) -> dict[str, bytes]:
    return {"unread": b"%d" % unread, "change": b"%d" % change, "epoch": encode(epoch.decode()), "offset": b"%d" % top}


def _notification(publication: Publication, unread: bool, id: bytes) -> bytes:
    fields = {"id": encode(id.decode(errors="replace")), "offset": b"%d" % publication.offset, "ms": b"%d" % publication.ms}
    return raw_object({**fields, "unread": b"true" if unread else b"false", "data": publication.data})


def _decode(request: bytes | None, kind: type) -> Any:
    try:
        return decode_json(request or b"{}", kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
