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

from ..kit.clusters import Node
from ..kit.wall_clocks import WallClock
from .clients import Follower
from .publishing import API, DIRECT, OUTBOX, Producers
from .schedule import Fault
from .stage import PREFIX, GatewayPlace, ProgramPlace, Stage
from .topologies import Server, Sharded, Single, Topology, WithReplicas, frozen

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


# Valkey. Of several primaries, one is hit.


async def _primary(scene: Scene, fault: Fault) -> Server:
    return await asyncio.to_thread(scene.stage.topology.primary, fault.chance)


async def _call(server: Server, *words: Any) -> Any:
    """One command, without stopping the loop."""
    return await asyncio.to_thread(server.client.execute_command, *words)


@asynccontextmanager
async def valkey_killed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It comes back with all that it acknowledged; where it has a replica, that one may be the primary then."""
    primary = await _primary(scene, fault)
    primary.kill()
    yield f"port {primary.port}"
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(scene.stage.topology.agree)


@asynccontextmanager
async def valkey_frozen(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    primary = await _primary(scene, fault)
    with frozen(primary):
        yield f"port {primary.port}"
    await asyncio.to_thread(scene.stage.topology.agree)


@asynccontextmanager
async def valkey_slow(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It answers nothing for as long as the fault lasts."""
    primary = await _primary(scene, fault)
    sleeping = asyncio.create_task(_call(primary, "DEBUG", "SLEEP", fault.seconds))
    yield f"port {primary.port}"
    with contextlib.suppress(valkey.ValkeyError):
        await sleeping
    await asyncio.to_thread(scene.stage.topology.agree)


@asynccontextmanager
async def valkey_full(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """It takes nothing that needs memory."""
    primary = await _primary(scene, fault)
    await _call(primary, "CONFIG", "SET", "maxmemory", "1mb")
    yield f"port {primary.port}"
    await _call(primary, "CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def functions_flushed(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """At the beginning and at the end."""
    primary = await _primary(scene, fault)
    await _call(primary, "FUNCTION", "FLUSH")
    yield f"port {primary.port}"
    await _call(primary, "FUNCTION", "FLUSH")


@asynccontextmanager
async def buffers_small(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """One publication is more than a link's output buffer may hold."""
    primary = await _primary(scene, fault)
    await _call(primary, "CONFIG", "SET", "client-output-buffer-limit", SMALL_BUFFER)
    with scene.producers.filled(SMALL_BUFFER_FILL):
        yield f"port {primary.port}"
    await _call(primary, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


@asynccontextmanager
async def disk_full(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """With ``appendfsync always`` Valkey ends itself at the first write that fails; with ``everysec`` it refuses writes."""
    topology = scene.stage.topology
    if not topology.disk.mounted:
        raise Absent("this process may not mount a small file system")
    how = "always" if fault.chance < 0.5 else "everysec"
    for server in topology.servers:
        await asyncio.to_thread(server.client.config_set, "appendfsync", how)
    await asyncio.to_thread(topology.disk.fill)
    yield f"appendfsync {how}"
    await asyncio.to_thread(topology.mend)
    await asyncio.to_thread(topology.rewrite_files)


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


def _replicated(scene: Scene) -> WithReplicas:
    assert isinstance(scene.stage.topology, WithReplicas)
    return scene.stage.topology


@asynccontextmanager
async def failover(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _failed_over(scene, fault, coordinated=False) as name:
        yield name


@asynccontextmanager
async def failover_coordinated(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    async with _failed_over(scene, fault, coordinated=True) as name:
        yield name


@asynccontextmanager
async def _failed_over(scene: Scene, fault: Fault, *, coordinated: bool) -> AsyncIterator[str]:
    topology = _replicated(scene)
    primary = await _primary(scene, fault)
    await asyncio.to_thread(topology.fail_over, primary, coordinated=coordinated)
    yield f"port {primary.port}"
    await asyncio.to_thread(topology.agree)


@asynccontextmanager
async def promoted_with_loss(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """The replica gets nothing for as long as the fault lasts, then the primary is killed and the replica takes its place."""
    topology = _replicated(scene)
    primary = await _primary(scene, fault)
    replica = await asyncio.to_thread(topology.replica_of, primary)
    with frozen(replica):
        await _call(primary, "CLIENT", "KILL", "TYPE", "replica")  # else the kernel takes what the frozen one does not read
        yield f"what port {primary.port} acknowledged for {fault.seconds} s"
        primary.kill()
    await asyncio.to_thread(topology.await_promoted, replica)
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(topology.agree)


# Slots move.


@asynccontextmanager
async def slots_moved(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """A channel's slot, by Valkey 9's atomic migration; to another shard, and on to the next when the fault ends."""
    channel, slot = _channel_slot(scene, fault)
    yield f"{channel} to port {await asyncio.to_thread(_migrate, scene, slot, fault)}"
    await asyncio.to_thread(_migrate, scene, slot, fault)


def _migrate(scene: Scene, slot: int, fault: Fault) -> int:
    """Returns the port of the new owner."""
    cluster = _sharded(scene).cluster
    target = _other_shard(scene, cluster.owner(slot), fault)
    cluster.migrate([(slot, slot)], target)
    return target.port


@asynccontextmanager
async def slots_moved_by_keys(scene: Scene, fault: Fault) -> AsyncIterator[str]:
    """A channel's slot, key by key; it is on its way for as long as the fault lasts."""
    cluster = _sharded(scene).cluster
    channel, slot = _channel_slot(scene, fault)
    source = await asyncio.to_thread(cluster.owner, slot)
    target = await asyncio.to_thread(_other_shard, scene, source, fault)
    move = await asyncio.to_thread(cluster.moving, slot, target)
    await asyncio.to_thread(move.begin)
    await asyncio.to_thread(move.move_keys, 1)
    yield f"{channel} from port {source.port} to port {target.port}"
    await asyncio.to_thread(move.finish)
    await asyncio.to_thread(_sharded(scene).agree)


def _sharded(scene: Scene) -> Sharded:
    assert isinstance(scene.stage.topology, Sharded)
    return scene.stage.topology


def _channel_slot(scene: Scene, fault: Fault) -> tuple[str, int]:
    channel = _pick([DIRECT, API, OUTBOX, f"notifications:{scene.clients[0].user}"], fault)
    return channel, _sharded(scene).cluster.slot(f"{PREFIX}:{{{channel}}}")


def _other_shard(scene: Scene, source: Node, fault: Fault) -> Node:
    topology = _sharded(scene)
    return topology.another(next(each for each in topology.servers if each.port == source.port), fault.chance)


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
        slots_moved,
        slots_moved_by_keys,
    )
}
