"""What a live publication waits for while a crowd comes, and while it goes: ``python -m tests.benchmark_crowds [CLIENTS]``.

200 subscribers follow one channel, whose publications come over HTTP, 100 a second. Then a crowd connects to the same process, each client
with a token, a subscription and presence, and vanishes: by the end of its process (FIN), and by resets (RST). The gateway has one core to
itself; Valkey, publisher, subscribers and crowd share the others, which on a machine with two makes the latencies longer than they are.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from gateway.bench.latencies import percentile
from gateway.bench.load_clients import LoadClient
from gateway.bench.load_orders import Close, Open, Pace, State
from gateway.bench.measured_server import MeasuredServer, start_gateway
from tests.benchmark_cluster.subscribers import Client, Subscribers

CROWD = 5000
SUBSCRIBERS = 200
RATE = 100.0
SECONDS = 0.5  # less than a crowd needs to connect
SETTLE_SECONDS = 1.0


def opening(server: MeasuredServer, group: str, count: int, timed: int = 0) -> Open:
    clients = [server.addressing.client(group, user=f"{group}{number}") for number in range(count)]
    return Open(
        server=server.name,
        group=group,
        port=server.port,
        path=clients[0].path,
        messages=[client.message for client in clients],
        ready=clients[0].ready,
        count=count,
        at_once=200,
        timed=timed,
    )


class Live:
    """The subscribers, and their publisher."""

    def __init__(self, server: MeasuredServer, subscribers: LoadClient, publisher: LoadClient) -> None:
        self._server = server
        self._subscribers = subscribers
        self._publisher = publisher
        subscribers.carry_out(opening(server, "live", SUBSCRIBERS, SUBSCRIBERS)).checked()

    def measure(self, what: str, work: Callable[[], object]) -> None:
        """Publishes while ``work`` is under way, and prints how long the publications took."""
        self._subscribers.carry_out(State(self._server.name))
        request = self._server.addressing.publish(["live"])
        self._publisher.begin(Pace(port=self._server.port, request=request, connections=8, rate=RATE, seconds=SECONDS))
        work()
        done = self._publisher.answer().checked().done
        time.sleep(SETTLE_SECONDS)
        found = self._subscribers.carry_out(State(self._server.name)).checked()
        assert found.received == done * SUBSCRIBERS, f"{found.received} received of {done} x {SUBSCRIBERS}"
        p50, p99, longest = (percentile(found.latencies, share) / 1000 for share in (0.5, 0.99, 1))
        print(f"{what:32} p50 {p50:6.1f}  p99 {p99:6.1f}  longest {longest:6.1f} ms", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CROWD
    cores = sorted(os.sched_getaffinity(0))
    own, shared = (set(cores[:1]), set(cores[1:])) if len(cores) > 1 else (set[int](), set[int]())
    with ExitStack() as stack:
        server = start_gateway(1, "", own)
        stack.callback(server.end)
        server.place_valkey(shared)

        def client() -> LoadClient:
            started = LoadClient(shared)
            stack.callback(started.end)
            return started

        live, others = Live(server, client(), client()), client()
        live.measure("nobody else comes", lambda: None)
        live.measure(f"{count:,} clients connect", lambda: others.carry_out(opening(server, "crowd", count)).checked())
        live.measure("they are reset together", lambda: others.carry_out(Close(server.name, "crowd")))
        order = opening(server, "crowd", count)
        with Subscribers([Client(server.port, message, order.ready) for message in order.messages]) as crowd:
            live.measure("their process ends", lambda: crowd.__exit__())


if __name__ == "__main__":
    main()
