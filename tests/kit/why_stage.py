"""The stage of the play against Why?: gateways of one prefix, and what happens to them and their clients, by chance.

Stage   the acts: clients come, follow and go, publications, faults of sockets, processes, links and histories
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
import urllib.parse
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import valkey

from gateway.work import Reader

from .clients import Socket
from .gateways import RunningGateway, launch
from .operators import WITH_CONSOLE, Operator, log_in
from .tokens import ticket, token
from .why_players import Player, Published

__all__ = ["LANGUAGES", "SHARED", "USERS", "Stage"]

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


class Stage:
    """One play. ``chance`` decides nearly everything, by ``seed``; ``trace`` has what happened."""

    def __init__(self, folder: Path, store: valkey.Valkey, url: str, seed: int) -> None:
        self.folder, self.store, self.url, self.seed = folder, store, url, seed
        self.chance = random.Random(seed)
        self.prefix = f"w{seed}x{int(time.time())}"
        self.gateways: list[RunningGateway] = []
        self.recorded: list[bool] = []
        self.players: list[Player] = []
        self.opened: list[Socket] = []
        self.past: list[Player] = []
        self.received: dict[tuple[str, str, str, int], str] = {}
        self.by_number: set[tuple[str, int]] = set()
        self.published: dict[int, Published] = {}
        self.number = 0
        self.kills: list[float] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.operator: Operator | None = None
        self.trace: list[str] = []
        self.launched = 0
        self.handled: dict[tuple[str, int], str] = {}  # of the durable reader: what it did with which publication
        self.unread: dict[tuple[str, str], bool | None] = {}  # user, notification → None where it is not known
        self.ids: dict[int, str] = {}  # notifications of publications

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def note(self, text: str) -> None:
        self.trace.append(f"{time.time():.3f} {text}")

    async def http(self, gateway: RunningGateway, method: str, path: str, body: bytes) -> Any:
        try:
            return await asyncio.to_thread(gateway.http, method, path, body)
        except Exception:
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
        for opened in self.opened:
            opened.writer.transport.abort()
        await asyncio.sleep(0.1)
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
                self.opened.append(player.raw)
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
