"""The inbox: ``notifications:{user}``, read as a list with read marks.

What is unread is stored in Valkey by the functions of ``store/lua/inbox.lua``, and every change of it is announced to the
user's devices as an ephemeral publication ``{"inbox": {"unread", "change", "epoch", …}}``. Announcements can be lost on
the way; so a state carries the number of its change, a device asks for the state whenever its subscription begins, and
the inbox announces it once more where the hub may have lost an announcement that a device was waiting for.

A client's request is one JSON object, over HTTP and rpc alike:

    list  {"limit": 20, "before": "EPOCH:OFFSET"}         newest first, each notification once
    read  {"ids": […]} | {"upto": "EPOCH:OFFSET"} | {"ids": […], "upto": …} | {"all": true}
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from ..config import Config
from ..errors import BadRequest, PermissionDenied, StoreError
from ..publication import Position, Publication
from ..rules.identity import Identity
from ..rules.json_text import decode_json, encode, raw_object
from ..rules.notifications import ID_BYTES, NAMESPACE, channel_of
from ..rules.permissions import admits
from ..rules.protocol import read_position
from ..rules.recovery import same_life
from ..runtime.backoff import retrying
from ..runtime.failure_log import FailureLog
from ..runtime.tasks import Tasks
from ..store.history import PAGE_BYTES, History
from ..store.layout import Announcement, read_entry, read_epoch
from .channel import Channel

__all__ = ["IDS_MOST", "LIST_DEFAULT", "LIST_MOST", "Inbox", "InboxState", "ReadRequest"]

log = logging.getLogger("gateway.inbox")

LIST_DEFAULT, LIST_MOST = 20, 100  # notifications of one list
IDS_MOST = 500  # ids of one request to mark as read
SHOWN = 200  # characters of a fault, which names a field as the client wrote it: the log has a line of it
ANNOUNCE_SECONDS = 60.0  # how long the inbox tries to read a state that it has to announce once more

Request = TypeVar("Request")


class _List(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=0)] = LIST_DEFAULT
    before: str | None = None


class ReadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to mark as read: these ids, all up to a position ``EPOCH:OFFSET``, both, or all there is."""

    ids: list[str] | None = None
    upto: str | None = None
    all: bool = False


class InboxState(NamedTuple):
    """How much is unread: ``change`` counts the changes of it, ``epoch`` and ``offset`` are the inbox's newest position."""

    epoch: str
    offset: int
    unread: int
    change: int

    def fields(self) -> dict[str, bytes]:
        """Name → JSON, as clients get them."""
        epoch, offset, unread, change = self
        return {"unread": b"%d" % unread, "change": b"%d" % change, "epoch": encode(epoch), "offset": b"%d" % offset}


class Inbox:
    """The inboxes of all users. ``user`` is the caller, who gets no inbox but their own.

    It is the hub's ``MissedEphemeral``. ``close`` it after the hub.
    """

    def __init__(self, config: Config, history: History) -> None:
        self._config = config
        self._history = history
        self._tasks = Tasks()
        self._fails = False  # and the log says so; until a read succeeds
        self._gave_up = FailureLog(log)

    async def list(self, user: str, request: bytes | None) -> bytes:
        """JSON: ``{"notifications": [{"id", "offset", "ms", "unread", "data"}], "unread", "change", "epoch", "offset", "next"}``.

        ``next`` is where the following page begins, null after the last. A page has PAGE_BYTES, or one notification, at most. Raises BadRequest, PermissionDenied for the
        anonymous, UnrecoverablePosition for a ``before`` of another epoch, StoreError.
        """
        asked = _decode(request, _List)
        before = read_position(asked.before)
        return raw_object(await self.page(self._own_channel(user), before, min(asked.limit, LIST_MOST)))

    async def page(self, channel: str, before: Position, limit: int) -> dict[str, bytes]:
        """The fields of ``list`` of an inbox, by its channel's name, as JSON. Raises UnrecoverablePosition, StoreError."""
        keys = self._history.layout.inbox_keys(channel)
        *answer, entries, more = await self._history.call(b"gateway_inbox", keys, before.offset, limit, PAGE_BYTES)
        state = _state(answer)
        same_life(before, state.epoch)
        faults = self._history.layout.faults
        listed = [(read_entry(entry[:2], faults, NAMESPACE), entry[2], entry[3]) for entry in entries]
        return {
            "notifications": b"[%b]" % b",".join([_notification(publication, bool(mark), id) for publication, mark, id in listed]),
            **state.fields(),
            "next": encode(f"{state.epoch}:{listed[-1][0].offset}") if more else b"null",
        }

    async def read(self, user: str, request: bytes | None) -> bytes:
        """Marks as read, and announces it. Returns JSON of the state afterwards: ``{"unread", "change", "epoch", "offset"}``.

        Raises BadRequest, PermissionDenied for the anonymous, StoreError.
        """
        asked = _decode(request, ReadRequest)
        if asked.ids == []:
            raise BadRequest("ids is empty")
        if not (asked.ids or asked.upto or asked.all):
            raise BadRequest('nothing is named: give "ids", "upto" or "all": true')
        if len(asked.ids or ()) > IDS_MOST or any(not 0 < len(id.encode()) <= ID_BYTES for id in asked.ids or ()):
            raise BadRequest(f"ids are up to {IDS_MOST} texts of 1 to {ID_BYTES} bytes")
        upto = read_position(asked.upto)
        limits = (upto.epoch, upto.offset) if asked.upto else ("", "")
        keys = self._history.layout.inbox_keys(self._own_channel(user))
        return raw_object(_state(await self._history.call(b"gateway_read", keys, *limits, *(asked.ids or ()))).fields())

    def on_missed_ephemeral(self, channel: Channel) -> None:
        """Announces the state once more to the devices that follow the channel on this process, if it is an inbox."""
        if channel.name.startswith(f"{NAMESPACE}:"):
            self._tasks.spawn(self._announce_state(channel))

    async def _announce_state(self, channel: Channel) -> None:
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                what = f"{channel.name}: its state could not be read"
                state = await retrying(lambda: self.state(channel.name), what, log, on=StoreError, quiet=self._is_logged)
        except TimeoutError:
            self._gave_up.failed(
                "%s: its state was not announced again, since Valkey did not answer for %g s", channel.name, ANNOUNCE_SECONDS
            )
            return
        self._fails = False
        self._gave_up.worked()
        if state.change:  # else no state was ever announced
            channel.announced([Announcement("", Publication(0, b'{"inbox":%b}' % raw_object(state.fields())))])

    def _is_logged(self, error: Exception) -> bool:
        """Whether the log has a line about this already: there may be as many inboxes as users, and all fail together."""
        logged, self._fails = self._fails, True
        return logged

    async def state(self, channel: str) -> InboxState:
        """The state of an inbox, by its channel's name. First Valkey drops marks of what history no longer holds, and announces that.

        Raises StoreError.
        """
        *answer, _, _ = await self._history.call(b"gateway_inbox", self._history.layout.inbox_keys(channel), 0, 0, 0)
        return _state(answer)

    async def close(self) -> None:
        """Gives up the announcements that are under way."""
        await self._tasks.cancel()

    def _own_channel(self, user: str) -> str:
        """The channel that is the user's inbox. Raises PermissionDenied."""
        try:
            channel = channel_of(user)
        except ValueError as error:
            raise PermissionDenied(f"an inbox belongs to a user: {error}") from None
        if not admits(self._config.rules(channel).subscribe, Identity(user), channel):
            raise PermissionDenied(f"the rules of {NAMESPACE!r} let nobody follow an inbox")
        return channel


def _state(answer: Sequence[Any]) -> InboxState:
    """Reads what the functions of an inbox return first: epoch, offset, unread, change."""
    epoch, offset, unread, change = answer
    return InboxState(read_epoch(epoch, NAMESPACE), offset, unread, change)


def _notification(publication: Publication, unread: bool, id: bytes) -> bytes:
    fields = {"id": encode(id.decode(errors="replace")), "offset": b"%d" % publication.offset, "ms": b"%d" % publication.ms}
    return raw_object({**fields, "unread": b"true" if unread else b"false", "data": publication.data})


def _decode(request: bytes | None, kind: type[Request]) -> Request:
    try:
        decoded: Request = decode_json(request or b"{}", kind)
        return decoded
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)[:SHOWN]) from None
