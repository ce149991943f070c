"""From an entry of a List or Stream, or a message, to a publication, by the rules of its bridge. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..bridging import STAR, BridgeRules, Template
from ..errors import BadRequest, UnknownChannel
from ..publication import channel_fault
from ..rules.json_text import UNREADABLE, clean, decode_json, encode, is_json, is_utf8, mend_surrogates
from ..rules.notifications import NAMESPACE, notification_id

__all__ = ["Entry", "Mapped", "Mapping", "Unpublishable"]

KEY_BYTES = 512  # of an idempotency key; a channel remembers 10,000 of them


class Entry(NamedTuple):
    """``content`` is a text, or ``[field, value, …]`` of a Stream's entry. ``version`` is a decimal number, which grows from entry to entry.

    ``id`` is that of a Stream's entry; of a List's it is the number of those that were taken until then. ``star`` is what the star of a pattern
    matched. ``size`` > 0: it is so large that ``content`` is its beginning alone.
    """

    version: str
    content: bytes | list[bytes]
    id: str = ""
    star: str = ""
    size: int = 0


class Mapped(NamedTuple):
    """What is published: ``data`` is JSON on one line; ``key`` is the idempotency key, or "". ``inbox``: it is a notification."""

    channel: str
    data: bytes
    key: str
    inbox: bool


class Unpublishable(Exception):
    """The entry cannot be published; the message says why."""


class Mapping:
    """The rules of one bridge. ``known(channel)`` raises UnknownChannel for one whose namespace is not configured (``Config.rules``)."""

    def __init__(self, rules: BridgeRules, known: Callable[[str], object]) -> None:
        self._rules = rules
        self._known = known
        self._channel, self._key = Template(rules.channel), Template(rules.key)
        self._reads = any(path != STAR for path in rules.paths)

    def publication(self, entry: Entry) -> Mapped:
        """What ``entry`` becomes. Raises Unpublishable."""
        if entry.size:
            raise Unpublishable(f"it is too large: {entry.size} bytes")
        data = self._data(_text(entry.content, self._rules.field))
        document = _document(data) if self._reads else None
        channel = self._checked_channel(_filled(self._channel, document, entry.star))
        key = _filled(self._key, document, entry.star)
        if len(key.encode()) > KEY_BYTES:
            raise Unpublishable(f"its key is longer than {KEY_BYTES} bytes")
        return Mapped(channel, data, key, _is_inbox(channel, data))

    def _data(self, text: bytes) -> bytes:
        """``text`` if it is JSON, else as a JSON string."""
        if not is_utf8(text):
            raise Unpublishable("it is not UTF-8")
        if self._rules.json_only and not is_json(mend_surrogates(text)):
            raise Unpublishable("it is not JSON")
        return clean(text)

    def _checked_channel(self, channel: str) -> str:
        if fault := channel_fault(channel):
            raise Unpublishable(f"{fault}: {channel[:300]!r}")
        try:
            self._known(channel)
        except UnknownChannel as error:
            raise Unpublishable(str(error)) from None
        return channel


def _text(content: bytes | list[bytes], field: str) -> bytes:
    """The message of an entry: its text, the named field, the field "data" if there is no other, else all fields as an object."""
    if isinstance(content, bytes):
        return content
    fields = dict(zip(content[::2], content[1::2], strict=True))
    if field:
        if (named := fields.get(field.encode())) is None:
            raise Unpublishable(f"it has no field {field!r}")
        return named
    if len(fields) * 2 != len(content):
        raise Unpublishable("it has a field twice")
    if list(fields) == [b"data"]:
        return fields[b"data"]
    try:
        return encode({name.decode(): value.decode() for name, value in fields.items()})
    except UnicodeDecodeError:
        raise Unpublishable("it is not UTF-8") from None


def _document(data: bytes) -> Any:
    try:
        return decode_json(data, Any)
    except UNREADABLE as error:
        raise Unpublishable(f"it cannot be read: {error}") from None


def _filled(template: Template, document: Any, star: str) -> str:
    return template.filled([star if path == STAR else _picked(document, path) for path in template.paths])


def _picked(document: Any, path: str) -> str:
    """The text or whole number at ``path``, as in "product.id" or "items.0.id"."""
    value = document
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 10 and int(name) < len(value):
            value = value[int(name)]
        else:
            raise Unpublishable(f"it has no {path!r}")
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise Unpublishable(f"its {path!r} is not a text or a whole number")
    return str(value)


def _is_inbox(channel: str, data: bytes) -> bool:
    if not channel.startswith(f"{NAMESPACE}:"):
        return False
    try:
        notification_id(data)
    except BadRequest as error:
        raise Unpublishable(str(error)) from None
    return True
