"""How a measured server is talked to: what a client sends to subscribe, and the request that publishes.

The gateway and Centrifugo speak the same protocol and the same server API; nchan has a path for each channel and no protocol of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..auth.tokens import mint
from ..publication import Position
from .load_orders import document

__all__ = ["Addressing", "CentrifugeProtocol", "Client", "NchanPaths", "post"]

TOKEN_SECONDS = 3600


class Client(NamedTuple):
    """The path of its WebSocket, what it sends after the handshake ("" for nothing), and what an answer holds once it is ready."""

    path: str
    message: str
    ready: str


class Addressing(Protocol):
    """``tokens``: clients may have them. ``batch``: how many publications one request may hold."""

    tokens: bool
    batch: int

    def client(self, channel: str, *, user: str = "", own: bool = False, since: Position | None = None) -> Client:
        """A client that subscribes to a channel, "" for none; with a token if it has a ``user``, and from a position on.

        ``own``: its token subscribes it to a channel that nobody else follows, too."""

    def publish(self, channels: Sequence[str]) -> str:
        """An HTTP request that publishes one document to each of the channels, in order."""


def post(path: str, body: str, *headers: str) -> str:
    """An HTTP request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *headers, f"Content-Length: {len(body.encode())}"]
    return "\r\n".join(lines) + f"\r\n\r\n{body}"


class CentrifugeProtocol:
    """The gateway's and Centrifugo's. ``secret`` signs tokens, ``key`` is that of the server API."""

    tokens = True
    batch = 100

    def __init__(self, secret: str, key: str) -> None:
        self._secret = secret
        self._key = key

    def client(self, channel: str, *, user: str = "", own: bool = False, since: Position | None = None) -> Client:
        channels = [f"own-{user}"] if own else []
        connect = {"token": mint(self._secret, user=user, seconds=TOKEN_SECONDS, channels=channels)} if user else {}
        commands: list[object] = [{"id": 1, "connect": connect}]
        if channel:
            position = {"recover": True, "epoch": since.epoch, "offset": since.offset} if since else {}
            commands.append({"id": 2, "subscribe": {"channel": channel, **position}})
        message = "\n".join(json.dumps(command, separators=(",", ":")) for command in commands)
        return Client("/connection/websocket", message, '"subscribe"' if channel else '"connect"')

    def publish(self, channels: Sequence[str]) -> str:
        bodies = [f'{{"channel":"{channel}","data":{document()}}}' for channel in channels]
        if len(bodies) == 1:
            return self.request("publish", bodies[0])
        commands = ",".join(f'{{"publish":{body}}}' for body in bodies)
        return self.request("batch", f'{{"commands":[{commands}]}}')

    def request(self, method: str, body: str) -> str:
        return post(f"/api/{method}", body, "Content-Type: application/json", f"X-API-Key: {self._key}")


class NchanPaths:
    """nchan's. A client that comes back asks for the oldest publication that is stored."""

    tokens = False
    batch = 1

    def client(self, channel: str, *, user: str = "", own: bool = False, since: Position | None = None) -> Client:
        return Client(f"/{'all' if since else 'new'}?id={channel or 'none'}", "", "")

    def publish(self, channels: Sequence[str]) -> str:
        (channel,) = channels
        return post(f"/pub?id={channel}", document())
