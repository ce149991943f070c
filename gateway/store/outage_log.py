"""What is logged when a way to Valkey is lost, or Valkey refuses: one line when it has lasted for a moment, one when it is over."""

from __future__ import annotations

import logging
import time

__all__ = ["OutageLog", "RefusalLog"]


class OutageLog:
    """The outages of one connection. ``lost``, ``back`` and ``over`` are the sentences that the lines begin with.

    ``grace``: seconds after the loss in which a failed attempt to connect is not logged yet. A node of a cluster has some, since its
    slots may be elsewhere by then; nobody needs to look at it in that case.
    """

    def __init__(self, log: logging.Logger, lost: str, back: str, over: str, grace: float = 0.0) -> None:
        self._log = log
        self._lost, self._back, self._over = lost, back, over
        self._grace = grace
        self._because = ""
        self._began: float | None = None
        self._is_logged = False

    def begin(self, because: str) -> None:
        """The connection is lost. Of several losses before the return, the first counts."""
        if self._began is None:
            self._began, self._because = time.monotonic(), because

    def failed(self, why: object = "") -> None:
        """An attempt failed to connect, or brought nothing."""
        if self._began is None:
            self.begin("")
        is_new = not self._is_logged and self._seconds >= self._grace
        cause, detail = f": {self._because}" if self._because else "", f" ({why})" if str(why) else ""
        self._log.log(logging.WARNING if is_new else logging.DEBUG, "%s%s%s; trying again", self._lost, cause, detail)
        self._is_logged = self._is_logged or is_new

    def end(self) -> None:
        """Everything works again. Does nothing if it did before."""
        if self._because or self._is_logged:
            self._log.warning("%s, after %.1f s%s", self._back, self._seconds, f" ({self._because})" if self._because else "")
        self._forget()

    def retire(self) -> None:
        """The connection is not needed any more. Logged where the log says that it is lost."""
        if self._is_logged:
            self._log.warning("%s", self._over)
        self._forget()

    def _forget(self) -> None:
        self._began, self._because, self._is_logged = None, "", False

    @property
    def _seconds(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began


class RefusalLog:
    """A server that answers and refuses commands, until it refused none for ``calm`` seconds. ``begins`` and ``ends`` are the two sentences."""

    def __init__(self, log: logging.Logger, begins: str, ends: str, calm: float) -> None:
        self._log = log
        self._begins, self._ends = begins, ends
        self._calm = calm
        self._began = self._last = 0.0

    def refused(self, why: object) -> None:
        self._last = time.monotonic()
        if not self._began:
            self._began = self._last
            self._log.warning("%s: %s", self._begins, why)

    def look(self) -> None:
        """Logs the end, if it has come. To be called every second or so."""
        if self._began and time.monotonic() - self._last > self._calm:
            self._log.warning("%s, after %.0f s", self._ends, self._last - self._began)
            self._began = 0.0
