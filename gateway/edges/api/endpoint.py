"""The server API over HTTP: ``POST /api/<method>``, and ``POST /api`` with commands as lines.

Source: docs/reference/http.md. An application error answers 200 with ``{"error": …}``, as the clients
of that API expect, or the mapped status with ``X-Centrifugo-Error-Mode: transport``. Every error carries a ``hint``, a sentence that
says what is wrong. Fields that a method does not have are ignored, and named in ``warnings`` beside the result: cent ignores those.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from starlette.requests import Request
from starlette.responses import Response

from ...errors import BadRequest, ClientError, Internal, LimitExceeded, StoreError
from ...rules.json_text import encode
from ...rules.protocol import error_json
from ...runtime import tracing
from ...session.client_counts import FROM_API, OTHER
from ...session.node import Node
from ..request import api_key_of, body_of, is_api_key, is_rebound, is_trusted
from ..responses import STATUS_OF_ERROR, json_response
from .command_lines import NotFound, answer_lines
from .methods import BATCH, METHODS, Method, answer, warnings_of
from .outcomes import Malformed

__all__ = ["LINES", "api", "failure"]

log = logging.getLogger("gateway.api")

LINES = "/api"  # the path of commands as lines

NOT_NAMED = "allowed_origins does not name this page's origin, and pages of other origins need an API key also where insecure.api is set"


class Unauthorized(ClientError):
    """The server API was called without one of its keys."""

    code, message = 101, "unauthorized"


class ForeignPage(ClientError):
    """A page of an origin that is not listed called the server API without a key."""

    code, message = 103, "permission denied"


NO_KEY = Unauthorized("send one of the keys in api_keys, as the header X-API-Key, or as Authorization: apikey KEY")


async def api(node: Node, request: Request) -> Response:
    """Answers ``POST /api/<method>`` and ``POST /api``: 401 without an API key, 403 for a foreign page that ``insecure.api`` does not
    cover, 404 for an unknown method, 405 for another verb than POST."""
    config, counts = node.config, node.admission.counts
    if request.method != "POST":
        return _answered(BadRequest("a method of the server API is called with POST"), 405, {"allow": "POST"})
    scope = request.scope
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if not is_api_key(api_key_of(dict(scope["headers"]), scope["query_string"]), config.api_keys):
        if not config.insecure.api or path == LINES:  # where no key is needed a proxy may close the API, by a rule for /api/
            log.info("api: refused, the API key is missing or wrong")
            counts.answered(OTHER, NO_KEY.code)
            return _answered(NO_KEY, 401)
        # Any page that somebody here visits could call it. A browser sends Origin with each POST.
        is_page = "origin" in request.headers
        if not is_trusted(request.headers, config.origins) or (is_page and is_rebound(request.headers, config)):
            log.info("api: refused, %s", NOT_NAMED)
            counts.answered(OTHER, ForeignPage.code)
            return _answered(ForeignPage(NOT_NAMED), 403)
    name = OTHER if path == LINES else path.removeprefix("/api/")
    method = BATCH if name == "batch" else METHODS.get(name)
    if method is None and path != LINES:
        counts.answered(OTHER, NotFound.code)
        return _answered(NotFound(f"there is no method {name[:60]!r}; the methods are {', '.join(METHODS)} and batch"), 404)
    body = await body_of(request, config.limits.api_bytes)
    if isinstance(body, Response):
        counts.answered(name, LimitExceeded.code if body.status_code == 413 else BadRequest.code)
        too_large = LimitExceeded(f"the body is larger than limits.api_bytes, {config.limits.api_bytes}")
        return _answered(too_large, 413, {"connection": "close"}) if body.status_code == 413 else body
    counts.received[FROM_API] += len(body)
    with _traced(node, request, path):
        return await _called(node, request, name, method, body)


def _traced(node: Node, request: Request, path: str) -> AbstractContextManager[None]:
    """A span of the request, in the trace of its ``traceparent``. Where the process makes no spans, that is passed on to what it publishes."""
    if tracing.is_on():
        # An application around this one may have begun a span for the request.
        parent = tracing.traceparent() or request.headers.get("traceparent", "")
        attributes = {"http.request.method": "POST", "http.route": path}
        return tracing.span(f"POST {path}", "server", parent=parent, attributes=attributes)
    if node.config.telemetry.publication_tags:
        return tracing.passing(request.headers.get("traceparent", ""))
    return nullcontext()


async def _called(node: Node, request: Request, name: str, method: Method | None, body: bytes) -> Response:
    """``method`` is None where the body holds commands as lines."""
    counts = node.admission.counts
    try:
        text = await answer_lines(node, body) if method is None else await _answer(node, method, body)
    except Malformed as error:
        counts.answered(name, BadRequest.code)
        log.info("api: %s refused, the body is not JSON: %s", name, error)
        tracing.fail(str(BadRequest.code))
        return _answered(BadRequest(f"the body is not JSON: {error}"), 400)
    except ClientError as error:
        counts.answered(name, error.code)
        status, text = _refused(name, error, dict(request.scope["headers"]))
    except StoreError as error:
        status, text = failure(node, name, error, dict(request.scope["headers"]))
    else:
        counts.answered(name)
        status = 200
    return json_response(text, status)


async def _answer(node: Node, method: Method, body: bytes) -> bytes:
    """The whole answer to a request that is carried out."""
    result = await answer(node, method, body)
    fields = (result if method is BATCH else b'{"result":%b}' % result)[:-1]
    warnings = warnings_of(method, body)
    return b'%b,"warnings":%b}' % (fields, encode(warnings)) if warnings else fields + b"}"


def failure(node: Node, name: str, error: StoreError, headers: Mapping[bytes, bytes]) -> tuple[int, bytes]:
    """Status and body of the answer to a request that Valkey did not carry out."""
    log.log(logging.DEBUG if error.is_general else logging.WARNING, "api: %s failed: %s", name, error)
    node.admission.counts.answered(name, Internal.code)
    return _refused(name, Internal.of(error), headers)


def _refused(name: str, error: ClientError, headers: Mapping[bytes, bytes]) -> tuple[int, bytes]:
    """Status and body. With a status of its own, the error's code and text are there without ``error`` around them, too, as libraries expect them."""
    log.log(logging.DEBUG if error.is_general else logging.INFO, "api: %s refused with %d %s", name, error.code, error)
    tracing.fail(str(error.code))
    text = error_json(error)
    if headers.get(b"x-centrifugo-error-mode") != b"transport":
        return 200, b'{"error":%b}' % text
    body = b'{"code":%d,"message":%b,"error":%b}' % (error.code, encode(error.message), text)
    return STATUS_OF_ERROR.get(error.code, 400), body


def _answered(error: ClientError, status: int, headers: dict[str, str] | None = None) -> Response:
    return json_response(b'{"error":%b}' % error_json(error), status, headers)
