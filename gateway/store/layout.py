"""The public layout in Valkey: names of keys, announcements, stream entries. Source: INTERFACE.md.

An announcement is ``@<offset> <epoch> <unix ms>[ <JSON>]``, a newline, the data; offset 0 has no place in history.
``@join`` and ``@leave``, with a ClientInfo in JSON, say who came and went; ``@reset <epoch> <offset>`` says that what gateways remember of the channel is void. Anything else is the data of an
ephemeral publication.
"""

from __future__ import annotations

import msgspec

from ..publication import Publication
from ..rules.json_text import clean

__all__ = ["Announcement", "Layout", "Movement", "Reset", "read_announcement", "read_entry"]


class Layout:
    """Names in Valkey, all behind one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._opening = f"{prefix}:{{".encode()

    def channel(self, name: str) -> bytes:
        """The Pub/Sub channel."""
        return b"%s%s}" % (self._opening, name.encode())

    def name(self, pubsub_channel: bytes) -> str:
        return pubsub_channel[len(self._opening) : -1].decode()

    def keys(self, name: str) -> tuple[bytes, bytes, bytes]:
        """meta, stream, keys: what every function of the library is given."""
        base = self.channel(name)
        return base + b":meta", base + b":stream", base + b":keys"

    def inbox_keys(self, name: str) -> tuple[bytes, ...]:
        """The same and unread, inbox: what the functions of an inbox are given."""
        base = self.channel(name)
        return (*self.keys(name), base + b":unread", base + b":inbox")

    def presence(self, name: str) -> bytes:
        return self.channel(name) + b":presence"

    def rpc(self, method: str) -> tuple[bytes, bytes]:
        """The list of a method's requests, and the lease of those who serve it: what gateway_call is given."""
        base = f"{self.prefix}:rpc:{{{method}}}".encode()
        return base, base + b":service"

    def heartbeat(self, node: str) -> bytes:
        """The Pub/Sub channel by which one process proves that its link works, and on which it is answered."""
        return f"{self.prefix}:node:{node}".encode()


class Announcement(msgspec.Struct, gc=False):
    """A publication as announced. ``size`` and ``ttl`` only where they differ from the namespace's rules."""

    epoch: str
    publication: Publication
    size: int | None = None
    ttl: int | None = None


class Movement(msgspec.Struct, gc=False):
    """Somebody came, ``kind`` "join", or went, "leave"; ``info`` is their ClientInfo in JSON."""

    kind: str
    info: bytes
    epoch: str = ""


class Reset(msgspec.Struct, gc=False):
    epoch: str
    offset: int


class _Extra(msgspec.Struct):
    tags: msgspec.Raw = msgspec.Raw()
    info: msgspec.Raw = msgspec.Raw()
    size: int | None = None
    ttl: int | None = None


_extra = msgspec.json.Decoder(_Extra)


def read_announcement(payload: bytes) -> Announcement | Movement | Reset:
    """Any bytes at all are an announcement of something: what is malformed is taken as ephemeral data."""
    if not payload.startswith(b"@"):
        return Announcement("", Publication(0, clean(payload)))
    head, newline, data = payload.partition(b"\n")
    words = head.split(b" ", 3)
    try:
        if newline and len(words) == 3:
            return Announcement(words[1].decode(), Publication(int(words[0][1:]), clean(data), int(words[2])))
        return _read_rare(words, newline, data)
    except (ValueError, IndexError, msgspec.MsgspecError):
        return Announcement("", Publication(0, clean(payload)))


def _read_rare(words: list[bytes], newline: bytes, data: bytes) -> Announcement | Movement | Reset:
    if not newline:
        if words[0] in (b"@join", b"@leave"):
            info = b" ".join(words[1:])
            msgspec.json.decode(info, type=dict)
            return Movement(words[0][1:].decode(), clean(info))
        kind, epoch, offset = words
        if kind != b"@reset":
            raise ValueError(kind)
        return Reset(epoch.decode(), int(offset))
    extra = _extra.decode(words[3])
    publication = Publication(int(words[0][1:]), clean(data), int(words[2]), _bytes(extra.tags), _bytes(extra.info))
    return Announcement(words[1].decode(), publication, extra.size, extra.ttl)


def read_entry(entry: list) -> Publication:
    """A stream entry as Valkey returns it: ``[id, [field, value, …]]``."""
    offset, _, ms = entry[0].partition(b"-")
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    return Publication(int(offset), clean(fields.get(b"data", b"null")), int(ms), fields.get(b"tags"), fields.get(b"info"))


def _bytes(raw: msgspec.Raw) -> bytes | None:
    return bytes(raw) or None
