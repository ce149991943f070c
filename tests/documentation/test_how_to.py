"""The code of the how-to pages for frameworks, languages and servers, run as it stands there beside a real gateway.

Nothing in it is changed but the ports of the gateway (8000) and of the reader's own server (3000).
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gateway.config import load

from ..kit.gateways import API_KEY, RunningGateway, shared_gateway
from ..kit.javascript import NODE
from ..kit.servers import free_port
from ..kit.tokens import SECRET
from .how_to import Desk, code
from .pages import snippets

if TYPE_CHECKING:
    from playwright.sync_api import Page

gateway = shared_gateway('allowed_origins = ["http://localhost:*"]\n[namespaces.rooms]\nsubscribe = "token"\n')
SITE = 3000


@pytest.fixture
def port() -> int:
    """Of the reader's own server."""
    return free_port()


@pytest.fixture
def desk(gateway: RunningGateway, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The reader's folder. Its programs find the gateway's secrets where a first run stores them, and in the environment."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "credentials.json").write_text(json.dumps({"hmac_secret": SECRET, "api_key": API_KEY}))
    secret = {"GATEWAY_TOKENS__HMAC_SECRET": SECRET, "SESSION_SECRET": "a secret of cookies", "API_KEY": API_KEY, "KEY": API_KEY}
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    with Desk(tmp_path, {8000: gateway.port, SITE: port}, secret | {"GATEWAY_DATA_DIR": str(tmp_path / "data")}) as desk:
        yield desk


def is_of_u1(token: str, gateway: RunningGateway) -> bool:
    """Whether the gateway shows the inbox of user u1 to the token."""
    gateway.api("notify", user="u1", data={"id": "for u1"})
    status, answer = gateway.http("GET", "/inbox", headers={"Authorization": f"Bearer {token}"})
    assert status == 200
    return b'"for u1"' in answer


# Authenticate your users.


async def test_fastapi_gives_the_user_a_token_and_one_for_a_channel(desk: Desk, gateway: RunningGateway) -> None:
    site = runpy.run_path(str(desk.write("site.py", code("authenticate-fastapi") + code("authenticate-channels"))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site["app"]), base_url="http://site") as client:
        assert is_of_u1((await client.get("/my-token")).text, gateway)
        ticket = (await client.get("/my-token/rooms:7")).text
        headers = {"Authorization": f"Bearer {gateway.token('u1')}"}
        assert gateway.http("GET", f"/history?channel=rooms:7&subscription_token={ticket}", headers=headers)[0] == 200
        site["app"].dependency_overrides[site["current_user"]] = lambda: None
        refused = [(await client.get(path)).status_code for path in ("/my-token", "/my-token/rooms:7")]
    assert refused == [401, 403]


def test_flask_gives_the_user_of_its_session_a_token(desk: Desk, gateway: RunningGateway) -> None:
    app = runpy.run_path(str(desk.write("site.py", code("authenticate-flask"))))["app"]
    client = app.test_client()
    assert client.get("/my-token").status_code == 401
    with client.session_transaction() as session:
        session["user"] = {"id": "u1", "name": "Ann"}
    assert is_of_u1(client.get("/my-token").text, gateway)


DJANGO_CALL = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.contrib.auth.models import AnonymousUser, User
from django.test import RequestFactory
from django.urls import resolve
view = resolve("/my-token").func
def ask(user):
    request = RequestFactory().get("/my-token")
    request.user = user
    return view(request)
assert ask(AnonymousUser()).status_code == 401
print(ask(User(pk="u1", username="ann")).content.decode())
"""


def test_django_gives_its_user_a_token(desk: Desk, gateway: RunningGateway) -> None:
    desk.run("django-admin startproject shop .")
    desk.write("shop/live.py", code("authenticate-django"))
    desk.write("shop/urls.py", code("authenticate-django-urls"))
    assert is_of_u1(desk.run("python -", stdin=DJANGO_CALL).strip(), gateway)


def test_express_gives_the_user_a_token(desk: Desk, gateway: RunningGateway, port: int, npm: Future[Path]) -> None:
    desk.write("server.mjs", code("authenticate-express"))
    (desk.folder / "node_modules").symlink_to(npm.result() / "node_modules")
    desk.start(f"{NODE} server.mjs", "listening on port")
    assert is_of_u1(httpx.get(f"http://localhost:{port}/my-token").text, gateway)


def test_a_token_from_the_terminal_opens_its_users_inbox_and_a_log_out_ends_it(desk: Desk, gateway: RunningGateway) -> None:
    first, log_out = (fence.code for fence in snippets("authenticate"))
    inbox, token = desk.run(f"{first}\necho; echo $TOKEN").split("\n", 1)
    assert "notifications" in json.loads(inbox)
    desk.run(log_out)
    assert gateway.http("GET", "/inbox", headers={"Authorization": f"Bearer {token.strip()}"})[0] == 401
