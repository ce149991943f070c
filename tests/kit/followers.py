"""A publisher that never stops, and followers that come back as an SDK and a browser do, each checking what it gets.

Follower    one client: each publication once and in order, or a gap that it was notified of; over a socket or an event stream
Scene       the publisher and its followers in a channel of their own, while a test makes its fault
scene       begins one: two followers stay on their connections while they can, two leave theirs again and again, half of
            the time without a closing frame
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

from gateway.publication import Position
from publishers.publisher import Publisher

from .clients import LOST, Socket, Stream, client, read_events
from .gateways import RunningGateway
from .waiting import until

__all__ = ["Follower", "Scene", "scene"]

SCENE_SECONDS = 40.0
PACE_SECONDS = 0.002  # between publications
COMES_BACK_SECONDS = 0.02  # a client's wait before it tries again
RESTLESS_AFTER = 25  # publications on one socket


class Follower:
    """What one client has: the numbers of the documents it received, and where it was notified of a gap."""

    def __init__(self, name: str, channel: str, where: Callable[[], RunningGateway], *, restless: bool) -> None:
        self.name = name
        self.channel = channel
        self.user = f"{name} {channel[-8:]}"  # whose inbox no other test emptied
        self.where = where
        self.restless = restless
        self.position: Position | None = None
        self.got: list[tuple[int, Position]] = []
        self.gaps: list[int] = []  # how many publications it had at each
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
            assert position.epoch == self.position.epoch, f"{self.name}: another epoch without a gap"
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
            assert self.position == position, "the id is the position after this publication"


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
        """Until every follower has every publication. ``gaps`` is how many each of them, or those named, must have been notified of."""
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
            assert after == before + 1 or place in follower.gaps, f"{follower}: {after} after {before}, without a gap"
        for number, position in follower.got:
            if number < len(self.acknowledged):
                assert self.acknowledged[number] == position, f"{follower}: document {number}"


@contextlib.asynccontextmanager
async def scene(url: str, *where: Callable[[], RunningGateway], restless_only: bool = False) -> AsyncIterator[Scene]:
    """In a channel of its own. Each of ``where`` returns a gateway; with several, a follower's next connection goes to the next."""

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
