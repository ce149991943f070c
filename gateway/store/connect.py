"""Where Valkey is, and opening a connection to it.

valkey-py parses the address and opens the connection: TLS, ACL users, databases and Sentinel come from there.
``open_connection`` then takes the connected socket over for a protocol of ours, because its stream readers cost
6.7 µs a message where libvalkey's reader on a bare protocol costs 0.5.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from valkey.asyncio.connection import AbstractConnection, ConnectionPool
from valkey.asyncio.sentinel import Sentinel
from valkey.exceptions import AuthenticationError, ValkeyError

from ..errors import ConfigurationError, StoreError, Unavailable

__all__ = ["CONNECT_SECONDS", "Address", "open_connection"]

CONNECT_SECONDS = 5.0  # for the socket, and again for the greeting

_SCHEMES = ("valkey", "valkeys", "unix", "valkey+sentinel")


class Address:
    """A Valkey URL: ``valkey://``, ``valkeys://`` (TLS), ``unix://``, ``valkey+sentinel://h1:p1,h2:p2/service``.

    The ``redis`` spellings are understood too. Raises ConfigurationError for anything else. ``str()`` shows no password.
    """

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"^redis(s?)(?=[:+])", r"valkey\1", url).replace("valkey+unix://", "unix://")
        scheme = self.url.partition("://")[0]
        if scheme == "valkey+cluster":
            raise ConfigurationError("valkey_url: valkey+cluster:// is not supported by this version; use one server, or valkey+sentinel://")
        if scheme not in _SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise ConfigurationError(f"valkey_url: {str(self)!r} does not begin with one of {schemes}")
        try:
            self._pool = self._make_pool(scheme)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"valkey_url: {error}") from None

    def _make_pool(self, scheme: str) -> ConnectionPool:
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": CONNECT_SECONDS,
            "client_name": "gateway",
            "lib_name": None,
            "lib_version": None,
        }
        if scheme != "valkey+sentinel":
            return ConnectionPool.from_url(self.url, **options)
        parts = urlsplit(self.url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        service = parts.path.strip("/")
        if not service:
            raise ValueError("a Sentinel address ends with the service's name: valkey+sentinel://host:26379/mymaster")
        sentinels = [(host.rpartition(":")[0] or host, int(host.rpartition(":")[2] or 26379) if ":" in host else 26379) for host in hosts]
        if parts.username:
            options["username"] = unquote(parts.username)
        if parts.password:
            options["password"] = unquote(parts.password)
        query = dict(parse_qsl(parts.query))
        if "db" in query:
            options["db"] = int(query["db"])
        return Sentinel(sentinels, socket_connect_timeout=CONNECT_SECONDS).master_for(service, **options).connection_pool

    def connection(self) -> AbstractConnection:
        return self._pool.make_connection()

    def __str__(self) -> str:
        return re.sub(r"//[^@/]*@", "//…@", self.url)


async def open_connection(address: Address, protocol: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, Any]:
    """Connects, greets and authenticates, then gives the socket to ``protocol()``.

    Returns the transport and valkey-py's connection, which must be kept: it closes its socket when collected.
    Raises Unavailable with one line that says which address failed and why, or StoreError for a refused login.
    """
    connection = address.connection()
    try:
        await connection.connect()
    except AuthenticationError as error:
        raise StoreError(f"Valkey at {address} refuses the login: {error}") from None
    except (ValkeyError, OSError, asyncio.TimeoutError) as error:
        await connection.disconnect(nowait=True)
        raise Unavailable(f"no Valkey at {address}: {str(error) or type(error).__name__}") from None
    writer = connection._writer
    assert writer is not None
    transport = writer.transport
    taker = protocol()
    transport.set_protocol(taker)
    taker.connection_made(transport)
    return transport, connection
