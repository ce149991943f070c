"""How often keys may be tried: it bounds guessing, and what guessing costs the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..rules.addresses import block_of

__all__ = ["LoginLimit"]

SECONDS = 60.0
WRONG_MOST = 5  # keys of one address
# For addresses that tried a wrong one: whoever has not may try, so that ten addresses of strangers do not lock operators out.
WRONG_MOST_IN_ALL = 50
WRONG_HELD = 1000
RIGHT_MOST = 50  # log-ins: each may be revoked, and Valkey stores only so many revocations


class LoginLimit:
    """The log-ins of the last SECONDS in one process. ``now`` is the clock, in seconds. It holds at most WRONG_HELD + RIGHT_MOST entries."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._wrong: deque[tuple[float, str]] = deque(maxlen=WRONG_HELD)
        self._right: deque[float] = deque()

    def wait(self, address: str) -> float:
        """Seconds until somebody at this address may try a key; 0 if they may now."""
        now, block = self._now(), block_of(address)
        while self._wrong and self._wrong[0][0] <= now - SECONDS:
            self._wrong.popleft()
        while self._right and self._right[0] <= now - SECONDS:
            self._right.popleft()
        theirs = [at for at, other in self._wrong if other == block]
        full = [times[-most] for times, most in self._used(theirs) if len(times) >= most]
        return max(0.0, *(at + SECONDS - now for at in full)) if full else 0.0

    def _used(self, theirs: list[float]) -> list[tuple[list[float], int]]:
        every = [at for at, _ in self._wrong] if theirs else []
        return [(theirs, WRONG_MOST), (every, WRONG_MOST_IN_ALL), (list(self._right), RIGHT_MOST)]

    def count_wrong(self, address: str) -> None:
        """A wrong key came from this address."""
        self._wrong.append((self._now(), block_of(address)))

    def count_right(self) -> None:
        """Somebody logged in."""
        self._right.append(self._now())
