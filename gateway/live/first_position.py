"""The first position of a channel: read without a task and without a future, since each client that connects may have a channel of its own.

What may go wrong is left to the hub, which reads again as it does for all other channels: in a task, with pauses, and with a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import StoreError
from ..store.command import Waiter
from ..store.history import Page
from .channel import Channel

__all__ = ["FirstPosition", "PositionReader"]


class PositionReader(Protocol):
    """What it needs of ``store.history.History``, which says what the arguments are."""

    def begin_position(self, waiter: Waiter, channel: str) -> None: ...


class FirstPosition:
    """The waiter of that read, for a closed channel that has no position: none of its subscriptions has begun, so nobody is to be notified of anything.

    ``found`` is called once the channel has its position, ``failed`` if it could not be read. After ``cancel()`` neither is.
    """

    __slots__ = ("_cancelled", "_channel", "_failed", "_found", "_older")

    def __init__(self, channel: Channel, found: Callable[[Channel], None], failed: Callable[[Channel], None]) -> None:
        self._channel = channel
        self._found = found
        self._failed = failed
        self._older = channel.detach_held()
        self._cancelled = False

    def done(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def set_result(self, result: Page, /) -> None:
        if self._cancelled:
            return
        channel = self._channel
        channel.take(result)
        if self._older:
            channel.put_back(item for item in self._older if channel.is_still_valid(item))
        self._found(channel)

    def set_exception(self, exception: StoreError, /) -> None:
        if self._cancelled:
            return
        self._channel.put_back(self._older)
        self._failed(self._channel)
