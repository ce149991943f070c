"""`manage.py gateway_relay`: publishes the outbox of the project's database until it is ended. Several may run."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from sqlalchemy.engine import URL

from gateway.errors import GatewayError
from publishers.database import Database
from publishers.django.gateway_settings import GatewaySettings, gateway_settings
from publishers.django.outbox import REMEDY
from publishers.lost_connections import OF_LIBPQ
from publishers.migrator import has_table
from publishers.outbox_rows import check_dialect
from publishers.publisher import Publisher
from publishers.relay_program import run_relay

__all__ = ["Command"]


class Command(BaseCommand):
    help = "Publishes the outbox, with the settings of GATEWAY, until it is ended. Several may run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--database", default="", help="The alias of the database in which the outbox is; absent: the setting's.")

    def handle(self, *arguments: Any, database: str, **options: Any) -> None:
        configured = gateway_settings()
        alias = database or configured.database
        if alias not in connections:
            raise CommandError(f"DATABASES has no {alias}")
        try:
            asyncio.run(self._relay(_url(alias), configured))
        except GatewayError as error:
            raise CommandError(str(error)) from None

    async def _relay(self, url: str, configured: GatewaySettings) -> None:
        work = asyncio.current_task()
        assert work is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):  # the ordinary end
            async with Database(url) as database:
                await self._require_tables(database)
                async with Publisher(configured.valkey_url, prefix=configured.prefix) as publisher:
                    self.stdout.write(f"the outbox of {database.name} is published; Ctrl-C ends it")
                    self.stdout.flush()
                    await run_relay(database, publisher.history)

    async def _require_tables(self, database: Database) -> None:
        if not await has_table(database, "outbox"):
            raise CommandError(f"the database {database.name} has no table outbox: {REMEDY}")


def _url(alias: str) -> str:
    """The URL of one of Django's databases. Raises ConfigurationError for one that can have no outbox."""
    connection = connections[alias]
    check_dialect(connection.vendor)
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{Path(given['NAME']).absolute()}"
    host = given["HOST"] or ""
    query = {"host": host} if host.startswith("/") else {}
    options = given.get("OPTIONS", {})
    query |= {name: str(options[name]) for name in (*OF_LIBPQ, "passfile", "service") if name in options}
    url = URL.create(
        "postgresql",
        given["USER"] or None,
        given["PASSWORD"] or None,
        None if host.startswith("/") else host or None,
        int(given["PORT"]) if given["PORT"] else None,
        given["NAME"],
        query,
    )
    return url.render_as_string(hide_password=False)
