"""Who calls the console: the session in the cookie, and which page sent the request.

A cookie comes with every request that any page has the browser send. So three things must hold for a request that does something: the cookie
is SameSite=Strict; the browser reports the console's own page as the sender, where it reports one; and a header carries a value that
only a page of this origin could read. The name in ``Host`` is compared with nothing but ``Origin``.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request

from ..auth.admin_keys import AdminSession
from ..config import Config
from ..edges.request import client_address, socket_address
from ..rules.identity import Identity
from .caller import Console

__all__ = [
    *(
        "COOKIE",
        "CSRF_HEADER",
        "SESSION_SECONDS",
        "address_of",
        "came_by_tls",
        "foreign_page",
        "forged",
        "removal",
        "session_of",
        "set_cookie",
    ),
]

COOKIE = "gateway_admin"
CSRF_HEADER = "x-gateway-csrf"
SESSION_SECONDS = 8 * 3600
COOKIES_MOST = 10  # of this name that are looked at


def session_of(console: Console, request: Request) -> AdminSession | None:
    """The session of the request's cookie; None without one that is good, in force and not logged out."""
    for cookie in list(_cookies(request))[:COOKIES_MOST]:
        session = console.keys.session_of(cookie, time.time())
        if session is not None and not console.node.revocations.covers(Identity(token_id=session.id)):
            return session
    return None


def _cookies(request: Request) -> Iterator[str]:
    """All cookies of the name: a page of another host of the domain may have set one that hides ours."""
    for header in request.headers.getlist("cookie"):
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                yield value


def set_cookie(value: str, *, secure: bool) -> str:
    """The header that stores the cookie.

    It names no path. The browser then takes the folder of the request, as it sees it: ``/admin``, with the prefix that a proxy may have taken
    away in front (RFC 6265, 5.1.4).
    """
    return f"{COOKIE}={value}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{'; Secure' * secure}"


def removal(*, secure: bool) -> str:
    """The header that removes the cookie."""
    return f"{COOKIE}=; Max-Age=0; HttpOnly; SameSite=Strict{'; Secure' * secure}"


def came_by_tls(request: Request, config: Config) -> bool:
    """Whether the browser sent the request by TLS: to this process, to a trusted proxy, or by what the browser itself reports."""
    if request.scope["scheme"] == "https" or request.headers.get("origin", "").startswith("https://"):
        return True
    peer: Any = request.scope.get("client")
    is_of_proxy = bool(peer) and not socket_address(peer, config.proxies)
    return is_of_proxy and request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower() == "https"


def address_of(request: Request, config: Config) -> str:
    """The address of the one who calls, "-" for a socket without one."""
    return client_address(request.scope.get("client"), request.scope["headers"], config.proxies) or "-"


def foreign_page(request: Request) -> str:
    """Why the request is one of another page, in a sentence; "" if it is of the console's own page, or of no page."""
    headers = request.headers
    if site := headers.get("sec-fetch-site", ""):  # no page can set it, and a proxy that changes Host does not matter
        return "" if site == "same-origin" else "this request came from another site's page"
    origin = headers.get("origin", "")
    if origin and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return "this request came from another site's page, or a proxy does not pass on the Host header"
    return ""


def forged(console: Console, session: AdminSession, request: Request) -> str:
    """Why the request may be one that another site's page had the browser send; "" if it is the console's own."""
    if fault := foreign_page(request):
        return fault
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), console.keys.against_forgery(session).encode()):
        return f"the header {CSRF_HEADER} is missing or wrong; reload the page"
    return ""
