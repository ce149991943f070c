"""How the command ``gateway worker`` ends, whatever its handlers do.

The first SIGTERM or SIGINT stops the worker, a second one ends the process at once. A handler may ignore its cancellation, block the loop, or sit
in a thread that never returns; the interpreter would wait for it for ever. So the process leaves it (``os._exit``) when its time is over. Nothing is
lost by that: the worker has given its jobs back, or others take them when its lease is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Never

import uvloop

from ..work import Worker

__all__ = ["run_worker"]

log = logging.getLogger("gateway.worker")

STOP_SECONDS = 15.0  # beside the worker's own: 5 for handlers that are cancelled, 5 for Valkey's acknowledgements, 5 for the lifespan
LEAVE_SECONDS = 2.0  # for tasks and threads that are left when the worker has ended


def run_worker(worker: Worker) -> None:
    """Runs ``worker`` in a loop of its own until a signal, in the main thread. Raises what ``Worker.run`` raises."""
    uvloop.run(_run(worker))


async def _run(worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    stopping = False

    def on_signal(number: int, _: object) -> None:
        nonlocal stopping
        if stopping:
            _leave("a second signal came", 128 + number)
        stopping = True
        log.info("%s: the worker stops; a second signal ends it at once", signal.Signals(number).name)
        seconds = worker.stop_seconds + STOP_SECONDS
        _leave_after(seconds, loop, f"the worker did not stop within {seconds:g} s", 1)
        loop.call_soon_threadsafe(worker.stop)

    # Not the loop's own handlers: a handler that blocks the loop must not hold back a second signal.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    try:
        await worker.run(signals=False)
    except Exception as error:
        _leave_after(LEAVE_SECONDS, loop, f"the worker failed, {error}", 1)
        raise
    _leave_after(LEAVE_SECONDS, loop, "the worker has ended", 0)


def _leave_after(seconds: float, loop: asyncio.AbstractEventLoop, why: str, status: int) -> None:
    """Leaves if the process is still there ``seconds`` from now."""
    timer = threading.Timer(seconds, lambda: _leave(f"{why}, and something of it still runs: {_left(loop)}", status))
    timer.daemon = True
    timer.start()


def _left(loop: asyncio.AbstractEventLoop) -> str:
    """What runs on, in words."""
    tasks = [getattr(task.get_coro(), "__qualname__", "a task") for task in asyncio.all_tasks(loop)]
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    found = [f"{what}: {', '.join(names[:5])}" for what, names in (("tasks", tasks), ("threads", threads)) if names]
    return "; ".join(found) or "nothing that has a name"


def _leave(why: str, status: int) -> Never:
    try:
        log.error("the process ends at once: %s", why)
        sys.stdout.flush()
    finally:
        os._exit(status)
