"""Valkey refuses commands for the moment, as where replicas are missing, and is itself again between two of those that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import libvalkey
import pytest

from gateway.errors import Unavailable
from gateway.store.access import Commands, make_commands
from gateway.store.connect import Address
from gateway.store.connection import ServerCommands

REFUSAL = b"-NOREPLICAS Not enough good replicas to write.\r\n"
CLUSTER_REFUSAL = b"-CLUSTERDOWN The cluster is down\r\n"


class Functions:
    """They are there."""

    async def ready(self, call: Any, shared: Any = None) -> bytes:
        return b"1"


class ReplacedFunctions(Functions):
    """They were loaded anew, and are found once ``found`` is set."""

    def __init__(self) -> None:
        self.found = asyncio.Event()
        self.found.set()

    async def ready(self, call: Any, shared: Any = None) -> bytes:
        await self.found.wait()
        return b"1"


class Refusing:
    """Answers like Valkey, and refuses the publications that ``refuses``, which gets their number in the order of their arrival, and a refused one is
    counted again. ``done`` are those that it carried out. It closes the connection in place of number ``closes_at``, and in place of the answer to
    number ``silent_at``, which it carries out."""

    def __init__(self) -> None:
        self.refuses: Callable[[int], bool] = lambda number: False
        self.closes_at = self.silent_at = 0
        self.refusal = REFUSAL
        self.done: list[bytes] = []
        self._arrived = 0
        self._ends: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        commands = libvalkey.Reader()
        while part := await reader.read(2**16):
            commands.feed(part)
            while (command := commands.gets()) is not False:
                if (answer := self._answer(command)) == b"":
                    writer.close()
                    return
                writer.write(answer)

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] != b"FCALL":
            return b"+OK\r\n"
        self._arrived += 1
        if self._arrived == self.closes_at:
            return b""
        if self.refuses(self._arrived):
            return self.refusal
        self.done.append(command[-3])  # before the guard
        return b"" if self._arrived == self.silent_at else b"+OK\r\n"

    def close(self) -> None:
        for end in self._ends:
            end.close()


class OnlyNode(Refusing):
    """The same as the only node of a cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal = CLUSTER_REFUSAL
        self.port = 0

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] != b"CLUSTER":
            return super()._answer(command)
        if command[1] == b"INFO":
            return b"$16\r\ncluster_state:ok\r\n"
        return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.port


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Refusing]:
    refusing = Refusing()
    listening = await asyncio.start_unix_server(refusing.serve, tmp_path / "s")
    yield refusing
    listening.close()
    refusing.close()


@pytest.fixture
async def commands(server: Refusing, tmp_path: Path) -> AsyncIterator[ServerCommands]:
    commands = ServerCommands(Address(f"unix://{tmp_path / 's'}"), functions=Functions())
    await commands.start()
    yield commands
    await commands.close()


@pytest.fixture
async def node() -> AsyncIterator[OnlyNode]:
    node = OnlyNode()
    listening = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    node.port = listening.sockets[0].getsockname()[1]
    yield node
    listening.close()
    node.close()


@pytest.fixture
async def cluster_commands(node: OnlyNode) -> AsyncIterator[Commands]:
    commands = make_commands(Address(f"valkey+cluster://127.0.0.1:{node.port}"), functions=Functions())
    await commands.start()
    yield commands
    await commands.close()


def publish(commands: Commands, channel: str, data: str, *, repeatable: bool = False) -> asyncio.Future[Any]:
    keys = [f"gw:{{{channel}}}:{name}" for name in ("meta", "stream", "keys")]
    return commands.begin(b"FCALL", b"gateway_publish", 3, *keys, data, guarded=True, repeatable=repeatable)


async def test_a_publish_is_not_sent_again_once_a_newer_one_of_its_channel_is_there(server: Refusing, commands: ServerCommands) -> None:
    server.refuses = lambda number: number <= 2
    overtaken, other, newer = publish(commands, "a", "1"), publish(commands, "b", "2"), publish(commands, "a", "3")
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="out of order"):
            await overtaken
        await asyncio.gather(other, newer, publish(commands, "a", "4"))
    assert server.done == [b"3", b"2", b"4"], "another channel's waits as before"


async def test_what_waited_goes_on_in_order_though_the_first_attempt_is_refused_again(server: Refusing, commands: ServerCommands) -> None:
    """Five are refused, then the first of them once more: the four others must not be under way with it."""
    server.refuses = lambda number: number <= 6
    async with asyncio.timeout(5):
        await asyncio.gather(*(publish(commands, "a", str(number)) for number in range(5)))
    assert server.done == [b"0", b"1", b"2", b"3", b"4"]


async def test_one_that_is_lost_while_it_was_under_way_alone_is_still_the_first(server: Refusing, commands: ServerCommands) -> None:
    server.refuses = lambda number: number <= 3
    server.closes_at = 4
    async with asyncio.timeout(5):
        await asyncio.gather(*(publish(commands, "a", str(number), repeatable=True) for number in range(3)))
    assert server.done == [b"0", b"1", b"2"]


async def test_a_publish_to_a_cluster_is_not_sent_again_once_a_newer_one_of_its_channel_is_there(
    node: OnlyNode, cluster_commands: Commands
) -> None:
    node.refuses = lambda number: number <= 2
    overtaken, other, newer = (publish(cluster_commands, channel, data) for channel, data in [("a", "1"), ("b", "2"), ("a", "3")])
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="out of order"):
            await overtaken
        await asyncio.gather(other, newer, publish(cluster_commands, "a", "4"))
    assert [data for data in node.done if data != b"2"] == [b"3", b"4"] and b"2" in node.done


@pytest.mark.parametrize("in_cluster", [False, True])
async def test_a_publish_is_not_sent_again_where_the_answer_to_a_newer_one_of_its_channel_is_lost(
    server: Refusing, commands: Commands, node: OnlyNode, cluster_commands: Commands, in_cluster: bool
) -> None:
    valkey, calling = (node, cluster_commands) if in_cluster else (server, commands)
    valkey.refuses = lambda number: number == 1
    valkey.silent_at = 2
    overtaken, newer = publish(calling, "a", "1"), publish(calling, "a", "2")
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="out of order"):
            await overtaken
        with pytest.raises(Unavailable, match="lost"):
            await newer
        await publish(calling, "a", "3")
    assert valkey.done == [b"2", b"3"]


async def test_while_the_functions_are_loaded_anew_commands_still_reach_valkey(server: Refusing, tmp_path: Path) -> None:
    """Each gateway that starts with other rules loads them anew: the others are not away meanwhile, and must not say so."""
    functions = ReplacedFunctions()
    commands = ServerCommands(Address(f"unix://{tmp_path / 's'}"), functions=functions)
    await commands.start()
    server.refusal, server.refuses = b"-GENERATION they were loaded anew\r\n", lambda number: number == 1
    functions.found.clear()
    refused = publish(commands, "a", "1")
    async with asyncio.timeout(5):
        while not commands.queue.refused:
            await asyncio.sleep(0)
        assert commands.connected
        sent = commands.send(b"PING")
        functions.found.set()
        await asyncio.gather(refused, sent)
    assert server.done == [b"1"]
    await commands.close()


async def test_where_the_functions_go_away_again_and_again_commands_do_not_reach_valkey(server: Refusing, commands: ServerCommands) -> None:
    server.refusal, server.refuses = b"-ERR Function not found\r\n", lambda number: True
    refused = publish(commands, "a", "1")
    async with asyncio.timeout(5):
        while commands.connected:
            await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="no connection"):
        await commands.send(b"PING")
    assert not refused.done()
    refused.cancel()
