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
    """200 while publications reach this process and it takes clients; 503 with the reason otherwise.

    Of a cluster, publications of any shard are enough, since the clients of all others lose nothing. ``impaired`` names the other shards.
    """
    gateway = request.state.gateway
    if reason := gateway.unready():
        return json_response(encode({"status": "not ready", "reason": reason}), 503, ANYBODY)
    if impaired := gateway.impaired():
        return json_response(encode({"status": "ready", "impaired": impaired}), headers=ANYBODY)
    return json_response(b'{"status":"ready"}', headers=ANYBODY)
