"""What the how-to pages and the tutorial say, done as they say it: their files in a folder, their commands as processes.

A page uses the ports 8000 (the gateway) and 3000 (the reader's own server); a test takes free ones in their place, and changes nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..kit.javascript import NODE
from ..kit.programs import ENVIRONMENT
from ..kit.waiting import wait_until
from .pages import snippets

__all__ = ["Desk", "code"]

NONE: Mapping[str, str] = {}


def code(name: str, language: str = "", *, of: int = 1) -> str:
    """The code that is marked ``run: NAME``; ``of`` is how many pieces of it there are, which are joined by an empty line."""
    found = snippets(name, language)
    assert len(found) == of, f"{name} {language}: {[str(fence) for fence in found]}"
    return "\n".join(fence.code for fence in found)


class Desk:
    """A reader's folder, with free ports in place of those on the pages, and programs that run in it until the test is over."""

    def __init__(self, folder: Path, ports: Mapping[int, int], environment: Mapping[str, str] = NONE) -> None:
        self.folder = folder
        self._ports = ports
        self._running: list[subprocess.Popen[bytes]] = []
        path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(NODE).parent), ENVIRONMENT["PATH"]])
        self.environment = {**ENVIRONMENT, "PATH": path, "PYTHONUNBUFFERED": "1", **environment}

    def moved(self, text: str) -> str:
        """The text with the ports of this test; a Valkey's address without one has its usual port."""
        text = text.replace('"valkey://localhost"', '"valkey://localhost:6379"')
        return re.sub(r"\b\d{4}\b", lambda port: str(self._ports.get(int(port[0]), port[0])), text)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.moved(text))
        return file

    def run(self, command: str, *, stdin: str = "") -> str:
        """Runs lines of a shell to their end, which have to succeed; returns what they print."""
        done = subprocess.run(
            ["bash", "-euc", self.moved(command)],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: str, ready: str) -> Path:
        """Starts a program, and waits until it has printed ``ready``; returns the file with all that it prints."""
        output = self.folder / f"output{len(self._running)}"
        with output.open("wb") as file:
            words: Any = ["bash", "-c", f"exec {self.moved(command).strip()}"]
            process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self._running.append(process)
        wait_until(lambda: ready in output.read_text() or process.poll() is not None, f"{command!r} prints {ready!r}")
        assert process.poll() is None, output.read_text()
        return output

    def stop(self) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
                continue
            process.kill()
            process.wait()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
