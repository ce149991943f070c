"""Orders: what their buyers are sent, what may follow what, and that each is processed once, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from gateway.work import Worker
from gateway.work.queues import Queues
from publishers import Publisher
from publishers.database import Database, now_ms
from publishers.faults import Conflict, Invalid, NotAllowed, NotFound
from publishers.orders import (
    STATES,
    Declined,
    OrderJob,
    advance,
    cancel_order,
    channel_of_order,
    get_order,
    list_orders,
    place_order,
    register,
)
from publishers.relay import Relay, backlog
from publishers.tables import outbox

from ..kit import forks, order_workers, relays
from ..kit.outboxes import everything, said
from ..kit.refusals import HOSTILE, bad_ids, bad_names, bad_pages, bad_texts, failures
from ..kit.waiting import eventually

SEEDS = os.environ.get("ORDER_SEEDS", "a").split()  # of the test that kills; more of them by hand


@pytest.fixture
def database(quick_database: Database) -> Database:
    return quick_database


class Handlers:
    """The part of a worker that takes handlers."""

    def __init__(self) -> None:
        self.by_name: dict[str, Callable[..., Awaitable[Any]]] = {}

    def job(self, name: str) -> Callable[[Any], Any]:
        def add(handler: Any) -> Any:
            self.by_name[name] = handler
            return handler

        return add


async def process(database: Database, order: int, **effects: Any) -> str:
    """Runs the handler once; the state that it returns."""
    handlers = Handlers()
    register(handlers, database, **effects)
    return (await handlers.by_name["orders.process"](None, OrderJob(order)))["state"]


async def states(database: Database, order: int) -> list[str]:
    """The states that were published in the channel, oldest first."""
    return [each["order"]["state"] for each in await said(database, channel_of_order(order))]


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


# What is placed and said.


async def test_a_new_order_is_published_notified_and_enqueued_in_one_transaction(database: Database) -> None:
    before = now_ms()
    order = await place_order(database, buyer="u1", item=" soup ", quantity=2, amount=1250)
    assert before <= order["created_at"] == order["changed_at"] <= now_ms()
    placed = {"buyer": "u1", "item": "soup", "quantity": 2, "amount": 1250, "state": "placed", "reason": None}
    assert order == {**placed, **{name: order[name] for name in ("id", "created_at", "changed_at")}}
    channel = f"orders:{order['id']}"
    assert await said(database, channel) == [{"type": "order.placed", "order": order}]
    notification = {"id": f"order:{order['id']}", "type": "order", "text": "Your order of 2 × soup was placed", "target": channel}
    assert await said(database, "notifications:u1") == [{**notification, "state": "placed", "actors": [], "count": 1}]
    (job,) = await said(database, "{default}")
    assert job[:2] == ["orders.process", {"order": order["id"]}]
    assert f"order-{order['id']}-{order['created_at']}" in job[2], "its key, which is of this order alone"


async def test_an_order_is_part_of_the_callers_transaction(database: Database) -> None:
    before = await everything(database)
    with pytest.raises(RuntimeError):
        async with database.transaction() as transaction:
            order = await place_order(transaction, buyer="u1", item="soup", queue="low")
            await advance(transaction, order=order["id"], state="processing")
            raise RuntimeError
    assert await everything(database) == before


async def test_orders_of_a_buyer_are_listed_newest_first(database: Database) -> None:
    placed = [await place_order(database, buyer=buyer, item="soup") for buyer in ("u1", "u2", "u1", "u1")]
    assert await list_orders(database, buyer="u1") == [placed[3], placed[2], placed[0]]
    assert await list_orders(database, buyer="u1", before=placed[3]["id"], limit=1) == [placed[2]]
    assert await list_orders(database, buyer="u3") == []
    assert await get_order(database, order=placed[1]["id"]) == placed[1]


async def test_impossible_orders_are_refused_and_leave_nothing(database: Database) -> None:
    order = (await place_order(database, buyer="u1", item="soup"))["id"]

    def number(least: int, most: int, what: str) -> list[Any]:
        return [
            (value, Invalid, f"the {what} is a whole number from {least} to {most}")
            for value in (least - 1, most + 1, "1", 1.0, True, None)
        ]

    wrong = [
        *await failures(database, lambda value: place_order(database, buyer=value, item="soup"), bad_names("buyer")),
        *await failures(database, lambda value: place_order(database, buyer="u1", item=value), bad_texts("item", 100)),
        *await failures(
            database, lambda value: place_order(database, buyer="u1", item="soup", quantity=value), number(1, 1000, "quantity")
        ),
        *await failures(database, lambda value: place_order(database, buyer="u1", item="soup", amount=value), number(0, 10**12, "amount")),
        *await failures(
            database, lambda value: place_order(database, buyer="u1", item="soup", queue=value), [("{a}", Invalid, "a queue is named by")]
        ),
        *await failures(database, lambda value: advance(database, order=value, state="paid"), bad_ids("order")),
        *await failures(database, lambda value: cancel_order(database, order=value, by="u1"), bad_ids("order")),
        *await failures(database, lambda value: get_order(database, order=value), bad_ids("order")),
        *await failures(
            database, lambda page: list_orders(database, buyer="u1", **{page[0]: page[1]}), [(page, Invalid, "") for page in bad_pages()]
        ),
        *await failures(
            database, lambda value: advance(database, order=order, state=value), [("lost", Invalid, "the state is one of placed")]
        ),
    ]
    assert wrong == []


@pytest.mark.parametrize("text", HOSTILE)
async def test_dangerous_texts_are_stored_and_sent_as_they_are(database: Database, text: str) -> None:
    order = await place_order(database, buyer="u1", item=text[:100])
    assert await get_order(database, order=order["id"]) == order
    assert (await said(database, channel_of_order(order["id"])))[0]["order"] == order


# What may follow what.

FOLLOWS = {
    "placed": {"processing", "cancelled"},
    "processing": {"paid", "rejected"},
    "paid": {"shipped"},
    "shipped": {"delivered"},
}


async def test_a_state_follows_as_the_table_says_and_any_other_change_raises(database: Database) -> None:
    ways = {"placed": [], "processing": ["processing"], "paid": ["processing", "paid"], "shipped": ["processing", "paid", "shipped"]}
    ways |= {"delivered": [*ways["shipped"], "delivered"], "rejected": ["processing", "rejected"], "cancelled": ["cancelled"]}

    async def order_in(origin: str) -> int:
        order = (await place_order(database, buyer="u1", item="soup"))["id"]
        for step in ways[origin]:
            await advance(database, order=order, state=step)
        return order

    for origin in STATES:
        order = await order_in(origin)
        before = await everything(database)
        assert (await advance(database, order=order, state=origin))["state"] == origin
        for state in set(STATES) - FOLLOWS.get(origin, set()) - {origin}:
            with pytest.raises(Conflict, match=f"^order {order} is {origin}: it cannot become {state}$"):
                await advance(database, order=order, state=state)
        assert await everything(database) == before
        for state in FOLLOWS.get(origin, set()):
            order = await order_in(origin)
            assert (await advance(database, order=order, state=state))["state"] == state
            assert await states(database, order) == ["placed", *ways[origin], state]


async def test_a_buyer_cancels_their_own_order_before_it_is_processed(database: Database) -> None:
    order = (await place_order(database, buyer="u1", item="soup"))["id"]
    with pytest.raises(NotAllowed, match="only they can cancel it"):
        await cancel_order(database, order=order, by="u2")
    assert (await cancel_order(database, order=order, by="u1"))["state"] == "cancelled"
    assert await process(database, order, charge=_fails) == "cancelled"
    assert await states(database, order) == ["placed", "cancelled"]
    other = (await place_order(database, buyer="u1", item="soup"))["id"]
    assert await process(database, other) == "shipped"
    with pytest.raises(Conflict, match="it cannot become cancelled"):
        await cancel_order(database, order=other, by="u1")


async def test_of_a_cancellation_and_a_worker_at_the_same_moment_one_wins(database: Database) -> None:
    charged: list[int] = []

    async def charge(order: dict[str, Any], key: str) -> None:
        charged.append(order["id"])

    async def cancel(order: int) -> bool:
        try:
            await cancel_order(database, order=order, by="u1")
        except Conflict:
            return False
        return True

    placed = [(await place_order(database, buyer="u1", item="soup"))["id"] for _ in range(6)]
    outcomes = await asyncio.gather(*[cancel(id) for id in placed], *[process(database, id, charge=charge) for id in placed])
    for id, cancelled, state in zip(placed, outcomes[:6], outcomes[6:], strict=True):
        assert state == ("cancelled" if cancelled else "shipped")
        assert await states(database, id) == (["placed", "cancelled"] if cancelled else ["placed", "processing", "paid", "shipped"])
        assert (id in charged) is not cancelled


# The worker.


async def _fails(order: dict[str, Any], key: str) -> None:
    raise RuntimeError("the payment service does not answer")


async def test_an_attempt_goes_on_where_the_one_before_it_ended(database: Database) -> None:
    """The keys of its effects are the same in all attempts, and no other order has them."""
    keys: list[str] = []

    async def charge(order: dict[str, Any], key: str) -> None:
        assert order["state"] == "processing"
        keys.append(key)
        if len(keys) == 1:
            raise RuntimeError

    async def ship(order: dict[str, Any], key: str) -> None:
        assert order["state"] == "paid"
        keys.append(key)
        if len(keys) == 3:
            raise RuntimeError

    order = (await place_order(database, buyer="u1", item="soup"))["id"]
    for reached in (["processing"], ["processing", "paid"]):
        with pytest.raises(RuntimeError):
            await process(database, order, charge=charge, ship=ship)
        assert await states(database, order) == ["placed", *reached]
    for _ in range(2):
        assert await process(database, order, charge=charge, ship=ship) == "shipped"
    assert await states(database, order) == ["placed", "processing", "paid", "shipped"]
    assert len(keys) == 4 and keys[0] == keys[1] != keys[2] == keys[3]
    other = (await place_order(database, buyer="u1", item="soup"))["id"]
    await process(database, other, charge=charge, ship=ship)
    assert len(set(keys)) == 4


async def test_a_declined_order_is_rejected_with_the_reason(database: Database) -> None:
    async def charge(order: dict[str, Any], key: str) -> None:
        raise Declined("no credit\n\x00\ud800 left" + "!" * 300)

    order = (await place_order(database, buyer="u1", item="soup"))["id"]
    for _ in range(2):
        assert await process(database, order, charge=charge) == "rejected"
    assert await states(database, order) == ["placed", "processing", "rejected"]
    assert (await get_order(database, order=order))["reason"] == ("no credit left" + "!" * 300)[:200]
    assert (await said(database, "notifications:u1"))[-1]["text"].startswith("Your order of 1 × soup was rejected: no credit left!")


async def test_several_workers_with_the_same_job_reach_each_state_once(database: Database) -> None:
    """As when a worker was presumed dead and was not."""
    keys: set[str] = set()

    async def charge(order: dict[str, Any], key: str) -> None:
        await asyncio.sleep(0)
        keys.add(key)

    order = (await place_order(database, buyer="u1", item="soup"))["id"]
    assert await asyncio.gather(*[process(database, order, charge=charge) for _ in range(4)]) == ["shipped"] * 4
    assert await states(database, order) == ["placed", "processing", "paid", "shipped"]
    assert len(keys) == 1


async def test_a_job_of_an_unknown_order_raises(database: Database) -> None:
    with pytest.raises(NotFound, match=r"^there is no order 404$"):
        await process(database, 404)


async def test_the_inbox_of_a_buyer_has_one_notification_for_each_order(database: Database, relay: Relay, publisher: Publisher) -> None:
    placed = [(await place_order(database, buyer="u1", item=item))["id"] for item in ("soup", "bread")]
    await process(database, placed[0])
    await relay.drain()
    inbox = publisher.history.layout.inbox_keys("notifications:u1")
    *_, unread = (await publisher.history.call(b"gateway_inbox", inbox, 0, 0))[:3]
    assert unread == 2
    page = await publisher.history.read("notifications:u1", 0, -1)
    newest = {each["id"]: each["text"] for each in (msgspec.json.decode(publication.data) for publication in page.publications)}
    assert newest == {
        f"order:{placed[0]}": "Your order of 1 × soup was shipped",
        f"order:{placed[1]}": "Your order of 1 × bread was placed",
    }
    overview = await Queues(publisher.history.commands, publisher.history.layout).overview("default")
    assert overview.ready == 2
    async with database.reading() as connection:
        assert (await connection.execute(select(outbox.c.id))).all() == []


async def test_a_worker_processes_orders_and_each_state_is_published(
    database: Database, publisher: Publisher, valkey_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It complains of no task that the handler left running: what wakes the relay is none of the handler's."""
    worker = Worker(url=valkey_url, prefix=prefix)
    register(worker, database)
    order = (await place_order(database, buyer="u1", item="soup"))["id"]

    async def is_shipped() -> bool:
        return len((await publisher.history.read(channel_of_order(order), 0, -1)).publications) == 4

    async with Database(url_of(database)) as elsewhere:
        working, relaying = asyncio.create_task(worker.run()), asyncio.create_task(Relay(elsewhere, publisher.history).run())
        await eventually(is_shipped, "the order is shipped, and that is published")
        worker.stop()
        await working
        warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        relaying.cancel()  # in the middle of a transaction perhaps, which SQLAlchemy logs
        await asyncio.gather(relaying, return_exceptions=True)
    assert warnings == []


# Killed.


class Crew:
    """Relays and workers in processes of their own; what dies is replaced."""

    def __init__(self, seed: str, *arguments: str) -> None:
        self._chance = random.Random(seed)
        self._arguments = arguments
        self._relays = [self._relay(), self._relay()]
        self._workers = [self._worker(), self._worker()]
        self.deaths = 0

    def _relay(self) -> BaseProcess:
        return forks.start(relays.relaying, *self._arguments)

    def _worker(self) -> BaseProcess:
        return forks.start(order_workers.order_worker, *self._arguments, self._chance.randint(10, 40))

    async def change(self) -> None:
        """Kills a relay, after a moment; replaces the workers that died."""
        await asyncio.sleep(self._chance.uniform(0, 0.1))
        victim = self._relays.pop(self._chance.randrange(2))
        self.deaths += 1
        end(victim)
        self._relays.append(self._relay())
        self.replace()

    def replace(self) -> None:
        for worker in [each for each in self._workers if not each.is_alive()]:
            assert worker.exitcode == -signal.SIGKILL
            self.deaths += 1
            end(worker)
            self._workers.remove(worker)
            self._workers.append(self._worker())

    def end(self) -> None:
        for process in (*self._relays, *self._workers):
            end(process)


def end(process: BaseProcess) -> None:
    process.kill()
    process.join()
    process.close()


PATHS = {
    "cancelled": ["placed", "cancelled"],
    "rejected": ["placed", "processing", "rejected"],
    "shipped": ["placed", "processing", "paid", "shipped"],
}


@pytest.mark.parametrize("seed", SEEDS)
async def test_each_order_is_processed_once_though_relays_and_workers_are_killed(
    database: Database, publisher: Publisher, valkey_url: str, prefix: str, seed: str
) -> None:
    """Row, payments, channel and inbox agree, and nothing is left anywhere."""
    await order_workers.make_payments(database)
    queues = Queues(publisher.history.commands, publisher.history.layout)
    crew = Crew(seed, url_of(database), valkey_url, prefix)
    placed: list[int] = []

    async def all_are_done() -> bool:
        crew.replace()
        await queues.resend("default")  # what crashed three workers
        orders = [await get_order(database, order=id) for id in placed]
        left = await queues.overview("default")
        return (
            await backlog(database) == 0
            and {each["state"] for each in orders} <= PATHS.keys()
            and left.ready + left.running + left.delayed == 0
        )

    try:
        for number in range(12):
            placed.append((await place_order(database, buyer=f"u{number % 2}", item="soup", amount=number % 4))["id"])
            if number % 4 == 0:
                with contextlib.suppress(Conflict):
                    await cancel_order(database, order=placed[-1], by="u0")
            if number % 4 == 3:
                await crew.change()
        await eventually(all_are_done, "all orders are processed", 30)
    finally:
        crew.end()
    assert crew.deaths > 3
    paid = await order_workers.payments(database)
    for number, id in enumerate(placed):
        order = await get_order(database, order=id)
        page = await publisher.history.read(channel_of_order(id), 0, -1)
        documents = [msgspec.json.decode(each.data)["order"] for each in page.publications]
        assert [each.offset for each in page.publications] == list(range(1, len(documents) + 1))
        assert [each["state"] for each in documents] == PATHS[order["state"]]
        assert documents[-1] == order
        assert order["state"] == "cancelled" or order["state"] == ("rejected" if number % 2 else "shipped")
        assert (f"order-{id}-{order['created_at']}:charge" in paid) is (order["state"] == "shipped")
    for user in ("u0", "u1"):
        inbox = publisher.history.layout.inbox_keys(f"notifications:{user}")
        assert (await publisher.history.call(b"gateway_inbox", inbox, 0, 0))[2] == 6
