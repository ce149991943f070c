"""Faults in between: what Valkey refuses for a moment, processes that fork, handlers whose errors are errors themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.store.layout import Layout
from gateway.work import Queue, SyncQueue

from ..kit.waiting import wait_until

# Producers.


async def test_a_job_that_valkey_refused_for_a_moment_is_not_lost_though_the_next_was_carried_out(own: Any) -> None:
    async with Queue(own.url) as queue:
        await queue.enqueue("before", queue="momentary")
        own.ask("CONFIG", "RESETSTAT")
        own.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        first = asyncio.create_task(queue.enqueue("refused", queue="momentary"))
        await asyncio.sleep(0)  # it is queued
        second = asyncio.create_task(queue.enqueue("after", queue="momentary"))
        await asyncio.sleep(0)  # the first is written; the second will be before the answer to the first is read
        wait_until(lambda: "errorstat_NOREPLICAS" in own.client.info("errorstats"), "the first is refused")  # blocks the loop
        own.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        assert [job.new for job in await asyncio.gather(first, second)] == [True, True]
        ready = await queue.queues.jobs("momentary", "ready")
    assert [view.job.name for view in ready if view.job is not None] == ["before", "after", "refused"]


def test_of_a_producer_that_counts_each_number_is_enqueued_once_in_whatever_order_they_come(own: Any) -> None:
    layout = Layout("counted")
    keys = layout.queue("default")
    with SyncQueue(own.url, prefix="counted") as queue:
        queue.enqueue("work")  # loads the functions

    def enqueue(number: int) -> int:
        answer = own.ask("FCALL", "gateway_enqueue", len(keys), *keys, "work", "1", "version", number, "version_epoch", "p", "counted", 1)
        return int(answer[1])

    assert [enqueue(number) for number in (3, 1, 7, 7, 5, 5, 1, 2, 2, 8, 6, 4, 3, 6)] == [1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0]
    for number in range(10, 3000, 2):
        assert enqueue(number) == 1
    assert len(own.ask("HGET", keys[0], "v:p")) < 2100  # bounded: the newest gaps are remembered
    assert [enqueue(number) for number in (2997, 2995, 9)] == [1, 1, 0]
