"""How closed channels open again: history says where they are, and brings what they missed, for some channels at a time.

    closed ─Valkey confirmed the link's subscription─▶ waits ─few others are read─▶ reads, page by page ─at the top─▶ notifies of gaps ─▶ open

A channel that has no position yet is read without a task (``first_position``). Whatever fails is tried again, and other channels are
mended meanwhile. What a page brings goes through the channel, so that live subscriptions notice nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..errors import StoreError, Unavailable, is_general
from ..publication import Position
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.history import Page
from .channel import Channel
from .first_position import FirstPosition, PositionReader

__all__ = ["MENDED_AT_ONCE", "PAGE", "HistoryReader", "MendingQueue", "MissedEphemeral"]

log = logging.getLogger("gateway.hub")

PAGE = 256  # publications of one read of history
# After the link was lost, all channels are to be mended at once. So many of them read history together: about 3 ms in a turn of the
# loop, 8 ms where each is a client's that connects, and enough to give Valkey something to do meanwhile.
MENDED_AT_ONCE = 32


class HistoryReader(PositionReader, Protocol):
    """What the hub needs of ``store.history.History``, which says what the arguments are. ``read`` raises StoreError."""

    async def read(self, channel: str, since: int = 0, limit: int = 0, *, seen: tuple[Position, int] | None = None) -> Page: ...


class MissedEphemeral(Protocol):
    """Learns where ephemeral publications may have been lost."""

    def on_missed_ephemeral(self, channel: Channel) -> None:
        """Called when ephemeral publications may have been lost on their way to live subscriptions of the channel."""


class MendingQueue:
    """The closed channels of a process that are to be opened. ``reads`` is how often it read history.

    ``failed`` is called for a channel that could not take, once it was open, what had been announced before.
    """

    def __init__(self, history: HistoryReader, missed: MissedEphemeral, tasks: Tasks, failed: Callable[[Channel], None]) -> None:
        self.reads = 0
        self._history = history
        self._missed = missed
        self._tasks = tasks
        self._failed = failed
        self._waiting: OrderedDict[Channel, None] = OrderedDict()  # until fewer than MENDED_AT_ONCE are being mended
        self._mended: set[Channel] = set()  # those that read history now

    def mend(self, channel: Channel) -> None:
        """Where the channel is closed, finds its position and opens it, once Valkey has confirmed the link's subscription."""
        if not channel.is_open and channel.mending is None and channel.acked:
            self._waiting[channel] = None
            self.go_on()

    def go_on(self) -> None:
        """Begins to mend channels that wait, as long as fewer than MENDED_AT_ONCE are being mended."""
        while self._waiting and len(self._mended) < MENDED_AT_ONCE:
            channel, _ = self._waiting.popitem(last=False)
            self._mended.add(channel)
            if channel.epoch or not channel.has_history:
                self._mend_in_task(channel)
            else:
                self.reads += 1
                channel.mending = first = FirstPosition(channel, self._open, self._mend_in_task)
                self._history.begin_position(first, channel.name)

    def stop(self, channel: Channel) -> None:
        """Mends the channel no more; ``go_on`` begins with another one."""
        self._waiting.pop(channel, None)
        self._mended.discard(channel)
        if channel.mending is not None:
            channel.mending.cancel()
            channel.mending = None

    def _mend_in_task(self, channel: Channel) -> None:
        channel.mending = self._tasks.spawn(self._bring_to_top(channel))

    async def _bring_to_top(self, channel: Channel) -> None:
        what, complete = f"channel {channel.name}: history could not be read", False
        while not complete:
            complete = await retrying(partial(self._mend_on, channel), what, log, on=StoreError, quiet=is_general)
        await channel.between_rounds()
        await channel.notify_of_gap()
        if channel.lost_some:
            await channel.notify_of_loss()
        was_lost = channel.lost_at is not None
        self._open(channel)
        if channel.live_count or (was_lost and channel.subscribers):  # those that are not live are to learn of it as well
            self._missed.on_missed_ephemeral(channel)

    def _open(self, channel: Channel) -> None:
        """Its position is that of Valkey."""
        channel.mending = None
        self._mended.discard(channel)
        try:
            channel.open()
        except Exception:  # what was held, which is in history or lost, must not fail the subscriptions that wait
            self._failed(channel)
        self.go_on()

    async def _mend_on(self, channel: Channel) -> bool:
        """``_take_next_page``. While a channel whose history cannot be read waits for its next attempt, others are mended."""
        try:
            return await self._take_next_page(channel)
        finally:
            self._mended.discard(channel)
            self.go_on()

    async def _take_next_page(self, channel: Channel) -> bool:
        """Moves a closed channel on by one page of history. True if it has the newest position then. Raises StoreError."""
        older = channel.detach_held()
        try:
            page = await self._read_on(channel)
        except StoreError as error:
            channel.put_back(older)
            if not isinstance(error, Unavailable):
                channel.fail_waiters(error)
            raise
        await channel.between_rounds()
        await channel.notify_of_gap()  # of those that an earlier attempt found, as the link was lost again
        complete = channel.take(page)
        channel.put_back(item for item in older if channel.is_still_valid(item))
        return complete

    async def _read_on(self, channel: Channel) -> Page:
        """The page after the channel's position, or its position alone if there is none yet."""
        if not channel.has_history:
            return Page(Position("-", 0), 0, [])
        self.reads += 1
        if not channel.epoch:
            return await self._history.read(channel.name)
        seen = (channel.position, channel.ms)
        return await self._history.read(channel.name, channel.offset, PAGE, seen=seen)
