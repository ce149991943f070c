"""Publishers of a load client: HTTP requests over connections that are kept."""

from __future__ import annotations

import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle

from .load_orders import DIGITS, MARK, STAMP, Answer, Pace, Request
from .ready_sockets import ReadySockets

__all__ = ["request_at_once", "request_in_time"]

READ = 1 << 18
CONNECT_SECONDS = 10.0
LAST_SECONDS = 10.0  # for the answers that are under way at the end
REASON_BYTES = 200
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


def _stamped(request: bytes, due: float) -> bytes:
    """The request, with the time at which it was due in each of its publications."""
    return request.replace(STAMP, MARK + b"%0*d" % (DIGITS, due * 1e6))


def _end_of_answer(data: bytes) -> int:
    """Where the first answer in ``data`` ends; 0 if it is not whole."""
    head = data.find(b"\r\n\r\n") + 4
    if head < 4:
        return 0
    if length := _LENGTH.search(data, 0, head):
        end = head + int(length[1])
        return end if len(data) >= end else 0
    if _CHUNKED.search(data, 0, head):
        return data.find(b"\r\n0\r\n\r\n", head - 2) + 7 if b"\r\n0\r\n\r\n" in data[head - 2 :] else 0
    return head


class _Connection:
    """One kept connection, with one request at a time. ``free`` is called when an answer is whole."""

    def __init__(self, publishers: _Publishers, port: int) -> None:
        self._publishers = publishers
        self._socket = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        publishers.ready.add(self._socket.fileno(), self._read)

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def close(self) -> None:
        self._publishers.ready.remove(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        data = self._socket.recv(READ)
        if not data:
            raise ConnectionError("the server closed a publisher's connection")
        self._data += data
        if _end_of_answer(self._data):
            answer, self._data = self._data, b""
            self._publishers.answered(self, answer)


class _Publishers:
    """The connections of one order; ``next_of`` gives a connection that is free its next request, or None."""

    def __init__(self, port: int, connections: int, next_of: Callable[[], bytes | None]) -> None:
        self.ready = ReadySockets()
        self.done = self.refused = 0
        self.refusal = ""
        self.connections = [_Connection(self, port) for _ in range(connections)]
        self.free = deque(self.connections)
        self._next_of = next_of

    def send(self) -> None:
        """As many requests as there are, and free connections for them."""
        while self.free and (request := self._next_of()) is not None:
            self.free.popleft().send(request)

    def answered(self, connection: _Connection, answer: bytes) -> None:
        self.free.append(connection)
        self.done += 1
        if not answer.startswith(b"HTTP/1.1 2") or b'"error"' in answer:
            self.refused += 1
            self.refusal = self.refusal or answer[-REASON_BYTES:].decode(errors="replace")

    def finish(self) -> None:
        """Waits for the answers that are under way."""
        until = time.monotonic() + LAST_SECONDS
        while len(self.free) < len(self.connections) and time.monotonic() < until:
            self.ready.turn(0.1)

    def answer(self, seconds: float) -> Answer:
        failure = f"a publication was refused: {self.refusal}" if self.refused else ""
        return Answer(failure=failure, seconds=seconds, done=self.done, refused=self.refused)


@contextmanager
def _publishers(port: int, connections: int, next_of: Callable[[], bytes | None]) -> Iterator[_Publishers]:
    publishers = _Publishers(port, connections, next_of)
    try:
        yield publishers
    finally:
        for connection in publishers.connections:
            connection.close()
        publishers.ready.close()


def _encoded(requests: Sequence[str]) -> list[bytes]:
    return [request.encode() for request in requests]


def request_at_once(order: Request) -> Answer:
    """A closed loop: each answer brings the next request. In no time at all, each connection sends one."""
    requests, began = cycle(_encoded(order.requests)), time.monotonic()
    with _publishers(order.port, order.connections, lambda: _stamped(next(requests), time.monotonic())) as publishers:
        publishers.send()
        while (now := time.monotonic()) < began + order.seconds:
            publishers.ready.turn(began + order.seconds - now)
            publishers.send()
        publishers.finish()
        return publishers.answer(time.monotonic() - began)


def request_in_time(order: Pace) -> Answer:
    """An open loop: requests are due at fixed times, however long answers take, and are stamped with the time at which they were due."""
    request, numbers, waiting = order.request.encode(), count(1), deque[float]()
    began = time.monotonic()

    def next_of() -> bytes | None:
        return _stamped(request, waiting.popleft()) if waiting else None

    with _publishers(order.port, order.connections, next_of) as publishers:
        due = began
        while (now := time.monotonic()) < began + order.seconds:
            while due <= now:
                waiting.append(due)
                due = began + next(numbers) / order.rate
            publishers.send()
            publishers.ready.turn(max(0.0, min(due, began + order.seconds) - now))
        publishers.finish()
        return publishers.answer(time.monotonic() - began)
