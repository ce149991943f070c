"""Whether an embedded server has all that the last server on its data folder acknowledged, by a note in that folder.

Something may be missing in three cases: the machine went down while the last server ran, which loses what was not on the disk yet; that server ended
while it could not write to its file, as on a full disk; the folder is a copy, or files of a backup were put into it. No gateway that saw more is left
then to notice it.

The note is ``STATE INODE`` while a server runs, where STATE names the boot of its machine, and ``stopped INODE CHANGED`` once it ended in order. It is
empty where something is missing for certain, since a full disk takes no longer one.
INODE is that of the folder with the append-only file: a copy has another one. CHANGED is when that folder and the files in it were changed last (ctime,
in ns), which no program can set: what writes an older file there, or only gives it to another user, leaves a later time.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .data_folder import open_private

__all__ = ["Continuity"]

log = logging.getLogger("gateway.embedded")

STOPPED = "stopped"
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux; elsewhere a machine that goes down is not noticed


class Continuity:
    """The note of one data folder. In a folder without one, as of an older version, nothing is taken to be missing."""

    def __init__(self, data_path: Path) -> None:
        self._note = data_path / "gateway.continuity"
        self._folder = data_path / "appendonlydir"

    def is_broken(self) -> bool:
        """Whether what was acknowledged last may be missing. Call it before the server starts, which changes its files. Raises OSError."""
        try:
            text = self._note.read_text()
            state, inode, *changed = text.split()
        except OSError:
            return False
        except ValueError:
            return not text
        if inode != self._inode():
            return True
        if state == STOPPED:
            return bool(changed) and changed != [self._changed()]  # an older version noted no time
        return state != _boot()

    def note(self, *, stopped: bool) -> None:
        """Writes that the server runs from now on, or is ``stopped``. A note that cannot be written is logged."""
        draft = self._note.with_name(f"{self._note.name}.new")
        try:
            with open(open_private(draft, os.O_WRONLY | os.O_TRUNC), "w") as file:
                file.write(f"{STOPPED} {self._inode()} {self._changed()}\n" if stopped else f"{_boot()} {self._inode()}\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._note)
        except OSError as error:
            log.warning("%s could not be written: %s", self._note, error.strerror)

    def doubt(self) -> None:
        """What was acknowledged last will be missing: it was not written to the file, and is lost when the server ends."""
        try:
            os.close(open_private(self._note, os.O_WRONLY | os.O_TRUNC))
        except OSError as error:
            log.warning("%s could not be emptied: %s", self._note, error.strerror)

    def _inode(self) -> str:
        return str(self._folder.stat().st_ino) if self._folder.exists() else "none"

    def _changed(self) -> str:
        paths = [self._folder, *self._folder.iterdir()] if self._folder.exists() else []
        return str(max((path.stat().st_ctime_ns for path in paths), default=0))


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:  # another system, or one that hides it
        return "unknown"
