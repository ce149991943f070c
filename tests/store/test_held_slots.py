"""Commands of a slot that a shard has refused: each is carried out once, and none after a newer one of its channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.errors import Unavailable
from gateway.store.command import Command, make_command
from gateway.store.connect import Address
from gateway.store.held_slots import HeldSlots

from ..kit.waiting import until

SLOT = 7
DOWN = "CLUSTERDOWN Hash slot not served"


class Shard:
    """The only shard there is, which the test plays. ``taken`` are the commands that it was sent."""

    def __init__(self) -> None:
        self.address = Address("valkey://127.0.0.1:1")
        self.taken: list[Command] = []

    def take(self, command: Command, *, asking: bool = False) -> None:
        self.taken.append(command)

    def withdraw(self, stays: Callable[[int], bool]) -> list[Command]:
        return []

    async def settle(self) -> None: ...

    def owner(self, slot: int) -> Any:
        return self

    def look_again(self) -> None: ...


@pytest.fixture
def shard() -> Any:
    return Shard()


@pytest.fixture
async def held(shard: Any) -> AsyncIterator[HeldSlots]:
    held = HeldSlots(shard, patience=60)
    yield held
    await held.close()


def publication(number: int, channel: str = "a") -> Command:
    keys = [f"gw:{{{channel}}}:{name}" for name in ("meta", "stream", "keys")]
    command = make_command((b"FCALL", b"gateway_publish", 3, *keys, number), guarded=True, repeatable=False)
    command.number, command.slot = number, SLOT
    return command


async def test_a_command_is_sent_once_though_the_one_before_it_has_waited_too_long(shard: Any, held: HeldSlots) -> None:
    first, second = publication(1), publication(2)
    held.refused(shard, first, DOWN)
    assert held.takes(second)
    await until(lambda: shard.taken == [first], "the first is tried again")
    first.called -= 60
    held.refused(shard, first, DOWN)
    await until(lambda: second in shard.taken, "the second is tried")
    for _ in range(5):
        await asyncio.sleep(0)
    assert shard.taken == [first, second]
    assert isinstance(first.future.exception(), Unavailable)
    second.future.set_result([1, b"e"])


async def test_one_that_was_refused_fails_where_a_newer_one_of_its_channel_was_carried_out(shard: Any, held: HeldSlots) -> None:
    """The shard was itself again between two that were under way together."""
    first, other, newer = publication(1), publication(2, "b"), publication(3)
    for command in (first, other):
        held.refused(shard, command, DOWN)
    newer.future.set_result([1, b"e"])
    held.carried_out(newer)
    with pytest.raises(Unavailable, match="out of order"):
        await first.future
    await until(lambda: shard.taken, "what was not overtaken is tried again")
    assert shard.taken == [other]
    other.future.set_result([1, b"e"])
