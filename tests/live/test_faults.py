"""Faults, end to end: whatever dies, every follower has each acknowledged publication once and in order, or was told of a gap.

A scene is a publisher that never stops, with idempotency keys, and followers that come back as an SDK and a browser do:
two that stay on their sockets while they can, two that leave theirs again and again, half of the time without a word. The
fault happens meanwhile. Each scene has a Valkey of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import valkey
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from gateway.config import Config
from gateway.errors import Unavailable
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.subscription import Subscription
from gateway.publication import Position, Publication
from gateway.store.embedded import EmbeddedServer, socket_path
from gateway.store.history import Page
from gateway.store.layout import Layout
from publishers.publisher import Publisher

from ..conftest import RunningGateway, Start, until
from ..kit.clients import Socket, Stream, client, read_events
from ..kit.model import WIRE

RULES = """
[namespaces.endless]
history_size = -1
history_ttl = ""
"""
SCENE_SECONDS = 40.0
PACE_SECONDS = 0.002  # between publications
COMES_BACK_SECONDS = 0.02  # a client's wait before it tries again
RESTLESS_AFTER = 25  # publications on one socket
LOST = (OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)


# Who follows.


class Follower:
    """What one client has: the numbers of the documents it got, and where it was told of a gap."""

    def __init__(self, name: str, channel: str, where: Callable[[], RunningGateway], *, restless: bool) -> None:
        self.name = name
        self.channel = channel
        self.user = f"{name} {channel[-8:]}"  # whose inbox no other test emptied
        self.where = where
        self.restless = restless
        self.position: Position | None = None
        self.got: list[tuple[int, Position]] = []
        self.gaps: list[int] = []  # how many publications it had when it was told
        self.connections = 0
        self.jump = 0  # its next connection comes with this offset
        self._leaves_at = 0

    @property
    def last(self) -> int:
        return self.got[-1][0] if self.got else -1

    async def run(self) -> None:
        while True:
            self._leaves_at = len(self.got) + RESTLESS_AFTER
            if self.jump and self.position is not None:
                self.position, self.jump = self.position._replace(offset=self.jump), 0
            with contextlib.suppress(*LOST):
                await self.follow()
                continue
            await asyncio.sleep(COMES_BACK_SECONDS)

    async def follow(self) -> None:
        """One connection, until it ends."""
        raise NotImplementedError

    @property
    def has_enough(self) -> bool:
        return self.restless and len(self.got) >= self._leaves_at

    def begin(self, position: Position, *, gap: bool) -> None:
        if gap:
            self.gaps.append(len(self.got))
        elif self.position is not None:
            assert position.epoch == self.position.epoch, f"{self.name}: another epoch, and no gap was told"
        if gap or self.position is None:
            self.position = position

    def take(self, offset: int, data: Any, epoch: str = "") -> None:
        assert self.position is not None
        assert not epoch or epoch == self.position.epoch, f"{self.name}: {epoch} after {self.position}"
        assert offset == self.position.offset + 1, f"{self.name}: offset {offset} after {self.position}"
        self.position = Position(self.position.epoch, offset)
        self.got.append((data["n"], self.position))

    def __repr__(self) -> str:
        return f"<{self.name}: at {self.position}, document {self.last}, {self.connections} connections, gaps {self.gaps}>"


class SocketFollower(Follower):
    async def follow(self) -> None:
        async with client(self.where(), self.user, max_queue=None) as wire:  # with a queue the library does not read the close frame
            self.connections += 1
            await self._subscribe(wire)
            while not self.has_enough:
                push = (await wire.next(SCENE_SECONDS)).get("push", {})
                if "pub" in push:
                    self.take(push["pub"]["offset"], push["pub"]["data"])
                elif "unsubscribe" in push:
                    assert push["unsubscribe"]["code"] >= 2500, push
                    await self._subscribe(wire)
                else:
                    raise AssertionError(f"not expected: {push}")
            if self.connections % 2:
                wire.connection.transport.abort()

    async def _subscribe(self, wire: Any) -> None:
        came_back = self.position is not None
        since = {"recover": True, "epoch": self.position.epoch, "offset": self.position.offset} if self.position else {}
        result = (await wire.ask("subscribe", seconds=SCENE_SECONDS, channel=self.channel, **since)).get("subscribe")
        assert result is not None
        assert result.get("was_recovering", False) is came_back
        self.begin(Position(result["epoch"], result.get("offset", 0)), gap=came_back and not result.get("recovered", False))
        for publication in result.get("publications", []):
            self.take(publication["offset"], publication["data"])


class StreamFollower(Follower):
    async def follow(self) -> None:
        gateway = self.where()
        mark = f"Last-Event-ID: {self.position}\r\n" if self.position else ""
        async with Socket(*await asyncio.open_connection("127.0.0.1", gateway.port)) as raw:
            head = f"GET /sse?channel={self.channel} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {gateway.token(self.user)}\r\n{mark}\r\n"
            await raw.send(head.encode())
            events = Stream(raw, *await raw.head())
            assert events.status == 200
            self.connections += 1
            while not self.has_enough:
                await events.until(lambda it: it.over or b"\n\n" in it.body, SCENE_SECONDS)
                if events.over:
                    return
                end = events.body.rindex(b"\n\n") + 2
                for event in read_events(bytes(events.body[:end])).events:
                    self._take_event(event)
                del events.body[:end]
            if self.connections % 2:
                raw.writer.transport.abort()

    def _take_event(self, event: Any) -> None:
        if event.name == "refused":
            raise AssertionError(event.data)
        assert event.had_id
        position = Position.parse(event.id)
        if event.name == "connected":
            if self.position is None:
                self.begin(position, gap=False)
        elif event.name == "gap":
            self.begin(position, gap=True)
        else:
            self.take(event.data["offset"], event.data["data"], position.epoch)
            assert self.position == position, "the id is the position behind this publication"


# The scene.


class Scene:
    def __init__(self, publisher: Publisher, channel: str, followers: list[Follower]) -> None:
        self.channel = channel
        self.followers = followers
        self.acknowledged: list[Position] = []
        self._publisher = publisher
        self._enough = False

    @property
    def steady(self) -> list[Follower]:
        return [follower for follower in self.followers if not follower.restless]

    async def publish(self) -> None:
        while not self._enough:
            number = len(self.acknowledged)
            position = await self._publisher.publish(self.channel, {"n": number}, idempotency_key=f"n{number}")
            assert position is not None
            self.acknowledged.append(position)
            await asyncio.sleep(PACE_SECONDS)

    async def goes_on(self, count: int = 60) -> None:
        """Until every follower has so many publications more than there are now."""
        target = len(self.acknowledged) + count
        try:
            await until(lambda: all(follower.last >= target for follower in self.followers), f"document {target}", SCENE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"document {target} of {len(self.acknowledged)} did not come to all: {self.followers}") from None

    async def end(self, *, gaps: int | dict[str, int] = 0) -> None:
        """Until everybody has everything. ``gaps`` is how many each of them, or those named, have to be told of."""
        await self.goes_on()
        self._enough = True
        newest = len(self.acknowledged)  # one more may be on its way
        await until(lambda: all(f.last >= newest - 1 for f in self.followers), f"the last documents: {self.followers}", 10)
        for follower in self.followers:
            self._check(follower, gaps if isinstance(gaps, int) else gaps.get(follower.name, 0))

    def _check(self, follower: Follower, gaps: int) -> None:
        assert len(follower.gaps) == gaps, follower
        numbers = [number for number, _ in follower.got]
        assert numbers[0] == 0, follower
        for place, (before, after) in enumerate(pairwise(numbers), 1):
            assert after > before, f"{follower}: {after} after {before}"
            assert after == before + 1 or place in follower.gaps, f"{follower}: {after} after {before}, and no gap was told"
        for number, position in follower.got:
            if number < len(self.acknowledged):
                assert self.acknowledged[number] == position, f"{follower}: document {number}"


@contextlib.asynccontextmanager
async def scene(url: str, *where: Callable[[], RunningGateway], restless_only: bool = False) -> AsyncIterator[Scene]:
    """In a channel of its own. ``where`` says where a follower finds its gateway now; with several, each connection goes to the next."""

    def next_of(number: int) -> Callable[[], RunningGateway]:
        turn = iter(range(number, 10**9))
        return lambda: where[next(turn) % len(where)]()

    channel = f"endless:{secrets.token_hex(4)}"
    kinds = (SocketFollower, StreamFollower)
    followers: list[Follower] = [kind(f"restless {kind.__name__}", channel, next_of(i), restless=True) for i, kind in enumerate(kinds)]
    followers += [kind(f"steady {kind.__name__}", channel, next_of(i), restless=restless_only) for i, kind in enumerate(kinds)]
    async with (
        asyncio.timeout(SCENE_SECONDS),
        Publisher(url, prefix=where[0]().prefix, patience=20) as publisher,
        asyncio.TaskGroup() as group,
    ):
        here = Scene(publisher, channel, followers)
        tasks = [group.create_task(follower.run()) for follower in followers]
        await until(lambda: all(follower.position for follower in followers), "everybody subscribed")
        tasks.append(group.create_task(here.publish()))
        await here.goes_on(30)
        yield here
        for task in tasks:
            task.cancel()


class OwnValkey:
    """A Valkey of the test's own; ``ask`` sends it a command at once, past everybody else."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.path = socket_path(data_dir)
        self.url = f"unix://{self.path}"
        self.client = valkey.Valkey(unix_socket_path=str(self.path), socket_timeout=5)

    def pid(self) -> int:
        return int(self.client.info("server")["process_id"])

    def ask(self, *words: Any) -> Any:
        return self.client.execute_command(*words)

    def empty(self) -> None:
        with self.client.pipeline(transaction=True) as together:
            together.execute_command("FLUSHALL")
            together.execute_command("FUNCTION", "FLUSH")
            together.execute()

    def kill_links(self) -> int:
        return self.ask("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[OwnValkey]:
    """Not started: a gateway on its ``data_dir`` does that. Ended afterwards, should the gateway have left it."""
    own = OwnValkey(tmp_path / "own")
    yield own
    with contextlib.suppress(valkey.exceptions.ConnectionError):
        own.client.shutdown(nosave=True)
    own.client.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnValkey]:
    """Started, and this module's only: gateways know it by its URL."""
    folder = tmp_path_factory.mktemp("faults") / "own"
    server = EmbeddedServer(folder)
    server.start()
    own = OwnValkey(folder)
    pid = own.pid()
    yield own
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    own.client.close()
    server.stop()


@pytest.fixture(scope="module")
def gateway(own: OwnValkey, start_gateway_once: Start) -> RunningGateway:
    """On ``own``, for all tests in which the gateway itself survives."""
    return start_gateway_once(RULES, valkey_url=own.url)


async def _started(start: Start, toml: str = RULES, **options: Any) -> RunningGateway:
    """Without stopping the loop: publisher and followers go on meanwhile."""
    return await asyncio.to_thread(start, toml, **options)


def _nobody_noticed(here: Scene) -> None:
    assert [follower.connections for follower in here.steady] == [1, 1], here.followers


# A gateway dies.


async def test_the_gateway_is_killed_and_started_again(embedded: OwnValkey, start_gateway: Start) -> None:
    """It adopts the Valkey that it left; that one is killed then, which is not the gateway's child any more."""
    gateway = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir)
    current = [gateway]
    async with scene(embedded.url, lambda: current[0]) as here:
        server = embedded.pid()
        gateway.stop(signal.SIGKILL)
        current[0] = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir, port=gateway.port)
        await here.goes_on()
        assert embedded.pid() == server, "the server was adopted"
        os.kill(server, signal.SIGKILL)
        await here.end()
        assert [follower.connections for follower in here.steady] == [2, 2]


async def test_one_of_two_workers_is_killed(own: OwnValkey, start_gateway: Start) -> None:
    gateway = await _started(start_gateway, "workers = 2\n" + RULES, valkey_url=own.url)
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")

    def workers() -> list[int]:
        return [int(word) for word in children.read_text().split()]

    async with scene(own.url, lambda: gateway) as here:
        first = workers()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        await here.goes_on()
        await until(lambda: len(workers()) == 2 and first[0] not in workers() and first[1] in workers(), "another takes its place")
        os.kill(first[1], signal.SIGKILL)  # so that everybody's was killed once
        await here.end()
        assert all(follower.connections >= 2 for follower in here.followers)


async def test_followers_move_between_two_gateways_on_one_valkey(
    own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start
) -> None:
    other = await _started(start_gateway_once, valkey_url=own.url)
    async with scene(own.url, lambda: gateway, lambda: other, restless_only=True) as here:
        await here.goes_on()
        assert own.kill_links() >= 2  # and while their links are gone, too
        await here.end()
        assert all(follower.connections >= 4 for follower in here.followers)


# A connection to Valkey dies.


async def test_the_link_is_killed_again_and_again(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        for _ in range(12):
            await until(own.kill_links, "the link is there")
            await here.goes_on(3)
        await here.end()
        _nobody_noticed(here)


async def test_the_command_connection_is_killed_again_and_again(own: OwnValkey, gateway: RunningGateway) -> None:
    """The publisher's too, which is named alike; its idempotency keys make its repeats harmless."""
    async with scene(own.url, lambda: gateway) as here:
        for round in range(12):
            named = [found for found in own.client.client_list() if found["name"] == "gateway" and found["sub"] == "0"]
            for found in named:
                with contextlib.suppress(valkey.exceptions.ResponseError):  # it went by itself
                    own.ask("CLIENT", "KILL", "ID", found["id"])
            if round % 3 == 0:
                own.kill_links()  # what the link lost is read over the other connection
            await here.goes_on(3)
        await here.end()
        _nobody_noticed(here)


# Valkey itself.


async def test_valkey_is_frozen_for_longer_than_a_link_may_be_silent(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        pid = own.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: "the link to valkey was silent" in gateway.log(), "the link is given up")
            status, _ = await asyncio.to_thread(gateway.http, "GET", "/health/ready")
            assert status == 503
        finally:
            os.kill(pid, signal.SIGCONT)
        await here.end()
        _nobody_noticed(here)


async def test_valkey_is_killed_and_the_gateway_starts_it_again(embedded: OwnValkey, start_gateway: Start) -> None:
    gateway = await _started(start_gateway, valkey_url=None, data_dir=embedded.data_dir)
    async with scene(embedded.url, lambda: gateway) as here:
        os.kill(embedded.pid(), signal.SIGKILL)
        await here.end()
        _nobody_noticed(here)


# History is gone, or older than it was.


async def test_valkey_comes_back_empty(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        own.empty()
        await here.end(gaps=1)
        _nobody_noticed(here)
    _load_rules(own, gateway)


def _load_rules(own: OwnValkey, gateway: RunningGateway) -> None:
    """For the tests behind: a publisher was the first to load the functions again, and knows the built-in rules only."""
    own.empty()
    gateway.publish("endless:rules", 1)


async def test_an_emptied_valkey_gets_the_gateways_rules_back(own: OwnValkey, gateway: RunningGateway) -> None:
    """A publisher may be faster than the gateway, and loads the functions with the built-in rules; that must not stay so."""
    own.empty()
    gateway.publish("endless:rules", 1)  # here the gateway is the first
    digest = own.ask("FCALL", "gateway_rules", 0)
    async with Publisher(own.url, prefix=gateway.prefix) as publisher:
        own.empty()
        await publisher.publish("endless:rules", 2)
        own.kill_links()  # as whenever Valkey itself was started again
        try:
            await until(lambda: own.ask("FCALL", "gateway_rules", 0) == digest, "the gateway's rules", 3)
        except TimeoutError:
            raise AssertionError("the built-in rules stay in force: the unlimited namespace keeps 100 publications for 5 minutes") from None
        finally:
            _load_rules(own, gateway)


def _keys(prefix: str, channel: str) -> list[str]:
    return [f"{prefix}:{{{channel}}}:{part}" for part in ("meta", "stream", "keys")]


def _save(own: OwnValkey, keys: list[str]) -> list[bytes]:
    with own.client.pipeline(transaction=True) as together:
        for key in keys:
            together.dump(key)
        return together.execute()


@pytest.mark.parametrize("published", [0, 500], ids=["behind what was seen", "past what was seen"])
async def test_valkey_comes_back_rewound(own: OwnValkey, gateway: RunningGateway, published: int) -> None:
    """As after a failover: links are lost, and the history is an older one, perhaps with other publications at the same offsets."""
    async with scene(own.url, lambda: gateway) as here:
        keys = _keys(gateway.prefix, here.channel)
        older = _save(own, keys)
        await here.goes_on()
        epoch = here.acknowledged[-1].epoch
        with own.client.pipeline(transaction=True) as together:
            together.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            for key, value in zip(keys, older, strict=True):
                together.restore(key, 0, value, replace=True)
            for _ in range(published):
                together.execute_command("FCALL", "gateway_publish", 3, *keys, '{"n": -1}')
            together.execute()
        await here.end(gaps=1)
        _nobody_noticed(here)
        assert here.acknowledged[-1].epoch != epoch


# A follower is ahead of its gateway.


class Proxy:
    """In front of a Valkey; ``hold`` keeps what it sends to subscribed connections from arriving."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._path))
        subscribed = False

        async def ask() -> None:
            nonlocal subscribed
            while part := await reader.read(2**16):
                subscribed = subscribed or b"SUBSCRIBE" in part
                far_writer.write(part)

        async def answer() -> None:
            while part := await far_reader.read(2**16):
                if subscribed:
                    await self._flows.wait()
                writer.write(part)

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # asyncio's server does not expect it
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, far_writer):
                end.close()


async def test_followers_are_ahead_of_the_gateway_they_come_to(own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start) -> None:
    async with Proxy(own.path) as proxy:
        slow = await _started(start_gateway_once, valkey_url=proxy.url)
        async with scene(own.url, lambda: slow, lambda: gateway, restless_only=True) as here:
            await here.goes_on()
            for _ in range(3):
                proxy.hold()
                # Less than a silent link is given. Who comes to the slow gateway now is ahead of it, and brings it there.
                more = len(here.acknowledged) + 150
                await until(lambda more=more: len(here.acknowledged) >= more, "publications that the slow gateway is not told of")
                proxy.release()
                await here.goes_on(30)
            await here.end()
            assert "was silent" not in slow.log()
        slow.stop()  # before its way to Valkey ends


async def test_a_position_that_never_was_is_a_gap(own: OwnValkey, gateway: RunningGateway) -> None:
    async with scene(own.url, lambda: gateway) as here:
        jumping = [follower for follower in here.followers if follower.restless]
        for follower in jumping:
            follower.jump = 10**6
        await here.goes_on()
        await until(lambda: not any(follower.jump for follower in jumping), "both came back ahead of everybody")
        await here.end(gaps={follower.name: 1 for follower in jumping})
        _nobody_noticed(here)


# Small things that the faults above brought to light, each by itself.


async def test_a_publisher_waits_while_valkey_reads_its_file(tmp_path: Path) -> None:
    """A server that only speaks as Valkey does while it loads: nothing was carried out, so that a repeat is safe."""
    answers = [b"-LOADING Valkey is loading the dataset in memory\r\n", b"*2\r\n:1\r\n$1\r\ne\r\n"]
    ends: list[asyncio.StreamWriter] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        with contextlib.suppress(asyncio.CancelledError):
            while part := await reader.read(2**16):
                writer.write(answers.pop(0) if b"FCALL" in part else b"+OK\r\n")

    path = tmp_path / "s"
    server = await asyncio.start_unix_server(speak, path)
    try:
        async with Publisher(f"unix://{path}", patience=5) as publisher:
            assert await publisher.publish("endless:loading", 1, idempotency_key="k") == Position("e", 1)
    finally:
        server.close()
        for end in ends:
            end.close()


class NobodyAnnounces:
    """Ephemeral publications that may be lost concern nobody here."""

    def on_missed_ephemeral(self, channel: Channel) -> None: ...


class Unbegun(Subscription):
    """One whose channel never opens."""

    paused = False

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        raise AssertionError("the channel is closed")

    def gap(self) -> None:
        raise AssertionError("the channel is closed")


async def test_a_read_of_history_that_nobody_waits_for_any_more_fails_quietly() -> None:
    """Whoever asked for it left, then Valkey went: no traceback in the log."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    valkey_goes = asyncio.Event()

    class Reader:
        async def read(self, *words: Any, **options: Any) -> Page:
            await valkey_goes.wait()
            raise Unavailable("the connection to Valkey was lost")

    class Feed:
        def subscribe(self, channels: list[bytes]) -> None: ...

        def unsubscribe(self, channels: list[bytes]) -> None: ...

    hub = Hub(Config(), Layout("t"), Reader(), Feed(), NobodyAnnounces())
    channel = hub.channel("posts:a")
    asks = asyncio.create_task(hub.page(channel, 0))
    await until(lambda: channel.reads, "it is being read")
    asks.cancel()
    await asyncio.wait([asks])
    del asks
    valkey_goes.set()
    await until(lambda: not channel.reads, "the read is over")
    gc.collect()
    assert not complaints


async def test_who_leaves_while_valkey_is_away_leaves_nothing_behind() -> None:
    """A client that comes and goes all that time costs what one client does."""

    class Silent:
        async def read(self, *words: Any, **options: Any) -> Page:
            raise AssertionError("nothing is read before the link is subscribed")

        def subscribe(self, channels: list[bytes]) -> None: ...

    hub = Hub(Config(), Layout("t"), Silent(), Silent(), NobodyAnnounces())  # type: ignore[arg-type]
    channel = hub.channel("posts:a")
    for _ in range(50):
        subscription = Unbegun(channel, WIRE, print, None)
        hub.follow(subscription)
        await until(lambda: channel.waiters, "it waits for Valkey")
        hub.leave(subscription)
        await until(lambda: not channel.waiters, "it waits no more")
