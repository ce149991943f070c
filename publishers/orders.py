"""Orders: a buyer places one, a worker processes it, and the buyer follows each state live.

    placed ─┬→ processing ─┬→ paid → shipped → delivered
            └→ cancelled   └→ rejected

``orders:{id}`` receives each state that an order reaches, once and in this order:

    {"type": "order.placed", "order": {"id", "buyer", "item", "quantity", "amount", "state", "reason", "created_at", "changed_at"}}

The buyer's inbox has one notification for each order, which every state updates. Times are unix milliseconds, ``amount`` is in the
smallest unit of the currency, ``reason`` is why the order was rejected, else None.

The row of a new order, its publications and its job are one transaction, and so are a later state and its publications. The worker
goes by the state that it reads, and each change of state compares the one before: whatever is killed, and however often a job is run,
each state is reached once. What a worker does outside the database gets an idempotency key, which is the same each time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from sqlalchemy import insert, select, update

from .database import Database, Transaction, now_ms, within
from .faults import Conflict, Invalid, NotAllowed, NotFound, checked_choice, checked_id, checked_page, checked_text, checked_user
from .tables import orders

__all__ = [
    "JOB",
    "STATES",
    "Declined",
    "OrderJob",
    "advance",
    "cancel_order",
    "channel_of_order",
    "get_order",
    "list_orders",
    "place_order",
    "register",
]

JOB = "orders.process"
ATTEMPTS = 20  # of the job: with a backoff of up to ten minutes, two hours in which a payment service may be away
ITEM_MOST = 100  # characters
REASON_MOST = 200  # characters
QUANTITY_MOST = 1000
AMOUNT_MOST = 10**12
PAGE_MOST = 200

# State → the states that may follow it.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    "placed": ("processing", "cancelled"),
    "processing": ("paid", "rejected"),
    "paid": ("shipped",),
    "shipped": ("delivered",),
    "delivered": (),
    "rejected": (),
    "cancelled": (),
}
STATES = tuple(TRANSITIONS)
_NEWS = {
    "placed": "was placed",
    "processing": "is being processed",
    "paid": "is paid",
    "shipped": "was shipped",
    "delivered": "was delivered",
    "rejected": "was rejected",
    "cancelled": "was cancelled",
}

Order = dict[str, Any]
Effect = Callable[[Order, str], Awaitable[None]]  # of an order, with an idempotency key


class Declined(Exception):
    """The order cannot be paid: it is rejected, with the message as the reason."""


class OrderJob(msgspec.Struct):
    """The data of the job ``orders.process``."""

    order: int


class Registry(Protocol):
    """What a ``gateway.work.Worker`` is here: it takes handlers by the names of their jobs."""

    def job(self, name: str) -> Callable[[Any], Any]: ...


def channel_of_order(order: int) -> str:
    """The channel of an order's states."""
    return f"orders:{order}"


async def place_order(
    database: Database | Transaction, *, buyer: str, item: str, quantity: int = 1, amount: int = 0, queue: str = "default"
) -> Order:
    """Writes an order, and the job that processes it in ``queue``, and returns the order. Raises Invalid."""
    now = now_ms()
    values = {
        "buyer": checked_user(buyer, "buyer"),
        "item": checked_text(item, "item", ITEM_MOST),
        "quantity": _checked_number(quantity, "quantity", 1, QUANTITY_MOST),
        "amount": _checked_number(amount, "amount", 0, AMOUNT_MOST),
        "state": "placed",
        "created_at": now,
        "changed_at": now,
    }

    async def work(transaction: Transaction) -> Order:
        order = _order((await transaction.execute(insert(orders).values(**values).returning(*orders.c))).one())
        _publish(transaction, order)
        transaction.enqueue(JOB, OrderJob(order["id"]), queue=queue, key=_key(order), attempts=ATTEMPTS)
        return order

    return await within(database, work)


async def advance(database: Database | Transaction, *, order: int, state: str) -> Order:
    """Brings an order into ``state`` and returns it; one that is in this state already is returned as it is.

    Raises Invalid, NotFound, and Conflict if the state does not follow the one that the order is in.
    """
    order, state = checked_id(order, "order"), checked_choice(state, STATES, "state")
    return await within(database, lambda transaction: _advance(transaction, order, state))


async def cancel_order(database: Database | Transaction, *, order: int, by: str) -> Order:
    """Cancels an order of which processing has not begun. Raises Invalid, NotFound, NotAllowed unless ``by`` is its buyer, Conflict."""
    order, by = checked_id(order, "order"), checked_user(by)

    async def work(transaction: Transaction) -> Order:
        found = await _locked(transaction, order)
        if found.buyer != by:
            raise NotAllowed(f"order {order} is {found.buyer}'s: only they can cancel it")
        return await _advance(transaction, order, "cancelled")

    return await within(database, work)


async def get_order(database: Database, *, order: int) -> Order:
    """One order. Raises Invalid, NotFound."""
    wanted = select(orders).where(orders.c.id == checked_id(order, "order"))
    async with database.reading() as connection:
        return _order(_existing((await connection.execute(wanted)).first(), order))


async def list_orders(database: Database, *, buyer: str, before: int = 0, limit: int = 30) -> list[Order]:
    """Up to ``limit`` orders of a buyer, newest first; with ``before``, an order's id, those that are older. Raises Invalid."""
    before, limit = checked_page(before, limit, PAGE_MOST)
    wanted = select(orders).where(orders.c.buyer == checked_user(buyer, "buyer")).order_by(orders.c.id.desc()).limit(limit)
    if before:
        wanted = wanted.where(orders.c.id < before)
    async with database.reading() as connection:
        return [_order(row) for row in await connection.execute(wanted)]


# The worker.


async def _nothing(order: Order, key: str) -> None:
    """There is nothing to do outside the database."""


def register(worker: Registry, database: Database, *, charge: Effect = _nothing, ship: Effect = _nothing) -> Callable[..., Awaitable[Any]]:
    """Gives ``worker`` the handler of ``orders.process``, and returns it.

    It awaits ``charge(order, key)`` before an order is paid, and ``ship(order, key)`` before it is shipped. Both may be awaited more than
    once for an order, always with the same key, which no other order has: a service that makes one effect for each key makes it once. ``charge`` may raise
    Declined; after any other error the worker tries again, and goes on with the state that was reached.
    """

    async def process(job: Any, data: OrderJob) -> dict[str, str]:
        order = await _move(database, data.order, "placed", "processing")
        if order["state"] == "processing":
            try:
                await charge(order, f"{_key(order)}:charge")
            except Declined as error:
                order = await _move(database, data.order, "processing", "rejected", _one_line(str(error)))
            else:
                order = await _move(database, data.order, "processing", "paid")
        if order["state"] == "paid":
            await ship(order, f"{_key(order)}:ship")
            order = await _move(database, data.order, "paid", "shipped")
        return {"state": order["state"]}

    worker.job(JOB)(process)
    return process


async def _move(database: Database, id: int, origin: str, state: str, reason: str | None = None) -> Order:
    """The order, in ``state`` if it was in ``origin``; else as another transaction has left it."""

    async def work(transaction: Transaction) -> Order:
        found = await _locked(transaction, id)
        return await _enter(transaction, id, state, reason) if found.state == origin else _order(found)

    return await database.run(work)


def _key(order: Order) -> str:
    """Names an order for good: its id alone may be that of an order in another database, or in this one before it was made anew."""
    return f"order-{order['id']}-{order['created_at']}"


# In a transaction.


async def _advance(transaction: Transaction, id: int, state: str) -> Order:
    found = await _locked(transaction, id)
    if found.state == state:
        return _order(found)
    if state not in TRANSITIONS[found.state]:
        raise Conflict(f"order {id} is {found.state}: it cannot become {state}")
    return await _enter(transaction, id, state)


async def _enter(transaction: Transaction, id: int, state: str, reason: str | None = None) -> Order:
    changed = update(orders).where(orders.c.id == id).values(state=state, reason=reason, changed_at=now_ms()).returning(*orders.c)
    order = _order((await transaction.execute(changed)).one())
    _publish(transaction, order)
    return order


def _publish(transaction: Transaction, order: Order) -> None:
    channel = channel_of_order(order["id"])
    transaction.publish(channel, {"type": f"order.{order['state']}", "order": order})
    news = _NEWS[order["state"]] + (f": {order['reason']}" if order["reason"] else "")
    notification = {
        "id": f"order:{order['id']}",
        "type": "order",
        "text": f"Your order of {order['quantity']} × {order['item']} {news}",
        "target": channel,
        "state": order["state"],
        "actors": [],
        "count": 1,
    }
    transaction.notify(order["buyer"], notification)


async def _locked(transaction: Transaction, id: int) -> Any:
    """The order's row, locked until the transaction ends. Raises NotFound."""
    return _existing((await transaction.execute(select(orders).where(orders.c.id == id).with_for_update())).first(), id)


def _existing(row: Any, id: int) -> Any:
    if row is None:
        raise NotFound(f"there is no order {id}")
    return row


def _order(row: Any) -> Order:
    return dict(row._mapping)


def _checked_number(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Invalid(f"the {what} is a whole number from {least} to {most}")
    return value


def _one_line(text: str) -> str:
    """A reason as it is stored and shown: on one line, without what no database takes."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(printable.split())[:REASON_MOST]
