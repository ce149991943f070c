"""How a burst of work is spread over the turns of the loop."""

from __future__ import annotations

import asyncio

import pytest

from gateway.runtime.turns import Turns
from gateway.runtime.wheel import TICKED_AT_ONCE, Wheel

from ..kit.turns import TurnCounter
from ..kit.waiting import until


def begin(turns: Turns, work: list[int], number: int) -> None:
    if turns.take():
        work.append(number)
    else:
        turns.later(lambda: work.append(number))


async def test_a_burst_is_done_in_order_so_many_in_each_turn() -> None:
    turns, done, sizes = Turns(10), list[int](), list[int]()
    for number in range(35):
        begin(turns, done, number)
    sizes.append(len(done))
    while len(turns):
        await asyncio.sleep(0)
        sizes.append(len(done))
    assert sizes == [10, 20, 30, 35]
    assert done == list(range(35))


async def test_work_that_comes_while_other_work_waits_does_not_overtake_it() -> None:
    turns, done = Turns(2), list[int]()
    for number in range(5):
        begin(turns, done, number)
    asyncio.get_running_loop().call_soon(begin, turns, done, 5)  # in a turn that has given its places away
    await until(lambda: len(done) == 6, "all is done")
    assert done == list(range(6))


async def test_a_turn_without_a_burst_has_all_its_places() -> None:
    turns = Turns(3)
    for _ in range(4):
        assert [turns.take() for _ in range(4)] == [True, True, True, False]
        await asyncio.sleep(0)


async def test_work_that_fails_is_logged_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    turns, done = Turns(1), list[int]()
    begin(turns, done, 0)
    turns.later(lambda: done.append(1 // 0))
    turns.later(lambda: done.append(2))
    await until(lambda: not len(turns), "all is done")
    assert done == [0, 2]
    assert "work that waited for its turn failed" in caplog.text


async def test_work_that_takes_the_time_of_several_leaves_fewer_places() -> None:
    turns, done = Turns(10), list[int]()

    def work(number: int) -> None:
        done.append(number)
        turns.take_more(4)

    assert turns.take()
    turns.take_more(20)
    assert not turns.take()
    for number in range(5):
        turns.later(lambda number=number: work(number))
    await asyncio.sleep(0)
    assert done == [0, 1] and not turns.take()
    await until(lambda: not len(turns), "all is done")
    assert done == list(range(5)) and turns.take()


async def test_work_that_asks_for_another_turn_does_not_get_this_one() -> None:
    turns, done = Turns(5), list[int]()

    def work(number: int) -> None:
        done.append(number)
        if number:
            turns.later(lambda: work(number - 1))

    with TurnCounter() as counter:
        turns.later(lambda: work(10))
        await until(lambda: done and done[-1] == 0, "all is done")
    assert counter.now > 10


async def test_a_waiter_that_is_cancelled_does_not_stop_the_next_one() -> None:
    turns = Turns(1)
    first, second, third = (asyncio.create_task(turns.wait()) for _ in range(3))
    await asyncio.sleep(0)
    assert first.done() and len(turns) == 2
    second.cancel()
    async with asyncio.timeout(5):
        await third
    assert second.cancelled()


# The wheel.


class Item:
    """An item of the wheel that notes its ticks in ``ticked``."""

    bucket = 0

    def __init__(self, counter: TurnCounter, again: float | None = None) -> None:
        self.counter = counter
        self.again = again
        self.ticks = 0

    def tick(self, now: float) -> float | None:
        self.ticks += 1
        self.counter.note()
        return self.again


async def test_the_wheel_ticks_a_bounded_number_in_a_turn() -> None:
    wheel, loop = Wheel(), asyncio.get_running_loop()
    with TurnCounter() as counter:
        items = [Item(counter) for _ in range(3 * TICKED_AT_ONCE + 1)]
        for item in items:
            wheel.set(item, loop.time() - 1)
        running = asyncio.create_task(wheel.run())
        await until(lambda: counter.total == len(items), "all are ticked")
        running.cancel()
    assert counter.most <= TICKED_AT_ONCE
    assert all(item.ticks == 1 for item in items)


def test_what_is_removed_or_set_anew_between_two_portions_is_not_ticked_twice() -> None:
    counter, wheel = TurnCounter(), Wheel()
    items = [Item(counter) for _ in range(TICKED_AT_ONCE + 3)]
    for item in items:
        wheel.set(item, 9.5)
    assert wheel.tick_some(10.5), "three are left"
    removed, moved, stays = items[-3:]
    wheel.remove(removed)
    wheel.remove(moved)
    wheel.set(moved, 20.0)
    wheel.set(stays, 30.0)  # it is due earlier already
    assert not wheel.tick_some(10.5)
    assert (removed.ticks, moved.ticks, stays.ticks) == (0, 0, 1)
    wheel.turn(21.5)
    assert moved.ticks == 1


def test_an_item_is_ticked_again_when_it_says() -> None:
    wheel, item = Wheel(), Item(TurnCounter(), again=20.0)
    wheel.set(item, 9.5)
    wheel.turn(10.5)
    wheel.turn(11.5)
    assert item.ticks == 1
    wheel.turn(21.5)
    assert item.ticks == 2
