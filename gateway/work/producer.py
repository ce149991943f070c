"""Enqueueing from Python, with asyncio.

    async with Queue("valkey://localhost") as queue:         # no URL: the embedded server of a running `gateway serve`
        job = await queue.enqueue("orders.process", {"order": 17}, key="order-17", result_ttl=60)
        print(await job.result(timeout=30))

An acknowledged enqueue is in Valkey. If the connection breaks before the acknowledgement it is sent again, and Valkey recognizes it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from ..runtime import tracing
from ..runtime.tasks import shared
from ..store.access import Commands, make_commands
from ..store.connect import Address
from ..store.embedded import find_url
from ..store.layout import Layout
from ..store.library import Library
from .job_results import Results
from .jobs import JobOptions, check_queue_name, job_words
from .queues import JobView, Queues

__all__ = ["EnqueuedJob", "Queue"]

PATIENCE = 10.0  # seconds for which an enqueue is repeated


class EnqueuedJob:
    """A job that was enqueued. ``new`` is False where a job with the same key waited or ran already: then this is that job."""

    def __init__(self, producer: Queue, queue: str, id: str, new: bool) -> None:
        self.id = id
        self.queue = queue
        self.new = new
        self._producer = producer

    async def result(self, timeout: float | None = None) -> Any:
        """What its handler returned, for a job that was enqueued with ``result_ttl``. ``timeout`` is in seconds, None waits as long as it takes.

        Raises JobFailed with the handler's last error for a job that became a dead letter or was cancelled, TimeoutError.
        """
        async with asyncio.timeout(timeout):
            return await self._producer.wait(self.queue, self.id)

    async def cancel(self) -> str:
        """As ``Queues.cancel``."""
        return await self._producer.queues.cancel(self.queue, self.id)

    async def look(self) -> JobView:
        """Where it is now."""
        return await self._producer.queues.job(self.queue, self.id)


class Queue:
    """A producer of jobs. It connects when it is first used; ``close`` it, or use it as a context manager.

    Without ``url`` it takes GATEWAY_VALKEY_URL of the environment, else it finds the embedded server of the gateway that runs on
    ``data_dir`` (default: GATEWAY_DATA_DIR, else the user's). ``patience`` is for how many seconds an enqueue waits for Valkey. ``limit``: how many jobs a queue
    may hold, dead letters included (default: 1,000,000).
    """

    def __init__(
        self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = PATIENCE, limit: int | None = None
    ) -> None:
        self._given_url = url
        self._data_dir = data_dir
        self._layout = Layout(prefix)
        self._patience = patience
        self._limit = limit
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the connections belong
        self._commands: Commands | None = None
        self._queues: Queues | None = None
        self._results: Results | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects, once; afterwards the connection comes back by itself.

        Raises Unavailable if Valkey cannot be reached, RuntimeError if it is connected in another event loop.
        """
        self._enter_loop()
        if self._commands is None:
            await shared(self._connecting, "", self._connect)

    def _enter_loop(self) -> None:
        """Forgets the connections of a loop that is closed, which went with it. Raises RuntimeError where another loop uses them."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed() and (self._commands is not None or self._connecting):
            raise RuntimeError("a Queue is used in one event loop; give each loop a Queue of its own, or use SyncQueue")
        self._loop, self._commands, self._results, self._connecting = loop, None, None, {}

    async def _connect(self) -> None:
        tracing.find()
        address = Address(find_url(self._given_url, self._data_dir))
        commands = make_commands(address, patience=self._patience, functions=Library(None, self._layout.prefix))
        await commands.start()
        self._queues = Queues(commands, self._layout)
        self._results = Results(address, commands, self._layout, self._queues)
        self._commands = commands

    async def close(self) -> None:
        """Closes the connections. An enqueue that still waits raises Unavailable; the next use connects again."""
        self._enter_loop()
        commands, self._commands = self._commands, None
        if self._results is not None:
            await self._results.close()
        if commands is not None:
            await commands.close()

    @property
    def queues(self) -> Queues:
        """To look at the queues and to mend them. Raises RuntimeError before ``connect``."""
        if self._queues is None:
            raise RuntimeError("the queue is not connected: use `async with Queue(…) as queue:`, or `await queue.connect()`")
        return self._queues

    async def enqueue(self, name: str, data: Any = None, *, queue: str = "default", **options: Unpack[JobOptions]) -> EnqueuedJob:
        """Enqueues one job: ``data``, which becomes JSON, for the handler that workers have for ``name``. ``JobOptions`` describes the options.

        Raises TypeError or ValueError for what cannot be a job, QueueFull, StoreError if Valkey refuses, Unavailable if it cannot be reached.
        """
        check_queue_name(queue)
        words = job_words(name, data, **options)
        if self._limit is not None:
            words += "limit", self._limit
        await self.connect()
        id, new = await self.queues.enqueue(queue, words)
        return EnqueuedJob(self, queue, id, new)

    async def wait(self, queue: str, id: str) -> Any:
        """The result of a job of which only the id is known; as ``EnqueuedJob.result``."""
        await self.connect()
        assert self._results is not None
        return await self._results.wait(queue, id)
