"""Work that goes on while nobody is connected.

    jobs                         a job in words: what a producer says of it, and its text in Valkey
    queues                       what the functions of a queue do, as methods: enqueue, look, mend
    producer · plain_producer    Queue, for asyncio, and SyncQueue, for threads
    job_results                  waiting for what a handler returned
    worker                       Worker: handlers are registered, and run
    engine · intake              what a worker does while it runs; what it has of one queue: its lease, and the jobs that it took
    handlers · handler_jobs      a handler; the job that it is given
    running · calling            one call of a handler, and what became of its jobs; how it is called
    batches · processes          jobs that are handled together; handlers in processes of their own
    periodic                     cron
    bridges                      all bridges of a process: foreign entries and messages become publications
    mapping                      pure: from an entry to a publication, by the rules of a bridge
    source                       what a bridge reads from; the record of what could not be published
    foreign_keys                 Lists and Streams, whose entries come exactly once
    foreign_messages             Pub/Sub channels and patterns, whose messages come at most once
    exclusive                    work that one of all processes does at a time
    alerts                       thresholds of queues: each change is logged and published once
    reader                       Reader: a durable reader of channels
    deliveries                   what it gives: a publication to acknowledge, and the gap before it
    held_channels · holds        the channels that an instance of a group reads, what it has of them, and who gets it; one of them
    following                    which channels the group reads
    membership · sharing         an instance of a group: its lease; which instance reads which channel
    reader_calls                 the reader's functions in Valkey, as methods
    reader_arguments             what a reader may be given

The layout in Valkey is described in ``store/lua/jobs.lua``; the functions are in ``enqueueing``, ``taking``, ``runs``, ``leases`` and ``queues``
beside it, those of readers in ``reader`` and ``membership``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deliveries import Delivery, Gap
    from .handler_jobs import PlainJob, RunningJob
    from .handlers import Reject, Retry
    from .plain_producer import SyncQueue
    from .producer import Queue
    from .reader import Reader
    from .worker import Worker

__all__ = ["Delivery", "Gap", "PlainJob", "Queue", "Reader", "Reject", "Retry", "RunningJob", "SyncQueue", "Worker"]

_MODULES = {
    "Delivery": "deliveries",
    "Gap": "deliveries",
    "PlainJob": "handler_jobs",
    "Queue": "producer",
    "Reader": "reader",
    "Reject": "handlers",
    "Retry": "handlers",
    "RunningJob": "handler_jobs",
    "SyncQueue": "plain_producer",
    "Worker": "worker",
}


def __getattr__(name: str) -> Any:
    """A gateway that starts needs the words of jobs and no worker: each module is imported when a name of it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
