"""The connection of programs without asyncio: found and opened when it is first used, with the functions there, tried again for a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import Unavailable
from ..runtime.backoff import retrying_blocking
from .connect import CONNECT_SECONDS, Address
from .embedded import find_url
from .library import Library, ready_blocking
from .plain_cluster import SyncClusterCommands
from .plain_commands import PlainCommands, SyncCommands

__all__ = ["PAUSE_MOST", "PlainConnection"]

PAUSE_MOST = 1.0  # seconds between two attempts
LAST_SECONDS = 0.1  # before the end of the patience the last attempt begins
LEAST_SECONDS = 0.02  # for a reply, on a machine that is so busy that no time is left

Result = TypeVar("Result")


class PlainConnection:
    """Threads may share it, and a signal handler may use it in the middle of a call that it interrupts. A forked process opens connections of its own.

    Without ``url`` it finds the embedded server of the gateway that runs on ``data_dir``.

    ``patience`` is for how many seconds ``repeated`` takes at most, also for a Valkey that does not answer. Raises ValueError for none.
    """

    def __init__(self, url: str, prefix: str, data_dir: str | Path, patience: float) -> None:
        if not patience > 0:  # false for NaN too
            raise ValueError(f"patience is a number of seconds above 0, not {patience!r}")
        self._url = url
        self._data_dir = data_dir
        self._library = Library(None, prefix)
        self._reply_seconds = min(CONNECT_SECONDS, patience / 2)
        self._patience = patience
        self._process = 0
        self._opening = threading.RLock()
        self._opened: PlainCommands | None = None
        self._calling = threading.local()  # of each thread: whether it calls now
        self._last = threading.local()  # of each thread: the connection of an attempt that has less than the usual time

    @property
    def commands(self) -> PlainCommands:
        """The connections. Raises Unavailable while no server is found, ConfigurationError for an address that is none."""
        if (last := getattr(self._last, "commands", None)) is not None:
            return cast(PlainCommands, last)
        if self._process != os.getpid():  # a fork: a lock may be held by a thread that is not here
            self._process, self._opening, self._opened = os.getpid(), threading.RLock(), None
        with self._opening:
            if self._opened is None:
                self._opened = self._open(self._reply_seconds)
            return self._opened

    def _open(self, seconds: float) -> PlainCommands:
        """Connections that wait so long for a server, and for each reply."""
        address, load = Address(find_url(self._url, self._data_dir, seconds)), partial(ready_blocking, self._library)
        if address.is_cluster:
            return SyncClusterCommands(address, seconds, load)
        return SyncCommands(address.sync_client(seconds), load)

    def close(self) -> None:
        """Closes the connections; a call that is made afterwards opens new ones."""
        if self._opened is not None:
            self._opened.close()

    def call(self, *command: Any) -> Any:
        """One command; the functions are loaded where Valkey lacks them. Raises StoreError, Unavailable."""
        if getattr(self._calling, "now", False):  # a signal handler: what it interrupted may hold locks of the connections
            with closing(self._open(self._reply_seconds)) as own:
                return own.call(*command)
        self._calling.now = True
        try:
            return self.commands.call(*command)
        finally:
            self._calling.now = False

    def repeated(self, attempt: Callable[[], Result]) -> Result:
        """Calls ``attempt`` again while Valkey is away, for as long as the patience lasts; raises what it raised last."""
        until = time.monotonic() + self._patience
        seconds = self._patience - min(LAST_SECONDS, self._patience / 4)
        return retrying_blocking(partial(self._bounded, attempt, until), on=Unavailable, ceiling=PAUSE_MOST, seconds=seconds)

    def _bounded(self, attempt: Callable[[], Result], until: float) -> Result:
        """One attempt. A late one has a connection of its own, which waits no longer than the time that is left."""
        left = until - time.monotonic()
        if left >= self._reply_seconds:
            return attempt()
        self._last.commands = own = self._open(max(left, LEAST_SECONDS))
        try:
            return attempt()
        finally:
            self._last.commands = None
            own.close()
