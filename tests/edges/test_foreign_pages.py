"""What a page of another site reaches with what its visitor's browser adds by itself: a cookie, and a way into the network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.config import Config
from gateway.edges.request import is_foreign

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


# Its clients need no token.
unchecked = shared_gateway(RULES + "[insecure]\nclients = true\n", both_edges=True)


async def test_clients_without_tokens_are_no_pages_whose_host_leads_here_under_its_own_name(unchecked: RunningGateway) -> None:
    """Not even with a request that a browser sends without an origin, as an EventSource of the page's own host does."""
    for host, good in {
        "evil.test": False,
        f"evil.test:{unchecked.port}": False,
        "localhost:1": True,
        "127.0.0.1:1": True,
        "gateway": True,
    }.items():
        for page in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
            for method, path in (("GET", "/sse?channel=chat:1"), ("GET", "/history?channel=chat:1"), STREAMS[0]):
                assert await status(unchecked, method, path, page) == (200 if good else 403), (path, page)
            assert await status(unchecked, "POST", "/emulation", page) == (400 if good else 403), page
            async with await Socket.open(unchecked) as raw:
                assert await raw.upgrade(headers=page) == (101 if good else 403), page


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_origins": ["https://gateway.example.org"]},
        {"trusted_proxies": ["127.0.0.1"]},  # nobody browses on the machine of a proxy
        {"host": "0.0.0.0"},
        {"insecure": {"clients": False}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_gateway_that_others_reach_by_a_name_is_called_by_it(settings: dict[str, Any]) -> None:
    config = Config(**({"insecure": {"clients": True}} | settings))
    for page in ({}, {"origin": "https://gateway.example.org"}):
        assert not is_foreign({"host": "gateway.example.org"} | page, config)
