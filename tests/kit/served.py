"""A gateway in the process of the test itself, on a port: for tests that look at its objects, or at the turns of its loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from gateway.app import create_app
from gateway.config import Config
from gateway.edges.first_read import FirstRead
from gateway.edges.websocket import WebSocketConnection

from .waiting import until

__all__ = ["FAST", "served_here"]

FAST: dict[str, Any] = {"http": FirstRead, "ws": WebSocketConnection}  # as ``gateway serve``


@contextlib.asynccontextmanager
async def served_here(config: Config, valkey_url: str, options: dict[str, Any] = FAST) -> AsyncIterator[int]:
    """The port. ``options`` are uvicorn's, by default those of the gateway's own server."""
    app = create_app(config, valkey_url)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, access_log=False, timeout_keep_alive=75, **options))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started, "a start")
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving
