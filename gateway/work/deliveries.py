"""What a durable reader gives: a publication to acknowledge, and the gap before it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from ..publication import Position, Publication

__all__ = ["Delivery", "Gap", "Settling"]

LONGEST_INTEGER = 4300  # digits, the most that Python reads

_decode_text = msgspec.json.Decoder().decode


def _decode(text: bytes) -> Any:
    """JSON has numbers that no float and no integer of msgspec's can hold, as 1e999: such are infinite, as in a browser."""
    try:
        return _decode_text(text)
    except msgspec.ValidationError:
        return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < LONGEST_INTEGER else float(digits)


class Gap(NamedTuple):
    """What was lost: the publications after ``since`` up to ``until``. If their epochs differ, the history began anew, and how many is not known."""

    since: Position
    until: Position

    @property
    def lost(self) -> int | None:
        """How many publications; None where that cannot be known."""
        return self.until.offset - self.since.offset if self.since.epoch == self.until.epoch else None


class Settling(Protocol):
    """What gave a delivery: the reader, while it reads the channel."""

    async def settle(self, delivery: Delivery, reason: str | None) -> bool: ...


class Delivery:
    """One publication of a channel, given to one instance of a group until it is acknowledged or rejected.

    ``data`` is decoded JSON, ``time`` when it was published, ``tags`` its tags or None. ``gap`` is what was lost before it, else None.
    ``deliveries`` is how often it was given to instances, this time included: 1 means that no application has seen it.
    """

    __slots__ = ("_settling", "channel", "data", "deliveries", "epoch", "gap", "id", "ms", "offset", "tags")

    def __init__(
        self, settling: Settling, channel: str, epoch: str, publication: Publication, deliveries: int, gap: Gap | None = None
    ) -> None:
        self._settling = settling
        self.channel = channel
        self.epoch = epoch
        self.offset = publication.offset
        self.ms = publication.ms
        self.id = f"{publication.offset}-{publication.ms}"  # of its entry in the stream
        self.data: Any = _decode(publication.data)
        self.tags: dict[str, str] | None = None if publication.tags is None else _decode(publication.tags)
        self.gap = gap
        self.deliveries = deliveries

    @property
    def position(self) -> Position:
        """Its position in the channel."""
        return Position(self.epoch, self.offset)

    @property
    def time(self) -> datetime:
        """When it was published, by Valkey's clock, in UTC."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    async def ack(self) -> bool:
        """Acknowledges this publication: the group does not get it again. Waits while Valkey cannot be reached, or takes no writes.

        Returns False if it was not recorded, because another instance reads the channel now, or its history was replaced: then the
        publication is given again, to whichever instance reads the channel. Where only Valkey's answer was lost, it asks again, and returns True if
        the acknowledgement was recorded, even if another instance reads the channel by then; but not if an earlier publication was not settled, or the
        reader is closed. Raises StoreError if Valkey refuses.
        """
        return await self._settling.settle(self, None)

    async def reject(self, reason: str) -> bool:
        """Makes it a dead letter with this reason, and reading goes on after it. Returns and raises as ``ack``."""
        return await self._settling.settle(self, reason)

    def __repr__(self) -> str:
        return f"<publication {self.channel} {self.epoch}:{self.offset}>"
