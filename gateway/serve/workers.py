"""Several processes that share the port.

The parent owns what exists once: the port's number, the embedded Valkey, the signals. Each worker is a whole gateway with
a listening socket of its own (SO_REUSEPORT: the kernel spreads connections), so workers share nothing but Valkey. A worker
that dies costs its own clients a reconnect, and another worker takes its place.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial

from ..errors import ConfigurationError, GatewayError
from ..runtime.backoff import backoff

__all__ = ["run_workers"]

log = logging.getLogger("gateway.workers")

WATCH_SECONDS = 0.5
START_SECONDS = 30.0
ENDING = (signal.SIGINT, signal.SIGTERM)
READY = b"r"  # into a worker's pipe; anything else is why it did not start
REPORT_BYTES = 1000


def run_workers(
    count: int, work: Callable[[Callable[[], None]], None], on_ready: Callable[[], None], watch: Callable[[], None], patience: float
) -> None:
    """Forks ``count`` processes that each call ``work(ready)``, until SIGINT or SIGTERM.

    ``on_ready`` is called when all of them have called ``ready``, ``watch`` every WATCH_SECONDS; ``patience`` is how many
    seconds the workers may take to end. Call it before any loop or thread exists. Raises ConfigurationError if the first workers do
    not start.
    """
    parent = _Workers(work)
    handlers = {number: signal.signal(number, parent.stop) for number in ENDING}
    try:
        for _ in range(count):
            parent.fork()
        parent.wait_until_ready()
        if not parent.stopping:
            on_ready()
        parent.supervise(watch)
    finally:
        parent.end(patience)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Workers:
    """The worker processes, as their parent sees them; each calls ``work(ready)``."""

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        self._work = work
        self._workers: dict[int, int] = {}  # process → the pipe that says when it is ready
        self.stopping = False

    def stop(self, number: int, frame: object) -> None:
        """Of a signal: asks the workers to end."""
        self.stopping = True
        for process in self._workers:
            os.kill(process, signal.SIGTERM)

    def fork(self) -> None:
        """Starts a worker, which writes into its pipe when it is ready, or why it is not."""
        reading, writing = os.pipe()
        # Signals wait meanwhile: a worker that has just been born still has its parent's handlers, which would ignore an order to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        process = os.fork()
        if process:
            os.close(writing)
            self._workers[process] = reading
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            return
        status = 1
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)  # until the worker has its own way to end
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            os.close(reading)
            self._work(partial(_report, writing, READY))
            status = 0
        except GatewayError as error:
            _report(writing, str(error).encode()[:REPORT_BYTES])
        except BaseException:
            log.exception("a worker failed")
        finally:
            os._exit(status)

    def wait_until_ready(self) -> None:
        """Returns when all workers are ready, or the signal to stop came. Raises ConfigurationError with what a worker reports."""
        deadline = time.monotonic() + START_SECONDS
        for process, pipe in list(self._workers.items()):
            report = b""
            while not report and not self.stopping and time.monotonic() < deadline:
                if select.select([pipe], [], [], 0.1)[0]:
                    report = os.read(pipe, REPORT_BYTES)
                    break
            if self.stopping:
                return
            if report != READY:
                raise ConfigurationError(report.decode(errors="replace") or f"worker {process} did not start; the log says why")

    def supervise(self, watch: Callable[[], None]) -> None:
        """Replaces workers that end by themselves, until the signal to stop."""
        failures = 0
        while not self.stopping:
            time.sleep(WATCH_SECONDS)
            watch()
            ended = self._reap()
            failures = failures + len(ended) if ended else 0
            for process in ended:
                if self.stopping:
                    return
                log.error("worker %d ended by itself; starting another", process)
                time.sleep(backoff(failures, 0.1, 5.0))
                if self.stopping:
                    return
                self.fork()

    def end(self, patience: float) -> None:
        """Asks them to end; those that still run after ``patience`` seconds are killed."""
        number, deadline = signal.SIGTERM, time.monotonic() + patience
        self.stop(number, None)
        while self._workers:
            if self._reap():
                continue
            time.sleep(0.02)
            if time.monotonic() > deadline:
                log.error("workers %s did not end in %g s; they are killed", list(self._workers), patience)
                for process in self._workers:
                    os.kill(process, signal.SIGKILL)
                deadline += patience

    def _reap(self) -> list[int]:
        ended = []
        for process, pipe in list(self._workers.items()):
            if os.waitpid(process, os.WNOHANG)[0]:
                os.close(pipe)
                del self._workers[process]
                ended.append(process)
        return ended


def _report(pipe: int, text: bytes) -> None:
    os.write(pipe, text)
