"""The page of the README, as it is written there, from a server on another port than the gateway's."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.cli.programs import LOOPBACK_ORIGINS
from gateway.config import Config
from gateway.origins import Origins

from ..documentation.pages import snippets
from ..kit.browser import wait
from ..kit.gateways import API_KEY
from ..kit.programs import Process, process, run
from ..kit.tokens import SECRET, token

if TYPE_CHECKING:
    from playwright.sync_api import Page

SNIPPET = snippets("readme")[0].code
SHOW = "<script>window.shown = []; window.show = (data) => shown.push(data);</script>"


class Site(http.server.BaseHTTPRequestHandler):
    """The newcomer's own server: the page, and the token for its visitor."""

    page = ""

    def do_GET(self) -> None:
        body = (token("u1") if self.path == "/my-token" else self.page).encode()
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """The tests' output is no place for it."""


@pytest.fixture
def site() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(gateway: Process) -> str:
    found = re.search(r"is ready at http://127.0.0.1:(\d+)", gateway.line())
    assert found
    return f"http://localhost:{found[1]}"


def environment(prefix: str) -> dict[str, str]:
    return {"GATEWAY_TOKENS__HMAC_SECRET": SECRET, "GATEWAY_API_KEYS": API_KEY, "GATEWAY_PREFIX": prefix}


def test_the_readmes_page_is_also_in_the_documentation() -> None:
    assert {fence.code for fence in snippets("readme")} == {SNIPPET}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_readmes_page_works_from_another_port_on_a_first_run(
    page: Page, site: http.server.ThreadingHTTPServer, valkey_url: str, prefix: str, tmp_path: Path, host: str
) -> None:
    words = ("--data-dir", tmp_path, "--valkey-url", valkey_url)
    with process("serve", "--port", "0", *words, environment=environment(prefix)) as gateway:
        Site.page = SHOW + SNIPPET.replace("http://localhost:8000", url_of(gateway))
        page.goto(f"http://{host}:{site.server_port}/")
        wait(page, "window.shown !== undefined")
        published = 0
        while not page.evaluate("shown.length"):  # until it is subscribed, which the page does not show
            published += 1
            run("publish", "posts:tech", f'{{"n": {published}}}', *words, environment=environment(prefix)).succeeds()
            assert published < 100
        assert page.evaluate("shown[0].n") in range(1, published + 1)


@pytest.mark.parametrize("opened", [False, True], ids=["refused", "let in"])
def test_with_a_configuration_file_an_origin_is_let_in_where_it_is_given(
    page: Page, site: http.server.ThreadingHTTPServer, valkey_url: str, prefix: str, tmp_path: Path, opened: bool
) -> None:
    origin = f"http://127.0.0.1:{site.server_port}"
    file = tmp_path / "gateway.toml"
    file.write_text(f'valkey_url = "{valkey_url}"\ndata_dir = "{tmp_path}"\nlog_level = "debug"\n')
    given = ("--origin", "http://elsewhere.example", "--origin", origin) if opened else ()
    with process("serve", "--port", "0", "--config", file, *given, environment=environment(prefix)) as gateway:
        Site.page = SHOW + SNIPPET.replace("http://localhost:8000", url_of(gateway))
        with page.expect_event("websocket"):
            page.goto(f"{origin}/")
        line = gateway.complaint()
        while "of user 'u1' connected" not in line and f"'{origin}'; if the page is yours" not in line:
            line = gateway.complaint()
        assert ("of user 'u1' connected" in line) == opened


@pytest.mark.parametrize(
    "origin, admitted",
    [
        ("http://localhost:5173", True),
        ("https://localhost", True),
        ("http://127.0.0.1:80", True),
        ("http://localhost.example:5173", False),
        ("http://127.0.0.1.example", False),
        ("http://evil.example:5173", False),
        ("null", False),
    ],
)
def test_the_origins_of_a_first_run_are_those_of_this_machine(origin: str, admitted: bool) -> None:
    assert Origins(LOOPBACK_ORIGINS).admit(origin, "localhost:8000") is admitted


@pytest.mark.parametrize("host, loopback", [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("host", False)])
def test_a_gateway_that_other_machines_reach_lets_in_no_page_by_itself(host: str, loopback: bool) -> None:
    assert Config(host=host).listens_on_loopback is loopback
