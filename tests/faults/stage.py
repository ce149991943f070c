"""The processes of a run: Valkey in its topology, gateways, relays, workers of jobs, and a proxy in front of one gateway's Valkey.

Gateway 0 has one process, gateway 1 has ``workers`` processes, and gateway 2, where there is one, has its way to Valkey through the proxy
(with a single server). The last gateway, and a single server, have a clock that can be set where libfaketime is installed. A process that ends by itself is started again; for a
gateway that is a finding, and a relay or a worker may do so where Valkey is away when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from publishers.database import Database
from publishers.migrator import migrate

from ..kit import forks
from ..kit.gateways import RunningGateway, launch
from ..kit.proxies import Proxy
from ..kit.wall_clocks import WallClock, library
from . import programs
from .history import History
from .topologies import Topology

__all__ = ["PREFIX", "GatewayPlace", "ProgramPlace", "Stage"]

PREFIX = "rig"
PING_SECONDS, PONG_SECONDS = 2, 4
WATCH_SECONDS = 0.2
AGAIN_SECONDS = 0.5  # before a process that ended by itself is started again
STARTS_MOST = 60  # of one gateway in a row that fail, as while Valkey is away

RULES = f"""
ping_seconds = {PING_SECONDS}
pong_seconds = {PONG_SECONDS}
drain_seconds = 0.5
[limits]
slow_seconds = 4
[channels]
history_size = -1
history_ttl = ""
history = "user"
presence_for = "user"
[namespaces.direct]
[namespaces.api]
[namespaces.posts]
history_size = -1
history_ttl = ""
[namespaces.notifications]
history_size = -1
"""


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class GatewayPlace:
    """A gateway of the stage, whichever process it has now. ``held``: a fault has ended it and starts it again itself."""

    def __init__(
        self, name: str, folder: Path, history: History, valkey_url: str, *, workers: int = 1, clock: WallClock | None = None
    ) -> None:
        self.name = name
        self.workers = workers
        self.held = False
        self.running: RunningGateway | None = None
        self.logs: list[Path] = []
        self._folder = folder
        self._history = history
        self._valkey_url = valkey_url
        self._environment = clock.environment if clock is not None else {}
        self._toml = f"workers = {workers}\n{RULES}"
        self._port = 0

    @property
    def gateway(self) -> RunningGateway:
        assert self.running is not None, f"{self.name} was never started"
        return self.running

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.process.poll() is None

    def pids(self) -> list[int]:
        """Of its worker processes; of itself where it has none."""
        pid = self.gateway.process.pid
        if self.workers == 1:
            return [pid]
        with contextlib.suppress(OSError):
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    async def start(self) -> None:
        """Until it is ready: while Valkey is away it ends with a sentence, and is started again."""
        for _ in range(STARTS_MOST):
            name = f"{self.name}.{len(self.logs)}"
            self.logs.append(self._folder / f"{name}.log")
            try:
                options: dict[str, Any] = {
                    "valkey_url": self._valkey_url,
                    "prefix": PREFIX,
                    "port": self._port,
                    "environment": self._environment,
                }
                self.running = await asyncio.to_thread(launch, self._folder, name, self._toml, **options)
            except AssertionError as error:
                self._history.record("note", text=f"{self.name} did not start: {str(error)[-200:]}")
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self._port = self.gateway.port
            return
        raise AssertionError(f"{self.name} did not start")

    async def end(self, number: int) -> None:
        """Ends it by a signal; SIGTERM must be obeyed with status 0."""
        process = self.gateway.process
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # should it be frozen
        try:
            status = await asyncio.to_thread(process.wait, 30)
        except TimeoutError:
            self._history.record("bad", client=self.name, why=f"signal {number} did not end it within 30 s")
            process.kill()
            return
        if number == signal.SIGTERM and status != 0:
            self._history.record("bad", client=self.name, why=f"status {status} after SIGTERM")

    async def watch(self) -> None:
        """Starts it again where it ended though nothing ended it."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self.held and not self.alive:
                self._history.record("bad", client=self.name, why=f"it ended by itself: {self.gateway.log()[-500:]}")
                await self.start()


class ProgramPlace:
    """A relay or a worker, whichever process it is now; it is started again whenever it ended."""

    def __init__(self, name: str, work: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        self.held = False
        self._work = work
        self._arguments = arguments
        self._process: BaseProcess | None = None

    async def start(self) -> None:
        self._process = await asyncio.to_thread(forks.start, self._work, *self._arguments)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            if not self.held and (self._process is None or not self._process.is_alive()):
                await self.start()

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.join(5)


class Stage:
    """Everything that runs. ``gateways`` is how many there are, ``workers`` how many processes gateway 1 has."""

    def __init__(self, folder: Path, history: History, topology: type[Topology], *, gateways: int = 3, workers: int = 2) -> None:
        self.folder = folder
        self.history = history
        self.database_url = f"sqlite:///{folder / 'outbox.db'}"
        self.effects = folder / "effects"
        self.gateways: list[GatewayPlace] = []
        self.relays: list[ProgramPlace] = []
        self.job_workers: list[ProgramPlace] = []
        self.proxy: Proxy | None = None
        self.gateway_clock = WallClock(_made(folder / "gateway clock")) if library() is not None else None
        self.valkey_clock = WallClock(_made(folder / "valkey clock")) if library() is not None and topology.name == "single" else None
        self._make_topology = topology
        self._count, self._workers = gateways, workers
        self._watches: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        clocked = {"environment": self.valkey_clock.environment} if self.valkey_clock is not None else {}
        self.topology = await asyncio.to_thread(self._make_topology, self.folder / "valkey", **clocked)
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def _open(self) -> None:
        url = self.topology.url
        if self.topology.name == "single" and self._count > 2:
            self.proxy = await Proxy(self.topology.servers[0].port).__aenter__()
        for number in range(self._count):
            way = self.proxy.url if self.proxy is not None and number == 2 else url
            workers = self._workers if number == 1 else 1
            clock = self.gateway_clock if number == self._count - 1 else None
            self.gateways.append(GatewayPlace(f"gateway{number}", self.folder, self.history, way, workers=workers, clock=clock))
        await asyncio.gather(*[place.start() for place in self.gateways])
        async with Database(self.database_url) as database:
            await migrate(database)
        for number in range(2):
            log = self.folder / f"relay{number}.log"
            self.relays.append(ProgramPlace(f"relay{number}", programs.relay, self.database_url, url, PREFIX, log))
            log = self.folder / f"jobs{number}.log"
            self.job_workers.append(ProgramPlace(f"jobs{number}", programs.job_worker, url, PREFIX, self.effects, log))
        for place in self.programs:
            await place.start()
        watches = [place.watch() for place in self.gateways] + [place.watch() for place in self.programs]
        self._watches = [asyncio.create_task(watch) for watch in watches]

    @property
    def programs(self) -> list[ProgramPlace]:
        return [*self.relays, *self.job_workers]

    def logs(self) -> list[Path]:
        """Of all gateways, relays, workers and servers of this run."""
        gateways = [log for place in self.gateways for log in place.logs]
        return [*gateways, *[self.folder / f"{place.name}.log" for place in self.programs], *self.topology.logs]

    async def _close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for program in self.programs:
            program.close()
        await asyncio.gather(*[place.end(signal.SIGTERM) for place in self.gateways if place.alive])
        if self.proxy is not None:
            await self.proxy.__aexit__()
        await asyncio.to_thread(self.topology.close)
