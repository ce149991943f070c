"""A well-behaved client beside those that are not: it must receive every publication, in order, whatever they do.

It is at the module's ``gateway``; ``nobody_else_notices`` looks at it after each test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .clients import Wire, client, stream
from .gateways import RunningGateway
from .waiting import until

__all__ = ["Bystander", "Log", "bystander", "log", "nobody_else_notices"]


class Bystander:
    """A well-behaved client of the same gateway, over each edge."""

    channel = "chat:bystander"

    def __init__(self, gateway: RunningGateway, wire: Wire, events: Any) -> None:
        self.gateway = gateway
        self.wire = wire
        self.events = events
        self.seen = 0

    async def check(self) -> None:
        """It receives the next publication, and received each one before it."""
        await asyncio.to_thread(self.gateway.publish, self.channel, {"n": self.seen + 1})
        self.seen += 1
        publication = await self.wire.publication()
        assert (publication["offset"], publication["data"]) == (self.seen, {"n": self.seen})
        event = await self.events.next()
        assert (event.data["offset"], event.data["data"]) == (self.seen, {"n": self.seen})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bystander(gateway: RunningGateway) -> AsyncIterator[Bystander]:
    async with (
        client(gateway, "by", subscribe=Bystander.channel) as wire,
        stream(gateway, Bystander.channel, user="by") as events,
    ):
        assert (await events.next()).name == "connected"
        yield Bystander(gateway, wire, events)


class Log:
    """The gateway's log since the test began."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.start = len(gateway.log())

    @property
    def text(self) -> str:
        return self.gateway.log()[self.start :]

    async def says(self, *words: str) -> None:
        """One line holds all these words, and no line is of a traceback."""
        await until(lambda: any(all(word in line for word in words) for line in self.text.splitlines()), f"a log line with {words}")
        assert "Traceback" not in self.text
        for line in self.text.splitlines():
            assert line[:4].isdigit(), f"not one line of its own: {line!r}"


@pytest_asyncio.fixture(loop_scope="module")
async def nobody_else_notices(bystander: Bystander) -> AsyncIterator[None]:
    yield
    await bystander.check()


@pytest.fixture
def log(gateway: RunningGateway) -> Log:
    return Log(gateway)
