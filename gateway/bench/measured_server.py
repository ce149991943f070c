"""A server that is measured: a process of its own, under a guardian that ends it with the bench. Here the gateway; ``peers`` has the others."""

from __future__ import annotations

import asyncio
import json
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import GatewayError
from ..store.access import make_commands
from ..store.connect import Address
from ..store.embedded import socket_path
from .addressing import Addressing, CentrifugeProtocol
from .guardian import DATA, GuardedServer
from .process_usage import cpu_seconds, descendants, move, resident

__all__ = [
    "HISTORY_SIZE",
    "PING_SECONDS",
    "MeasuredServer",
    "ServerProcess",
    "ValkeyUse",
    "accepts",
    "free_port",
    "private_folder",
    "start_gateway",
    "wait_until_it_listens",
]

START_SECONDS = 40.0
STOP_SECONDS = 45.0
HISTORY_SIZE = 1000
PING_SECONDS = 3600  # load clients look for nothing but publications, so they would overlook a ping
READS = ("xrange", "xrevrange", "xread", "fcall", "fcall_ro", "eval", "evalsha")

CONFIGURATION = """\
host = "127.0.0.1"
port = 0
workers = {workers}
prefix = {prefix}
data_dir = {data}
valkey_url = {url}
valkey_port = {valkey_port}
api_keys = [{key}]
log_level = "warning"
drain_seconds = 0
ping_seconds = {ping}
[tokens]
hmac_secret = {secret}
[channels]
subscribe = "anyone"
history_size = {history}
[namespaces.notifications]
personal = false
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def private_folder() -> Path:
    """For one server, which its guardian removes."""
    return Path(tempfile.mkdtemp(prefix="gateway-bench-"))


class ServerProcess:
    """The guardian of a server, and the server's own processes."""

    def __init__(self, server: GuardedServer) -> None:
        self.folder = Path(server.folder)
        command = [sys.executable, "-m", "gateway.bench.guardian"]
        self._guardian = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._guardian.stdin is not None and self._guardian.stdout is not None
        self._guardian.stdin.write(msgspec.json.encode(server) + b"\n")
        self._guardian.stdin.flush()
        self._output = self._guardian.stdout

    def line(self, seconds: float) -> str:
        """What it prints next: why it ended, if it ended by itself; "" if nothing came for so long."""
        return self._output.readline().decode().rstrip() if select.select([self._output], [], [], seconds)[0] else ""

    @property
    def runs(self) -> bool:
        return self._guardian.poll() is None

    def processes(self) -> set[int]:
        """The server's, without the guardian."""
        return descendants(self._guardian.pid)

    def end(self) -> None:
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        try:
            self._guardian.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        self._output.close()


class ValkeyUse(msgspec.Struct, frozen=True):
    """CPU that a Valkey has taken, in seconds, its process, its version, and how often history was read and functions were called."""

    cpu: float
    pid: int
    version: str
    reads: int


async def _ask_valkey(url: str) -> ValkeyUse:
    commands = make_commands(Address(url))
    await commands.start()
    try:
        texts = [(await shard.call(b"INFO", b"server", b"cpu", b"commandstats")).decode() for shard in commands.shards]
    finally:
        await commands.close()
    facts = [dict(line.split(":", 1) for line in text.splitlines() if ":" in line) for text in texts]
    reads = sum(int(each[name].split("=")[1].split(",")[0]) for each in facts for name in map("cmdstat_{}".format, READS) if name in each)
    cpu = sum(float(each["used_cpu_user"]) + float(each["used_cpu_sys"]) for each in facts)
    first = facts[0]
    return ValkeyUse(cpu, int(first["process_id"]), first.get("valkey_version") or first["redis_version"], reads)


class MeasuredServer:
    """A running server. ``name`` is the subject of its figures, ``valkey_url`` the Valkey that it uses, "" for none.

    ``owns_valkey``: no other program uses that Valkey, which runs beside it on this machine.
    """

    def __init__(
        self,
        name: str,
        process: ServerProcess,
        port: int,
        addressing: Addressing,
        *,
        valkey_url: str = "",
        prefix: str = "",
        owns_valkey: bool = False,
    ) -> None:
        self.name = name
        self.port = port
        self.addressing = addressing
        self.valkey_url = valkey_url
        self.prefix = prefix
        self._process = process
        self._owns_valkey = owns_valkey
        self._valkey_pid = self.valkey().pid if owns_valkey else 0
        self.pids: Sequence[int] = sorted(process.processes() - {self._valkey_pid})

    def cpu(self) -> float:
        """Seconds that its processes have taken."""
        return cpu_seconds(self.pids)

    def memory(self) -> int:
        return resident(self.pids)

    def valkey(self) -> ValkeyUse:
        """What its Valkey has used. Raises StoreError, Unavailable."""
        return asyncio.run(_ask_valkey(self.valkey_url))

    def place_valkey(self, cores: set[int]) -> None:
        if self._owns_valkey and cores:
            move(self._valkey_pid, cores)

    def end(self) -> None:
        self._process.end()


def start_gateway(workers: int, url: str, cores: set[int], *, valkey_port: int = 0) -> MeasuredServer:
    """A ``gateway serve`` with an embedded Valkey, or with that of ``url`` under a prefix of its own.

    With a ``valkey_port`` others may use its embedded Valkey. Raises GatewayError if it does not start, or if there is no Valkey.
    """
    if url:
        asyncio.run(_ask_valkey(url))
    folder, prefix = private_folder(), f"bench-{secrets.token_hex(4)}"
    secret, key = secrets.token_hex(32), secrets.token_hex(16)
    data = folder / DATA
    texts = {"prefix": prefix, "data": str(data), "url": url, "key": key, "secret": secret}
    file = folder / "gateway.toml"
    quoted = {name: json.dumps(text) for name, text in texts.items()}
    file.write_text(CONFIGURATION.format(workers=workers, history=HISTORY_SIZE, ping=PING_SECONDS, valkey_port=valkey_port, **quoted))
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
    process = ServerProcess(GuardedServer(command=command, folder=str(folder), cores=sorted(cores), url=url, prefix=prefix))
    try:
        line = process.line(START_SECONDS)
        if " is ready at " not in line:
            raise GatewayError(f"the measured gateway did not start: {line or 'it is not ready yet'}")
        port = int(line.split(" is ready at ")[1].split()[0].rpartition(":")[2])
        valkey_url = url or f"unix://{socket_path(data)}"
        protocol = CentrifugeProtocol(secret, key)
        return MeasuredServer("gateway", process, port, protocol, valkey_url=valkey_url, prefix=prefix, owns_valkey=not url)
    except BaseException:
        process.end()
        raise


def wait_until_it_listens(process: ServerProcess, name: str, port: int) -> None:
    """For a server that prints nothing when it is ready. Raises GatewayError if it is not within START_SECONDS."""
    until = time.monotonic() + START_SECONDS
    while not accepts(port):
        if not process.runs or time.monotonic() > until:
            raise GatewayError(f"{name} did not start: {process.line(0) or 'it does not listen yet'}")
        time.sleep(0.05)
