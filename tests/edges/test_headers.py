"""The headers that restrict browsers in every answer, whichever path, method, status and edge it has."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ..kit.clients import Socket
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway
from ..kit.headers import check_headers

SETTINGS = f'allowed_origins = ["https://app.example.org"]\n{RULES}[limits]\nmessage_bytes = 1000\napi_bytes = 1000\n'

KEY = {"X-API-Key": API_KEY}
ELSEWHERE = {"Origin": "https://app.example.org"}
CONNECT = quote('{"id":1,"connect":{}}')
LARGE = b"x" * 5000

ANSWERS: list[tuple[str, str, dict[str, str], bytes, int]] = [
    ("GET", "/", {}, b"", 200),
    ("HEAD", "/", {}, b"", 200),
    ("POST", "/", {}, b"", 405),
    ("GET", "/static/index.html", {}, b"", 200),
    ("GET", "/static/demo/index.html", {}, b"", 200),
    ("GET", "/static/gateway.js", {}, b"", 200),
    ("GET", "/static/landing.css", {}, b"", 200),
    ("GET", "/static/nowhere.js", {}, b"", 404),
    ("GET", "/static/../pyproject.toml", {}, b"", 404),
    ("GET", "/nowhere", {}, b"", 404),
    ("GET", "/nowhere/<script>", {}, b"", 404),
    ("GET", "/openapi.json", {}, b"", 0),
    ("GET", "/health/live", {}, b"", 200),
    ("GET", "/health/ready", {}, b"", 200),
    ("GET", "/history?channel=open:1", {}, b"", 200),
    ("GET", "/history?channel=sealed:1", {}, b"", 403),
    ("GET", "/history?channel=open:1&token=x", {}, b"", 401),
    ("GET", "/history?channel=nowhere:1", {}, b"", 404),
    ("DELETE", "/history", {}, b"", 405),
    ("GET", "/inbox", {}, b"", 403),
    ("POST", "/inbox/read", {}, LARGE, 413),
    ("GET", "/inbox/read", {}, b"", 405),
    ("GET", "/sse?channel=open:1", {}, b"", 200),
    ("GET", "/sse?channel=open:1", ELSEWHERE, b"", 200),
    ("GET", "/sse?channel=sealed:1", {}, b"", 200),
    ("GET", "/sse", {}, b"", 400),
    ("POST", "/sse?channel=open:1", {}, b"", 405),
    ("OPTIONS", "/sse", ELSEWHERE, b"", 204),
    ("OPTIONS", "/history", {}, b"", 403),
    ("POST", "/api/info", KEY, b"{}", 200),
    ("POST", "/api/info", KEY, b"{", 400),
    ("POST", "/api/publish", KEY, LARGE, 413),
    ("POST", "/api/info", {}, b"{}", 401),
    ("POST", "/api/nowhere", KEY, b"{}", 404),
    ("GET", "/api/info", KEY, b"", 405),
    ("GET", f"/connection/sse?cf_connect={CONNECT}", {}, b"", 200),
    ("GET", "/connection/sse", {}, b"", 400),
    ("GET", "/connection/http_stream", {}, b"", 405),
    ("POST", "/connection/http_stream", {}, b'{"id":1,"connect":{}}', 200),
    ("POST", "/emulation", {}, b'{"session":"s","node":"n","data":""}', 404),
    ("POST", "/emulation", {}, LARGE, 413),
    ("OPTIONS", "/emulation", ELSEWHERE, b"", 204),
    ("POST", "/emulation", {"Origin": "https://evil.test"}, b"{}", 403),
    ("GET", "/sse?channel=open:1", {"Origin": "https://evil.test"}, b"", 403),
    ("GET", "/connection/websocket", {}, b"", 426),
]

gateway = shared_gateway(SETTINGS, both_edges=True)


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), ANSWERS)
async def test_every_answer_has_the_headers_that_restrict_browsers(
    gateway: RunningGateway, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    async with await Socket.open(gateway) as raw:
        lines = {"Host": "gateway.test", "Content-Length": str(len(body))} | headers
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await raw.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        first, *rest = (await raw.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in rest if line]
    given = {name.lower(): value.strip() for name, _, value in pairs}
    assert len(given) == len(pairs), "no header is there twice"
    assert status in (0, int(first.split()[1]))
    check_headers(given)
    assert given.get("content-type", "").startswith("text/html") == ((path, status) == ("/", 200) or path.endswith(".html"))


async def test_an_answer_without_a_body_has_the_same_headers(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        _, given, _ = await raw.request("GET", "/static/gateway.js")
        status, given, _ = await raw.request("GET", "/static/gateway.js", {"If-None-Match": given["etag"]})
    assert status == 304
    check_headers(given)
