"""The finished reports: a folder of PDF files, one of each owner and month. A file is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..store.data_folder import make_private
from .month import Month

__all__ = ["MISSING", "Reports", "Stored"]

MISSING = "" if find_spec("reportlab") else "reports need ReportLab, which draws the PDF: pip install reportlab"
DRAFT = ".draft"


class Stored(NamedTuple):
    """``made_at`` is unix milliseconds."""

    made_at: int
    bytes: int


class Reports:
    """The reports in ``folder``, which is made."""

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        self._folder = folder

    def remove_drafts(self) -> None:
        """Removes what processes left that were killed while they wrote. Nobody may write meanwhile."""
        for draft in self._folder.glob(f"*/*{DRAFT}"):
            draft.unlink(missing_ok=True)

    def path(self, owner: str, month: Month) -> Path:
        """Where the report is, or would be. The name of the owner is hashed: it may hold what a path cannot."""
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:32] / f"{month}.pdf"

    def find(self, owner: str, month: Month) -> Stored | None:
        try:
            found = self.path(owner, month).stat()
        except FileNotFoundError:
            return None
        return Stored(found.st_mtime_ns // 1_000_000, found.st_size)

    def write(self, owner: str, month: Month, content: bytes) -> Stored:
        """Replaces the owner's report of that month. It blocks; a process that is killed meanwhile leaves the earlier one."""
        path = self.path(owner, month)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(6)}{DRAFT}")  # of this attempt alone: another worker may make the same report
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return Stored(path.stat().st_mtime_ns // 1_000_000, len(content))
