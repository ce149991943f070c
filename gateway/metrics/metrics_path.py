"""``GET /metrics`` on the gateway's own port, for those who have a key."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..edges.request import opens_metrics
from .exposition import CONTENT_TYPE
from .scrape import Scrape

__all__ = ["metrics"]

log = logging.getLogger("gateway.metrics")

NO_KEY = "send metrics_key as Authorization: Bearer KEY or X-API-Key, or one of api_keys\n"


async def metrics(request: Request) -> Response:
    """Prometheus' text; 401 without a key."""
    scope, scrape = request.scope, request.app.state.scrape
    if not opens_metrics(scope["headers"], scope["query_string"], request.state.node.config):
        log.info("metrics: refused, the key is missing or wrong")
        return PlainTextResponse(NO_KEY, 401, {"www-authenticate": "Bearer", "cache-control": "no-store"})
    assert isinstance(scrape, Scrape)
    return Response(await scrape.text(), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})
