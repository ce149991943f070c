"""What a page of another site reaches with what its visitor's browser adds by itself: a cookie, and a way into the network."""

from __future__ import annotations

import asyncio
import json

import pytest

from ..kit.clients import Socket
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway

NAMED, ANY = "https://app.example.org", "https://any.test"
INSECURE = "[insecure]\napi = true\n"
SILENT_PAGES = [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]  # as browsers send images, links and forms
READS = ["/sse?channel=chat:1", "/history?channel=chat:1", "/inbox"]
WITH_COOKIE = [*(("GET", path) for path in READS), ("POST", "/inbox/read")]
STREAMS = [("GET", "/connection/sse?cf_connect=%7B%7D"), ("POST", "/connection/http_stream"), ("POST", "/emulation")]

# It lists no origin, and its API needs no key.
closed = shared_gateway(RULES + INSECURE, both_edges=True)

# It admits the pages of all origins, and names one.
wide = shared_gateway(f'allowed_origins = ["*", "{NAMED}", "http://[::1]:3000"]\n' + RULES + INSECURE, both_edges=True)


def cookie(gateway: RunningGateway) -> dict[str, str]:
    return {"Cookie": f"gateway_token={gateway.token()}"}


async def status(gateway: RunningGateway, method: str, path: str, headers: dict[str, str]) -> int:
    """Of an answer whose body need not end."""
    async with await Socket.open(gateway) as raw:
        return (await raw.request(method, path, headers, b"{}" if method == "POST" else b""))[0]


@pytest.mark.parametrize("page", SILENT_PAGES, ids=["cross-site", "same-site"])
async def test_another_sites_request_without_an_origin_opens_nothing_with_a_cookie(closed: RunningGateway, page: dict[str, str]) -> None:
    for method, path in WITH_COOKIE:
        assert await status(closed, method, path, cookie(closed) | page) == 403, path
    for method, path in STREAMS:
        assert await status(closed, method, path, cookie(closed) | page) == 403, path
    async with await Socket.open(closed) as raw:
        assert await raw.upgrade(headers=page) == 403


async def test_a_cookie_counts_where_no_page_or_one_of_the_own_host_sent_it(closed: RunningGateway) -> None:
    own = {"Origin": "http://gateway.test"}  # the Host that these requests name
    for page in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, own, own | {"Sec-Fetch-Site": "same-origin"}):
        for path in READS:
            assert await status(closed, "GET", path, cookie(closed) | page) == 200, (path, page)


async def test_a_cookie_never_counts_for_an_origin_that_only_the_star_admits(wide: RunningGateway) -> None:
    for page in ({"Origin": ANY}, {"Origin": "null"}, *SILENT_PAGES):
        for method, path in WITH_COOKIE:
            assert await status(wide, method, path, cookie(wide) | page) == 403, (path, page)
    for origin in (NAMED, "http://[::1]:3000"):
        for path in READS:
            assert await status(wide, "GET", path, cookie(wide) | {"Origin": origin}) == 200, (path, origin)


async def test_a_page_that_the_star_admits_uses_a_token_that_it_sends_itself(wide: RunningGateway) -> None:
    token, page = wide.token(), cookie(wide) | {"Origin": ANY}
    for path in READS:
        assert await status(wide, "GET", path, page | {"Authorization": f"Bearer {token}"}) == 200
        query = f"{path}{'&' if '?' in path else '?'}token={token}"
        assert await status(wide, "GET", query, page) == 200
    assert await status(wide, "GET", "/history?channel=open:1", {"Origin": ANY}) == 200


async def test_only_a_named_origin_may_send_its_cookies(wide: RunningGateway) -> None:
    async with await Socket.open(wide) as raw:
        for origin, credentials in ((NAMED, "true"), (ANY, "false")):
            _, headers, _ = await raw.request("GET", "/history?channel=open:1", {"Origin": origin})
            assert headers["access-control-allow-credentials"] == credentials


def published(gateway: RunningGateway, headers: dict[str, str]) -> int:
    body = json.dumps({"channel": "open:1", "data": 1}).encode()
    return gateway.http("POST", "/api/publish", body, {"Content-Type": "text/plain"} | headers)[0]


async def test_an_api_without_keys_takes_no_post_of_a_foreign_page(closed: RunningGateway, wide: RunningGateway) -> None:
    for gateway in (closed, wide):
        for page in ({"Origin": ANY}, {"Origin": "null"}, *SILENT_PAGES):
            assert await asyncio.to_thread(published, gateway, page) == 403, page
            assert await asyncio.to_thread(published, gateway, page | {"X-API-Key": API_KEY}) == 200, "the key is no page's by chance"
        for page in ({}, {"Origin": gateway.url}, {"Sec-Fetch-Site": "same-origin"}):
            assert await asyncio.to_thread(published, gateway, page) == 200, page
    assert await asyncio.to_thread(published, wide, {"Origin": NAMED}) == 200


async def test_an_api_without_keys_takes_no_post_of_a_page_whose_host_leads_here_under_its_own_name(closed: RunningGateway) -> None:
    """DNS rebinding: to the browser, the page and the gateway are of one origin."""
    for host, status in {
        "evil.test": 403,
        f"evil.test:{closed.port}": 403,
        "localhost:1": 200,
        "app.localhost": 200,
        "[::1]:1": 200,
    }.items():
        page = {"Origin": f"http://{host}", "Host": host, "Sec-Fetch-Site": "same-origin"}
        assert await asyncio.to_thread(published, closed, page) == status, host
