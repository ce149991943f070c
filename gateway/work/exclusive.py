"""Work that only one of all processes does at a time, while the others stand by.

The process that works holds a lease: a key in Valkey that ends LEASE_SECONDS after its last renewal, by Valkey's clock. A process
that stands by asks again when the lease that it saw ends, so a dead process is replaced within LEASE_SECONDS. One that cannot renew its
lease stops working when it ends by its own clock, which counts from before the renewal, so it stops earlier than Valkey allows another
to begin. A frozen process may still go on for a moment when it wakes; what it writes must be guarded by what it writes to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import StoreError, is_general
from ..runtime.backoff import retrying
from ..store.history import History

__all__ = ["Exclusive"]

log = logging.getLogger("gateway.work")

LEASE_SECONDS = 3.0  # two renewals may be late
RENEW_SECONDS = 1.0


class Exclusive:
    """``key`` is the lease, ``process`` the one that asks for it, ``what`` the work's name in the log. ``working`` is whether it works here, now."""

    def __init__(self, history: History, key: bytes, process: str, what: str) -> None:
        self.working = False
        self.asked = asyncio.Event()  # set once it is known which process works
        self._history = history
        self._key = key
        self._process = process
        self._what = what
        self._until = 0.0

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Awaits ``work()`` whenever the lease is this process's, and cancels it when the lease is lost. Runs until cancelled, or until ``work`` raises."""
        try:
            while True:
                await self._obtain()
                await self._while_held(work)
        finally:
            self.working = False
            await self._give_back()

    async def _obtain(self) -> None:
        while left := await retrying(
            self._renew, f"{self._what}: the lease could not be asked for", log, on=StoreError, ceiling=1.0, quiet=is_general
        ):
            self.asked.set()
            await asyncio.sleep(min(left, LEASE_SECONDS))
        self.asked.set()

    async def _while_held(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(work(), name=self._what)
        self.working = True
        log.info("%s: this process does the work from now on", self._what)
        try:
            while not task.done() and await self._is_held():
                await asyncio.wait((task,), timeout=self._next_seconds())
        finally:
            self.working = False
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
        log.warning("%s: this process has lost the lease, and stops", self._what)

    async def _is_held(self) -> bool:
        try:
            async with asyncio.timeout(self._next_seconds()):
                return not await self._renew()
        except (StoreError, TimeoutError) as error:
            log.debug("%s: the lease was not renewed: %s", self._what, error)
            return asyncio.get_running_loop().time() < self._until

    def _next_seconds(self) -> float:
        """Until the next renewal, or until the lease ends, if that is earlier."""
        return min(RENEW_SECONDS, max(self._until - asyncio.get_running_loop().time(), 0))

    async def _renew(self) -> float:
        """0 if the lease is this process's from now on, else in how many seconds another's ends."""
        now = asyncio.get_running_loop().time()
        left = int(await self._history.call(b"gateway_lease", [self._key], self._process, int(LEASE_SECONDS * 1000)))
        if not left:
            self._until = now + LEASE_SECONDS
        return left / 1000

    async def _give_back(self) -> None:
        """So that the next process need not wait until it ends."""
        try:
            async with asyncio.timeout(1):
                await self._history.call(b"gateway_lease", [self._key], self._process, 0)
        except (StoreError, TimeoutError) as error:
            log.debug("%s: the lease was not given back: %s", self._what, error)
