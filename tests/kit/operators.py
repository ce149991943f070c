"""Operators: they use the console over HTTP as its page does, or as no page would.

WITH_CONSOLE   the settings of a gateway with a console
log_in         an Operator, who is logged in
Operator       ``call`` for a method's result, ``refusal`` for its error, ``request`` for anything
send           one request on a connection of its own, so that any worker may get it
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .gateways import RunningGateway

__all__ = ["JSON", "READ_KEY", "WITH_CONSOLE", "WRITE_KEY", "Answer", "Operator", "log_in", "send"]

WRITE_KEY, READ_KEY = "a key that may change things", "a key that may only look"
WITH_CONSOLE = f'admin_keys = ["{WRITE_KEY}"]\nadmin_read_keys = ["{READ_KEY}"]\n'
JSON = {"content-type": "application/json"}
NONE: Mapping[str, str] = {}


class Answer(NamedTuple):
    """``headers`` by their names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(gateway: RunningGateway, method: str, path: str, body: Any = None, headers: Mapping[str, str] = NONE) -> Answer:
    """``body`` is bytes, or what is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, text, dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Operator:
    """One session of the console."""

    def __init__(self, gateway: RunningGateway, cookie: str, csrf: str) -> None:
        self.gateway = gateway
        self.cookie = cookie
        self.csrf = csrf

    @property
    def headers(self) -> dict[str, str]:
        return {**JSON, "cookie": f"gateway_admin={self.cookie}", "x-gateway-csrf": self.csrf}

    def request(
        self, method: str, path: str, body: Any = None, *, without: str = "", gateway: RunningGateway | None = None, **more: str
    ) -> Answer:
        """``without`` one of the headers, with ``more`` of them (with _ for -), at another ``gateway``."""
        headers = {name: value for name, value in self.headers.items() if name != without}
        return send(gateway or self.gateway, method, path, body, headers | {name.replace("_", "-"): value for name, value in more.items()})

    def post(self, method: str, /, **request: Any) -> Answer:
        return self.request("POST", f"/admin/api/{method}", request)

    def call(self, method: str, /, **request: Any) -> Any:
        answer = self.post(method, **request)
        assert answer.status == 200 and "result" in answer.json, answer
        return answer.json["result"]

    def refusal(self, method: str, /, **request: Any) -> str:
        """The sentence of a method's error."""
        answer = self.post(method, **request)
        assert answer.status == 200 and "error" in answer.json, answer
        return str(answer.json["error"]["message"])

    @property
    def status(self) -> int:
        """Of the session: 200 while it is good."""
        return self.request("GET", "/admin/session").status


def log_in(gateway: RunningGateway, key: str = WRITE_KEY, **headers: str) -> Operator:
    answer = send(
        gateway, "POST", "/admin/session", {"key": key}, JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert answer.status == 200, answer
    return Operator(gateway, answer.headers["set-cookie"].partition(";")[0].partition("=")[2], answer.json["csrf"])
