"""A way to a Valkey that holds back what the server sends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

__all__ = ["Proxy"]


class Proxy:
    """In front of a Valkey; ``hold`` keeps what it sends to subscribed connections from arriving."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._flows = asyncio.Event()
        self._flows.set()
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

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._path))
        subscribed = False

        async def ask() -> None:
            nonlocal subscribed
            while part := await reader.read(2**16):
                subscribed = subscribed or b"SUBSCRIBE" in part
                far_writer.write(part)

        async def answer() -> None:
            while part := await far_reader.read(2**16):
                if subscribed:
                    await self._flows.wait()
                writer.write(part)

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            with contextlib.suppress(asyncio.CancelledError):  # asyncio's server does not expect it
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, far_writer):
                end.close()
