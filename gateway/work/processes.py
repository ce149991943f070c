"""Handlers in processes of their own: for what burns CPU, must be killed at its timeout, or may end its process.

A process is started afresh (spawn), imports the module of the handler, and is used again for the next job, if one comes within IDLE_SECONDS.
It leads a process group of its own, with what its handlers start. The group is killed when the job is cancelled, when the worker ends, and
when the process of the worker is gone. Signals to the worker's process group do not end it: the worker decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from ..rules.json_values import json_of
from .handler_jobs import Facts, PlainJob, Progress
from .handlers import Handler, NoJson, Reject, Retry, describe
from .running import HandlerError, Unfit, read_data, reason_of
from .threads import Threads

__all__ = ["ProcessPool", "check_not_in_child"]

IDLE_SECONDS = 60.0  # after which a process that has no job is ended
END_SECONDS = 1.0  # for processes that are killed to be gone

_SPAWN = multiprocessing.get_context("spawn")


class _Child:
    """One process, which runs one job at a time."""

    def __init__(self) -> None:
        self.pipe, other = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(other,), daemon=True, name="gateway job")
        self._process.start()
        other.close()
        self._lock = threading.Lock()  # the worker's loop may kill it while its thread closes it
        self._closed = False

    def run(self, request: tuple[Any, ...], progress: Any) -> tuple[str, Any]:
        """Runs a job to its end; it is called in a thread. Returns what the process answered."""
        try:
            self.pipe.send(request)
            while True:
                kind, content = self.pipe.recv()
                if kind != "progress":
                    return kind, content
                progress(*content)
        except (EOFError, OSError):
            code = self._close()
            return "died", f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit status {code}"

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        with self._lock:
            if not self._closed and self._process.is_alive():
                self._kill_group()
                self._process.kill()

    def _close(self) -> int:
        """Waits for the end of the process, and returns its exit code. Closes its files at once, which else wait for the garbage collector."""
        self._kill_group()
        self._process.join()
        with self._lock:
            self._closed = True
            code = self._process.exitcode or 0
            self._process.close()
            self.pipe.close()
        return code

    def _kill_group(self) -> None:
        """Kills the process, and what it started and left running. The process was not waited for yet, so its number is no other's."""
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # it is new, and leads no group yet; or what is left is another user's
            os.killpg(self._process.pid or os.getpid(), signal.SIGKILL)


class ProcessPool:
    """Processes for handlers, as many as jobs run at once; each is used again. ``close`` ends them."""

    def __init__(self) -> None:
        self._threads = Threads(lambda: None)  # where a job is cancelled, its process is killed, and the thread ends
        self._idle: dict[_Child, asyncio.TimerHandle] = {}  # when each ends
        self._all: set[_Child] = set()

    async def call(self, handler: Handler, facts: Facts, data: bytes, progress: Progress) -> Any:
        """As ``calling.Processes.call``."""
        loop = asyncio.get_running_loop()

        def published(done: float, text: str) -> None:
            asyncio.run_coroutine_threadsafe(_awaited(progress, done, text), loop).result()

        child = self._take_idle() or await self._threads.call(_Child)
        self._all.add(child)
        try:
            kind, content = await self._threads.call(
                child.run, (handler.name, handler.function, msgspec.json.encode(facts), data), published
            )
        except BaseException:
            self._end(child)
            raise
        if kind == "died":
            self._end(child)
            raise HandlerError(content)
        self._idle[child] = loop.call_later(IDLE_SECONDS, self._end_idle, child)
        return _unpacked(kind, content)

    def _take_idle(self) -> _Child | None:
        while self._idle:
            child, timer = self._idle.popitem()
            timer.cancel()
            if child.is_alive():
                return child
            self._end(child)
        return None

    def _end_idle(self, child: _Child) -> None:
        del self._idle[child]
        self._end(child)

    async def close(self) -> None:
        """Returns when the threads are over, too, or after END_SECONDS: as the interpreter ends, it must not find a process half closed."""
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        for child in list(self._all):
            self._end(child)
        for _ in range(int(END_SECONDS / 0.01)):
            if not self._threads.abandoned:
                return
            await asyncio.sleep(0.01)

    def _end(self, child: _Child) -> None:
        child.kill()
        self._all.discard(child)


def check_not_in_child() -> None:
    """Raises RuntimeError in a process of a handler that imports its module: there the module must not run the worker once more."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself knows it
        raise RuntimeError(
            "the worker has handlers with process=True, whose processes import this module, and so run the worker again:"
            ' run it under `if __name__ == "__main__":`'
        )


def _unpacked(kind: str, content: Any) -> Any:
    if kind == "retry":
        raise Retry(content[0], content[1])
    if kind == "reject":
        raise Reject(content)
    if kind == "unfit":
        raise Unfit(content)
    if kind == "error":
        raise HandlerError(content)
    return NoJson(content) if kind == "no json" else msgspec.json.decode(content)


async def _awaited(progress: Progress, done: float, text: str) -> None:
    await progress(done, text)


# In the process.


def _serve(pipe: Connection) -> None:
    os.setsid()
    os.register_at_fork(after_in_child=pipe.close)  # a child of the handler must neither answer nor let the pipe seem open
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_worker, daemon=True, name="gateway worker's end").start()
    handlers: dict[str, Handler] = {}
    with contextlib.suppress(EOFError, OSError):  # the worker ended
        while True:
            name, function, facts, data = pipe.recv()
            if name not in handlers:
                handlers[name] = describe(name, function, batch=None, process=True)
            pipe.send(_answer(handlers[name], PlainJob(msgspec.json.decode(facts, type=Facts), _progress(pipe)), data))


def _end_with_worker() -> None:
    """A job does not run on when its worker was killed: another worker does it again."""
    if (worker := multiprocessing.parent_process()) is not None:
        worker.join()
        os.killpg(os.getpgid(0), signal.SIGKILL)


def _progress(pipe: Connection) -> Any:
    def progress(done: float, text: str) -> None:
        pipe.send(("progress", (done, text)))

    return progress


def _answer(handler: Handler, job: PlainJob, data: bytes) -> tuple[str, Any]:
    try:
        arguments = (job, read_data(handler, data)) if handler.takes_data else (job,)
        result = handler.function(*arguments)
        if inspect.isawaitable(result):
            raise TypeError("a handler with process=True is a plain function, and this one made a coroutine")
    except Retry as error:
        return "retry", (error.after, str(error))
    except Reject as error:
        return "reject", str(error)
    except Unfit as error:
        return "unfit", str(error)
    except BaseException as error:
        return "error", reason_of(error)
    try:
        return "finished", json_of(result, "the result")
    except Exception as error:  # the job is done; it is not run again for what it returned
        return "no json", str(error)
