"""``GET /health/doctor``: what this process sees of a request that came through proxies, and which limits it has, for ``gateway doctor``.

It shows addresses of the network inside, so it is answered only for a caller that has an API key. The caller proves that without sending the
key, since the address that it calls may be wrong: ``X-Gateway-Proof: SECONDS HEX`` is the unix time, and an HMAC of it with the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ..config import Config
from ..rules.json_text import encode
from .request import client_address, socket_address
from .responses import json_response

__all__ = ["PROOF_HEADER", "doctor_view", "proof_of"]

PROOF_HEADER = "x-gateway-proof"
PROOF_SECONDS = 3600.0  # clocks may differ by so much; a proof that was overheard opens no more than this view
SHOWN = 200  # characters of a header's value


def proof_of(api_key: str, now: float) -> str:
    """The value of the header, at the unix time ``now``."""
    seconds = f"{now:.0f}"
    return f"{seconds} {_digest(api_key, seconds)}"


def _digest(api_key: str, seconds: str) -> str:
    return hmac.new(api_key.encode(), f"gateway doctor {seconds}".encode(), hashlib.sha256).hexdigest()


def _is_proven(given: str, config: Config, now: float) -> bool:
    if config.insecure.api:
        return True
    seconds, _, digest = given.partition(" ")
    if not (seconds.isascii() and seconds.isdigit()) or abs(int(seconds[:12]) - now) > PROOF_SECONDS:
        return False
    return any([hmac.compare_digest(digest.encode(), _digest(key, seconds).encode()) for key in config.api_keys])


async def doctor_view(request: Request) -> Response:
    """403 without a proof."""
    config: Config = request.state.node.config
    if not _is_proven(request.headers.get(PROOF_HEADER, ""), config, time.time()):
        return json_response(b'{"error":"this view is for gateway doctor, which proves that it has an API key"}', 403)
    return json_response(
        encode({"version": __version__, "time": time.time(), "request": _request(request, config), "process": _process(config)})
    )


def _request(request: Request, config: Config) -> dict[str, Any]:
    headers, peer = request.headers, request.scope.get("client")
    return {
        "address": client_address(peer, request.scope["headers"], config.proxies),
        "socket": list(peer or ()),
        "trusted": bool(peer) and not socket_address(peer, config.proxies),
        "http": request.scope["http_version"],
        "host": headers.get("host", "")[:SHOWN],
        "origin": headers.get("origin", "")[:SHOWN],
        "forwarded_for": ", ".join(headers.getlist("x-forwarded-for"))[:SHOWN],
        "headers": sorted(set(headers.keys())),
    }


def _process(config: Config) -> dict[str, Any]:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "pid": os.getpid(),
        "descriptors": 0 if most == resource.RLIM_INFINITY else most,  # 0 is "no limit"
        "connections": config.limits.connections,
        "workers": config.workers,
        "ping_seconds": config.ping_seconds,
        "message_bytes": config.limits.message_bytes,
    }
