"""Jobs that are handled together: they gather until there are enough, or until the first has waited long enough."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import partial

from .handlers import Handler
from .running import Run

__all__ = ["Batches"]

# Queue, name, and the timeout's power of two: a batch is cancelled when the shortest timeout is over, and one of seconds must not
# cancel those of minutes again and again.
Key = tuple[str, str, int]


class Batches:
    """``on_batch`` is called with the jobs of a batch that is full, or whose time is over. ``len()`` is how many batches gather."""

    def __init__(self, on_batch: Callable[[Handler, list[Run]], None]) -> None:
        self._on_batch = on_batch
        self._gathering: dict[Key, list[Run]] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._gathering)

    def room(self, queue: str, handlers: Mapping[str, Handler]) -> int:
        """How many jobs of a queue are to be taken to fill the batches that gather: for each batch as many as it has already, or as it has room for if
        that is less. More would be a risk: a job that is taken and belongs to no batch waits here, though another worker may be free."""
        sizes = ((handlers[name].batch, len(runs)) for (of, name, _), runs in self._gathering.items() if of == queue)
        return sum(min(batch.most - size, size) for batch, size in sizes if batch is not None)

    def add(self, handler: Handler, run: Run) -> None:
        assert handler.batch is not None
        key = run.queue, handler.name, math.frexp(run.document.timeout)[1]
        runs = self._gathering.setdefault(key, [])
        runs.append(run)
        if len(runs) >= handler.batch.most:
            self._close(key, handler)
        elif len(runs) == 1:
            self._timers[key] = asyncio.get_running_loop().call_later(handler.batch.within, partial(self._close, key, handler))

    def take_all(self) -> list[Run]:
        """Empties all batches, and returns their jobs."""
        for timer in self._timers.values():
            timer.cancel()
        runs = [run for gathered in self._gathering.values() for run in gathered]
        self._gathering.clear()
        self._timers.clear()
        return runs

    def _close(self, key: Key, handler: Handler) -> None:
        self._timers.pop(key).cancel()
        self._on_batch(handler, self._gathering.pop(key))
