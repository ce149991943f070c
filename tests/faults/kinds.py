"""The faults: each a context manager that makes it, and mends it when its block ends. ``schedule.KINDS`` has one row for each.

What a block yields names what was hit. ``Absent`` is raised where a fault cannot be made on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import valkey

from ..kit.wall_clocks import WallClock
from .clients import Follower
from .publishing import Producers
from .schedule import Fault
from .stage import GatewayPlace, ProgramPlace, Stage
from .topologies import Single, WithSentinel, frozen

__all__ = ["MAKERS", "Absent", "Scene"]

SLOW_FILL, SMALL_BUFFER_FILL = 20_000, 30_000  # bytes of a document while readers are slow, and while buffers are small
SMALL_BUFFER = "pubsub 25000 0 0"
CUT_EVERY_SECONDS = 0.4
CLOCK_SECONDS = 600

Item = TypeVar("Item")


class Absent(Exception):
    """This fault cannot be made here."""


class Scene(NamedTuple):
    """What faults act on."""

    stage: Stage
    clients: Sequence[Follower]
    producers: Producers


Maker = Callable[[Scene, Fault], AbstractAsyncContextManager[str]]


def _pick(items: Sequence[Item], fault: Fault) -> Item:
    if not items:
        raise Absent("there is none")
    return items[int(fault.chance * len(items)) % len(items)]


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
    async with _gateway_ended_by(_pick(scene.stage.gateways, fault), signal.SIGKILL) as name:
        yield name


@asynccontextmanager
async def gateway_ended(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _gateway_ended_by(_pick(scene.stage.gateways, fault), signal.SIGTERM) as name:
        yield name


@asynccontextmanager
async def gateway_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    place = _pick(scene.stage.gateways, fault)
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
    place = _pick([place for place in scene.stage.gateways if place.workers > 1], fault)
    return place, _pick(place.pids(), fault)


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
    async with _program_killed(_pick(scene.stage.relays, fault)) as name:
        yield name


@asynccontextmanager
async def job_worker_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _program_killed(_pick(scene.stage.job_workers, fault)) as name:
        yield name


@asynccontextmanager
async def job_worker_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    place = _pick(scene.stage.job_workers, fault)
    place.signal(signal.SIGSTOP)
    yield place.name
    place.signal(signal.SIGCONT)


# Connections to Valkey.


@asynccontextmanager
async def _cut_again_and_again(scene: Scene, kind: str) -> AsyncIterator[str]:
    async def cut() -> None:
        while True:
            with contextlib.suppress(valkey.ValkeyError):  # the server is away, or cut this connection too
                await asyncio.to_thread(scene.stage.topology.primary.client.execute_command, "CLIENT", "KILL", "TYPE", kind)
            await asyncio.sleep(CUT_EVERY_SECONDS)

    cutting = asyncio.create_task(cut())
    yield f"all connections of type {kind}"
    cutting.cancel()
    await asyncio.gather(cutting, return_exceptions=True)


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


# Valkey.


async def _call(scene: Scene, *words: Any) -> Any:
    """One command to the primary, without stopping the loop."""
    return await asyncio.to_thread(scene.stage.topology.primary.client.execute_command, *words)


@asynccontextmanager
async def valkey_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It comes back with all that it acknowledged; where it has a replica, that one may be the primary then."""
    topology = scene.stage.topology
    primary = await asyncio.to_thread(lambda: topology.primary)
    primary.kill()
    yield f"port {primary.port}"
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(topology.agree)


@asynccontextmanager
async def valkey_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    topology = scene.stage.topology
    primary = await asyncio.to_thread(lambda: topology.primary)
    with frozen(primary):
        yield f"port {primary.port}"
    await asyncio.to_thread(topology.agree)


@asynccontextmanager
async def valkey_slow(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It answers nothing for as long as the fault lasts."""
    sleeping = asyncio.create_task(_call(scene, "DEBUG", "SLEEP", fault.seconds))
    yield "the primary"
    with contextlib.suppress(valkey.ValkeyError):
        await sleeping
    await asyncio.to_thread(scene.stage.topology.agree)


@asynccontextmanager
async def valkey_full(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It takes nothing that needs memory."""
    await _call(scene, "CONFIG", "SET", "maxmemory", "1mb")
    yield "the primary"
    await _call(scene, "CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def functions_flushed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    await _call(scene, "FUNCTION", "FLUSH")
    yield "the primary"
    await _call(scene, "FUNCTION", "FLUSH")


@asynccontextmanager
async def buffers_small(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """One publication is more than a link's output buffer may hold."""
    await _call(scene, "CONFIG", "SET", "client-output-buffer-limit", SMALL_BUFFER)
    with scene.producers.filled(SMALL_BUFFER_FILL):
        yield "the primary"
    await _call(scene, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


@asynccontextmanager
async def disk_full(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """With ``appendfsync always`` Valkey ends itself at the first write that fails; with ``everysec`` it refuses writes."""
    topology = scene.stage.topology
    if not topology.disk.mounted:
        raise Absent("this process may not mount a small file system")
    how = "always" if fault.chance < 0.5 else "everysec"
    primary = await asyncio.to_thread(lambda: topology.primary)
    await asyncio.to_thread(primary.client.config_set, "appendfsync", how)
    await asyncio.to_thread(topology.disk.fill)
    yield f"appendfsync {how}"
    topology.disk.free()
    await asyncio.to_thread(topology.mend)


@asynccontextmanager
async def valkey_emptied(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Killed, and started again without its files."""
    await asyncio.to_thread(_single(scene).come_back, None, fault.seconds)
    yield "all data"


@asynccontextmanager
async def valkey_older(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """Killed, and started again with the files that it had when the fault began."""
    files = await asyncio.to_thread(_single(scene).save)
    yield f"the last {fault.seconds} s"
    await asyncio.to_thread(_single(scene).come_back, files, 0.2)


def _single(scene: Scene) -> Single:
    assert isinstance(scene.stage.topology, Single)
    return scene.stage.topology


# Clocks.


@asynccontextmanager
async def gateway_clock_set(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _clock_set(scene.stage.gateway_clock, fault) as name:
        yield f"{scene.stage.gateways[-1].name}, {name}"


@asynccontextmanager
async def valkey_clock_set(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _clock_set(scene.stage.valkey_clock, fault) as name:
        yield name


@asynccontextmanager
async def _clock_set(clock: WallClock | None, fault: Fault) -> AsyncIterator[str]:
    """Up to ten minutes to either side, and back."""
    if clock is None:
        raise Absent("libfaketime is not installed")
    seconds = round(CLOCK_SECONDS * (2 * fault.chance - 1))
    clock.set(seconds)
    yield f"{seconds:+d} s"
    clock.set(0)


# A replica takes over.


def _watched(scene: Scene) -> WithSentinel:
    assert isinstance(scene.stage.topology, WithSentinel)
    return scene.stage.topology


@asynccontextmanager
async def failover(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _failed_over(scene) as name:
        yield name


@asynccontextmanager
async def failover_coordinated(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _failed_over(scene, "COORDINATED") as name:
        yield name


@asynccontextmanager
async def _failed_over(scene: Scene, *how: str) -> AsyncIterator[str]:
    topology = _watched(scene)
    await asyncio.to_thread(topology.fail_over, *how)
    yield "the primary"
    await asyncio.to_thread(topology.agree)


@asynccontextmanager
async def promoted_with_loss(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """The replica gets nothing for as long as the fault lasts, then the primary is killed and the replica takes its place."""
    topology = _watched(scene)
    primary, replica = await asyncio.to_thread(lambda: (topology.primary, topology.replica))
    with frozen(replica):
        yield f"what port {primary.port} acknowledged for {fault.seconds} s"
        primary.kill()
    await asyncio.to_thread(topology.await_another, primary)
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(topology.agree)


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        clients_flap,
        readers_slow,
        gateway_killed,
        gateway_frozen,
        gateway_ended,
        worker_killed,
        worker_frozen,
        gateways_rolled,
        relay_killed,
        job_worker_killed,
        job_worker_frozen,
        commands_cut,
        links_cut,
        answers_silent,
        asks_silent,
        proxy_slow,
        valkey_killed,
        valkey_frozen,
        valkey_slow,
        valkey_full,
        functions_flushed,
        buffers_small,
        disk_full,
        valkey_emptied,
        valkey_older,
        gateway_clock_set,
        valkey_clock_set,
        failover,
        failover_coordinated,
        promoted_with_loss,
    )
}
