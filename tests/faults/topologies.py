"""Valkey of a run, in each topology: its servers, the address that programs use, and how it is mended.

Single          one server
WithSentinel    a primary, its replica, and a Sentinel that decides alone

All write each command to their append-only file before it is acknowledged (``appendfsync always``), on a disk of their own where one can
be mounted. Methods block.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import valkey

from ..kit.servers import SERVICE, Pair, ValkeyServer
from ..kit.waiting import wait_until

__all__ = ["Disk", "Single", "Topology", "WithSentinel", "topology_of"]

SETTINGS = ("appendonly yes", "appendfsync always", "enable-debug-command yes", "maxmemory-policy noeviction")
DISK_BYTES = 384 * 2**20
HELP_SECONDS = 4.0  # after which a server that came back is made a replica by hand, should Sentinel not have done it
FOLLOWS_SECONDS = 30.0
DOWN_MS = 3000  # less, and Sentinel takes a server for dead whose first answer comes late after a failover
AGREES_SECONDS = 30.0


class Disk:
    """A small file system in memory, mounted on a folder; ``mounted`` is False where this process may not mount one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._filler = folder / "filler"
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.mounted = bool(shutil.which("mount")) and subprocess.run(words, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Until not a byte is free."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**20, 4096, 64, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        continue

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Topology:
    """What all have. ``servers`` are those that hold data, ``primary`` the one that takes writes now."""

    name = ""
    url = ""
    servers: list[ValkeyServer]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: list[Path] = []
        self.disk = Disk(folder / "disk")

    @property
    def primary(self) -> ValkeyServer:
        raise NotImplementedError

    def mend(self) -> None:
        """Whatever was done to the servers is undone, and they agree on their roles."""
        self.disk.free()
        for server in self.servers:
            server.thaw()
            if not server.runs:
                server.start()
        self.agree()
        for server in self.servers:
            for name, value in (("maxmemory", "0"), ("client-output-buffer-limit", "pubsub 32mb 8mb 60"), ("appendfsync", "always")):
                server.client.config_set(name, value)

    def agree(self) -> None:
        """Waits until every server that is no primary follows one."""

    def close(self) -> None:
        """Ends the servers; ``logs`` are their logs then."""
        for server in self.servers:
            server.thaw()
        self._stop()
        self.logs = [Path(shutil.copy(server.folder / "log", self.folder / f"valkey-{server.port}.log")) for server in self._all()]
        self.disk.close()

    def _stop(self) -> None:
        for server in self.servers:
            server.stop()

    def _all(self) -> list[ValkeyServer]:
        return self.servers


class Single(Topology):
    name = "single"

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is added to the server's own."""
        super().__init__(folder)
        self.servers = [ValkeyServer(self.disk.folder / "valkey", *SETTINGS, environment=environment or {})]
        self.url = self.primary.url

    @property
    def primary(self) -> ValkeyServer:
        return self.servers[0]

    def save(self) -> Path:
        """A copy of the files as they are now."""
        copy = self.folder / "older"
        shutil.rmtree(copy, ignore_errors=True)
        self.primary.copy_files(copy)
        return copy

    def come_back(self, files: Path | None, after: float) -> None:
        """Killed, and started again ``after`` so many seconds with these files, or with none."""
        self.primary.kill()
        self.primary.replace_files(files)
        time.sleep(after)
        self.primary.start()


class WithSentinel(Topology):
    name = "sentinel"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pair = Pair(self.disk.folder, *SETTINGS, sentinel=True, down_ms=DOWN_MS)
        self.servers = [self._pair.first, self._pair.second]
        self.url = self._pair.sentinel_url

    @property
    def primary(self) -> ValkeyServer:
        """The one that Sentinel names."""
        _, port = self.sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> ValkeyServer:
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    @property
    def sentinel(self) -> ValkeyServer:
        return self._pair.sentinel

    def fail_over(self, *how: str) -> None:
        """Asks Sentinel for it; returns when another server is the primary."""
        before = self.primary
        self.sentinel.client.execute_command("SENTINEL", "FAILOVER", SERVICE, *how)
        self.await_another(before)

    def await_another(self, before: ValkeyServer) -> None:
        """Returns when another server than ``before`` is the primary."""
        wait_until(lambda: self.primary is not before and self.primary.role == "master", "another primary", AGREES_SECONDS)

    def agree(self) -> None:
        """Sentinel makes a server that came back a replica, after some seconds, and later by hand."""
        with contextlib.suppress(AssertionError):
            wait_until(self._follows, "the replica follows", HELP_SECONDS)
            return
        with contextlib.suppress(valkey.ValkeyError):
            self.replica.client.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
        wait_until(self._follows, "the replica follows", FOLLOWS_SECONDS)
        wait_until(self._is_known, "Sentinel knows the replica", FOLLOWS_SECONDS)

    def _follows(self) -> bool:
        try:
            info = self.replica.client.info("replication")
            return info["role"] == "slave" and info["master_link_status"] == "up" and info["master_port"] == self.primary.port
        except (valkey.ValkeyError, KeyError):
            return False

    def _is_known(self) -> bool:
        replicas = self.sentinel.client.execute_command("SENTINEL", "REPLICAS", SERVICE)
        fields = [dict(zip(each[::2], each[1::2], strict=True)) if isinstance(each, list) else each for each in replicas]
        return any(_text(each, "flags") == "slave" and _text(each, "master-link-status") == "ok" for each in fields)

    def _stop(self) -> None:
        self._pair.stop()

    def _all(self) -> list[ValkeyServer]:
        return [*self.servers, self.sentinel]


def _text(fields: dict[Any, Any], name: str) -> str:
    value = fields.get(name, fields.get(name.encode(), b""))
    return value.decode() if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def frozen(server: ValkeyServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def topology_of(name: str) -> type[Topology]:
    """The class of a topology. Raises ValueError."""
    found = {each.name: each for each in (Single, WithSentinel)}
    if name not in found:
        raise ValueError(f"the rig has no topology {name!r} yet; it has {', '.join(found)}")
    return found[name]
