"""Which rows of an outbox still count: not those whose savepoint or transaction was undone, by whomever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Undoing"]


class _Row:
    undone = False


class Undoing:
    """The rows that each connection has written in the transaction that is under way, with its savepoints in between.

    ``connection`` is any object that stays the same for the transaction. ``savepoint`` is any name but None; where savepoints have the same
    name, the innermost one is meant.
    """

    def __init__(self) -> None:
        self._acts: dict[Any, list[Any]] = {}

    def wrote(self, connection: Any) -> Callable[[], bool]:
        """A row was written. Returns a function that returns whether it still counts."""
        row = _Row()
        self._acts.setdefault(connection, []).append(row)
        return lambda: not row.undone

    def began(self, connection: Any, savepoint: Any) -> None:
        """What is written from now on is undone with the savepoint."""
        self._acts.setdefault(connection, []).append(savepoint)

    def undid(self, connection: Any, savepoint: Any = None) -> None:
        """The savepoint was undone, and those in it; None, and one that is not known, since it is older: the whole transaction."""
        acts = self._acts.get(connection, [])
        at = _place(acts, savepoint) + 1
        for row in acts[at:]:
            if isinstance(row, _Row):
                row.undone = True
        del acts[at:]

    def ended(self, connection: Any, savepoint: Any) -> None:
        """The savepoint cannot be undone any more."""
        acts = self._acts.get(connection, [])
        at = _place(acts, savepoint)
        if at >= 0:
            del acts[at]

    def committed(self, connection: Any) -> None:
        """What was written is there for good."""
        self._acts.pop(connection, None)


def _place(acts: list[Any], savepoint: Any) -> int:
    """Where the savepoint began, the last one of that name; -1 if it is not there."""
    return next((at for at in reversed(range(len(acts))) if acts[at] == savepoint), -1)
