"""The code of the pages, run as it stands there beside ``gateway serve``, as a reader runs it.

Only the addresses are others: of the port that the gateway got, and of its embedded Valkey.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
import pytest
import sqlalchemy
import valkey

from gateway.config import load
from gateway.rpc import Service
from gateway.store.embedded import socket_path
from publishers import SyncPublisher
from publishers.database import Database
from publishers.migrator import migrate
from publishers.tables import outbox

from ..kit.browser import BLANK, wait
from ..kit.programs import ENVIRONMENT, end_embedded, process, run
from ..kit.waiting import PATIENCE, wait_until
from .pages import Fence, snippets

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

SETTINGS = "\n".join(fence.code for fence in snippets("settings") if fence.path.stem == "presence")  # what its script needs
STUBS = """const show = () => {}, greet = show, wave = show, bell = {};
window.gateway = new Gateway({ token });
"""


class Beside(NamedTuple):
    """The gateway that runs, and how its reader's programs find it."""

    port: int
    folder: Path
    api_key: str
    environment: dict[str, str]

    def fit(self, code: str) -> str:
        return code.replace("localhost:8000", f"localhost:{self.port}").replace("valkey://localhost", f"unix://{self.socket}")

    @property
    def socket(self) -> Path:
        return socket_path(self.folder)

    def publisher(self) -> SyncPublisher:
        return SyncPublisher(f"unix://{self.socket}")

    def token(self, user: str = "u1") -> str:
        secret = json.loads((self.folder / "credentials.json").read_text())["hmac_secret"]
        return jwt.encode({"sub": user}, secret)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    folder = tmp_path_factory.mktemp("data")
    programs = tmp_path_factory.mktemp("programs")
    for name, words in (("gateway", "-m gateway"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / "gateway.toml").write_text(SETTINGS)
    # Started by itself, as the reader's programs are: a fork's digest of its keys is another one, and "gateway doctor" would report that.
    with process("serve", "--port", "0", "--config", folder / "gateway.toml", "--data-dir", folder, alone=True) as gateway:
        found = re.search(r"127\.0\.0\.1:(\d+)", gateway.line())
        assert found
        key = json.loads((folder / "credentials.json").read_text())["api_key"]
        words = {"KEY": key, "GATEWAY_DATA_DIR": str(folder), "PATH": f"{programs}:{os.environ['PATH']}"}
        yield Beside(int(found[1]), folder, key, ENVIRONMENT | words)
    end_embedded(folder)


@pytest.fixture
def python(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> Callable[[Fence], dict[str, Any]]:
    """Runs a piece of Python, and returns what it defined."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(beside.folder))

    def execute(fence: Fence) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "snippet"}
        exec(compile(beside.fit(fence.code), str(fence), "exec"), names)
        return names

    return execute


@pytest.mark.parametrize("fence", snippets("shell"), ids=str)
def test_commands(beside: Beside, fence: Fence) -> None:
    assert ('"error"' in _shell(beside, fence.code)) == (fence.path.stem == "errors-and-close-codes")


def _shell(beside: Beside, code: str) -> str:
    """What it prints. Lines that are nothing but ``gateway …`` run in a fork of a process that has imported it: they are most, and start slowly."""
    words = [shlex.split(line) for line in code.splitlines()]
    if all(line[:1] == ["gateway"] and not {"|", ">"} & set(line) for line in words):
        return "".join(run(*line[1:], environment={"GATEWAY_DATA_DIR": str(beside.folder)}).succeeds() for line in words)
    done = _bash(beside, code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("fence", snippets("python"), ids=str)
def test_python(python: Callable[[Fence], Any], fence: Fence) -> None:
    python(fence)


@pytest.mark.parametrize("fence", snippets("settings"), ids=str)
def test_settings(fence: Fence, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(fence.code)
    load(tmp_path / "gateway.toml")


def test_tokens(python: Callable[[Fence], Any]) -> None:
    names = python(snippets("tokens")[0])
    assert jwt.decode(names["connection"], names["secret"], ["HS256"])["info"] == {"name": "Ann"}
    assert jwt.decode(names["subscription"], names["secret"], ["HS256"])["channel"] == "rooms:7"


def test_the_outbox(python: Callable[[Fence], Any], beside: Beside) -> None:
    async def rows() -> list[Any]:
        async with Database() as database, database.transaction() as transaction:
            return list(await transaction.execute(sqlalchemy.select(outbox.c.channel)))

    async def make_tables() -> None:
        async with Database() as database:
            await migrate(database)

    asyncio.run(make_tables())
    python(snippets("outbox")[0])
    assert "orders:17" in {row.channel for row in asyncio.run(rows())}


def test_orders(python: Callable[[Fence], Any], beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    async def make_tables() -> None:
        async with Database() as database:
            await migrate(database)

    asyncio.run(make_tables())
    asyncio.run(python(snippets("orders")[0])["sell"]())
    assert "'state': 'placed'" in capsys.readouterr().out


def test_a_durable_reader(beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(beside.folder))
    with contextlib.closing(beside.publisher()) as publisher:
        publisher.publish("reviews:42", "the first")
    code, call, _ = snippets("reader")[0].code.partition("asyncio.run(main())")
    assert call
    names: dict[str, Any] = {}
    exec(code, names)

    async def read() -> None:
        reading, shown = asyncio.ensure_future(names["main"]()), ""
        async with asyncio.timeout(PATIENCE):
            while "the first" not in shown:
                await asyncio.sleep(0.01)
                shown += capsys.readouterr().out
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    asyncio.run(read())


def test_a_worker_its_producer_and_its_progress(beside: Beside, tmp_path: Path) -> None:
    module, commands = snippets("worker")
    (tmp_path / "shop.py").write_text(module.code)
    worker, follower, producer = commands.code.strip().splitlines()
    with _started(beside, follower, tmp_path) as shown, _started(beside, worker, tmp_path):
        with contextlib.closing(valkey.Valkey(unix_socket_path=str(beside.socket))) as client:
            wait_until(lambda: client.pubsub_numsub("gw:{orders:17}")[0][1] > 0, "the follower is subscribed")
        done = _bash(beside, producer, tmp_path)
        assert (done.returncode, done.stdout) == (0, "{'order': 17, 'key': 'order-17'}\n"), done.stderr
        assert json.loads(shown.readline())["data"].keys() == {"job", "progress", "text"}


def test_a_stream_of_events(beside: Beside) -> None:
    with _started(beside, snippets("stream")[0].code, beside.folder) as shown:
        assert shown.readline().startswith("retry:")


@pytest.mark.parametrize("fence", snippets("page"), ids=str)
def test_pages(beside: Beside, page: Page, fence: Fence) -> None:
    with contextlib.closing(beside.publisher()) as publisher:
        publisher.notify("u1", {"id": "welcome", "text": "Hello!"})
    _script(beside, page, fence.code)


def test_a_service_and_its_caller(beside: Beside, page: Page, python: Callable[[Fence], Any]) -> None:
    service, call = snippets("rpc")
    with _serving(python(service)["service"]):
        _script(beside, page, call.code + "window.cancelled = cancelled;", retried=True)
        assert page.evaluate("cancelled") == 17


@contextlib.contextmanager
def _serving(service: Service) -> Iterator[None]:
    ended = threading.Event()

    async def serve() -> None:
        running = asyncio.ensure_future(service.run())
        await asyncio.to_thread(ended.wait)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _script(beside: Beside, page: Page, code: str, *, retried: bool = False) -> None:
    """Runs a script of a page of the gateway; again while it fails, where it waits for a service."""
    page.goto(f"http://127.0.0.1:{beside.port}{BLANK}")
    body = f"const attempt = async () => {{ {code} }};"
    again = "for (;;) try { await attempt(); break; } catch { await new Promise((on) => setTimeout(on, 50)); }"
    script = f"""import {{ Gateway }} from "/static/gateway.js";
      const token = "{beside.token()}";
      {STUBS}
      {body}
      {again if retried else "await attempt();"}
      window.done = true;"""
    page.evaluate(
        """(text) => {
          const element = document.createElement("script");
          Object.assign(element, { type: "module", textContent: text });
          document.head.append(element);
        }""",
        script,
    )
    wait(page, "window.done")


def _bash(beside: Beside, code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-euc", beside.fit(code.replace("curl ", "curl -sS "))]
    return subprocess.run(words, env=beside.environment, cwd=folder or beside.folder, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def _started(beside: Beside, code: str, folder: Path) -> Iterator[Any]:
    """A command that runs until the block ends; what it prints, to be read."""
    words = ["bash", "-euc", "exec " + beside.fit(code)]
    with subprocess.Popen(
        words, env=beside.environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            yield running.stdout
        finally:
            running.terminate()
