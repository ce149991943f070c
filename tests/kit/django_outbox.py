"""What a Django program does with its outbox, in a process of its own: Django is set up once for a process, on one database.

``exercise`` writes a JSON object: the name of each act, and what it returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url

__all__ = ["exercise"]

SECRET = "s" * 40
VISITOR, ANN = SimpleNamespace(is_authenticated=False), SimpleNamespace(is_authenticated=True, pk=7, username="Ann")  # as Django's users


def exercise(url: str, results: str) -> None:
    from django.core.management import call_command

    _set_up(url)
    if url.startswith("postgresql"):
        asyncio.run(_make_schema(url))
    missing = _message_of(_publish)
    call_command("migrate", verbosity=0)
    found = {"missing": missing, **{act.__name__.strip("_"): act() for act in ACTS}}
    Path(results).write_text(json.dumps(found))


async def _make_schema(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE SCHEMA shop")
    await connection.close()


def _set_up(url: str) -> None:
    import django
    from django.conf import settings

    parsed = make_url(url)
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": parsed.database}
    if parsed.get_backend_name() != "sqlite":
        place = {"HOST": parsed.query.get("host") or parsed.host, "PORT": parsed.port or "", "USER": parsed.username}
        more = {"OPTIONS": {"options": "-c search_path=shop", "application_name": "a shop"}}
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": parsed.database, **place, **more}
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["publishers.django"],
        GATEWAY={"TOKEN_SECRET": SECRET, "TOKEN_CLAIMS": "tests.kit.django_outbox.claims_of"},
        LOGGING_CONFIG=None,
        ROOT_URLCONF="tests.kit.django_outbox",
    )
    django.setup()


urlpatterns: list[Any] = []


def claims_of(user: Any) -> dict[str, Any]:
    return {"info": {"name": user.username}}


def _publish(channel: str = "posts:a", data: Any = 1) -> None:
    from publishers.django import publish_on_commit

    publish_on_commit(channel, data)


def _message_of(act: Callable[[], Any]) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _rows() -> list[Any]:
    """What the outbox holds now, which is emptied."""
    from publishers.django.models import OutboxRow

    found = [[row.channel, row.data] for row in OutboxRow.objects.order_by("id")]
    OutboxRow.objects.all().delete()
    return found


# Acts.


def _committed() -> list[Any]:
    from django.db import transaction

    from publishers.django import enqueue_on_commit, notify_on_commit

    with transaction.atomic():
        _publish()
        notify_on_commit("u1", {"id": "1"})
        enqueue_on_commit("orders.bill", 17)
    return [channel for channel, _ in _rows()]


def _undone() -> list[Any]:
    """A savepoint, and then a transaction."""
    from django.db import transaction

    with transaction.atomic():
        _publish(data="kept")
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            _publish(data="undone")
            raise ZeroDivisionError
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        _publish(data="undone too")
        raise ZeroDivisionError
    return _rows()


def _recorded() -> list[Any]:
    """In a transaction that is open, and when it is committed; of three savepoints one is kept, and a callback for the commit raises."""
    from django.db import transaction

    from publishers.testing import recording

    with recording() as published:
        with contextlib.suppress(ArithmeticError), transaction.atomic():
            _publish(data=1)
            with contextlib.suppress(ZeroDivisionError), transaction.atomic():
                _publish(data=2)
                raise ZeroDivisionError
            inside = published.of("posts:a")
            savepoint = transaction.savepoint()
            _publish(data=3)
            transaction.savepoint_rollback(savepoint)
            transaction.on_commit(_fail)
            with transaction.atomic():
                _publish(data=4)
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            _publish(data=5)
            raise ZeroDivisionError
        _publish(data=6)
    return [inside, published.of("posts:a"), len(_rows())]


def _fail() -> None:
    raise ArithmeticError


def _wakes() -> int:
    """How often a transaction with three publications wakes the relays."""
    from django.db import connection, transaction

    with transaction.atomic():
        for number in range(3):
            _publish(data=number)
        count = len(connection.run_on_commit)
    _rows()
    return count


def _differs_from_the_tables_of_the_relay() -> list[str]:
    """Alembic compares the tables, as it does for the publishers' own migrations."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from django.db import connection
    from sqlalchemy import create_engine

    from publishers.django.management.commands.gateway_relay import _url
    from publishers.engines import SYNC_DRIVERS, driver_url
    from publishers.tables import outbox_tables

    ours = set(outbox_tables.tables)
    options = {"include_name": lambda name, kind, _: kind != "table" or name in ours}
    engine = create_engine(driver_url(_url(connection.alias), SYNC_DRIVERS))
    with engine.connect() as opened:
        found = [str(each) for each in compare_metadata(MigrationContext.configure(opened, opts=options), outbox_tables)]
    engine.dispose()
    return [each for each in found if "_like'" not in each]  # an index that Django adds to each text key of PostgreSQL


def _relay_has_the_tables() -> bool:
    """In the schema that the project's settings name."""
    from publishers.database import Database
    from publishers.django.management.commands.gateway_relay import _url
    from publishers.migrator import has_table

    async def look() -> bool:
        async with Database(_url("default")) as database, database.apart() as apart:
            rows = await apart.execute(text("SELECT count(*) FROM outbox"))
            named = database.sqlite or (await apart.execute(text("SHOW application_name"))).scalar() == "a shop"
            return await has_table(database, "outbox") and rows.scalar() == 0 and named

    return asyncio.run(look())


def _needs_no_further_migration() -> str:
    from django.core.management import call_command

    return _message_of(lambda: call_command("makemigrations", "--check", "--dry-run", verbosity=0))


def _tokens() -> list[Any]:
    """Of a visitor, of a user, and for a POST; then the claims of the user's."""
    import jwt
    from django.test import RequestFactory

    from publishers.django.token_view import token_view

    answers = []
    for method, user in (("get", VISITOR), ("get", ANN), ("post", ANN)):
        request = getattr(RequestFactory(), method)("/my-token")
        request.user = user
        answers.append(token_view(request))
    claims = jwt.decode(answers[1].content.decode(), SECRET, algorithms=["HS256"])
    return [[answer.status_code for answer in answers], {name: claims[name] for name in ("sub", "info")}, answers[1]["Cache-Control"]]


def _wrong_settings() -> list[str]:
    from django.conf import settings

    from publishers.django.token_view import token_for

    faults = []
    seconds: list[dict[str, Any]] = [{"TOKEN_SECRET": SECRET, "TOKEN_SECONDS": each} for each in ("3600", 0)]
    for given in ({"TOKEN": "x"}, {}, {"TOKEN_SECRET": SECRET, "TOKEN_CLAIMS": "no.such"}, *seconds):
        settings.GATEWAY = given
        faults.append(_message_of(lambda: token_for(ANN)))
    return faults


ACTS = (
    _committed,
    _undone,
    _recorded,
    _wakes,
    _differs_from_the_tables_of_the_relay,
    _relay_has_the_tables,
    _needs_no_further_migration,
    _tokens,
    _wrong_settings,
)
