"""How long one HTTP connection waits, and for what.

The connection reports what happens to it, with the time; ``over`` answers which wait is too long. Nothing here touches a socket.

| waits for                                                        | at most                              | else              |
|------------------------------------------------------------------|--------------------------------------|-------------------|
| the end of a request's head, the next part of its body           | SILENT_SECONDS                       | 408               |
| the end of a request                                             | REQUEST_SECONDS                      | 408               |
| the next request, after one that was answered directly           | uvicorn's ``timeout_keep_alive``     | closed            |
| the client to take ``limits.waiting_bytes`` of a full socket     | ``limits.slow_seconds``              | cut off           |
| the client to take the rest, once the connection is closing      | CLOSE_SECONDS                        | cut off           |
| the same, and for the rest of a request, when the process ends   | CLOSE_SECONDS                        | cut off           |

The next request after any other is waited for by uvicorn, with a timer of its own.
"""

from __future__ import annotations

from enum import Enum, auto

from ..runtime.wheel import NEVER
from .outlets import CLOSE_SECONDS

__all__ = ["CLOSE_SECONDS", "SILENT_SECONDS", "TimeLimits", "Wait"]

SILENT_SECONDS = 10.0  # from the connection, or a request's first byte, to the end of its head; then between parts of its body
REQUEST_SECONDS = 60.0  # from its first byte to the end of its body


class Wait(Enum):
    """What was waited for too long."""

    REQUEST = auto()
    NEXT_REQUEST = auto()
    READING = auto()  # by the client
    CLOSING = auto()


class TimeLimits:
    """The waits of one connection, each by when it is over, NEVER for one that is not under way. Times are seconds of one clock."""

    __slots__ = ("_closed_at", "_next_at", "_request_over", "_silent_at", "_unread_at")

    def __init__(self) -> None:
        self._silent_at = self._request_over = self._next_at = self._unread_at = self._closed_at = NEVER

    @property
    def in_request(self) -> bool:
        """Whether a request is waited for, or has begun and is not complete."""
        return self._silent_at != NEVER

    @property
    def in_reading(self) -> bool:
        """Whether the client is waited for to take what its socket is full of."""
        return self._unread_at != NEVER

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has to send or take something, other than its next request."""
        return min(self._silent_at, self._unread_at, self._closed_at) < NEVER

    @property
    def due(self) -> float:
        """When the first wait is over."""
        return min(self._silent_at, self._next_at, self._unread_at, self._closed_at)

    def over(self, now: float) -> Wait | None:
        """The wait that is over, the one for which the connection ends soonest if there are several."""
        if now >= self._closed_at:
            return Wait.CLOSING
        if now >= self._unread_at:
            return Wait.READING
        if now >= self._silent_at:
            return Wait.REQUEST
        return Wait.NEXT_REQUEST if now >= self._next_at else None

    # Requests.

    def request_begins(self, now: float) -> None:
        self._silent_at, self._request_over, self._next_at = now + SILENT_SECONDS, now + REQUEST_SECONDS, NEVER

    def body_goes_on(self, now: float) -> None:
        self._silent_at = min(now + SILENT_SECONDS, self._request_over)

    def request_waits(self, now: float) -> None:
        """It waits for the answer to an earlier request, not for the client."""
        self._silent_at = now + SILENT_SECONDS

    def request_complete(self) -> None:
        self._silent_at = self._next_at = NEVER

    def next_until(self, until: float) -> None:
        """The next request is waited for."""
        self._next_at = until

    # The client that has to read.

    def reading_until(self, until: float) -> None:
        """The client is waited for to take what its socket is full of; ``NEVER``: no more."""
        self._unread_at = until

    def closing(self, now: float) -> bool:
        """The connection is closing, and waits for its client to take the rest. False if it was closing before."""
        if self._closed_at != NEVER:
            return False
        self._closed_at, self._next_at = now + CLOSE_SECONDS, NEVER
        return True

    def end(self) -> None:
        """Nothing is waited for any more."""
        self._silent_at = self._next_at = self._unread_at = self._closed_at = NEVER
