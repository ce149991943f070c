"""The machine that a run measures on."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from .. import __version__
from .report import Machine

__all__ = ["machine", "usable_cores"]


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use; where the system does not number them, as many numbers as there are cores."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine(valkey: str) -> Machine:
    """``valkey`` is the version of the Valkey that is used."""
    return Machine(
        cpu=_cpu(),
        cores=len(usable_cores()),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gateway=__version__,
        valkey=valkey,
    )


def _cpu() -> str:
    with suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()
