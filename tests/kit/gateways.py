"""Gateways in processes of their own, on free ports, each ended when its test is.

A gateway whose log holds a traceback fails the test that used it: whatever clients send, that must never happen.

launch                starts one, for what is no test
start_gateway         a fixture: ``start_gateway(toml, valkey_url=…)`` starts one
start_gateway_once    the same for a module whose tests share a gateway
shared_gateway        the fixture of such a module: ``gateway = shared_gateway(RULES)``
RULES                 the namespaces of most tests; CLOSED_RULES, the same with nothing open to the anonymous
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .forks import Program
from .programs import LoneProgram
from .tokens import SECRET, token
from .waiting import wait_until

__all__ = [
    "API_KEY",
    "CLOSED_RULES",
    "RULES",
    "Pair",
    "RunningGateway",
    "Start",
    "edge",
    "launch",
    "prefix",
    "shared_gateway",
    "start_gateway",
    "start_gateway_once",
]

API_KEY = "test-key"
NONE: Mapping[str, Any] = {}
START_SECONDS = 20
PROGRAMS = {"fast": ("gateway.cli", "serve"), "asgi": ("tests.kit.mounted",)}

RULES = """
[namespaces.open]
subscribe = "anyone"
publish = "anyone"
history = "anyone"
[namespaces.chat]
publish = "subscriber"
[namespaces.member]
publish = "user"
history = "user"
[namespaces.own]
subscribe = "owner"
publish = "owner"
history = "owner"
[namespaces.ticket]
subscribe = "token"
publish = "token"
history = "token"
[namespaces.sealed]
subscribe = "nobody"
publish = "nobody"
history = "nobody"
[namespaces.endless]
history_size = -1
history_ttl = ""
[namespaces.short]
history_size = 5
[namespaces.forgetful]
history_size = 0
publish = "user"
[namespaces.unrecoverable]
recover = false
[namespaces.doc]
delta = true
history_size = -1
"""
CLOSED_RULES = RULES.replace('"anyone"', '"user"')  # nothing is open to the anonymous


class RunningGateway:
    """A gateway in a process of its own."""

    def __init__(
        self, process: Program | LoneProgram, log: Path, url: str, prefix: str, data_dir: Path, claims: Mapping[str, Any] = NONE
    ) -> None:
        self.process = process
        self.log_path = log
        self.url = url
        self.prefix = prefix
        self.data_dir = data_dir
        self.claims = claims

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def websocket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connection/websocket"

    def log(self) -> str:
        return self.log_path.read_text()

    def lines_since(self, start: int) -> list[str]:
        """What an operator sees of its log, from this byte on."""
        lines = self.log_path.read_bytes()[start:].decode().splitlines()
        return [line for line in lines if re.search(r" (INFO|WARNING|ERROR|CRITICAL) ", line)]

    def token(self, user: str = "u1", **options: Any) -> str:
        return token(user, **{**self.claims, **options})

    def api(self, method: str, **request: Any) -> dict[str, Any]:
        """One call of the server API; its whole answer."""
        return json.loads(self.http("POST", f"/api/{method}", json.dumps(request).encode(), {"X-API-Key": API_KEY})[1])

    def publish(self, channel: str, data: Any, **options: Any) -> dict[str, Any]:
        answer = self.api("publish", channel=channel, data=data, **options)
        assert "result" in answer, answer
        return answer["result"]

    async def ask(self, method: str, **request: Any) -> dict[str, Any]:
        """The result of a call that succeeds, without stopping the loop."""
        answer = await asyncio.to_thread(lambda: self.api(method, **request))
        assert "result" in answer, answer
        return answer["result"]

    @property
    def clients(self) -> int:
        return self.api("info")["result"]["nodes"][0]["num_clients"]

    def memory(self) -> int:
        """Bytes of the process that are in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def epoch(self, channel: str) -> str:
        return self.api("history", channel=channel)["result"]["epoch"]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """What arrives meanwhile, the gateway finds all at once."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def http(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = NONE) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
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


class Pair(NamedTuple):
    """Two gateways of one prefix."""

    here: RunningGateway
    there: RunningGateway


Start = Callable[..., RunningGateway]


@pytest.fixture
def prefix() -> str:
    """Of all keys of a test in the shared Valkey."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="module", params=["fast", "asgi"])
def edge(request: pytest.FixtureRequest) -> str:
    """Either edge: the gateway's own, and another server's. Whatever is asked of one is asked of both."""
    return request.param


@pytest.fixture
def start_gateway(tmp_path: Path, valkey_url: str, prefix: str) -> Iterator[Start]:
    """``start_gateway(toml, valkey_url=…)``: with no configuration it knows SECRET and API_KEY, and the shared Valkey."""
    yield from _starter(tmp_path, valkey_url, prefix)


@pytest.fixture(scope="module")
def start_gateway_once(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Start]:
    """The same for a module whose tests share one gateway; each test takes channels of its own."""
    yield from _starter(tmp_path_factory.mktemp("gateway"), valkey_url, f"m{secrets.token_hex(6)}")


def shared_gateway(toml: str = "", *, both_edges: bool = False, own: bool = False, **options: Any) -> Any:
    """The fixture of a gateway that a module's tests share, of either edge in turn, or on the module's ``own`` Valkey."""

    def begin(request: pytest.FixtureRequest, start: Start, edge: str) -> RunningGateway:
        where = {"valkey_url": request.getfixturevalue("own").url} if own else {}
        return start(toml, edge=edge, **where, **options)

    if both_edges:

        @pytest.fixture(scope="module")
        def gateway(request: pytest.FixtureRequest, start_gateway_once: Start, edge: str) -> RunningGateway:
            return begin(request, start_gateway_once, edge)

    else:

        @pytest.fixture(scope="module")
        def gateway(request: pytest.FixtureRequest, start_gateway_once: Start) -> RunningGateway:
            return begin(request, start_gateway_once, "fast")

    return gateway


def launch(
    folder: Path,
    name: str,
    toml: str = "",
    *,
    valkey_url: str | None,
    prefix: str,
    port: int = 0,
    data_dir: Path | None = None,
    edge: str = "fast",
    claims: Mapping[str, Any] = NONE,
    seconds: Mapping[str, float] = NONE,
    environment: Mapping[str, str] = NONE,
) -> RunningGateway:
    """Starts a gateway, whose files in ``folder`` begin with ``name``, and waits until it is ready. ``stop`` ends it.

    A ``port`` that is needed again after a restart is one of ``free_port``: the system may give others to connections meanwhile.
    ``claims`` are in all of its tokens. ``seconds`` are constants of the product, by their full names, made shorter in its process.
    With an ``environment`` it is no fork, so that what is preloaded there is.
    """
    file = folder / f"{name}.toml"
    data_dir = data_dir or folder / "data"
    head = f'port = {port}\nprefix = "{prefix}"\napi_keys = ["{API_KEY}"]\ndata_dir = "{data_dir}"\nlog_level = "debug"\n'
    if valkey_url:
        head += f'valkey_url = "{valkey_url}"\n'
    if "drain_seconds" not in toml:
        head += "drain_seconds = 0.2\n"  # few tests are about it, and many end a gateway that has clients
    tokens = "" if "[tokens]" in toml else f'\n[tokens]\nhmac_secret = "{SECRET}"\n'
    file.write_text(head + toml + tokens)
    log, output = folder / f"{name}.log", folder / f"{name}.out"
    module, *words = PROGRAMS[edge]
    process: Program | LoneProgram
    if environment:
        process = LoneProgram(output, log, *words, "--config", str(file), environment=environment)
    else:
        process = Program(module, output, log, *words, "--config", str(file), constants=seconds)
    with contextlib.suppress(AssertionError):  # the next one says what the log holds
        wait_until(lambda: process.poll() is not None or (output.exists() and "\n" in output.read_text()), "a start", START_SECONDS)
    line = output.read_text() if output.exists() else ""
    if " is ready at " not in line:
        _give_up(process)
        raise AssertionError(f"the gateway did not start: {line!r}\n{log.read_text()}")
    return RunningGateway(process, log, line.split(" is ready at ")[1].split()[0], prefix, data_dir, claims)


def _give_up(process: Program | LoneProgram) -> None:
    """Ends a gateway that did not start, by SIGTERM if it obeys: its workers would outlive it otherwise, and hold the port."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except TimeoutError:
        process.kill()


def _starter(folder: Path, shared_valkey: str, own_prefix: str) -> Iterator[Start]:
    started: list[RunningGateway] = []

    def start(
        toml: str = "",
        *,
        valkey_url: str | None = shared_valkey,
        beside: RunningGateway | None = None,
        **options: Any,
    ) -> RunningGateway:
        """``beside`` another one: with its prefix. ``edge`` "asgi": mounted inside another application, under a plain uvicorn."""
        prefix = beside.prefix if beside is not None else own_prefix
        started.append(launch(folder, f"gateway{len(started)}", toml, valkey_url=valkey_url, prefix=prefix, **options))
        return started[-1]

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.stop()
    for gateway in started:
        assert "Traceback" not in gateway.log(), gateway.log()
