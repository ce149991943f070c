"""Heads of requests that a connection repeats: a backend sends the same one with each publish, but for the length of the body.

What a parser finds in a head depends on nothing but the head's bytes, where it begins at the end of a request. So a head that it has read
once, and that differs in the digits of its content-length at most, is not parsed again: that takes more than publishing does. Only heads with
a valid key are learned, each connection has its own, and what is compared are all of its other bytes, the key among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["BLANK_LINE", "Found", "Head", "KnownHeads"]

HEADS_MOST = 8  # of one connection: a backend that names each request in its head fills it again and again
DIGITS_MOST = 12
BLANK_LINE = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "


class Head(NamedTuple):
    """``name`` is the method of the API, ``fields`` are the headers by their names in lower case."""

    name: str
    fields: Mapping[bytes, bytes]


class Found(NamedTuple):
    """A request in what was read: its head is known, its body is from ``start`` to ``end``, which may be more than was read."""

    head: Head
    start: int
    end: int


class KnownHeads:
    """The known heads of one connection, HEADS_MOST at most."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}  # by their bytes without the digits

    def learn(self, data: bytes, head: Head) -> None:
        """``data`` begins with this head, and the parser found no more than one request in it."""
        if b"transfer-encoding" in head.fields:
            return
        text, size, _ = _cut(data, 0)
        if size >= 0:
            if len(self._heads) >= HEADS_MOST:
                self._heads.clear()
            self._heads[text] = head

    def find(self, data: bytes, at: int) -> Found | None:
        """The request that begins at ``at``; None if its head is not known, or not complete."""
        text, size, start = _cut(data, at)
        head = self._heads.get(text)
        return None if head is None else Found(head, start, start + size)


def _cut(data: bytes, at: int) -> tuple[bytes, int, int]:
    """The head that begins at ``at``, without the digits of its content-length, which has one space before them, as nearly all have; the number;
    and where the body begins. The number is -1 where that is not so."""
    start = data.find(BLANK_LINE, at) + len(BLANK_LINE)
    head = data[at:start]
    digits = head.lower().find(_LENGTH) + len(_LENGTH)
    end = head.find(b"\r", digits)
    number = head[digits:end]
    if start < len(BLANK_LINE) or digits < len(_LENGTH) or not number.isdigit() or len(number) > DIGITS_MOST:
        return b"", -1, 0
    return head[:digits] + head[end:], int(number), start
