"""Valkeys of the tests: one that all share, and those of a test's own, which may die.

single_url    a fixture: the shared server's; ``topologies`` has those of other kinds, and a plain client
opened_history   the functions of the library as methods, with rules that are given
OwnValkey     a server of the test's own, with commands sent past every gateway
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.embedded import EmbeddedServer, socket_path
from gateway.store.history import History
from gateway.store.layout import Layout
from gateway.store.library import Library, rules_of

__all__ = ["OwnValkey", "opened_history", "own", "single_url"]


@pytest.fixture(scope="session")
def single_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey for all tests of a worker, but for those that run on a Valkey of another kind."""
    server = EmbeddedServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.stop()


@contextlib.asynccontextmanager
async def opened_history(url: str, prefix: str, config: Config) -> AsyncIterator[History]:
    """A connection of its own, with the rules of ``config`` in force for ``prefix``."""
    library = Library(rules_of(config.channels, config.namespaces), prefix)
    commands = make_commands(Address(url), functions=library)
    await commands.start()
    try:
        await library.install(commands)
        yield History(commands, Layout(prefix))
    finally:
        await commands.close()


class OwnValkey:
    """A server on ``data_dir``, started by ``start`` or by a gateway whose own it is; ``client`` reaches either."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.path = socket_path(data_dir)
        self.url = f"unix://{self.path}"
        self.client = valkey.Valkey(unix_socket_path=str(self.path), socket_timeout=5)
        self._server: EmbeddedServer | None = None

    def start(self) -> None:
        if self._server is None:
            self._server = EmbeddedServer(self.data_dir)
        self._server.start()

    def pid(self) -> int:
        return int(self.client.info("server")["process_id"])

    def ask(self, *words: Any) -> Any:
        """One command and its answer, past every gateway."""
        return self.client.execute_command(*words)

    def together(self, *commands: tuple[Any, ...]) -> list[Any]:
        """In one transaction: nothing comes between them."""
        with self.client.pipeline(transaction=True) as transaction:
            for command in commands:
                transaction.execute_command(*command)
            return transaction.execute()

    def empty(self) -> None:
        self.together(("FLUSHALL",), ("FUNCTION", "FLUSH"))

    def kill_links(self, *then: Any) -> Any:
        """Cuts every link, and runs a command that no link receives; the last answer."""
        return self.together(("CLIENT", "KILL", "TYPE", "pubsub"), *([then] if then else []))[-1]

    def kill(self) -> None:
        """SIGKILL: ``start`` brings it back on the same files."""
        assert self._server is not None and self._server._process is not None
        self._server._process.kill()
        self._server._process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It neither runs nor loses a connection while the block lasts, however long that is on a busy machine."""
        pid = self.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends the server, frozen or not, whichever process started it; none may be left."""
        if self._server is not None and self._server.alive():
            assert self._server._process is not None
            self._server._process.send_signal(signal.SIGCONT)
            self._server.stop()
        elif self._server is None:
            with contextlib.suppress(valkey.exceptions.ConnectionError):
                self.client.shutdown(nosave=True)
        self.client.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnValkey]:
    """A started Valkey of the module's own."""
    own = OwnValkey(tmp_path_factory.mktemp("valkey") / "own")
    own.start()
    yield own
    own.close()
