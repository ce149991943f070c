"""The command ``gateway`` as a process of its own.

run        in a fork of a process that has imported it, to its end: an Outcome
run_alone  the same, started by itself
process    a command that stays, read line by line, and ended with its block
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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

    def __init__(self, output: Path, error: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        with output.open("wb") as out, error.open("wb") as complaints:
            words = [*GATEWAY, *arguments]
            self._popen = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=complaints, env=ENVIRONMENT | dict(environment)
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


class Process:
    """A command that stays; its standard output is read line by line."""

    def __init__(self, *arguments: Any, environment: Mapping[str, str] = NONE) -> None:
        self._popen = subprocess.Popen(
            [*GATEWAY, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # select sees all that was not read yet
            env=ENVIRONMENT | dict(environment),
        )
        self._unread = b""
        self.heard = ""

    @property
    def pid(self) -> int:
        return self._popen.pid

    def line(self, seconds: float = PATIENCE) -> str:
        """The next line of standard output."""
        return self._line_of(self._popen.stdout, seconds)

    def _line_of(self, stream: Any, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            assert select.select([stream], [], [], max(0, deadline - time.monotonic()))[0], f"nothing came within {seconds} s"
            part = os.read(stream.fileno(), 65536)
            if not part:
                raise AssertionError(f"it ended: {self._popen.wait(10)} {self._popen.stderr.read().decode()}")  # type: ignore[union-attr]
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def complaint(self, seconds: float = PATIENCE) -> str:
        """The next line of standard error. Not to be mixed with ``line`` while one is under way."""
        assert self._popen.stderr is not None
        assert select.select([self._popen.stderr], [], [], seconds)[0], "nothing was said"
        return self._popen.stderr.readline().decode()

    def end(self, number: int = signal.SIGINT, seconds: float = 20) -> Outcome:
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        try:
            out, error = self._popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.communicate()
            raise
        return Outcome(self._popen.returncode, (self._unread + out).decode(), error.decode())


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
