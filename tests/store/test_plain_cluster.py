"""Programs without asyncio on a real cluster: slots that move, shards without functions, a shard that dies."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest

from gateway.errors import StoreError, Unavailable
from gateway.work import SyncQueue, Worker
from publishers import SyncPublisher

from ..kit.clusters import Cluster
from ..kit.waiting import PATIENCE, wait_until


def meta(prefix: str, channel: str) -> str:
    return f"{prefix}:{{{channel}}}:meta"


@pytest.mark.parametrize("atomic", [True, False])
def test_a_channel_whose_slot_moves_goes_on(shared_cluster: Cluster, prefix: str, atomic: bool) -> None:
    with SyncPublisher(shared_cluster.url, prefix=prefix) as publisher:
        publisher.publish("posts:a", 0)
        slot = shared_cluster.slot(meta(prefix, "posts:a"))
        to = shared_cluster.other_than(shared_cluster.owner(slot))
        if atomic:
            shared_cluster.migrate([(slot, slot)], to)
        else:
            shared_cluster.move_slot(slot, to)
        position = publisher.publish("posts:a", 1)
        assert position is not None and position.offset == 2 and shared_cluster.owner(slot) is to


def test_a_call_waits_while_its_keys_are_apart(shared_cluster: Cluster, prefix: str) -> None:
    """Some of the channel's keys have moved and some not: the node carries nothing out, so the call is sent again until it can."""
    with SyncPublisher(shared_cluster.url, prefix=prefix, patience=PATIENCE) as publisher:
        publisher.publish("posts:a", 0, idempotency_key="k")
        key = meta(prefix, "posts:a")
        move = shared_cluster.moving(key, shared_cluster.other_than(shared_cluster.owner(key)))
        move.begin()
        move.move_key(key)
        late = threading.Timer(0.1, move.finish)
        late.start()
        position = publisher.publish("posts:a", 1)
        late.join()
        assert position is not None and position.offset == 2


def test_a_shard_that_lacks_the_functions_gets_them(shared_cluster: Cluster, prefix: str) -> None:
    with SyncPublisher(shared_cluster.url, prefix=prefix) as publisher:
        for channel in ("posts:1", "posts:2", "posts:3", "posts:4"):
            publisher.publish(channel, 0)
            shared_cluster.owner(meta(prefix, channel)).ask("FUNCTION", "FLUSH")
            position = publisher.publish(channel, 1)
            assert position is not None and position.offset == 2


async def test_a_thread_waits_for_a_result_by_sharded_pubsub(shared_cluster: Cluster, prefix: str) -> None:
    worker = Worker(url=shared_cluster.url, prefix=prefix, queues=["first", "second"])

    @worker.job("add")
    def add(job: object, data: int) -> int:
        return data + 1

    results: list[int] = []

    def enqueue() -> None:
        with SyncQueue(shared_cluster.url, prefix=prefix) as queue:
            jobs = [queue.enqueue("add", number, queue=name, result_ttl=30) for number, name in enumerate(["first", "second", "first"])]
            results.extend(job.result(20) for job in jobs)
        worker.stop()

    thread = threading.Thread(target=enqueue)
    thread.start()
    await worker.run(signals=False)
    thread.join()
    assert results == [1, 2, 3]


def test_an_address_of_one_node_alone_is_refused_with_the_address_to_write(shared_cluster: Cluster, prefix: str) -> None:
    owner = shared_cluster.owner(meta(prefix, "posts:a"))
    with SyncPublisher(shared_cluster.other_than(owner).url, prefix=prefix) as publisher:
        with pytest.raises(StoreError, match=r"is a node of a cluster; write valkey\+cluster://"):
            publisher.publish("posts:a", 0)


def test_no_command_is_sent_again_whose_answer_was_lost(shared_cluster: Cluster, prefix: str) -> None:
    """The shard is frozen when the command arrives, and carries it out when it goes on. It has no replica that could take over."""
    with SyncPublisher(shared_cluster.url, prefix=prefix, patience=0.4) as publisher:

        def published(number: int) -> Any:
            with contextlib.suppress(Unavailable):  # a busy machine takes longer than its patience
                return publisher.publish("posts:a", number, idempotency_key=str(number))

        wait_until(lambda: published(0), "the first is published")
        shard = shared_cluster.owner(meta(prefix, "posts:a"))
        shared_cluster.pause(shard)
        try:
            with pytest.raises(Unavailable):
                publisher.publish("posts:a", 1)
        finally:
            shared_cluster.resume(shard)
        assert wait_until(lambda: published(2), "the last is published").offset == 3
    shared_cluster.wait_whole()


def test_a_replica_that_takes_over_is_found_and_the_other_shards_go_on(cluster: Cluster, prefix: str) -> None:
    with SyncPublisher(cluster.url, prefix=prefix, patience=PATIENCE) as publisher:
        shard = cluster.owner(meta(prefix, "posts:a"))
        replica = cluster.replica_of(shard)
        elsewhere = next(name for name in map("posts:{}".format, range(1000)) if cluster.owner(meta(prefix, name)) is not shard)
        publisher.publish("posts:a", 0)
        publisher.publish(elsewhere, 0)
        cluster.kill(shard)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            publisher.publish("posts:a", 1)
        assert publisher.publish(elsewhere, 1) is not None
        assert time.monotonic() - began < 5, "sooner than a node is waited for"
        cluster.wait_promoted(replica)
        cluster.wait_whole()
        assert publisher.publish("posts:a", 2, idempotency_key="k") is not None
    cluster.start(shard)
    cluster.wait_whole()
