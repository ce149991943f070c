"""The upkeep of the embedded Valkey by the gateway that started it: its file on the disk, and another server where one ended by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from ..runtime.backoff import backoff

__all__ = ["Maintained", "Upkeep"]

log = logging.getLogger("gateway.server")

PAUSE_SECONDS = 0.5
PAUSE_MOST = 5.0  # between two starts that fail; each may read a large file before it does


class Maintained(Protocol):
    """What is used of ``store.embedded.EmbeddedServer``."""

    def alive(self) -> bool: ...

    def start(self) -> None: ...

    def sync(self) -> None: ...


class Upkeep:
    """Call it about twice a second, in a thread: it blocks. What fails is logged once, and so is its end."""

    def __init__(self, server: Maintained, now: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._now = now
        self._failures = 0  # in a row
        self._fault = ""  # of the last one
        self._again = 0.0  # when it is tried again, after a failure

    def __call__(self) -> None:
        if self._now() < self._again:
            return
        try:
            self._maintain()
        except Exception as error:  # a full disk, for instance, which may pass
            self._failed(str(error))
        else:
            self._succeeded()

    def _maintain(self) -> None:
        if not self._server.alive():
            if not self._failures:
                log.error("the embedded valkey ended by itself; starting it again")
            self._server.start()
        try:
            self._server.sync()
        except OSError as error:
            raise OSError(f"the file of the embedded valkey cannot be brought to the disk: {error}") from None

    def _failed(self, fault: str) -> None:
        log.log(logging.DEBUG if fault == self._fault else logging.ERROR, "%s; trying again", fault)
        self._failures, self._fault = self._failures + 1, fault
        self._again = self._now() + backoff(self._failures, PAUSE_SECONDS, PAUSE_MOST)

    def _succeeded(self) -> None:
        if self._failures:
            log.warning("the embedded valkey works again")
        self._failures, self._fault = 0, ""
