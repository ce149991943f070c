"""What one connect does. Visitor number N draws what it does from a generator seeded with N, so a run can be repeated.

Names change all the time: every NEAR visitors share a room, a document and a topic, then come others; half of the visitors have
channels or users that no other visitor ever has. The other half take turns to be the USERS who have something in their inboxes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .wires import Gone, Line, claims_token, frame, handshake, opened, request

__all__ = ["NEAR", "RULES", "USERS", "Visitors", "names_of"]

USERS = 1000  # whose inboxes are not empty: they are stored without an end, as the built-in namespace says
NEAR = 500  # visitors that share the names of their time
STAY_SECONDS = 1.0  # the longest that a visitor stays without doing anything
EXPECTED = (3000, 3500, 3503)  # how the gateway closes: after a client's own close, for a revoked token, by the server API

RULES = """
[channels]
history_size = 20
history_ttl = "20s"
meta_ttl = "20s"
[namespaces.room]
publish = "subscriber"
join_leave = "asked"
[namespaces.doc]
delta = true
[namespaces.topic]
tags_filter = true
[namespaces.ticket]
subscribe = "token"
[namespaces.live]
history_size = 0
publish = "user"
[namespaces.indexed]
index = true
"""


def names_of(number: int) -> dict[str, str]:
    """The channels that the visitors of this time share."""
    time = number // NEAR
    return {"room": f"room:{time}", "doc": f"doc:{time}", "topic": f"topic:{time}", "live": f"live:{time}"}


class Visitors:
    """All visitors of one run; ``did`` counts what they did and what came of it."""

    def __init__(self, port: int) -> None:
        self.did: Counter[str] = Counter()
        self._port = port

    async def visit(self, number: int) -> None:
        """One connect, from its beginning to its end."""
        chance = random.Random(number)
        way = chance.choices((self._websocket, self._events, self._emulated), (65, 30, 5))[0]
        user = f"u{number % USERS}" if chance.random() < 0.5 else f"n{number}"
        line = None
        try:
            line = await opened(self._port)
            await way(line, number, chance, user)
        except Gone as gone:
            self._ended(gone)
        except TimeoutError:
            self.did[f"failed: no answer, visitor {number}, {way.__name__}, {line}"] += 1
        except OSError as error:
            self.did[f"failed: {error}"] += 1
        finally:
            if line is not None:
                line.reset()

    def _ended(self, gone: Gone) -> None:
        """The gateway closed it. The backend revokes tokens and disconnects users; anything else is a fault of the gateway or the soak."""
        code = next((code for code in EXPECTED if code.to_bytes(2) in gone.rest or str(code).encode() in gone.rest), 0)
        self.did[f"closed by the gateway with {code}" if code else f"failed: waited for {gone.wanted!r}, got {gone.rest[-80:]!r}"] += 1

    # WebSocket.

    async def _websocket(self, line: Line, number: int, chance: random.Random, user: str) -> None:
        names, ids = names_of(number), iter(range(1, 100))
        commands = [self._command(ids, "connect", token=_token(user, number, chance))]
        commands += [self._command(ids, "subscribe", **fields) for fields in _subscriptions(number, chance, names)]
        line.send(handshake() + frame(b"\n".join(commands)))
        await line.until(b"\r\n\r\n")
        await self._answers(line, len(commands))
        self.did["WebSockets"] += 1
        for method, fields in self._deeds(number, chance, user, names) if number % 2 else ():
            text = self._command(ids, method, **fields)
            line.send(frame(text))
            await self._answers(line, 1, method)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * STAY_SECONDS)
        if chance.random() < 0.6:
            line.send(frame((1000).to_bytes(2), 8))
            await line.until((1000).to_bytes(2))
            line.close()
            self.did["closed properly"] += 1

    def _command(self, ids: Iterator[int], method: str, /, **fields: Any) -> bytes:
        return json.dumps({"id": next(ids), method: fields}, separators=(",", ":")).encode()

    async def _answers(self, line: Line, count: int, what: str = "connect") -> None:
        while count:
            await line.until(b'{"id":')
            if (await line.take(1)) == b'"':
                continue  # the id of a notification
            count -= 1
            kind = (await line.until(b'":')).partition(b'"')[2]
            if kind == b'error":':
                self.did[f"error for {what}: {(await line.until(b'}')).decode(errors='replace')}"] += 1

    def _deeds(self, number: int, chance: random.Random, user: str, names: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
        """Commands after the first ones, about one for each visitor."""
        mine = f"room:own{number}" if number % 5 < 2 else names["room"]
        possible: list[tuple[float, str, dict[str, Any]]] = [
            (0.2, "publish", {"channel": mine, "data": {"by": user, "text": "x" * chance.randrange(20, 300)}}),
            (0.1, "publish", {"channel": names["live"], "data": {"typing": user}}),
            (0.1, "presence", {"channel": mine}),
            (0.05, "presence_stats", {"channel": names["room"]}),
            (0.1, "history", {"channel": mine, "limit": 5}),
            (0.05, "rpc", {"method": "inbox.list", "data": {"limit": 3}}),
            (0.05, "rpc", {"method": "inbox.read", "data": {"all": True}}),
            (0.05, "refresh", {"token": claims_token(user)}),
            (0.2, "unsubscribe", {"channel": mine}),
            (0.1, "subscribe", {"channel": f"ticket:{number}", "token": claims_token(user, channel=f"ticket:{number}", jti=f"t{number}")}),
        ]
        return [(method, fields) for likely, method, fields in possible if chance.random() < likely]

    # Event streams.

    async def _events(self, line: Line, number: int, chance: random.Random, user: str) -> None:
        names = names_of(number)
        channels = [names["doc"], names["topic"], *([f"room:own{number}"] if chance.random() < 0.5 else [])]
        query = "&".join(f"channel={quote(channel)}" for channel in channels)
        path = f"/sse?{query}&token={_token(user, number, chance)}"
        line.send(request("GET", path))
        first = await line.until(b"connected")
        if b"refused" in first:
            self.did["streams refused"] += 1
            return
        await line.until(b"\n\n")
        self.did["event streams"] += 1
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * STAY_SECONDS)
        if chance.random() < 0.5:
            line.close()

    async def _emulated(self, line: Line, number: int, chance: random.Random, user: str) -> None:
        """The SDKs' transport over an event stream, with a command by POST on another connection."""
        connect = json.dumps({"id": 1, "connect": {"token": _token(user, number, chance)}}, separators=(",", ":"))
        line.send(request("GET", f"/connection/sse?cf_connect={quote(connect)}"))
        await line.until(b"data: ")
        place = json.loads(await line.until(b"\n"))["connect"]
        body = json.dumps({"id": 2, "subscribe": {"channel": names_of(number)["room"]}})
        post = json.dumps({"session": place["session"], "node": place["node"], "data": body}).encode()
        other = await opened(self._port)
        try:
            other.send(request("POST", "/emulation", post, Content_Type="application/json"))
            await other.until(b"204")
            await line.until(b'{"id":2,')
        finally:
            other.reset()
        self.did["emulated"] += 1


def _token(user: str, number: int, chance: random.Random) -> str:
    """Every tenth has an id, by which it may be revoked."""
    return claims_token(user, **({"jti": f"c{number}"} if chance.random() < 0.1 else {}))


def _subscriptions(number: int, chance: random.Random, names: dict[str, str]) -> list[dict[str, Any]]:
    """What a WebSocket subscribes to in the frame of its connect: what others of its time share, and for some a room of their own.

    Every other visitor only looks in, and does nothing afterwards.
    """
    if number % 2 == 0:
        return [{"channel": names["live"] if number % 4 else names["topic"]}]
    found: list[dict[str, Any]] = [{"channel": names["room"], "join_leave": True}]
    if number % 5 < 2:
        found.append({"channel": f"room:own{number}"})
    if chance.random() < 0.3:
        found.append({"channel": names["doc"], "delta": "fossil"})
    if chance.random() < 0.3:
        found.append({"channel": names["topic"], "tf": {"key": "of", "cmp": "eq", "val": str(number % 50)}})
    if chance.random() < 0.3:
        found.append({"channel": names["live"]})
    if chance.random() < 0.1:
        found.append({"channel": f"indexed:{number % USERS}", "recover": True, "epoch": "_", "offset": 3})
    return found
