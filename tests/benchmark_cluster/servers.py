"""The processes that are measured: Valkeys and gateways, on free ports of 127.0.0.1."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import valkey

from gateway.store.topology import SLOTS, slot_of
from tests.kit.clusters import Cluster
from tests.kit.servers import ValkeyServer
from tests.kit.tokens import SECRET

__all__ = ["Gateway", "Valkeys", "cpu", "gateways", "resident"]

START_SECONDS = 30
STOP_SECONDS = 15

TOML = """
port = 0
prefix = "{prefix}"
valkey_url = "{url}"
data_dir = "{folder}/data"
log_level = "warning"
drain_seconds = 0
{more}
[tokens]
hmac_secret = "{SECRET}"
"""


def cpu(pid: int) -> float:
    """Seconds of CPU that all threads of a process have taken, by the process's own clock: see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class Valkeys:
    """One server, or a cluster of primaries without replicas; nothing is written to the disk. ``clients``: valkey-py's, one a shard."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.shards = shards
        self._running: Cluster | ValkeyServer
        if shards == 1:
            server = self._running = ValkeyServer(folder)
            self.url, self.clients = server.url, [server.client]
        else:
            cluster = self._running = Cluster(folder, primaries=shards)
            self.url, self.clients = cluster.url, [node.client for node in cluster.nodes]
        self.pids = [int(self._info(client, "server")["process_id"]) for client in self.clients]

    @staticmethod
    def _info(client: valkey.Valkey, section: str) -> dict[str, Any]:
        return cast(dict[str, Any], client.info(section))

    def memory(self) -> int:
        """Bytes that all shards have allocated."""
        return sum(int(self._info(client, "memory")["used_memory"]) for client in self.clients)

    def channels(self, prefix: str, count: int) -> list[str]:
        """Names of channels, of which each shard has as many as the others, and which take turns."""
        found: list[list[str]] = [[] for _ in range(self.shards)]
        most, number = -(-count // self.shards), 0
        while any(len(some) < most for some in found):
            name = f"posts:{prefix}{number}"
            shard = found[slot_of(f"{{{name}}}".encode()) * self.shards // SLOTS]
            if len(shard) < most:
                shard.append(name)
            number += 1
        return [name for turn in zip(*found, strict=True) for name in turn][:count]

    def stop(self) -> None:
        self._running.stop()


class Gateway:
    """One ``gateway serve``. ``more`` is TOML that is added to its configuration."""

    def __init__(self, folder: Path, url: str, prefix: str, more: str) -> None:
        folder.mkdir(parents=True)
        file = folder / "gateway.toml"
        file.write_text(TOML.format(SECRET=SECRET, prefix=prefix, url=url, folder=folder, more=more))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.port = 0

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if " is ready at " not in line:
            raise SystemExit(f"a gateway did not start: {line!r}")
        self.port = int(line.split(" is ready at ")[1].split()[0].rpartition(":")[2])

    def begin_stopping(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self) -> None:
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def gateways(folder: Path, url: str, count: int, more: str, *, prefix: str = "") -> Iterator[list[Gateway]]:
    """So many gateways of one prefix; without ``prefix`` it is the name of their folder."""
    started = [Gateway(folder / str(number), url, prefix or folder.name, more) for number in range(count)]
    try:
        for gateway in started:
            gateway.wait_ready()
        yield started
    finally:
        for gateway in started:
            gateway.begin_stopping()
        for gateway in started:
            gateway.wait_stopped()
