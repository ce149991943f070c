"""``GET /health/doctor``: what this process sees of a request that came through proxies, and which limits it has, for ``gateway doctor``.

It shows addresses of the internal network, so it is answered only for a caller that has an API key. The caller proves that without sending the
key, since the address that it calls may be wrong: ``X-Gateway-Proof: SECONDS HEX`` is the unix time, and an HMAC of it with the key.
"""

from __future__ import annotations

import hashlib
import hmac
import resource
import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ..config import Config
from .request import client_address, socket_address
from .responses import json_response

__all__ = ["PROOF_HEADER", "SeenProcess", "SeenRequest", "View", "doctor_view", "proof_of"]

PROOF_HEADER = "x-gateway-proof"
PROOF_SECONDS = 3600.0  # clocks may differ by so much; a proof that was overheard opens no more than this view
SHOWN = 200  # characters of a header's value


class SeenRequest(msgspec.Struct):
    """A request as it arrived. ``socket`` is the address and port at the other end, ("", 0) of a socket without, and ``trusted``: it is one of
    ``trusted_proxies``. ``address`` is what the gateway takes for the client's, ``headers`` has the names of all headers."""

    address: str
    socket: tuple[str, int]
    trusted: bool
    http: str
    host: str
    forwarded_for: str
    headers: list[str]


class SeenProcess(msgspec.Struct):
    """The limits of a process: open files (0: none), ``limits.connections``, and how many such processes there are."""

    descriptors: int
    connections: int
    workers: int


class View(msgspec.Struct):
    """The answer. ``time`` is the process's clock, in unix seconds."""

    version: str
    time: float
    request: SeenRequest
    process: SeenProcess


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
    return any(
        [hmac.compare_digest(digest.encode(), _digest(key, seconds).encode()) for key in config.api_keys if key]
    )  # an empty key is no secret


async def doctor_view(request: Request) -> Response:
    """403 without a proof."""
    config: Config = request.state.node.config
    if not _is_proven(request.headers.get(PROOF_HEADER, ""), config, time.time()):
        return json_response(b'{"error":"this view is for gateway doctor, which proves that it has an API key"}', 403)
    view = View(__version__, time.time(), _request(request, config), _process(config))
    return json_response(msgspec.json.encode(view))


def _request(request: Request, config: Config) -> SeenRequest:
    headers, peer = request.headers, request.scope.get("client")
    return SeenRequest(
        address=client_address(peer, request.scope["headers"], config.proxies),
        socket=(str(peer[0]), int(peer[1])) if peer else ("", 0),
        trusted=bool(peer) and not socket_address(peer, config.proxies),
        http=request.scope["http_version"],
        host=headers.get("host", "")[:SHOWN],
        forwarded_for=", ".join(headers.getlist("x-forwarded-for"))[:SHOWN],
        headers=sorted(set(headers.keys())),
    )


def _process(config: Config) -> SeenProcess:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SeenProcess(0 if most == resource.RLIM_INFINITY else most, config.limits.connections, config.workers)
