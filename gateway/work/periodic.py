"""Periodic jobs: at each tick of a cron expression every worker enqueues the job, and Valkey takes the first of them alone.

The tick's time is the job's version, its schedule's name the version epoch: what is not newer than the last is dropped. So a tick
becomes one job however many workers there are, and a worker that starts may enqueue a tick that passed while none ran.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import QueueFull, StoreError, Unavailable
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.connection import Commands
from ..store.layout import Layout, Word
from .queues import Queues

__all__ = ["Schedule", "Scheduler"]

log = logging.getLogger("gateway.worker")

LOOK_SECONDS = 60.0  # the longest sleep: the wall clock may be set


@dataclass(frozen=True, slots=True)
class Schedule:
    """``words`` are those of the job, of ``jobs.job_words``. Raises ValueError for an expression that is none."""

    expression: str
    name: str
    queue: str
    words: list[Word]
    zone: ZoneInfo

    def __post_init__(self) -> None:
        try:
            next(CronSim(self.expression, datetime.now(self.zone)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f'{self.name}: "{self.expression}" is not a cron expression (minute hour day month weekday): {error}'
            ) from None

    def tick_after(self, moment: datetime) -> datetime:
        return next(CronSim(self.expression, moment.astimezone(self.zone)))

    def tick_before(self, moment: datetime) -> datetime:
        return next(CronSim(self.expression, moment.astimezone(self.zone), reverse=True))

    @property
    def epoch(self) -> str:
        return f"cron:{self.name}"


class Scheduler:
    """Enqueues the ticks of all schedules while ``run`` runs."""

    def __init__(self, schedules: list[Schedule], queues: Queues, commands: Commands, layout: Layout, tasks: Tasks) -> None:
        self._schedules = schedules
        self._queues = queues
        self._commands = commands
        self._layout = layout
        self._tasks = tasks

    async def run(self) -> None:
        for schedule in self._schedules:
            await retrying(partial(self._begin, schedule), f"{schedule.name}: its last tick was not read", log, on=Unavailable)
        now = datetime.now(tz=_UTC)
        while True:
            following = min(schedule.tick_after(now) for schedule in self._schedules)
            while (left := (following - datetime.now(tz=_UTC)).total_seconds()) > 0:
                await asyncio.sleep(min(left, LOOK_SECONDS))
            for schedule in self._schedules:
                if schedule.tick_after(now) <= following:
                    self._tasks.spawn(self._enqueue(schedule, following))
            now = following

    async def _begin(self, schedule: Schedule) -> None:
        """Enqueues the last tick, if the schedule ran before and that tick passed while no worker did. One that is new begins with the next tick."""
        key, field = self._layout.queue(schedule.queue)[0], f"v:{schedule.epoch}"
        now = datetime.now(tz=_UTC)
        last = schedule.tick_before(now + timedelta(microseconds=1))
        if await self._commands.call(b"HEXISTS", key, field, repeatable=True):
            await self._enqueue(schedule, last)
        else:
            await self._commands.call(b"HSETNX", key, field, f"{int(last.timestamp())} {int(now.timestamp() * 1000)}", repeatable=True)

    async def _enqueue(self, schedule: Schedule, tick: datetime) -> None:
        version = int(tick.timestamp())
        try:
            await retrying(
                lambda: self._queues.enqueue(schedule.queue, schedule.words, version=version, version_epoch=schedule.epoch),
                f"{schedule.name}: the tick of {tick.isoformat()} was not enqueued",
                log,
                on=(Unavailable, QueueFull),
                ceiling=5.0,
            )
        except StoreError as error:
            log.error("%s: the tick of %s was refused: %s", schedule.name, tick.isoformat(), error)


_UTC = ZoneInfo("UTC")
