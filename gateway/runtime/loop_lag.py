"""How late the event loop is: the time that everything else in the process waits for its turn."""

from __future__ import annotations

import asyncio

from .histogram import Histogram

__all__ = ["SECONDS", "LoopLag"]

EVERY_SECONDS = 0.25
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """``histogram``: by how many seconds a timer, one each EVERY_SECONDS, was late."""

    def __init__(self) -> None:
        self.histogram = Histogram(SECONDS)

    async def run(self) -> None:
        """Measures until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self.histogram.add(max(0.0, loop.time() - due))
