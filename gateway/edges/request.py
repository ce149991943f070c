"""What the edges read from a request: the client's token, the API key, the origin, the address, the body."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response

from ..config import Config
from ..errors import BadRequest, PermissionDenied
from ..origins import Origins

__all__ = [
    *("NOT_LISTED", "NO_COOKIE", "NO_HOST", "NO_PROTOBUF", "NUMBER_DIGITS", "OF_PAGE", "api_key_of", "asks_for_protobuf", "body_of"),
    *("client_address", "cors_headers", "is_api_key", "is_foreign", "is_rebound", "is_trusted", "number_of", "opens_metrics"),
    *("preflight", "protocol_fields", "refused_origin", "socket_address", "subscription_tokens_of", "token_of", "turn_slots_of"),
]

log = logging.getLogger("gateway.http")

NO_PROTOBUF = "this server speaks the JSON protocol, not Protobuf"
NO_HOST = "a request names its host: the Host header is missing"
NOT_LISTED = "allowed_origins does not list this page's origin"
OF_PAGE = ("origin", "host", "sec-fetch-site")  # the headers by which ``is_foreign`` and ``is_trusted`` judge
NO_COOKIE = "allowed_origins does not name this page's origin, so its visitor's cookie is not used"
ORIGIN_MOST = 200  # characters of a log line

ADDRESS_MOST = 64  # characters
# Of X-Forwarded-For, those that are looked at, from the last on: each takes some 10 microseconds, and the client wrote most of a long one.
HOPS_MOST = 16
NUMBER_DIGITS = 9  # of a number in a query
FIELDS_PER_SLOT = 50  # of a query, escapes too: parsing so many takes as long as the work that one slot of a turn of the loop is meant for
_TOKEN_COOKIES = re.compile(r"(?:^|;)[ \t]*gateway_token[ \t]*=([^;]*)").findall
_PROTOCOL_FIELDS = re.compile(r"(?:^|(?<=&))(?:format|cf_protocol|cf_ws_frame_ping_pong)=[a-z]{1,20}(?=&|$)").findall
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.%]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+").fullmatch  # an address as some proxies write it


def token_of(headers: Headers, query: QueryParams, origins: Origins) -> str:
    """The token of a simple client: ``Authorization: Bearer``, else the cookie ``gateway_token``, else ``?token=``; "" for none.

    A browser adds its visitor's cookie to the request of any page, so it counts only for pages of the gateway's own host and of
    origins that are named. Raises PermissionDenied if such a cookie is the only token: it never makes an anonymous client.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    token, cookie = query.get("token", ""), _token_in_cookies(headers)
    if cookie is None:
        return token
    if is_trusted(headers, origins):
        return cookie
    if not token:
        raise PermissionDenied(NO_COOKIE)
    return token


def _token_in_cookies(headers: Headers) -> str | None:
    # Not by http.cookies: it stops at a malformed cookie, and a client whose token comes after one would be anonymous. And before Python 3.12.6 it
    # reads a value in quotes in a time that grows with its square: one of 60 KiB held the process for seconds.
    for cookies in headers.getlist("cookie"):
        if found := _TOKEN_COOKIES(cookies):
            return str(found[-1]).strip(' \t"')
    return None


def subscription_tokens_of(query: QueryParams, most: int) -> list[str]:
    """``?subscription_token=``, once for each channel that needs one. Raises BadRequest for more than the ``most`` channels of the request."""
    tokens = [token for token in query.getlist("subscription_token") if token]
    if len(tokens) > most:
        raise BadRequest(f"{len(tokens)} subscription tokens for {most} channel{'s' * (most != 1)}")
    return tokens


def number_of(query: QueryParams, name: str, default: int) -> int:
    """The whole number that the query has under ``name``; the default where it has none, or an empty one. Raises BadRequest."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS):
        raise BadRequest(f"{name} is a whole number")
    return int(text)


def turn_slots_of(query: bytes) -> int:
    """How many slots of a turn of the loop (``Turns``) it takes to parse a query; 0 for a short one, as nearly all are."""
    return (query.count(b"&") + query.count(b"%")) // FIELDS_PER_SLOT


def api_key_of(headers: Mapping[bytes, bytes], query: bytes) -> str:
    """``X-API-Key``, else ``Authorization: apikey``, else ``?api_key=``; "" for none. Names of headers are in lower case."""
    if key := headers.get(b"x-api-key"):
        return key.decode("latin-1")
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"apikey":
        return value.strip().decode("latin-1")
    return QueryParams(query).get("api_key", "") if query else ""


def is_api_key(given: str, keys: list[str]) -> bool:
    """Compares with every key, each in constant time."""
    matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    return bool(given) and any(matches)


def opens_metrics(headers: Iterable[tuple[bytes, bytes]], query: bytes, config: Config) -> bool:
    """Whether a request with these raw headers may read the metrics: an API key does, or ``metrics_key``, as ``Authorization: Bearer`` too."""
    fields = dict(headers)
    keys = [*config.api_keys, *([config.metrics_key] if config.metrics_key else [])]
    scheme, _, bearer = fields.get(b"authorization", b"").decode("latin-1").partition(" ")
    given = api_key_of(fields, query) or (bearer.strip() if scheme.lower() == "bearer" else "")
    return config.insecure.api or is_api_key(given, keys)


def is_foreign(headers: Mapping[str, str], config: Config) -> bool:
    """Whether this request was sent by a page whose origin may not talk to this server. Header names are in lower case.

    A browser that sends no ``Origin`` (with an image, a script, a link) may report that another site's page made the request.
    Where clients need no token, a page may also have come here by DNS rebinding (``is_rebound``); not where a proxy is in front, on whose machine
    nobody browses.
    """
    if config.insecure.clients and not config.trusted_proxies and is_rebound(headers, config):
        return True
    if origin := headers.get("origin", ""):
        return not config.origins.admit(origin, headers.get("host", ""))
    return _is_of_another_page(headers) and not config.origins.admit("")


def is_trusted(headers: Mapping[str, str], origins: Origins) -> bool:
    """Whether this request may use what a browser or the network adds to it: no page sent it, or one of an origin that is named."""
    if origin := headers.get("origin", ""):
        return origins.name(origin, headers.get("host", ""))
    return not _is_of_another_page(headers)


def is_rebound(headers: Mapping[str, str], config: Config) -> bool:
    """Whether this request may be one of DNS rebinding: the owner of a page's host has made its name resolve to this machine, so that the browser takes
    the gateway for the page's own host.

    A gateway that only this machine reaches is called by an address, a name without a dot, or ``localhost`` and names below it. A request that calls it
    otherwise is taken for rebinding, unless ``allowed_origins`` names that host. ``Origin`` shows nothing: a browser may leave it out where a page reads
    from its own host.
    """
    host = headers.get("host", "").lower()
    name = re.sub(r":[0-9]*$", "", host)
    if not config.listens_on_loopback or "." not in name or name.endswith(".localhost") or _is_address(name.strip("[]")):
        return False
    origins = [headers["origin"]] if headers.get("origin") else [f"http://{host}", f"https://{host}"]
    return not any(map(config.origins.name, origins))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def refused_origin(origin: str) -> str:
    """Logs which page was refused, and what the operator can do about it. Returns the sentence for the response."""
    shown = repr(origin[:ORIGIN_MOST]) if origin else "which it does not send"
    log.info("%s, %s; if the page is yours, add that origin to allowed_origins, or start gateway serve with --origin", NOT_LISTED, shown)
    return NOT_LISTED


def _is_of_another_page(headers: Mapping[str, str]) -> bool:
    """Source: Fetch Metadata Request Headers, 2.3. No page can set or remove this header."""
    return headers.get("sec-fetch-site", "").lower() in ("cross-site", "same-site")


def cors_headers(origin: str, origins: Origins) -> list[tuple[bytes, bytes]]:
    """The headers that let a page of another origin read the response; none where it may not, or where there is no such page."""
    if not origin or not origins.admit(origin):
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
        (b"access-control-allow-credentials", b"true" if origins.name(origin) else b"false"),
        (b"vary", b"Origin"),
    ]


def preflight(origin: str, origins: Origins) -> list[tuple[bytes, bytes]]:
    """The headers for a browser that asks whether a page of another origin may send a token; none where it may not."""
    granted = cors_headers(origin, origins)
    if not granted:
        return []
    methods = (b"access-control-allow-methods", b"GET, POST")
    headers = (b"access-control-allow-headers", b"authorization, content-type, last-event-id")
    return [*granted, methods, headers, (b"access-control-max-age", b"600")]


def protocol_fields(query: str) -> dict[str, list[str]]:
    """The fields of a query that choose a form of the protocol. Nothing else in it is parsed: a handshake waits for no turn of the loop, and 60 KB
    of escapes take 3 ms."""
    return parse_qs("&".join(_PROTOCOL_FIELDS(query)))


def asks_for_protobuf(query: Mapping[str, list[str]], subprotocols: str = "") -> bool:
    """Whether a client wants the protocol's other form. Source: docs/reference/wire-protocol.md."""
    return "protobuf" in subprotocols or "protobuf" in [*query.get("format", ()), *query.get("cf_protocol", ())]


def client_address(peer: Any, headers: Iterable[tuple[bytes, bytes]], proxies: list[IPv4Network | IPv6Network]) -> str:
    """A client's address: that of its socket, or the one that trusted proxies report. ``headers`` are raw, as in a scope.

    Each proxy adds the address that it was called from to X-Forwarded-For, so the last address that is not a trusted proxy is the
    client's; those before it may be forged. Some proxies add its port, which is left out. "" for a socket without an address.
    """
    address = str(peer[0]) if peer else ""
    if not proxies or not _is_one_of(address, proxies):
        return address
    forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
    for hop in reversed(forwarded.rsplit(",", HOPS_MOST)[-HOPS_MOST:]):
        hop = _without_port(hop.strip())
        if not hop:
            break
        address = hop
        if not _is_one_of(hop, proxies):
            break
    return address[:ADDRESS_MOST]


def _without_port(hop: str) -> str:
    """An address that a proxy reports, without its port: with it, each connection of a client would count as another client."""
    found = _WITH_PORT(hop)
    return hop if found is None else found[1] or found[2]


def socket_address(peer: Any, proxies: list[IPv4Network | IPv6Network]) -> str:
    """The address that a socket counts for; "" for one of a trusted proxy, which carries the requests of many clients, or without an address."""
    address = str(peer[0]) if peer else ""
    return "" if proxies and _is_one_of(address, proxies) else address


def _is_one_of(address: str, networks: list[IPv4Network | IPv6Network]) -> bool:
    try:
        there = ip_address(address)
    except ValueError:
        return False
    if isinstance(there, IPv6Address):  # a socket for both kinds, as systemd opens for [::], has IPv4 in this form
        there = there.ipv4_mapped or there
    return any(there.version == network.version and there in network for network in networks)


async def body_of(request: Request, most: int) -> bytes | Response:
    """The request's body, or the response to a body of more than ``most`` bytes. HttpProtocol ends a request whose body never ends."""
    declared = dict(request.scope["headers"]).get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        return _too_large(most)
    parts: list[bytes] = []
    taken = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            log.info("a client went away in the middle of its request")
            return Response(status_code=400)
        parts.append(message.get("body", b""))
        taken += len(parts[-1])
        if taken > most:
            return _too_large(most)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> Response:
    log.info("a body over %d bytes was refused: limits.api_bytes, and limits.message_bytes for clients", most)
    return Response(status_code=413, headers={"connection": "close"})
