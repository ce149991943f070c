"""Work queues of the tests: a producer and workers of a prefix of their own.

working        runs ``Worker`` objects while a block lasts
process_worker a worker in a process of its own, which may be killed or frozen
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway.work import Queue, Worker
from gateway.work.queues import JobView

from .waiting import eventually

__all__ = ["ended", "overview_is", "working"]


@contextlib.asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Stops them at the end; none may have failed."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield tasks
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*tasks)


async def overview_is(queue: Queue, name: str = "default", **numbers: int) -> None:
    """Waits until the queue's overview has these numbers."""

    async def agrees() -> bool:
        overview = await queue.queues.overview(name)
        return all(getattr(overview, field) == value for field, value in numbers.items())

    await eventually(agrees, f"queue {name} has {numbers}")


async def ended(queue: Queue, id: str, state: str = "dead", name: str = "default") -> JobView:
    """The job, as soon as it is a dead letter, or in another state."""

    async def look() -> JobView | None:
        view = await queue.queues.job(name, id)
        return view if view.state == state else None

    return await eventually(look, f"job {id} is {state}")
