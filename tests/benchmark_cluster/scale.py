"""Publications and deliveries with 1 and 3 shards and 1, 2 and 4 gateways: wall clock, and CPU of Valkey, gateways and publishers.

Three loads. ``publish``: each channel has one subscriber, and publishers go as fast as their publications are acknowledged. ``one shard``:
the same with channels of one shard of several alone. ``deliver``: each channel has 200 subscribers, spread over all gateways, and PACE
publications a second. The rows take turns, so that noise spreads over all of them, and the middle of the runs is shown. What an idle
second costs is measured before each load and subtracted.

A publisher has WINDOW publications on the way for each loaded shard: so each has as many waiting as a server by itself has. Where shards
share a core they also share its caches, which makes all of them dearer; ``one shard`` is what each costs on a core of its own.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .publishing import Load, PublisherProcess
from .servers import Gateway, Valkeys, cpu, gateways
from .subscribers import Client, Subscribers

__all__ = ["measure", "show"]

SHARDS = (1, 3)
GATEWAYS = (1, 2, 4)
PUBLISHERS = 2
WINDOW = 64
PACE = 30.0  # publications a second in each channel of the load "deliver"
IDLE_SECONDS = 0.6
ARRIVE_SECONDS = 10.0
HISTORY = 100  # the default history_size
FILL_SECONDS = 60.0
GATEWAY_TOML = "[insecure]\nclients = true"
PREFIX = "bench"
WIDTH = 160

Numbers = dict[str, float]


class Shape(NamedTuple):
    """``subscribers`` of each channel; ``pace``: publications a second in each channel;
    ``one_shard``: all channels are of the first of several shards."""

    name: str
    channels: int
    subscribers: int
    pace: float = math.inf
    one_shard: bool = False


PUBLISH = Shape("publish", 120, 1)
ONE_SHARD = Shape("one shard", 120, 1, one_shard=True)
DELIVER = Shape("deliver", 6, 200, PACE)


class Spent(NamedTuple):
    """Seconds of CPU that each process has taken so far."""

    valkeys: list[float]
    gateways: list[float]

    @classmethod
    def now(cls, valkeys: Valkeys, running: list[Gateway]) -> Spent:
        return cls([cpu(pid) for pid in valkeys.pids], [cpu(gateway.pid) for gateway in running])

    def since(self, before: Spent) -> Spent:
        return Spent(
            [after - then for after, then in zip(self.valkeys, before.valkeys, strict=True)],
            [after - then for after, then in zip(self.gateways, before.gateways, strict=True)],
        )

    def without(self, idle: Spent, times: float) -> Spent:
        return self.since(Spent([each * times for each in idle.valkeys], [each * times for each in idle.gateways]))


def _clients(shape: Shape, channels: list[str], running: list[Gateway]) -> list[Client]:
    """Each channel's subscribers are spread over the gateways, and the channels over them too."""
    clients = []
    for number, channel in enumerate(channels):
        message = f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{channel}"}}}}'
        for each in range(shape.subscribers):
            gateway = running[(number // 3 + each) % len(running)]  # three channels in a row are of three shards
            clients.append(Client(gateway.port, message, '"subscribe"'))
    return clients


def _channels(shape: Shape, valkeys: Valkeys) -> list[str]:
    step = valkeys.shards if shape.one_shard else 1
    return valkeys.channels(shape.name.replace(" ", "-"), shape.channels * step)[::step]


def _fill(valkeys: Valkeys, publisher: PublisherProcess) -> None:
    """Fills the histories, so that each publication of a load removes an old one, as in a channel that has been in use for a while."""
    for shape in (PUBLISH, ONE_SHARD):
        channels = _channels(shape, valkeys)
        publisher.prepare(PREFIX, Load(channels, FILL_SECONDS, WINDOW * valkeys.shards, most=HISTORY * len(channels)))
        publisher.begin()
        publisher.result()


def _idle(valkeys: Valkeys, running: list[Gateway]) -> tuple[Spent, float]:
    before, begun = Spent.now(valkeys, running), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return Spent.now(valkeys, running).since(before), time.monotonic() - begun


def _load(shape: Shape, valkeys: Valkeys, running: list[Gateway], publishers: list[PublisherProcess], seconds: float) -> Numbers:
    loaded = 1 if shape.one_shard else valkeys.shards
    channels = _channels(shape, valkeys)
    rate = shape.pace * shape.channels / len(publishers)
    with Subscribers(_clients(shape, channels, running)) as subscribers:
        for number, publisher in enumerate(publishers):
            mine = channels[number * len(channels) // len(publishers) :] + channels[: number * len(channels) // len(publishers)]
            publisher.prepare(PREFIX, Load(mine, seconds, WINDOW * loaded, rate))
        idle, idle_seconds = _idle(valkeys, running)
        before, clients, begun = Spent.now(valkeys, running), cpu(subscribers.pid), time.monotonic()
        for publisher in publishers:
            publisher.begin()
        published = [publisher.result() for publisher in publishers]
        count = sum(each.total for each in published)
        received = _received(subscribers, count * shape.subscribers)
        took = time.monotonic() - begun
        spent = Spent.now(valkeys, running).since(before).without(idle, took / idle_seconds)
        clients = cpu(subscribers.pid) - clients
    return {
        "publications": count / max(each.seconds for each in published),
        "deliveries": received / took,
        "missing": count * shape.subscribers - received,
        "valkey": sum(spent.valkeys) / count * 1e6,
        "valkey_least": min(spent.valkeys[:loaded]) * loaded / count * 1e6,
        "valkey_most": max(spent.valkeys[:loaded]) * loaded / count * 1e6,
        "gateways_cpu": sum(spent.gateways) / count * 1e6,
        "delivery": sum(spent.gateways) / max(received, 1) * 1e6,
        "publishers": sum(each.cpu for each in published) / count * 1e6,
        "clients": clients / max(received, 1) * 1e6,
        "idle_valkey": sum(idle.valkeys) / idle_seconds * 1e3,
        "idle_gateways": sum(idle.gateways) / idle_seconds * 1e3,
    }


def _received(subscribers: Subscribers, expected: int) -> int:
    """Waits until all publications have arrived, for ARRIVE_SECONDS at most."""
    until = time.monotonic() + ARRIVE_SECONDS
    while (received := subscribers.received()) < expected and time.monotonic() < until:
        time.sleep(0.002)
    return received


Row = tuple[int, int, str]  # shards, gateways, load


def _turns(folder: Path, seconds: float, runs: int) -> Iterator[tuple[Row, Numbers]]:
    with ExitStack() as stack:
        sides: dict[int, tuple[Valkeys, list[PublisherProcess]]] = {}
        for shards in SHARDS:
            valkeys = Valkeys(folder / f"valkey{shards}", shards)
            stack.callback(valkeys.stop)
            sides[shards] = valkeys, [stack.enter_context(PublisherProcess(valkeys.url)) for _ in range(PUBLISHERS)]
            _show(f"filling the histories of {shards} shards")
            _fill(valkeys, sides[shards][1][0])
        for turn in range(runs):
            for count in GATEWAYS:
                for shards, (valkeys, publishers) in sides.items():
                    home = folder / f"t{turn}-{shards}-{count}"
                    with gateways(home, valkeys.url, count, GATEWAY_TOML, prefix=PREFIX) as running:
                        for shape in (PUBLISH, ONE_SHARD, DELIVER) if shards > 1 else (PUBLISH, DELIVER):
                            _show(f"run {turn + 1} of {runs}: {shards} shards, {count} gateways, {shape.name}")
                            yield (shards, count, shape.name), _load(shape, valkeys, running, publishers, seconds / runs)


def _show(text: str = "") -> None:
    print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def _middle(runs: list[Numbers]) -> Numbers:
    return {name: statistics.median(each[name] for each in runs) for name in runs[0]}


def _measured(rows: dict[Row, Numbers]) -> Table:
    table = Table(title="measured: the middle of the runs", caption="CPU in µs; an idle second's is subtracted")
    for name in (
        "load",
        "shards",
        "gateways",
        "published/s",
        "delivered/s",
        "missing",
        "Valkey, a publication",
        "one shard alone",
        "gateways, a publication",
        "a delivery",
        "publishers",
        "clients, a delivery",
    ):
        table.add_column(name, justify="left" if name == "load" else "right")
    for (shards, count, name), each in _sorted(rows):
        table.add_row(
            name,
            str(shards),
            str(count),
            f"{each['publications']:,.0f}",
            f"{each['deliveries']:,.0f}",
            f"{each['missing']:,.0f}",
            f"{each['valkey']:.1f}",
            f"{each['valkey_least']:.1f}–{each['valkey_most']:.1f}",
            f"{each['gateways_cpu']:.1f}",
            f"{each['delivery']:.1f}",
            f"{each['publishers']:.1f}",
            f"{each['clients']:.1f}",
        )
    return table


def _carried(rows: dict[Row, Numbers]) -> Table:
    """What one core carries of each, if it does nothing else."""
    table = Table(title="a core by itself, a second: 1e6 / µs", caption="capacity: shards × publications of one Valkey core")
    for name in (
        "load",
        "shards",
        "gateways",
        "a Valkey core: publications",
        "all shards",
        "of one server",
        "a gateway core: publications",
    ):
        table.add_column(name, justify="left" if name == "load" else "right")
    for row, each in _sorted(rows):
        if row[2] != DELIVER.name:
            table.add_row(
                row[2],
                str(row[0]),
                str(row[1]),
                f"{1e6 / each['valkey']:,.0f}",
                f"{row[0] * 1e6 / each['valkey']:,.0f}",
                f"{each['times']:.2f} ×",
                f"{1e6 / each['gateways_cpu']:,.0f}",
            )
    return table


def _sorted(rows: dict[Row, Numbers]) -> list[tuple[Row, Numbers]]:
    order = [PUBLISH.name, ONE_SHARD.name, DELIVER.name]
    return sorted(rows.items(), key=lambda row: (order.index(row[0][2]), row[0]))


def _add_times(results: dict[Row, list[Numbers]]) -> None:
    """``times``: how many times the publications of one server the shards of a row take, by Valkey's CPU a publication.

    It compares with the one server of the same turn, with as many gateways: what else the machine did then troubled both.
    """
    for (shards, count, _), runs in results.items():
        for numbers, single in zip(runs, results[1, count, PUBLISH.name], strict=True):
            numbers["times"] = shards * single["valkey"] / numbers["valkey"]


def _ratio(results: dict[Row, list[Numbers]], shape: Shape) -> float:
    """``times`` of the largest cluster: the middle of all turns and all numbers of gateways."""
    return statistics.median(each["times"] for count in GATEWAYS for each in results[max(SHARDS), count, shape.name])


def measure(folder: Path, seconds: float, runs: int) -> dict[str, Any]:
    """``seconds`` of load for each row in all, over ``runs`` turns: ``rows``, and ``times``: what 3 shards take, in those of one."""
    results: dict[Row, list[Numbers]] = {}
    for row, numbers in _turns(folder, seconds, runs):
        results.setdefault(row, []).append(numbers)
    _show()
    _add_times(results)
    rows = {row: _middle(each) for row, each in results.items()}
    return {
        "rows": [{"shards": row[0], "gateways": row[1], "load": row[2], **numbers} for row, numbers in _sorted(rows)],
        "times": {shape.name: _ratio(results, shape) for shape in (PUBLISH, ONE_SHARD)},
    }


def show(figures: dict[str, Any]) -> None:
    rows: dict[Row, Numbers] = {(row["shards"], row["gateways"], row["load"]): row for row in figures["rows"]}
    console = Console(width=WIDTH)
    console.print(_measured(rows), _carried(rows))
    console.print(
        f"{max(SHARDS)} shards take {figures['times'][ONE_SHARD.name]:.2f} times the publications of one where each has a core of its own, and"
        f" {figures['times'][PUBLISH.name]:.2f} times by what they cost while all of them, the gateways and the publishers share the cores of this"
        " machine. These are fewer than the processes: publications/s and deliveries/s are what all reach together here. Plan with the CPU."
    )
