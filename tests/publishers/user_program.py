"""What users write, for the type checker alone: it is not run. A line that ends with ``# mistake`` is one that must be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text, select, update

from gateway.publication import Position
from gateway.rpc import Caller, Failure, Service
from gateway.work import Worker
from publishers import Publisher, SyncPublisher
from publishers.database import Database, Transaction
from publishers.orders import Declined, advance, cancel_order, place_order, register
from publishers.posts import create_channel, create_post, list_posts
from publishers.reactions import Reactions, react
from publishers.reviews import create_review, review_history

orders = Table("orders", MetaData(), Column("id", Integer, primary_key=True), Column("status", Text))


@dataclass
class Shipped:
    order: int
    at: datetime


async def publishes(publisher: Publisher, text: str, is_text: bool) -> str:
    position: Position | None = await publisher.publish("orders:17", {"status": "shipped"}, idempotency_key="order-17")
    await publisher.publish("orders:17", Shipped(17, datetime.now()), version=7, version_epoch="shop", size=100, ttl=3600)
    await publisher.publish("orders:17", [1, 2.5, None], tags={"lang": "de"}, info={"user": "u1"}, ttl=None)
    await publisher.publish("orders:17", '{"status":"shipped"}', raw=True)
    await publisher.publish("orders:17", text, raw=is_text, ttl=0)
    await publisher.notify("u1", {"id": "order-17", "text": "Your order is on its way"}, idempotency_key="order-17")
    positions: list[Position | None] = await publisher.publish_many("orders:17", (Shipped(n, datetime.now()) for n in range(3)))
    await publisher.publish_ephemeral("orders:17", {"typing": "u1"})
    page = await publisher.history.read("orders:17", 0, -1)
    first: bytes = page.publications[0].data
    return f"{position.epoch}:{position.offset} {len(positions)} {first!r}" if position is not None else ""


async def publishes_wrongly(publisher: Publisher) -> None:
    await publisher.publish(17, {"status": "shipped"})  # mistake
    await publisher.publish("orders:17")  # mistake
    await publisher.publish("orders:17", {"status": "shipped"}, raw=True)  # mistake
    await publisher.publish("orders:17", 1, idempotency_key=17)  # mistake
    await publisher.publish("orders:17", 1, version="7")  # mistake
    await publisher.publish("orders:17", 1, ttl="1h")  # mistake
    await publisher.publish("orders:17", 1, size=1.5)  # mistake
    await publisher.publish("orders:17", 1, tags=["de"])  # mistake
    await publisher.publish("orders:17", 1, tags={"lang": 1})  # mistake
    await publisher.publish("orders:17", 1, info="u1")  # mistake
    await publisher.publish("orders:17", 1, idempotence_key="order-17")  # mistake
    await publisher.publish("orders:17", 1, "order-17")  # mistake
    publisher.publish("orders:17", 1)  # mistake
    position: Position = await publisher.publish("orders:17", 1)  # mistake
    await publisher.notify(1, {"id": "order-17"})  # mistake
    await publisher.notify("u1", "Your order is on its way")  # mistake
    await publisher.notify("u1", {"id": "order-17"}, ttl=0)  # mistake
    publisher.notify("u1", {"id": "order-17"})  # mistake
    await publisher.publish_many("orders:17", [{}], raw=True)  # mistake
    with publisher:  # mistake
        print(position)
    Publisher("valkey://localhost", patience="10")  # mistake


def publishes_from_threads(publisher: SyncPublisher, text: bytes) -> Position | None:
    with SyncPublisher(prefix="shop", patience=1.5) as other:
        other.publish_ephemeral("orders:17", {"typing": "u1"})
    publisher.publish("orders:17", text, raw=True, size=-1)
    publisher.notify("u1", {"id": "order-17"})
    return publisher.publish("orders:17", {"status": "shipped"}, idempotency_key="order-17", tags={"lang": "de"})


async def publishes_from_threads_wrongly(publisher: SyncPublisher) -> None:
    await publisher.publish("orders:17", 1)  # mistake
    publisher.publish("orders:17", {"status": "shipped"}, raw=True)  # mistake
    publisher.publish("orders:17", 1, key="order-17")  # mistake
    publisher.publish("orders:17", 1, ttl=60.0)  # mistake
    publisher.notify(1, {"id": "order-17"})  # mistake
    publisher.notify("u1", "Your order is on its way")  # mistake
    publisher.publish("orders:17", 1, tags={"lang": 1})  # mistake
    publisher.publish("orders:17", 1, ttl="5m")  # mistake
    print(publisher.publish("orders:17", 1).offset)  # mistake


async def writes(database: Database) -> str | None:
    async with database.transaction() as transaction:
        await transaction.execute(update(orders).where(orders.c.id == 17).values(status="shipped"))
        await transaction.execute(update(orders), [{"id": 17, "status": "shipped"}])
        transaction.publish("orders:17", Shipped(17, datetime.now()), keep=True)
        transaction.notify("u1", {"id": "order-17"})
        job: str = transaction.enqueue(
            "orders.bill", Shipped(17, datetime.now()), queue="low", key="bill-17", delay=1.5, at=datetime.now(UTC)
        )
        transaction.enqueue("orders.count")
        post: Mapping[str, Any] = await create_post(transaction, channel="tech", author="u1", text="…")
    async with database.reading() as connection:
        status: str | None = (await connection.execute(select(orders.c.status))).scalar()
    counts: dict[str, int] = await react(database, user="u2", target=f"post:{post['id']}", reaction="like")
    await Reactions(database).react(user="u2", target="review:1", reaction=None)
    order: dict[str, Any] = await place_order(database, buyer="u1", item=job, quantity=2, amount=1250, queue="low")
    await advance(database, order=order["id"], state="delivered")
    return status if counts else await database.run(ships)


async def pays(order: dict[str, Any], key: str) -> None:
    if order["amount"] > 1000:
        raise Declined(f"{key}: no credit")


def works(database: Database) -> Worker:
    worker = Worker(["low"])
    register(worker, database, charge=pays)
    return worker


async def ships(transaction: Transaction) -> str | None:
    return (await transaction.execute(select(orders.c.status))).scalar_one_or_none()


async def writes_wrongly(database: Database, publisher: Publisher) -> None:
    async with database.transaction() as transaction:
        await transaction.publish("orders:17", 1)  # mistake
        transaction.publish(17, 1)  # mistake
        transaction.publish("orders:17", 1, ttl=0)  # mistake
        transaction.publish("orders:17", 1, keep="yes")  # mistake
        transaction.notify(1, {"id": "order-17"})  # mistake
        transaction.enqueue(17)  # mistake
        await transaction.enqueue("orders.bill")  # mistake
        transaction.enqueue("orders.bill", {}, "low")  # mistake
        transaction.enqueue("orders.bill", priority="first")  # mistake
        transaction.enqueue("orders.bill", delay="1h")  # mistake
        transaction.enqueue("orders.bill", keep=True)  # mistake
        transaction.execute(update(orders))  # mistake
        await transaction.execute("UPDATE orders")  # mistake
    with database.transaction():  # mistake
        print("shipped")
    count: int = await database.run(ships)  # mistake
    print(count)
    await create_channel(database, name="tech", owner=1)  # mistake
    await create_review(database, subject="kiosk", author="u1", rating="5", text="…")  # mistake
    create_post(database, channel="tech", author="u1", text="…")  # mistake
    await list_posts(database, channel="tech", limit="all")  # mistake
    await place_order(database, buyer="u1")  # mistake
    await place_order(database, buyer="u1", item="soup", amount="12.50")  # mistake
    await cancel_order(database, order=17)  # mistake
    register(database, database)  # mistake
    register(Worker(), database, charge=ships)  # mistake
    await react(database, user="u2", target=12, reaction="like")  # mistake
    await review_history("review:1", database=database, publisher=publisher)  # mistake


service = Service("valkey://localhost", concurrency=8)


@service.method("orders.cancel")
async def cancel(caller: Caller, data: dict[str, Any]) -> dict[str, bool]:
    if caller.user != data["user"]:
        raise Failure(403, "the order belongs to another user", temporary=False)
    return {"cancelled": True}


@service.sent
async def sent(caller: Caller, data: Any) -> None:
    print(caller.client.upper(), caller.deadline + 1.0, data)


@service.method(17)  # mistake
async def by_number(caller: Caller, data: Any) -> None:
    return None


@service.method("orders.count")  # mistake
async def without_data(caller: Caller) -> int:
    return 0


@service.method("orders.list")
def in_a_thread(caller: Caller, data: Any) -> list[int]:
    return [len(caller.user)]


@service.sent
def sent_to_a_thread(caller: Caller, data: Any) -> None:
    print(in_a_thread(caller, data)[0] + 1)


@service.method("orders.first")  # mistake
def with_a_number(caller: int, data: Any) -> int:
    return caller


@service.method("orders.show")  # mistake
async def of_a_user(user: str, data: Any) -> str:
    return user


@service.sent  # mistake
async def without_caller() -> None:
    return None


async def serves() -> None:
    service.run()  # mistake
    Service(concurrency="8")  # mistake
    Service(threads="8")  # mistake
    await service.run()
