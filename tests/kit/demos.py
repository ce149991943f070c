"""A running ``gateway demo``, and its API.

running_demo   runs one while a block lasts, in a fork; its log may hold no error
"""

from __future__ import annotations

import contextlib
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .forks import Program
from .waiting import wait_until

__all__ = ["NOBODY_ELSE", "Demo", "running_demo"]

NOBODY_ELSE = {"per_minute": 0}  # the simulated members rest: whatever happens is the test's doing


class Demo:
    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}/demo/api/{path}", data, headers, method=method)) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def enter(self, name: str) -> Callable[[str, str, Any], Any]:
        """What that member may ask for."""
        token = self.call("POST", "enter", {"name": name})[1]["token"]

        def ask(method: str, path: str, body: Any = None) -> Any:
            status, answer = self.call(method, path, body, token)
            assert status == 200, answer
            return answer

        return ask


@contextlib.contextmanager
def running_demo(folder: Path, constants: Mapping[str, Any]) -> Iterator[Demo]:
    """``constants`` of modules are replaced in its process. The simulated members rest."""
    output, log = folder / "out", folder / "log"
    program = Program("gateway.cli", output, log, "demo", "--port", "0", "--data-dir", str(folder / "data"), constants=constants)
    try:
        wait_until(lambda: output.exists() and "Ctrl-C" in output.read_text(), "a start", 60)
        demo = Demo(output.read_text().split(" is ready at ")[1].split()[0])
        demo.enter("tester")("POST", "pace", NOBODY_ELSE)
        yield demo
    finally:
        program.send_signal(signal.SIGINT)
        status = program.wait(30)
    assert status == 0
    assert "Traceback" not in log.read_text() and "ended that must not" not in log.read_text(), log.read_text()
