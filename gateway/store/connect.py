"""Where Valkey is, how a connection to it is opened, and commands for programs without asyncio.

valkey-py parses the address and opens the connection: TLS, ACL users, databases and Sentinel come from there.
``open_connection`` then takes the connected socket over for a protocol of ours, because its stream readers cost
6.7 µs a message where libvalkey's reader on a bare protocol costs 0.5.

Many calls of valkey-py carry no types. They are wrapped here, once, and typed for the rest of the program.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import valkey
from valkey.asyncio.connection import ConnectionPool
from valkey.asyncio.sentinel import Sentinel
from valkey.backoff import NoBackoff
from valkey.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ReadOnlyError, ValkeyError
from valkey.retry import Retry

from ..errors import ConfigurationError, StoreError, Unavailable
from .not_permitted import lacking, name_of, not_permitted
from .tls_options import explained, tls_options

__all__ = ["CONNECT_SECONDS", "Address", "Loading", "Server", "SyncCommands", "close_connection", "open_connection"]

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

_SCHEMES = ("valkey", "valkeys", "unix", "valkey+sentinel", "valkeys+sentinel")


class Server(NamedTuple):
    """The server at the other end of a connection. ``run_id`` is new at each start of it; ``where`` is (host, port), None for a socket's path."""

    run_id: str
    where: tuple[str, int] | None


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


class Address:
    """A Valkey URL: ``valkey://``, ``valkeys://`` (TLS), ``unix://``, ``valkey+sentinel://h1:p1,h2:p2/service``
    (``valkeys+sentinel://``: the Sentinels and the server by TLS). ``store.tls_options`` has the options of TLS.

    The ``redis`` spellings are understood too. Raises ConfigurationError for anything else. ``str()`` shows no password.
    """

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"^redis(s?)(?=[:+])", r"valkey\1", url).replace("valkey+unix://", "unix://")
        scheme = self.url.partition("://")[0]
        if scheme == "valkey+cluster":
            raise ConfigurationError(
                "valkey_url: valkey+cluster:// is not supported by this version; use one server, or valkey+sentinel://"
            )
        if scheme not in _SCHEMES:
            schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise ConfigurationError(f"valkey_url: {str(self)!r} does not begin with one of {schemes}")
        self._sentinel: Sentinel | None = None
        self._service = ""
        try:
            if _hides_login(self.url):
                raise ConfigurationError(f"valkey_url: the login in {str(self)!r} does not end before the host; {_ENCODE}")
            self._pool = self._make_pool(scheme)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"valkey_url: {_unquoted(error)}") from None

    def _make_pool(self, scheme: str) -> _Pool:
        options = _OPTIONS | tls_options(self.url) | {"client_name": "gateway"}
        if scheme.endswith("+sentinel"):
            pool = _primary(Sentinel, self.url, options).connection_pool
            self._sentinel, self._service = pool.sentinel_manager, pool.service_name
            return cast(_Pool, pool)
        return cast(_Pool, ConnectionPool.from_url(self.url, **options))

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
        return _shown(self.url)


_ENCODE = "write / ? # @ : % of a password as %2F %3F %23 %40 %3A %25"


def _hides_login(url: str) -> bool:
    """Whether a part of a login may be where the host, the path or the query is: for a parser it ends at the first / ? or #."""
    parts = urlsplit(url)
    if parts.scheme == "unix":  # its path may hold an @, and there is no host
        return "@" in parts.query + parts.fragment or (bool(parts.netloc) and "@" not in parts.netloc)
    return "@" in parts.path + parts.query + parts.fragment


def _shown(url: str) -> str:
    """A URL without its login and its query, which may hold passwords. One that may hide a login elsewhere is its scheme alone."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return "…" if "@" in url else url.partition("?")[0]
    try:
        hides = _hides_login(url)
    except ValueError:
        hides = "@" in rest
    if hides:
        return f"{scheme}://…"
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    place, slash, path = rest.partition("/")
    host = place.rpartition("@")[2]
    return f"{scheme}://{'…@' if '@' in place else ''}{host}{slash}{path}"


def _unquoted(error: Exception) -> str:
    """A parser's complaint without the piece of the URL that it quotes."""
    return re.sub(r"""(['"]).*\1""", "…", str(error))


def _primary(sentinel: Any, url: str, options: dict[str, Any]) -> Any:
    """A client of the primary that the Sentinels of ``url`` name; ``sentinel`` is valkey-py's class, blocking or for asyncio."""
    sentinels, service, login = _sentinel_parts(url)
    tls = {"ssl": True} if url.startswith("valkeys") else {}
    asked = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    return sentinel(sentinels, sentinel_kwargs=asked | tls).master_for(service, **options, **login, **tls)


def _sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The Sentinels' hosts and ports, the service's name, and the login of the server that they name."""
    parts = urlsplit(url)
    service = parts.path.strip("/")
    if not service:
        raise ConfigurationError("valkey_url: a Sentinel address ends with the service's name: valkey+sentinel://host:26379/mymaster")
    sentinels = []
    for host in parts.netloc.rpartition("@")[2].split(","):
        name, colon, port = host.rpartition(":")
        sentinels.append((name, int(port)) if colon else (host, 26379))
    login: dict[str, Any] = {}
    if parts.username:
        login["username"] = unquote(parts.username)
    if parts.password:
        login["password"] = unquote(parts.password)
    if database := dict(parse_qsl(parts.query)).get("db"):
        login["db"] = int(database)
    return sentinels, service, login


async def open_connection(address: Address, protocol: Callable[[], asyncio.Protocol]) -> tuple[asyncio.Transport, Any, Server]:
    """Connects, greets and authenticates, makes sure that the server takes writes, then gives the socket to ``protocol()``.

    Returns the transport, asyncio's stream writer, which the caller must hold (it closes the transport when collected), and the server.
    Raises Unavailable with one line that says which address failed and why: also for a replica, which may be promoted. Raises
    StoreError for a refused login, ConfigurationError for a node of a cluster.
    """
    connection = address.connection()
    try:
        await connection.connect()
        server = await _examine(connection, address)
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
        raise Unavailable(f"no Valkey at {address}: {explained(error, address.by_tls)}") from None
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
    """Who answers. Raises Unavailable for a replica, ConfigurationError for a node of a cluster."""
    await connection.send_command("INFO", "server", "replication")
    try:
        text = await connection.read_response()
    except NoPermissionError:  # a user that may not ask; what the server is then shows when it refuses
        text = b""
    facts = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    if "cluster" in (facts.get("server_mode"), facts.get("redis_mode")):  # Valkey names it so, Redis so
        raise ConfigurationError(
            f"Valkey at {address} is a node of a cluster and holds a part of the channels only; use a single server or valkey+sentinel://"
        )
    if facts.get("role") == "slave":
        primary = f"{facts.get('master_host')}:{facts.get('master_port')}"
        raise Unavailable(f"Valkey at {address} is a replica, which takes no writes; its primary is {primary}")
    host, port = getattr(connection, "host", None), getattr(connection, "port", None)
    return Server(facts.get("run_id", ""), None if host is None or port is None else (host, int(port)))


class Loading(Unavailable):
    """Valkey is still reading its file; it answers when it has read it."""


class SyncCommands:
    """Commands of programs without asyncio: each ``call`` waits for its reply. Threads may share it.

    ``client`` is valkey-py's own, of ``Address.sync_client`` for instance, and belongs to this object: ``close`` closes it.
    """

    def __init__(self, client: valkey.Valkey) -> None:
        self._client = client
        self._execute: Callable[..., Any] = client.execute_command
        self._disconnect: Callable[[], None] = client.connection_pool.disconnect
        self._close: Callable[[], None] = client.close
        pool = client.connection_pool
        self._user: str = pool.connection_kwargs.get("username") or "default"
        self._by_tls = "SSL" in pool.connection_class.__name__

    def call(self, *words: Any) -> Any:
        """One command; its reply as Valkey sends it, texts as bytes.

        Raises StoreError for Valkey's error reply, Unavailable if it cannot be reached or breaks off, Loading if it reads its file.
        """
        try:
            return self._execute(*words)
        except BusyLoadingError as error:
            raise Loading(str(error)) from None
        except ReadOnlyError as error:  # it is not the primary any more: the next command asks for the address again
            self._disconnect()
            raise Unavailable(f"Valkey is not the primary any more: {error}") from None
        except (valkey.ConnectionError, valkey.TimeoutError, OSError) as error:
            raise Unavailable(f"no Valkey: {explained(error, self._by_tls)}") from None
        except ValkeyError as error:
            raise self._refusal(error, *words) from None

    def _refusal(self, error: ValkeyError, *words: Any) -> StoreError:
        text = f"NOPERM {error}" if isinstance(error, NoPermissionError) else str(error)
        return not_permitted(text, name_of(*words), self._user) if lacking(text) else StoreError(text)

    @contextmanager
    def listening(self, channel: bytes) -> Iterator[Callable[[float], bytes | None]]:
        """Subscribes to a Pub/Sub channel, over a connection of its own. Gives a function that waits up to so many seconds for a message
        and returns it; None where none came, or the connection was lost and is back: what was published meanwhile was missed.

        Raises Unavailable, StoreError.
        """
        pubsub: Any = cast(Any, self._client).pubsub()

        def announced(seconds: float) -> bytes | None:
            try:
                message = pubsub.get_message(ignore_subscribe_messages=True, timeout=seconds)
            except (valkey.ConnectionError, valkey.TimeoutError, OSError) as error:
                raise Unavailable(f"no Valkey: {explained(error, self._by_tls)}") from None
            return message["data"] if message is not None else None

        try:
            try:
                pubsub.subscribe(channel)
                pubsub.get_message(timeout=CONNECT_SECONDS)  # the confirmation
            except (valkey.ConnectionError, valkey.TimeoutError, OSError) as error:
                raise Unavailable(f"no Valkey: {explained(error, self._by_tls)}") from None
            except ValkeyError as error:
                raise self._refusal(error, "SUBSCRIBE") from None
            yield announced
        finally:
            pubsub.close()

    def close(self) -> None:
        """Closes the connections; a command that is called afterwards opens a new one."""
        self._close()
