"""The load clients as the bench sees them: processes that carry out orders. ``load_orders`` describes the orders, ``load_process`` runs them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from ..errors import GatewayError
from . import latencies
from .load_orders import Answer, Close, Open, Order, State
from .process_usage import move

__all__ = ["LoadClient", "LoadClients", "Received", "load_clients"]

END_SECONDS = 5.0
POLL_SECONDS = 0.02


class LoadClient:
    """One process. ``begin`` sends an order, ``answer`` waits until it is carried out; several may work at once."""

    def __init__(self, cores: set[int]) -> None:
        command = [sys.executable, "-m", "gateway.bench.load_process"]
        # In a session of its own: a Ctrl-C in the terminal is the bench's, which ends it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        if cores:
            move(self._process.pid, cores)

    def begin(self, order: Order) -> None:
        """Raises GatewayError if the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _ended(self) -> GatewayError:
        return GatewayError(f"a load client ended by itself, with status {self._process.wait()}")

    def answer(self) -> Answer:
        """Raises GatewayError if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=Answer)

    def carry_out(self, order: Order) -> Answer:
        self.begin(order)
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it ended before it read the last order
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Received(NamedTuple):
    """What the subscribers of a server received since the last look: publications, and their latencies as counts of ``latencies.BOUNDS``.

    ``cpu`` is what each process has taken so far, in seconds, the publisher's last.
    """

    publications: int
    latencies: list[int]
    cpu: tuple[float, ...]


class LoadClients:
    """``subscribers`` share the connections; ``publisher`` is a process of its own."""

    def __init__(self, subscribers: Sequence[LoadClient], publisher: LoadClient) -> None:
        self.publisher = publisher
        self._subscribers = subscribers

    def open(self, order: Open) -> Answer:
        """Opens the connections, spread over all processes. Raises GatewayError if one fails."""
        clients = self._subscribers
        for number, client in enumerate(clients):
            client.begin(_share(order, number, len(clients)))
        answers = [answer.checked() for answer in [client.answer() for client in clients]]
        length = max(len(answer.line) for answer in answers)
        lines = [answer.line + answer.line[-1:] * (length - len(answer.line)) for answer in answers]
        return Answer(
            seconds=max(answer.seconds for answer in answers),
            received=sum(answer.received for answer in answers),
            line=[sum(together) for together in zip(*lines, strict=True)],
        )

    def close(self, server: str, group: str) -> None:
        for client in self._subscribers:
            client.begin(Close(server, group))
        for client in self._subscribers:
            client.answer()

    def look(self, server: str) -> Received:
        """What the subscribers of a server received. Raises GatewayError if a subscriber lost its connection."""
        clients = [*self._subscribers, self.publisher]
        for client in clients:
            client.begin(State(server))
        answers = [answer.checked() for answer in [client.answer() for client in clients]]
        counts = list[int]()
        for answer in answers:
            counts = latencies.add(counts, answer.latencies)
        return Received(sum(answer.received for answer in answers), counts, tuple(answer.cpu for answer in answers))

    def wait_for(self, server: str, publications: int, seconds: float) -> Received:
        """Waits until so many have been received since the last look, for up to ``seconds``."""
        until, total = time.monotonic() + seconds, self.look(server)
        while total.publications < publications and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            more = self.look(server)
            total = Received(total.publications + more.publications, latencies.add(total.latencies, more.latencies), more.cpu)
        return total


def _share(order: Open, number: int, of: int) -> Open:
    """What one of ``of`` processes opens: a part of the clients, each with a message of its own where there are as many messages."""

    def part(total: int) -> int:
        return total * (number + 1) // of - total * number // of

    first, count = order.count * number // of, part(order.count)
    messages = order.messages[first : first + count] if len(order.messages) == order.count else order.messages
    at_once = max(1, order.at_once // of)
    deliveries = order.deliveries * count // order.count if order.count else 0
    return msgspec.structs.replace(order, count=count, messages=messages, at_once=at_once, timed=part(order.timed), deliveries=deliveries)


@contextmanager
def load_clients(processes: int, cores: set[int]) -> Iterator[LoadClients]:
    """So many processes of subscribers and one publisher, on these cores (none: any); they end with the block."""
    started = list[LoadClient]()
    try:
        while len(started) <= processes:
            started.append(LoadClient(cores))
        yield LoadClients(started[:-1], started[-1])
    finally:
        for client in started:
            client.end()
