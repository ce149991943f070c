"""Commands that block in Valkey, as BRPOP does, over a connection of their own: on another one, everything else would wait with them."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import StoreError, Unavailable
from .access import Commands
from .connect import Address
from .connection import ServerCommands
from .refused_commands import REDIRECTS

__all__ = ["BlockingCommands"]


class BlockingCommands:
    """Commands whose keys are all in the hash slot of ``key``. One at a time: a second one would wait for the first.

    In a cluster it connects to the shard that holds the slot, which ``commands`` knows, and to another one when the slot has moved.
    ``patience`` is for how many seconds a command waits for the connection. Start it with ``start()``, end it with ``close()``.
    """

    def __init__(self, address: Address, commands: Commands, key: bytes, patience: float) -> None:
        self._address = address
        self._commands = commands
        self._key = key
        self._patience = patience
        self._server: ServerCommands | None = None
        self._of: ServerCommands | None = None  # the commands of the shard that this connection goes to

    async def start(self) -> None:
        """Connects. Raises Unavailable, StoreError."""
        await self._connected()

    async def close(self) -> None:
        server, self._server, self._of = self._server, None, None
        if server is not None:
            await server.close()

    async def call(self, *words: Any) -> Any:
        """One command. Raises StoreError; Unavailable also where its slot moves or has moved, and then the command was not carried out."""
        server = await self._connected()
        try:
            return await server.call(*words)
        except StoreError as error:
            if str(error).startswith(REDIRECTS):
                self._commands.look_again()
                raise Unavailable(str(error)) from None
            raise

    async def _connected(self) -> ServerCommands:
        if not self._commands.sharded:
            if self._server is None:
                self._server = await self._opened(self._address)
            return self._server
        shard = self._commands.shard(self._key)
        if shard is None:
            self._commands.look_again()
            raise Unavailable(f"no shard of the cluster at {self._address} holds the slot of {self._key!r}")
        if self._server is None or self._of is not shard:
            await self.close()
            self._server, self._of = await self._opened(shard.address), shard
        return self._server

    async def _opened(self, address: Address) -> ServerCommands:
        """A connection; a wait for one is bounded, since the slot may be promoted elsewhere meanwhile."""
        server = ServerCommands(address, patience=self._patience)
        try:
            async with asyncio.timeout(self._patience):
                await server.start()
        except TimeoutError:
            await server.close()
            raise Unavailable(f"no connection to Valkey at {address} within {self._patience:g} s") from None
        return server
