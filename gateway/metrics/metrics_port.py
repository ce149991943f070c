"""``GET /metrics`` on a port of its own, for those who reach it: there is no key, so the port has to be firewalled.

All workers accept connections of one listening socket, so that a scrape reaches one that lives. It stays open during a drain, and does not
count as a client's connection. Each connection carries one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from .exposition import CONTENT_TYPE
from .scrape import Scrape

__all__ = ["metrics_port"]

log = logging.getLogger("gateway.metrics")

CONNECTIONS_MOST = 16  # at once; more are closed
SILENT_SECONDS = 5.0  # for the request, and for the answer to be taken
HEAD_BYTES = 8192


class _Port:
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MOST:
                await self._answer(reader, writer)
            writer.close()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.debug("metrics_port: a request was not answered: %r", error)
            writer.transport.abort()
        finally:
            self._connections -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # so that drain waits until everything is taken
        async with asyncio.timeout(SILENT_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            writer.write(_response("404 Not Found", b"metrics are at /metrics\n"))
        elif method != b"GET":
            writer.write(_response("405 Method Not Allowed", b"metrics are read with GET\n"))
        else:
            writer.write(_response("200 OK", await self._scrape.text(), CONTENT_TYPE))
        async with asyncio.timeout(SILENT_SECONDS):
            await writer.drain()


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


@contextlib.asynccontextmanager
async def metrics_port(listener: socket.socket | None, scrape: Scrape) -> AsyncIterator[None]:
    """Answers scrapes on the listening socket while it is entered; None for no such port."""
    if listener is None:
        yield
        return
    async with await asyncio.start_server(_Port(scrape).serve, sock=listener, limit=HEAD_BYTES):
        yield
