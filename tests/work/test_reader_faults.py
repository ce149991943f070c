"""Durable readers while everything dies: readers by SIGKILL, SIGSTOP and SIGTERM, Valkey by SIGKILL and FLUSHALL, their consumer groups.

The naive model is the list of what was published. Of each channel, every publication is given at least once, first times in order; what was
not given is in a gap; no publication is acknowledged by two readers. A publication that FLUSHALL removed before it was given is lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.errors import StoreError
from gateway.store.history import History
from gateway.store.layout import publish_words
from gateway.work.reader_calls import ReaderCalls

from ..kit import forks
from ..kit.readers import Line, lines_of, reading
from ..kit.valkeys import OwnValkey, opened_history
from ..kit.waiting import eventually

SEEDS = os.environ.get("READER_SEEDS", "1 2 3").split()
STEPS = int(os.environ.get("READER_STEPS", "12"))
CHANNELS = ["kept:a", "kept:b", "kept:c", "few:a", "few:b"]
NAMESPACES: dict[str, Any] = {
    "kept": {"history_size": -1, "history_ttl": "", "index": True},
    "few": {"history_size": 15, "history_ttl": ""},
}
CONFIG = Config(namespaces=NAMESPACES)
OPTIONS: dict[str, Any] = {"group": "g", "since": 0, "channels": CHANNELS, "lease": 0.4, "deliveries": 1_000_000, "unacknowledged": 20}


def thaw(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was killed meanwhile
        os.kill(pid, signal.SIGCONT)


class World:
    """A Valkey, a publisher, readers in processes of their own, and what happened to them."""

    def __init__(self, own: OwnValkey, history: History, path: Path, seed: str) -> None:
        self.own = own
        self.history = history
        self.calls = ReaderCalls(history.commands, history.layout, "g", "", 1, 1)
        self.path = path
        self.chance = random.Random(seed)
        self.seed = seed
        self.processes: list[BaseProcess] = []
        self.started = 0
        self.published: list[tuple[str, str, int]] = []
        self.flushed: set[str] = set()  # epochs

    def start(self) -> None:
        self.started += 1
        self.processes.append(forks.start(reading, self.own.url, f"{self.seed}.{self.started}", self.path, OPTIONS))

    def replace(self, number: int) -> None:
        process = self.processes.pop(self.chance.randrange(len(self.processes)))
        assert process.pid is not None
        os.kill(process.pid, number)
        self.start()

    async def freeze(self) -> None:
        pid = self.chance.choice(self.processes).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.7, thaw, pid)

    async def publish(self) -> None:
        channel = self.chance.choice(CHANNELS)
        words = [publish_words(str(n), idempotency_key=f"{len(self.published)}-{n}") for n in range(self.chance.randint(1, 30))]
        positions = await asyncio.gather(*(self.history.publish(channel, each, repeatable=True) for each in words))
        self.published += [(channel, *position) for position in positions if position is not None]

    async def act(self) -> None:
        match self.chance.randrange(10):
            case 0 | 1:
                self.replace(signal.SIGKILL)
            case 2:
                self.replace(signal.SIGTERM)
            case 3:
                await self.freeze()
            case 4 | 5:
                self.own.kill()
                self.own.start()
            case 6 if self.chance.random() < 0.5:
                self.flushed |= {epoch for _, epoch, _ in self.published}
                self.chance.choice((self.own.client.flushall, self.own.empty))()
            case 7:
                with suppress(valkey.ResponseError):
                    self.own.client.xgroup_destroy(self.history.layout.keys(self.chance.choice(CHANNELS))[1], "g")
            case _:
                await self.publish()
        await self.publish()
        await asyncio.sleep(self.chance.random() * 0.1)

    async def settled(self) -> bool:
        with suppress(StoreError):
            return not any(await asyncio.gather(*map(self.calls.lag, CHANNELS)))
        return False

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[OwnValkey]:
    own = OwnValkey(tmp_path / "own")
    own.start()
    yield own
    own.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_skipped_in_silence_and_nothing_is_acknowledged_twice(own: OwnValkey, tmp_path: Path, seed: str) -> None:
    path = tmp_path / "lines"
    path.touch()
    async with opened_history(own.url, "gw", CONFIG) as history:
        world = World(own, history, path, seed)
        try:
            for _ in range(3):
                world.start()
            for _ in range(STEPS):
                await world.act()
            await eventually(world.settled, "everything is acknowledged", 30)
            assert all(process.is_alive() for process in world.processes), "no fault ends a reader"
        finally:
            world.end()
    check(lines_of(path), world)


def check(lines: list[Line], world: World) -> None:
    newest: dict[tuple[str, str], int] = defaultdict(int)
    seen: dict[str, set[tuple[str, int]]] = defaultdict(set)
    acked: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for line in lines:
        life = line.channel, line.epoch
        if line.what == "acked":
            acked[*life, line.offset].add(line.reader)
            continue
        if line.since is not None and line.until is not None:
            assert line.until == (line.epoch, line.offset - 1), line
            begin = line.since[1] if line.since[0] == line.epoch else 0
            assert begin <= newest[life], f"a gap that begins after what was given: {line}"
            seen[line.channel] |= {(line.epoch, offset) for offset in range(begin + 1, line.offset)}
        else:
            assert line.offset <= newest[life] + 1 or newest[life] == 0, f"skipped in silence: {line} follows {newest[life]}"
        newest[life] = max(newest[life], line.offset)
        seen[line.channel].add((line.epoch, line.offset))
    twice = {place: readers for place, readers in acked.items() if len(readers) > 1}
    assert not twice, twice
    missed = [each for each in world.published if each[1:] not in seen[each[0]] and each[1] not in world.flushed]
    assert not missed, missed
