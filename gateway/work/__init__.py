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

The functions themselves, and the layout in Valkey, are in ``store/lua/jobs.lua`` and ``store/lua/queues.lua``.
"""

from .handlers import Reject, Retry
from .plain_producer import SyncQueue
from .producer import Queue
from .worker import Worker

__all__ = ["Queue", "Reject", "Retry", "SyncQueue", "Worker"]
