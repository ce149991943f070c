"""Work that goes on while nobody is connected.

    jobs                         a job in words: what a producer says of it, and its text in Valkey
    queues                       what the functions of a queue do, as methods: enqueue, look, mend
    producer · plain_producer    Queue, for asyncio, and SyncQueue, for threads
    results                      waiting for what a handler returned

The functions themselves, and the layout in Valkey, are in ``store/lua/jobs.lua`` and ``store/lua/queues.lua``.
"""

from .plain_producer import SyncQueue
from .producer import Queue

__all__ = ["Queue", "SyncQueue"]
