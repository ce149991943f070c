"""What a Valkey server's own settings and counters show: what it may lose, and whom it may cut off.

``INFO`` is a right that every gateway has, ``CONFIG GET`` is one of administrators; what cannot be asked is reported as not tried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from ...errors import StoreError
from ...store.connection import ServerCommands
from .clock_check import Reading, clock_findings, read_clock
from .diagnosis import Finding, Weight

__all__ = ["ServerFacts", "doubts_of_a_server", "facts_of", "read_server", "server_findings"]

SECTIONS = ("server", "clients", "memory", "persistence", "stats", "replication", "cluster")
SETTINGS = ("client-output-buffer-limit", "save", "appendfsync", "min-replicas-to-write", "cluster-require-full-coverage")
# The versions whose functions and commands the gateway uses: of Valkey, whose first one it is, and of Redis.
OLDEST = {"Valkey": (7, 2), "Redis": (7, 0)}
FULL = 0.9  # of memory, and of connections: beyond it, it is time to act
MEBI = 1024 * 1024
# Valkey's own defaults, in bytes: (hard, soft).
LEAST = {"pubsub": (32 * MEBI, 8 * MEBI), "replica": (256 * MEBI, 64 * MEBI)}
LINES = {"normal": "normal 0 0 0", "pubsub": "pubsub 32mb 8mb 60", "replica": "replica 256mb 64mb 60"}
WHO = {"normal": "a gateway's connection for commands", "pubsub": "a gateway's live link", "replica": "a replica"}


class ServerFacts(NamedTuple):
    """What one server answered. ``name`` is its address, ``settings`` is None where ``CONFIG GET`` is not allowed."""

    name: str
    info: Mapping[str, str]
    settings: Mapping[str, str] | None
    clock: Reading


def facts_of(info: str) -> dict[str, str]:
    """The fields of a reply to ``INFO``."""
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


async def read_server(server: ServerCommands) -> ServerFacts:
    """Raises StoreError where even INFO is refused."""
    info = (await server.call("INFO", *SECTIONS)).decode()

    async def theirs() -> float:
        seconds, microseconds = await server.call("TIME")
        return int(seconds) + int(microseconds) / 1e6

    clock = await read_clock(theirs)
    try:
        words = [word.decode() for word in await server.call("CONFIG", "GET", *SETTINGS)]
    except StoreError:  # a user without the right, or a service that offers no such command
        return ServerFacts(str(server.address), facts_of(info), None, clock)
    return ServerFacts(str(server.address), facts_of(info), dict(zip(words[::2], words[1::2], strict=True)), clock)


def doubts_of_a_server(info: Mapping[str, str], *, snapshots: bool = True) -> list[Finding]:
    """What Valkey may lose by its settings, as far as INFO shows them; for ``gateway check`` too. ``snapshots`` is false where it makes none."""
    doubts, policy = [], info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        doubts.append(
            Finding(
                Weight.WARNING,
                f"Valkey removes keys when its memory is full (maxmemory-policy {policy}), so history, inboxes and jobs may vanish; set noeviction",
                _line("maxmemory-policy", "noeviction"),
            )
        )
    if info.get("aof_enabled") == "0":
        sentence = "Valkey writes no append-only file (appendonly no), so a restart loses what it acknowledged since its last snapshot, if it makes any"
        if not snapshots:
            sentence = 'Valkey writes nothing to its disk (appendonly no, save ""): a restart loses all histories, inboxes and jobs'
        doubts.append(Finding(Weight.WARNING, sentence, _line("appendonly", "yes")))
    return doubts


def server_findings(facts: ServerFacts, *, embedded: bool = False) -> list[Finding]:
    """All that is wrong with one server. ``embedded`` is the gateway's own, whose settings the gateway writes."""
    info, settings = facts.info, facts.settings or {}
    doubts = doubts_of_a_server(info, snapshots=settings.get("save") != "")
    found = [*_version(info), *_evicted(info), *doubts, *_written(info), *_memory(info), *_connections(info)]
    found += [*_replicas(info, settings), *_coverage(info, settings), *clock_findings("Valkey's", facts.clock)]
    if not embedded:
        found += [*_late_on_disk(info, settings), *_unlimited(info)]
        found += _buffers(settings.get("client-output-buffer-limit", ""), replicas=int(info.get("connected_slaves", "0")))
    return found


def _line(name: str, value: str) -> str:
    """The line of valkey.conf, and the command that sets it at once."""
    quoted = f'"{value}"' if " " in value or not value else value
    return f"{name} {value}    (in valkey.conf; at once: CONFIG SET {name} {quoted})"


def _version(info: Mapping[str, str]) -> list[Finding]:
    name = "Valkey" if info.get("valkey_version") else "Redis"
    version = info.get(f"{name.lower()}_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not numbers or numbers >= OLDEST[name]:
        return []
    fault = f"{name} is version {version}: the gateway needs Valkey 7.2 or newer, or Redis 7"
    return [Finding(Weight.FAULT, fault, "install a newer valkey-server")]


def _evicted(info: Mapping[str, str]) -> list[Finding]:
    if (count := int(info.get("evicted_keys", "0"))) == 0:
        return []
    if info.get("maxmemory_policy", "noeviction") == "noeviction":  # it counts since its start
        sentence = (
            f"Valkey has removed {count:,} keys while its memory was full, before it had noeviction: history, inboxes or jobs were lost"
        )
        return [Finding(Weight.NOTE, sentence, "CONFIG RESETSTAT    (from then on it counts anew)")]
    sentence = f"Valkey has removed {count:,} keys because its memory was full: history, inboxes or jobs were lost"
    return [Finding(Weight.FAULT, sentence, _line("maxmemory-policy", "noeviction") + ", and a larger maxmemory")]


def _written(info: Mapping[str, str]) -> list[Finding]:
    """Writes to the disk that failed: Valkey may refuse commands until they succeed."""
    found = []
    for field, what in (("aof_last_write_status", "its append-only file"), ("rdb_last_bgsave_status", "its snapshot")):
        if info.get(field, "ok") != "ok":
            found.append(
                Finding(
                    Weight.FAULT,
                    f"Valkey could not write {what} ({field} is {info[field]})",
                    "make room on its disk; its log has the reason",
                )
            )
    return found


def _memory(info: Mapping[str, str]) -> list[Finding]:
    used, most = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    if not most or used < FULL * most:
        return []
    change = _line("maxmemory", f"{math.ceil(2 * max(used, most) / MEBI)}mb")
    counted = used - int(info.get("mem_not_counted_for_evict", "0"))
    if counted >= most and info.get("maxmemory_policy", "noeviction") == "noeviction":
        sentence = "Valkey refuses to write: its memory is full (maxmemory). Nothing is published, and no gateway can be started"
        return [Finding(Weight.FAULT, sentence, change)]
    sentence = f"Valkey uses {used / MEBI:,.0f} of its {most / MEBI:,.0f} MiB (maxmemory): when they are full, it refuses to write, or removes keys"
    return [Finding(Weight.WARNING, sentence, change)]


def _unlimited(info: Mapping[str, str]) -> list[Finding]:
    if info.get("maxmemory", "0") != "0":
        return []
    total = int(info.get("total_system_memory", "0"))
    most = f"{total * 6 // 10 // MEBI}mb" if total else "2gb"
    sentence = (
        "Valkey has no limit of its memory (maxmemory 0): when the machine's is full, the kernel ends it instead of Valkey refusing writes"
    )
    change = _line("maxmemory", most)
    if info.get("maxmemory_policy", "noeviction") != "noeviction":  # which has an effect only together with a limit
        change = f"first {_line('maxmemory-policy', 'noeviction')}, then {change}"
    return [Finding(Weight.NOTE, sentence, change)]


def _replicas(info: Mapping[str, str], settings: Mapping[str, str]) -> list[Finding]:
    """Whether so many replicas follow it as it needs for a write; INFO has their number only where it needs any."""
    needed = int(settings.get("min-replicas-to-write", "0"))
    if needed <= (found := int(info.get("min_slaves_good_slaves", needed))):
        return []
    sentence = f"Valkey refuses to write: {found} replicas follow it closely, and it needs {needed} for that (min-replicas-to-write)"
    return [Finding(Weight.FAULT, sentence, f"start the replicas, or {_line('min-replicas-to-write', str(found))}")]


def _coverage(info: Mapping[str, str], settings: Mapping[str, str]) -> list[Finding]:
    """Whether a shard that is away takes the others with it, which is the default of a cluster."""
    if info.get("cluster_enabled") != "1" or settings.get("cluster-require-full-coverage") != "yes":
        return []
    sentence = (
        "the cluster refuses all commands, in all shards, while hash slots of one have no primary (cluster-require-full-coverage yes): no "
        "gateway is ready then"
    )
    return [Finding(Weight.WARNING, sentence, f"on every node: {_line('cluster-require-full-coverage', 'no')}")]


def _connections(info: Mapping[str, str]) -> list[Finding]:
    connected, most = int(info.get("connected_clients", "0")), int(info.get("maxclients", "0"))
    if not most or connected < FULL * most:
        return []
    sentence = f"Valkey has {connected:,} of its {most:,} connections (maxclients): beyond them, gateways and publishers are refused"
    return [Finding(Weight.WARNING, sentence, _line("maxclients", str(2 * most)))]


def _late_on_disk(info: Mapping[str, str], settings: Mapping[str, str]) -> list[Finding]:
    if info.get("aof_enabled") != "1" or settings.get("appendfsync") != "no":
        return []
    sentence = "Valkey leaves it to the kernel when its file reaches the disk (appendfsync no): a power cut may lose the last half minute"
    return [Finding(Weight.NOTE, sentence, _line("appendfsync", "everysec"))]


def _buffers(text: str, *, replicas: int) -> list[Finding]:
    """``text`` is the setting: four words for each class of clients."""
    words = text.split()
    found = []
    for name, hard, soft in zip(words[::4], words[1::4], words[2::4], strict=False):
        kind = "replica" if name == "slave" else name
        least_hard, least_soft = LEAST.get(kind, (1 << 62, 1 << 62))  # commands have no limit by default
        if (0 < int(hard) < least_hard) or (0 < int(soft) < least_soft):
            weight = Weight.NOTE if kind == "replica" and not replicas else Weight.WARNING
            sentence = (
                f"Valkey cuts {WHO.get(kind, kind)} off when {_size(hard)} wait for it, or {_size(soft)} for a while (client-output-buffer-limit "
                f"{kind}): a burst of publications, or a large answer, is more"
            )
            found.append(Finding(weight, sentence, _line("client-output-buffer-limit", LINES.get(kind, f"{kind} 0 0 0"))))
    return found


def _size(text: str) -> str:
    count = int(text)
    if not count:
        return "no number of bytes"
    return f"{count / MEBI:,.0f} MiB" if count >= MEBI else f"{count / 1024:,.0f} KiB"
