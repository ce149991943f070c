"""The error replies to one client: too many end its connection, and only some of them are logged."""

from __future__ import annotations

from ..errors import ClientError, Disconnect, Failure, Internal
from ..rules.rate_limit import use

__all__ = ["Refusals"]

LOGGED_PER_SECOND, LOGGED_SECONDS = 1.0, 10.0  # ten lines at once, then one a second
REFUSED_PER_SECOND = 10.0
REFUSED_AT_ONCE = 1000  # beside one for each channel: a client that may follow none of its channels is refused that often on each connect


class Refusals:
    """Counts the error replies to one client. ``unlogged``: how many were not logged since one was.

    ``channels`` is how many the client may have.
    """

    __slots__ = ("_logged", "_refused", "_seconds", "unlogged")

    def __init__(self, channels: int) -> None:
        self._seconds = (REFUSED_AT_ONCE + channels) / REFUSED_PER_SECOND
        self._logged = self._refused = 0.0
        self.unlogged = 0

    def count(self, error: ClientError, now: float) -> None:
        """One more. Raises Disconnect 3013 if there are too many; what failed on our side or in a service is not the client's fault."""
        if isinstance(error, Internal | Failure):
            return
        refused = use(self._refused, now, REFUSED_PER_SECOND, self._seconds)
        if refused is None:
            raise Disconnect(3013, f"too many refused commands, the last one with {error.code} {error}")
        self._refused = refused

    def takes_line(self, now: float) -> bool:
        """Whether the log may have a line about this one."""
        logged = use(self._logged, now, LOGGED_PER_SECOND, LOGGED_SECONDS)
        if logged is None:
            self.unlogged += 1
            return False
        self._logged = logged
        return True

    def take_unlogged(self) -> str:
        """How many were not logged, in words for the next line; "" for none."""
        count, self.unlogged = self.unlogged, 0
        return f" (and {count} refusals before, which were not logged)" if count else ""
