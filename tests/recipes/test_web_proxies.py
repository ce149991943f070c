"""The recipes of nginx, Caddy and HAProxy, each in front of a real gateway, with TLS and under a path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from websockets.exceptions import ConnectionClosed

from gateway.config import Config
from publishers import Publisher

from ..kit.browser import BLOCKED_WEBSOCKET, FOLLOW, wait
from ..kit.certificates import Authority
from ..kit.channels import new_channel
from ..kit.clients import LOST, SECONDS, Stream, client, lines, opened
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.ports import free_port
from ..kit.waiting import eventually, until, wait_until
from ..kit.web_proxies import FORGED, HERE, KINDS, PATH, WebProxy, fault

pytestmark = pytest.mark.slow

AT_ONCE = 0.5  # seconds: buffers would hold an event back until they are full, or for ever
SETTINGS = 'trusted_proxies = ["127.0.0.1"]\n' + RULES


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS, port=free_port())


@pytest.fixture(scope="module")
def proxies(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WebProxy]]:
    """All of them at once."""
    folder, running = tmp_path_factory.mktemp("proxies"), {}
    authority = Authority(folder)
    try:
        for kind in KINDS:
            running[kind] = WebProxy(kind, gateway, folder / kind, authority)
        for proxy in running.values():
            proxy.wait()
        yield running
    finally:
        for proxy in running.values():
            proxy.close()


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, WebProxy]) -> WebProxy:
    return proxies[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_takes_its_recipe_for_a_gateway_with_tls_and_without_a_path(kind: str, tmp_path: Path) -> None:
    config = Config(tls_cert="/cert.pem", tls_key="/key.pem", host="::1", port=9443)
    assert fault(kind, config, "/", tmp_path) == ""
    assert fault(kind, Config(), "/", tmp_path) == ""


@asynccontextmanager
async def streamed(proxy: WebProxy, method: str, path: str, body: str = "") -> AsyncIterator[Stream]:
    """The streamed answer to a request; nothing of it is read yet."""
    async with await proxy.open() as raw:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {PATH}{path} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n{length}\r\n{body}"
        await raw.send(head.encode())
        async with asyncio.timeout(SECONDS):
            status, headers = await raw.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        yield Stream(raw, status, headers)


async def test_a_websocket_gets_publications_at_once(proxy: WebProxy, gateway: RunningGateway) -> None:
    channel = new_channel()
    async with client(proxy, subscribe=channel, **proxy.options) as wire:
        await gateway.ask("publish", channel=channel, data={"n": 1})
        assert (await wire.publication(AT_ONCE))["data"] == {"n": 1}


async def test_an_event_stream_gets_each_event_at_once(proxy: WebProxy, gateway: RunningGateway) -> None:
    channel = new_channel()
    async with streamed(proxy, "GET", f"sse?channel={channel}&token={proxy.token()}") as stream:
        await stream.connected()
        for number in range(3):
            await gateway.ask("publish", channel=channel, data=number)
            assert (await stream.next(AT_ONCE)).data["data"] == number


async def test_an_event_stream_has_room_for_many_channels_and_their_tokens_in_its_address(proxy: WebProxy) -> None:
    async with streamed(proxy, "GET", f"sse?channel={new_channel()}&token={proxy.token()}&tokens={'x' * 40_000}") as stream:
        await stream.connected()


async def test_the_gateway_learns_at_once_that_a_client_has_left_its_stream(proxy: WebProxy, gateway: RunningGateway) -> None:
    user = f"left-{proxy.kind}"
    async with streamed(proxy, "GET", f"sse?channel={new_channel()}&token={proxy.token(user)}") as stream:
        await stream.connected()
    await until(lambda: f"of user '{user}' disconnected from {HERE}" in gateway.log(), "a line of the log")


async def test_an_emulated_client_gets_replies_and_publications_at_once(proxy: WebProxy, gateway: RunningGateway) -> None:
    channel = new_channel()
    connect = lines({"id": 1, "connect": {"token": proxy.token()}})
    async with streamed(proxy, "POST", "connection/http_stream", connect) as stream, await proxy.open() as raw:
        replies = [await _line(stream, 0)]
        subscribe = {field: replies[0]["connect"][field] for field in ("session", "node")}
        subscribe["data"] = lines({"id": 2, "subscribe": {"channel": channel}})
        assert (await raw.request("POST", f"{PATH}emulation", body=json.dumps(subscribe).encode()))[0] == 204
        assert "subscribe" in await _line(stream, 1)
        await gateway.ask("publish", channel=channel, data=7)
        assert (await _line(stream, 2))["push"]["pub"]["data"] == 7


async def _line(stream: Stream, number: int) -> dict[str, Any]:
    await stream.until(lambda each: each.body.count(b"\n") > number, AT_ONCE)
    return json.loads(bytes(stream.body).split(b"\n")[number])


async def test_the_gateway_learns_the_address_of_a_client_and_believes_no_forged_one(proxy: WebProxy, gateway: RunningGateway) -> None:
    user = f"of-{proxy.kind}"
    async with client(proxy, user, additional_headers=FORGED, **proxy.options):
        wait_until(lambda: f"of user '{user}' connected from {HERE}" in gateway.log(), "a line of the log")


async def test_a_page_of_the_proxys_own_host_is_let_in_and_others_are_not(proxy: WebProxy) -> None:
    async with opened(proxy, origin=f"https://127.0.0.1:{proxy.port}", **proxy.options):
        pass
    with pytest.raises(Exception, match="403"):
        async with opened(proxy, origin="https://evil.example.org", **proxy.options):
            pass


async def test_a_backend_publishes_a_large_body_through_it(proxy: WebProxy) -> None:
    body = json.dumps({"channel": new_channel(), "data": "x" * 2_000_000}).encode()
    async with await proxy.open() as raw:
        status, _, answer = await raw.request("POST", f"{PATH}api/publish", {"X-API-Key": API_KEY}, body)
        assert status == 200 and b"offset" in answer
        status, _, answer = await raw.request("POST", f"{PATH}api/info", {"X-API-Key": API_KEY}, b"{}")
        assert status == 200, "the connection is used again"


async def test_metrics_are_not_there_and_the_path_without_its_last_slash_is_redirected(proxy: WebProxy) -> None:
    for path in ("metrics", "%6detrics", "metric%73"):  # the gateway takes them for one
        async with await proxy.open() as raw:
            assert (await raw.request("GET", f"{PATH}{path}", {"X-API-Key": API_KEY}))[0] == 404
    async with await proxy.open() as raw:
        status, headers, _ = await raw.request("GET", PATH.rstrip("/"))
        assert status in (301, 302) and headers["location"].endswith(PATH)


async def test_clients_return_through_each_proxy_after_a_restart_and_miss_nothing(
    proxies: dict[str, WebProxy], gateway: RunningGateway, start_gateway_once: Start, valkey_url: str
) -> None:
    channel = new_channel()
    positions = await asyncio.gather(*(_leave(proxy, channel, gateway) for proxy in proxies.values()))
    async with Publisher(valkey_url, prefix=gateway.prefix) as publisher:
        await publisher.publish(channel, "missed")
    for proxy in proxies.values():
        async with await proxy.open() as raw:
            assert (await raw.request("GET", f"{PATH}sse?channel={channel}&token={proxy.token()}"))[0] in (502, 503)
    start_gateway_once(SETTINGS, beside=gateway, port=gateway.port)
    for proxy, position in zip(proxies.values(), positions, strict=True):
        await eventually(lambda proxy=proxy, position=position: _recovers(proxy, channel, position), f"{proxy.kind} lets clients in again")


async def _leave(proxy: WebProxy, channel: str, gateway: RunningGateway) -> dict[str, Any]:
    """Follows the channel until the gateway ends; its position."""
    async with client(proxy, **proxy.options) as wire:
        position = await wire.result("subscribe", channel=channel)
        await asyncio.to_thread(gateway.stop)
        assert (await wire.ended())[0] == 3001, "the gateway's own close frame arrives"
        return {"recover": True, "offset": position.get("offset", 0), "epoch": position["epoch"]}


async def _recovers(proxy: WebProxy, channel: str, position: dict[str, Any]) -> bool:
    try:
        async with client(proxy, **proxy.options) as wire:
            found = await wire.result("subscribe", channel=channel, **position)
    except (*LOST, ConnectionClosed):
        return False
    assert found["recovered"] and [each["data"] for each in found["publications"]] == ["missed"]
    return True


def test_what_clients_send_in_queries_is_in_no_log(proxy: WebProxy) -> None:
    """A query may hold a token. The requests before, and that to a gateway that was away, are in the logs."""
    wait_until(lambda: "sse" in proxy.log(), "a log of requests")
    assert "token" not in proxy.log() and "eyJ" not in proxy.log()


# A browser. After it no asynchronous test runs in this module.


@pytest.fixture(scope="module")
def pages(browser: Browser) -> Any:
    return browser.new_context(ignore_https_errors=True)


@pytest.mark.parametrize("blocked", ["", BLOCKED_WEBSOCKET], ids=["websocket", "sse"])
def test_a_page_follows_a_channel_over_http_2(pages: Any, proxy: WebProxy, gateway: RunningGateway, blocked: str) -> None:
    channel, page = new_channel(), pages.new_page()
    page.add_init_script(blocked)
    page.goto(f"{proxy.url}/health/live")
    page.evaluate(FOLLOW, {"url": proxy.url, "channels": [channel], "options": {"token": proxy.token("ann")}, "tokens": None})
    wait(page, "subscriptions[0].state === 'live'")
    gateway.publish(channel, 5)
    wait(page, "seen.length === 1 && seen[0].data === 5")
    assert page.evaluate("[gateway.transport, performance.getEntriesByType('navigation')[0].nextHopProtocol]") == [
        "sse" if blocked else "websocket",
        "h2",
    ]
    page.close()
