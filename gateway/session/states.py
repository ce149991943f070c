"""The states of one client's connection, and which state may follow which.

Theory of operation. A connection is OPENED when its socket is there and the client has not yet shown who it is. Its first
command is connect: once the token is accepted the connection is CONNECTING, until Valkey has answered where each channel
that the client is subscribed to by its token or the rules is. Then connect is answered, and the connection is CONNECTED.
CLOSED is final. Each side may close in any state, and closing a connection that is CLOSED changes nothing.

    OPENED ──connect is accepted──▶ CONNECTING ──its own channels have begun──▶ CONNECTED
       └────────────────────────────────┴──────────── closed ──────────────────────┴──▶ CLOSED

What a client may do follows from the state. OPENED: only connect. CONNECTING: nothing; what it sends waits, so that no
subscribe starts before connect is answered. CONNECTED: everything but connect.

A session of the protocol passes through all states. An event stream starts as CONNECTING, since its request is its connect.
A transition that the table does not have is a mistake of ours: it raises IllegalTransition, and the state stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

__all__ = ["CLOSED", "CONNECTED", "CONNECTING", "OPENED", "ConnectionState", "IllegalTransition", "transition"]


class ConnectionState(Enum):
    """What a connection is at: see the table above for what may follow what."""

    OPENED = "opened"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSED = "closed"

    __hash__ = (
        object.__hash__
    )  # each is there once; Enum's own hash is a function of Python, and takes longer than the rest of a transition


OPENED, CONNECTING, CONNECTED, CLOSED = ConnectionState

_NEXT: Mapping[ConnectionState, frozenset[ConnectionState]] = {
    OPENED: frozenset({CONNECTING, CLOSED}),
    CONNECTING: frozenset({CONNECTED, CLOSED}),
    CONNECTED: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A mistake in the gateway, never the client's. Nothing has changed."""


def transition(current: ConnectionState, target: ConnectionState) -> ConnectionState:
    """``target``, if it may follow ``current``; else raises IllegalTransition."""
    if target not in _NEXT[current]:
        raise IllegalTransition(f"a connection that is {current.value} cannot become {target.value}")
    return target
