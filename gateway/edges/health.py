"""Whether this process lives, and whether it takes clients."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..rules.json_text import encode
from .responses import json_response

__all__ = ["live", "ready"]

ANYBODY = {"access-control-allow-origin": "*"}  # pages of other origins may ask, too


async def live(request: Request) -> Response:
    """``GET /health/live``: always 200."""
    return json_response(b'{"status":"live"}', headers=ANYBODY)


async def ready(request: Request) -> Response:
    """200 while publications reach this process and it takes clients; 503 with the reason otherwise."""
    reason = request.state.gateway.unready()
    if reason:
        return json_response(encode({"status": "not ready", "reason": reason}), 503, ANYBODY)
    return json_response(b'{"status":"ready"}', headers=ANYBODY)
