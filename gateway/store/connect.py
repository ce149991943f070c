"""Where Valkey is, and how a connection to it is opened.

valkey-py parses the address and opens the connection: TLS, ACL users, databases and Sentinel come from there.
``open_connection`` then takes the connected socket over for a protocol of ours, because its stream readers cost
6.7 µs a message where libvalkey's reader on a bare protocol costs 0.5.

Many calls of valkey-py carry no types. They are wrapped here, once, and typed for the rest of the program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import valkey
from valkey.asyncio.connection import ConnectionPool
from valkey.asyncio.sentinel import MasterNotFoundError, Sentinel
from valkey.backoff import NoBackoff
from valkey.exceptions import AuthenticationError, NoPermissionError, ValkeyError
from valkey.retry import Retry

from ..errors import ConfigurationError, StoreError, Unavailable
from .not_permitted import not_permitted
from .tls_options import explained, tls_options
from .valkey_url import canonical_url, check_url, hosts_of, sentinel_parts, shown_url, without_quotation
from .wrong_kind import A_SENTINEL, with_remedy

__all__ = ["CONNECT_SECONDS", "Address", "NotThePrimary", "Server", "close_connection", "open_connection"]

CONNECT_SECONDS = 5.0  # for the socket, and again for the greeting
ASK_SECONDS = 1.0  # for the Sentinels to name the primary

# Without a name of the library nothing sends CLIENT SETINFO, which a user would need a right to.
_OPTIONS: dict[str, Any] = {
    "protocol": 2,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": CONNECT_SECONDS,
    "lib_name": None,
    "lib_version": None,
}


class Server(NamedTuple):
    """The server at the other end of a connection. ``run_id`` is new at each start of it; ``where`` is (host, port), None for a socket's path."""

    run_id: str
    where: tuple[str, int] | None


class NotThePrimary(Unavailable):
    """The server that answers is a replica: this one."""

    def __init__(self, message: str, server: Server) -> None:
        super().__init__(message)
        self.server = server


class _Connection(Protocol):
    """What is used of a connection of valkey-py; ``_reader`` and ``_writer`` are asyncio's streams once it is connected."""

    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool = False) -> None: ...

    async def send_command(self, *words: str) -> None: ...

    async def read_response(self) -> Any: ...


class _Pool(Protocol):
    """What is used of a connection pool of valkey-py."""

    def make_connection(self) -> _Connection: ...


class _Sentinels(Sentinel):
    """Sentinels, of which the one that answered last is asked first.

    While a Sentinel is asked, it is at the end of the list. Where its machine is gone, that takes longer to notice than an attempt to connect lasts: in
    valkey-py's order each attempt would begin with it again, and none would come to the others.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        sentinels: list[Any] = self.sentinels
        errors = ""
        for sentinel in list(sentinels):
            sentinels.remove(sentinel)
            sentinels.append(sentinel)
            try:
                masters = await sentinel.sentinel_masters()
            except (valkey.ConnectionError, valkey.TimeoutError) as error:
                errors += f", {error!r}" if errors else f": {error!r}"
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                sentinels.remove(sentinel)
                sentinels.insert(0, sentinel)
                return state["ip"], state["port"]
        raise MasterNotFoundError(f"No master found for {service_name!r}{errors}")


class Address:
    """A Valkey URL: ``valkey://``, ``valkeys://`` (TLS), ``unix://``, ``valkey+sentinel://h1:p1,h2:p2/service``,
    ``valkey+cluster://h1:p1,h2:p2``, whose ``seeds`` are the nodes that it names; ``valkeys+sentinel://`` (the Sentinels too) and
    ``valkeys+cluster://`` by TLS. ``store.tls_options`` has the options of TLS.

    The ``redis`` spellings are understood too. Raises ConfigurationError for anything else. ``str()`` shows no password.
    """

    def __init__(self, url: str) -> None:
        self.url = canonical_url(url)
        self._sentinel: Sentinel | None = None
        self._service = ""
        self.in_cluster = False  # it is a node of a cluster, which holds a part of the slots
        self.has_answered = False  # a server there answered once, as this address says that it speaks
        self.seeds: list[Address] = []
        try:
            check_url(self.url)
            self._pool = self._make_pool(self.url.partition("://")[0])
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"valkey_url: {without_quotation(error)}") from None

    def _make_pool(self, scheme: str) -> _Pool:
        options = _OPTIONS | tls_options(self.url) | {"client_name": "gateway"}
        if scheme.endswith("+sentinel"):
            pool = _primary(_Sentinels, self.url, options).connection_pool
            self._sentinel, self._service = pool.sentinel_manager, pool.service_name
            return cast(_Pool, pool)
        if scheme.endswith("+cluster"):
            if urlsplit(self.url).path.strip("/") not in ("", "0"):
                raise ConfigurationError("valkey_url: a cluster has no databases; end the address with the last host")
            self.seeds = [self.node(host, port) for host, port in hosts_of(self.url, 6379)]
            return self.seeds[0]._pool
        return cast(_Pool, ConnectionPool.from_url(self.url, **options))

    @property
    def is_cluster(self) -> bool:
        return bool(self.seeds)

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Host and port of an address that has one of each, such as a node's."""
        ((host, port),) = hosts_of(self.url, 6379)
        return host, port

    def node(self, host: str, port: int) -> Address:
        """A node of the cluster that this address names, or belongs to: with the same login, TLS and options."""
        parts = urlsplit(self.url)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        host_and_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        node = Address(parts._replace(scheme=parts.scheme.removesuffix("+cluster"), netloc=login + host_and_port, path="").geturl())
        node.in_cluster = True
        return node

    def sync_client(self, seconds: float = CONNECT_SECONDS) -> valkey.Valkey:
        """valkey-py's own client. It never repeats a command by itself: a publish whose answer was lost may have happened.

        ``seconds`` bound each of its waits: for the socket, and for a reply.
        """
        limits = {"socket_connect_timeout": seconds, "socket_timeout": seconds}
        options = (
            _OPTIONS | tls_options(self.url) | limits | {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
        )
        if "+sentinel://" in self.url:
            return cast(valkey.Valkey, _primary(valkey.Sentinel, self.url, options))
        return valkey.Valkey.from_url(self.url, **options)

    @property
    def by_tls(self) -> bool:
        return self.url.startswith("valkeys")

    @property
    def user(self) -> str:
        """The user of Valkey's access control lists as whom commands are sent."""
        parts = urlsplit(self.url)
        return unquote(parts.username or "") or dict(parse_qsl(parts.query)).get("username") or "default"

    @property
    def database(self) -> int:
        """The number of the database that the address names; 0 for none."""
        return int(cast(Any, self._pool).connection_kwargs.get("db") or 0)

    def connection(self) -> _Connection:
        """A connection of valkey-py that is not connected yet."""
        return self._pool.make_connection()

    async def names_another(self, server: Server) -> bool:
        """Whether the Sentinels name another primary than ``server``; False where there are none, or none answers."""
        if self._sentinel is None or server.where is None:
            return False
        try:
            async with asyncio.timeout(ASK_SECONDS):
                host, port = await cast(Any, self._sentinel).discover_master(self._service)
        except (TimeoutError, ValkeyError, OSError):
            return False
        return (host, int(port)) != server.where

    async def close(self) -> None:
        """Closes the connections to the Sentinels; the next question opens them again."""
        if self._sentinel is not None:
            for client in cast(Any, self._sentinel).sentinels:
                await client.connection_pool.disconnect()

    def __str__(self) -> str:
        return shown_url(self.url)


def _primary(sentinel: Any, url: str, options: dict[str, Any]) -> Any:
    """A client of the primary that the Sentinels of ``url`` name; ``sentinel`` is valkey-py's class, blocking or for asyncio."""
    sentinels, service, login = sentinel_parts(url)
    tls = {"ssl": True} if url.startswith("valkeys") else {}
    asked = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    return sentinel(sentinels, sentinel_kwargs=asked | tls).master_for(service, **options, **login, **tls)


async def open_connection(address: Address, protocol: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, Any, Server]:
    """Connects, greets and authenticates, makes sure that the server takes writes, then gives the socket to ``protocol()``.

    Returns the transport, asyncio's stream writer, which the caller must hold (it closes the transport when collected), and the server.
    Raises Unavailable with one line that says which address failed and why: NotThePrimary for a replica, which may be promoted. Raises
    StoreError for a refused login, ConfigurationError for a node of a cluster where a server by itself is expected.
    """
    connection = address.connection()
    try:
        await connection.connect()
        server = await _examine(connection, address)
        address.has_answered = True
    except (ConfigurationError, Unavailable):
        await connection.disconnect(nowait=True)
        raise
    except AuthenticationError as error:
        await connection.disconnect(nowait=True)
        raise StoreError(f"Valkey at {address} refuses the login: {error}") from None
    except NoPermissionError as error:
        await connection.disconnect(nowait=True)
        raise not_permitted(f"NOPERM {error}", "the greeting of a connection", address.user) from None
    except (TimeoutError, ValkeyError, OSError) as error:
        await connection.disconnect(nowait=True)
        why = with_remedy(explained(error, address.by_tls, has_answered=address.has_answered))
        raise Unavailable(f"no Valkey at {address}: {why}") from None
    except asyncio.CancelledError:
        await connection.disconnect(nowait=True)
        raise
    writer = connection._writer
    assert writer is not None
    connection._reader = connection._writer = None  # valkey-py has no part in it any more
    transport = cast(asyncio.Transport, writer.transport)
    taker = protocol()
    transport.set_protocol(taker)
    taker.connection_made(transport)
    return transport, writer, server


def close_connection(transport: asyncio.Transport) -> None:
    """Closes a connection on which nothing is awaited any more. One by TLS would wait up to 30 s for the server to close it too, and outlive the loop."""
    if transport.get_extra_info("sslcontext") is None:
        transport.close()
    else:
        transport.abort()


async def _examine(connection: _Connection, address: Address) -> Server:
    """The server that answers. Raises Unavailable for a replica, ConfigurationError for a server of another kind than the address names."""
    await connection.send_command("INFO", "server", "replication")
    try:
        text = await connection.read_response()
    except NoPermissionError:  # a user that may not ask; what the server is then shows when it refuses
        text = b""
    facts = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    mode = facts.get("server_mode") or facts.get("redis_mode")  # Valkey names it so, Redis so
    if mode == "sentinel":
        raise ConfigurationError(f"the server at {address} {A_SENTINEL}")
    if mode is not None and (mode == "cluster") != (address.in_cluster or address.is_cluster):
        if mode == "cluster":
            raise ConfigurationError(
                f"Valkey at {address} is a node of a cluster and holds a part of the channels only; write valkey+cluster:// in its address"
            )
        raise ConfigurationError(f"Valkey at {address} is no node of a cluster; write valkey:// in its address, without +cluster")
    host, port = getattr(connection, "host", None), getattr(connection, "port", None)
    server = Server(facts.get("run_id", ""), None if host is None or port is None else (host, int(port)))
    if facts.get("role") == "slave":
        primary = f"{facts.get('master_host')}:{facts.get('master_port')}"
        raise NotThePrimary(f"Valkey at {address} is a replica, which takes no writes; its primary is {primary}", server)
    return server
