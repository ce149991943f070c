"""What HTTP responses have in common: JSON, and the status of an error code."""

from __future__ import annotations

from starlette.responses import Response

from .security_headers import ALWAYS

__all__ = ["STATUS_OF_ERROR", "json_headers", "json_response"]

STATUS_OF_ERROR = {100: 500, 101: 401, 102: 404, 103: 403, 104: 404, 106: 400, 107: 400, 108: 400, 109: 401, 111: 429, 112: 416, 113: 409}


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response whose ``body`` is JSON already; no cache stores it."""
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def json_headers() -> list[tuple[bytes, bytes]]:
    """The headers of ``json_response``, with those that every response carries, but without its length."""
    return [(b"cache-control", b"no-store"), (b"content-type", b"application/json"), *ALWAYS]
