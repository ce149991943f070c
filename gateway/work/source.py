"""What a bridge reads from, as far as all sources are alike; and the record of what could not be published."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..rules.json_text import encode
from .mapping import Entry

__all__ = ["BATCH", "BATCH_BYTES", "FAILED_MOST", "Batch", "Source", "failure"]

BATCH = 100  # entries that are published at once: Valkey needs about a millisecond for them
BATCH_BYTES = 1024 * 1024
FAILED_MOST = 1000  # newest records of a list of what failed
SHOWN = 16 * 1024  # bytes of an entry in its record; one field may pass it
FIELD_BYTES = 6  # what JSON adds to a field


class Batch(NamedTuple):
    """``entries`` from ``position`` on, which end at ``next``; their versions are of ``epoch``.

    ``waiting`` is how many further entries there are; ``lost`` how many were found to be gone before they could be read.
    """

    epoch: str
    entries: Sequence[Entry]
    position: bytes = b""
    next: bytes = b""
    waiting: int = 0
    lost: int = 0


class Source(Protocol):
    """The foreign List, Stream, channel or pattern of one bridge. Every method raises StoreError, and may be called again then.

    ``failed`` is the List of what could not be published.
    """

    failed: bytes

    async def prepare(self) -> None:
        """Is called once at the start of each process, whether it works or stands by."""

    async def open(self) -> None:
        """Begins to listen."""

    async def close(self) -> None: ...

    async def take(self) -> Batch:
        """The next entries, as soon as there is one."""

    async def finish(self, batch: Batch, failures: Sequence[bytes]) -> int:
        """All of the batch are published, but for ``failures``, which are recorded. Returns how many older records are dropped; -1 if another process
        finished the batch."""


def failure(entry: Entry, source: str, reason: str) -> bytes:
    """The record of an entry that could not be published: a JSON object with ``at`` (unix ms), ``source``, ``id``, ``reason``, ``entry``.

    ``id`` is the entry's, else its version. ``entry`` is its text, or the object of its fields, and ends early if it is long.
    """
    shown = _head(entry.content) if isinstance(entry.content, bytes) else _fields(entry.content)
    record = {"at": int(time.time() * 1000), "source": source, "id": entry.id or entry.version, "reason": reason, "entry": shown}
    return encode(record)


def _fields(content: list[bytes]) -> object:
    """An object, or the list of names and values if a name comes twice. It ends once it has SHOWN bytes."""
    texts: list[str] = []
    size = 0
    for name, value in zip(content[::2], content[1::2], strict=True):
        texts += _head(name), _head(value)
        size += len(name) + len(value) + FIELD_BYTES
        if size > SHOWN:
            break
    fields = dict(zip(texts[::2], texts[1::2], strict=True))
    return fields if len(fields) * 2 == len(texts) else texts


def _head(text: bytes) -> str:
    return text[:SHOWN].decode(errors="backslashreplace")
