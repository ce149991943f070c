"""Trying again: how long to wait before the next attempt, and the loops that do it, one for asyncio and one for threads."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["backoff", "retrying", "retrying_blocking"]

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
    seconds: float = math.inf,
    level: int = logging.WARNING,
    reason: Callable[[Exception], str] = str,
    quiet: Callable[[Exception], bool] = lambda error: False,
) -> Result:
    """Awaits ``work()`` until it returns, and returns its result; after an error of type ``on`` it waits and tries again.

    It tries for ``seconds`` seconds, the last time at their end, then raises the last error; by default it tries without end, and the caller
    decides when to give up, by cancelling, also where ``work`` raises an error instead. ``base`` and ``ceiling`` are seconds, as for ``backoff``.

    ``what`` is a sentence that a log line can begin with ("channel a: history could not be read"), ``reason(error)`` the
    cause that follows it. The first failure in a row is logged at ``level``, the others at debug level, and so are the errors that are
    ``quiet``: their cause is logged elsewhere, once for all that fails of it.
    """
    until = time.monotonic() + seconds
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    attempt = 0
    while True:
        try:
            return await work()
        except on as error:
            if task.cancelling() > cancellations:  # SQLAlchemy drops a cancellation where a connection is lost at the same moment
                raise asyncio.CancelledError from error
            attempt += 1
            left = until - time.monotonic()
            if left <= 0:
                raise
            pause = min(backoff(attempt, base, ceiling), left)
            log.log(level if attempt == 1 and not quiet(error) else logging.DEBUG, "%s (%s); trying again", what, reason(error))
            await asyncio.sleep(pause)


def retrying_blocking(
    work: Callable[[], Result], *, on: type[Exception], seconds: float, base: float = 0.05, ceiling: float = 2.0
) -> Result:
    """``retrying`` for a thread: calls ``work()`` and sleeps between the attempts. It logs nothing, for the last error is raised."""
    until = time.monotonic() + seconds
    attempt = 0
    while True:
        try:
            return work()
        except on:
            attempt += 1
            left = until - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(backoff(attempt, base, ceiling), left))
