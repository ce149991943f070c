"""What other processes use: CPU and memory, read from Linux's clocks and ``/proc``. Other systems have no such place; there it is not measured."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["MEASURED", "cpu_seconds", "descendants", "move", "resident"]

MEASURED = sys.platform == "linux"


def cpu_seconds(pids: Iterable[int]) -> float:
    """Seconds of CPU that all threads of these processes have taken; those that have ended count nothing.

    A process has a clock of its own, with nanoseconds: clock_getcpuclockid(3).
    """
    total = 0.0
    for pid in pids if MEASURED else ():
        with suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def resident(pids: Iterable[int]) -> int:
    """Bytes of these processes that are in memory."""
    total = 0
    for pid in pids if MEASURED else ():
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024
    return total


def descendants(pid: int) -> set[int]:
    """The children of a process, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat") if MEASURED else ():
        with suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, todo = set[int](), [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo += new
    return found


def move(pid: int, cores: set[int]) -> None:
    """Has all threads of a process run on these cores. One that ends meanwhile is passed over, and so is a process of another user."""
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            os.sched_setaffinity(int(thread.name), cores)
