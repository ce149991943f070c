"""Whether this process lives, and whether it takes clients."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..rules.json_text import encode
from .request import NOT_LISTED, is_foreign
from .responses import json_response

__all__ = ["live", "ready"]

ANYBODY = {"access-control-allow-origin": "*"}  # pages of other origins may ask, too


async def live(request: Request) -> Response:
    """``GET /health/live``: always 200."""
    return json_response(b'{"status":"live"}', headers=ANYBODY)


async def ready(request: Request) -> Response:
    """200 while publications reach this process and it takes clients; 503 with the reason otherwise.

    Of a cluster, publications of any shard are enough, since the clients of all others lose nothing. ``impaired`` names the other shards.
    ``refused`` is there for a page whose origin is not admitted: a browser shows it no more of its connections than that they broke off.
    """
    gateway = request.state.gateway
    reason = gateway.unready()
    answer = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
    if not reason and (impaired := gateway.impaired()):
        answer["impaired"] = impaired
    if is_foreign(request.headers, gateway.node.config.origins):
        answer["refused"] = NOT_LISTED
    return json_response(encode(answer), 503 if reason else 200, ANYBODY)
