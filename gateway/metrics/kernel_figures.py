"""What the operating system counts of this process: CPU, memory, files; names and meanings are those of Prometheus' own clients.

Nothing without Linux' ``/proc``. A read takes a tenth of a millisecond, however many files are open: to list those of 100,000 connections,
as Prometheus' client does, would hold the loop for 0.2 s.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["kernel_figures"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")  # of a second


def kernel_figures() -> Iterator[tuple[str, float]]:
    """Metric, and its value now."""
    try:
        after_name = (_PROC / "self/stat").read_bytes().rpartition(b")")[2]
        utime, stime, started, virtual_bytes, resident_pages = [int(after_name.split()[place]) for place in (11, 12, 19, 20, 21)]
        open_files = _open_files()
    except OSError:
        return
    yield "process_virtual_memory_bytes", virtual_bytes
    yield "process_resident_memory_bytes", resident_pages * resource.getpagesize()
    yield "process_start_time_seconds", _booted() + started / _TICKS
    yield "process_cpu_seconds_total", (utime + stime) / _TICKS
    yield "process_open_fds", open_files
    yield "process_max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _open_files() -> int:
    """Linux has the number since 6.2; before, the size is 0."""
    folder = _PROC / "self/fd"
    return os.stat(folder).st_size or len(os.listdir(folder))


@cache
def _booted() -> float:
    """When the machine was started, in unix seconds. Source: proc(5), /proc/stat."""
    lines = (_PROC / "stat").read_bytes().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(b"btime "))
