"""File descriptors: a process that has none left for the next connection logs it, since nothing else does.

uvloop accepts such connections with a descriptor that it holds back, and closes them at once. Their clients see a connection that breaks off.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable

__all__ = ["Descriptors"]

log = logging.getLogger("gateway.server")

NOTICE_SECONDS = 60.0  # between two lines


class Descriptors:
    """Call it about twice a second; it takes some microseconds. ``now`` is the clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._notice_at = float("-inf")

    def __call__(self) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if self._now() >= self._notice_at:
                self._notice_at = self._now() + NOTICE_SECONDS
                most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                log.error(
                    "new connections are closed at once: %s (a process here has %d file descriptors). Let it have more (ulimit -n, LimitNOFILE of "
                    "systemd), or set limits.connections",
                    error.strerror,
                    most,
                )
