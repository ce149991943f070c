"""Which channels a reader follows: those that it was given, or all that the index of a namespace names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from hashlib import blake2b

from ..errors import StoreError
from ..publication import channel_fault
from ..rules.json_text import is_utf8
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.access import Commands
from ..store.layout import Layout
from ..store.reader_report import report_reader

__all__ = ["Following"]

log = logging.getLogger("gateway.reader")

PAGE = 1000  # names of one read of the index
REPORT_SECONDS = 60.0  # after which Valkey may have lost the report; it expires, too


class Following:
    """``names`` are the channels. ``changed`` is called where the index has brought new ones. It is a listener of the link, on the index."""

    def __init__(self, channels: Iterable[str], namespace: str, layout: Layout, tasks: Tasks, changed: Callable[[], None]) -> None:
        self.names = set(channels)
        self.namespace = namespace
        self._layout = layout
        self._tasks = tasks
        self._changed = changed
        self._commands: Commands | None = None

    @property
    def key(self) -> bytes:
        """The index, and the Pub/Sub channel of its new names."""
        return self._layout.index(self.namespace)

    @property
    def digest(self) -> str:
        """Names what is followed: instances that follow the same share it among themselves."""
        words = [self.namespace, *(() if self.namespace else sorted(self.names))]
        return blake2b("\n".join(words).encode(), digest_size=4).hexdigest()

    async def begin(self, commands: Commands, group: str) -> None:
        """Reports what ``group`` follows, now and each minute, and reads the index if that is a namespace. Raises StoreError."""
        await self._report(commands, group)
        if self.namespace:
            await self.load(commands)
        self._tasks.spawn(self._report_again(commands, group))

    async def _report(self, commands: Commands, group: str) -> None:
        await report_reader(commands, self._layout, group, self.namespace, [] if self.namespace else self.names)

    async def _report_again(self, commands: Commands, group: str) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._report(commands, group)

    async def load(self, commands: Commands) -> None:
        """Reads the index; new names are announced from then on. Raises StoreError."""
        self._commands = commands
        cursor = b"0"
        while True:
            cursor, found = await commands.call(b"SSCAN", self.key, cursor, b"COUNT", PAGE)
            self._add(found)
            if cursor == b"0":
                return

    def on_subscribed(self) -> None:
        """New names may have been announced while the link was away."""
        if (commands := self._commands) is not None:
            self._tasks.spawn(
                retrying(lambda: self.load(commands), f"the channels of {self.namespace} could not be read", log, on=StoreError)
            )

    def on_payloads(self, payloads: list[bytes]) -> None:
        self._add(payloads)

    def _add(self, found: list[bytes]) -> None:
        names = {name.decode() for name in found if self._is_channel(name)} - self.names
        if names:
            self.names |= names
            self._changed()

    def _is_channel(self, name: bytes) -> bool:
        if is_utf8(name) and name.startswith(f"{self.namespace}:".encode()) and not channel_fault(name.decode()):
            return True
        self._layout.faults.found("index", self.namespace, f"{name[:60]!r} is not a channel of the namespace")
        return False
