"""Faults of Valkey: of its process, its memory, its disk, its data, its clock, its replicas and its slots. ``kinds`` describes what a fault is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import valkey

from ..kit.clusters import Node
from ..kit.wall_clocks import WallClock
from .publishing import API, DIRECT, OUTBOX
from .scene import Absent, Scene, pick
from .schedule import Fault
from .stage import PREFIX
from .topologies import Server, Sharded, Single, WithReplicas, frozen

SMALL_BUFFER_FILL = 30_000  # bytes of a document while buffers are small
SMALL_BUFFER = "pubsub 25000 0 0"
CLOCK_SECONDS = 600

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
    channel = pick([DIRECT, API, OUTBOX, f"notifications:{scene.clients[0].user}"], fault)
    return channel, _sharded(scene).cluster.slot(f"{PREFIX}:{{{channel}}}")


def _other_shard(scene: Scene, source: Node, fault: Fault) -> Node:
    topology = _sharded(scene)
    return topology.another(next(each for each in topology.servers if each.port == source.port), fault.chance)
