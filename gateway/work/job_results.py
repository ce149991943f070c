"""Waiting for the results of jobs, over one Pub/Sub connection however many wait.

Valkey announces the id of each new result. A waiter first has its queue's announcements confirmed, then looks whether the result is
there already: so none can come unnoticed in between, and after a lost connection everything that waits looks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec

from ..errors import JobFailed, StoreError, Unavailable
from ..rules.json_text import UNREADABLE
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.access import Commands
from ..store.connect import Address
from ..store.layout import Layout
from ..store.link import Link
from .queues import JobView, Queues

__all__ = ["Results", "no_result", "read_result"]

log = logging.getLogger("gateway.work")


def read_result(text: bytes) -> Any:
    """What a handler returned, of a result as Valkey holds it. Raises JobFailed with the handler's error, or where it cannot be read."""
    try:
        result = msgspec.json.decode(text)
        if "error" not in result:
            return result["result"]
    except (*UNREADABLE, TypeError, KeyError) as error:  # of a worker in another language, or written by another program
        raise JobFailed(f"its result cannot be read: {error}") from None
    raise JobFailed(str(result["error"]).partition("\n")[0])


def no_result(view: JobView) -> JobFailed | None:
    """Why a job has no result and none will come; None where one may come."""
    if view.state == "none":
        return JobFailed("the job ended, and its result is not stored any more, or never was: enqueue it with result_ttl")
    if view.state == "dead":
        return JobFailed(view.failures[-1].error.partition("\n")[0] if view.failures else "the job is a dead letter")
    if view.job is not None and not view.job.result_ttl:
        return JobFailed("the job was enqueued without result_ttl: its result is not stored, and cannot be awaited")
    return None


class Results:
    """Waits for results. ``close`` ends the connection; whatever waits then raises CancelledError."""

    def __init__(self, address: Address, commands: Commands, layout: Layout, queues: Queues) -> None:
        self._address = address
        self._commands = commands
        self._layout = layout
        self._queues = queues
        self._waiting: dict[bytes, dict[str, tuple[str, set[asyncio.Future[bytes]]]]] = {}  # Pub/Sub channel → id → queue, waiters
        self._confirmed: set[bytes] = set()
        self._looking: dict[tuple[bytes, str], bool] = {}  # a look is under way; whether another is to follow
        self._link: Link | None = None
        self._starting = asyncio.Lock()
        self._tasks = Tasks()

    async def wait(self, queue: str, id: str) -> Any:
        """What the job's handler returned. Raises JobFailed as soon as it is known that there is no result and that none will come."""
        await self._start()
        channel = self._layout.results(queue)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(channel, {})
        known = bool(waiters)
        waiters.setdefault(id, (queue, set()))[1].add(future)
        try:
            if channel in self._confirmed:
                self._tasks.spawn(self._look(channel, [id]))
            elif not known:
                self._require_link().subscribe([channel])
            return read_result(await future)
        finally:
            self._leave(channel, id, future)

    async def close(self) -> None:
        await self._tasks.cancel()
        if self._link is not None:
            await self._link.close()
        for ids in self._waiting.values():
            for _, futures in ids.values():
                for future in futures:
                    future.cancel()

    def _leave(self, channel: bytes, id: str, future: asyncio.Future[bytes]) -> None:
        ids = self._waiting.get(channel, {})
        if id in ids:
            ids[id][1].discard(future)
            if not ids[id][1]:
                del ids[id]
        if not ids and self._waiting.pop(channel, None) is not None:
            self._confirmed.discard(channel)
            if self._link is not None:
                self._link.unsubscribe([channel])

    async def _start(self) -> None:
        async with self._starting:
            if self._link is None:
                link = Link(self._address, self._commands, self._layout.own_channel(f"results-{uuid4().hex[:12]}"))
                link.add_listener(self)
                try:
                    await link.start()
                except BaseException:  # the time of a waiter may be over first; a link that nothing closes would connect again and again
                    await link.close()
                    raise
                self._link = link

    def _require_link(self) -> Link:
        assert self._link is not None
        return self._link

    # What the link calls.

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        self._confirmed.difference_update(list(self._confirmed) if channels is None else channels)

    def on_subscribed(self, key: bytes) -> None:
        if key in self._waiting:
            self._confirmed.add(key)
            self._tasks.spawn(self._look(key, list(self._waiting[key])))

    def on_refused(self, error: StoreError) -> None:
        for channel, ids in self._waiting.items():
            if channel not in self._confirmed:
                for future in (future for _, futures in ids.values() for future in futures if not future.done()):
                    future.set_exception(error)

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        for channel, ids in batch.items():
            waited = self._waiting.get(channel, {})
            found = [id for id in (each.decode(errors="replace") for each in ids) if id in waited]
            if found:
                self._tasks.spawn(self._look(channel, found))

    async def _look(self, channel: bytes, ids: list[str]) -> None:
        """Reads the results that are there, each once at a time: of one job many may wait, and each answer may have megabytes."""
        for id in ids:
            key = channel, id
            if key in self._looking:
                self._looking[key] = True
                continue
            self._looking[key] = True
            try:
                while self._looking[key]:
                    self._looking[key] = False
                    await self._look_at(channel, id)
            finally:
                del self._looking[key]

    async def _look_at(self, channel: bytes, id: str) -> None:
        waited = self._waiting.get(channel, {}).get(id)
        if waited is None:
            return
        queue, futures = waited
        try:
            what = f"queue {queue}: the result of job {id} could not be looked for"
            view = await retrying(partial(self._queues.job, queue, id), what, log, on=Unavailable, ceiling=1.0)
        except StoreError as error:
            for future in futures:
                _fail(future, error)
            return
        for future in futures:
            if view.result:
                _succeed(future, view.result)
            elif failed := no_result(view):
                _fail(future, failed)


def _succeed(future: asyncio.Future[bytes], result: bytes) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[bytes], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
