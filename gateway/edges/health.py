"""Whether this process lives, and whether it takes clients."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..rules.json_text import encode
from .request import NOT_LISTED, is_foreign, opens_metrics
from .responses import json_response

__all__ = ["live", "ready"]

ANYBODY = {"access-control-allow-origin": "*"}  # pages of other origins may ask, too
# Sentences for everybody. Others may name Valkey's addresses, its user and what that user may not do: they are for those who have a key.
SHOWN = ("starting", "draining", "no connection to Valkey", "no shard of the cluster takes commands")
UNPROVEN, SOME_AWAY = "the live link to Valkey is not proven to work", "some shards of the cluster are away"


async def live(request: Request) -> Response:
    """``GET /health/live``: always 200."""
    return json_response(b'{"status":"live"}', headers=ANYBODY)


async def ready(request: Request) -> Response:
    """200 while publications reach this process and it takes clients; 503 with the reason otherwise, in full for callers that may read the metrics.

    Of a cluster, publications of any shard are enough, since the clients of all others lose nothing. ``impaired`` names the other shards.
    ``refused`` is there for a page whose origin is not admitted: a browser shows it no more of its connections than that they broke off.
    """
    gateway, config = request.state.gateway, request.state.node.config
    in_full = opens_metrics(request.scope["headers"], request.scope["query_string"], config)
    reason = gateway.unready()
    shown = reason if in_full or reason in SHOWN else UNPROVEN
    answer = {"status": "not ready", "reason": shown} if reason else {"status": "ready"}
    if not reason and (impaired := gateway.impaired()):
        answer["impaired"] = impaired if in_full else SOME_AWAY
    if is_foreign(request.headers, config):
        answer["refused"] = NOT_LISTED
    return json_response(encode(answer), 503 if reason else 200, ANYBODY)
