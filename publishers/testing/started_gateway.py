"""A gateway for tests: ``gateway serve`` in a process of its own, with its embedded Valkey, in a folder that is new.

A guard (``guard.py``) runs it, and ends it when the pipe to the guard is closed: by the end of the block, or by that of the test run.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt

from gateway.store.embedded import socket_path

from ..publisher import SyncPublisher

__all__ = ["RunningGateway", "started_gateway"]

GUARD = Path(__file__).with_name("guard.py")
START_SECONDS = 30.0
END_SECONDS = 15.0  # longer than the guard's, which ends a gateway that does not end by itself
REPLY_SECONDS = 10.0

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the environment's proxy knows no port of this machine


class RunningGateway:
    """A gateway at ``url``. ``valkey_url`` is its Valkey's, ``publisher`` publishes there. It takes ``api_key``, and tokens of ``token_secret``."""

    def __init__(self, url: str, data_path: Path, api_key: str, token_secret: str) -> None:
        self.url = url
        self.websocket_url = f"ws{url.removeprefix('http')}/connection/websocket"
        self.valkey_url = f"unix://{socket_path(data_path)}"
        self.api_key = api_key
        self.token_secret = token_secret
        self.publisher = SyncPublisher(self.valkey_url)

    def token(self, user: str = "u1", **claims: Any) -> str:
        """A connection token of the user, valid for an hour."""
        return jwt.encode({"sub": user, "exp": int(time.time()) + 3600, **claims}, self.token_secret, algorithm="HS256")

    def api(self, method: str, **request: Any) -> dict[str, Any]:
        """The result of one call of the server API. Raises AssertionError for an error of the gateway's."""
        headers = {"X-API-Key": self.api_key, "Content-Type": "application/json"}
        call = urllib.request.Request(f"{self.url}/api/{method}", json.dumps(request).encode(), headers)
        try:
            with _opener.open(call, timeout=REPLY_SECONDS) as reply:
                answer: dict[str, Any] = json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method}: {error.read().decode()}") from None
        assert "result" in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer["result"]
        return result

    def history(self, channel: str) -> list[Any]:
        """The documents in the channel's history, oldest first."""
        return [each["data"] for each in self.api("history", channel=channel, limit=-1)["publications"]]


@contextmanager
def started_gateway(folder: Path, toml: str = "") -> Iterator[RunningGateway]:
    """Starts a gateway in ``folder`` and ends it with the block. Raises AssertionError, with its log, if it does not start."""
    file, log, data_path = folder / "gateway.toml", folder / "gateway.log", folder / "data"
    file.write_text(toml)
    api_key, token_secret = secrets.token_hex(16), secrets.token_hex(32)
    own = {
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "0",
        "GATEWAY_DATA_DIR": str(data_path),
        "GATEWAY_API_KEYS": json.dumps([api_key]),
        "GATEWAY_TOKENS__HMAC_SECRET": token_secret,
        "GATEWAY_DRAIN_SECONDS": "0",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | own
    command = [sys.executable, str(GUARD), sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    pipe = subprocess.PIPE
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, text=True) as process,
    ):
        try:
            gateway = RunningGateway(_url(process, log), data_path, api_key, token_secret)
            yield gateway
            gateway.publisher.close()
        finally:
            _end(process)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    """Where the gateway is, which is its first line; a gateway that writes none in time is ended."""
    assert process.stdin is not None and process.stdout is not None
    late = threading.Timer(START_SECONDS, process.stdin.close)
    late.start()
    line = process.stdout.readline()
    late.cancel()
    assert " is ready at " in line, f"the gateway did not start: {line}{log.read_text()}"
    return line.split(" is ready at ")[1].split()[0]


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
