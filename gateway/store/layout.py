"""The public layout in Valkey: names of keys, announcements, stream entries, the words of a publish. Source: docs/reference/valkey-layout.md.

An announcement is ``@<offset> <epoch> <unix ms>[ <JSON>]``, a newline, the data; one with offset 0 is not in history.
``@join`` and ``@leave``, each with a ClientInfo in JSON, say that a client joined or left the channel; ``@reset <epoch> <offset>`` says that
what gateways remember of the channel is void. Anything else is the data of an ephemeral publication.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypedDict, Unpack

import libvalkey
import msgspec

from ..bridging import slot_tag
from ..errors import StoreError
from ..publication import Publication
from ..rules.json_text import MAX_DEPTH, UNREADABLE, clean, clean_as, encode, is_utf8
from .untrusted import Faults

__all__ = [
    "Announcement",
    "JoinLeave",
    "Layout",
    "PublishOptions",
    "Reset",
    "Word",
    "pack_publish",
    "publish_words",
    "read_announcement",
    "read_entry",
    "read_epoch",
    "read_next",
    "read_presence",
]

Word = bytes | str | int | float  # one argument of a command; Valkey receives all of them as text


_QUEUE_PARTS = "jobs runs failures keys delayed running dead workers serial results expiring"
_QUEUE_SUFFIXES = tuple(f":{part}".encode() for part in (*_QUEUE_PARTS.split(), *(f"ready:{priority}" for priority in range(10))))


@lru_cache(1000)
def _queue_keys(prefix: str, name: str) -> tuple[bytes, ...]:
    base = f"{prefix}:queue:{{{name}}}".encode()
    return base, *(base + suffix for suffix in _QUEUE_SUFFIXES)


class Layout:
    """The names of keys and Pub/Sub channels in Valkey. All begin with ``prefix``; all are bytes.

    ``faults`` counts what is found there and does not follow this layout.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.faults = Faults()
        self._opening = f"{prefix}:{{".encode()

    def channel(self, name: str) -> bytes:
        """The Pub/Sub channel."""
        return b"%s%s}" % (self._opening, name.encode())

    def keys(self, name: str) -> tuple[bytes, bytes, bytes]:
        """meta, stream, keys: the keys that every function of a channel takes."""
        base = self.channel(name)
        return base + b":meta", base + b":stream", base + b":keys"

    def inbox_keys(self, name: str) -> tuple[bytes, ...]:
        """The same, then unread and inbox: the keys that every function of an inbox takes."""
        base = self.channel(name)
        return (*self.keys(name), base + b":unread", base + b":inbox")

    def presence(self, name: str) -> tuple[bytes, bytes]:
        """The keys of presence: the hash of the clients that are in a channel, client → ClientInfo in JSON, and the sorted set user → clients."""
        base = self.channel(name)
        return base + b":presence", base + b":users"

    def reader(self, name: str, group: str) -> tuple[bytes, bytes, bytes, bytes]:
        """meta, stream, reader, dead: the keys that every function of a channel's durable readers takes."""
        base, of = self.channel(name), group.encode()
        return base + b":meta", base + b":stream", base + b":reader:" + of, base + b":dead:" + of

    def readers(self, group: str) -> bytes:
        """The sorted set of a group's instances, and the Pub/Sub channel where their changes are announced."""
        return f"{self.prefix}:readers:{{{group}}}".encode()

    @property
    def reader_groups(self) -> bytes:
        """The hash of the groups of durable readers; ``reader_report`` describes it."""
        return f"{self.prefix}:readers".encode()

    def index(self, namespace: str) -> bytes:
        """The set of a namespace's channels, where its rules have ``index``, and the Pub/Sub channel where new ones are announced."""
        return f"{self.prefix}:index:{{{namespace}}}".encode()

    def rpc(self, method: str) -> tuple[bytes, bytes]:
        """The list of a method's requests, and the lease of the services that serve it: the keys that gateway_call takes."""
        base = f"{self.prefix}:rpc:{{{method}}}".encode()
        return base, base + b":service"

    def bridge(self, source: str, name: str) -> bytes:
        """The state of a bridge, with which the names of its other keys begin; in the hash slot of its source."""
        return f"{self.prefix}:bridge:{{{slot_tag(source) or source}}}:{name}".encode()

    def queue(self, name: str) -> tuple[bytes, ...]:
        """The keys of a work queue, which its functions take: the queue's own first; lua/jobs.lua lists them."""
        return _queue_keys(self.prefix, name)

    def taken(self, queue: str, worker: str) -> bytes:
        """The list of the jobs that a worker took from a queue and has not ended."""
        return f"{self.prefix}:queue:{{{queue}}}:taken:{worker}".encode()

    def results(self, queue: str) -> bytes:
        """The Pub/Sub channel, and the hash, of a queue's results."""
        return f"{self.prefix}:queue:{{{queue}}}:results".encode()

    @property
    def queues(self) -> bytes:
        """The set of the names of all work queues."""
        return f"{self.prefix}:queues".encode()

    @property
    def queues_shown(self) -> bytes:
        """The set of the names of the work queues that have metrics of their own; in the hash slot of ``queues``."""
        return f"{self.prefix}:shown:{{{self.prefix}:queues}}".encode()

    @property
    def alerts(self) -> bytes:
        """The hash of the alerts that are raised; work/alerts.py describes it."""
        return f"{self.prefix}:alerts".encode()

    @property
    def outbox(self) -> bytes:
        """The hash of what relays report of their outboxes; ``outbox_report`` describes it."""
        return f"{self.prefix}:outbox".encode()

    def newest_id(self, outbox: str) -> bytes:
        """The sorted set whose one score is the greatest id that relays published of the outbox with this identity."""
        return f"{self.prefix}:{{outbox:{outbox}}}:newest".encode()

    @property
    def services(self) -> bytes:
        """The lease of all services together: it exists while any of them serves anything."""
        return f"{self.prefix}:rpc:services".encode()

    def own_channel(self, process: str) -> bytes:
        """The Pub/Sub channel of one process: its heartbeats, which prove that its link works, and what others send to it alone."""
        return f"{self.prefix}:node:{process}".encode()


class PublishOptions(TypedDict, total=False):
    """What a publisher may set for one publication; the channel's rules decide where an option is absent or None.

    ``idempotency_key``: a repeated key publishes nothing and returns the first position.
    ``version``: a whole number of at most 64 bits; a publication that is not newer than the channel's version is dropped.
    ``version_epoch``: names the counter that ``version`` belongs to, where several services publish to one channel.
    ``size``: how many publications the channel's history holds afterwards, -1 for no limit.
    ``ttl``: for how many seconds the history lives; 0 only announces the publication, which gets no position.
    ``tags``: what subscriptions filter by. ``info``: who published. Both are JSON objects; bytes are JSON text already.
    """

    idempotency_key: str | None
    version: int | None
    version_epoch: str | None
    size: int | None
    ttl: int | None
    tags: Mapping[str, str] | bytes | None
    info: Mapping[str, Any] | bytes | None


_PUBLISH = (
    b"*%d\r\n$5\r\nFCALL\r\n$15\r\ngateway_publish\r\n$1\r\n3\r\n$%d\r\n%b:meta\r\n$%d\r\n%b:stream\r\n$%d\r\n%b:keys\r\n$%d\r\n%b\r\n%b"
)
_OPTION_WORDS = {name: name.removeprefix("idempotency_") for name in PublishOptions.__annotations__}


def publish_words(data: bytes | str, **options: Unpack[PublishOptions]) -> list[Word]:
    """What gateway_publish and gateway_notify are given after the keys: ``data``, which is JSON text, then NAME VALUE pairs.

    Raises TypeError for an option that does not exist, and for tags or info that are not JSON.
    """
    words: list[Word] = [data]
    for name, value in options.items():
        if name not in _OPTION_WORDS:
            raise TypeError(f"a publication has no option {name!r}; the options are {', '.join(_OPTION_WORDS)}")
        if value is not None:
            words += _OPTION_WORDS[name], value if isinstance(value, bytes | str | int) else encode(value)
    return words


def pack_publish(key: bytes, words: Sequence[Word], more: int) -> bytes:
    """A call of gateway_publish as Valkey reads it; ``more`` words are to follow. ``key`` is ``Layout.channel``, ``words`` are those of
    ``publish_words``.

    It is what ``libvalkey.pack_command`` makes of the same words, which takes 2 µs for them, and each publication needs it.
    """
    data, size = words[0], len(key)
    text = data if isinstance(data, bytes) else str(data).encode()
    options = libvalkey.pack_command(tuple(words[1:])).partition(b"\r\n")[2] if len(words) > 1 else b""
    return _PUBLISH % (6 + len(words) + more, size + 5, key, size + 7, key, size + 5, key, len(text), text, options)


class Announcement(msgspec.Struct, gc=False):
    """A publication as announced. ``epoch`` is "" or "-" for an ephemeral one.

    ``size`` (publications) and ``ttl`` (seconds) are those that this publication set itself, None where the namespace's rules hold.
    """

    epoch: str
    publication: Publication
    size: int | None = None
    ttl: int | None = None


class JoinLeave(msgspec.Struct, gc=False):
    """A client joined a channel, ``kind`` "join", or left it, "leave"; ``info`` is its ClientInfo in JSON. ``epoch`` is always "".

    ``push`` caches the message that clients get, made when it is first needed."""

    kind: str
    info: bytes
    epoch: str = ""
    push: bytes | None = None


class Reset(msgspec.Struct, gc=False):
    """What gateways remember of a channel is void: its history was removed or is another one. It is at ``epoch`` and ``offset`` now."""

    epoch: str
    offset: int


class _Extra(msgspec.Struct):
    tags: msgspec.Raw = msgspec.Raw()
    info: msgspec.Raw = msgspec.Raw()
    size: int | None = None
    ttl: int | None = None


class _Info(msgspec.Struct, gc=False, frozen=True):
    """ClientInfo as far as it is read; its other fields are any JSON."""

    user: str = ""
    client: str = ""


class _Plain(msgspec.Struct, gc=False):
    """Tags and info as they should be."""

    tags: dict[str, str] = {}
    info: _Info = _Info()


_plain = msgspec.json.Decoder(_Plain).decode
_extra = msgspec.json.Decoder(_Extra).decode
_tags = msgspec.json.Decoder(dict[str, str]).decode
_info = msgspec.json.Decoder(_Info).decode

_EPOCH = r"[0-9A-Za-z_-]{1,64}"  # it is part of lines of text: the ids of events, the header of an announcement
_DIGITS = 15
_NUMBER = rf"[0-9]{{1,{_DIGITS}}}"  # below MAX_OFFSET, which JavaScript's numbers hold exactly
_HEADER = re.compile(rf"@({_NUMBER}) ({_EPOCH}) ({_NUMBER})(?: (\{{[^\n]*\}}))?\n(.*)".encode(), re.DOTALL).match
_RESET = re.compile(rf"@reset ({_EPOCH}) ({_NUMBER})".encode()).fullmatch
_JOIN_LEAVE = re.compile(rb"@(join|leave) (.+)", re.DOTALL).fullmatch
_NEWLINE = ord("\n")
_IS_EPOCH = re.compile(_EPOCH.encode()).fullmatch

_UNCOUNTED = Faults()


def read_announcement(payload: bytes, faults: Faults = _UNCOUNTED, channel: str = "") -> Announcement | JoinLeave | Reset:
    """Reads any bytes: what is no announcement of a known form is the data of an ephemeral publication. Raises nothing.

    Tags or info that cannot be passed on are left out, and counted in ``faults`` for the channel.
    """
    header = _HEADER(payload)
    if header is None:
        return _read_other(payload, faults, channel)
    offset, epoch, ms, extra, data = header.groups()
    if extra is None:
        return Announcement(epoch.decode(), Publication(int(offset), clean(data), int(ms)))
    more = _read_extra(extra, faults, channel)
    publication = Publication(int(offset), clean(data), int(ms), bytes(more.tags) or None, bytes(more.info) or None)
    return Announcement(epoch.decode(), publication, more.size, more.ttl)


def read_next(payload: bytes, epoch: str, offset: int) -> Publication | None:
    """The publication that is announced, if it has this ``epoch`` and ``offset``, and neither tags nor options; None for anything else.

    For it alone this takes half as long as ``read_announcement``, and nearly all announcements are so.
    """
    before = f"@{offset} {epoch} ".encode()
    if not payload.startswith(before):
        return None
    end = payload.find(_NEWLINE, len(before))
    ms = payload[len(before) : end]
    if end < 0 or not ms.isdigit() or len(ms) > _DIGITS:
        return None
    return Publication(offset, clean(payload[end + 1 :]), int(ms))


def _read_extra(text: bytes, faults: Faults, channel: str) -> _Extra:
    """What a header has besides the position. What is wrong with it is left out."""
    try:
        extra = _extra(text)
    except UNREADABLE as error:
        faults.found("announcement", channel, error)
        return _Extra()
    if not _is_plain(text):
        extra.tags = msgspec.Raw(_read_tags(bytes(extra.tags) or None, faults, channel) or b"")
        extra.info = msgspec.Raw(_read_info(bytes(extra.info) or None, faults, channel) or b"")
    return extra


def _is_plain(text: bytes) -> bool:
    """Whether tags and info of a header, which is JSON, can be passed on as they are, at the first look: nearly all can."""
    if len(text) > MAX_DEPTH or b"\r" in text or not text.isascii():
        return False
    try:
        _plain(text)
    except UNREADABLE:
        return False
    return True


def _read_other(payload: bytes, faults: Faults, channel: str) -> Announcement | JoinLeave | Reset:
    if not payload.startswith(b"@"):
        return Announcement("", Publication(0, clean(payload)))
    if reset := _RESET(payload):
        return Reset(reset[1].decode(), int(reset[2]))
    if (found := _JOIN_LEAVE(payload)) and (info := clean_as(found[2], _info)) is not None:
        return JoinLeave(found[1].decode(), info)
    faults.found("announcement", channel, "it begins with @ and has no known form")
    return Announcement("", Publication(0, clean(payload)))


def read_entry(entry: list[Any], faults: Faults = _UNCOUNTED, channel: str = "") -> Publication:
    """A stream entry as Valkey returns it: ``[id, [field, value, …]]``. What is wrong with its fields is counted in ``faults``."""
    offset, _, ms = entry[0].partition(b"-")
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    data = fields.get(b"data")
    if data is None:
        faults.found("entry", channel, "it has no data")
        data = b"null"
    tags, info = _read_tags(fields.get(b"tags"), faults, channel), _read_info(fields.get(b"info"), faults, channel)
    return Publication(int(offset), clean(data), int(ms), tags, info)


def read_epoch(epoch: bytes, channel: str) -> str:
    """The epoch of a channel as Valkey has it. Raises StoreError if no function of the library made it."""
    if not _IS_EPOCH(epoch):
        raise StoreError(f"the epoch of {channel} in Valkey is not an epoch: {epoch[:64]!r}")
    return epoch.decode()


def read_presence(found: list[bytes], faults: Faults, channel: str) -> dict[str, bytes]:
    """Client → ClientInfo in JSON, of a presence hash as Valkey returns it: ``[client, info, …]``."""
    present: dict[str, bytes] = {}
    for client, text in zip(found[::2], found[1::2], strict=True):
        info = clean_as(text, _info)
        if info is None or not is_utf8(client):
            faults.found("presence", channel, f"client {client[:40]!r}: it is not ClientInfo in JSON")
        else:
            present[client.decode()] = info
    return present


def _read_tags(text: bytes | None, faults: Faults, channel: str) -> bytes | None:
    return text if text is None else _checked(text, _tags, "tags", faults, channel)


def _read_info(text: bytes | None, faults: Faults, channel: str) -> bytes | None:
    return text if text is None else _checked(text, _info, "info", faults, channel)


def _checked(text: bytes, decode: Callable[[bytes], object], kind: str, faults: Faults, channel: str) -> bytes | None:
    """``text`` on one line; None if it is not such JSON: the publication comes without it."""
    cleaned = clean_as(text, decode)
    if cleaned is None:
        faults.found(kind, channel, f"{text[:60]!r} of a publication")
    return cleaned
