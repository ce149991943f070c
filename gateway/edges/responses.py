"""What HTTP responses have in common: JSON, the status of an error code, and that a large body is sent in parts."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .security_headers import ALWAYS

__all__ = ["PART_BYTES", "STATUS_OF_ERROR", "in_parts", "json_headers", "json_response"]

STATUS_OF_ERROR = {100: 500, 101: 401, 102: 404, 103: 403, 104: 404, 106: 400, 107: 400, 108: 400, 109: 401, 111: 429, 112: 416, 113: 409}
PART_BYTES = 64 * 1024  # of a body


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response whose ``body`` is JSON already; no cache stores it."""
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def json_headers() -> list[tuple[bytes, bytes]]:
    """The headers of ``json_response``, with those that every response carries, but without its length."""
    return [(b"cache-control", b"no-store"), (b"content-type", b"application/json"), *ALWAYS]


def in_parts(send: Any) -> Any:
    """ASGI's ``send`` of one request, to which a large body goes in parts: the server waits before the next one if its client does not read. TLS encrypts
    at once whatever is written, so each connection that does not read would hold the whole body."""

    async def send_in_parts(message: Any) -> None:
        if message["type"] == "http.response.body" and len(body := message.get("body", b"")) > PART_BYTES:
            *starts, last = range(0, len(body), PART_BYTES)
            for start in starts:
                await send({**message, "body": body[start : start + PART_BYTES], "more_body": True})
            message = {**message, "body": body[last:]}
        await send(message)

    return send_in_parts
