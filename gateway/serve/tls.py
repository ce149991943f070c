"""TLS before HTTP: a socket is counted, and has HANDSHAKE_SECONDS, before its handshake is done."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from ..edges.http_protocol import HttpProtocol
from ..edges.outlets import CLOSE_SECONDS
from ..session.node import Node

__all__ = ["TlsHandshake"]

log = logging.getLogger("gateway.http")

HANDSHAKE_SECONDS = 10.0


class TlsHandshake(asyncio.Protocol):
    """The protocol of an accepted socket until its TLS handshake is done; then the connection is an HttpProtocol's.

    uvicorn makes it where it would make an HttpProtocol, and gives it what that takes, as ``made_with``.
    """

    def __init__(self, context: ssl.SSLContext, **made_with: Any) -> None:
        self._context = context
        self._http = HttpProtocol(**made_with)
        self._node: Node = made_with["app_state"]["node"]

    def connection_made(self, transport: Any) -> None:
        self._http.take_place(transport)
        self._node.tasks.spawn(self._shake_hands(transport))

    async def _shake_hands(self, transport: Any) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self._http,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except OSError as error:  # ssl.SSLError is one
            log.debug("a TLS handshake failed: %s", error)
            secured = None
        if secured is None or transport.is_closing():
            self._http.place.release()
            self._http.parser = None  # type: ignore[assignment]  # it and the protocol hold each other
            transport.abort()
        else:
            self._http.connection_made(secured)
