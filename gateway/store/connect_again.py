"""Connecting again after a loss: short attempts that follow each other closely, so that a gateway is ready again soon after Valkey is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import Unavailable
from ..runtime.backoff import retrying
from .outage_log import OutageLog

__all__ = ["PAUSE_SECONDS", "connect_again"]

log = logging.getLogger("gateway.store")

ATTEMPT_SECONDS = 1.5  # a gateway is ready again within 3 s after whatever kept Valkey away
PAUSE_SECONDS = 0.5  # the longest between two attempts


async def connect_again(connect: Callable[[], Awaitable[None]], outage: OutageLog, on_failure: Callable[[Exception], None]) -> None:
    """Returns when ``connect`` succeeded, however long it takes. ``on_failure`` is called after each attempt that failed.

    An attempt ends after ATTEMPT_SECONDS, since the next one may succeed although this one gets no answer: what answers by then was not
    there, or not reached, when this one began.
    """

    async def attempt() -> None:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await connect()
        except Exception as error:
            reason = Unavailable(f"no answer for {ATTEMPT_SECONDS:g} s") if isinstance(error, TimeoutError) else error
            on_failure(reason)
            outage.failed(reason)
            raise reason from None

    await retrying(attempt, "valkey cannot be connected to", log, on=Exception, ceiling=PAUSE_SECONDS, level=logging.DEBUG)
