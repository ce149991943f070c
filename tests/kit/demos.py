"""The API of a running ``gateway demo``."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

__all__ = ["NOBODY_ELSE", "Demo"]

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
            return error.code, json.loads(error.read() or b"null")

    def enter(self, name: str) -> Callable[[str, str, Any], Any]:
        """What that member may ask for."""
        token = self.call("POST", "enter", {"name": name})[1]["token"]

        def ask(method: str, path: str, body: Any = None) -> Any:
            status, answer = self.call(method, path, body, token)
            assert status == 200, answer
            return answer

        return ask
