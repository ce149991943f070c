"""What a part of the bench works with: one measured server, the load clients, and how much is to be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Literal, NamedTuple

from ..publication import Position
from .findings import Findings
from .load_clients import LoadClients
from .load_orders import Answer, Call, Open, Pace, Request, document
from .measured_server import MeasuredServer
from .process_usage import MEASURED
from .report import Part

__all__ = ["MICRO", "RUNS", "Effort", "Runs", "Stage", "Use"]

RUNS = 3  # of each figure, at least: what differs between them is noise
LAST_SECONDS = 3.0  # for publications that are under way when the publishers end
SETTLE_SECONDS = 3.0
QUIET_SHARE = 0.1  # of a core, below which a server has nothing left to do
LOOK_SECONDS = 0.05
MICRO = 1e6
FEWEST = 10  # connections of a short run


Runs = Generator[None, None, None]  # a part under way: it yields after each run


class Effort(NamedTuple):
    """``scale`` 1 is the default length. A longer run measures longer; a shorter one also opens fewer connections."""

    scale: float

    def seconds(self, usual: float) -> float:
        return usual * self.scale

    def count(self, usual: int) -> int:
        """Of connections; two digits are left, as in 1,500 and 330."""
        return max(FEWEST, int(float(f"{usual * min(1.0, self.scale):.2g}")))


class Use(NamedTuple):
    """What happened during a piece of work: CPU in seconds, ``load_client`` the share of a core that the busiest load client used."""

    answer: Answer
    seconds: float
    server: float
    valkey: float
    reads: int
    load_client: float
    received: int
    latencies: Sequence[int]


class Stage:
    """``part`` is the one that is on, ``note`` shows people what is measured now."""

    def __init__(
        self, part: Part, server: MeasuredServer, clients: LoadClients, findings: Findings, effort: Effort, note: Callable[[str], None]
    ) -> None:
        self.part: Part = part
        self.server = server
        self.clients = clients
        self.findings = findings
        self.effort = effort
        self.note = note

    @property
    def has_valkey(self) -> bool:
        return bool(self.server.valkey_url)

    # Work that is measured.

    def measure(self, work: Callable[[], Answer], expected: Callable[[Answer], int] = lambda answer: 0, *, valkey: bool = False) -> Use:
        """Does ``work``, and waits until as many publications as ``expected(answer)`` were received. Raises GatewayError if it fails.

        ``valkey``: what the server's Valkey does is measured too.
        """
        asked = valkey and self.has_valkey
        first = self.server.valkey() if asked else None
        before, cpu, began = self.clients.look(self.server.name), self.server.cpu(), time.monotonic()
        answer = work()
        wanted = expected(answer)
        after = self.clients.wait_for(self.server.name, wanted, LAST_SECONDS)
        seconds, used = time.monotonic() - began, self.server.cpu() - cpu
        last = self.server.valkey() if asked else None
        self.findings.deliveries(self.part, self.server.name, wanted, wanted - after.publications)
        return Use(
            answer,
            seconds,
            used,
            last.cpu - first.cpu if first and last else 0.0,
            last.reads - first.reads if first and last else 0,
            max(b - a for a, b in zip(before.cpu, after.cpu, strict=True)) / seconds,
            after.publications,
            after.latencies,
        )

    def publish_at_once(self, channels: Sequence[Sequence[str]], connections: int, seconds: float) -> Callable[[], Answer]:
        """Publishes as fast as the server answers, one request after the other to each of these lists of channels."""
        requests = [self.server.addressing.publish(each) for each in channels]
        order = Request(port=self.server.port, requests=requests, connections=connections, seconds=seconds)
        return lambda: self.clients.publisher.carry_out(order).checked()

    def publish_in_time(self, channel: str, rate: float, seconds: float) -> Callable[[], Answer]:
        """``rate`` publications a second, each in a request of its own."""
        request = self.server.addressing.publish([channel])
        order = Pace(port=self.server.port, request=request, connections=32, rate=rate, seconds=seconds)
        return lambda: self.clients.publisher.carry_out(order).checked()

    def publish_by_calls(self, channel: str, window: int, seconds: float) -> Callable[[], Answer]:
        """By FCALL, ``window`` on the way at a time."""
        server = self.server
        order = Call(url=server.valkey_url, prefix=server.prefix, channel=channel, data=document(), window=window, seconds=seconds)
        return lambda: self.clients.publisher.carry_out(order).checked()

    # Subscribers.

    def open(
        self,
        group: str,
        channels: Sequence[str],
        count: int,
        *,
        users: bool = False,
        own: bool = False,
        since: Position | None = None,
        timed: int = 0,
        at_once: int = 64,
        deliveries: int = 0,
    ) -> Callable[[], Answer]:
        """Opens ``count`` clients, of which number n subscribes to ``channels[n % len(channels)]``; "" is for none.

        ``users``: each has a token of its own, ``own``: which subscribes it to a channel of its own."""
        names = [f"{group}{number}" if users else "" for number in range(count if users else len(channels))]
        addressing = self.server.addressing
        clients = [
            addressing.client(channels[number % len(channels)], user=name, own=own, since=since) for number, name in enumerate(names)
        ]
        order = Open(
            server=self.server.name,
            group=group,
            port=self.server.port,
            path=clients[0].path,
            messages=[client.message for client in clients] if clients[0].message else [],
            ready=clients[0].ready,
            count=count,
            at_once=at_once,
            timed=timed,
            deliveries=deliveries,
        )
        return lambda: self.clients.open(order)

    def close(self, group: str) -> None:
        """Closes the clients of a group, and waits until the server has taken note."""
        self.clients.close(self.server.name, group)
        self.settle()

    def settle(self) -> None:
        """Waits until the server does nothing any more; where that cannot be seen, for a moment."""
        until, cpu = time.monotonic() + SETTLE_SECONDS, self.server.cpu()
        while time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            now = self.server.cpu()
            if now - cpu < QUIET_SHARE * LOOK_SECONDS:
                return
            cpu = now

    # What was found.

    def figure(self, name: str, unit: str, value: float, use: Use | None = None, *, better: Literal["less", "more"] = "less") -> None:
        share = use.load_client if use else None
        self.findings.figure(self.part, name, unit, self.server.name, value, better=better, load_client=share)

    def cost(self, name: str, use: Use, of: int) -> float | None:
        """The server's CPU, in µs, for each of the ``of`` things that were done. None where that cannot be measured."""
        if not MEASURED or not of:
            return None
        micros = use.server / of * MICRO
        self.figure(name, "µs", micros, use)
        return micros
