"""A key server that answers byte by byte, and URLs of key servers that hold a password."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.auth.key_server import fetch
from gateway.errors import ConfigurationError

from ..kit.gateways import RULES, Start
from ..kit.keys import KeyServer, verifier
from ..kit.tokens import SECRET
from ..kit.waiting import until


class DrippingServer:
    """Answers with ``head`` at once, then with one byte every 50 ms for as long as anybody reads."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/jwks.json"
        self.left = threading.Event()  # a reader has gone away
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._drip, args=(self._listener.accept()[0],), daemon=True).start()

    def _drip(self, reader: socket.socket) -> None:
        with reader, contextlib.suppress(OSError):
            reader.sendall(self._head)
            while True:
                reader.sendall(b"x")
                time.sleep(0.05)
        self.left.set()

    def end(self) -> None:
        self._listener.close()


DRIPS = {"the head": b"HTTP/1.1 200 OK\r\nX-Slow: ", "the body": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"}


@pytest.fixture(params=DRIPS)
def dripping(request: pytest.FixtureRequest) -> Iterator[DrippingServer]:
    server = DrippingServer(DRIPS[request.param])
    yield server
    server.end()


async def test_one_deadline_ends_a_fetch_however_slowly_its_answer_comes(dripping: DrippingServer) -> None:
    with pytest.raises(TimeoutError, match="was not complete"):
        await fetch(dripping.url, 0.4, 256 * 1024)
    await until(dripping.left.is_set, "the connection is closed, and its thread has ended")


async def test_a_redirect_takes_what_is_left_of_the_time(key_server: KeyServer, dripping: DrippingServer) -> None:
    key_server.status, key_server.location = 302, dripping.url
    with pytest.raises(TimeoutError, match="was not complete"):
        await fetch(key_server.url, 1.0, 256 * 1024)
    assert key_server.asked


def test_a_key_server_that_drips_holds_up_neither_requests_nor_the_end(start_gateway: Start, dripping: DrippingServer) -> None:
    settings = f'{RULES}\n[tokens]\nhmac_secret = "{SECRET}"\njwks_url = "{dripping.url}"\n'
    gateway = start_gateway(settings, seconds={"gateway.auth.keys.FETCH_SECONDS": 600.0})
    assert gateway.http("GET", "/static/index.html")[0] == 200
    assert gateway.http("GET", "/history?channel=open:1", None, {"Authorization": f"Bearer {gateway.token()}"})[0] == 200
    assert gateway.stop() == 0  # which waits for 30 s at most


@pytest.mark.parametrize("login", ["u:hidden@", "u:hid/den@", "u:hid?den@", "hidden@"])
def test_a_key_servers_url_with_a_login_is_refused_and_not_shown(login: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tokens\.jwks_url") as raised:
        verifier(jwks_url=f"https://{login}idp.example.org/jwks.json")
    assert "hid" not in str(raised.value)
