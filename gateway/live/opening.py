"""A channel that opens: the subscriptions that cannot go on before it does wait in it, each for the price of a place in a dict.

Thousands of channels open together after the link was lost, or when many clients connect that have channels of their own. So a
subscription that waits has neither a task nor a future, and a channel resumes some of them in each turn of the loop.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from ..errors import StoreError
from .fanout import FanOut

__all__ = ["Opening", "OpeningWaiter"]

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

    def wake_waiters(self) -> None:
        """The channel has opened: they go on in the next turns of the loop."""
        if self.waiters:
            self.loop.call_soon(self._wake)

    def _wake(self) -> None:
        if not self.is_open or self.waiters is None:
            return  # those that still wait are woken when it opens again
        for waiter in list(islice(self.waiters, WOKEN_AT_ONCE)):
            if waiter in self.waiters:  # it may have ended with one before it
                del self.waiters[waiter]
                self._let_go_on(partial(self.resume, waiter))
        if self.waiters:
            self.wake_waiters()
        else:
            self.waiters = None

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
