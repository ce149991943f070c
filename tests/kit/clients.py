"""Raw clients of the tests: they send what a library would not, and show what arrived, byte by byte.

Wire      the protocol over the `websockets` library: commands out, objects in
Socket    a TCP connection: HTTP requests and WebSocket frames made by hand
Stream    a server-sent event stream, with every byte that came
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from .waiting import PATIENCE, eventually

NONE: Mapping[str, str] = {}
SECONDS = PATIENCE  # how long a test waits for what should come at once
LOST = (OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)  # how a connection fails or ends


def frame(payload: bytes = b"", opcode: int = 1, *, fin: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """A client's WebSocket frame, well-formed or not. Source: RFC 6455, 5.2."""
    head = bytes([(0x80 if fin else 0) | bits | opcode])
    mask_bit = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        head += bytes([mask_bit | length])
    elif length < 65536:
        head += bytes([mask_bit | 126]) + length.to_bytes(2)
    else:
        head += bytes([mask_bit | 127]) + length.to_bytes(8)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    key = (mask * (length // 4 + 1))[:length]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(length)


def lines(*commands: Any) -> str:
    return "\n".join(command if isinstance(command, str) else json.dumps(command) for command in commands)


# The protocol over a library.


class Wire:
    """One WebSocket connection. ``ask`` sends a command and returns its reply; what came before it waits for ``next``."""

    def __init__(self, connection: ClientConnection, *, pongs: bool = True) -> None:
        self.connection = connection
        self.pongs = pongs
        self.frames = 0
        self.connected: dict[str, Any] = {}  # the reply to connect
        self._id = 0
        self._objects: deque[dict[str, Any]] = deque()
        self._passed: deque[dict[str, Any]] = deque()

    async def send(self, *commands: Any) -> None:
        """All of them in one frame."""
        await self.connection.send(lines(*commands))

    async def _receive(self, seconds: float) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while True:
                while not self._objects:
                    message = await self.connection.recv()
                    assert isinstance(message, str), "JSON goes out in text frames"
                    assert message, "an empty frame"
                    self.frames += 1
                    self._objects.extend(json.loads(line) for line in message.removesuffix("\n").split("\n"))
                found = self._objects.popleft()
                if found != {} or not self.pongs:
                    return found
                await self.connection.send("{}")

    async def next(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next object that is not a ping; pings are answered, unless ``pongs`` is off."""
        return self._passed.popleft() if self._passed else await self._receive(seconds)

    async def ask(self, method: str, /, *, seconds: float = SECONDS, **request: Any) -> dict[str, Any]:
        self._id += 1
        number = 1000 + self._id
        await self.send({"id": number, method: request})
        while True:
            answer = await self._receive(seconds)
            if answer.get("id") == number:
                return answer
            self._passed.append(answer)

    async def result(self, method: str, /, **request: Any) -> dict[str, Any]:
        answer = await self.ask(method, **request)
        assert method in answer, answer
        return answer[method]

    async def error(self, method: str, /, **request: Any) -> int:
        answer = await self.ask(method, **request)
        assert "error" in answer, answer
        return answer["error"]["code"]

    async def publication(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next push, which is a publication; with its channel."""
        message = await self.next(seconds)
        assert "pub" in message.get("push", {}), message
        return message["push"]["pub"] | {"channel": message["push"]["channel"]}

    async def publications(self, count: int) -> list[dict[str, Any]]:
        return [await self.publication() for _ in range(count)]

    async def ended(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Reads to the close frame; its code and reason. What came before waits for ``next``."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._passed.append(await self._receive(seconds))
        close = self.connection.protocol.close_rcvd
        assert close is not None, "the connection ended without a close frame"
        return close.code, close.reason

    @property
    def rest(self) -> list[dict[str, Any]]:
        """What ``ended`` read on its way."""
        return list(self._passed)


@contextlib.asynccontextmanager
async def opened(gateway: Any, *, query: str = "", pongs: bool = True, **options: Any) -> AsyncIterator[Wire]:
    """A WebSocket connection on which nothing was said yet."""
    options = {"compression": None, "ping_interval": None, "max_size": None, "open_timeout": 10, "proxy": None} | options
    async with connect(gateway.websocket_url + query, **options) as connection:
        yield Wire(connection, pongs=pongs)


@contextlib.asynccontextmanager
async def client(gateway: Any, user: str = "u1", *, token: str | None = None, subscribe: str = "", **options: Any) -> AsyncIterator[Wire]:
    """A connected client; ``token`` "" connects without one. ``subscribe`` names a channel that it follows."""
    async with opened(gateway, **options) as wire:
        given = gateway.token(user) if token is None else token
        wire.connected = await wire.result("connect", **({"token": given} if given else {}))
        if subscribe:
            await wire.result("subscribe", channel=subscribe)
        yield wire


async def until_counted(wire: Wire, channel: str, clients: int) -> None:
    """Presence is written a moment after a client came or went."""

    async def counted() -> bool:
        return (await wire.result("presence_stats", channel=channel))["num_clients"] == clients

    await eventually(counted, f"{clients} clients in {channel}")


# By hand.


class Socket:
    """One TCP connection. ``small``: with the least receive buffer, so that a server soon notices who does not read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, gateway: Any, *, small: bool = False) -> Self:
        plain = socket.socket()
        if small:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", gateway.port))
        # asyncio reads ahead up to twice the limit, and then the kernel's buffers fill.
        return cls(*await asyncio.open_connection(sock=plain, limit=4096 if small else 2**24))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] = NONE, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """One whole request and its answer, on a connection that may be used again."""
        if body:
            headers = {**headers, "Content-Length": str(len(body))}
        await self.send(_head(method, path, headers) + body)
        return await self.answer()

    async def answer(self, seconds: float = SECONDS) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(seconds):
            status, headers = await self.head()
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, body

    async def head(self) -> tuple[int, dict[str, str]]:
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in text[1:] if line]
        return int(text[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def upgrade(self, path: str = "/connection/websocket", headers: Mapping[str, str] = NONE) -> int:
        """Shakes hands; returns the status."""
        asked = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        await self.send(_head("GET", path, asked | dict(headers)))
        async with asyncio.timeout(SECONDS):
            return (await self.head())[0]

    async def say(self, *commands: Any) -> None:
        await self.send(frame(lines(*commands).encode()))

    async def read_frame(self, seconds: float = SECONDS) -> tuple[int, bytes]:
        """Opcode and payload. Raises IncompleteReadError at the end."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readexactly(2)
            assert head[0] & 0x80 and not head[1] & 0x80, "a server's frames are whole and not masked"
            length = head[1]
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2))
            elif length == 127:
                length = int.from_bytes(await self.reader.readexactly(8))
            return head[0] & 0x0F, await self.reader.readexactly(length)

    async def read_object(self, seconds: float = SECONDS) -> dict[str, Any]:
        opcode, payload = await self.read_frame(seconds)
        assert opcode == 1, (opcode, payload)
        return json.loads(payload)

    async def read_to_close(self, seconds: float = SECONDS) -> tuple[int, str, list[dict[str, Any]]]:
        """Everything up to the close frame: its code, its reason, and the objects before it."""
        objects: list[dict[str, Any]] = []
        async with asyncio.timeout(seconds):
            while True:
                opcode, payload = await self.read_frame(seconds)
                if opcode == 8:
                    return int.from_bytes(payload[:2]), payload[2:].decode(), objects
                if opcode == 1:
                    objects += [json.loads(line) for line in payload.split(b"\n")]

    async def rest(self, seconds: float = SECONDS) -> bytes:
        """Everything up to the end of the connection, however it ends."""
        parts: list[bytes] = []
        async with asyncio.timeout(seconds):
            with contextlib.suppress(OSError):
                while part := await self.reader.read(2**16):
                    parts.append(part)
        return b"".join(parts)


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    listed = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": "gateway.test"} | dict(headers)).items())
    return f"{method} {path} HTTP/1.1\r\n{listed}\r\n".encode()


async def connected_socket(gateway: Any, *channels: str, user: str = "u1", small: bool = False) -> Socket:
    """A WebSocket by hand, connected and subscribed."""
    raw = await Socket.open(gateway, small=small)
    assert await raw.upgrade() == 101
    await raw.say({"id": 1, "connect": {"token": gateway.token(user)}})
    assert "connect" in await raw.read_object()
    for number, channel in enumerate(channels, 2):
        await raw.say({"id": number, "subscribe": {"channel": channel}})
        answer = await raw.read_object()
        assert "subscribe" in answer, answer
    return raw


# Event streams.


@dataclass
class Event:
    """``id`` is the stream's last id when it was dispatched, as a browser has it."""

    name: str
    data: Any
    id: str
    had_id: bool


@dataclass
class Reading:
    """What a browser makes of a body: complete events only."""

    events: list[Event] = field(default_factory=list)
    last_id: str = ""
    retry: list[int] = field(default_factory=list)
    comments: int = 0


def read_events(body: bytes) -> Reading:
    """An event is complete with the blank line after it. Source: the HTML standard, 9.2.6."""
    reading = Reading()
    name, data, mark, had_id = "", None, "", False
    for line in body.split(b"\n")[:-1]:
        kind, _, value = line.decode().partition(":")
        value = value.removeprefix(" ")
        if not line:
            if had_id:
                reading.last_id = mark
            if data is not None:
                reading.events.append(Event(name or "message", json.loads(data), reading.last_id, had_id))
            name, data, had_id = "", None, False
        elif not kind:
            reading.comments += 1
        elif kind == "id":
            mark, had_id = value, True
        elif kind == "event":
            name = value
        elif kind == "data":
            data = value if data is None else f"{data}\n{value}"
        elif kind == "retry":
            reading.retry.append(int(value))
        else:
            raise AssertionError(f"a line that is no field: {line!r}")
    return reading


class Stream:
    """An open event stream. ``body`` is all that came so far, without HTTP's chunks; ``events`` what a browser makes of it."""

    def __init__(self, raw: Socket, status: int, headers: dict[str, str]) -> None:
        self.raw = raw
        self.status = status
        self.headers = headers
        self.body = bytearray()
        self.over = False
        self._taken = 0

    @property
    def reading(self) -> Reading:
        return read_events(bytes(self.body))

    @property
    def last_id(self) -> str:
        return self.reading.last_id

    async def _chunk(self) -> None:
        size = int((await self.raw.reader.readuntil(b"\r\n")).split(b";")[0], 16)
        self.body += await self.raw.reader.readexactly(size)
        assert await self.raw.reader.readexactly(2) == b"\r\n"
        self.over = size == 0

    async def until(self, condition: Any, seconds: float = SECONDS) -> Any:
        """Reads on until the condition holds of this stream; its value."""
        async with asyncio.timeout(seconds):
            while not (value := condition(self)):
                assert not self.over, f"the stream ended: {bytes(self.body[-400:])!r}"
                await self._chunk()
        return value

    async def next(self, seconds: float = SECONDS) -> Event:
        events = await self.until(lambda stream: len(found := stream.reading.events) > self._taken and found, seconds)
        self._taken += 1
        return events[self._taken - 1]

    async def many(self, count: int, seconds: float = SECONDS) -> list[Event]:
        """The next ``count`` events: reads first and parses once."""
        await self.until(lambda stream: stream.body.count(b"data: ") >= self._taken + count and stream.body.endswith(b"\n\n"), seconds)
        events = self.reading.events[self._taken : self._taken + count]
        assert len(events) == count
        self._taken += count
        return events

    async def connected(self) -> dict[str, Any]:
        """The data of the first event, which says that the stream is open."""
        event = await self.next()
        assert event.name == "connected", event
        return event.data

    async def refused(self) -> dict[str, Any]:
        """Reads to the end; the data of the only event that was not taken yet, which says why the stream ends."""
        (event,) = await self.end()
        assert (event.name, event.had_id) == ("refused", False)
        return event.data

    async def end(self, seconds: float = SECONDS) -> list[Event]:
        """Reads to the end; the events that were not taken yet."""
        async with asyncio.timeout(seconds):
            while not self.over:
                await self._chunk()
        events = self.reading.events[self._taken :]
        self._taken += len(events)
        return events


@contextlib.asynccontextmanager
async def stream(
    gateway: Any,
    *channels: str,
    user: str = "u1",
    token: str | None = None,
    headers: Mapping[str, str] = NONE,
    small: bool = False,
    **query: Any,
) -> AsyncIterator[Stream]:
    """GET /sse; ``token`` "" sends none; ``url_token`` goes into the query, a list as often as it is long. ``connected`` is not taken yet."""
    async with await Socket.open(gateway, small=small) as raw:
        pairs = [("channel", channel) for channel in channels]
        for name, value in query.items():
            pairs += [(name.removeprefix("url_"), str(each)) for each in (value if isinstance(value, list | tuple) else [value])]
        given = gateway.token(user) if token is None else token
        sent = ({"Authorization": f"Bearer {given}"} if given else {}) | dict(headers)
        await raw.send(_head("GET", f"/sse?{urlencode(pairs)}", sent))
        async with asyncio.timeout(SECONDS):
            status, answered = await raw.head()
        opened_stream = Stream(raw, status, answered)
        if answered.get("transfer-encoding") != "chunked":
            opened_stream.body += await raw.reader.readexactly(int(answered.get("content-length", 0)))
            opened_stream.over = True
        yield opened_stream
