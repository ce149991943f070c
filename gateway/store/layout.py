"""The public layout in Valkey: names of keys, announcements, stream entries, the words of a publish. Source: INTERFACE.md.

An announcement is ``@<offset> <epoch> <unix ms>[ <JSON>]``, a newline, the data; offset 0 has no place in history.
``@join`` and ``@leave``, each with a ClientInfo in JSON, say that a client joined or left the channel; ``@reset <epoch> <offset>`` says that
what gateways remember of the channel is void. Anything else is the data of an ephemeral publication.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import msgspec

from ..publication import Publication
from ..rules.json_text import clean, encode

__all__ = ["Announcement", "Layout", "Movement", "PublishOptions", "Reset", "Word", "publish_words", "read_announcement", "read_entry"]

Word = bytes | str | int | float  # one argument of a command; Valkey receives all of them as text


class Layout:
    """The names of keys and Pub/Sub channels in Valkey. All begin with ``prefix``; all are bytes."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
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

    def rpc(self, method: str) -> tuple[bytes, bytes]:
        """The list of a method's requests, and the lease of the services that serve it: the keys that gateway_call takes."""
        base = f"{self.prefix}:rpc:{{{method}}}".encode()
        return base, base + b":service"

    def heartbeat(self, node: str) -> bytes:
        """The Pub/Sub channel on which process ``node`` receives its own heartbeats, which prove that its link works, and replies to rpc."""
        return f"{self.prefix}:node:{node}".encode()


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


class Announcement(msgspec.Struct, gc=False):
    """A publication as announced. ``epoch`` is "" or "-" for an ephemeral one.

    ``size`` (publications) and ``ttl`` (seconds) are those that this publication set itself, None where the namespace's rules hold.
    """

    epoch: str
    publication: Publication
    size: int | None = None
    ttl: int | None = None


class Movement(msgspec.Struct, gc=False):
    """A client joined a channel, ``kind`` "join", or left it, "leave"; ``info`` is its ClientInfo in JSON. ``epoch`` is always ""."""

    kind: str
    info: bytes
    epoch: str = ""


class Reset(msgspec.Struct, gc=False):
    """What gateways remember of a channel is void: its history was removed or is another one. It is at ``epoch`` and ``offset`` now."""

    epoch: str
    offset: int


class _Extra(msgspec.Struct):
    tags: msgspec.Raw = msgspec.Raw()
    info: msgspec.Raw = msgspec.Raw()
    size: int | None = None
    ttl: int | None = None


_extra = msgspec.json.Decoder(_Extra)


def read_announcement(payload: bytes) -> Announcement | Movement | Reset:
    """Reads any bytes: what is no announcement of a known form is the data of an ephemeral publication. Raises nothing."""
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


def read_entry(entry: list[Any]) -> Publication:
    """A stream entry as Valkey returns it: ``[id, [field, value, …]]``."""
    offset, _, ms = entry[0].partition(b"-")
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    return Publication(int(offset), clean(fields.get(b"data", b"null")), int(ms), fields.get(b"tags"), fields.get(b"info"))


def _bytes(raw: msgspec.Raw) -> bytes | None:
    return bytes(raw) or None
