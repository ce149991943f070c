"""Handshakes and pages that a proxy or the settings keep out: the log names the cause and the remedy."""

from __future__ import annotations

import json

import pytest

from ..kit.clients import Socket
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.waiting import until

KEY = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", **KEY}

gateway = shared_gateway(both_edges=True)


async def test_a_handshake_whose_upgrade_a_proxy_removed_is_named_once(gateway: RunningGateway) -> None:
    for _ in range(3):
        async with await Socket.open(gateway) as raw:
            status, headers, body = await raw.request("GET", "/connection/websocket", KEY | {"Connection": "close"})
            assert (status, headers["upgrade"]) == (426, "websocket") and b"proxy_set_header Upgrade" in body
    assert gateway.log().count("arrived without the header Upgrade") == 1


async def test_a_person_who_opens_the_address_for_websockets_learns_what_it_is_for(gateway: RunningGateway) -> None:
    """It was "Not Found", as of an address that is wrong."""
    async with await Socket.open(gateway) as raw:
        status, headers, body = await raw.request("GET", "/connection/websocket")
    assert (status, headers["upgrade"]) == (426, "websocket") and body.startswith(b"this address is for WebSockets")


@pytest.mark.parametrize(
    "method, path, headers, body",
    [
        ("GET", "/connection/websocket", UPGRADE, b""),
        ("GET", "/sse?channel=posts:1", {}, b""),
        ("POST", "/inbox/read", {}, b"{}"),
        ("POST", "/connection/http_stream", {}, b"{}"),
    ],
    ids=["websocket", "sse", "inbox", "emulation"],
)
async def test_a_refused_origin_is_logged_with_the_setting_that_lets_it_in(
    gateway: RunningGateway, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    origin = f"http://{path.strip('/').partition('?')[0].replace('/', '-')}.shop.example:3000"
    async with await Socket.open(gateway) as raw:
        status, *_ = await raw.request(method, path, {"Origin": origin, **headers}, body)
    assert status == 403
    await until(lambda: f"'{origin}'" in gateway.log(), "the log names the origin")
    (line,) = [line for line in gateway.log().splitlines() if f"'{origin}'" in line]
    assert "allowed_origins" in line and "--origin" in line


@pytest.mark.parametrize("origin, refused", [("http://shop.example", True), ("", False)])
async def test_a_page_learns_from_the_health_that_its_origin_is_the_cause(gateway: RunningGateway, origin: str, refused: bool) -> None:
    """Of a connection that is refused, a browser shows the page no more than that it broke off."""
    async with await Socket.open(gateway) as raw:
        status, headers, body = await raw.request("GET", "/health/ready", {"Origin": origin} if origin else {})
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert json.loads(body) == {"status": "ready"} | ({"refused": "allowed_origins does not list this page's origin"} if refused else {})
