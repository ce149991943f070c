"""The console over HTTP: its page, its session, and ``POST /admin/api/METHOD``. Source: docs/reference/http.md.

Without an admin key in the configuration these paths do not exist. No answer grants pages of other origins anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from math import ceil

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from ..auth.admin_keys import WRITE, AdminSession
from ..config import Config
from ..control.messages import Revocation
from ..edges.api.methods import request_of
from ..edges.api.outcomes import Malformed
from ..edges.pages import console_files
from ..edges.request import body_of
from ..edges.responses import json_response
from ..errors import BadRequest, ClientError, Internal, StoreError, is_general
from ..rules.json_text import UNREADABLE, decode_json, encode
from ..runtime.backoff import retrying
from .admin_session import SESSION_SECONDS, address_of, came_by_tls, foreign_page, forged, removal, session_of, set_cookie
from .caller import Caller, Console
from .methods import METHODS

__all__ = ["routes"]

log = logging.getLogger("gateway.console")

LOGIN_BYTES = 4096
WITHOUT_VALKEY = {"live", "nodes"}  # methods that have something to answer while Valkey is away
NO_SESSION = "log in first: there is no session, or it is over"


class _Login(msgspec.Struct):
    key: str


def routes(config: Config) -> list[BaseRoute]:
    """None where there is no console."""
    if not config.has_console:
        return []
    return [
        Route("/admin", _to_folder),
        Route("/admin/session", _session, methods=["GET", "POST", "DELETE"]),
        Route("/admin/api/{method:path}", _api, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Mount("/admin", console_files),
    ]


async def _to_folder(request: Request) -> Response:
    """``GET /admin``. The address is relative: it holds no host, and fits also where a proxy in front takes a prefix away."""
    return RedirectResponse("admin/", 307, {"cache-control": "no-store"})


# The session.


async def _session(request: Request) -> Response:
    console: Console = request.state.gateway.console
    steps: dict[str, Callable[[Console, Request], Awaitable[Response]]] = {"POST": _log_in, "DELETE": _log_out}
    return await steps.get(request.method, _show_session)(console, request)


async def _show_session(console: Console, request: Request) -> Response:
    session = session_of(console, request)
    return _refused(401, NO_SESSION) if session is None else _shown(console, session)


def _shown(console: Console, session: AdminSession, headers: dict[str, str] | None = None) -> Response:
    about = {"role": session.role, "csrf": console.keys.against_forgery(session), "until": session.until}
    return json_response(encode(about), headers=headers)


async def _log_in(console: Console, request: Request) -> Response:
    """A page of another site must not log a visitor in either: they would work in a session that is not theirs."""
    config = console.node.config
    if fault := foreign_page(request):
        return _refused(403, fault)
    if not _is_json(request):
        return _refused(415, "send the key as application/json")
    body = await body_of(request, LOGIN_BYTES)
    if isinstance(body, Response):
        return _refused(body.status_code, f"a log-in has at most {LOGIN_BYTES} bytes", {"connection": "close"})
    try:
        given = decode_json(body, _Login).key
    except UNREADABLE:
        return _refused(400, 'send {"key": "…"}')
    # From here on nothing is awaited: however many requests come together, each is counted before the next is looked at.
    address = address_of(request, config)
    if wait := ceil(console.limit.wait(address)):
        log.debug("a log-in from %s was refused: there were too many", address)
        return _refused(429, f"too many log-ins; try again in {wait} s", {"retry-after": str(wait)})
    session = console.keys.log_in(given, int(time.time()) + SESSION_SECONDS)
    if session is None:
        console.limit.count_wrong(address)
        log.warning("a log-in from %s was refused: its key is neither in admin_keys nor in admin_read_keys", address)
        return _refused(401, "this key opens nothing")
    console.limit.count_right()
    log.info("%s logged in from %s with the role %s", _name(session), address, session.role)
    cookie = set_cookie(console.keys.cookie(session), secure=came_by_tls(request, config))
    return _shown(console, session, {"set-cookie": cookie})


async def _log_out(console: Console, request: Request) -> Response:
    """Revokes the session in all processes, which closes its live connections. While Valkey is away it is revoked here, and there later."""
    session = session_of(console, request)
    if session is None:
        return _refused(401, NO_SESSION)
    if fault := forged(console, session, request):
        return _refused(403, fault)
    log.info("%s logged out from %s", _name(session), address_of(request, console.node.config))
    headers = {"set-cookie": removal(secure=came_by_tls(request, console.node.config))}
    caller = Caller(console, session)
    try:
        await _revoke_now(caller)
    except StoreError as error:
        what = f"{_name(session)} could not be revoked in the other processes"
        console.node.tasks.spawn(retrying(lambda: _revoke(caller), what, log, on=StoreError, quiet=is_general))
        return json_response(encode({"warning": f"the other processes learn of it once Valkey is back: {error}"}), headers=headers)
    return json_response(b"{}", headers=headers)


async def _revoke_now(caller: Caller) -> None:
    """In this process whatever Valkey answers. Raises StoreError."""
    caller.node.control.carry_out(_revocation(caller.session))
    caller.console.require_valkey()
    await _revoke(caller)


def _revocation(session: AdminSession) -> Revocation:
    return Revocation(token_id=session.id, until=session.until)


async def _revoke(caller: Caller) -> None:
    node, session = caller.node, caller.session
    await node.revocations.persist("", session.id, 0, session.until)
    await node.control.send(_revocation(session))


# The methods.


async def _api(request: Request) -> Response:
    console: Console = request.state.gateway.console
    if request.method != "POST":
        return _refused(405, "a method of the console is called with POST", {"allow": "POST"})
    session = session_of(console, request)
    if session is None:
        return _refused(401, NO_SESSION)
    if fault := forged(console, session, request):
        return _refused(403, fault)
    name = request.path_params["method"]
    method = METHODS.get(name)
    if method is None:
        return _refused(404, f"the console has no method {name[:60]!r}")
    if not method.admits(session.role):
        return _refused(403, f"{name} needs a key of admin_keys; yours is one of admin_read_keys, which changes nothing")
    if not _is_json(request):
        return _refused(415, "send the request as application/json")
    body = await body_of(request, console.node.config.limits.api_bytes)
    if isinstance(body, Response):
        most = console.node.config.limits.api_bytes
        return _refused(body.status_code, f"the body is larger than limits.api_bytes, {most}", {"connection": "close"})
    if method.role == WRITE:
        log.info("%s calls %s from %s", _name(session), name, address_of(request, console.node.config))
    try:
        asked = request_of(method.request, body)
        if name not in WITHOUT_VALKEY:
            console.require_valkey()
        return json_response(b'{"result":%b}' % await method.call(Caller(console, session), asked))
    except Malformed as error:
        return _failed(BadRequest(f"the body is not JSON: {error}"))
    except ClientError as error:
        return _failed(error)
    except StoreError as error:
        log.debug("%s failed: %s", name, error)
        return _failed(Internal.of(error))


def _failed(error: ClientError) -> Response:
    return json_response(encode({"error": {"code": error.code, "message": error.hint or error.message}}))


def _refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return json_response(encode({"error": sentence}), status, headers)


def _is_json(request: Request) -> bool:
    """No form of another site's page can send this type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _name(session: AdminSession) -> str:
    return f"the console's session {session.id[:8]}"
