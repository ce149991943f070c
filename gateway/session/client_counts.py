"""What clients and backends do to one process, in plain numbers; ``metrics`` reads them.

Codes and methods may come from outside: those that are not known count as OTHER, so that there are only so many counters.
"""

from __future__ import annotations

from collections import Counter

from ..errors import Disconnect

__all__ = [
    *("ACCEPTED", "BY_EMULATED_HTTP_STREAM", "BY_EMULATED_SSE", "BY_SSE", "BY_WEBSOCKET", "CLOSE_CODES", "FROM_API", "FROM_EMULATION"),
    *("FROM_WEBSOCKET", "OTHER", "SOURCES", "TRANSPORTS", "ClientCounts"),
]

# What carries a client, and where received bytes come from; as metrics name them.
BY_WEBSOCKET, BY_SSE, BY_EMULATED_SSE, BY_EMULATED_HTTP_STREAM = TRANSPORTS = ("websocket", "sse", "emulation_sse", "emulation_http_stream")
FROM_WEBSOCKET, FROM_EMULATION, FROM_API = SOURCES = ("websocket", "emulation", "api")
CLOSE_CODES = frozenset({1007, *Disconnect.REASONS})  # the first is WebSocket's own for text that is no UTF-8
ERROR_CODES = frozenset(range(100, 114))  # docs/reference/errors-and-close-codes.md
OTHER = "other"
ACCEPTED = "0"


def _known(code: int) -> str:
    return str(code) if code in CLOSE_CODES or code in ERROR_CODES else OTHER


class ClientCounts:
    """``connects`` by transport and code, ACCEPTED or the code of the refusal; ``closes`` of connections by code; ``commands`` by method
    and their ``errors`` by method and code; ``requests`` of the server API by method and code, ACCEPTED for a success. ``received`` are
    bytes by where they came from, ``sent`` those of everything but publications.
    """

    def __init__(self) -> None:
        self.connects: Counter[tuple[str, str]] = Counter()
        self.closes: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.received: Counter[str] = Counter()
        self.sent = 0

    def connected(self, transport: str) -> None:
        self.connects[transport, ACCEPTED] += 1

    def refused(self, transport: str, code: int) -> None:
        """A client was not let in, with that code."""
        self.connects[transport, _known(code)] += 1

    def closed(self, code: int) -> None:
        """A connection ended with that code. Either side may have ended it."""
        self.closes[_known(code)] += 1

    def failed(self, method: str, code: int) -> None:
        """A command was answered with that error."""
        self.errors[method, _known(code)] += 1

    def answered(self, method: str, code: int = 0) -> None:
        """A request of the server API was answered; ``method`` is one that there is, or OTHER."""
        self.requests[method, _known(code) if code else ACCEPTED] += 1
