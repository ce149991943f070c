"""A channel that opens: the subscriptions that cannot go on before it does wait in it, each at the cost of an entry in a dict.

Thousands of channels open together after the link was lost, or when many clients connect that have channels of their own. So a
subscription that waits has neither a task nor a future, and of all channels that opened together, each turn of the loop resumes some
subscriptions only.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from ..errors import StoreError
from .fanout import FanOut

__all__ = ["Opened", "Opening", "OpeningWaiter"]

log = logging.getLogger("gateway.hub")

WOKEN_AT_ONCE = 100  # subscriptions that go on in one turn of the loop: about 6 ms


class OpeningWaiter(Protocol):
    """A subscription, as far as a channel that is closed has to do with it. ``begun``: its client was answered already."""

    begun: bool

    def fail(self, error: StoreError) -> None:
        """It cannot begin."""

    def __hash__(self) -> int: ...


class Opening(FanOut):
    """``waiters`` are the subscriptions that go on when the channel opens, in their order; None for none, as of nearly all channels."""

    __slots__ = ("waiters",)

    waiters: dict[OpeningWaiter, None] | None

    @property
    @abstractmethod
    def is_open(self) -> bool: ...

    @abstractmethod
    def resume(self, waiter: OpeningWaiter) -> None:
        """The channel is open, for which this subscription waited."""

    def await_opening(self, waiter: OpeningWaiter) -> None:
        """It is resumed when the channel is open, unless it does not wait any longer."""
        if self.waiters is None:
            self.waiters = {}
        self.waiters[waiter] = None

    def stop_waiting(self, waiter: OpeningWaiter) -> None:
        """Clients may come and go for as long as the channel is closed. Stopping twice changes nothing."""
        if self.waiters is not None:
            self.waiters.pop(waiter, None)

    def wake(self, most: int) -> int:
        """Resumes up to so many of those that wait, unless the channel is closed again. Returns how many it resumed."""
        if not self.is_open or not self.waiters:
            return 0
        woken = list(islice(self.waiters, most))
        for waiter in woken:
            if self.waiters is not None and waiter in self.waiters:  # it may have ended with one before it
                del self.waiters[waiter]
                self._let_go_on(partial(self.resume, waiter))
        self.waiters = self.waiters or None
        return len(woken)

    def fail_waiters(self, error: StoreError) -> None:
        """Valkey refuses to read the history, as where a key is of another type: subscriptions that wait to begin are refused."""
        for waiter in [each for each in self.waiters or () if not each.begun]:
            self.stop_waiting(waiter)
            self._let_go_on(partial(waiter.fail, error))

    def _let_go_on(self, go_on: Callable[[], None]) -> None:
        try:
            go_on()
        except Exception:  # the others must go on
            log.exception("channel %s: a subscription that waited for it failed", self.name)


class Opened:
    """The channels of a process that have opened, and that subscriptions still wait for: WOKEN_AT_ONCE of these go on in each turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._channels: OrderedDict[Opening, None] = OrderedDict()
        self._goes_on = False  # the next turn is scheduled

    def add(self, channel: Opening) -> None:
        """The channel has opened: those that wait for it go on, from the next turn of the loop on."""
        self._channels[channel] = None
        self._go_on_later()

    def _go_on_later(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._wake_some)

    def _wake_some(self) -> None:
        self._goes_on, room = False, WOKEN_AT_ONCE
        while self._channels and room > 0:
            channel, _ = self._channels.popitem(last=False)
            woken = channel.wake(room)
            room -= woken
            if woken and channel.waiters:
                self._channels[channel] = None  # others have their turn first
        if self._channels:
            self._go_on_later()
