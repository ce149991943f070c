"""The way from a session to its client. Each edge that carries the protocol implements it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..live.wire_formats import Wire
from .places import Place

__all__ = ["Outlet"]


class Outlet(Protocol):
    """The way to one client, in two forms: ``write`` takes what the wire format's ``join`` made for many subscriptions at
    once, ``send`` takes one message of the protocol for this client alone.

    Messages that are sent while a message of the client is being handled, or between ``cork`` and ``uncork``, may leave together
    at its end. ``flush`` writes them at once; it is called before ``write``, so that the order stays.
    """

    @property
    def wire(self) -> Wire: ...

    @property
    def write(self) -> Callable[[Any], Any]: ...

    @property
    def paused(self) -> bool:
        """Whether its socket is full."""
        ...

    @property
    def waits_for_turn(self) -> bool:
        """Whether something that the client sent is here, and waits for a later turn of the loop, as where thousands send together."""
        ...

    @property
    def transport(self) -> str:
        """What carries the session: "websocket", or one of the two streams of an emulated one."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are written and that the socket has not taken yet."""
        ...

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes that are written and that the client's machine has not confirmed; it costs a call of the system."""
        ...

    @property
    def place(self) -> Place | None:
        """The place of its socket; None where the socket is another server's."""
        ...

    @property
    def native_pings(self) -> bool:
        """Whether the client asked for WebSocket pings instead of the protocol's."""
        ...

    @property
    def return_path(self) -> dict[str, bytes]:
        """Fields of the reply to connect, in JSON: where the client sends its commands, if that is not where replies come from."""
        ...

    def send(self, message: bytes) -> None: ...

    def flush(self) -> None: ...

    def cork(self) -> bool:
        """What is sent from now on may leave in one write, with ``uncork``. False if it was so already: then another caller ends it."""
        ...

    def uncork(self) -> None: ...

    def ping(self) -> None: ...

    def hold_reading(self, hold: bool) -> None:
        """True: takes nothing more from the client until it is called with False."""
        ...

    def disconnect(self, code: int, reason: str) -> None:
        """Sends what is left, then the close code and its reason, and closes."""
        ...
