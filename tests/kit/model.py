"""A naive model of recovery: one channel in a Valkey of twenty lines, whose every step the test decides.

Between a client's act and its effect lie steps that really happen in any order: Valkey executes what the gateway sent,
the link's messages arrive, a reply arrives. Here each is one action, so that a test can try every order. ``Follower`` is
a client that checks, publication by publication, what it is promised: each once, in order, and no hole without a word.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

import gateway.live.fanout
import gateway.live.hub
import gateway.runtime.backoff
from gateway.config import Config
from gateway.errors import Unavailable
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.subscription import State, Subscription
from gateway.live.wire_formats import ChannelView, Wire
from gateway.publication import Position, Publication
from gateway.store.history import Page
from gateway.store.layout import Layout

NAME = "posts:model"
KEY = Layout("gw").channel(NAME)
CONFIG = Config()  # made once: it costs more than an order of events


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once, and rounds of the fan-out and notices of a gap cut after every subscriber, so that everything can come in between."""
    monkeypatch.setattr(gateway.runtime.backoff, "backoff", lambda *delays: 0.0)
    monkeypatch.setattr(gateway.live.fanout, "SLICE", 1)
    monkeypatch.setattr(gateway.live.hub, "NOTIFIED_AT_ONCE", 1)


class ModelValkey:
    """The stream, and three queues: what the gateway asked, what the link will bring, which replies are on their way."""

    def __init__(self) -> None:
        self.epoch = 1
        self.stream: list[tuple[int, bytes]] = []
        self.top = 0
        self.subscribed = False
        self.link_up = True
        self.wanted: list[bytes] = []  # what the link asks for again when it is back
        self.asked: deque[tuple[str, Any]] = deque()
        self.messages: deque[tuple[str, bytes]] = deque()
        self.replies: deque[tuple[asyncio.Future[Page], Page | None]] = deque()
        self.truth: dict[tuple[str, int], bytes] = {}
        self.forgot = False
        self.count = 0

    # What the hub calls.

    def subscribe(self, channels: list[bytes]) -> None:
        self.wanted = channels
        if self.link_up and channels:
            self.asked.append(("subscribe", None))

    def unsubscribe(self, channels: list[bytes]) -> None:
        if channels:
            self.wanted = []
        if self.link_up and channels:
            self.asked.append(("unsubscribe", None))

    def hold_reading(self, hold: bool) -> None:
        """Nothing is announced here faster than it is handled."""

    async def read(self, channel: str, since: int = 0, limit: int = 0, *, reverse: bool = False, seen: Any = None) -> Page:
        future: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self.asked.append(("read", (future, since, min(limit, 2))))
        return await future

    def begin_position(self, waiter: Any, channel: str) -> None:
        self.asked.append(("read", (waiter, 0, 0)))

    # What happens.

    def publish(self) -> None:
        self.top += 1
        self.count += 1
        data = self.document()
        self.stream.append((self.top, data))
        self.truth[f"e{self.epoch}", self.top] = data
        if self.subscribed:
            self.messages.append(("message", b"@%d e%d 7\n%b" % (self.top, self.epoch, data)))

    def document(self) -> bytes:
        return b"%d" % self.count

    def trim(self) -> None:
        self.stream.clear()
        self.forgot = True

    def lose_everything(self) -> None:
        self.epoch += 1
        self.top = 0
        self.stream.clear()
        self.forgot = True

    def execute(self) -> None:
        """Valkey comes to the oldest thing it was asked."""
        kind, details = self.asked.popleft()
        if kind == "subscribe":
            self.subscribed = True
            self.messages.append(("confirmed", KEY))
        elif kind == "unsubscribe":
            self.subscribed = False
        else:
            future, since, limit = details
            entries = [Publication(offset, data, 7) for offset, data in self.stream if offset > since][:limit]
            self.replies.append((future, Page(Position(f"e{self.epoch}", self.top), 7, entries)))

    def fail_read(self) -> None:
        """The connection broke before the reply."""
        future, _ = self.replies.popleft()
        self.replies.appendleft((future, None))
        self.arrive()

    def arrive(self) -> None:
        future, page = self.replies.popleft()
        if not future.done():
            if page is None:
                future.set_exception(Unavailable("lost"))
            else:
                future.set_result(page)


class ModelWire:
    def join(self, channel: ChannelView, publications: list[Publication]) -> tuple[str, list[Publication]]:
        return channel.epoch, list(publications)


WIRE = ModelWire()


class Follower(Subscription):
    """A client that checks what it gets. ``position`` survives it, as in an SDK."""

    __slots__ = ("client",)

    def __init__(self, client: Client, channel: Channel, since: Position | None) -> None:
        super().__init__(channel, client.wire, client.receive, since)
        self.client = client

    @property
    def paused(self) -> bool:
        return self.client.full

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        self.client.begun(self, recovered, publications)

    def gap(self) -> None:
        self.client.told_of_gap(self.channel.position)


class Recorder(Subscription):
    """Records what it is given in ``events``: "recovered" or "begin", "gap", and of each publication its offset, or its number if it has no place.

    ``full``: its socket is.
    """

    __slots__ = ("events", "full")

    def __init__(self, channel: Channel, since: Position | None = None, wire: Wire = WIRE, *, full: bool = False) -> None:
        super().__init__(channel, wire, self.take, since)
        self.events: list[Any] = []
        self.full = full

    @property
    def paused(self) -> bool:
        return self.full

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        self.events.append("recovered" if recovered else "begin")
        self.take(("", publications))

    def gap(self) -> None:
        self.events.append("gap")

    def take(self, joined: tuple[str, list[Publication]]) -> None:
        self.events += [publication.offset or int(publication.data) for publication in joined[1]]


class Client:
    wire: Wire = WIRE

    def __init__(self, world: World) -> None:
        self.world = world
        self.follower: Follower | None = None
        self.known: Position | None = None
        self.full = False
        self.log: list[str] = []

    def subscribe(self) -> None:
        self.follower = Follower(self, self.world.hub.channel(NAME), self.known)
        self.world.hub.follow(self.follower)

    def disconnect(self) -> None:
        assert self.follower is not None
        self.world.hub.end(self.follower)
        self.follower = None

    def toggle_socket(self) -> None:
        self.full = not self.full
        if self.follower is None:
            return
        if self.full:
            self.follower.fall_behind()
        else:
            self.world.hub.drained(self.follower)

    # What arrives.

    def begun(self, follower: Follower, recovered: bool, publications: list[Publication]) -> None:
        position = Position(follower.epoch or "", follower.offset)
        if recovered:
            assert self.known is not None and position.offset == self.known.offset
        elif self.known is not None:
            self.told_of_gap(position)
        self.known = position
        self.receive((position.epoch, publications))

    def told_of_gap(self, position: Position) -> None:
        assert self.world.valkey.forgot, f"told of a gap though history holds everything: {self.world.trail}"
        self.log.append(f"gap {position}")
        self.known = position

    def receive(self, joined: tuple[str, list[Publication]]) -> None:
        epoch, publications = joined
        for publication in publications:
            assert self.known is not None, f"a publication before the subscription began: {self.world.trail}"
            expected = self.known.offset + 1
            assert (epoch, publication.offset) == (self.known.epoch, expected), (
                f"got {epoch}:{publication.offset} after {self.known}: {self.world.trail}"
            )
            assert publication.data == self.world.valkey.truth[epoch, publication.offset]
            self.known = Position(epoch, publication.offset)
            self.log.append(str(self.known))


class World:
    """A hub on a model Valkey with two clients, or others. Make it inside a running loop."""

    def __init__(
        self, config: Config | None = None, valkey: ModelValkey | None = None, clients: Sequence[type[Client]] = (Client, Client)
    ) -> None:
        self.valkey = valkey or ModelValkey()
        self.hub = Hub(config or CONFIG, Layout("gw"), self.valkey, self.valkey, self)
        self.clients = [client(self) for client in clients]
        self.trail: list[str] = []

    def on_missed_ephemeral(self, channel: Channel) -> None:
        """Nothing in the model announces lost ephemeral publications again."""

    def possible(self) -> list[str]:
        """The actions that would do something now."""
        valkey = self.valkey
        actions = ["publish", "link", "trim", "lose"]
        actions += ["execute"] * bool(valkey.asked) + ["arrive", "fail"] * bool(valkey.replies) + ["message"] * bool(valkey.messages)
        actions += ["drop"] * bool(valkey.messages and valkey.messages[0][0] == "message")
        for number, client in enumerate(self.clients):
            actions += [f"socket{number}", f"leave{number}" if client.follower else f"subscribe{number}"]
        return actions

    def do(self, action: str) -> None:
        self.trail.append(action)
        valkey = self.valkey
        if action == "publish":
            valkey.publish()
        elif action == "trim":
            valkey.trim()
        elif action == "lose":
            valkey.lose_everything()
        elif action == "execute":
            valkey.execute()
        elif action == "arrive":
            valkey.arrive()
        elif action == "fail":
            valkey.fail_read()
        elif action == "message":
            self._bring_message()
        elif action == "drop":
            valkey.messages.popleft()  # lost without a sign: only the next one shows the hole
        elif action == "link":
            self._toggle_link()
        else:
            verb, client = action[:-1], self.clients[int(action[-1])]
            {"socket": client.toggle_socket, "leave": client.disconnect, "subscribe": client.subscribe}[verb]()

    def _bring_message(self) -> None:
        kind, body = self.valkey.messages.popleft()
        if kind == "confirmed":
            self.hub.on_subscribed(body)
        else:
            self.hub.on_announcements({KEY: [body]})

    def _toggle_link(self) -> None:
        valkey = self.valkey
        valkey.link_up = not valkey.link_up
        if valkey.link_up:
            valkey.subscribe(valkey.wanted)
        else:
            valkey.subscribed = False
            valkey.messages.clear()
            valkey.asked = deque(item for item in valkey.asked if item[0] == "read")
            self.hub.on_lost()

    async def steps(self, count: int) -> None:
        """Lets the gateway's own work go on for so many turns of the loop."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def heal(self) -> None:
        """Everything works again, and nothing is left under way: now everybody must be at the top."""
        if not self.valkey.link_up:
            self.do("link")
        for client in self.clients:
            if client.full:
                client.toggle_socket()
        await self._let_everything_arrive()
        if not {"drop", "lose"} & set(self.trail):
            self._check_that_all_are_at_the_top()
        self.do("publish")  # it shows what was lost without a sign until then
        await self._let_everything_arrive()
        self._check_that_all_are_at_the_top()

    def _check_that_all_are_at_the_top(self) -> None:
        for client in self.clients:
            if client.follower is not None:
                assert client.follower.state is State.LIVE, f"{client.follower.state} at the end: {self.trail}"
                top = Position(f"e{self.valkey.epoch}", self.valkey.top)
                assert client.known == top, f"stands at {client.known}, not {top}: {self.trail}"

    async def _let_everything_arrive(self) -> None:
        valkey = self.valkey
        for _ in range(400):
            await self.steps(4)
            if valkey.asked:
                valkey.execute()
            elif valkey.replies:
                valkey.arrive()
            elif valkey.messages:
                self._bring_message()
            elif self._settled():
                break
        await self.steps(4)

    def _settled(self) -> bool:
        return all(client.follower is None or client.follower.state is State.LIVE for client in self.clients)

    async def close(self) -> None:
        await self.hub.close()
