"""How the clients of a process that ends are spread over the seconds that a drain has."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from gateway.config import Limits
from gateway.session.admission import Admission
from gateway.session.drain import DRAINED_AT_ONCE, DRAINED_PER_SEARCH, TURN_SECONDS, drain

from ..kit.turns import TurnCounter
from ..kit.virtual_time import run_in_virtual_time


class Departure:
    """A client that notes when it is sent away. One that is ``broken`` raises instead."""

    def __init__(self, admission: Admission, broken: bool = False, on_drain: Callable[[], None] = lambda: None) -> None:
        self.on_drain = on_drain
        self.admission = admission
        self.broken = broken
        self.at = 0.0
        admission.clients[self] = ""  # type: ignore[index]  # it has what a drain uses

    def drain(self) -> None:
        self.on_drain()
        self.at = asyncio.get_running_loop().time()
        if self.broken:
            raise RuntimeError("broken")
        del self.admission.clients[self]  # type: ignore[arg-type]


@pytest.fixture
def admission() -> Admission:
    return Admission(Limits(), lambda: 0.0)


@pytest.mark.parametrize("count", [20, 500, 10_000])
def test_clients_leave_evenly_over_the_seconds(admission: Admission, count: int) -> None:
    seconds, parts = 1.0, 4
    clients = [Departure(admission) for _ in range(count)]
    run_in_virtual_time(drain(admission, seconds, lambda: False))
    assert admission.draining
    assert clients[0].at < 0.1, "the first one leaves at once"
    assert max(client.at for client in clients) < seconds + 0.5
    histogram = Counter(min(int(client.at / seconds * parts), parts - 1) for client in clients)
    assert all(0.7 <= histogram[part] / (count / parts) <= 1.3 for part in range(parts)), histogram


@pytest.mark.parametrize(("count", "seconds"), [(0, 10.0), (1, 10.0), (300, 0.0)])
async def test_a_drain_does_not_wait_without_need(admission: Admission, count: int, seconds: float) -> None:
    for _ in range(count):
        Departure(admission)
    async with asyncio.timeout(2):
        await drain(admission, seconds, lambda: False)
    assert not admission.clients


def test_clients_that_leave_by_themselves_count(admission: Admission) -> None:
    clients = [Departure(admission) for _ in range(100)]

    async def leave_and_drain() -> None:
        for client in clients[50:]:
            asyncio.get_running_loop().call_soon(admission.clients.pop, client)
        await drain(admission, 1.0, lambda: False)

    run_in_virtual_time(leave_and_drain())
    assert clients[30].at > 0.7, "twenty are left when it leaves, which is the share of the last fifth of the time"


@pytest.mark.parametrize("seconds", [0.0, 0.2])
async def test_few_clients_are_drained_in_one_turn_of_the_loop(admission: Admission, seconds: float) -> None:
    with TurnCounter() as turns:
        clients = [Departure(admission, on_drain=turns.note) for _ in range(1000)]
        await drain(admission, seconds, lambda: False)
    assert turns.total == len(clients) and turns.most <= DRAINED_AT_ONCE


async def test_clients_that_take_long_are_drained_in_smaller_portions(admission: Admission) -> None:
    with TurnCounter() as turns:

        def take_long() -> None:
            turns.note()
            time.sleep(TURN_SECONDS / 2)

        for _ in range(10):
            Departure(admission, on_drain=take_long)
        await drain(admission, 0.0, lambda: False)
    assert turns.total == 10 and turns.most <= 2


async def test_new_objects_are_searched_for_cycles_while_clients_leave(admission: Admission) -> None:
    """Python does not search them by itself as long as more objects go than come."""
    searches: list[int] = []

    def note(phase: str, facts: dict[str, int]) -> None:
        if phase == "start":
            searches.append(facts["generation"])

    for _ in range(4 * DRAINED_PER_SEARCH):
        Departure(admission)
    gc.disable()
    gc.callbacks.append(note)
    try:
        await drain(admission, 0.0, lambda: False)
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert searches == [0, 0, 0], "the last ones have gone before another search"


async def test_a_client_that_cannot_be_drained_does_not_delay_the_others(admission: Admission) -> None:
    for number in range(5):
        Departure(admission, broken=number == 2)
    await drain(admission, 0.1, lambda: False)
    assert not admission.clients


async def test_a_drain_that_is_given_up_ends_early(admission: Admission) -> None:
    for _ in range(100):
        Departure(admission)
    given_up: list[bool] = []
    asyncio.get_running_loop().call_later(0.1, given_up.append, True)
    async with asyncio.timeout(5):
        await drain(admission, 60.0, lambda: bool(given_up))
    assert len(admission.clients) > 90


# When they come back.

DELAYS = {
    "gateway.js": (0.0, 0.5),
    "centrifuge-js": (0.5, 1.0),
    "centrifuge-python": (0.1, 0.2),
}  # seconds, at random between, after code 3001


@pytest.mark.parametrize("library", DELAYS)
@pytest.mark.parametrize("count", [20, 500, 10_000])
def test_they_come_back_spread_over_the_drain_seconds(admission: Admission, count: int, library: str) -> None:
    """In each tenth of them between half and double of the even share, counted from when the first can be back."""
    seconds, parts, chance, (least, most) = 10.0, 10, random.Random(count), DELAYS[library]
    clients = [Departure(admission) for _ in range(count)]
    run_in_virtual_time(drain(admission, seconds, lambda: False))
    arrivals = [client.at + chance.uniform(0, most - least) for client in clients]
    histogram = Counter(int(arrival / seconds * parts) for arrival in arrivals)
    assert all(0.5 <= histogram[part] / (count / parts) <= 2 for part in range(parts)), sorted(histogram.items())
    assert max(arrivals) <= seconds + most - least
