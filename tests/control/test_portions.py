"""What concerns all clients of a process is done in portions, each in a turn of the loop of its own: these tests count what a turn does."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config import Config
from gateway.control.presence import CHANNELS_AT_ONCE, CLIENTS_AT_ONCE, Presence
from gateway.errors import Unavailable
from gateway.session.control_orders import LOOKED_AT_ONCE, Orders
from gateway.store.layout import Layout

from ..kit.turns import TurnCounter

INFO = b'{"user":"u"}'


class Valkey:
    """Answers every command in the next turn of the loop, and notes how many clients it names. ``away``: it refuses all."""

    sharded = False

    def __init__(self, turns: TurnCounter) -> None:
        self.turns = turns
        self.layout = Layout("t")
        self.commands = self
        self.channels = TurnCounter()  # those that were written in each turn
        self.written: dict[tuple[str, str], bytes] = {}  # (channel, client) → info, or b"" for one that left
        self.listed: Counter[str] = Counter()
        self.unlisted: Counter[str] = Counter()
        self.away = False

    def begin(self, verb: bytes, *words: Any) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        if self.away:
            answer.set_exception(Unavailable("away"))
            return answer
        if verb == b"SADD":
            self.listed.update(words[1:])
            self.turns.work[self.turns.now] += len(words) - 1
        else:
            self.channels.work[self.turns.now] += 1
            channel, pairs = words[2].decode(), words[5:]
            for client, info in zip(pairs[::2], pairs[1::2], strict=True):
                self.written[channel, client] = info
                self.turns.note()
        asyncio.get_running_loop().call_soon(answer.set_result, 0)
        return answer

    async def call(self, verb: bytes, *words: Any) -> Any:
        await asyncio.sleep(0)
        if verb == b"SREM":
            self.unlisted.update(words[1:])
            self.turns.work[self.turns.now] += len(words) - 1
        return 0


@pytest.fixture
def turns() -> TurnCounter:
    return TurnCounter()


@pytest.fixture
def valkey(turns: TurnCounter) -> Valkey:
    return Valkey(turns)


@pytest.fixture
async def presence(valkey: Valkey) -> Presence:
    return Presence(Config(), valkey, "p1")  # type: ignore[arg-type]  # what presence uses of a history


def enter(presence: Presence, count: int, channels: int) -> list[tuple[str, str]]:
    clients = [(f"channel{number % channels}", f"c{number}") for number in range(count)]
    for channel, name in clients:
        presence.enter(channel, name, INFO, False)
    return clients


@pytest.mark.parametrize("channels", [1, 2500, 5000])
async def test_presence_of_many_is_written_in_portions(presence: Presence, valkey: Valkey, turns: TurnCounter, channels: int) -> None:
    clients = enter(presence, 5000, channels)
    with turns:
        await presence._flush()
    assert len(valkey.written) == 5000 and set(valkey.written.values()) == {INFO}
    assert valkey.listed == Counter(f"{name} {channel}" for channel, name in clients)
    assert turns.most <= CLIENTS_AT_ONCE and valkey.channels.most <= CHANNELS_AT_ONCE


async def test_all_clients_are_removed_in_portions_when_the_process_ends(presence: Presence, valkey: Valkey, turns: TurnCounter) -> None:
    clients = enter(presence, 5000, 5000)
    await presence._flush()
    turns.work.clear()
    leave, left = presence.leave, TurnCounter()

    def count(*present: Any) -> None:
        left.work[turns.now] += 1
        leave(*present)

    presence.leave = count  # type: ignore[method-assign]
    with turns:
        assert await presence.close()
    assert set(valkey.written.values()) == {b""} and valkey.unlisted == Counter(f"{name} {channel}" for channel, name in clients)
    assert left.total == 5000 and left.most <= CLIENTS_AT_ONCE and turns.most <= CLIENTS_AT_ONCE


async def test_all_is_written_anew_in_portions_but_for_those_that_left_meanwhile(
    presence: Presence, valkey: Valkey, turns: TurnCounter
) -> None:
    clients = enter(presence, 5000, 5000)
    await presence._flush()
    writing = asyncio.create_task(presence.write_anew())
    await asyncio.sleep(0)
    assert len(presence._changes) == CLIENTS_AT_ONCE
    presence.leave(*clients[0], False)
    presence.leave(*clients[-1], False)
    presence.enter(*clients[-2], b'{"user":"another"}', False)
    await writing
    await presence._flush()
    assert Counter(valkey.written.values()) == {INFO: 4997, b"": 2, b'{"user":"another"}': 1}


async def test_what_could_not_be_written_is_written_later_but_for_what_changed_since(presence: Presence, valkey: Valkey) -> None:
    clients = enter(presence, 10, 5)
    valkey.away = True
    writing = asyncio.create_task(presence._flush())
    await asyncio.sleep(0)
    presence.leave(*clients[0], False)
    presence.enter("later", "c", INFO, False)
    with pytest.raises(Unavailable):
        await writing
    valkey.away = False
    await presence._flush()
    assert Counter(valkey.written.values()) == {INFO: 10, b"": 1}
    assert valkey.written[valkey.layout.presence(clients[0][0])[0].decode(), clients[0][1]] == b""


# Revocations.


class Client:
    """Counts how often its tokens are compared with what was revoked."""

    client = "c"
    identity = SimpleNamespace(token_id="", user="u")

    def __init__(self, turns: TurnCounter) -> None:
        self.turns = turns
        self.looked_at = 0

    def end_revoked(self, revoked: Any) -> None:
        self.looked_at += 1
        self.turns.note()


class Revocations:
    """Of which there is one, of no client."""

    def __len__(self) -> int:
        return 1

    async def load(self) -> None: ...

    def covers(self, token: object) -> bool:
        return False


async def test_tokens_are_compared_in_portions_after_revocations_may_have_been_missed(turns: TurnCounter) -> None:
    clients = [Client(turns) for _ in range(3 * LOOKED_AT_ONCE + 1)]
    admission = SimpleNamespace(clients=dict.fromkeys(clients, ""))
    orders = Orders(Config(), "p1", None, Revocations(), admission, None)  # type: ignore[arg-type]  # what a reload uses of them
    with turns:
        reloading = asyncio.create_task(orders.reload())
        await asyncio.sleep(0)
        del admission.clients[clients[-1]]
        await reloading
    assert [client.looked_at for client in clients] == [1] * (3 * LOOKED_AT_ONCE) + [0], "the last one has left"
    assert turns.most <= LOOKED_AT_ONCE
