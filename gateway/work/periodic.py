"""Periodic jobs: at each tick of a cron expression every worker enqueues the job, and Valkey takes the first of them alone.

The tick's time is the job's version, its schedule's name the version epoch: what is not newer than the last is dropped. So a tick
becomes one job however many workers there are, and a worker that starts may enqueue a tick that passed while none ran. Valkey also holds the
expression and the time zone that the last tick belongs to: where a new version of the program has others, no tick of theirs was missed.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import StoreError
from ..runtime.backoff import retrying
from ..store.access import Commands
from ..store.layout import Layout, Word
from ..store.valkey_clock import valkey_time
from .queues import Queues

__all__ = ["Schedule", "Scheduler", "zone_of"]

log = logging.getLogger("gateway.worker")

LOOK_SECONDS = 60.0  # the longest sleep: Valkey's clock may be set
SET_BACK_SECONDS = 600.0  # as gateway_enqueue has it: a clock that is set back by less brings no tick a second time


def zone_of(name: str) -> tzinfo:
    """The time zone of this name. Raises ValueError where there is none; UTC needs no data of time zones, which small containers may lack."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown, a folder of names, no name
        raise ValueError(
            f'timezone {name!r} is not known here: it is a name as "Europe/Berlin", and where the system has no time zones, `pip install tzdata` brings them'
        ) from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """``words`` are those of the job, of ``jobs.job_words``. Raises ValueError for an expression that is none."""

    expression: str
    name: str
    queue: str
    words: list[Word]
    zone: tzinfo

    def __post_init__(self) -> None:
        try:
            next(CronSim(self.expression, datetime.now(self.zone)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(
                f'{self.name}: "{self.expression}" is not a cron expression (minute hour day month weekday): {error}'
            ) from None

    def tick_after(self, moment: datetime) -> datetime:
        """The first tick after this moment; both in UTC, for where clocks are set back, local times come twice and do not compare."""
        ticks = CronSim(self.expression, moment.astimezone(self.zone))
        return next(tick for tick in (each.astimezone(UTC) for each in ticks) if tick > moment)

    def tick_by(self, moment: datetime) -> datetime:
        """The last tick that is not after this moment; both in UTC."""
        ticks = CronSim(self.expression, (moment + timedelta(seconds=1)).astimezone(self.zone), reverse=True)
        return next(tick for tick in (each.astimezone(UTC) for each in ticks) if tick <= moment)

    @property
    def epoch(self) -> str:
        return f"cron:{self.name}"

    @property
    def ticks(self) -> str:
        """What determines the ticks: the expression and the time zone."""
        return f"{self.expression} {self.zone}"


class Scheduler:
    """Enqueues the ticks of all schedules while ``run`` runs. Of ticks that pass while it cannot, the last one is made up for."""

    def __init__(self, schedules: list[Schedule], queues: Queues, commands: Commands, layout: Layout) -> None:
        self._schedules = schedules
        self._queues = queues
        self._commands = commands
        self._layout = layout

    async def run(self) -> None:
        await asyncio.gather(*[self._follow(schedule) for schedule in self._schedules])

    async def _follow(self, schedule: Schedule) -> None:
        tick = await retrying(partial(self._begin, schedule), f"{schedule.name}: its last tick was not read", log, on=StoreError)
        while True:
            tick = await retrying(
                partial(self._next_tick, schedule, tick), f"{schedule.name}: valkey was not asked for the time", log, on=StoreError
            )
            await self._enqueue(schedule, tick)

    async def _begin(self, schedule: Schedule) -> datetime:
        """Enqueues the last tick, if the schedule ran before and that tick passed while no worker did. One that is new, or has other ticks than
        before, begins with the next tick. Returns the last tick."""
        key, field, call = self._layout.queue(schedule.queue)[0], f"v:{schedule.epoch}", self._commands.call
        now = await self._now(key)
        last = schedule.tick_by(now)
        version, ticks = await call(b"HMGET", key, field, schedule.epoch, repeatable=True)
        mine, none_missed = schedule.ticks.encode(), f"{int(last.timestamp())} {int(now.timestamp() * 1000)}"
        if version is None:
            await call(b"HSETNX", key, field, none_missed, repeatable=True)
        elif ticks in (mine, None):  # None: a worker of an older version wrote the version alone
            await self._enqueue(schedule, last)
        elif _seconds(version) < last.timestamp():
            await call(b"HSET", key, field, none_missed, repeatable=True)
        if ticks != mine:
            await call(b"HSET", key, schedule.epoch, mine, repeatable=True)
        return last

    async def _next_tick(self, schedule: Schedule, last: datetime) -> datetime:
        """Returns the newest tick after ``last`` as soon as there is one. The time is Valkey's alone: a worker whose clock is ahead would make
        all ticks until then look old, and one whose clock is late would leave ticks out."""
        while True:
            now = await self._now(self._layout.queue(schedule.queue)[0])
            if (last - now).total_seconds() > SET_BACK_SECONDS:  # Valkey's clock was ahead, and was set back
                last = schedule.tick_by(now)
            tick = schedule.tick_after(last)
            left = (tick - now).total_seconds()
            if left <= 0:
                return max(tick, schedule.tick_by(now))
            await asyncio.sleep(min(left, LOOK_SECONDS))

    async def _now(self, key: bytes) -> datetime:
        """The time, by the clock of the shard that holds the queue."""
        return datetime.fromtimestamp(await valkey_time(self._commands, key), tz=UTC)

    async def _enqueue(self, schedule: Schedule, tick: datetime) -> None:
        version = int(tick.timestamp())
        await retrying(
            lambda: self._queues.enqueue(schedule.queue, schedule.words, version=version, version_epoch=schedule.epoch),
            f"{schedule.name}: the tick of {tick.isoformat()} was not enqueued",
            log,
            on=StoreError,
            ceiling=5.0,
        )


def _seconds(version: bytes) -> int:
    """The tick of a version as Valkey holds it, in unix seconds."""
    newest = version.partition(b" ")[0]
    return int(newest) if newest.isdigit() and len(newest) <= 15 else 0
