"""Subscribers of a load client: WebSockets whose publications are counted by MARK in the bytes that arrive."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from ..runtime.histogram import Histogram
from .latencies import BOUNDS, add
from .load_orders import DIGITS, MARK, SAMPLE_SECONDS, Answer, Close, Open, State
from .ready_sockets import ReadySockets

__all__ = ["Sockets"]

CONNECT_SECONDS = 10.0
BUFFER = bytearray(1 << 18)  # for all sockets, since what is read is counted at once; it begins with the last TAIL bytes of the read before
TAIL = len(MARK) - 1
READ = memoryview(BUFFER)[TAIL:]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, so no port is left in TIME_WAIT
UPGRADE = (
    "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _frame(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros: RFC 6455, 5.2."""
    length = len(payload)
    head = bytes([0x81, 0x80 | length]) if length < 126 else b"\x81\xfe" + length.to_bytes(2)
    return head + b"\0\0\0\0" + payload


class _Group:
    """The connections of one order."""

    def __init__(self, order: Open, ready: ReadySockets) -> None:
        self.order = order
        self.sockets = ready
        self.latencies = Histogram(BOUNDS)
        self.upgrade = (UPGRADE % order.path).encode()
        self.ready_text = order.ready.encode()
        self.frames = [_frame(message.encode()) for message in order.messages]
        self.connections: list[_Connection] = []
        self.ready = 0
        self.received = 0
        self.failure = ""

    def open_more(self) -> None:
        order = self.order
        while len(self.connections) < order.count and len(self.connections) - self.ready < order.at_once and not self.failure:
            self.connections.append(_Connection(self, len(self.connections)))

    def is_timed(self, number: int) -> bool:
        """Whether client ``number`` is one of those that measure latencies."""
        timed, count = self.order.timed, self.order.count
        return number * timed // count != (number + 1) * timed // count

    @property
    def is_complete(self) -> bool:
        return self.ready == self.order.count and self.received >= self.order.deliveries

    @property
    def unready(self) -> str:
        """What it lacks when its time is over."""
        return (
            f"{self.ready} of {self.order.count} subscribers were ready after {self.order.seconds:g} s, with {self.received} publications"
        )

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.connections = []


class _Connection:
    """One WebSocket."""

    __slots__ = ("_greeting", "_group", "_number", "_receive", "_socket", "_tail", "_upgraded")

    def __init__(self, group: _Group, number: int) -> None:
        self._group = group
        self._number = number
        self._greeting = b""
        self._tail: bytes | bytearray = bytes(TAIL)
        self._upgraded = False
        self._socket = socket.create_connection(("127.0.0.1", group.order.port), CONNECT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.sendall(group.upgrade)
        self._socket.setblocking(False)
        self._receive: Callable[[memoryview], int] = self._socket.recv_into
        group.sockets.add(self._socket.fileno(), self._greet)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._group.sockets.remove(self._socket.fileno())
            self._socket.close()

    def _read(self) -> int:
        """Where what came ends in BUFFER, in which it begins at TAIL; 0 if nothing came. A connection that is lost is the group's failure."""
        try:
            size = self._receive(READ)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._fail(str(error))
            return 0
        if not size:
            self._fail("the server closed it")
            return 0
        BUFFER[:TAIL] = self._tail
        self._tail = BUFFER[size : size + TAIL]
        return size + TAIL

    def _fail(self, reason: str) -> None:
        self._group.failure = self._group.failure or f"a subscriber lost its connection: {reason}"
        self.close()

    def _greet(self) -> None:
        end, group = self._read(), self._group
        if not end:
            return
        group.received += BUFFER.count(MARK, 0, end)
        self._greeting += BUFFER[TAIL:end]
        if not self._upgraded and b"\r\n\r\n" in self._greeting:
            self._upgrade()
        if b'"error"' in self._greeting:
            self._fail(f"the server refused it: {self._greeting[-200:]!r}")
        elif self._upgraded and group.ready_text in self._greeting:
            self._greeting = b""
            group.ready += 1
            group.sockets.change(self._socket.fileno(), self._time if group.is_timed(self._number) else self._count)

    def _upgrade(self) -> None:
        if b" 101 " not in self._greeting.partition(b"\r\n")[0]:
            self._fail(f"the server refused it: {self._greeting[:100]!r}")
            return
        self._upgraded = True
        if frames := self._group.frames:
            self._socket.sendall(frames[self._number % len(frames)])

    def _count(self) -> None:
        """Reads, once it is ready. This is nearly all that a load client does."""
        self._group.received += BUFFER.count(MARK, 0, self._read())

    def _time(self) -> None:
        """``_count``, and the latency of each publication. One whose time is not whole in these bytes is counted only."""
        end = self._read()
        now, at = time.monotonic() * 1e6, BUFFER.find(MARK, 0, end)
        while at >= 0:
            self._group.received += 1
            at += len(MARK)
            if at + DIGITS <= end:
                self._group.latencies.add(now - int(BUFFER[at : at + DIGITS]))
            at = BUFFER.find(MARK, at, end)


class Sockets:
    """All groups of a process."""

    def __init__(self, ready: ReadySockets) -> None:
        self._ready = ready
        self._groups: dict[tuple[str, str], _Group] = {}

    def open(self, order: Open) -> Answer:
        group = self._groups[order.server, order.group] = _Group(order, self._ready)
        began, line = time.monotonic(), list[int]()
        while not group.is_complete and not group.failure:
            group.open_more()
            self._ready.turn(SAMPLE_SECONDS)
            passed = time.monotonic() - began
            while len(line) < int(passed / SAMPLE_SECONDS):
                line.append(group.received)
            if passed > order.seconds:
                group.failure = group.unready
        if group.failure:
            group.close()
        received, group.received = group.received, 0
        return Answer(failure=group.failure, seconds=time.monotonic() - began, received=received, line=[*line, received])

    def close(self, order: Close) -> Answer:
        if group := self._groups.pop((order.server, order.group), None):
            group.close()
        return Answer()

    def state(self, order: State) -> Answer:
        answer = Answer(cpu=time.process_time())
        for (server, _), group in self._groups.items():
            if server == order.server:
                answer.failure = answer.failure or group.failure
                answer.received += group.received
                answer.latencies = add(answer.latencies, group.latencies.counts)
                group.received, group.latencies = 0, Histogram(BOUNDS)
        return answer
