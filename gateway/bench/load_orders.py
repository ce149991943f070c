"""What the bench orders its load clients to do, and what they answer: one line of JSON each, over the standard input and output of a process.

A publication of the bench holds MARK once, which is nowhere else in what a server sends: subscribers count publications by it, without
reading frames or JSON. After it come DIGITS digits: the microsecond, of a clock that all processes share, in which it was due.
"""

from __future__ import annotations

import msgspec

from ..errors import GatewayError

__all__ = ["DIGITS", "MARK", "SAMPLE_SECONDS", "STAMP", "Answer", "Call", "Close", "Open", "Order", "Pace", "Request", "State", "document"]

MARK = b'"mark":"~'  # a byte may also be part of a frame's length; and a longer text is found faster
DIGITS = 16
STAMP = MARK + b"0" * DIGITS  # stands in a request where the load client writes the time
DOCUMENT_BYTES = 200
SAMPLE_SECONDS = 0.05


def document() -> str:
    """The data of a publication, JSON: DOCUMENT_BYTES of it, with STAMP."""
    head, tail = f'{{{STAMP.decode()}","text":"', '"}'
    return head + "x" * (DOCUMENT_BYTES - len(head) - len(tail)) + tail


class Open(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Open ``count`` WebSockets on ``path`` of 127.0.0.1:``port``, ``at_once`` being opened at a time, each ready once ``ready`` came.

    Client number n sends ``messages[n % len(messages)]`` after the handshake; without messages it is ready then. ``timed`` of the clients,
    evenly spread, measure latencies. It is answered when all are ready and have received ``deliveries`` publications together, or
    after ``seconds``.
    """

    server: str
    group: str
    port: int
    path: str
    messages: list[str] = []
    ready: str = ""
    count: int
    at_once: int = 64
    timed: int = 0
    deliveries: int = 0
    seconds: float = 60.0


class Close(msgspec.Struct, tag=True, frozen=True):
    """Close the connections of a server's group."""

    server: str
    group: str


class State(msgspec.Struct, tag=True, frozen=True):
    """Answer what all groups of a server have received since the last such order, and how much CPU the process has taken."""

    server: str


class Request(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Send HTTP requests for ``seconds``, each connection the next one of ``requests`` when its last one is answered."""

    port: int
    requests: list[str]
    connections: int
    seconds: float


class Pace(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Send ``rate`` HTTP requests a second for ``seconds``, each when it is due. One that finds no free connection waits for one."""

    port: int
    request: str
    connections: int
    rate: float
    seconds: float


class Call(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """Publish to ``channel`` by FCALL for ``seconds``, ``window`` calls on the way at a time."""

    url: str
    prefix: str
    channel: str
    data: str
    window: int
    seconds: float


Order = Open | Close | State | Request | Pace | Call


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``failure`` is what went wrong, "" if nothing. ``done``: requests or calls that were answered, ``refused`` those answered by an error.

    ``seconds`` is how long it took; ``received``, ``latencies`` (counts of ``latencies.BOUNDS``) and ``cpu`` are of State; ``line`` is how
    many publications had been received after each SAMPLE_SECONDS of an Open.
    """

    failure: str = ""
    seconds: float = 0.0
    done: int = 0
    refused: int = 0
    received: int = 0
    latencies: list[int] = []
    cpu: float = 0.0
    line: list[int] = []

    def checked(self) -> Answer:
        """Itself. Raises GatewayError for one that reports a failure."""
        if self.failure:
            raise GatewayError(self.failure)
        return self
