"""The pages and ``gateway.js`` over HTTP: compressed for clients that take gzip, and sent again only if they changed."""

from __future__ import annotations

import gzip

import pytest

from gateway.edges import pages
from gateway.edges.pages import STATIC

from ..kit.clients import Socket
from ..kit.gateways import RunningGateway, shared_gateway

PAGES = {
    "/": "index.html",
    "/static/gateway.js": "gateway.js",
    "/static/landing.css": "landing.css",
    "/static/demo/index.html": "demo/index.html",
}
GZIP = {"Accept-Encoding": "gzip, deflate, br, zstd"}

gateway = shared_gateway(both_edges=True)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_served_compressed(gateway: RunningGateway, path: str) -> None:
    whole = (STATIC / PAGES[path]).read_bytes()
    async with await Socket.open(gateway) as raw:
        status, headers, body = await raw.request("GET", path, GZIP)
        assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "Accept-Encoding")
        assert gzip.decompress(body) == whole
        assert len(body) < len(whole) / 2
        _, plain, same = await raw.request("GET", path)  # on the same connection: the length was right
        assert (same, plain["vary"], "content-encoding" in plain) == (whole, "Accept-Encoding", False)
        assert plain["content-type"] == headers["content-type"] and plain["cache-control"] == headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_that_did_not_change_is_not_sent_again(gateway: RunningGateway, path: str) -> None:
    async with await Socket.open(gateway) as raw:
        tags = []
        for accepted in (GZIP, {}):
            _, headers, _ = await raw.request("GET", path, accepted)
            tags.append(headers["etag"])
            status, again, body = await raw.request("GET", path, accepted | {"If-None-Match": headers["etag"]})
            assert (status, body, again["etag"], again["vary"]) == (304, b"", headers["etag"], "Accept-Encoding")
            assert again.get("access-control-allow-origin") == headers.get("access-control-allow-origin")
        assert len(set(tags)) == 2, "the two forms have other bytes"
        assert (await raw.request("GET", path, {"If-None-Match": tags[0]}))[0] == 200


async def test_a_long_path_is_not_looked_for(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await Socket.open(gateway) as raw:
        for folder in ("/static/", "/static/demo/", "/docs/"):
            assert (await raw.request("GET", f"{folder}{'a/' * 20_000}"))[0] == 404
    monkeypatch.setattr("os.path.realpath", lambda *args, **options: pytest.fail("the standard library resolves it"))
    assert pages.files.lookup_path("a/" * 20_000) == ("", None)


COMPRESSED = ("gzip", "GZIP", "br;q=1, gzip;q=0.5", "*", "gzip;q=0.001")
PLAIN = ("", "br", "gzip;q=0", "gzip; q=0.000", "*;q=0", "gzip;q=0, *", "identity")


@pytest.mark.parametrize("accepted, compressed", [*((each, True) for each in COMPRESSED), *((each, False) for each in PLAIN)])
async def test_the_client_decides_whether_a_page_is_compressed(gateway: RunningGateway, accepted: str, compressed: bool) -> None:
    async with await Socket.open(gateway) as raw:
        _, headers, _ = await raw.request("GET", "/static/gateway.js", {"Accept-Encoding": accepted})
        assert ("content-encoding" in headers) == compressed


async def test_a_range_is_one_of_the_file_itself(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        status, headers, body = await raw.request("GET", "/static/gateway.js", GZIP | {"Range": "bytes=10-19"})
        assert (status, body, "content-encoding" in headers) == (206, (STATIC / "gateway.js").read_bytes()[10:20], False)
