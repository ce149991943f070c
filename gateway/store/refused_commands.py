"""Commands that Valkey does not carry out now, or not here: what its error replies begin with, and when to try again."""

from __future__ import annotations

from ..runtime.backoff import backoff
from .connect_again import PAUSE_SECONDS

__all__ = ["NOT_LOGGED", "NOT_THE_PRIMARY", "OTHER_FUNCTIONS", "REDIRECTS", "REFUSED_FOR_NOW", "RefusalPauses"]

REFUSED_FOR_NOW = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY ")
NOT_THE_PRIMARY = ("READONLY",)
LOADED_ANEW = "GENERATION"
OTHER_FUNCTIONS = ("ERR Function not found", LOADED_ANEW)
REDIRECTS = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")
NOT_LOGGED = (*REDIRECTS, LOADED_ANEW)  # a cluster's commands log the first themselves; gateways that start load the functions anew

FUNCTIONS_AT_ONCE = 3  # they may be removed and loaded again by several gateways that start together
CALM_SECONDS = 5.0  # after so long without a refusal the next one is the first again


class RefusalPauses:
    """How long to wait after each refusal before commands are sent again. ``in_a_row`` counts them."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._last = float("-inf")

    def next(self, now: float, refusal: str = "") -> float:
        """Seconds, after a refusal that came ``now``. None where the functions were loaded anew, and after the first few where they were missing."""
        self.in_a_row = self.in_a_row + 1 if now - self._last < CALM_SECONDS else 1
        self._last = now
        if refusal.startswith(LOADED_ANEW) or (refusal.startswith(OTHER_FUNCTIONS) and self.in_a_row <= FUNCTIONS_AT_ONCE):
            return 0.0
        return backoff(self.in_a_row, 0.05, PAUSE_SECONDS)
