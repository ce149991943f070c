"""Failures that repeat: of those in a row, the first is logged for people, and the others at debug level."""

from __future__ import annotations

import logging

__all__ = ["FailureLog"]


class FailureLog:
    """The failures of one thing that is tried again and again. ``level`` is that of the first in a row."""

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self.failing = False

    def failed(self, message: str, *arguments: object) -> None:
        """Logs the message, as ``Logger.log`` does."""
        self._log.log(logging.DEBUG if self.failing else self._level, message, *arguments)
        self.failing = True

    def worked(self) -> bool:
        """The next failure is the first of a row again. Returns whether this ends a row."""
        ended, self.failing = self.failing, False
        return ended
