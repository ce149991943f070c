"""One scrape: all workers' figures and what they share, as text."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from ..runtime.tasks import shared
from .exposition import exposition
from .process_figures import Measured, figures_of
from .shared_figures import shared_figures
from .siblings import ALONE, Siblings, WorkerGroup

__all__ = ["Scrape"]


class Scrape:
    """What a process answers to a scrape. Scrapes that come together get the same text."""

    def __init__(self, measured: Measured, group: WorkerGroup = ALONE) -> None:
        self._measured = measured
        self._siblings = Siblings(group, partial(figures_of, measured))
        self._under_way: dict[None, asyncio.Task[bytes]] = {}

    def answering(self) -> contextlib.AbstractAsyncContextManager[None]:
        """The other workers of the group are answered while it is entered."""
        return self._siblings.answering()

    async def text(self) -> bytes:
        return await shared(self._under_way, None, self._scrape)

    async def _scrape(self) -> bytes:
        workers, common = await asyncio.gather(self._siblings.ask(), shared_figures(self._measured.node))
        return await asyncio.to_thread(exposition, workers, common)  # some milliseconds, in which the loop serves clients
