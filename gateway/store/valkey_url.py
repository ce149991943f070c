"""The URL of a Valkey taken apart, checked, and shown without what it hides. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError

__all__ = ["canonical_url", "check_url", "hosts_of", "sentinel_parts", "shown_url", "without_quotation"]

_SCHEMES = ("valkey", "valkeys", "unix", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster")
# The options of a URL beside those of TLS. Others of valkey-py change what it reads (protocol, decode_responses), or make it raise.
_OPTIONS_FOR_PEOPLE = ("db", "username", "password")
_OPTIONS_OF_SOCKETS = (
    *("client_name", "health_check_interval", "max_connections", "retry_on_timeout"),
    *("socket_connect_timeout", "socket_keepalive", "socket_timeout"),
)

_ENCODE = "write / ? # @ : % of a password as %2F %3F %23 %40 %3A %25"


def canonical_url(url: str) -> str:
    """The same URL with the scheme as it is spelled here: Redis's names are understood too."""
    return re.sub(r"^redis(s?)(?=[:+])", r"valkey\1", url).replace("valkey+unix://", "unix://")


def check_url(url: str) -> None:
    """Raises ConfigurationError for a scheme or an option that there is not, for a login that does not end before the host, and for a path that is
    no database: valkey-py would take the first one, 0. Raises ValueError for what is no URL."""
    if url.partition("://")[0] not in _SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ConfigurationError(f"valkey_url: {shown_url(url)!r} does not begin with one of {schemes}")
    if _hides_login(url):
        raise ConfigurationError(f"valkey_url: the login in {shown_url(url)!r} does not end before the host; {_ENCODE}")
    parts = urlsplit(url)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in (*_OPTIONS_FOR_PEOPLE, *_OPTIONS_OF_SOCKETS) and not name.startswith("ssl_"):
            raise ConfigurationError(f"valkey_url: there is no option {name}; there are {', '.join(_OPTIONS_FOR_PEOPLE)}, and those of TLS")
    if parts.scheme in ("valkey", "valkeys") and not re.fullmatch(r"(/[0-9]*)?", parts.path):
        raise ConfigurationError("valkey_url: what follows the host is the number of a database, as in valkey://host/1")


def _hides_login(url: str) -> bool:
    """Whether a part of a login may be where the host, the path or the query is: for a parser it ends at the first / ? or #."""
    parts = urlsplit(url)
    if parts.scheme == "unix":  # its path may hold an @, and there is no host
        return "@" in parts.query + parts.fragment or (bool(parts.netloc) and "@" not in parts.netloc)
    return "@" in parts.path + parts.query + parts.fragment


def shown_url(url: str) -> str:
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


def without_quotation(error: Exception) -> str:
    """A parser's complaint without the piece of the URL that it quotes."""
    return re.sub(r"""(['"]).*\1""", "…", str(error))


def sentinel_parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The Sentinels' hosts and ports, the service's name, and the login of the server that they name."""
    parts = urlsplit(url)
    service = parts.path.strip("/")
    if not service:
        raise ConfigurationError("valkey_url: a Sentinel address ends with the service's name: valkey+sentinel://host:26379/mymaster")
    login: dict[str, Any] = {}
    if parts.username:
        login["username"] = unquote(parts.username)
    if parts.password:
        login["password"] = unquote(parts.password)
    if database := dict(parse_qsl(parts.query)).get("db"):
        login["db"] = int(database)
    return hosts_of(url, 26379), service, login


def hosts_of(url: str, port: int) -> list[tuple[str, int]]:
    """The hosts and ports of a URL that may name several, with commas between them; ``port`` is for those without one."""
    found = []
    for text in urlsplit(url).netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ConfigurationError("valkey_url: a host is missing; several are written as host:port,host:port")
        found.append((parts.hostname, parts.port or port))
    return found
