"""The bytes of the soak's clients, made and read by hand: a library would take more of the machine than the gateway does."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
import struct
import time
from typing import Any, cast

from ..kit.tokens import SECRET

__all__ = ["Gone", "Line", "claims_token", "frame", "handshake", "opened", "request"]

ANSWER_SECONDS = 30.0  # longer than any answer takes on a machine that does other work as well
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends a reset
_KEY = SECRET.encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_HEAD = _base64(b'{"alg":"HS256","typ":"JWT"}')


def claims_token(user: str, **claims: Any) -> str:
    """A token of the user, good for an hour."""
    now = int(time.time())
    body = _base64(json.dumps({"sub": user, "iat": now, "exp": now + 3600, **claims}).encode())
    signed = b"%b.%b" % (_HEAD, body)
    return (signed + b"." + _base64(hmac.digest(_KEY, signed, "sha256"))).decode()


def handshake(path: str = "/connection/websocket") -> bytes:
    """The upgrade request of a WebSocket."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole request of plain HTTP."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with a mask of zeros, which leaves the payload as it is."""
    length = len(payload)
    if length < 126:
        return bytes([0x80 | opcode, 0x80 | length]) + b"\0\0\0\0" + payload
    return bytes([0x80 | opcode, 0xFE]) + length.to_bytes(2) + b"\0\0\0\0" + payload


class Gone(Exception):
    """The connection ended before ``wanted`` came; ``rest`` is what came last."""

    def __init__(self, wanted: bytes, rest: bytes) -> None:
        super().__init__(wanted, rest)
        self.wanted = wanted
        self.rest = rest


class Line(asyncio.Protocol):
    """A connection that is read up to a text. Make it with ``opened``."""

    def __init__(self) -> None:
        self.read = bytearray()
        self._transport: asyncio.Transport | None = None
        self._wanted: bytes | int = b""  # a text, or a number of bytes
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False

    def __repr__(self) -> str:
        return f"waited for {self._wanted!r}, {self._lost=}, got {bytes(self.read[-200:])!r}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.read += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._lost or self._end() >= 0):
            self._waiter.set_result(None)

    def _end(self) -> int:
        """Where what is wanted ends in what was read; -1 if it did not come yet."""
        wanted = self._wanted
        if isinstance(wanted, int):
            return wanted if len(self.read) >= wanted else -1
        start = self.read.find(wanted)
        return start + len(wanted) if start >= 0 else -1

    async def until(self, wanted: bytes) -> bytes:
        """What came up to the text and with it, which is taken out. Raises Gone, TimeoutError."""
        return await self._take(wanted)

    async def take(self, count: int) -> bytes:
        """So many bytes. Raises Gone, TimeoutError."""
        return await self._take(count)

    async def _take(self, wanted: bytes | int) -> bytes:
        self._wanted = wanted
        if self._end() < 0 and not self._lost:
            self._waiter = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._waiter
        end = self._end()
        if end < 0:
            raise Gone(str(wanted).encode() if isinstance(wanted, int) else wanted, bytes(self.read[-200:]))
        taken = bytes(self.read[:end])
        del self.read[:end]
        return taken

    def send(self, data: bytes) -> None:
        """Raises Gone."""
        if self._lost or self._transport is None:
            raise Gone(b"", bytes(self.read[-200:]))
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Ends it with a reset, as the kernel does for a program that was killed with data unread."""
        if self._transport is not None and not self._transport.is_closing():
            plain = self._transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()


async def opened(port: int) -> Line:
    """A connection to the gateway."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line
