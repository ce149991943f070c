"""A play against Why?: random clients, publications and faults, and what each socket really received.

World      gateways of one prefix, their clients, and the truth: ``received`` and ``published``
Defect     an answer that the truth contradicts
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import socket
import struct
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import valkey

from gateway.work import Reader

from .clients import Socket, frame
from .gateways import RunningGateway, launch
from .operators import WITH_CONSOLE, Operator, log_in, send
from .tokens import ticket, token

__all__ = ["Defect", "World"]

SETTINGS = f"""{WITH_CONSOLE}
pong_seconds = 3
ping_seconds = 5
"""
SPACES = """
[namespaces.chat]
history_ttl = ""
[namespaces.short]
history_size = 5
[namespaces.brief]
history_ttl = "1s"
[namespaces.tagged]
tags_filter = true
[namespaces.doc]
delta = true
[namespaces.endless]
history_size = -1
history_ttl = ""
[namespaces.mine]
personal = true
subscribe = "owner"
[namespaces.ticket]
subscribe = "token"
[namespaces.unrecoverable]
recover = false
[namespaces.read]
history_size = 1000
history_ttl = ""
[limits]
slow_seconds = 2
waiting_bytes = 16384
connections_per_user = 8
"""
USERS = ["u1", "u2", "u3", "u4"]
SHARED = ["chat:a", "short:a", "brief:a", "tagged:a", "doc:a", "endless:a", "ticket:a", "unrecoverable:a"]
LANGUAGES = ["de", "en"]
CUT = struct.pack("ii", 1, 0)  # SO_LINGER that resets


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
class Defect:
    kind: str
    text: str
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass
class Following:
    """A client's subscription as the client knows it."""

    epoch: str
    since: int
    language: str = ""


class Player:
    """One client, of any transport. ``got`` is by channel and epoch."""

    def __init__(self, world: World, user: str, where: int) -> None:
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


class World:
    """One play. ``chance`` decides everything; ``defects`` is what it found."""

    def __init__(self, folder: Path, store: valkey.Valkey, url: str, seed: int, log: Any) -> None:
        self.folder, self.store, self.url, self.seed, self.log = folder, store, url, seed, log
        self.chance = random.Random(seed)
        self.prefix = f"w{seed}x{int(time.time())}"
        self.gateways: list[RunningGateway] = []
        self.recorded: list[bool] = []
        self.players: list[Player] = []
        self.past: list[Player] = []
        self.received: dict[tuple[str, str, str, int], str] = {}
        self.by_number: set[tuple[str, int]] = set()
        self.published: dict[int, Published] = {}
        self.number = 0
        self.defects: list[Defect] = []
        self.verdicts: dict[str, int] = {}
        self.kills: list[float] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.operator: Operator | None = None
        self.soft = self.killed = 0
        self.doubts: dict[str, int] = {}
        self.trace: list[str] = []
        self.launched = 0
        self.handled: dict[tuple[str, int], str] = {}  # of the durable reader: what it did with which publication
        self.unread: dict[tuple[str, str], bool | None] = {}  # user, notification → None where it is not known
        self.ids: dict[int, str] = {}  # notifications of publications

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def note(self, text: str) -> None:
        self.trace.append(f"{time.time():.3f} {text}")

    async def http(self, gateway: RunningGateway, method: str, path: str, body: bytes, headers: Any = None) -> Any:
        try:
            return await asyncio.to_thread(gateway.http, method, path, body, headers or {})
        except (OSError, EOFError, Exception):
            return None

    async def api(self, method: str, /, **request: Any) -> dict[str, Any] | None:
        gateway = self.chance.choice(self.gateways)
        try:
            answer = await asyncio.to_thread(lambda: gateway.api(method, **request))
        except Exception:
            return None
        return answer.get("result")

    # The cast.

    def start_gateway(self, index: int) -> None:
        port = self.gateways[index].port if index < len(self.gateways) else 0
        events = self.recorded[index]
        size = 100 if self.seed % 5 == 4 else 100_000
        head = f"events = {str(events).lower()}\nevents_size = {size}\n{SETTINGS}{SPACES}"
        self.launched += 1
        gateway = launch(self.folder, f"g{self.seed}n{self.launched}", head, valkey_url=self.url, prefix=self.prefix, port=port)
        if index < len(self.gateways):
            self.gateways[index] = gateway
        else:
            self.gateways.append(gateway)

    async def start(self) -> None:
        count = 1 + self.seed % 2
        recorded = self.seed % 7 != 6
        self.recorded = [recorded] * count
        if self.seed % 11 == 10:
            self.recorded[-1] = False
        for index in range(count):
            await asyncio.to_thread(self.start_gateway, index)
        self.operator = await asyncio.to_thread(log_in, self.gateways[0])
        if all(self.recorded):  # the events begin before all publications
            self.store.xadd(f"{self.prefix}:events", {"event": "connected", "user": "x", "client": "c", "process": "p", "ms": 1})

    async def stop(self) -> None:
        for player in self.players:
            player.finish()
            with contextlib.suppress(Exception):
                player.raw.writer.transport.abort()
        for gateway in self.gateways:
            await asyncio.to_thread(gateway.stop)

    # Acts.

    async def connect(self) -> None:
        if len(self.players) >= 20:
            return
        player = Player(self, self.chance.choice(USERS), self.chance.randrange(len(self.gateways)))
        gateway = self.gateways[player.where]
        kind = self.chance.choices(["websocket", "sse", "lines"], [5, 3, 2])[0]
        player.kind = kind
        small = self.chance.random() < 0.4
        try:
            async with asyncio.timeout(2):
                player.raw = await Socket.open(gateway, small=small)
                if kind == "websocket":
                    if await player.raw.upgrade() != 101:
                        return
                    player.task = asyncio.create_task(player.read())
                    await player.send({"id": 1, "connect": {"token": token(player.user)}})
                elif kind == "lines":
                    body = json.dumps({"id": 1, "connect": {"token": token(player.user)}}).encode()
                    head = f"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    await player.raw.send(head + body)
                    status, _ = await player.raw.head()
                    if status != 200:
                        return
                    player.task = asyncio.create_task(player.read())
                else:
                    await self.open_stream(player)
                while not player.client and not player.over:
                    await asyncio.sleep(0.005)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            player.risk = True
        self.players.append(player)
        self.note(f"connect {player.user} {kind} small={small} g{player.where} → {player.client} {list(player.following)}")

    async def open_stream(self, player: Player) -> None:
        channels = self.chance.sample([c for c in SHARED if c not in ("ticket:a", "unrecoverable:a")], self.chance.randint(1, 2))
        pairs = [("channel", channel) for channel in channels] + [("token", token(player.user))]
        if self.chance.random() < 0.5:
            places = [self.place(channel) for channel in channels]
            pairs.append(("last_event_id", ",".join("-" if place is None else f"{place[0]}:{place[1]}" for place in places)))
        query = urllib.parse.urlencode(pairs)
        await player.raw.send(f"GET /sse?{query} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        status, _ = await player.raw.head()
        if status != 200:
            player.over = True
            self.note(f"stream refused {status}")
            return
        player.task = asyncio.create_task(player.read())

    def place(self, channel: str) -> tuple[str, int] | None:
        """A position that some client may have."""
        known = [each for each in self.published.values() if each.channel == channel]
        if not known:
            return None
        each = self.chance.choice(known[-12:])
        return each.epoch, max(0, each.offset - self.chance.randint(0, 4))

    def someone(self, *kinds: str) -> Player | None:
        there = [p for p in self.players if p.connected and (not kinds or p.kind in kinds)]
        return self.chance.choice(there) if there else None

    async def subscribe(self) -> None:
        player = self.someone("websocket", "lines")
        if player is None or not player.goes.is_set():
            return
        channel = self.chance.choice([*SHARED, f"notifications:{player.user}"])
        request: dict[str, Any] = {"channel": channel}
        if channel == "ticket:a":
            request["token"] = ticket(channel, player.user)
        if channel == "tagged:a" and self.chance.random() < 0.7:
            request["tf"] = {"key": "lang", "cmp": "eq", "val": self.chance.choice(LANGUAGES)}
        if channel == "doc:a" and self.chance.random() < 0.7:
            request["delta"] = "fossil"
        if self.chance.random() < 0.5 and (place := self.place(channel)) is not None:
            request |= {"recover": True, "epoch": place[0], "offset": place[1]}
        answer = await player.ask("subscribe", **request)
        self.note(f"subscribe {player.client} {request} → {str(answer)[:150]}")

    async def unsubscribe(self) -> None:
        player = self.someone("websocket", "lines")
        if player is None or not player.following or not player.goes.is_set():
            return
        channel = self.chance.choice(list(player.following))
        answer = await player.ask("unsubscribe", channel=channel)
        if answer is not None and "unsubscribe" in answer:
            player.following.pop(channel, None)
        self.note(f"unsubscribe {player.client} {channel} → {answer}")

    async def publish(self, *, big: int = 0) -> None:
        channel = self.chance.choice([*SHARED, *SHARED, "read:a", "read:a", *[f"mine:{user}" for user in USERS[:2]]])
        if big:
            channel = self.chance.choice(["endless:a", "short:a", "tagged:a"])
        for _ in range(big or self.chance.choice([1, 1, 2, 7])):
            self.number += 1
            language = self.chance.choice(LANGUAGES)
            options: dict[str, Any] = {"tags": {"lang": language}}
            if self.chance.random() < 0.1:
                options["skip_history"] = True
            data = {"n": self.number, "pad": "x" * (60_000 if big else self.chance.choice([1, 10, 500]))}
            number, began = self.number, int(time.time() * 1000)
            result = await self.api("publish", channel=channel, data=data, **options)
            if result and result.get("offset"):
                now = int(time.time() * 1000)
                self.published[number] = Published(number, channel, result["epoch"], result["offset"], language, began, now)
                self.note(f"publish {channel} {result['epoch']}:{result['offset']} n={number} {language}")

    async def chat(self) -> None:
        """Publishes on and on, while other things happen."""
        while True:
            await self.chats.wait()
            await asyncio.sleep(self.chance.choice([0.01, 0.05, 0.2]))
            await self.publish()

    async def publish_big(self) -> None:
        await self.publish(big=self.chance.choice([10, 40, 80]))

    async def stop_reading(self) -> None:
        player = self.someone()
        if player is not None:
            player.stop()
            self.note(f"stops reading {player.client}")

    async def read_again(self) -> None:
        stopped = [p for p in self.players if not p.goes.is_set()]
        if stopped:
            player = self.chance.choice(stopped)
            player.go()
            self.note(f"reads again {player.client}")

    async def end_one(self) -> None:
        player = self.someone()
        if player is None:
            return
        how = self.chance.choice(["cut", "close", "plain"])
        if self.chance.random() < 0.6:
            await asyncio.sleep(0.1)
        else:
            player.risk = True
        await player.end(how)
        self.note(f"end {player.client} {how} stopped={not player.goes.is_set()}")

    async def kill_gateway(self) -> None:
        index = self.chance.randrange(len(self.gateways))
        how = self.chance.choice([signal.SIGKILL, signal.SIGTERM])
        calm = self.chance.random() < 0.5
        if calm:
            await asyncio.sleep(0.3)
        self.note(f"{how.name} of gateway {index} calm={calm}")
        for player in self.players:
            if player.where == index and (not calm or not player.goes.is_set()):
                player.risk = True
        await asyncio.to_thread(self.gateways[index].stop, how)
        if how is signal.SIGKILL:
            self.kills.append(time.time() * 1000)
        await asyncio.to_thread(self.start_gateway, index)

    async def cut_links(self) -> None:
        kind = self.chance.choice(["pubsub", "normal", "pubsub"])
        with contextlib.suppress(valkey.ValkeyError):
            self.store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        self.note(f"links cut: {kind}")

    async def freeze(self) -> None:
        gateway = self.chance.choice(self.gateways)
        seconds = self.chance.choice([0.2, 1.5])
        self.note(f"frozen for {seconds}")
        with gateway.frozen():
            await asyncio.sleep(seconds)

    def keys(self, channel: str) -> list[str]:
        return [f"{self.prefix}:{{{channel}}}:{name}" for name in ("meta", "stream", "keys")]

    async def lose_history(self) -> None:
        channel = self.chance.choice([*SHARED, "read:a"] if self.chance.random() < 0.3 else SHARED)
        how = self.chance.choice(["remove", "trim", "delete", "delete"])
        if how == "remove":
            await self.api("history_remove", channel=channel)
        elif how == "trim":
            self.store.execute_command("XTRIM", self.keys(channel)[1], "MAXLEN", 2)
        else:
            self.store.delete(*self.keys(channel))
        self.note(f"history of {channel}: {how}")

    async def from_the_server(self) -> None:
        user, what = (
            self.chance.choice(USERS),
            self.chance.choice(["subscribe", "subscribe", "unsubscribe", "disconnect", "refresh", "revoke"]),
        )
        if what == "subscribe":
            channel = self.chance.choice(SHARED)
            request: dict[str, Any] = {"user": user, "channel": channel}
            if self.chance.random() < 0.5 and (place := self.place(channel)) is not None:
                request["recover_since"] = {"epoch": place[0], "offset": place[1]}
            await self.api("subscribe", **request)
        elif what == "unsubscribe":
            await self.api("unsubscribe", user=user, channel=self.chance.choice(SHARED))
        elif what == "disconnect":
            await self.api("disconnect", user=user)
        elif what == "refresh":
            await self.api("refresh", user=user, expire_at=int(time.time() + 600))
        elif self.chance.random() < 0.4:
            await self.api("revoke", user=user, issued_before=int(time.time()))
        self.note(f"from the server: {what} {user}")

    async def read_durably(self) -> None:
        """A durable reader of read:a settles, rejects or leaves what it is given."""
        async with Reader(self.url, group="group", channels=["read:a"], prefix=self.prefix, unacknowledged=50, deliveries=100) as reader:
            async for delivery in reader:
                place = delivery.epoch, delivery.offset
                if self.handled.get(place) in ("settled", "dead"):
                    continue
                self.handled[place] = ""
                what = self.chance.choice(["settled", "settled", "dead", "pending"])
                if what == "settled":
                    await delivery.ack()
                elif what == "dead":
                    await delivery.reject("no")
                self.handled[place] = what

    async def notify(self) -> None:
        user = self.chance.choice(USERS)
        self.number += 1
        number, began = self.number, int(time.time() * 1000)
        id = f"i{self.chance.randint(1, 9)}"
        result = await self.api("notify", user=user, data={"id": id, "n": number})
        self.unread[user, id] = True if result else None
        if result and result.get("offset"):
            channel = f"notifications:{user}"
            self.ids[number] = id
            self.published[number] = Published(number, channel, result["epoch"], result["offset"], "", began, int(time.time() * 1000))
        player = self.someone("websocket")
        if player is not None and self.chance.random() < 0.5 and player.goes.is_set():
            id = f"i{self.chance.randint(1, 9)}"
            answer = await player.ask("rpc", method="inbox.read", data={"ids": [id]})
            self.unread[player.user, id] = False if answer and "rpc" in answer else None

    # Questions.

    async def why(self, user: str, each: Published, epoch: str) -> dict[str, Any] | None:
        gateway, operator = self.chance.choice(self.gateways), self.operator
        assert operator is not None
        body = {"user": user, "channel": each.channel, "offset": each.offset, "epoch": epoch}
        headers = operator.headers
        try:
            answer = await asyncio.to_thread(send, gateway, "POST", "/admin/api/why", body, headers)
        except Exception:
            return None
        found = answer.json
        if answer.status != 200 or "result" not in found:
            self.note(f"why refused: {answer.status} {found}")
            return None
        return found["result"]

    def has(self, user: str, each: Published) -> bool:
        return (user, each.channel, each.epoch, each.offset) in self.received or (user, each.number) in self.by_number

    async def question(self, calm: bool) -> None:
        if not self.published:
            return
        known = list(self.published.values())
        recent = self.chance.random() < 0.7
        each = self.chance.choice(known[-40:] if recent else known)
        own = each.channel.partition(":")[2]
        given = [user for user in USERS if self.has(user, each)]
        user = self.chance.choice(given) if given and self.chance.random() < 0.5 else self.chance.choice(USERS)
        user = own if own in USERS and self.chance.random() < 0.5 else user
        before, there = self.has(user, each), {p.client for p in self.players if p.user == user and p.connected}
        found = await self.why(user, each, each.epoch)
        if found is None:
            return
        if not calm:
            await asyncio.sleep(0.3)
        after = self.has(user, each)
        verdict = found["verdict"]
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        if verdict == "not delivered" and before and self.lost_by_kill(user):
            self.killed += 1
        elif verdict == "not delivered" and before:
            self.defect(
                "false NOT", f"{user} {each}: received by {self.received.get((user, each.channel, each.epoch, each.offset))}", found
            )
        if verdict == "delivered" and not after:
            if self.excused(user, each):
                self.soft += 1
            else:
                self.defect("false DELIVERED", f"{user} {each}", found)
        if verdict == "unknown":
            for finding in found["findings"]:
                if finding.get("ok") is None and finding["kind"] not in ("inbox", "reader", "limit"):
                    words = re.sub(r"[0-9a-f-]{20,}|\d+|0x\w+", "#", finding["text"])[:110] + (" [calm]" if calm else "")
                    self.doubts[words] = self.doubts.get(words, 0) + 1
        for finding in found["findings"]:
            self.check(user, each, finding, found, calm, there)

    def lost_by_kill(self, user: str) -> bool:
        """Whether a process was killed that a client of the user had just come to: its event was not written yet."""
        return any(p.user == user and any(-50 <= at - p.touched <= 400 for at in self.kills) for p in [*self.players, *self.past])

    def excused(self, user: str, each: Published) -> bool:
        """Whether a client of the user may have been written it and have left without reading."""
        return any(p.user == user and p.risk for p in [*self.players, *self.past])

    def defect(self, kind: str, text: str, answer: dict[str, Any]) -> None:
        self.defects.append(Defect(kind, text, answer))
        self.log(f"!! seed {self.seed} {kind}: {text}\n   {json.dumps(answer)}")
        with open(self.folder / f"defect{self.seed}.txt", "a") as file:
            file.write(f"\n==== {kind}: {text}\n{json.dumps(answer, indent=1)}\n" + "\n".join(self.trace[-150:]))

    def player(self, client: str) -> Player | None:
        return next((p for p in [*self.players, *self.past] if p.client == client), None)

    def check(self, user: str, each: Published, finding: dict[str, Any], answer: dict[str, Any], calm: bool, there: set[str]) -> None:
        text, kind = finding["text"], finding["kind"]
        player = self.player(finding.get("client", ""))
        key = each.channel, each.epoch
        got = player.got.get(key, set()) if player is not None else set()
        if match := re.search(r"was written every publication from (\d+) to (\d+)", text):
            first, last = int(match[1]), int(match[2])
            if player is not None and not player.risk and finding.get("ok") is True:
                missing = [n for n in range(first, last + 1) if n not in got]
                if missing and "filter" not in text and calm and not each.channel.startswith("unrecoverable"):
                    self.defect("false range", f"{player.client} of {user} lacks {missing} in {key}: {text}", answer)
        if (
            finding.get("ok") is False
            and kind in ("subscription", "past")
            and "subscribed later" not in text
            and "after a gap" not in text
            and "another life" not in text
            and "was away" not in text
            and player is not None
        ):
            if each.offset in got and player.user == user:
                self.defect("false finding", f"{player.client} has {each}: {text}", answer)
        if kind == "filter" and finding.get("ok") is False and player is not None and each.offset in got:
            self.defect("false filter", f"{player.client} has {each}: {text}", answer)
        if kind == "publication" and finding.get("at_ms") and not each.began - 3 <= finding["at_ms"] <= each.ended + 3:
            self.defect("false time", f"{each}: {finding}", answer)
        if kind == "publication" and text.startswith("there is no publication"):
            self.defect("false never", f"{each}: {text}", answer)
        if kind == "reader" and calm:
            self.check_reader(each, text, answer)
        if kind == "inbox" and calm and each.number in self.ids and "no notification" not in text:
            unread = self.unread.get((user, self.ids[each.number]))
            if unread is not None and ("is unread" in text) is not unread:
                self.defect("false inbox", f"{each} is unread: {unread}: {text}", answer)
        if calm and text == "the user has no connection now":
            alive = [p.client for p in self.players if p.user == user and p.connected and p.goes.is_set() and not p.risk]
            if alive:
                self.defect("false absence", f"{user} has {alive}", answer)
        if (
            calm
            and player is not None
            and "is connected, and not subscribed" in text
            and each.channel in player.following
            and not each.channel.startswith(("mine", "notif"))
            and not player.risk
        ):
            self.defect("false not subscribed", f"{player.client} follows {each.channel}", answer)
        if match := re.search(r"its connection ended with (\d+)", text):
            if player is not None and player.code and player.code != 1000 and int(match[1]) != player.code:
                self.defect("false code", f"{player.client} saw {player.code}: {text}", answer)
        if "was away" in text and match and finding.get("at_ms", 0) > each.ended + 50 and "before the publication" in text:
            self.defect("false away", f"{each} was made before it ended: {text}", answer)

    def check_reader(self, each: Published, text: str, answer: dict[str, Any]) -> None:
        what = self.handled.get((each.epoch, each.offset))
        said = {"has settled it": "settled", "dead letter": "dead", "has not acknowledged it": "pending", "was not given it yet": None}
        found = next((state for words, state in said.items() if words in text), "other")
        if what != "" and found != what and found != "other":
            self.defect("false reader", f"{each} is {what}: {text}", answer)
        if found == "other":
            self.doubts[f"READER {what} {text[:80]}"] = self.doubts.get(f"READER {what} {text[:80]}", 0) + 1

    async def questions(self, count: int, calm: bool) -> None:
        if calm:
            self.chats.clear()
            await asyncio.sleep(0.5)
        for _ in range(count):
            await self.question(calm)
        self.chats.set()

    def bury(self) -> None:
        for player in list(self.players):
            if player.over:
                self.players.remove(player)
                self.past.append(player)

    async def play(self, seconds: float) -> None:
        acts = {
            self.connect: 14,
            self.subscribe: 30,
            self.unsubscribe: 5,
            self.publish: 30,
            self.publish_big: 4,
            self.stop_reading: 7,
            self.read_again: 12,
            self.end_one: 7,
            self.kill_gateway: 0.8,
            self.cut_links: 1.5,
            self.freeze: 1,
            self.lose_history: 3,
            self.from_the_server: 4,
            self.notify: 5,
        }
        until = time.monotonic() + seconds
        await self.start()
        self.chats = asyncio.Event()
        self.chats.set()
        others = [asyncio.create_task(self.read_durably()), asyncio.create_task(self.chat())]
        try:
            while time.monotonic() < until:
                for act in self.chance.choices(list(acts), list(acts.values()), k=self.chance.choice([3, 10, 25])):
                    await act()
                    self.bury()
                    if self.chance.random() < 0.05:
                        await self.question(False)
                await self.questions(self.chance.choice([4, 10]), True)
        finally:
            for other in others:
                other.cancel()
            await self.stop()
