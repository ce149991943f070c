"""Clients without a library, all in one process and one thread, so that they take little CPU beside what is measured.

They write one request and one WebSocket message each, answer pings, and count publications by MARK in the bytes that they read.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, Self

from tests.kit.clients import frame
from tests.kit.forks import start

__all__ = ["MARK", "Client", "Subscribers"]

MARK = b'"mark":'  # is in the data of each publication, once
PING, PONG = b"\x81\x02{}", frame(b"{}")
CLOSE, CLOSED = b"\x88", frame(opcode=8)
READ = 1 << 18
AT_ONCE = 64  # clients that connect at the same time
CLIENTS_PER_HOST = 20_000  # of 127.0.0.x: there are not more ports
UPGRADE = (
    "GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client(NamedTuple):
    """Where it connects, and its WebSocket message; ``path``: that of an event stream instead. It is ready once ``ready`` was received.

    ``may_end``: the server may end its connection, as it does when it drains; the client does not come back.
    """

    port: int
    message: str
    ready: str
    path: str = ""
    may_end: bool = False


class _Socket:
    """One client's connection."""

    def __init__(self, client: Client, host: str) -> None:
        self.client = client
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when it connects
        self.socket.bind((host, 0))
        self.socket.connect(("127.0.0.1", client.port))
        request = f"GET {client.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n" if client.path else UPGRADE
        self.socket.sendall(request.encode())
        self.socket.setblocking(False)
        self.greeting = b""
        self.upgraded = bool(client.path)
        self.ready = False
        self.ended = False
        self.tail = b""

    def read(self) -> int:
        """Takes what arrived. Returns how many publications it holds."""
        data = self.socket.recv(READ)
        if not data:
            self._end()
            return 0
        if not self.ready:
            self._greet(data)
        elif data.endswith(PING):
            self.socket.send(PONG)
        elif data.startswith(CLOSE) and self.client.may_end:
            self.socket.send(CLOSED)
        count = (self.tail + data).count(MARK)
        self.tail = data[1 - len(MARK) :]
        return count

    def _end(self) -> None:
        if not self.client.may_end:
            raise SystemExit(f"a client was disconnected: {self.greeting[-300:]!r}")
        self.socket.close()
        self.ended = True

    def _greet(self, data: bytes) -> None:
        self.greeting += data
        if not self.upgraded and b"\r\n\r\n" in self.greeting:
            if b" 101 " not in self.greeting:
                raise SystemExit(f"a client was refused: {self.greeting!r}")
            self.upgraded = True
            self.socket.send(frame(self.client.message.encode()))
        if b'"error"' in self.greeting:
            raise SystemExit(f"a client was refused: {self.greeting!r}")
        self.ready = self.client.ready.encode() in self.greeting


def _run(clients: Sequence[Client], parent: Connection) -> None:
    poll, sockets, count, ready = select.epoll(), dict[int, _Socket](), 0, 0
    poll.register(parent.fileno(), select.EPOLLIN)
    opened = 0
    while True:
        while opened < len(clients) and opened - ready < AT_ONCE:
            each = _Socket(clients[opened], f"127.0.0.{2 + opened // CLIENTS_PER_HOST}")
            sockets[each.socket.fileno()] = each
            poll.register(each.socket.fileno(), select.EPOLLIN)
            opened += 1
        for number, _ in poll.poll():
            if number == parent.fileno():
                parent.recv()
                parent.send(count)
                continue
            each = sockets[number]
            was_ready = each.ready
            count += each.read()
            if each.ended:
                del sockets[number]
            if each.ready and not was_ready:
                each.greeting = b""
                ready += 1
                if ready == len(clients):
                    parent.send("ready")


class Subscribers:
    """Starts the clients; inside ``with`` all of them are ready."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._pipe, theirs = Pipe()
        self._process = start(_run, clients, theirs)
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def received(self) -> int:
        """Publications that all clients have received so far."""
        self._pipe.send("count")
        count: int = self._pipe.recv()
        return count

    def __enter__(self) -> Self:
        try:
            self._pipe.recv()
        except EOFError:
            raise SystemExit("the subscribers did not connect") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
