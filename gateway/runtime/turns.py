"""Turns of the loop: how much of one kind of work each of them does, so that a burst of it holds up nothing else for long."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

__all__ = ["Turns"]

log = logging.getLogger("gateway.turns")


class Turns:
    """Each turn of the loop has ``most`` slots, one for each piece of work that it does. Work that finds no free slot waits, in order, for one in a
    later turn.

    A piece of work asks with ``take`` and begins at once if that is true; otherwise it is given to ``later``. Both cost a
    fraction of a microsecond. One that turns out to take as long as several occupies further slots with ``take_more``. ``len()`` is how
    many pieces wait: the callers have to bound that. It needs a running loop.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[Callable[[], object]] = deque()
        self._renews = False  # the next turn is scheduled

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> bool:
        """Takes a slot of this turn. False if none is free, or if earlier work waits for one."""
        if self._waiting or not self._left:
            return False
        self._left -= 1
        self._renew_later()
        return True

    def take_more(self, slots: int) -> None:
        """Work of this turn takes so many slots more, or all that are free if these are fewer."""
        self._left = max(0, self._left - slots)
        self._renew_later()

    def later(self, work: Callable[[], object]) -> None:
        """Calls ``work`` in a later turn, in a slot of it. What it raises is logged, and the others go on."""
        self._waiting.append(work)
        self._renew_later()

    async def wait(self, slots: int = 1) -> None:
        """Returns with a slot, or with several for work that is known to be long: at once if one is free, else in a later turn."""
        if self.take():
            self.take_more(slots - 1)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.later(partial(self._give, turn, slots))
        await turn

    def _give(self, turn: asyncio.Future[None], slots: int) -> None:
        if not turn.done():  # the caller that waits for it may have been cancelled
            self.take_more(slots - 1)
            turn.set_result(None)

    def _renew_later(self) -> None:
        if not self._renews:
            self._renews = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._left = self._most
        for _ in range(len(self._waiting)):  # what is given from here on has to wait for another turn
            if not self._left:
                break
            self._left -= 1
            try:
                self._waiting.popleft()()
            except Exception:
                log.exception("work that waited for its turn failed")
        self._renews = False  # not before: those that wait for a future go on in the next turn, before its slots are free again
        if self._left < self._most:
            self._renew_later()
