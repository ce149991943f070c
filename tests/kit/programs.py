"""The command ``gateway`` as a process of its own.

run        in a fork of a process that has imported it, to its end: an Outcome
run_alone  the same, started by itself
process    a command that stays, read line by line, and ended with its block; a fork as well, or ``alone``
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import valkey

from gateway.store.embedded import socket_path

from .forks import Program
from .waiting import PATIENCE

__all__ = [
    "ENVIRONMENT",
    "GATEWAY",
    "LoneProgram",
    "Outcome",
    "Process",
    "cpu_seconds",
    "end_embedded",
    "forked",
    "pid_of_embedded",
    "process",
    "run",
    "run_alone",
    "runs",
]

NONE: Mapping[str, Any] = {}
GATEWAY = ("env", "--default-signal=INT", sys.executable, "-m", "gateway")  # a background job is started with SIGINT ignored
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


@dataclass
class Outcome:
    status: int
    out: str
    error: str

    def fails(self, status: int, *words: str) -> None:
        """It ended so, with one line on standard error that holds these words."""
        assert self.status == status, self
        assert self.error.startswith("gateway: ") and self.error.count("\n") == 1, self.error
        assert "Traceback" not in self.error + self.out
        for word in words:
            assert word in self.error, self.error

    def succeeds(self) -> str:
        assert (self.status, self.error) == (0, ""), self
        return self.out


def run(
    *arguments: Any, stdin: bytes = b"", environment: Mapping[str, str] = NONE, constants: Mapping[str, Any] = NONE, seconds: float = 30
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        given, output, error = (Path(folder) / name for name in ("in", "out", "error"))
        os.mkfifo(given)  # what is piped into a command is read otherwise than a file
        words = map(str, arguments)
        program = Program("gateway.cli", output, error, *words, environment=environment, constants=constants, given=given)
        with contextlib.suppress(BrokenPipeError), given.open("wb", buffering=0) as pipe:
            pipe.write(stdin)
        return Outcome(program.wait(seconds), output.read_text(), error.read_text())


def run_alone(*arguments: Any) -> Outcome:
    done = subprocess.run([*GATEWAY, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=30)
    return Outcome(done.returncode, done.stdout, done.stderr)


class LoneProgram:
    """A command that is started by itself, with the face of ``forks.Program``; for what has to be in its environment from the first instruction on."""

    def __init__(
        self,
        output: Path | Connection,
        error: Path | Connection,
        *arguments: str,
        environment: Mapping[str, str],
        given: Connection | None = None,
    ) -> None:
        with contextlib.ExitStack() as stack:
            out, complaints = (stack.enter_context(file.open("wb")) if isinstance(file, Path) else file for file in (output, error))
            self._popen = subprocess.Popen(
                [*GATEWAY, *arguments],
                stdin=given or subprocess.DEVNULL,
                stdout=out,
                stderr=complaints,
                env=ENVIRONMENT | dict(environment),
            )
        self.pid = self._popen.pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Its exit status. Raises TimeoutError."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} did not end within {seconds} s") from None

    def send_signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()


class Stream:
    """What a program writes to one of its files, read from a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self._unread = b""

    def line(self, deadline: float) -> str | None:
        """The next one, with its newline; None if the program closes the file before. Fails where none comes until ``deadline``."""
        while b"\n" not in self._unread:
            if not self.read(deadline):
                return None
        line, newline, self._unread = self._unread.partition(b"\n")
        return (line + newline).decode()

    def rest(self, deadline: float) -> str:
        """Everything that was not read yet, to the end of the file."""
        while self.read(deadline):
            pass
        return self._unread.decode()

    def read(self, deadline: float) -> bool:
        """Waits for more; False at the end of the file."""
        assert self.pipe.poll(max(0, deadline - time.monotonic())), f"nothing came in time after {self._unread!r}"
        part = os.read(self.pipe.fileno(), 65536)
        self._unread += part
        return bool(part)


class Process:
    """A command that stays; what it writes is read line by line."""

    def __init__(self, *arguments: Any, environment: Mapping[str, str] = NONE, alone: bool = False) -> None:
        """``alone``: started by itself, as a user starts it. It is a fork of a process that has imported it otherwise."""
        (given, self._input), (output, its_output), (error, its_error) = (Pipe(duplex=False) for _ in range(3))
        self._output, self._error = Stream(output), Stream(error)
        self._outcome: Outcome | None = None
        words = list(map(str, arguments))
        with given, its_output, its_error:
            self._program: Program | LoneProgram
            if alone:
                self._program = LoneProgram(its_output, its_error, *words, environment=environment, given=given)
            else:
                self._program = Program("gateway.cli", its_output, its_error, *words, environment=environment, given=given)

    @property
    def pid(self) -> int:
        return self._program.pid

    def line(self, seconds: float = PATIENCE) -> str:
        """The next line of standard output, without its end."""
        line = self._output.line(deadline := time.monotonic() + seconds)
        assert line is not None, f"it ended: {self._program.wait(10)} {self._error.rest(deadline)}"
        return line.removesuffix("\n")

    def complaint(self, seconds: float = PATIENCE) -> str:
        """The next line of standard error."""
        return self._error.line(time.monotonic() + seconds) or ""

    def end(self, number: int = signal.SIGINT, seconds: float = 20) -> Outcome:
        """Ends it, if it did not end by itself. What it wrote is what was not read before."""
        if self._outcome is None:
            if self._program.poll() is None:
                self._program.send_signal(number)
            try:
                self._outcome = self._at_its_end(seconds)
            except BaseException:
                self._program.kill()
                raise
        return self._outcome

    def _at_its_end(self, seconds: float) -> Outcome:
        self._input.close()
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(2) as readers:  # it may wait until there is room in either pipe
            out, error = readers.map(lambda stream: stream.rest(deadline), (self._output, self._error))
        outcome = Outcome(self._program.wait(seconds), out, error)
        for stream in (self._output, self._error):
            stream.pipe.close()
        return outcome


@contextlib.contextmanager
def process(*arguments: Any, **options: Any) -> Iterator[Process]:
    running = Process(*arguments, **options)
    try:
        yield running
    finally:
        running.end(signal.SIGKILL)


def end_embedded(data_dir: Path) -> None:
    """Ends the server that a killed gateway left running."""
    with contextlib.suppress(valkey.ValkeyError), valkey.Valkey(unix_socket_path=str(socket_path(data_dir))) as client:
        client.shutdown(nosave=True)


def pid_of_embedded(data_dir: Path) -> int:
    with valkey.Valkey(unix_socket_path=str(socket_path(data_dir))) as client:
        return int(client.info("server")["process_id"])


def cpu_seconds(pid: int) -> float:
    """What a process used of the cores so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def runs(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def forked(path: Path, *words: str, text: str = "", environment: Mapping[str, str] = NONE) -> Callable[[], Outcome]:
    """Begins the command in a fork of a process that has imported it; what this returns waits for its outcome.

    ``text`` is a configuration file for it, ``path`` with the suffix "toml".
    """
    file, output, error = (path.with_name(f"{path.name}.{kind}") for kind in ("toml", "out", "error"))
    file.write_text(text)
    named = ("--config", str(file)) if text and str(file) not in words else ()
    program = Program("gateway.cli", output, error, *words, *named, environment=environment)
    return lambda: Outcome(program.wait(60), output.read_text(), error.read_text())
