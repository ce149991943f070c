"""A way to a Valkey that holds back what the server sends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

__all__ = ["Proxy"]


class Proxy:
    """In front of a Valkey; ``hold`` keeps what it sends to subscribed connections from arriving.

    ``swallow`` loses what goes one way, "ask" or "answer", over the connections that exist, or come before ``pass_on``: they stay open
    and silent for ever, as where a firewall has forgotten them. ``links_only``: over those alone that are subscribed.
    """

    def __init__(self, path: Path | None = None, port: int = 0) -> None:
        """The Valkey listens on a Unix socket, or on a port of this machine."""
        self._path = path
        self._port = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._swallowed = ""
        self._links_only = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: Any) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    def swallow(self, way: str, *, links_only: bool = False) -> None:
        self._swallowed, self._links_only = way, links_only

    def pass_on(self) -> None:
        self._swallowed = ""

    async def _far_end(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._path is not None:
            return await asyncio.open_unix_connection(str(self._path))
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError):  # asyncio's server does not expect it
            far_reader, far_writer = await self._far_end()
            with contextlib.closing(far_writer):
                await self._carry_both_ways(reader, writer, far_reader, far_writer)

    async def _carry_both_ways(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far_reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter
    ) -> None:
        """Until either end closes."""
        subscribed, silent = False, ""

        def is_silent(way: str) -> bool:
            nonlocal silent
            if self._swallowed and (subscribed or not self._links_only):
                silent = self._swallowed
            return silent == way

        async def ask() -> None:
            nonlocal subscribed
            while part := await reader.read(2**16):
                subscribed = subscribed or b"\r\nSUBSCRIBE\r\n" in part
                if not is_silent("ask"):
                    far_writer.write(part)

        async def answer() -> None:
            while part := await far_reader.read(2**16):
                if subscribed:
                    await self._flows.wait()
                if not is_silent("answer"):
                    writer.write(part)

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
