"""Followers: clients that come back as an SDK and a browser do, and record everything that they receive.

Follower        what all do: connect to the next gateway, go on from the positions they have, come back when the connection ends
ProtocolClient  over WebSocket (``socket``) or emulation (``sse``, ``http_stream``); its user's inbox is its own too
StreamClient    over ``/sse``, by Last-Event-ID

They check nothing: what they recorded is judged afterwards. ``stalled`` ones read nothing for a while, ``restless`` ones leave their
connections again and again, half of the time without a closing frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect

from gateway.publication import Position

from ..kit.clients import LOST, Socket, Stream, lines, read_events
from ..kit.gateways import RunningGateway
from .history import History
from .stage import PING_SECONDS, GatewayPlace, Stage

__all__ = ["Follower", "ProtocolClient", "StreamClient"]

SILENCE_SECONDS = PING_SECONDS + 5.0  # after which a client gives a silent connection up
COMES_BACK_SECONDS = (0.05, 0.4)
STAYS_SECONDS = (1.0, 4.0)  # of a restless client
NEVER = float("inf")
FLAPS_SECONDS = (0.0, 0.3)  # the same while a fault makes it flap


class Ended(Exception):
    """The server ended the connection, or refused something; the client comes back."""


class Follower:
    """One client. ``where`` is the gateway that it is connected to, ``id`` its client id there; both None between connections."""

    def __init__(self, stage: Stage, history: History, name: str, channels: Sequence[str], chance: Random, *, restless: bool) -> None:
        self.name = name
        self.user = name
        self.channels = list(channels)
        self.restless = restless
        self.flapping = False
        self.where: GatewayPlace | None = None
        self.id: str | None = None
        self.positions: dict[str, Position] = {}
        self.newest: dict[str, int] = {}  # the number of the newest document, by channel
        self.reads = asyncio.Event()  # cleared while the client is stalled
        self.reads.set()
        self._stage = stage
        self._history = history
        self._chance = chance
        self._turn = chance.randrange(1000)
        self._leaves_at = NEVER
        history.record("follows", client=name, channels=self.followed)

    @property
    def followed(self) -> list[str]:
        """All channels that it is subscribed to."""
        return self.channels

    @property
    def begun(self) -> bool:
        """Whether it has a position in each of its channels."""
        return all(channel in self.positions for channel in self.followed)

    async def run(self) -> None:
        while True:
            place, self._leaves_at = self._next_place(), NEVER
            try:
                await self._connection(place)
                why = "left"
            except (*LOST, Ended) as error:
                why = f"{type(error).__name__}: {error}"[:160]
            self.where = self.id = None
            self._history.record("closed", client=self.name, why=why)
            await asyncio.sleep(self._chance.uniform(*COMES_BACK_SECONDS))

    def _next_place(self) -> GatewayPlace:
        self._turn += 1
        gateways = self._stage.gateways
        return gateways[self._turn % len(gateways)]

    async def _connection(self, place: GatewayPlace) -> None:
        """One connection, until it ends or the client leaves it."""
        raise NotImplementedError

    def _connected(self, place: GatewayPlace, client: str) -> None:
        self.where, self.id = place, client
        self._history.record("connected", client=self.name, gateway=place.name, id=client)
        seconds = FLAPS_SECONDS if self.flapping else STAYS_SECONDS
        self._leaves_at = self._history.now + self._chance.uniform(*seconds)

    @property
    def has_enough(self) -> bool:
        """Whether it leaves its connection now."""
        return (self.restless or self.flapping) and self._history.now >= self._leaves_at

    def _begins(self, channel: str, position: Position, *, gap: bool) -> None:
        self.positions[channel] = position
        what = "gap" if gap else "begun"
        self._history.record(what, client=self.name, channel=channel, epoch=position.epoch, offset=position.offset)

    def _take(self, channel: str, epoch: str, offset: int, data: Any) -> None:
        if not isinstance(data, dict) or "n" not in data:
            self._bad(channel, f"a document that nobody published: {data!r}"[:200])
            return
        self.positions[channel] = Position(epoch, offset)
        self.newest[channel] = data["n"]
        self._history.record("got", client=self.name, channel=channel, epoch=epoch, offset=offset, n=data["n"])

    def _bad(self, channel: str, why: str) -> None:
        self._history.record("bad", client=self.name, channel=channel, why=why)


# The protocol.


class Transport(Protocol):
    async def send(self, *commands: Any) -> None: ...

    async def receive(self) -> list[Any]:
        """The next objects. Raises one of LOST at the end."""
        ...


class SocketTransport:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, *commands: Any) -> None:
        await self._connection.send(lines(*commands))

    async def receive(self) -> list[Any]:
        message = await self._connection.recv()
        text = message.decode() if isinstance(message, bytes) else message
        return [json.loads(line) for line in text.strip().split("\n")]


class EmulatedTransport:
    """Replies come as a stream, and commands are sent by POST to any gateway."""

    def __init__(self, stream: Stream, kind: str, gateway: RunningGateway) -> None:
        self._stream = stream
        self._gateway = gateway
        self._end = b"\n\n" if kind == "sse" else b"\n"
        self.session: dict[str, str] = {}

    async def send(self, *commands: Any) -> None:
        body = json.dumps({**self.session, "data": lines(*commands)}).encode()
        async with asyncio.timeout(SILENCE_SECONDS), await Socket.open(self._gateway) as socket:
            status, _, _ = await socket.request("POST", "/emulation", body=body)
        if status != 204:
            raise Ended(f"status {status} of a command")

    async def receive(self) -> list[Any]:
        body = self._stream.body
        while self._end not in body:
            if self._stream.over:
                raise Ended("the stream ended")
            await self._stream._chunk()
        parts = bytes(body).split(self._end)
        body[:] = parts.pop()
        texts = [part.strip().removeprefix(b"data: ") for part in parts]
        return [json.loads(text) for text in texts if text]


class ProtocolClient(Follower):
    def __init__(self, *arguments: Any, transport: str, slow: bool = False, **options: Any) -> None:
        self._kind = transport
        self._slow = slow
        super().__init__(*arguments, **options)

    @property
    def inbox(self) -> str:
        return f"notifications:{self.user}"

    @property
    def followed(self) -> list[str]:
        return [*self.channels, self.inbox]

    async def _connection(self, place: GatewayPlace) -> None:
        self._asked: dict[int, str] = {}
        first = {"id": 1, "connect": {"token": place.gateway.token(self.user), **self._subs()}}
        open_transport = self._open_socket if self._kind == "socket" else self._open_stream
        async with open_transport(place.gateway, first) as transport:
            while not self.has_enough:
                await self.reads.wait()
                async with asyncio.timeout(SILENCE_SECONDS):
                    objects = await transport.receive()
                for message in objects:
                    await self._take_object(transport, place, message)

    @contextlib.asynccontextmanager
    async def _open_socket(self, gateway: RunningGateway, first: Any) -> AsyncIterator[Transport]:
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": None, "open_timeout": 5, "proxy": None}
        options |= {"max_queue": 16, "close_timeout": 1}
        async with connect(gateway.websocket_url, **options) as connection:
            transport = SocketTransport(connection)
            await transport.send(first, *self._subscribes())
            yield transport
            if self._chance.random() < 0.5:
                connection.transport.abort()

    @contextlib.asynccontextmanager
    async def _open_stream(self, gateway: RunningGateway, first: Any) -> AsyncIterator[Transport]:
        if self._kind == "sse":
            head = f"GET /connection/sse?cf_connect={quote(json.dumps(first))} HTTP/1.1\r\nHost: gateway.test\r\n\r\n".encode()
        else:
            body = json.dumps(first).encode()
            head = f"POST /connection/http_stream HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        async with await Socket.open(gateway, small=self._slow) as raw:
            async with asyncio.timeout(SILENCE_SECONDS):
                await raw.send(head)
                stream = Stream(raw, *await raw.head())
            if stream.headers.get("transfer-encoding") != "chunked":
                raise Ended(f"status {stream.status} without a stream")
            yield EmulatedTransport(stream, self._kind, gateway)

    # What is asked.

    def _since(self, channel: str) -> dict[str, Any]:
        position = self.positions.get(channel)
        return {"recover": True, "epoch": position.epoch, "offset": position.offset} if position is not None else {}

    def _subs(self) -> dict[str, Any]:
        since = self._since(self.inbox)
        return {"subs": {self.inbox: since}} if since else {}

    def _subscribes(self) -> list[Any]:
        return [self._subscribe(channel) for channel in self.channels]

    def _subscribe(self, channel: str) -> Any:
        number = 2 + len(self._asked)
        self._asked[number] = channel
        return {"id": number, "subscribe": {"channel": channel, **self._since(channel)}}

    # What comes.

    async def _take_object(self, transport: Transport, place: GatewayPlace, message: Any) -> None:
        if message == {}:
            await transport.send({})
        elif "push" in message:
            await self._take_push(transport, message["push"])
        elif "error" in message:
            raise Ended(f"error {message['error']} of {self._asked.get(message['id'], 'connect')}")
        elif "connect" in message:
            await self._take_connect(transport, place, message["connect"])
        elif "subscribe" in message:
            self._take_begin(self._asked[message["id"]], message["subscribe"])

    async def _take_connect(self, transport: Transport, place: GatewayPlace, result: Any) -> None:
        self._connected(place, result["client"])
        for channel, sub in result.get("subs", {}).items():
            self._take_begin(channel, sub)
        if isinstance(transport, EmulatedTransport):
            transport.session = {"session": result["session"], "node": result["node"]}
            await transport.send(*self._subscribes())

    def _take_begin(self, channel: str, result: Any) -> None:
        came_back = channel in self.positions
        if result.get("was_recovering", False) is not came_back:
            self._bad(channel, f"was_recovering is wrong: {result}"[:200])
        gap = came_back and not result.get("recovered", False)
        self._begins(channel, Position(result["epoch"], result.get("offset", 0)), gap=gap)
        for publication in result.get("publications", []):
            self._take(channel, result["epoch"], publication["offset"], publication["data"])

    async def _take_push(self, transport: Transport, push: Any) -> None:
        channel = push.get("channel", "")
        if "disconnect" in push:
            raise Ended(f"disconnected with {push['disconnect']}")
        if "unsubscribe" in push:
            if push["unsubscribe"]["code"] < 2500:
                self._bad(channel, f"unsubscribed for good: {push['unsubscribe']}")
            await transport.send(self._subscribe(channel))
        elif "subscribe" in push:
            self._take_begin(channel, push["subscribe"])
        elif "pub" in push and "offset" in push["pub"]:
            epoch = self.positions[channel].epoch if channel in self.positions else ""
            self._take(channel, epoch, push["pub"]["offset"], push["pub"]["data"])


# Event streams.


class StreamClient(Follower):
    def __init__(self, *arguments: Any, slow: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._slow = slow
        self._last_id = ""

    async def _connection(self, place: GatewayPlace) -> None:
        query = urlencode([("channel", channel) for channel in self.channels])
        mark = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        head = f"GET /sse?{query} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {place.gateway.token(self.user)}\r\n{mark}\r\n"
        async with await Socket.open(place.gateway, small=self._slow) as raw:
            async with asyncio.timeout(SILENCE_SECONDS):
                await raw.send(head.encode())
                stream = Stream(raw, *await raw.head())
            if stream.status != 200:
                raise Ended(f"status {stream.status}")
            while not self.has_enough:
                await self.reads.wait()
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._read(stream, place)
            if self._chance.random() < 0.5:
                raw.writer.transport.abort()

    async def _read(self, stream: Stream, place: GatewayPlace) -> None:
        """The next chunk; events that are whole are taken."""
        if stream.over:
            raise Ended("the stream ended")
        await stream._chunk()
        end = stream.body.rfind(b"\n\n") + 2
        if end >= 2:
            for event in read_events(bytes(stream.body[:end])).events:
                self._take_event(place, event)
            del stream.body[:end]

    def _take_event(self, place: GatewayPlace, event: Any) -> None:
        if event.name == "refused":
            raise Ended(f"refused: {event.data}")
        if event.name == "connected":
            self._take_connected(place, event)
        elif event.name == "gap":
            self._begins(event.data["channel"], Position(event.data["epoch"], event.data["offset"]), gap=True)
        elif "offset" in event.data:
            channel = event.data["channel"]
            self._take(channel, self._positions_of(event.id)[channel].epoch, event.data["offset"], event.data["data"])
        self._last_id = event.id
        if event.name == "message" and self._positions_of(event.id) != self.positions:
            self._bad("", f"the id {event.id} is not the positions {self.positions}")

    def _positions_of(self, id: str) -> dict[str, Position]:
        return dict(zip(self.channels, map(Position.parse, id.split(",")), strict=True))

    def _take_connected(self, place: GatewayPlace, event: Any) -> None:
        self._connected(place, event.data["client"])
        for channel, position in self._positions_of(event.id).items():
            if channel not in self.positions or event.data["channels"][channel].get("recovered"):
                self._begins(channel, position, gap=False)
