"""Waiting for what no event announces: polls until it holds, and fails with a sentence when it does not in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["PATIENCE", "eventually", "until", "wait_until"]

PATIENCE = 30.0  # seconds for what comes at once on an idle machine: a busy one takes many times as long, and that is no failure


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Without a loop. Returns the condition's first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"after {seconds} s still not: {what}")


async def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The same inside a loop, which runs on meanwhile."""

    async def ask() -> Any:
        return condition()

    return await eventually(ask, what, seconds)


async def eventually(ask: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE) -> Any:
    """The same for a condition that has to be awaited."""
    try:
        async with asyncio.timeout(seconds):
            while not (value := await ask()):
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"after {seconds} s still not: {what}") from None
    return value
