"""What ``publishers.testing`` records is what would be published: it is compared with what a database holds in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from gateway.publication import Position
from publishers import SyncPublisher
from publishers.session_outbox import publish_on_commit
from publishers.sync_database import SyncDatabase
from publishers.tables import outbox_tables
from publishers.testing import Published, recording


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.begin() as connection:
        outbox_tables.create_all(connection)
        connection.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"))
    yield engine
    engine.dispose()


@pytest.fixture
def published() -> Iterator[Published]:
    with recording() as published:
        yield published


def committed(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return [json.loads(data) for data in connection.execute(text("SELECT data FROM outbox ORDER BY id")).scalars()]


def test_a_connections_savepoints_and_transactions_count_as_they_end(engine: Engine, published: Published) -> None:
    with engine.connect() as connection:
        with connection.begin():
            publish_on_commit(connection, "a", 1)
            with suppress(ZeroDivisionError), connection.begin_nested():
                with connection.begin_nested():
                    publish_on_commit(connection, "a", 2)
                raise ZeroDivisionError
            publish_on_commit(connection, "a", 3)
        with suppress(ZeroDivisionError), connection.begin():
            publish_on_commit(connection, "a", 4)
            raise ZeroDivisionError
    assert published.of("a") == committed(engine) == [1, 3]


def test_what_a_session_commits_in_a_transaction_that_is_undone_does_not_count(engine: Engine, published: Published) -> None:
    with engine.connect() as connection, suppress(ZeroDivisionError), connection.begin():
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            publish_on_commit(session, "a", 1)
            session.commit()
        assert published.of("a") == [1], "as in a test, whose transaction stays open"
        raise ZeroDivisionError
    assert published.of("a") == committed(engine) == []


def test_what_a_scoped_session_undoes_does_not_count(engine: Engine, published: Published) -> None:
    """As that of Flask-SQLAlchemy."""
    session = scoped_session(sessionmaker(engine))
    publish_on_commit(session, "a", 1)  # type: ignore[arg-type]  # it is a Session in all but type
    session.rollback()
    publish_on_commit(session, "a", 2)  # type: ignore[arg-type]
    session.commit()
    session.remove()
    assert published.of("a") == committed(engine) == [2]


def test_a_commit_that_fails_publishes_nothing(engine: Engine, published: Published) -> None:
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    engine.dispose()
    database = SyncDatabase(engine)
    with pytest.raises(IntegrityError), database.transaction() as transaction:
        transaction.execute(text("INSERT INTO child VALUES (17)"))
        transaction.publish("a", 1)
    with Session(engine) as session:
        session.execute(text("INSERT INTO child VALUES (17)"))
        publish_on_commit(session, "a", 2)
        with pytest.raises(IntegrityError):
            session.commit()
    engine.dispose()  # SQLAlchemy gives the pool a connection whose transaction SQLite has not ended
    assert published.of("a") == committed(engine) == []


def test_a_repeated_key_and_a_version_that_is_not_newer_are_no_publication(published: Published) -> None:
    publisher = SyncPublisher("valkey://127.0.0.1:1")
    first = [publisher.publish("a", number, idempotency_key="k") for number in (1, 2)]
    assert first == [Position("recorded", 1)] * 2
    assert [publisher.publish("a", number, version=number) for number in (3, 3, 2)] == [Position("recorded", 2)] * 3
    assert publisher.publish("a", 5, version=2, version_epoch="another") == Position("recorded", 3)
    assert publisher.publish("a", 6, ttl=0) is None
    assert publisher.publish("b", 7, idempotency_key="k") == Position("recorded", 1)
    assert published.of("a") == [1, 3, 5, 6]
