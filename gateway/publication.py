"""The words of the live path: a position in a channel, and a publication."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

import msgspec

__all__ = ["MAX_CHANNEL_LENGTH", "MAX_OFFSET", "Position", "Publication", "Tags", "channel_fault"]

# JavaScript numbers are exact up to here; offsets count from 1, so no channel gets near.
MAX_OFFSET = 2**53 - 1

MAX_CHANNEL_LENGTH = 255
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f{}\ud800-\udfff]")


def channel_fault(name: str) -> str:
    """Says what is wrong with a channel's name; "" if nothing is.

    Braces mark the hash slot in Valkey's keys, control characters would break lines of logs and streams.
    """
    if not name:
        return "the channel has no name"
    if len(name) > MAX_CHANNEL_LENGTH:
        return f"the channel's name is longer than {MAX_CHANNEL_LENGTH} characters"
    if _FORBIDDEN.search(name):
        return "the channel's name holds a brace, a control character or half a surrogate pair"
    return ""


class Position(NamedTuple):
    """A place in a channel: ``epoch`` names one life of its history, ``offset`` counts publications from 1."""

    epoch: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads ``EPOCH:OFFSET``.

        Raises ValueError, with a message for people, if the text is not a position or past ``MAX_OFFSET``.
        """
        epoch, colon, digits = text.rpartition(":")
        if not colon or not (digits.isascii() and digits.isdigit()) or len(digits) > 16:
            raise ValueError(f"{text[:60]!r} is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17")
        offset = int(digits)
        if offset > MAX_OFFSET:
            raise ValueError(f"the offset {digits} is past {MAX_OFFSET}")
        return cls(epoch, offset)

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


class Tags(msgspec.Struct, gc=False):
    """A publication's tags, parsed. ``numbers`` has the texts that a filter has compared as numbers; None for one that is no number."""

    texts: dict[str, str]
    numbers: dict[str, Decimal | None] = {}


class Publication(msgspec.Struct, gc=False):
    """One immutable JSON document in a channel.

    ``offset`` is 0 for an ephemeral publication, which has no place in history. ``data`` is JSON on one line,
    ``ms`` the unix time in milliseconds at which Valkey counted it, ``tags`` and ``info`` raw JSON or None.
    ``json``, ``ws`` and ``sse`` cache its encoded forms, each made when it is first needed; ``change`` caches the form for
    subscribers that have the publication before it (a delta), ``parsed`` its tags for the first filter that reads them.

    It holds nothing but bytes, texts and numbers, so the collector of cycles need not know it: rings hold a hundred thousand of them,
    and looking through those took a fifth of the gateway's time where every client has a channel of its own.
    """

    offset: int
    data: bytes
    ms: int = 0
    tags: bytes | None = None
    info: bytes | None = None
    json: bytes | None = None
    ws: bytes | None = None
    sse: bytes | None = None
    change: bytes | None = None
    parsed: Tags | None = None
