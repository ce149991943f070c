"""Prepared statements: on PostgreSQL asyncpg executes them, and they behave as statements that SQLAlchemy executes."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, insert, literal, select, text
from sqlalchemy.exc import DBAPIError

from publishers.database import Database
from publishers.prepared import Prepared, driver_of
from publishers.tables import settings

ADD = Prepared(insert(settings))
READ = Prepared(select(settings.c.value).where(settings.c.name == bindparam("name")))
OWN = Prepared(select(literal(3) + bindparam("more", type_=Integer)))


async def value_of(database: Database, name: str) -> list[str]:
    return [value for (value,) in await database.fetch(READ, {"name": name})]


async def test_statements_of_both_ways_are_in_one_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            await transaction.fetch(ADD, {"name": "a", "value": "1"})
            await transaction.execute(insert(settings), {"name": "b", "value": "2"})
            await transaction.fetch_each(ADD, [{"name": name, "value": name} for name in "cd"])
            assert [row[0] for name in "abcd" for row in await transaction.fetch(READ, {"name": name})] == ["1", "2", "c", "d"]
            raise ZeroDivisionError
    assert [await value_of(database, name) for name in "abcd"] == [[]] * 4


async def test_a_statement_takes_its_own_parameters_and_the_given_ones(database: Database) -> None:
    async with database.transaction() as transaction:
        for more in (1, 2):  # the first statement of the transaction, and a later one
            assert [tuple(row) for row in await transaction.fetch(OWN, {"more": more})] == [(3 + more,)]


@pytest.mark.parametrize("before", [0, 1])
async def test_an_error_is_sqlalchemys_and_undoes_the_transaction(database: Database, before: int) -> None:
    """Of the first statement, and of a later one."""
    with pytest.raises(DBAPIError):
        async with database.transaction() as transaction:
            await transaction.fetch_each(ADD, [{"name": "before", "value": "1"}] * before or [{"name": "outbox", "value": "twice"}])
            await transaction.fetch(ADD, {"name": "outbox", "value": "twice"})
    assert await value_of(database, "before") == []
    assert len(await value_of(database, "outbox")) == 1


async def test_a_lost_connection_is_replaced(database: Database) -> None:
    if database.sqlite:
        pytest.skip("SQLite has no connection to lose")
    with pytest.raises(DBAPIError):
        await _end_in_a_transaction(database)
    await _is_replaced(database)
    await _end_between_two(database)
    await _is_replaced(database)


async def _is_replaced(database: Database) -> None:
    assert len(await value_of(database, "outbox")) == 1
    async with database.transaction() as transaction:
        assert len(await transaction.fetch(READ, {"name": "outbox"})) == 1


async def test_a_connection_that_the_server_ends_at_this_moment_fails_as_a_lost_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.sqlite:
        pytest.skip("SQLite has no connection to lose")

    async def ended(*_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    with monkeypatch.context() as patch, pytest.raises(DBAPIError):
        patch.setattr(asyncpg.Connection, "fetch", ended)
        await value_of(database, "outbox")
    assert len(await value_of(database, "outbox")) == 1


async def test_relays_that_cannot_be_woken_fail_no_task() -> None:
    async with Database("postgresql://127.0.0.1:1/away") as database:
        database.wake()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


async def _end_in_a_transaction(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.fetch(READ, {"name": "outbox"})
        driver_of(transaction.connection).terminate()
        await transaction.fetch(READ, {"name": "outbox"})


async def _end_between_two(database: Database) -> None:
    async with database.engine.connect() as connection:
        driver_of(connection).terminate()
    await value_of(database, "outbox")


async def test_a_cancelled_statement_leaves_no_transaction_open(database: Database) -> None:
    if database.sqlite:
        pytest.skip("a statement of SQLite is finished")
    slow = Prepared(text("SELECT pg_sleep(60)"))

    async def wait_long() -> None:
        async with database.transaction() as transaction:
            await transaction.fetch(ADD, {"name": "cancelled", "value": "1"})
            begun.set()
            await transaction.fetch(slow, {})

    begun = asyncio.Event()
    waiting = asyncio.create_task(wait_long())
    await begun.wait()  # asyncpg has the slow statement now: nothing waits in between
    waiting.cancel()
    await asyncio.wait([waiting], timeout=10)
    assert waiting.cancelled()
    async with asyncio.timeout(10), database.transaction() as transaction:
        await transaction.fetch(ADD, {"name": "cancelled", "value": "2"})  # it would wait for the row of an open transaction
    assert await value_of(database, "cancelled") == ["2"]
