"""What connections, channels and links cost: memory and CPU of one gateway, of its Valkey and of the kernel.

A client of the kind ``plan`` has a token, its own inbox and three of SHARED channels, which many share. The first WARM clients warm the
gateway up; then COUNT more are measured. Memory of the kernel is what the slabs of sockets and the buffers of TCP grow by, for
one end of a connection: both ends are on this machine, so it is half of what is seen. Run it as root.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import valkey
from rich.console import Console
from rich.table import Table

from gateway.store.layout import Layout
from tests.kit.forks import start
from tests.kit.tokens import token

from .servers import Gateway, Valkeys, cpu, gateways, resident
from .subscribers import Client, Subscribers

__all__ = ["measure", "show"]

SHARED = 1000
OWN_SHARED = 3  # shared channels of one client
WARM_PART = 0.25
PING_SECONDS = 4
IDLE_PINGS = 2
PUBLICATIONS = 100  # the default history_size
HISTORIES = 200
NOTIFICATIONS = 20  # in an inbox
SLABS = ("TCP", "sock_inode_cache", "filp", "dentry", "lsm_inode_cache", "lsm_file_cache", "eventpoll_epi")
LINKS = (1, 9)
LINK_CHANNELS = 20_000
COPIES = 4000
SSUBSCRIBE_AT_ONCE = 1000
DATA = json.dumps({"mark": "x" * 189})
NOTIFICATION = '{"id":"%d","mark":"' + "x" * 174 + '"}'

TOML = f"""
ping_seconds = {PING_SECONDS}
pong_seconds = 3
[channels]
subscribe = "anyone"
"""

Numbers = dict[str, float]


def kernel_memory() -> int:
    """Bytes of the kernel's slabs that sockets are in, and of the buffers of TCP. /proc/slabinfo is for root alone."""
    lines = [line.split() for line in Path("/proc/slabinfo").read_text().splitlines()]
    slabs = sum(int(line[1]) * int(line[3]) for line in lines if line[0] in SLABS)
    pages = int(re.findall(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.M)[0])
    return slabs + pages * 4096


def _shared(number: int) -> list[str]:
    return [f"posts:{(number * OWN_SHARED + each) % SHARED}" for each in range(OWN_SHARED)]


def _subscribes(*channels: str) -> str:
    return "\n".join(f'{{"id":{number},"subscribe":{{"channel":"{channel}"}}}}' for number, channel in enumerate(channels, 2))


def _bare(port: int, number: int) -> Client:
    return Client(port, '{"id":1,"connect":{}}', '"connect"')


def _one_shared(port: int, number: int) -> Client:
    return Client(port, '{"id":1,"connect":{}}\n' + _subscribes("posts:one"), '"id":2')


def _one_own(port: int, number: int) -> Client:
    return Client(port, '{"id":1,"connect":{}}\n' + _subscribes(f"posts:own{number}"), '"id":2')


def _plan(port: int, number: int) -> Client:
    connect = f'{{"id":1,"connect":{{"token":"{token(f"u{number}")}"}}}}'
    return Client(port, f"{connect}\n{_subscribes(*_shared(number))}", f'"id":{OWN_SHARED + 1}')


def _stream(port: int, number: int) -> Client:
    names = "&".join(f"channel={channel}" for channel in [f"notifications:u{number}", *_shared(number)])
    return Client(port, "", "event: connected", f"/sse?{names}&token={token(f'u{number}')}")


Make = Callable[[int, int], Client]

PROFILES: dict[str, tuple[str, Make]] = {
    "bare": ("WebSocket, no channel", _bare),
    "shared": ("WebSocket, one channel of all", _one_shared),
    "own": ("WebSocket, one of its own", _one_own),
    "plan": (f"WebSocket, plan: inbox and {OWN_SHARED}", _plan),
    "stream": (f"event stream, inbox and {OWN_SHARED}", _stream),
}


class _State:
    """What is taken so far, of all that is measured."""

    def __init__(self, valkeys: Valkeys, gateway: Gateway) -> None:
        self.cpu, self.valkey_cpu = cpu(gateway.pid), cpu(valkeys.pids[0])
        self.memory, self.valkey_memory, self.kernel = resident(gateway.pid), valkeys.memory(), kernel_memory()
        self.time = time.monotonic()


def _connections(folder: Path, valkeys: Valkeys, make: Make, count: int) -> Numbers:
    with ExitStack() as stack:
        (gateway,) = stack.enter_context(gateways(folder, valkeys.url, 1, TOML))
        warm = int(count * WARM_PART)
        stack.enter_context(Subscribers([make(gateway.port, number) for number in range(warm)]))
        clients = [make(gateway.port, number) for number in range(warm, warm + count)]
        time.sleep(1)
        before = _State(valkeys, gateway)
        stack.enter_context(Subscribers(clients))
        ready = _State(valkeys, gateway)
        time.sleep(1)
        settled = _State(valkeys, gateway)
        time.sleep(PING_SECONDS * IDLE_PINGS)
        after = _State(valkeys, gateway)
    seconds = after.time - settled.time
    return {
        "memory": (settled.memory - before.memory) / count,
        "kernel": (settled.kernel - before.kernel) / count / 2,
        "valkey_memory": (settled.valkey_memory - before.valkey_memory) / count,
        "connect": (ready.cpu - before.cpu) / count * 1e6,
        "connects": count / (ready.time - before.time),
        "valkey_connect": (ready.valkey_cpu - before.valkey_cpu) / count * 1e6,
        "ping": (after.cpu - settled.cpu) / (count + warm) / (seconds / PING_SECONDS) * 1e6,
        "valkey_idle": (after.valkey_cpu - settled.valkey_cpu) / (count + warm) / seconds * 1e6,
    }


def _histories(valkeys: Valkeys) -> Numbers:
    """Valkey's memory for a channel with PUBLICATIONS of 200 bytes, and for an inbox with NOTIFICATIONS of them."""
    layout = Layout("histories")
    client: Any = valkeys.clients[0]
    before = valkeys.memory()
    for number in range(HISTORIES):
        _publish(client, layout, f"posts:{number}", PUBLICATIONS)
    channels = valkeys.memory()
    with client.pipeline(transaction=False) as pipeline:
        for number in range(HISTORIES * NOTIFICATIONS):
            keys = layout.inbox_keys(f"notifications:u{number % HISTORIES}")
            pipeline.fcall("gateway_notify", len(keys), *keys, NOTIFICATION % number)
        pipeline.execute()
    return {"history": (channels - before) / HISTORIES, "inbox": (valkeys.memory() - channels) / HISTORIES}


def _publish(client: Any, layout: Layout, channel: str, count: int) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(count):
            pipeline.fcall("gateway_publish", 3, *layout.keys(channel), DATA)
        pipeline.execute()


def _links(valkeys: Valkeys) -> Numbers:
    """Valkey's memory for a channel of a link, and its CPU for each further link that a publication goes to, alone in its write."""
    layout, micros = Layout("links"), []
    client: Any = valkeys.clients[0]
    before = valkeys.memory()
    with ExitStack() as stack:
        many = stack.enter_context(client.pubsub())
        for start in range(0, LINK_CHANNELS, SSUBSCRIBE_AT_ONCE):
            many.subscribe(*[f"links:{{posts:{number}}}" for number in range(start, start + SSUBSCRIBE_AT_ONCE)])
        for _ in range(LINK_CHANNELS):
            many.get_message(timeout=5)
        memory = (valkeys.memory() - before) / LINK_CHANNELS
        links = 0
        for wanted in LINKS:
            while links < wanted:
                stack.enter_context(_Reader(valkeys.url))
                links += 1
            _publish(client, layout, "posts:busy", PUBLICATIONS)
            used = cpu(valkeys.pids[0])
            for _ in range(COPIES):
                _publish(client, layout, "posts:busy", 1)
            micros.append((cpu(valkeys.pids[0]) - used) / COPIES * 1e6)
    return {"link_channel": memory, "link_copy": (micros[1] - micros[0]) / (LINKS[1] - LINKS[0])}


class _Reader:
    """A process that reads what is announced on one channel, as a link does."""

    def __init__(self, url: str) -> None:
        self._process = start(_read, url)

    def __enter__(self) -> None:
        time.sleep(0.3)  # until it has subscribed

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _read(url: str) -> None:
    client: Any = valkey.Valkey.from_url(url)
    with client.pubsub() as reader:
        reader.subscribe("links:{posts:busy}")
        while reader.connection._sock.recv(1 << 18):  # the bytes alone: to parse them would take CPU beside what is measured
            pass


COLUMNS = (
    ("gateway, KiB", "memory", 1024),
    ("kernel, KiB", "kernel", 1024),
    ("Valkey, KiB", "valkey_memory", 1024),
    ("connects/s", "connects", 1),
    ("gateway, CPU µs a connect", "connect", 1),
    ("Valkey, CPU µs", "valkey_connect", 1),
    ("gateway, CPU µs a ping", "ping", 1),
    ("Valkey, CPU µs an idle second", "valkey_idle", 1),
)


def _table(profiles: dict[str, Numbers]) -> Table:
    table = Table(title="one connection")
    table.add_column("client", no_wrap=True)
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right")
    for name, numbers in profiles.items():
        table.add_row(PROFILES[name][0], *[f"{numbers[key] / unit:,.1f}" for _, key, unit in COLUMNS])
    return table


def _show(text: str = "") -> None:
    print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def measure(folder: Path, count: int) -> dict[str, Any]:
    """``count`` clients of each kind; what the columns name for each kind, and the figures of channels and links."""
    valkeys = Valkeys(folder / "valkey", 1)
    try:
        kinds = {}
        for name, (title, make) in PROFILES.items():
            _show(title)
            kinds[name] = _connections(folder / name, valkeys, make, count)
        _show("channels and links")
        return {"connections": kinds, **_histories(valkeys), **_links(valkeys)}
    finally:
        valkeys.stop()
        _show()


def show(figures: dict[str, Any]) -> None:
    Console(width=160).print(
        _table(figures["connections"]),
        f"Valkey: a channel with {PUBLICATIONS} publications of 200 bytes takes {figures['history'] / 1024:.1f} KiB, an inbox with {NOTIFICATIONS}"
        f" notifications {figures['inbox'] / 1024:.1f} KiB; a channel that a link follows {figures['link_channel']:.0f} bytes for that link; each"
        f" further link that a publication goes to {figures['link_copy']:.1f} µs of its CPU.",
    )
