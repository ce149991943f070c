"""A plan for 1,000,000 connected clients: what is measured here, times what is wanted there. Printed as Markdown, for the documentation.

Nothing of it was run at this size. What one core, one connection and one channel cost is multiplied; that costs grow in proportion is
what the rows with several shards and gateways show, as far as this machine goes.
"""

from __future__ import annotations

from typing import Any

__all__ = ["show"]

CLIENTS = 1_000_000
SHARED = 10_000  # channels that many follow
FOLLOWED = 3  # of them by each client, besides its inbox
INBOX_RATE = 1_500  # publications a second, one delivery each
SHARED_RATE = 500
PROCESSES = 40
MACHINES = 5
SHARDS = 6
LINKS_PER_SHARD = 2  # connections of one gateway: commands, and the link
PING_SECONDS = 25
STORM_SHARE = 0.7  # of the cores, while all clients return
RING_BYTES = 64 * 2**20  # limits.ring_bytes
PROGRAM_BYTES = 80 * 2**20  # of a process without clients

Lines = list[tuple[str, str, str]]


def _row(figures: dict[str, Any], load: str) -> dict[str, float]:
    """One server and one gateway."""
    found: dict[str, float] = next(row for row in figures["rows"] if (row["shards"], row["gateways"], row["load"]) == (1, 1, load))
    return found


def _shard(figures: dict[str, Any]) -> float:
    """µs of a shard's CPU for a publication: from the ratio, which was taken in pairs of runs."""
    return 3 * _row(figures, "publish")["valkey"] / float(figures["times"]["one shard"])


def _kib(size: float) -> str:
    return f"{size / 1024:.1f} KiB"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def carried(figures: dict[str, Any]) -> Lines:
    """What one of each costs or carries: (what, the figure, the program that measures it)."""
    kinds = figures["connections"]
    publish, deliver, shard = _row(figures, "publish"), _row(figures, "deliver"), _shard(figures)
    plan, stream, bare = kinds["plan"], kinds["stream"], kinds["bare"]
    own = kinds["own"]["memory"] - kinds["shared"]["memory"]
    return [
        ("a WebSocket without a channel", f"{_kib(bare['memory'])} of the gateway, {_kib(bare['kernel'])} of the kernel", "connections"),
        ("a WebSocket with its inbox and 3 channels", f"{_kib(plan['memory'])}, kernel {_kib(plan['kernel'])}", "connections"),
        ("an event stream with the same", f"{_kib(stream['memory'])}, kernel {_kib(stream['kernel'])}", "connections"),
        ("a channel that a gateway follows", f"{_kib(own)} of the gateway, {figures['link_channel']:.0f} bytes of Valkey", "connections"),
        (
            "connect, token and 4 subscriptions",
            f"{plan['connect']:,.0f} µs of the gateway, {plan['valkey_connect']:.0f} µs of Valkey, {_kib(plan['valkey_memory'])} there",
            "connections",
        ),
        ("connect alone", f"{bare['connect']:,.0f} µs", "connections"),
        ("a ping and its answer", f"{plan['ping']:.0f} µs of the gateway", "connections"),
        ("a publication", f"{publish['valkey']:.0f} µs of Valkey; of a shard {shard:.0f} µs", "scale"),
        ("each further gateway that follows its channel", f"{figures['link_copy']:.1f} µs of Valkey", "connections"),
        ("a publication in the gateway, one delivery included", f"{publish['gateways_cpu']:.0f} µs", "scale"),
        ("a delivery, 200 subscribers of a channel", f"{deliver['delivery']:.1f} µs of the gateway", "scale"),
        ("a channel with 100 publications of 200 bytes", f"{_kib(figures['history'])} of Valkey", "connections"),
        ("an inbox with 20 notifications", f"{_kib(figures['inbox'])} of Valkey", "connections"),
        (
            "a core of one server; of 3 shards",
            f"{1e6 / publish['valkey']:,.0f} publications/s; × {figures['times']['one shard']:.2f}",
            "scale",
        ),
        (
            "a core of a gateway",
            f"{1e6 / publish['gateways_cpu']:,.0f} publications/s of one delivery, or {1e6 / deliver['delivery']:,.0f} deliveries/s",
            "scale",
        ),
    ]


def planned(figures: dict[str, Any]) -> Lines:
    """What the million needs: (what, the arithmetic, the result)."""
    return _traffic(figures) + _memory(figures) + _sockets() + _storm(figures)


def _traffic(figures: dict[str, Any]) -> Lines:
    followers = CLIENTS * FOLLOWED // SHARED
    copies = min(PROCESSES, followers)
    deliveries = INBOX_RATE + SHARED_RATE * followers
    publish, deliver, shard = _row(figures, "publish"), _row(figures, "deliver"), _shard(figures)
    arriving = INBOX_RATE + SHARED_RATE * copies
    received, each, ping = publish["gateways_cpu"], deliver["delivery"], figures["connections"]["plan"]["ping"]
    live = arriving * received + (deliveries - arriving) * each
    pings = CLIENTS / PING_SECONDS * ping
    valkey = (INBOX_RATE + SHARED_RATE) * shard + SHARED_RATE * copies * figures["link_copy"]
    return [
        ("followers of a shared channel", f"{CLIENTS:,} × {FOLLOWED} / {SHARED:,}", f"{followers:,}"),
        ("deliveries a second", f"{INBOX_RATE:,} × 1 + {SHARED_RATE} × {followers}", f"{deliveries:,}"),
        ("publications that reach a gateway", f"{INBOX_RATE:,} × 1 + {SHARED_RATE} × {copies} processes", f"{arriving:,}"),
        (
            "gateways' CPU, live",
            f"{arriving:,} × {received:.0f} µs + {deliveries - arriving:,} × {each:.1f} µs",
            f"{live / 1e6:.1f} cores",
        ),
        ("gateways' CPU, pings", f"{CLIENTS:,} / {PING_SECONDS} s × {ping:.0f} µs", f"{pings / 1e6:.1f} cores"),
        (
            "Valkey's CPU",
            f"{INBOX_RATE + SHARED_RATE:,} × {shard:.0f} µs + {SHARED_RATE} × {copies} × {figures['link_copy']:.1f} µs",
            f"{valkey / 1e6:.2f} cores of {SHARDS} shards",
        ),
    ]


def _memory(figures: dict[str, Any]) -> Lines:
    plan = figures["connections"]["plan"]
    machine, processes = CLIENTS // MACHINES, PROCESSES // MACHINES
    user = CLIENTS * (plan["valkey_memory"] + figures["inbox"])
    links = (CLIENTS + SHARED * PROCESSES) * figures["link_channel"]
    shared = SHARED * figures["history"]
    return [
        ("clients of a process", f"{CLIENTS:,} / {PROCESSES}", f"{CLIENTS // PROCESSES:,}"),
        (
            "memory of a machine, gateways",
            f"{machine:,} × {_kib(plan['memory'])} + {processes} × ({PROGRAM_BYTES // 2**20} MiB + {RING_BYTES // 2**20} MiB of rings)",
            _gib(machine * plan["memory"] + processes * (PROGRAM_BYTES + RING_BYTES)),
        ),
        ("memory of a machine, kernel", f"{machine:,} × {_kib(plan['kernel'])}", _gib(machine * plan["kernel"])),
        ("Valkey, clients and inboxes", f"{CLIENTS:,} × ({_kib(plan['valkey_memory'])} + {_kib(figures['inbox'])})", _gib(user)),
        (
            "Valkey, links",
            f"({CLIENTS:,} + {SHARED:,} × {PROCESSES}) × {figures['link_channel']:.0f} bytes",
            _gib(links),
        ),
        ("Valkey, histories of shared channels", f"{SHARED:,} × {_kib(figures['history'])}", _gib(shared)),
        ("memory of a shard", f"the three / {SHARDS}, twice for a fork and for growth", _gib((user + links + shared) / SHARDS * 2)),
    ]


def _sockets() -> Lines:
    return [
        ("sockets of a machine", f"{CLIENTS:,} / {MACHINES}", f"{CLIENTS // MACHINES:,}"),
        ("file descriptors of a process", f"{CLIENTS // PROCESSES:,} + {SHARDS} shards × {LINKS_PER_SHARD}", "`nofile` 65,536"),
        ("connections of a shard", f"{PROCESSES} processes × {LINKS_PER_SHARD}", f"{PROCESSES * LINKS_PER_SHARD}, and the publishers'"),
    ]


def _storm(figures: dict[str, Any]) -> Lines:
    plan = figures["connections"]["plan"]
    ours = CLIENTS * plan["connect"] / 1e6
    theirs = CLIENTS * plan["valkey_connect"] / 1e6
    return [
        (
            "all return at once, gateways",
            f"{CLIENTS:,} × {plan['connect']:,.0f} µs / ({PROCESSES} cores × {STORM_SHARE})",
            f"{ours / PROCESSES / STORM_SHARE:.0f} s",
        ),
        (
            "all return at once, Valkey",
            f"{CLIENTS:,} × {plan['valkey_connect']:.0f} µs / ({SHARDS} cores × {STORM_SHARE})",
            f"{theirs / SHARDS / STORM_SHARE:.0f} s",
        ),
    ]


def _print(heads: tuple[str, str, str], lines: Lines) -> None:
    print(f"| {' | '.join(heads)} |\n|---|---|---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    print()


def show(figures: dict[str, Any]) -> None:
    """Both tables in Markdown."""
    _print(("one", "costs or carries", "measured by"), carried(figures))
    _print((f"{CLIENTS:,} clients", "arithmetic", "result"), planned(figures))
