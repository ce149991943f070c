"""Several processes that share the port.

The parent owns what exists once: the port's number, the embedded Valkey, the signals. Each worker is a whole gateway with
a listening socket of its own (SO_REUSEPORT: the kernel spreads connections), so workers share nothing but Valkey. A worker
that dies costs its own clients a reconnect, and another worker takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..errors import ConfigurationError, GatewayError
from ..runtime.backoff import backoff

__all__ = ["ending_signals", "run_workers"]

log = logging.getLogger("gateway.workers")

WATCH_SECONDS = 0.5
START_SECONDS = 30.0
STEADY_SECONDS = 30.0  # a worker that lived so long did not fail at its start
READY = b"r"  # into a worker's pipe; anything else is why it did not start
REPORT_BYTES = 1000


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a process to end. SIGHUP comes when its terminal closes, and is ignored under nohup."""
    asks = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if asks else []))


def run_workers(
    count: int, work: Callable[[Callable[[], None], int], None], on_ready: Callable[[], None], watch: Callable[[], None], patience: float
) -> None:
    """Forks ``count`` processes that each call ``work(ready, number)``, until one of ``ending_signals``. The numbers are from 0 on; a process
    that takes the place of another has its number.

    ``on_ready`` is called when all of them have called ``ready``, ``watch`` every WATCH_SECONDS; ``patience`` is how many
    seconds the workers may take to end. Call it before any loop or thread exists. Raises ConfigurationError if the first workers do
    not start.
    """
    parent = _Workers(work)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the program that started this one ignores it, no worker's end could be noticed
    handlers = {number: signal.signal(number, parent.stop) for number in parent.ending}
    try:
        for number in range(count):
            parent.fork(number)
        parent.wait_until_ready()
        if not parent.stopping:
            on_ready()
        parent.supervise(watch)
    finally:
        parent.end(patience)
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Worker(NamedTuple):
    """``pipe`` is where the process writes when it is ready, or why it is not; ``born`` is a time of the monotonic clock."""

    number: int
    pipe: int
    born: float


class _Ended(NamedTuple):
    """A worker that has ended: its number, for how many seconds it lived, and why it ended, in words."""

    number: int
    seconds: float
    why: str


class _Workers:
    """The worker processes, as their parent sees them; each calls ``work(ready, number)``."""

    def __init__(self, work: Callable[[Callable[[], None], int], None]) -> None:
        self._work = work
        self.ending = ending_signals()
        self._workers: dict[int, _Worker] = {}  # by process
        self.stopping = False

    def stop(self, signum: int, frame: object) -> None:
        """The handler of a signal: asks the workers to end."""
        self.stopping = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in list(self._workers):
            with contextlib.suppress(ProcessLookupError):  # it has ended, and a signal interrupts what notes that
                os.kill(process, number)

    def fork(self, number: int) -> None:
        """Starts the worker of this number, which writes into its pipe when it is ready, or why it is not. Raises OSError."""
        reading, writing = os.pipe()
        # Signals wait meanwhile: a worker that has just been born still has its parent's handlers, which would ignore an order to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, self.ending)
        try:
            process = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.ending)
            raise
        if process:
            os.close(writing)
            self._workers[process] = _Worker(number, reading, time.monotonic())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.ending)
            return
        status = 1
        for signum in self.ending:
            signal.signal(signum, signal.SIG_DFL)  # until the worker has its own way to end
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.ending)
        try:
            os.close(reading)
            self._work(partial(_report, writing, READY), number)
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
        for process, (_, pipe, _) in list(self._workers.items()):
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
        failures = 0  # in a row, at the start
        missing: list[int] = []  # the numbers of those that have ended and were not replaced yet
        while not self.stopping:
            time.sleep(WATCH_SECONDS)
            watch()
            for process, ended in self._reap().items():
                if self.stopping:
                    return
                failures = failures + 1 if ended.seconds < STEADY_SECONDS else 1
                log.error("worker %d ended by itself%s; starting another", process, f": {ended.why}" if ended.why else "")
                missing.append(ended.number)
            while missing:
                time.sleep(backoff(failures, 0.1, 5.0))
                if self.stopping:
                    return
                try:
                    self.fork(missing[0])
                except OSError as error:  # no process or memory is left, which may pass: the other workers serve their clients meanwhile
                    log.error("another worker cannot be started: %s; trying again", error.strerror)
                    failures += 1
                    break
                del missing[0]

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
                self._send(signal.SIGKILL)
                deadline += patience

    def _reap(self) -> dict[int, _Ended]:
        """The workers that have ended, by process; they are none any more."""
        ended: dict[int, _Ended] = {}
        for process, worker in list(self._workers.items()):
            reaped, status = os.waitpid(process, os.WNOHANG)
            if reaped:
                ended[process] = _Ended(worker.number, time.monotonic() - worker.born, _why(worker.pipe, status))
                os.close(worker.pipe)
                del self._workers[process]
        return ended


def _why(pipe: int, status: int) -> str:
    """Why a process ended: the signal that ended it, or what it reported; "" if it reported nothing, as where its log says it."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"signal {-code}"
    report = os.read(pipe, REPORT_BYTES) if select.select([pipe], [], [], 0)[0] else b""
    return report.removeprefix(READY).decode(errors="replace")


def _report(pipe: int, text: bytes) -> None:
    os.write(pipe, text)
