"""Connections of a pool that are lost while nobody uses them, or without a word, and how that is noticed.

- The server ended an idle connection, as at its restart: it is replaced as a transaction takes it, without a round trip.
- The host vanished, or a firewall forgot the connection, so that no answer comes: TCP would send again for a quarter of an hour. It gives up
  after SILENT_SECONDS, and an attempt to connect after CONNECT_SECONDS.
- The server has become a standby, which reads and does not write, and the connection outlived that: the first statement that it refuses
  ends the connection, so that the next one looks for the address again.
- A proxy before the server is silent. To TCP it is alive, and the driver waits for an answer as long as none comes, also to close the connection. That
  is cut after END_SECONDS, and a relay's connection as ``relay_program`` says. An application's statement takes as long as it takes,
  unless its URL says ``?command_timeout=60``, which is asyncpg's, and psycopg has here too.
- The process was forked: the connection is the other process's.
"""

from __future__ import annotations

import math
import os
import select
import socket
import ssl
import time
from collections.abc import Generator
from functools import cache
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError

from gateway.errors import ConfigurationError

__all__ = ["OF_LIBPQ", "connecting", "cut", "is_of_standby", "replace_lost", "sqlstate_of"]

SILENT_SECONDS = 20  # a server that is alive answers TCP within milliseconds
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 2  # until a connection on which nothing is sent is probed, and how often
CONNECT_SECONDS = 15
END_SECONDS = 2.0  # in which a server that is alive ends a connection that is closed

READ_ONLY = "25006"  # PostgreSQL, appendix A
_BOUND = "command_timeout"  # seconds
_PROCESS, _IS_NEW = "gateway_process", "gateway_is_new"  # in a connection's record

_SOCKET_OPTIONS = {
    "TCP_USER_TIMEOUT": SILENT_SECONDS * 1000,
    "TCP_KEEPIDLE": IDLE_SECONDS,
    "TCP_KEEPINTVL": PROBE_SECONDS,
    "TCP_KEEPCNT": PROBES,
}
# What hosting providers, and programs, write into their URLs. The server gets the first two, as -c search_path=shop.
OF_LIBPQ = ("application_name", "options", "sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert")
# Nothing is to be done for these where asyncpg connects: its sockets are limited in any case.
_OF_LIBPQ_ALONE = (
    "channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout",
)  # fmt: skip
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "asyncpg": {"timeout": CONNECT_SECONDS},
    "psycopg": {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
        "keepalives_idle": IDLE_SECONDS,
        "keepalives_interval": PROBE_SECONDS,
        "keepalives_count": PROBES,
    },
}


def connecting(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL and the other arguments for the driver of a PostgreSQL; what the URL has itself stays. Raises ConfigurationError for what cannot be."""
    if _BOUND in url.query:
        _checked_seconds(_BOUND, url.query[_BOUND])
    arguments = {name: value for name, value in _ARGUMENTS.get(url.get_driver_name(), {}).items() if name not in url.query}
    return _for_asyncpg(url, arguments) if url.get_driver_name() == "asyncpg" else (url, arguments)


def _for_asyncpg(url: URL, arguments: dict[str, Any]) -> tuple[URL, dict[str, Any]]:
    """What libpq, and so psycopg, takes in a URL, asyncpg takes in a URL alone, not as arguments, which SQLAlchemy makes of it, or not at all."""
    own: dict[str, Any] = {name: url.query[name] for name in OF_LIBPQ if name in url.query}
    if url.query.get("channel_binding") == "require":
        raise ConfigurationError(
            "database_url: channel_binding=require is not possible with asyncpg; write sslmode=verify-full&sslrootcert=system, so that the server proves itself"
        )
    if url.query.get("connect_timeout", "0") != "0":  # to libpq 0 is for ever
        arguments["timeout"] = _checked_seconds("connect_timeout", url.query["connect_timeout"])
    url = url.difference_update_query([*own, *_OF_LIBPQ_ALONE])
    if own.get("sslrootcert") == "system":  # whom the system trusts; libpq takes nothing but verify-full with it
        arguments["ssl"] = context = ssl.create_default_context()
        if "sslcert" in own:
            context.load_cert_chain(own["sslcert"], own.get("sslkey"))
        own = {name: own[name] for name in own if not name.startswith("ssl")}
    if own:
        arguments["dsn"] = f"postgresql://?{urlencode(own)}"
    return url, arguments


def _checked_seconds(name: str, given: Any) -> float:
    try:
        if 0 < (seconds := float(given)) < math.inf:
            return seconds
    except (TypeError, ValueError):  # it is written twice, or no number
        given = repr(given)
    raise ConfigurationError(f"database_url: {name} is a number of seconds above 0, not {given}")


def replace_lost(engine: Engine) -> None:
    """From now on a connection of this engine that was lost is replaced as it is taken from the pool."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        if dialect.driver != "psycopg" or _BOUND not in options:
            return None  # SQLAlchemy connects
        return _bounded(dialect.dbapi.Connection, _checked_seconds(_BOUND, options.pop(_BOUND))).connect(*arguments, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        record.info.update({_PROCESS: os.getpid(), _IS_NEW: True})
        if engine.dialect.driver == "asyncpg":
            _limit_silence(connection.driver_connection)

    @event.listens_for(engine, "close")
    def closing(connection: Any, record: Any) -> None:
        if engine.dialect.driver == "asyncpg" and not (loop := connection.driver_connection._loop).is_closed():
            loop.call_later(END_SECONDS, cut, connection.driver_connection)

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: Any, proxy: Any) -> None:
        if record.info.pop(_IS_NEW, False):
            return  # and may have something to read, as the tickets of TLS
        if record.info[_PROCESS] != os.getpid():
            record.dbapi_connection = proxy.dbapi_connection = None  # not to be closed here
            raise DisconnectionError("the connection belongs to the process that forked this one")
        if engine.dialect.name == "postgresql" and _is_lost(connection):
            raise DisconnectionError("the connection was lost while nobody used it")


@cache
def _bounded(connection: Any, seconds: float) -> Any:
    """The class of connections of psycopg that give up where an answer takes longer."""

    class Bounded(connection):  # type: ignore[misc]
        def wait(self, work: Any, *how: Any, **named: Any) -> Any:
            return super().wait(self._until(work, time.monotonic() + seconds), *how, **named)

        def _until(self, work: Any, end: float) -> Generator[Any, Any, Any]:
            """``work``, which psycopg resumes with what the socket is ready for, and ten times a second with nothing."""
            try:
                wanted = next(work)
                while True:
                    ready = yield wanted
                    if time.monotonic() >= end:
                        self.close()
                        raise self.OperationalError(f"no answer came within {seconds:g} s")
                    wanted = work.send(ready)
            except StopIteration as done:
                return done.value

    return Bounded


def cut(driver: Any) -> None:
    """Loses a connection of asyncpg: a caller that waits for an answer over it gets an error."""
    driver._transport.abort()


def sqlstate_of(error: DBAPIError) -> str | None:
    """PostgreSQL's name of an error, from whichever driver."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def is_of_standby(error: DBAPIError) -> bool:
    """Whether the server takes no writes: it is not the primary, or not any more."""
    return sqlstate_of(error) == READ_ONLY


def _limit_silence(driver: Any) -> None:
    """libpq has arguments for it, asyncpg has not."""
    there = driver._transport.get_extra_info("socket")
    if there.family == socket.AF_UNIX:
        return
    there.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        if hasattr(socket, name):  # not all systems have each
            there.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_lost(connection: Any) -> bool:
    """Whether an idle connection is closed. psycopg notices that as it reads: nothing is to be read but the server's last words, or its end."""
    if hasattr(connection, "driver_connection"):
        return bool(connection.driver_connection.is_closed())
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
