"""A real Prometheus, which scrapes gateways of the tests five times a second; Debian's package ``prometheus`` brings it, and promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from .ports import free_port
from .waiting import wait_until

__all__ = ["Prometheus", "needs_prometheus", "promtool"]

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed (apt-get install prometheus)",
)


def promtool(*arguments: object) -> None:
    """Fails with what it reports."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """Runs with the configuration ``file``, in whose folder it stores what it scrapes. Its first scrape is five seconds after its start.

    ``now`` is the unix time of its queries, "" for that of each query.
    """

    def __init__(self, file: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.now = ""
        self._log = (file.parent / "prometheus.log").open("wb")
        options = {
            "config.file": file,
            "storage.tsdb.path": file.parent / "series",
            "web.listen-address": self.url.removeprefix("http://"),
            "log.level": "warn",
            "scrape.discovery-reload-interval": "100ms",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(["prometheus", *words], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        try:
            wait_until(self._answers, "prometheus answers")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API: ``ask("rules")``."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path} {query}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression."""
        return self.ask("query", query=expression, time=self.now)["result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()
