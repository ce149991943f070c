"""The data folder: readable by its user alone, whichever command made it.

It holds all publications, the database and the secrets. What this project makes there is 0700 or 0600 from its first moment. What an
older version or ``mkdir`` made wider is narrowed at the next start. Files that are not ours stay as they are, and so does the mode of
a folder that holds some: an operator may have named a folder that other programs read.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["DEMO", "PRIVATE_UMASK", "check_private", "make_private", "open_private"]

PRIVATE_UMASK = 0o077
OTHERS = 0o077  # what group and others may do
OTHERS_WRITE = 0o022

DEMO = "demo"  # the data folder of ``gateway demo``, in that of ``gateway serve``
LOCK = "gateway.lock"  # in every folder of an embedded server
_OURS = re.compile(
    r"valkey\.(conf|log|lock|sock)|gateway\.(lock|continuity(\.new)?|db.*)|(demo-)?credentials\.(json|[0-9]+)"
    r"|appendonlydir|reports|dump\.rdb|temp-[0-9a-z-]+\.(aof|rdb)"
)


def make_private(folder: Path) -> None:
    """Makes the folder, with the parents that it lacks, and narrows what is ours in it to its user.

    Raises ConfigurationError if it cannot be made, or if it or a file of ours in it belongs to another user.
    """
    try:
        _make(folder)
        _narrow(folder)
    except OSError as error:
        raise ConfigurationError(f"data_dir {folder} cannot be made: {error.strerror}") from None


def check_private(folder: Path) -> None:
    """Raises ConfigurationError unless it is a folder of this user into which nobody else can look: another user may have made it."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & OTHERS:
        raise ConfigurationError(f"{folder} is not a private folder of this user; set a shorter data_dir")


def open_private(path: Path, flags: int) -> int:
    """``os.open`` for a file that is made if it is not there: 0600."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _make(folder: Path) -> None:
    """``Path.mkdir`` would give the parents that it makes the mode that the umask leaves."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises for what exists and is no folder


def _narrow(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise ConfigurationError(
            f"data_dir {folder} belongs to user {status.st_uid}, not to user {os.getuid()}; give it to this user, or name a folder of its own in it"
        )
    entries = list(folder.iterdir())
    ours = [entry for entry in entries if _is_ours(entry)]
    if status.st_mode & OTHERS:
        _narrow_folder(folder, status.st_mode, shared=len(ours) < len(entries))
    for entry in ours:
        if entry.name == DEMO:
            _narrow(entry)
        else:
            _narrow_entry(entry)


def _is_ours(entry: Path) -> bool:
    return _OURS.fullmatch(entry.name) is not None or (entry.name == DEMO and (entry / LOCK).is_file())


def _narrow_folder(folder: Path, mode: int, *, shared: bool) -> None:
    """``shared``: it holds what is not ours."""
    if mode & stat.S_ISVTX or (shared and mode & OTHERS_WRITE):
        raise ConfigurationError(f"data_dir {folder} is a folder that others write to; name a folder of its own in it")
    if not shared:
        folder.chmod(stat.S_IMODE(mode) & ~OTHERS)


def _narrow_entry(path: Path) -> None:
    """A file of ours, or a folder with all that is in it; links are not followed."""
    with contextlib.suppress(FileNotFoundError):  # a running server replaces its files
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return
        if status.st_uid != os.getuid():
            raise ConfigurationError(
                f"{path} belongs to user {status.st_uid}, not to user {os.getuid()}; give it to this user, or remove it"
            )
        if status.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
        if stat.S_ISDIR(status.st_mode):
            for each in path.iterdir():
                _narrow_entry(each)
