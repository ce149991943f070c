"""How much memory this process has."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["resident_bytes"]

_PAGE_BYTES = resource.getpagesize()


def resident_bytes() -> int:
    """What of this process is in memory now; where the system does not show that, the most that it ever had."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES  # proc(5): the second is what is resident
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
