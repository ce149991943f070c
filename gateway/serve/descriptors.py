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
SPARE = 8  # a connection with TLS takes two for a moment, so the last ones are never in use


class Descriptors:
    """Call it about twice a second; it takes some microseconds. ``now`` is the clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._notice_at = float("-inf")

    def __call__(self) -> None:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._now() >= self._notice_at and most != resource.RLIM_INFINITY and _lowest_free(most) >= most - SPARE:
            self._notice_at = self._now() + NOTICE_SECONDS
            log.error(
                "new connections are closed at once: the %d file descriptors that this process may have are in use. Let it have more (ulimit -n, "
                "LimitNOFILE of systemd), or set limits.connections",
                most,
            )


def _lowest_free(most: int) -> int:
    """The number that the next descriptor gets, which is how many there are as long as none is closed; ``most`` if there is none."""
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return most
    os.close(descriptor)
    return descriptor
