"""Players of the play against Why?: clients of any transport that record what their sockets really received.

Player      one client: WebSocket, event stream or emulated WebSocket
Published   a publication, as its publisher knows it
Truth       what players record: which user received what
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .clients import frame
from .gateways import RunningGateway

__all__ = ["Player", "Published", "Truth"]

CUT = struct.pack("ii", 1, 0)  # SO_LINGER that resets


class Truth(Protocol):
    """``received`` has, by user, channel, epoch and offset, a client that received it; ``by_number`` users and numbers of publications."""

    gateways: list[RunningGateway]
    chance: random.Random
    published: dict[int, Published]
    received: dict[tuple[str, str, str, int], str]
    by_number: set[tuple[str, int]]

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None: ...

    async def http(self, gateway: RunningGateway, method: str, path: str, body: bytes) -> Any: ...


class Published(NamedTuple):
    """``began`` and ``ended`` are around the call, in unix ms."""

    number: int
    channel: str
    epoch: str
    offset: int
    language: str
    began: int
    ended: int


@dataclass
class Following:
    """A client's subscription as the client knows it."""

    epoch: str
    since: int
    language: str = ""


class Player:
    """One client, of any transport. ``got`` is by channel and epoch."""

    def __init__(self, world: Truth, user: str, where: int) -> None:
        self.world, self.user, self.where = world, user, where
        self.raw: Any = None
        self.client = ""
        self.kind = "websocket"
        self.got: dict[tuple[str, str], set[int]] = {}
        self.following: dict[str, Following] = {}
        self.epochs: dict[str, str] = {}  # of channels, also of those that it does not follow any more
        self.asked: dict[int, tuple[str, str]] = {}
        self.replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.goes = asyncio.Event()
        self.goes.set()
        self.over = False
        self.risk = False  # something may have been written that was never read
        self.code = 0
        self.number = 1
        self.task: asyncio.Task[None] | None = None
        self.session = self.node = ""
        self.touched = time.time() * 1000  # when its last subscription began

    # Commands.

    async def send(self, *commands: Any) -> None:
        text = "\n".join(json.dumps(command) for command in commands)
        if self.kind == "websocket":
            with contextlib.suppress(OSError, RuntimeError):
                await self.raw.send(frame(text.encode()))
        elif self.kind == "lines":
            body = json.dumps({"session": self.session, "node": self.node, "data": text}).encode()
            gateway = self.world.gateways[self.world.chance.randrange(len(self.world.gateways))]
            await self.world.http(gateway, "POST", "/emulation", body)

    async def ask(self, method: str, /, **request: Any) -> dict[str, Any] | None:
        self.number += 1
        number = self.number
        future = self.replies[number] = asyncio.get_running_loop().create_future()
        if method == "subscribe":
            self.asked[number] = request["channel"], (request.get("tf") or {}).get("val", "")
        await self.send({"id": number, method: request})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                return await future
        return None

    # What arrives.

    def take(self, message: dict[str, Any]) -> None:
        if not message:
            self.world.spawn(self.send({}))
        elif "push" in message:
            self.take_push(message["push"])
        elif "id" in message:
            self.take_reply(message)

    def take_reply(self, message: dict[str, Any]) -> None:
        number = message["id"]
        if "connect" in message:
            result = message["connect"]
            self.client = result["client"]
            self.session, self.node = result.get("session", ""), result.get("node", "")
            for channel, begun in result.get("subs", {}).items():
                self.begin(channel, begun, "")
        if "subscribe" in message and number in self.asked:
            channel, language = self.asked[number]
            self.begin(channel, message["subscribe"], language)
        future = self.replies.pop(number, None)
        if future is not None and not future.done():
            future.set_result(message)

    def begin(self, channel: str, result: dict[str, Any], language: str) -> None:
        self.following[channel] = Following(result.get("epoch", ""), result.get("offset", 0), language)
        self.epochs[channel] = result.get("epoch", "")
        self.touched = time.time() * 1000
        for publication in result.get("publications", []):
            self.receive(channel, publication)

    def take_push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            self.receive(channel, push["pub"])
        elif "subscribe" in push:
            self.begin(channel, push["subscribe"], "")
        elif "unsubscribe" in push:
            self.following.pop(channel, None)
        elif "disconnect" in push:
            self.code = push["disconnect"]["code"]

    def receive(self, channel: str, publication: dict[str, Any]) -> None:
        offset = publication.get("offset", 0)
        data = publication.get("data")
        number = data.get("n", 0) if isinstance(data, dict) else 0
        followed = self.following.get(channel)
        epoch = followed.epoch if followed else self.epochs.get(channel, "")
        if number:
            self.world.by_number.add((self.user, number))
            known = self.world.published.get(number)
            epoch = epoch or (known.epoch if known else "")
        if followed is not None:
            followed.since = max(followed.since, offset)
        if offset and epoch:
            self.got.setdefault((channel, epoch), set()).add(offset)
            self.world.received.setdefault((self.user, channel, epoch, offset), self.client or self.kind)

    # Its life.

    async def read(self) -> None:
        try:
            if self.kind == "websocket":
                await self.read_frames()
            elif self.kind == "lines":
                await self.read_lines()
            else:
                await self.read_events()
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            pass
        finally:
            self.over = True
            self.following.clear()
            for future in self.replies.values():
                if not future.done():
                    future.set_result({})

    async def read_frames(self) -> None:
        while True:
            await self.goes.wait()
            opcode, payload = await self.raw.read_frame(3600)
            if opcode == 8:
                self.code = int.from_bytes(payload[:2])
                return
            if opcode == 1:
                for line in payload.split(b"\n"):
                    self.take(json.loads(line))

    async def chunks(self) -> Any:
        while True:
            await self.goes.wait()
            size = int(await self.raw.reader.readuntil(b"\r\n"), 16)
            text = await self.raw.reader.readexactly(size)
            await self.raw.reader.readexactly(2)
            if not size:
                return
            yield text

    async def read_lines(self) -> None:
        rest = b""
        async for text in self.chunks():
            *whole, rest = (rest + text).split(b"\n")
            for line in whole:
                self.take(json.loads(line))

    async def read_events(self) -> None:
        rest = b""
        async for text in self.chunks():
            *whole, rest = (rest + text).split(b"\n\n")
            for event in whole:
                self.take_event(event)

    def take_event(self, event: bytes) -> None:
        fields = dict(line.decode().partition(": ")[::2] for line in event.split(b"\n") if b": " in line)
        if "data" not in fields:
            return
        data = json.loads(fields["data"])
        if fields.get("event") == "connected":
            self.client = data["client"]
            self.touched = time.time() * 1000
            for channel, place in data["channels"].items():
                self.following[channel] = Following(place["epoch"], place["offset"])
        elif fields.get("event") == "gap":
            self.following[data["channel"]] = Following(data["epoch"], data["offset"])
        elif "event" not in fields or fields["event"] in ("pub", "publication", "message"):
            self.receive(data.get("channel") or next(iter(self.following)), data)

    @property
    def connected(self) -> bool:
        return bool(self.client) and not self.over

    def stop(self) -> None:
        self.goes.clear()
        self.risk = True

    def go(self) -> None:
        self.goes.set()

    async def end(self, how: str) -> None:
        if self.over and self.raw is None:
            return
        if not self.goes.is_set():
            self.risk = True
        if how == "cut":
            with contextlib.suppress(OSError):
                self.raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT)
            self.raw.writer.transport.abort()
        elif how == "close" and self.kind == "websocket":
            with contextlib.suppress(OSError, RuntimeError):
                await self.raw.send(frame(struct.pack(">H", 1000), opcode=8))
            await asyncio.sleep(0.02)
            await self.raw.close()
        else:
            await self.raw.close()
        self.finish()

    def finish(self) -> None:
        self.over = True
        self.following.clear()
        if self.task is not None:
            self.task.cancel()
