"""History and the inbox over plain HTTP, for clients with a token."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import BadRequest, ClientError, Disconnect, Internal, NotAvailable, PermissionDenied, StoreError
from ..rules.identity import Identity
from ..rules.json_text import encode
from ..rules.permissions import admits, may_subscribe
from ..rules.protocol import error_json, history_result, read_position
from ..session.node import Node
from .request import body_of, client_address, cors_headers, is_foreign, number_of, refused_origin, subscription_tokens_of, token_of
from .responses import STATUS_OF_ERROR, json_response

__all__ = ["HISTORY_DEFAULT", "HISTORY_MOST", "REVERSE", "history", "inbox", "inbox_read"]

log = logging.getLogger("gateway.http")

HISTORY_BYTES = 1024 * 1024  # of one answer of GET /history; a page may be shorter than its limit
HISTORY_DEFAULT, HISTORY_MOST = 100, 1000  # publications of GET /history
REVERSE = {"": False, "0": False, "false": False, "1": True, "true": True}  # what ?reverse= may be


async def history(request: Request) -> Response:
    """``GET /history?channel=A&since=POSITION&limit=N&reverse=1``, with ``subscription_token=T`` where the rules ask for one."""
    return await _answer(request, _history(request))


async def inbox(request: Request) -> Response:
    """``GET /inbox?limit=N&before=POSITION``: the caller's own, newest first."""
    return await _answer(request, _inbox(request))


async def inbox_read(request: Request) -> Response:
    """``POST /inbox/read``, body as of the rpc ``inbox.read``."""
    return await _answer(request, _inbox_read(request))


async def _history(request: Request) -> bytes:
    node: Node = request.state.node
    query = request.query_params
    channel = query.get("channel", "")
    rules = node.rules(channel)
    identity = await _identify(request)
    grants = [await node.authentication.grant_one_of(token, (channel,), identity.user) for token in subscription_tokens_of(query, 1)]
    subscribed = may_subscribe(rules, identity, channel, token=bool(grants))
    if not admits(rules.history, identity, channel, subscribed=subscribed, token=bool(grants)):
        raise PermissionDenied(f"the rules of {channel!r} do not let user {identity.user!r} read history")
    if not rules.has_history:
        raise NotAvailable(f"{channel!r} has no history: its history_size is 0")
    limit = min(number_of(query, "limit", HISTORY_DEFAULT), HISTORY_MOST)
    since, reverse = read_position(query.get("since")), REVERSE.get(query.get("reverse", ""))
    if reverse is None:
        raise BadRequest("reverse is 1 or true, 0 or false")
    page = await node.history.after(channel, since, limit, reverse=reverse, max_bytes=HISTORY_BYTES)
    return history_result(page.top, page.publications)


async def _inbox(request: Request) -> bytes:
    node: Node = request.state.node
    query = request.query_params
    identity = await _identify(request)
    asked: dict[str, Any] = {"limit": number_of(query, "limit", 20)}
    if query.get("before"):
        asked["before"] = query["before"]
    return await node.inbox.list(identity.user, encode(asked))


async def _inbox_read(request: Request) -> bytes | Response:
    node: Node = request.state.node
    # A page of another site can send this with the user's cookie; the Origin header shows it.
    if is_foreign(request.headers, node.config):
        raise PermissionDenied(refused_origin(request.headers.get("origin", "")))
    identity = await _identify(request)
    body = await body_of(request, node.config.limits.message_bytes)
    return body if isinstance(body, Response) else await node.inbox.read(identity.user, body)


async def _identify(request: Request) -> Identity:
    """Whose request it is; it counts as a command of that user. Raises Disconnect for a token that does not pass, TooManyRequests."""
    node: Node = request.state.node
    if node.config.insecure.clients and is_foreign(request.headers, node.config):  # then the answer may be for the page to read
        raise PermissionDenied(refused_origin(request.headers.get("origin", "")))
    identity = await node.authentication.identify(token_of(request.headers, request.query_params, node.config.origins))
    address = client_address(request.scope.get("client"), request.scope["headers"], node.config.proxies)
    node.admission.admit_request(identity.user, address)
    return identity


async def _answer(request: Request, work: Awaitable[bytes | Response]) -> Response:
    node: Node = request.state.node
    name = request.scope["path"]  # request.url would raise for a query that is not UTF-8
    extra = cors_headers(request.headers.get("origin", ""), node.config.origins)
    headers = {name.decode(): value.decode() for name, value in extra}
    try:
        result = await work
    except Disconnect as error:
        log.info("%s: refused, %s", name, error)
        return json_response(b'{"error":%b}' % error_json(error), 401, headers)
    except ClientError as error:
        log.info("%s: refused with %d %s", name, error.code, error)
        return json_response(b'{"error":%b}' % error_json(error), STATUS_OF_ERROR[error.code], headers)
    except StoreError as error:
        log.log(logging.DEBUG if error.is_general else logging.WARNING, "%s: %s", name, error)
        return json_response(b'{"error":%b}' % error_json(Internal("Valkey does not answer; try again")), 503, headers)
    return result if isinstance(result, Response) else json_response(result, 200, headers)
