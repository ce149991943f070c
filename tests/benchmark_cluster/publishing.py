"""Publishers in processes of their own: each publishes over one pipelined ``Publisher``, with a bounded number on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count, cycle
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, Self

import uvloop

from publishers import Publisher
from tests.kit.forks import start

__all__ = ["Load", "Published", "PublisherProcess"]

DATA = {"mark": "x" * 189}  # 200 bytes of JSON


class Load(NamedTuple):
    """``channels`` in turn for ``seconds``, ``window`` on the way at most, ``rate`` a second (infinite: as fast as they are acknowledged).

    ``most`` publications in all.
    """

    channels: Sequence[str]
    seconds: float
    window: int
    rate: float = float("inf")
    most: float = float("inf")


class Published(NamedTuple):
    """How many were acknowledged, in how many seconds, and seconds of the publisher's CPU."""

    total: int
    seconds: float
    cpu: float


async def _publish(publisher: Publisher, load: Load) -> Published:
    numbers, channels = count(), cycle(load.channels)
    begun, cpu, done = time.monotonic(), time.process_time(), 0

    async def one_by_one() -> None:
        nonlocal done
        while True:
            number, now = next(numbers), time.monotonic()
            due = begun + number / load.rate
            if number >= load.most or max(due, now) >= begun + load.seconds:
                return
            if due > now:
                await asyncio.sleep(due - now)
            await publisher.publish(next(channels), DATA)
            done += 1

    await asyncio.gather(*[one_by_one() for _ in range(load.window)])
    return Published(done, time.monotonic() - begun, time.process_time() - cpu)


async def _serve(url: str, parent: Connection) -> None:
    while True:
        prefix, load = await asyncio.to_thread(parent.recv)
        async with Publisher(url, prefix=prefix) as publisher:
            parent.send("ready")
            await asyncio.to_thread(parent.recv)
            parent.send(await _publish(publisher, load))


def _run(url: str, parent: Connection) -> None:
    uvloop.run(_serve(url, parent))


class PublisherProcess:
    """Publishes to the Valkeys of ``url``, one load after the other."""

    def __init__(self, url: str) -> None:
        self._pipe, theirs = Pipe()
        self._process = start(_run, url, theirs)
        theirs.close()

    def prepare(self, prefix: str, load: Load) -> None:
        """Connects, as a publisher of this prefix."""
        self._pipe.send((prefix, load))
        self._pipe.recv()

    def begin(self) -> None:
        self._pipe.send("go")

    def result(self) -> Published:
        published: Published = self._pipe.recv()
        return published

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
