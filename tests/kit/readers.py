"""Durable readers in processes of their own, and what they did, line by line in one file, in the order in which it happened.

reading   what such a process does; ``forks.start`` begins it
Line      one publication that a reader was given ("seen"), or acknowledged with success ("acked")
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import StoreError
from gateway.work import Delivery, Reader

__all__ = ["Line", "lines_of", "reading"]

WINDOW = 4  # publications that an application works on at once, at most


class Line(msgspec.Struct):
    """``since`` and ``until`` are the positions of the gap, None without one."""

    what: str
    reader: str
    channel: str
    epoch: str
    offset: int
    data: Any
    since: tuple[str, int] | None = None
    until: tuple[str, int] | None = None


def lines_of(path: Path) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]


async def reading(url: str, name: str, path: Path, options: dict[str, Any]) -> None:
    """Reads until SIGTERM: some publications one by one, some several at once, acknowledged in any order."""
    logging.disable()
    chance = random.Random(name)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(what: str, publication: Delivery) -> None:
        since, until = publication.gap or (None, None)
        position = publication.channel, publication.epoch, publication.offset, publication.data
        os.write(file, msgspec.json.encode(Line(what, name, *position, since, until)) + b"\n")

    async def acknowledge(publication: Delivery) -> None:
        await asyncio.sleep(chance.choice((0, 0, 0, 0.002)))
        if await publication.ack():
            write("acked", publication)

    async def follow() -> None:
        async with Reader(url, **options) as reader, asyncio.TaskGroup() as working:
            under_way: set[asyncio.Task[None]] = set()
            async for publication in reader:
                write("seen", publication)
                under_way.add(working.create_task(acknowledge(publication)))
                if len(under_way) >= chance.randint(1, WINDOW):
                    await asyncio.wait(under_way)
                    under_way.clear()

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    while True:
        try:
            await follow()
        except StoreError:  # Valkey is away while it starts
            await asyncio.sleep(0.02)
