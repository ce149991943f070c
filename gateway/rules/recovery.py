"""Recovery: from a position to live, without a hole and without a repeat.

Two rules carry the guarantee. ``judge`` compares a position with a channel's newest one; ``following`` takes what
history and the live path gave, in any order and with repeats, and returns what comes next without a hole.
Both are pure; the hub and the subscriptions do what they return.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from ..errors import UnrecoverablePosition
from ..publication import Position, Publication

__all__ = ["NEVER_WAS", "Standing", "following", "judge", "recovery_start", "same_life"]

NEVER_WAS = Position("?", 0)  # no epoch is "?": nothing can be recovered from here


class Standing(Enum):
    """Where a position is, compared with a channel's newest one."""

    LEVEL = "at the top: the next live publication is the next one it needs"
    BEHIND = "in the same life of the history, before the top"
    AHEAD = "past the top: a faster gateway served it, or it never existed"
    LOST = "in another life of the history: nothing can be said about what was missed"


def judge(position: Position, top: Position) -> Standing:
    """Compares a subscriber's position with the channel's. An empty epoch agrees with any."""
    if position.epoch and position.epoch != top.epoch:
        return Standing.LOST
    if position.offset == top.offset:
        return Standing.LEVEL
    return Standing.BEHIND if position.offset < top.offset else Standing.AHEAD


def recovery_start(position: Position | None, *, admitted: bool) -> Position | None:
    """The position from which a client recovers that asks for ``position``; ``admitted`` is whether the history rule lets it read history.

    A position without an epoch agrees with any history, so it asks for history that the client need not have followed: it is
    for those that may read history. For others it becomes ``NEVER_WAS``. Who names the epoch was a subscriber once; whether the offset was given to
    that client is not known, so it recovers from any that history holds.
    """
    return NEVER_WAS if position is not None and not position.epoch and not admitted else position


def same_life(position: Position, epoch: str) -> None:
    """Raises UnrecoverablePosition if the position is of another life of the history than ``epoch``; an empty epoch agrees with any."""
    if position.epoch not in ("", epoch):
        raise UnrecoverablePosition(f"the epoch is {epoch} now")


def following(offset: int, publications: Iterable[Publication]) -> list[Publication]:
    """Those of ``publications``, which may come in any order, that follow ``offset`` without a hole; repeats and older ones are dropped."""
    run: list[Publication] = []
    for publication in sorted(publications, key=_by_offset):
        if publication.offset == offset + 1:
            run.append(publication)
            offset += 1
        elif publication.offset > offset:
            break
    return run


def _by_offset(publication: Publication) -> int:
    return publication.offset
