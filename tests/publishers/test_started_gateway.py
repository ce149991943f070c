"""``publishers.testing``'s gateway ends with the run of tests that started it."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gateway.store.embedded import socket_path
from publishers.testing import started_gateway

from ..kit.waiting import wait_until

RUN = """
import sys, time
from pathlib import Path
from publishers.testing import started_gateway
with started_gateway(Path(sys.argv[1])) as gateway:
    print(gateway.url, flush=True)
    time.sleep(600)
"""


def test_a_run_of_tests_that_was_killed_leaves_no_gateway_and_no_valkey_running(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        url = run.stdout.readline().strip()
        assert _answers(url) and socket_path(tmp_path / "data").exists()
        run.kill()
    wait_until(lambda: not _answers(url) and not socket_path(tmp_path / "data").exists(), "the end of the gateway and its Valkey")


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/health/live").status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def test_a_proxy_in_the_environment_is_not_asked_for_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started_gateway(tmp_path) as gateway:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert gateway.history("posts:a") == []


def test_a_gateway_that_does_not_start_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"did not start: .*no_such_setting"), started_gateway(tmp_path, "no_such_setting = 1\n"):
        """It is never entered."""
