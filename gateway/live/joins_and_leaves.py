"""A channel's joins and leaves, on their way to the subscriptions that get them: so many in one turn of the loop.

When many clients come back together, each of those that are there gets each join: a thousand joins of a channel with a thousand observers are
a million messages. They are handed on in *passes*, each of which brings all observers what has come since the one before it. Where more
come than can be handed on, the oldest are dropped: an observer's list is right again once it reads presence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from ..store.layout import JoinLeave

__all__ = ["PASSED_AT_ONCE", "JoinLeaveObserver", "JoinsAndLeaves"]

log = logging.getLogger("gateway.hub")

PASSED_AT_ONCE = 1000  # work of one turn of the loop, in writes to subscribers: about 10 ms
MESSAGES_PER_WRITE = 8  # joins and leaves that take about as long as one write: each is framed for each observer
PASS_MOST = 250  # joins and leaves of one pass: about 32 KiB, half of what may wait for a client
WAITING_MOST = 20_000  # that wait for a pass, where clients come and go faster than it can be handed on: about 8 MiB, the newest ones


class JoinLeaveObserver(Protocol):
    """A subscription whose client gets the joins and leaves of the channel."""

    def on_join_leave(self, joins_and_leaves: list[JoinLeave]) -> None:
        """These clients came and went, in this order."""

    def __hash__(self) -> int: ...


class JoinsAndLeaves:
    """The observers of the channel ``name``. ``bool()`` is whether there are any. ``later`` calls what it is given in a later turn of the loop."""

    __slots__ = ("_drops", "_items", "_later", "_left", "_name", "_observers", "_waiting")

    def __init__(self, name: str, later: Callable[[Callable[[], None]], object]) -> None:
        self._name = name
        self._later = later
        self._drops = False  # since the log said so
        self._observers: dict[JoinLeaveObserver, None] = {}
        self._items: list[JoinLeave] = []  # of the pass under way
        self._left: Iterator[JoinLeaveObserver] | None = None  # the observers that it has not come to yet; None: there is no pass
        self._waiting: list[JoinLeave] = []  # for the next pass

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: JoinLeaveObserver) -> None:
        """From now on it gets them; adding it twice changes nothing."""
        self._observers[observer] = None

    def remove(self, observer: JoinLeaveObserver) -> None:
        """It gets no more of them; it need not be an observer."""
        self._observers.pop(observer, None)

    def announce(self, items: list[JoinLeave]) -> None:
        """Hands these on, at once where they are few for few observers, else in the next turns of the loop."""
        if not self._observers:
            return
        self._waiting += items
        if self._left is None:
            self._begin()
        if len(self._waiting) > WAITING_MOST:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        del self._waiting[:-WAITING_MOST]
        if not self._drops:
            self._drops = True
            log.warning("channel %s: clients join and leave faster than %d others can be notified of it", self._name, len(self._observers))

    def _begin(self) -> None:
        self._items, self._waiting = self._waiting[:PASS_MOST], self._waiting[PASS_MOST:]
        self._left = iter(list(self._observers))
        self._go_on()

    def _go_on(self) -> None:
        assert self._left is not None
        portion = max(1, PASSED_AT_ONCE // (1 + len(self._items) // MESSAGES_PER_WRITE))
        some = list(islice(self._left, portion))
        for observer in some:
            if observer in self._observers:  # otherwise it has ended meanwhile
                self._hand_on(observer)
        if len(some) == portion:
            self._later(self._go_on)
            return
        self._left, self._items = None, []
        self._drops = self._drops and bool(self._waiting)
        if self._waiting:
            self._left = iter(())
            self._later(self._begin)

    def _hand_on(self, observer: JoinLeaveObserver) -> None:
        try:
            observer.on_join_leave(self._items)
        except Exception:  # the others must get theirs
            log.exception("joins and leaves did not reach a subscription")
