"""The page about the outbox in Django and SQLAlchemy, done as it says: a project that Django's own commands make, and an application of FastAPI.

The gateway beside them is that of ``publishers.testing``, as in a user's own tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from publishers.session_outbox import publish_on_commit
from publishers.tables import outbox_tables
from publishers.testing import RunningGateway, started_gateway

from ..kit.documentation import snippet
from ..kit.programs import ENVIRONMENT
from ..kit.waiting import wait_until

pytestmark = pytest.mark.slow

snippets = partial(snippet, "how-to/outbox-in-django-and-sqlalchemy.md")
PROGRAMS = Path(sys.executable).parent
MODEL = """
from django.db import models

class Parcel(models.Model):
    status = models.TextField()
"""

BEGIN = 'from django.core.management import call_command as call; call("startproject", "shop", "."); call("startapp", "parcels")'
SHIP = 'from django.test import Client; Client(HTTP_HOST="localhost").post("/parcels/17/ship").json()'


class Folder:
    """A reader's folder, in which files are written and commands run beside the gateway."""

    def __init__(self, path: Path, gateway: RunningGateway) -> None:
        self.path = path
        programs = f"{PROGRAMS}{os.pathsep}{ENVIRONMENT['PATH']}"
        self.environment = {**ENVIRONMENT, "PATH": programs, "GATEWAY_VALKEY_URL": gateway.valkey_url}

    def write(self, name: str, code: str, *, append: bool = False) -> None:
        with (self.path / name).open("a" if append else "w") as file:
            file.write(code)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until it is ended; it is ready when it has written a line."""
        words = ["bash", "-c", f"exec {command.strip()}"]
        with subprocess.Popen(words, cwd=self.path, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None and "is published" in process.stdout.readline()
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with started_gateway(tmp_path_factory.mktemp("gateway"), '[namespaces.orders]\nhistory = "user"\n') as gateway:
        yield gateway


@pytest.fixture
def folder(tmp_path: Path, gateway: RunningGateway) -> Folder:
    return Folder(tmp_path, gateway)


def test_a_project_of_django_publishes_with_its_changes(folder: Folder, gateway: RunningGateway) -> None:
    folder.run(f"python -c '{BEGIN}'")
    folder.write("parcels/models.py", MODEL)
    folder.write("parcels/views.py", snippets("django view"))
    folder.write("parcels/tests.py", snippets("django tests"))
    folder.write("shop/urls.py", snippets("django urls"))
    folder.write(
        "shop/settings.py", snippets("django settings") + 'MIDDLEWARE.remove("django.middleware.csrf.CsrfViewMiddleware")\n', append=True
    )
    folder.write("shop/settings.py", 'INSTALLED_APPS += ["parcels"]\n', append=True)
    folder.run("python manage.py makemigrations parcels")
    with ThreadPoolExecutor() as pool:  # the tests have a database of their own
        tests = pool.submit(folder.run, "python manage.py test")
        folder.run(snippets("django migrate"))
        with folder.running(snippets("django relay")):
            folder.run("python manage.py shell -c '" + SHIP + "'")
            wait_until(lambda: gateway.history("orders:17"), "the publication")
        assert "OK" in tests.result()
    assert gateway.history("orders:17") == [{"status": "shipped"}]
    assert gateway.history("notifications:1") == [{"id": "order-17", "text": "Your order is on its way"}]


def test_an_application_of_fastapi_publishes_with_its_changes(
    folder: Folder, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mark in (("main.py", "session"), ("conftest.py", "conftest"), ("test_main.py", "tests")):
        folder.write(name, snippets(mark))
    folder.run("python -W ignore -m pytest -q -p no:cacheprovider --disable-plugin-autoload")
    gateway.api("history_remove", channel="orders:17")
    with folder.running(snippets("session relay")):
        wait_until(lambda: gateway.history("orders:17"), "the publication of the test")
        monkeypatch.chdir(folder.path)
        exec(snippets("sync database"), {})
        wait_until(lambda: len(gateway.history("orders:17")) == 2, "that of SyncDatabase")
    assert gateway.history("orders:17") == [{"status": "shipped"}] * 2


async def test_a_session_of_asyncio_runs_the_same_functions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    plain = create_engine(url)
    outbox_tables.create_all(plain)
    engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
    async with AsyncSession(engine) as session:
        names = {"session": session, "publish_on_commit": publish_on_commit, "asyncio": asyncio}
        exec(f"async def written():\n    {snippets('async session')}", names)
        await names["written"]()
        await session.commit()
    with plain.connect() as connection:
        assert connection.execute(text("SELECT channel, data FROM outbox")).all() == [("orders:17", '{"status":"shipped"}')]
    await engine.dispose()
    plain.dispose()


@pytest.mark.parametrize("listens", [False, True], ids=["as it is made", "with the page's lines"])
def test_a_savepoint_of_sqlite_is_undone_with_its_transaction_where_the_page_is_followed(listens: bool, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    if listens:
        exec(snippets("savepoints"), {"engine": engine})
    outbox_tables.create_all(engine)
    with pytest.raises(ZeroDivisionError), Session(engine) as session:
        with session.begin_nested():
            publish_on_commit(session, "orders:17", {"status": "shipped"})
        raise ZeroDivisionError
    with engine.connect() as connection:
        assert len(connection.execute(text("SELECT * FROM outbox")).all()) == (0 if listens else 1)
    engine.dispose()
