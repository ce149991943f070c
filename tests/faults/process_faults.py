"""Faults of clients, gateways, relays, workers of jobs, and of connections to Valkey. ``kinds`` describes what a fault is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import valkey

from .scene import Absent, Scene, pick
from .schedule import Fault
from .stage import GatewayPlace, ProgramPlace
from .topologies import Topology

SLOW_FILL = 20_000  # bytes of a document while readers are slow
CUT_EVERY_SECONDS = 0.4

# Clients.


@asynccontextmanager
async def clients_flap(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    for client in scene.clients:
        client.flapping = True
    yield "all clients"
    for client in scene.clients:
        client.flapping = False


@asynccontextmanager
async def readers_slow(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Every second client reads nothing, while documents are large."""
    slow = scene.clients[fault.chance < 0.5 :: 2]
    for client in slow:
        client.reads.clear()
    with scene.producers.filled(SLOW_FILL):
        yield ", ".join(client.name for client in slow)
    for client in slow:
        client.reads.set()


# Gateways.


@asynccontextmanager
async def _gateway_ended_by(place: GatewayPlace, number: int) -> AsyncIterator[str]:
    place.held = True
    await place.end(number)
    yield place.name
    await place.start()
    place.held = False


@asynccontextmanager
async def gateway_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _gateway_ended_by(pick(scene.stage.gateways, fault), signal.SIGKILL) as name:
        yield name


@asynccontextmanager
async def gateway_ended(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _gateway_ended_by(pick(scene.stage.gateways, fault), signal.SIGTERM) as name:
        yield name


@asynccontextmanager
async def gateway_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    place = pick(scene.stage.gateways, fault)
    with _stopped({place.gateway.process.pid, *place.pids()}):
        yield place.name


@contextlib.contextmanager
def _stopped(pids: set[int]) -> Iterator[None]:
    _send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(pids, signal.SIGCONT)


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _a_worker(scene: Scene, fault: Fault) -> tuple[GatewayPlace, int]:
    place = pick([place for place in scene.stage.gateways if place.workers > 1], fault)
    return place, pick(place.pids(), fault)


@asynccontextmanager
async def worker_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """The gateway starts another one itself."""
    place, pid = _a_worker(scene, fault)
    _send({pid}, signal.SIGKILL)
    yield f"{place.name}, worker {pid}"


@asynccontextmanager
async def worker_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    place, pid = _a_worker(scene, fault)
    with _stopped({pid}):
        yield f"{place.name}, worker {pid}"


@asynccontextmanager
async def gateways_rolled(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Each is ended and started again, one after another."""
    for place in scene.stage.gateways:
        async with _gateway_ended_by(place, signal.SIGTERM):
            pass
    yield "all gateways"


# Relays and workers of jobs.


@asynccontextmanager
async def _program_killed(place: ProgramPlace) -> AsyncIterator[str]:
    place.held = True
    place.signal(signal.SIGKILL)
    yield place.name
    await place.start()
    place.held = False


@asynccontextmanager
async def relay_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _program_killed(pick(scene.stage.relays, fault)) as name:
        yield name


@asynccontextmanager
async def job_worker_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _program_killed(pick(scene.stage.job_workers, fault)) as name:
        yield name


@asynccontextmanager
async def job_worker_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    place = pick(scene.stage.job_workers, fault)
    place.signal(signal.SIGSTOP)
    yield place.name
    place.signal(signal.SIGCONT)


# Connections to Valkey.


@asynccontextmanager
async def _cut_again_and_again(scene: Scene, kind: str) -> AsyncIterator[str]:
    async def cut() -> None:
        while True:
            await asyncio.to_thread(_cut, scene.stage.topology, kind)
            await asyncio.sleep(CUT_EVERY_SECONDS)

    cutting = asyncio.create_task(cut())
    yield f"all connections of type {kind}"
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)


def _cut(topology: Topology, kind: str) -> None:
    with contextlib.suppress(valkey.ValkeyError):  # a server is away, or cut this connection too
        for server in topology.primaries():
            server.client.execute_command("CLIENT", "KILL", "TYPE", kind)


@asynccontextmanager
async def commands_cut(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _cut_again_and_again(scene, "normal") as name:
        yield name


@asynccontextmanager
async def links_cut(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _cut_again_and_again(scene, "pubsub") as name:
        yield name


@asynccontextmanager
async def answers_silent(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Connections stay open, and nothing that Valkey sends arrives."""
    async with _silent(scene, "answer") as name:
        yield name


@asynccontextmanager
async def asks_silent(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Connections stay open, and nothing that the gateway sends arrives."""
    async with _silent(scene, "ask") as name:
        yield name


@asynccontextmanager
async def _silent(scene: Scene, way: str) -> AsyncIterator[str]:
    if scene.stage.proxy is None:
        raise Absent("no gateway has a proxy")
    with scene.stage.proxy.silenced(way):
        yield scene.stage.gateways[2].name


@asynccontextmanager
async def proxy_slow(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    if scene.stage.proxy is None:
        raise Absent("no gateway has a proxy")
    with scene.stage.proxy.delayed(0.02 + fault.chance):
        yield scene.stage.gateways[2].name
