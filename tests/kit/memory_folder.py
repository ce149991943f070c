"""Where the tests' files are: in memory, where the machine has such a folder and enough memory.

Databases, browsers and servers make and remove thousands of files, of which nothing is to outlive its test. On a disk that takes a tenth of the
run's time. Whoever sets ``TMPDIR`` has them there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["use"]

SHARED = Path("/dev/shm")
FREE_BYTES = 4 << 30  # a run needs half of them


def use() -> None:
    """Has it used by this process and those that it starts. Does nothing where there is no such folder with enough room."""
    if "TMPDIR" in os.environ or not os.access(SHARED, os.W_OK | os.X_OK) or _available_bytes() < FREE_BYTES:
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(SHARED)


def _available_bytes() -> int:
    """The room in the folder, and memory that is not needed: the folder may promise more than there is."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return min(shutil.disk_usage(SHARED).free, int(fields["MemAvailable"].split()[0]) * 1024)
