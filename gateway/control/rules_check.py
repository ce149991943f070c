"""Whether the channels' rules that are in force in Valkey are this gateway's.

Where Valkey came back empty, a publisher may have been faster and loaded the functions with the built-in rules; where the functions alone
were lost, a gateway of another prefix. Then this gateway's rules are put into force. Where another gateway's rules are in force, that is
logged: one Valkey has one configuration.
"""

from __future__ import annotations

import asyncio
import logging

from ..errors import StoreError
from ..runtime.tasks import Tasks
from ..store.access import Commands
from ..store.library import Library

__all__ = ["RulesCheck"]

log = logging.getLogger("gateway.control")

CHECK_SECONDS = 60.0
REMEDY = "give all gateways the same configuration; if they have it, Valkey came back with older rules: start one gateway again"


class RulesCheck:
    """Compares them every CHECK_SECONDS, and whenever the link is connected."""

    def __init__(self, library: Library, commands: Commands, tasks: Tasks) -> None:
        self._library = library
        self._commands = commands
        self._tasks = tasks

    def on_up(self) -> None:
        self._tasks.spawn(self._compare())

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._compare()

    async def _compare(self) -> None:
        commands = self._commands
        try:
            if await self._library.agrees(commands):
                return
            if await self._library.is_forgotten(commands.call) or await self._library.is_missing(commands):
                await self._library.install(commands)
            else:
                log.warning("the channels' rules in valkey are not this gateway's: %s", REMEDY)
        except StoreError as error:
            log.debug("the rules could not be compared: %s", error)
