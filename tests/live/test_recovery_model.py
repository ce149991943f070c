"""Recovery against the naive model: every order of events up to a length, then long random ones."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..kit.examples import examples
from ..kit.model import World, hurry


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


LIVE = ["subscribe0", "execute", "message", "execute", "arrive"]

# Where an order of events starts: no event yet; history is read for the first subscriber; history is read after the link
# was lost; one live subscriber; one that was away while two publications were made.
BEGINNINGS = {
    "nothing yet": [],
    "first read": ["subscribe0", "execute", "message", "execute"],
    "read after a loss": [*LIVE, "link", "publish", "link", "execute", "message", "execute"],
    "live": [*LIVE, "publish"],
    "away": [*LIVE, "publish", "message", "leave0", "publish", "publish"],
}
RARE = {"fail", "subscribe1", "leave1", "socket1"}  # left to the random orders


async def _run(beginning: list[str], actions: tuple[str, ...]) -> tuple[bool, list[str]]:
    """Plays one order of events. False if an action of it was not possible."""
    world = World()
    try:
        for action in beginning:
            world.do(action)
            await world.steps(3)
        for action in actions:
            if action not in world.possible():
                return False, []
            world.do(action)
            await world.steps(3)
        following = world.possible()
        await world.heal()
        return True, following
    finally:
        await world.close()


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("length", [3, pytest.param(4, marks=pytest.mark.slow)])
async def test_every_order_of_events_delivers_each_publication_once_in_order_or_a_gap(beginning: str, length: int) -> None:
    """Breadth first: each possible order is extended by each action that is possible after it."""
    orders: list[tuple[tuple[str, ...], list[str]]] = [((), (await _run(BEGINNINGS[beginning], ()))[1])]
    played = 0
    for _ in range(length):
        longer = []
        for actions, following in orders:
            for action in dict.fromkeys(following):
                if action in RARE:
                    continue
                fine, possible = await _run(BEGINNINGS[beginning], (*actions, action))
                assert fine
                longer.append(((*actions, action), possible))
                played += 1
        orders = longer
    assert played > (1000 if length == 4 else 150), "the search is not exhausting anything"


CHOICES = st.lists(st.tuples(st.integers(0, 31), st.integers(0, 3)), max_size=60)


@settings(max_examples=examples(400))
@given(CHOICES)
def test_long_random_orders_deliver_each_publication_once_in_order_or_a_gap(choices: list[tuple[int, int]]) -> None:
    """Two clients, failing reads, and turns of the loop that are cut off anywhere."""

    async def play() -> None:
        world = World()
        try:
            for number, turns in choices:
                possible = world.possible()
                # Progress is likelier than loss, or nothing would ever get far.
                weighted = list(itertools.chain(possible, [a for a in possible if a in ("execute", "arrive", "message", "publish")] * 3))
                world.do(weighted[number % len(weighted)])
                await world.steps(turns)
            await world.heal()
        finally:
            await world.close()

    asyncio.run(play())
