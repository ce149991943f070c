"""TLS before HTTP: a socket is counted, and has HANDSHAKE_SECONDS, before its handshake is done."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from typing import Any

from ..edges.http_protocol import HttpProtocol
from ..edges.outlets import CLOSE_SECONDS
from ..session.node import Node

__all__ = ["TlsHandshake", "leave_out_lost_writes"]

log = logging.getLogger("gateway.http")

HANDSHAKE_SECONDS = 10.0
HANDSHAKE_SLOTS = 4  # of a turn of the loop: to sign with an RSA key takes a millisecond, and after a restart thousands come at once
LOST_WRITE = "SSL connection is closed"  # uvloop's warning


def leave_out_lost_writes() -> None:
    """Keeps a warning of uvloop's out of the log: it comes with each write to a client that has closed its side, until what it has not read is given
    up. A protocol learns of that only then, so there would be as many lines as publications, and any client could cause them."""
    logging.getLogger("asyncio").addFilter(_is_no_lost_write)


def _is_no_lost_write(record: logging.LogRecord) -> bool:
    return record.msg != LOST_WRITE


class TlsHandshake(asyncio.Protocol):
    """The protocol of an accepted socket until its TLS handshake is done; then the connection is an HttpProtocol's.

    uvicorn makes it where it would make an HttpProtocol, and gives it what that takes, as ``made_with``.
    """

    def __init__(self, context: ssl.SSLContext, **made_with: Any) -> None:
        self._context = context
        self._http = HttpProtocol(**made_with)
        self._node: Node = made_with["app_state"]["node"]
        self._task: asyncio.Task[None]

    def connection_made(self, transport: Any) -> None:
        """Makes a second connection of the socket, with TLS: what this one reads before TLS takes it over would be lost."""
        try:
            accepted = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError as error:  # no file descriptor is left, which is logged for all sockets at once
            log.debug("a socket was closed before its TLS handshake: %s", error)
            self._http.parser = None  # type: ignore[assignment]  # as below
            transport.abort()
            return
        peer = transport.get_extra_info("peername")
        transport.abort()
        self._task = self._node.tasks.spawn(self._shake_hands(accepted))
        self._http.take_place(self, peer)

    def abort(self) -> None:
        """Ends the handshake: others need its place."""
        asyncio.get_running_loop().call_soon(self._task.cancel)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        shaken = False
        try:
            await self._node.admission.turns.wait(HANDSHAKE_SLOTS)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._http,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
            shaken = True
        except OSError as error:  # ssl.SSLError is one
            log.debug("a TLS handshake failed: %s", error)
        finally:
            if not shaken:
                accepted.close()
                self._http.place.release()
                self._http.parser = None  # type: ignore[assignment]  # it and the protocol hold each other
