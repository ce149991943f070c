"""Faults in between: what Valkey refuses for a moment, processes that fork, handlers whose errors are errors themselves."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from typing import Any

import pytest
import valkey

from gateway.store.layout import Layout
from gateway.work import Queue, SyncQueue
from gateway.work.running import RunningJob

from ..kit.jobs import working
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


def _enqueue_three(queue: SyncQueue) -> None:
    for number in range(3):
        queue.enqueue("work", number)


def test_forks_of_one_process_lose_none_of_their_jobs(valkey_url: str, prefix: str, store: valkey.Valkey) -> None:
    fork = multiprocessing.get_context("fork")
    with SyncQueue(valkey_url, prefix=prefix) as queue:
        queue.enqueue("work")
        children = [fork.Process(target=_enqueue_three, args=(queue,)) for _ in range(2)]
        for child in children:
            child.start()
            child.join()
    assert store.hlen(f"{prefix}:queue:{{default}}:jobs") == 7


def test_a_thread_that_waits_for_a_result_gets_it_over_a_lost_link(own: Any) -> None:
    layout = Layout("waiting")
    keys = (*layout.queue("default"), layout.taken("default", "w"))
    with SyncQueue(own.url, prefix="waiting") as queue:
        job, results = queue.enqueue("work", result_ttl=60), []
        waiting = threading.Thread(target=lambda: results.append(job.result(timeout=10)))
        waiting.start()
        channel = layout.results("default").decode()
        wait_until(lambda: own.ask("PUBSUB", "NUMSUB", channel)[1], "the thread listens")
        token = own.ask("FCALL", "gateway_take", len(keys), *keys, "w", 9000, 1)[1][1]
        own.kill_links("FCALL", "gateway_finish", len(keys), *keys, "w", job.id, token, "42")
        waiting.join()
    assert results == [42]


async def test_a_foreign_key_instead_of_the_queues_names_costs_no_job(
    queue: Queue, new_worker: Any, prefix: str, store: valkey.Valkey, valkey_url: str
) -> None:
    store.set(f"{prefix}:queues", "not a set")
    worker = new_worker()

    @worker.job("work")
    async def work(job: RunningJob) -> str:
        return "done"

    async with working(worker):
        assert await (await queue.enqueue("work", result_ttl=60)).result(10) == "done"
        with SyncQueue(valkey_url, prefix=prefix) as plain:
            assert plain.enqueue("work").new


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what is not closed is left to the collector
def test_a_queue_works_in_one_loop_after_another_and_refuses_two_at_once(valkey_url: str, prefix: str) -> None:
    queue = Queue(valkey_url, prefix=prefix)

    async def enqueue() -> None:
        async with asyncio.timeout(10):
            await queue.enqueue("work")

    for _ in range(2):  # the first loop is closed with the connection still open, as a script's may be
        asyncio.run(enqueue())
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(enqueue())
        with pytest.raises(RuntimeError, match="a Queue is used in one event loop"):
            second.run(enqueue())
        first.run(queue.close())
        second.run(enqueue())
        second.run(queue.close())
    gc.collect()
