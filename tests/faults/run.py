"""One run: everything is started, the faults are made at their times, everything is mended, and what is there then is read.

    start ─▶ clients subscribe ─▶ publishing begins ─▶ faults ─▶ mended: all are ready ─▶ some more documents
          ─▶ every client has the newest ones ─▶ presence, inboxes, jobs, outbox and logs are read ─▶ everything ends

A fault waits for an earlier one of its resource that still goes on. A run ends by itself: each wait is bounded.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import valkey

from ..kit.waiting import until
from .clients import Follower, ProtocolClient, StreamClient
from .history import Event, History
from .kinds import MAKERS
from .last_look import record_end, record_logs, record_ready
from .publishing import API, DIRECT, OUTBOX, Producers
from .scene import Absent, Scene
from .schedule import KINDS, Fault, loses
from .stage import Stage
from .topologies import topology_of

__all__ = ["Size", "run"]

CHANNELS = (DIRECT, API, OUTBOX)
BEGIN_SECONDS = 30.0
FAULT_SECONDS = 120.0  # for a fault to be made and mended, beside the seconds that it lasts
CALM_SECONDS = 2.0  # of publishing after everything is mended
SETTLE_SECONDS = 30.0


class Size:
    """How large a run is. ``pace`` is the mean of the seconds between two documents of a channel; ``clients`` are of each transport."""

    def __init__(self, *, gateways: int = 3, workers: int = 2, clients: int = 2, pace: float = 0.1) -> None:
        self.gateways = gateways
        self.workers = workers
        self.clients = clients
        self.pace = pace


async def run(seed: int, seconds: float, topology: str, faults: Sequence[Fault], size: Size, logs: Path | None = None) -> list[Event]:
    """Returns the history. ``seconds`` is how long the faults take about; ``faults`` may be fewer than the seed's schedule has.

    The logs of all processes are copied into the folder ``logs``.
    """
    history = History()
    history.record("run", seed=seed, seconds=seconds, topology=topology, faults=[list(fault) for fault in faults])
    with tempfile.TemporaryDirectory(prefix="rig-") as folder:
        stage = Stage(Path(folder), history, topology_of(topology), gateways=size.gateways, workers=size.workers)
        async with stage:
            try:
                await _play(stage, history, faults, Random(seed), size)
            except (AssertionError, OSError, TimeoutError, valkey.ValkeyError):  # what did not come about is part of the history
                history.record("bad", why=traceback.format_exc()[-2500:])
        record_logs(stage, history)
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for log in stage.logs():
                shutil.copy(log, logs / log.name)
    history.record("over")
    return history.events


async def _play(stage: Stage, history: History, faults: Sequence[Fault], chance: Random, size: Size) -> None:
    clients = _clients(stage, history, chance, size.clients)
    users = [client.user for client in clients if isinstance(client, ProtocolClient)]
    producers = Producers(stage, history, users, chance, pace=size.pace)
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        await until(lambda: all(client.begun for client in clients), "every client is subscribed", BEGIN_SECONDS)
        publishing = asyncio.create_task(producers.run())
        tasks.append(publishing)
        await _make_all(Scene(stage, clients, producers), history, faults)
        await _calm(stage, history)
        producers.stopping = True
        await asyncio.wait([publishing], timeout=SETTLE_SECONDS)
        if not publishing.done():
            history.record("bad", why="not every document was acknowledged in the end")
        elif publishing.exception() is not None:
            history.record("bad", why="".join(traceback.format_exception(publishing.exception()))[-1500:])
        await _settle(history, clients, producers)
        await record_end(stage, history, clients, users)
        for client, task in zip(clients, tasks, strict=False):
            if task.done():
                history.record("bad", client=client.name, why="".join(traceback.format_exception(task.exception()))[-1500:])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _clients(stage: Stage, history: History, chance: Random, count: int) -> list[Follower]:
    """So many of each transport; every second one is restless, and the first reads through a small buffer."""
    made: list[Follower] = []
    for number in range(count):
        common: dict[str, Any] = {"restless": number % 2 == 1, "slow": number == 0}
        for kind in ("socket", "sse", "http_stream"):
            made.append(ProtocolClient(stage, history, f"{kind}{number}", CHANNELS, chance, transport=kind, **common))
        made.append(StreamClient(stage, history, f"events{number}", CHANNELS, chance, **common))
    return made


# Faults.


async def _make_all(scene: Scene, history: History, faults: Sequence[Fault]) -> None:
    locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    began = history.now
    topology = scene.stage.topology.name

    async def make(number: int, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, began + fault.at - history.now))
        async with locks[KINDS[fault.kind].resource]:
            about = {"id": number, "kind": fault.kind, "loses": loses(fault.kind, topology)}
            history.record("fault", phase="begins", target="", **about)
            try:
                async with asyncio.timeout(fault.seconds + FAULT_SECONDS), MAKERS[fault.kind](scene, fault) as target:
                    history.record("fault", phase="hits", target=target, **about)
                    await asyncio.sleep(fault.seconds)
            except Absent as reason:
                history.record("fault", phase="absent", target=str(reason), **about)
                return
            history.record("fault", phase="mended", target=target, **about)

    await asyncio.gather(*[make(number, fault) for number, fault in enumerate(faults)])


async def _calm(stage: Stage, history: History) -> None:
    """Everything is mended; returns when all gateways are ready and some more documents are published."""
    await asyncio.to_thread(stage.topology.mend)
    await record_ready(stage, history)
    await asyncio.sleep(CALM_SECONDS)


async def _settle(history: History, clients: Sequence[Follower], producers: Producers) -> None:
    def behind() -> list[str]:
        return [
            f"{client.name} in {channel}: {client.newest.get(channel)} of {newest}"
            for client in clients
            for channel, newest in producers.newest.items()
            if channel in client.followed and client.newest.get(channel, -1) < newest
        ]

    try:
        await until(lambda: not behind(), "all have the newest documents", SETTLE_SECONDS)
    except AssertionError:
        history.record("note", text="; ".join(behind())[:1000])
