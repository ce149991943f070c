"""An ordinary HTTP request at the address for WebSockets. Either a proxy removed the ``Upgrade`` header of a handshake, and nothing else shows why
clients fail; or a person opened the address in a browser.

A proxy must pass ``Upgrade`` and ``Connection`` on by its own configuration; nginx does so only where that asks for it. The
``Sec-WebSocket-…`` headers of the handshake arrive as they were.
"""

from __future__ import annotations

import logging

from starlette.responses import PlainTextResponse
from starlette.types import Scope

__all__ = ["LostUpgrades"]

log = logging.getLogger("gateway.websocket")

SENTENCE = (
    "a WebSocket handshake arrived without the header Upgrade: a proxy in front removed it. nginx passes it on with "
    '"proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";" in its location'
)
UPGRADE = {"upgrade": "websocket"}
NO_HANDSHAKE = "this address is for WebSockets: give it to a client of the Centrifuge protocol, beginning with ws:// or wss://"


class LostUpgrades:
    """Answers such requests with 426, and logs the first handshake of a process."""

    def __init__(self) -> None:
        self._logged = False

    def answer(self, scope: Scope) -> PlainTextResponse:
        """The response to an HTTP request at PATH, which names the cause."""
        if not any(name == b"sec-websocket-key" for name, _ in scope["headers"]):
            return PlainTextResponse(NO_HANDSHAKE + "\n", 426, UPGRADE)
        if not self._logged:
            self._logged = True
            log.warning(SENTENCE)
        return PlainTextResponse(SENTENCE + "\n", 426, UPGRADE)
