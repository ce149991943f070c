"""The schema of everything that is plain HTTP: ``GET /openapi.json``, OpenAPI 3.1.

The server API's part is made from the structs that its methods parse, so the two cannot differ; the parameters of the simple
clients' paths are written here. ``tests/edges/test_openapi.py`` sends a running gateway what the schema allows, and what it does
not, and checks the responses by it.
"""

from __future__ import annotations

from functools import cache
from inspect import getdoc
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from ...errors import (
    BadRequest,
    ClientError,
    Internal,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    TokenExpired,
    TooManyRequests,
    UnknownChannel,
    UnrecoverablePosition,
)
from ...live.inbox import IDS_MOST, LIST_DEFAULT, LIST_MOST, ReadRequest
from ...publication import MAX_OFFSET
from ...rules.json_text import encode, raw_object
from ...rules.notifications import ID_BYTES
from ..pages import FRESH
from ..pull import HISTORY_DEFAULT, HISTORY_MOST, REVERSE
from ..request import NUMBER_DIGITS
from ..responses import STATUS_OF_ERROR
from ..sse.open import LAST_MOST
from .methods import BATCH, METHODS, Method
from .requests import Channel, Shape
from .results import Fault, Health, HistoryResult, InboxResult, InboxState
from .unknown_fields import inner_shapes, is_any_json

__all__ = ["POSITION", "document", "openapi"]

Schema = dict[str, Any]

ERROR_MODE = {
    "name": "X-Centrifugo-Error-Mode",
    "in": "header",
    "description": "`transport`: an error has a status of its own. With any other value, or without it, it comes with 200.",
    "schema": {"type": "string", "examples": ["transport"]},
}
KEYS = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "api_key_authorization": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "`apikey` and the key"},
    "api_key_query": {"type": "apiKey", "in": "query", "name": "api_key"},
}
WARNINGS = {"type": "array", "items": {"type": "string"}, "description": "fields of the request that the method does not have"}
TOKENS = {
    "token": {"type": "http", "scheme": "bearer", "description": "a client's token"},
    "token_cookie": {"type": "apiKey", "in": "cookie", "name": "gateway_token"},
    "token_query": {"type": "apiKey", "in": "query", "name": "token"},
}
METRICS_KEY = {"metrics_key": {"type": "http", "scheme": "bearer", "description": "`metrics_key` of the configuration"}}
CLIENTS: Schema = {"tags": ["clients"], "security": [{}, *({name: []} for name in TOKENS)]}  # {}: where the rules admit anyone


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``. Where the gateway is mounted in another application, its paths begin with that path."""
    servers = encode([{"url": request.scope.get("root_path") or "/"}])
    headers = FRESH | {"access-control-allow-origin": "*"}
    return Response(raw_object({"servers": servers} | document()), headers=headers, media_type="application/json")


@cache
def document() -> dict[str, bytes]:
    """The document without its servers: its fields, each as JSON."""
    methods = METHODS | {"batch": BATCH}
    structs = [Fault, Health, HistoryResult, InboxResult, InboxState, ReadRequest]
    structs += [struct for method in methods.values() for struct in (method.request, method.result)]
    schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")[1]
    schemas["BatchRequest"]["properties"]["commands"]["items"] = _one_of_its_fields(
        {name: _of(method.request) for name, method in METHODS.items()}
    )
    for method in methods.values():
        schemas[method.request.__name__] |= _needs(method.request)
        _let_be_null(method.request, schemas)
    schemas["ReadRequest"] |= _READ
    schemas["PresenceRequest"]["if"] = {"properties": {"cursor": {"type": "string", "minLength": 1}}, "required": ["cursor"]}
    schemas["PresenceRequest"]["then"] = {"properties": {"limit": {"type": "integer", "minimum": 1}}, "required": ["limit"]}
    fields = {
        "openapi": "3.1.0",
        "info": {"title": "gateway", "version": __version__, "description": "The server API, and the paths of simple clients."},
        "tags": [
            {"name": "server", "description": "For services, with an API key."},
            {"name": "clients", "description": "With a client's token."},
        ],
        "paths": {f"/api/{name}": {"post": _operation(name, method)} for name, method in methods.items()} | _clients() | _health(),
        "components": {"schemas": schemas, "securitySchemes": KEYS | METRICS_KEY | TOKENS},
    }
    return {name: encode(value) for name, value in fields.items()}


# The server API.


def _operation(name: str, method: Method) -> Schema:
    success = _answer({"result": _of(method.result)}) if method is not BATCH else _answer({"replies": _replies()})
    success["properties"] |= {"warnings": WARNINGS}
    refused = _answer({"error": _of(Fault)})
    return {
        "operationId": name,
        "tags": ["server"],
        "summary": getdoc(method.call),
        "security": [{each: []} for each in KEYS],
        "parameters": [ERROR_MODE],
        "requestBody": _json_body(method.request, required=_is_required(method.request)),
        "responses": {
            "200": _json({"oneOf": [success, refused]}, "The result, or the error."),
            **_errors(BadRequest, LimitExceeded, NotAvailable, UnknownChannel, UnrecoverablePosition, TooManyRequests, Internal),
            "400": _json(refused, "A body that is not JSON; with `transport`, a bad request."),
            "401": _json(refused, "No API key, or a wrong one: 101 unauthorized"),
            "403": _json(refused, "Without a key, where none is needed: a page of an origin that is not named. 103 permission denied"),
            "413": _json(refused, "The body is larger than `limits.api_bytes`: 106 limit exceeded"),
        },
    }


def _is_required(request: type[Shape]) -> bool:
    """Whether a request must have a body; a missing body is read as an empty object."""
    return bool(request.any_of or request.one_of or any(field.required for field in msgspec.structs.fields(request)))


def _needs(request: type[Shape]) -> Schema:
    """The schema's form of ``any_of`` and ``one_of``."""
    kinds = {"anyOf": request.any_of, "oneOf": request.one_of}
    fields = {field.name: field for field in msgspec.structs.fields(request)}
    return {kind: [_given(fields[name]) for name in names] for kind, names in kinds.items() if names}


def _given(field: msgspec.structs.FieldInfo) -> Schema:
    """An object that has the field, and not its empty default. Where the field is any JSON, an empty text or list is given, too."""
    has = {"required": [field.name]}
    return has if is_any_json(field) else has | {"properties": {field.name: {"not": {"type": "null"}, "minLength": 1, "minItems": 1}}}


def _let_be_null(struct: type[msgspec.Struct], schemas: dict[str, Schema]) -> None:
    """Lets the fields of a struct be null in its schema: such a field is as if left out."""
    properties = schemas[struct.__name__]["properties"]
    for field in msgspec.structs.fields(struct):
        kind = properties[field.name].get("type")
        if not field.required and isinstance(kind, str):
            properties[field.name]["type"] = [kind, "null"]
    for inner in filter(None, inner_shapes(struct).values()):
        _let_be_null(inner, schemas)


def _replies() -> Schema:
    return {
        "type": "array",
        "items": _one_of_its_fields({name: _of(method.result) for name, method in METHODS.items()} | {"error": _of(Fault)}),
    }


def _errors(*kinds: type[ClientError]) -> Schema:
    """Responses by status; errors that have the same status share one."""
    texts: dict[str, list[str]] = {}
    for kind in kinds:
        texts.setdefault(str(STATUS_OF_ERROR[kind.code]), []).append(f"{kind.code} {kind.message}")
    return {status: _json(_answer({"error": _of(Fault)}), ", ".join(said)) for status, said in texts.items()}


# The simple clients' paths.


def _up_to(most: int) -> str:
    """A regular expression of the whole numbers up to ``most``; zeros may come first, up to its number of digits."""
    text = str(most)
    shorter = f"[0-9]{{1,{len(text) - 1}}}"
    smaller = [f"{text[:place]}[0-{int(digit) - 1}][0-9]{{{len(text) - place - 1}}}" for place, digit in enumerate(text) if digit > "0"]
    return "|".join([shorter, *smaller, text])


POSITION = {"type": "string", "pattern": rf"^([\s\S]*:({_up_to(MAX_OFFSET)}))?$", "description": "EPOCH:OFFSET"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 10**NUMBER_DIGITS - 1}
_IDS = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": ID_BYTES}, "minItems": 1, "maxItems": IDS_MOST}
_READ = {
    "properties": {
        "ids": {"anyOf": [_IDS, {"type": "null"}], "default": None},
        "upto": {"anyOf": [POSITION, {"type": "null"}], "default": None},
        "all": {"type": "boolean", "default": False},
    },
    "anyOf": [
        {"required": ["ids"], "properties": {"ids": {"type": "array"}}},
        {"required": ["upto"], "properties": {"upto": {"type": "string", "minLength": 1}}},
        {"required": ["all"], "properties": {"all": {"enum": [True]}}},
    ],
}


def _clients() -> Schema:
    channel = msgspec.json.schema(Channel)
    history = [
        _query("channel", channel, required=True),
        _query("since", POSITION, "those after it; in reverse, those before it"),
        _query("limit", COUNT | {"default": HISTORY_DEFAULT}, f"{HISTORY_MOST} at most"),
        _query("reverse", {"type": "string", "enum": [*REVERSE]}, "`1` or `true`: newest first"),
        _query("subscription_token", {"type": "string"}, "where the channel's rules ask for one"),
    ]
    inbox = [
        _query("limit", COUNT | {"default": LIST_DEFAULT}, f"{LIST_MOST} at most"),
        _query("before", POSITION, "`next` of the page before"),
    ]
    read = _client("readInbox", "Marks notifications as read.", InboxState, [], BadRequest, UnrecoverablePosition)
    read["responses"]["413"] = {"description": "The body is larger than `limits.message_bytes`."}
    return {
        "/history": {
            "get": _client(
                "readHistory",
                "Reads a channel's history.",
                HistoryResult,
                history,
                BadRequest,
                NotAvailable,
                UnknownChannel,
                UnrecoverablePosition,
            )
        },
        "/inbox": {
            "get": _client("listInbox", "Lists the caller's own notifications.", InboxResult, inbox, BadRequest, UnrecoverablePosition)
        },
        "/inbox/read": {"post": read | {"requestBody": _json_body(ReadRequest)}},
        "/sse": {"get": _stream()},
    }


def _client(id: str, summary: str, result: type, parameters: list[Schema], *errors: type[ClientError]) -> Schema:
    responses = {
        "200": _json(_of(result), "The answer."),
        **_errors(*errors, PermissionDenied, TokenExpired, TooManyRequests),
        "503": _json(_answer({"error": _of(Fault)}), "Valkey does not answer: 100 internal server error"),
    }
    responses["401"]["description"] += ", or the code of a disconnect: 3500 invalid token, 3501 no token"
    return CLIENTS | {"operationId": id, "summary": summary, "parameters": parameters, "responses": responses}


def _stream() -> Schema:
    channels = {"type": "array", "items": msgspec.json.schema(Channel), "minItems": 1}
    words = (
        "It opens with `event: connected`; a publication is a nameless event, data `{channel, offset, data}`; `event: gap` says that the history "
        "of a channel does not hold what was missed; `event: refused`, data `{code, message}`, ends it. Every `id:` holds the positions of all channels."
    )
    fields = {"error": {"type": "string"}, "code": {"type": "integer"}, "channel": {"type": "string"}}
    refusal = {"type": "object", "properties": fields, "required": ["error", "code"]}
    return CLIENTS | {
        "operationId": "followChannels",
        "summary": "Follows channels by server-sent events, which resume by themselves.",
        "description": words,
        "parameters": [
            _query("channel", channels, "given once for each", required=True),
            _query(
                "subscription_token", {"type": "array", "items": {"type": "string"}}, "given once for each channel whose rules ask for one"
            ),
            _query("last", COUNT, f"starts so many publications back, {LAST_MOST} at most"),
            _query("last_event_id", {"type": "string"}, "where the header cannot be sent"),
            _query(
                "pings", COUNT, "1: pings are `event: ping` instead of comments, and `connected` names the seconds between them as `ping`"
            ),
            {"name": "Last-Event-ID", "in": "header", "description": "the `id:` of the last event seen", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            "400": _json(
                refusal,
                "No channel is named, too many are, or one that cannot be; or `last` is not a number.",
            ),
            "403": _json(
                refusal,
                "A page of an origin that `allowed_origins` does not list, or a cookie that does not count for it.",
            ),
        },
    }


def _query(name: str, schema: Schema, description: str = "", *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema} | ({"description": description} if description else {})


def _health() -> Schema:
    live, ready = _json(_of(Health), "It does."), _json(_of(Health), "It does not: the reason.")
    return {
        "/metrics": {
            "get": {
                "operationId": "readMetrics",
                "summary": "The figures of all workers, for Prometheus.",
                "security": [{each: []} for each in (*KEYS, *METRICS_KEY)],
                "responses": {
                    "200": {"description": "Prometheus' text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    "401": {"description": "The key is missing or wrong.", "content": {"text/plain": {"schema": {"type": "string"}}}},
                },
            }
        },
        "/health/live": {"get": {"operationId": "isLive", "summary": "Whether this process lives.", "responses": {"200": live}}},
        "/health/ready": {
            "get": {"operationId": "isReady", "summary": "Whether this process takes clients.", "responses": {"200": live, "503": ready}}
        },
    }


# Parts of JSON Schema.


def _of(struct: type) -> Schema:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _answer(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _one_of_its_fields(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "minProperties": 1, "maxProperties": 1, "additionalProperties": False}


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _json_body(struct: type, *, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": _of(struct)}}}
