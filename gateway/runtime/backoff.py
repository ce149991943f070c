"""Trying again: how long to wait before the next attempt, and the loop that waits and tries."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["backoff", "retrying"]

Result = TypeVar("Result")


def backoff(attempt: int, base: float, ceiling: float) -> float:
    """Seconds before attempt number ``attempt`` (1, 2, …), drawn from the whole range ("full jitter"), so that
    many clients that failed together do not come back together.
    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(ceiling, base * 2 ** min(attempt, 30)))


async def retrying(
    work: Callable[[], Awaitable[Result]],
    what: str,
    log: logging.Logger,
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    base: float = 0.05,
    ceiling: float = 2.0,
) -> Result:
    """Awaits ``work()`` until it returns, and returns its result; after an error of type ``on`` it waits and tries again, without end.

    ``what`` is a sentence that a log line can begin with ("channel a: history could not be read"). The first failure in a
    row is logged as a warning, the others at debug level. The caller decides when to give up, by cancelling.
    ``base`` and ``ceiling`` are seconds, as for ``backoff``.
    """
    attempt = 0
    while True:
        try:
            return await work()
        except on as error:
            attempt += 1
            log.log(logging.WARNING if attempt == 1 else logging.DEBUG, "%s (%s); trying again", what, error)
            await asyncio.sleep(backoff(attempt, base, ceiling))
