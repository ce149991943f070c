"""Processes of the tests, each a fork of one that has imported everything: a start costs milliseconds instead of half a second.

A fork runs what its function or program runs, with signals, files and connections of its own. That the programs also start
by themselves is ``test_cli``'s and ``test_demo``'s to see.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

__all__ = ["Program", "barrier", "program", "replace", "start"]

PRELOADED = (
    "pytest",  # the main module of a run without workers
    "gateway.cli.commands",
    "gateway.cli.follow",
    "gateway.documentation.frame",
    "gateway.serve.server",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "publishers.relay_program",
    "publishers.migrator",
    "tests.kit.bridging",
    "tests.kit.mounted",
    "tests.kit.order_workers",
    "tests.kit.job_relays",
    "tests.kit.relays",
    "tests.kit.quick_digests",
    "tests.kit.frozen",
)

NONE: Mapping[str, Any] = {}
NOTHING = Path(os.devnull)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


def barrier(parties: int) -> Any:
    """So many processes pass it together; given to ``start`` as an argument."""
    return _context.Barrier(parties)


def start(work: Callable[..., Awaitable[None] | None], *arguments: Any) -> BaseProcess:
    process = _context.Process(target=_run, args=(work, arguments), daemon=True)
    process.start()
    return process


def _run(work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    if (waits := work(*arguments)) is not None:
        asyncio.run(waits)


def program(
    module: str, files: Sequence[Path | Connection], environment: Mapping[str, str], constants: Mapping[str, Any], arguments: Sequence[str]
) -> None:
    """``main`` of this module with these arguments, and of the environment's settings only these, and constants of modules replaced.

    ``files`` are its standard input, which must exist, its output and its errors, each a file or the end of a pipe.
    """
    for target, (file, flags) in enumerate(zip(files, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2), strict=True)):
        if isinstance(file, Connection):
            os.dup2(file.fileno(), target)
            file.close()
            continue
        opened = os.open(file, flags, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    # As a process that is started by itself has them: a terminal is written to line by line.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        del os.environ[name]
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started with it ignored
    replace(constants)
    sys.argv = ["gateway", *arguments]
    import_module(module).main()


def replace(constants: Mapping[str, Any]) -> None:
    """In this process: {"gateway.store.heartbeats.BEAT_SECONDS": 0.25}."""
    for name, value in constants.items():
        place, _, constant = name.rpartition(".")
        holder = import_module(place)
        assert hasattr(holder, constant), f"there is no {name}"
        setattr(holder, constant, value)


class Program:
    """A process that runs ``program``, with the face of a Popen."""

    def __init__(
        self,
        module: str,
        output: Path | Connection,
        error: Path | Connection,
        *arguments: str,
        environment: Mapping[str, str] = NONE,
        constants: Mapping[str, Any] = NONE,
        given: Path | Connection = NOTHING,
    ) -> None:
        """``given`` is its standard input."""
        self._process = start(program, module, (given, output, error), dict(environment), dict(constants), arguments)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Its exit status. Raises TimeoutError."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} did not end within {seconds} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
