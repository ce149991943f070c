"""The connection of programs without asyncio: found and opened when it is first used, with the functions there, tried again for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Unavailable
from ..runtime.backoff import retrying_blocking
from .connect import CONNECT_SECONDS, Address
from .embedded import find_url
from .library import Library, ready_blocking
from .plain_cluster import SyncClusterCommands
from .plain_commands import PlainCommands, SyncCommands

__all__ = ["PAUSE_MOST", "PlainConnection"]

PAUSE_MOST = 1.0  # seconds between two attempts

Result = TypeVar("Result")


class PlainConnection:
    """Threads may share it. Without ``url`` it finds the embedded server of the gateway that runs on ``data_dir``.

    ``patience`` is for how many seconds ``repeated`` takes at most, also for a Valkey that does not answer.
    """

    def __init__(self, url: str, prefix: str, data_dir: str | Path, patience: float) -> None:
        self._url = url
        self._data_dir = data_dir
        self._library = Library(None, prefix)
        self._reply_seconds = min(CONNECT_SECONDS, patience / 2)
        self._repeat_seconds = patience - self._reply_seconds  # an attempt may begin so late, and then waits for its reply
        self._opening = threading.Lock()
        self._opened: PlainCommands | None = None

    @property
    def commands(self) -> PlainCommands:
        """The connections. Raises Unavailable while no server is found, ConfigurationError for an address that is none."""
        with self._opening:
            if self._opened is None:
                address = Address(find_url(self._url, self._data_dir, self._reply_seconds))
                load, seconds = partial(ready_blocking, self._library), self._reply_seconds
                if address.is_cluster:
                    self._opened = SyncClusterCommands(address, seconds, load)
                else:
                    self._opened = SyncCommands(address.sync_client(seconds), load)
            return self._opened

    def close(self) -> None:
        """Closes the connections; a call that is made afterwards opens new ones."""
        if self._opened is not None:
            self._opened.close()

    def call(self, *command: Any) -> Any:
        """One command; the functions are loaded where Valkey lacks them. Raises StoreError, Unavailable."""
        return self.commands.call(*command)

    def repeated(self, attempt: Callable[[], Result]) -> Result:
        """Calls ``attempt`` again while Valkey is away, for as long as the patience lasts; raises what it raised last."""
        return retrying_blocking(attempt, on=Unavailable, ceiling=PAUSE_MOST, seconds=self._repeat_seconds)
