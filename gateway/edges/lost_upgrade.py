"""A WebSocket handshake whose ``Upgrade`` header a proxy removed: an ordinary GET arrives, and nothing else shows why clients fail.

A proxy must pass ``Upgrade`` and ``Connection`` on by its own configuration; nginx does so only where that asks for it. The
``Sec-WebSocket-…`` headers of the handshake arrive as they were.
"""

from __future__ import annotations

import logging

from starlette.responses import PlainTextResponse
from starlette.types import Scope

from .websocket_handshake import PATH

__all__ = ["LostUpgrades"]

log = logging.getLogger("gateway.websocket")

SENTENCE = (
    "a WebSocket handshake arrived without the header Upgrade: a proxy in front removed it. nginx passes it on with "
    '"proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";" in its location'
)


class LostUpgrades:
    """Answers such handshakes with 426, and logs the first of a process."""

    def __init__(self) -> None:
        self._logged = False

    def is_one(self, path: str, scope: Scope) -> bool:
        """Whether an HTTP request is a handshake without ``Upgrade``."""
        return path == PATH and any(name == b"sec-websocket-key" for name, _ in scope["headers"])

    def answer(self) -> PlainTextResponse:
        """The response, which names the cause."""
        if not self._logged:
            self._logged = True
            log.warning(SENTENCE)
        return PlainTextResponse(SENTENCE + "\n", 426, {"upgrade": "websocket"})
