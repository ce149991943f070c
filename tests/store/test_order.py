"""Commands on one connection keep their order, whatever happens to the connection or to the functions meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.errors import Unavailable
from gateway.store.embedded import EmbeddedServer
from publishers import Publisher

from ..kit.waiting import until


@pytest.fixture
def server(tmp_path: Path):
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    yield server
    if server.alive():
        server.stop()


async def documents(publisher: Publisher, channel: str) -> list[int]:
    found: list[int] = []
    while page := (await publisher.history.read(channel, len(found), -1)).publications:
        found += [int(publication.data) for publication in page]
    return found


def publish_all(publisher: Publisher, channel: str, count: int, first: int = 0) -> list[asyncio.Task]:
    """Each with a key; all under way at once."""
    return [
        asyncio.create_task(publisher.publish(channel, number, idempotency_key=f"k{number}", size=-1))
        for number in range(first, first + count)
    ]


async def lose_functions(publisher: Publisher, load: bool) -> None:
    """Until cancelled. With ``load`` they are back at once, loaded by somebody else: in the middle of what is under way."""
    number = 0
    while True:
        await publisher.history.commands.call("FUNCTION", "FLUSH")
        if load:
            await publisher.publish("posts:b", number)
        number += 1
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("load", [False, True], ids=["and its publisher loads them", "and another program loads them"])
async def test_publishes_stay_in_order_when_the_functions_are_lost(server: EmbeddedServer, prefix: str, load: bool) -> None:
    async with Publisher(server.url, prefix=prefix, patience=60) as publisher, Publisher(server.url, prefix=prefix) as other:
        losing = asyncio.create_task(lose_functions(other, load))
        tasks: list[asyncio.Task] = []
        for step in range(20):
            tasks += publish_all(publisher, "posts:a", 500, first=500 * step)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        losing.cancel()
        await asyncio.gather(*tasks)
        found = await documents(publisher, "posts:a")
        assert found == list(range(len(tasks))), [pair for pair in pairwise(found) if pair[0] > pair[1]][:5]


async def test_publishes_that_waited_for_the_connection_come_before_those_called_as_it_returns(server: EmbeddedServer, prefix: str) -> None:
    async with Publisher(server.url, prefix=prefix) as publisher:
        commands = publisher.history.commands
        for round in range(5):
            first = 200 * round
            before = publish_all(publisher, "posts:a", 50, first)
            await asyncio.sleep(0)
            commands.reconnect("the test breaks it")
            waiting = publish_all(publisher, "posts:a", 50, first + 50)
            await until(lambda: commands.connected, "it is connected again")
            later = publish_all(publisher, "posts:a", 100, first + 100)
            await asyncio.gather(*before, *waiting, *later)
        assert await documents(publisher, "posts:a") == list(range(1000))


async def test_twenty_thousand_publishes_under_way_survive_a_restart_at_little_cost(
    server: EmbeddedServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Publisher(server.url, prefix=prefix, patience=60) as publisher:
        tasks = publish_all(publisher, "posts:a", 20_000)
        await asyncio.sleep(0.05)
        loop, wakes = asyncio.get_running_loop(), itertools.count()
        call_soon = loop.call_soon
        monkeypatch.setattr(loop, "call_soon", lambda *call, **options: (next(wakes), call_soon(*call, **options))[1])
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await asyncio.gather(*tasks)
        monkeypatch.undo()
        assert await documents(publisher, "posts:a") == list(range(20_000))
        assert next(wakes) < 5 * 20_000, "each call must not be woken at each step"


async def test_a_publish_without_a_key_is_not_repeated(server: EmbeddedServer, prefix: str) -> None:
    async with Publisher(server.url, prefix=prefix) as publisher:
        unknown = asyncio.create_task(publisher.publish("posts:a", 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publisher.history.commands.reconnect("the test breaks it")
        with pytest.raises(Unavailable, match="the test breaks it"):
            await unknown


async def test_patience_ends_for_commands_that_wait(server: EmbeddedServer, prefix: str) -> None:
    async with Publisher(server.url, prefix=prefix, patience=0.2) as publisher:
        await asyncio.to_thread(server.stop)
        outcomes = await asyncio.gather(*publish_all(publisher, "posts:a", 100), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert "for 0.2 s" in str(outcomes[-1])


async def test_a_valkey_that_is_frozen_at_the_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.connection.SILENCE_SECONDS", 0.1)
    ends: list[asyncio.StreamWriter] = []

    async def answer_but_functions(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        while part := await reader.read(2**16):
            if b"FCALL" not in part:
                writer.write(b"+OK\r\n")

    server = await asyncio.start_unix_server(answer_but_functions, tmp_path / "s")
    try:
        with pytest.raises(Unavailable, match="did not answer for"):
            await Publisher(f"unix://{tmp_path / 's'}").connect()
    finally:
        server.close()
        for end in ends:
            end.close()
