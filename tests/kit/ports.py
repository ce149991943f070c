"""Ports for servers that have to be told theirs.

They lie below those that the system gives to connections: one of these may be taken before the server listens, or while it is restarted. Each
worker has a part of its own, and is given each port of it once until all were.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_port"]

FIRST, PARTS = 10_000, 16
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _ports() -> Iterator[int]:
    end = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32_768
    most = max(end - FIRST, 8_000) // PARTS
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    part = int(worker) % PARTS if worker else random.randrange(PARTS)
    begin = random.randrange(most)  # of two runs at the same time, each begins elsewhere
    for number in itertools.count(begin):
        yield FIRST + part * most + number % most


_next = _ports()


def free_port() -> int:
    for port in _next:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the ports have no end")
