"""The headers for browsers that every HTTP response carries, whichever edge makes it."""

from __future__ import annotations

from typing import Any

__all__ = ["ALWAYS", "secured"]

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),  # a browser never takes what publishers wrote for a page
    (b"referrer-policy", b"no-referrer"),  # an address may hold a token
    (b"x-frame-options", b"DENY"),
)
# Pages load files of their own origin, run nothing inline, and connect to any gateway.
_PAGE = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:;"
        b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
_STARTS = ("http.response.start", "websocket.http.response.start")


def secured(send: Any) -> Any:
    """ASGI's ``send`` of one request, which adds the headers; a header that the response has already stays as it is."""

    async def send_secured(message: Any) -> None:
        if message["type"] in _STARTS:
            headers = list(message.get("headers", ()))
            given = dict(headers)
            wanted = ALWAYS + _PAGE if given.get(b"content-type", b"").startswith(b"text/html") else ALWAYS
            message = {**message, "headers": headers + [header for header in wanted if header[0] not in given]}
        await send(message)

    return send_secured
