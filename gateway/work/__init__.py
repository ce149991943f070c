"""Work that goes on while nobody is connected.

    jobs                         a job in words: what a producer says of it, and its text in Valkey
    queues                       what the functions of a queue do, as methods: enqueue, look, mend
    producer · plain_producer    Queue, for asyncio, and SyncQueue, for threads
    job_results                  waiting for what a handler returned
    worker                       Worker: handlers are registered, and run
    engine · intake              what a worker does while it runs; what it has of one queue: its lease, and the jobs that it took
    handlers · running           a handler; one call of it, and what became of its jobs
    batches · processes          jobs that are handled together; handlers in processes of their own
    periodic                     cron
    bridges                      all bridges of a process: foreign entries and messages become publications
    mapping                      pure: from an entry to a publication, by the rules of a bridge
    source                       what a bridge reads from; the record of what could not be published
    foreign_keys                 Lists and Streams, whose entries come exactly once
    foreign_messages             Pub/Sub channels and patterns, whose messages come at most once
    exclusive                    work that one process of all does

The functions themselves, and the layout in Valkey, are in ``store/lua/jobs.lua`` and ``store/lua/queues.lua``.
"""

from .handlers import Reject, Retry
from .plain_producer import SyncQueue
from .producer import Queue
from .worker import Worker

__all__ = ["Queue", "Reject", "Retry", "SyncQueue", "Worker"]
