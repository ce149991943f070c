"""A wall clock that can be set under a running process, by libfaketime. Its monotonic clock is left alone, as an operator's ``date -s`` leaves it.

clock = WallClock(folder)
launch(…, environment=clock.environment)
clock.set(-120)                               # seconds from the true time; seen within a second
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["WallClock", "library"]


def library() -> Path | None:
    """libfaketime for programs with threads, where Debian's package ``libfaketime`` is installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


class WallClock:
    """Make it only where ``library`` finds one."""

    def __init__(self, folder: Path) -> None:
        found = library()
        assert found is not None, "libfaketime is not installed"
        self._file = folder / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """So many seconds later than the true time, or earlier."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+g}\n")
        new.replace(self._file)
