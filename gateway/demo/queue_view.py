"""A work queue as people see it: its numbers and its jobs, published in a channel whenever they change.

    {"type": "queue", "now", "numbers": {"ready", "running", "delayed", "dead"}, "finished", "jobs": {state: [job …]}}
    job: {"id", "name", "title", "data", "ms", "attempts", "failures", "error"}

``ms`` is since when the job is in this state, or when it is due; ``data`` is {} for jobs of other programs. Each publication is the whole state, so that the newest is enough.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import DBAPIError

from ..errors import StoreError
from ..rules.json_text import encode
from ..store.history import History
from ..store.layout import publish_words
from ..work.queues import JobView, Queues
from .bodies import Answer

__all__ = ["STATES", "QueueView", "data_of"]

log = logging.getLogger("gateway.demo")

STATES = ("ready", "running", "delayed", "dead")
WAITING = ("ready", "running", "delayed", "parked")
LISTED_MOST = 50  # jobs of one state
DATA_MOST = 1000  # bytes
PAUSE_SECONDS = 0.1  # between two publications: what changes meanwhile is in the next one
LOOKS_AFTER = (0.02, 0.3, 2.0)  # seconds after a job ended in its handler, since its worker takes it out of the queue only then
LOOK_SECONDS = 5.0  # between two looks for what other programs changed, while anybody is connected


def data_of(view: JobView) -> Answer:
    """The data of a job, if it is a short object; {} for any other, which another program enqueued."""
    try:
        found = msgspec.json.decode(view.job.data) if view.job and len(bytes(view.job.data)) <= DATA_MOST else None
    except msgspec.MsgspecError:
        return {}
    return found if isinstance(found, dict) else {}


class QueueView:
    """Follows one queue. ``run()`` publishes in ``channel``; ``changed()`` announces that there may be something new.

    ``titles`` make the words by which people know a job, by its name. ``left`` is awaited with each job that has ended or is a dead letter
    now: as it was, and as it is. ``connections`` is how many clients are connected.
    """

    channel = "work:queue"

    def __init__(
        self,
        queues: Queues,
        queue: str,
        history: History,
        titles: dict[str, Callable[[Answer], str]],
        left: Callable[[JobView, JobView], Awaitable[None]],
        connections: Callable[[], int],
    ) -> None:
        self._queues = queues
        self._queue = queue
        self._history = history
        self._titles = titles
        self._left = left
        self._connections = connections
        self._changed = asyncio.Event()
        self._published: Answer = {}
        self._waiting: dict[str, JobView] = {}

    def changed(self) -> None:
        self._changed.set()

    def ended(self) -> None:
        """A handler returned or raised."""
        for seconds in LOOKS_AFTER:
            asyncio.get_running_loop().call_later(seconds, self.changed)

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            try:
                await self._publish()
            except (StoreError, DBAPIError) as error:
                log.debug("the view of the queue waits for Valkey or the database: %s", error)
            await asyncio.sleep(PAUSE_SECONDS)
            await self._until_changed()
            self._changed.clear()

    async def _until_changed(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS if self._connections() else None):
                await self._changed.wait()
        except TimeoutError:
            return

    async def state(self) -> Answer:
        """As it is published."""
        return await self._described(await self._found())

    async def _found(self) -> dict[str, list[JobView]]:
        return {state: await self._queues.jobs(self._queue, state, limit=LISTED_MOST) for state in STATES}

    async def _described(self, found: dict[str, list[JobView]]) -> Answer:
        overview = await self._queues.overview(self._queue)
        return {
            "type": "queue",
            "now": time.time_ns() // 1_000_000,
            "numbers": {
                "ready": overview.ready + overview.parked,
                "running": overview.running,
                "delayed": overview.delayed,
                "dead": overview.dead_letters,
            },
            "finished": overview.finished,
            "jobs": {state: [self._shown(view) for view in views] for state, views in found.items()},
        }

    async def _publish(self) -> None:
        found = await self._found()
        state = await self._described(found)
        if {**state, "now": 0} != {**self._published, "now": 0}:
            await self._history.publish(self.channel, publish_words(encode(state)))
            self._published = state
        await self._compare({view.id: view for state in STATES[:3] for view in found[state]})

    def expect(self, view: JobView) -> None:
        """Passes the job to ``left`` as soon as it has ended, although it may have come and gone between two looks."""
        self._waiting[view.id] = view

    async def _compare(self, there: dict[str, JobView]) -> None:
        gone, self._waiting = {id: view for id, view in self._waiting.items() if id not in there}, there
        for id, view in gone.items():
            now = await self._queues.job(self._queue, id)
            if now.state in WAITING:  # it is there, but not listed
                self._waiting[id] = view
            else:
                await self._left(view, now)

    def _shown(self, view: JobView) -> Answer:
        name, data = (view.job.name if view.job else "?"), data_of(view)
        last: Any = view.failures[-1].error if view.failures else ""
        return {
            "id": view.id,
            "name": name,
            "title": self._titles[name](data) if name in self._titles else name,
            "data": data if name in self._titles else {},
            "ms": view.ms,
            "attempts": view.job.attempts if view.job else 0,
            "failures": len(view.failures),
            "error": last.partition("\n")[0][:200],
        }
