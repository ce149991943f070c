"""The ASGI application: which edge answers which request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request

from ..session.node import Node
from .api.endpoint import LINES, api
from .emulation import PATHS as EMULATION
from .emulation import emulation
from .lost_upgrade import LostUpgrades
from .request import preflight, turn_slots_of
from .responses import in_parts
from .security_headers import secured
from .sse.open import EventStreams
from .websocket_asgi import serve_websocket
from .websocket_handshake import PATH

__all__ = ["Application"]


class Application:
    """The ASGI application. It answers ``/sse``, the server API and WebSocket itself, and everything else through Starlette,
    whose layers would cost an idle stream more memory than the stream itself, and a publish more time than publishing.

    An ASGI server runs its lifespan. If it is mounted inside another application, that one has to:

        application = create_app(load("gateway.toml"), "valkey://localhost")
        outer = FastAPI(lifespan=application.lifespan)
        outer.mount("/live", application)
    """

    is_served_directly = True  # by HttpProtocol, where it can be: see api/direct.py

    def __init__(self, starlette: Starlette, lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[dict[str, Any]]]) -> None:
        self._starlette = starlette
        self.lifespan = lifespan
        self.state = starlette.state
        self.routes = starlette.routes
        self._lost_upgrades = LostUpgrades()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._starlette(scope, receive, send)
            return
        gateway, send = self.state.gateway, secured(in_parts(send))
        scope.setdefault("state", {}).update(node=gateway.node, gateway=gateway)
        path, node = scope["path"].removeprefix(scope.get("root_path", "")), gateway.node
        if slots := turn_slots_of(scope["query_string"]):
            await node.admission.turns.wait(slots)  # hundreds may be asked together
        if scope["type"] == "websocket":
            await serve_websocket(node, path, scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _answer_preflight(node, scope, send)
        elif path in EMULATION:
            await emulation(node, scope, receive, send)
        elif path == "/sse":
            await EventStreams(node)(scope, receive, send)
        elif path == LINES or path.startswith("/api/"):
            response = await api(node, Request(scope, receive))
            await response(scope, receive, send)
        elif path == PATH:
            await self._lost_upgrades.answer(scope)(scope, receive, send)
        else:
            await self._starlette(scope, receive, send)


async def _answer_preflight(node: Node, scope: Any, send: Any) -> None:
    """A CORS preflight request, of any path."""
    origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
    granted = preflight(origin, node.config.origins)
    await send({"type": "http.response.start", "status": 204 if granted else 403, "headers": granted})
    await send({"type": "http.response.body", "body": b""})
