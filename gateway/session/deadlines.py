"""What a session must have done by when, and what becomes of one that has not.

| it waits for                                      | until                            | else                              |
|---------------------------------------------------|----------------------------------|-----------------------------------|
| connect                                           | ``limits.first_command_seconds`` | closed with 3502                  |
| Valkey, to say where its own channels stand       | ``CONNECT_SECONDS``              | closed with 3004                  |
| its socket to take what is written                | ``limits.slow_seconds``          | closed with 3008                  |
| the answer to a ping                              | ``pong_seconds``                 | closed with 3012                  |
| a new token, once the connection's is over        | ``GRACE_SECONDS`` and            | closed with 3005                  |
| a new token, once a subscription's is over        | ``tokens.leeway``                | unsubscribed: 2501; refused: 109  |
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import Disconnect, TokenExpired

if TYPE_CHECKING:
    from .session import Session

__all__ = ["CONNECT_SECONDS", "NEVER", "enforce", "next_due"]

CONNECT_SECONDS = 30.0
GRACE_SECONDS = 25.0  # Source: PROTOCOL.md 1.7, step 7
NEVER = float("inf")


def enforce(session: Session, now: float) -> None:
    """Raises Disconnect for what ends the connection. ``now`` is the loop's clock; tokens go by the time of day."""
    limits = session.node.config.limits
    if now >= session.connect_by:
        if session.connect_id:
            raise Disconnect(3004, "Valkey did not say in time where the user's channels stand")
        raise Disconnect(3502, f"no connect within {limits.first_command_seconds:g} s")
    if now >= session.slow_since + limits.slow_seconds:
        raise Disconnect(3008)
    if now >= session.pong_by and not session.outlet.paused and session.backlog is None:
        raise Disconnect(3012)
    today = time.time() - session.node.config.tokens.leeway
    if session.identity.expires_at and today >= session.identity.expires_at + GRACE_SECONDS:
        raise Disconnect(3005)
    for subscription in list(session.subscriptions.values()):
        if subscription.expires_at and today >= subscription.expires_at + GRACE_SECONDS:
            subscription.end_with(2501, "subscription expired", TokenExpired())


def next_due(session: Session, now: float) -> float:
    """When ``enforce``, or the next ping, may have something to do."""
    slow_by = session.slow_since + session.node.config.limits.slow_seconds
    due = min(session.next_ping, max(session.pong_by, now + 1), slow_by, session.connect_by)
    expiries = [subscription.expires_at for subscription in session.subscriptions.values() if subscription.expires_at]
    if session.identity.expires_at:
        expiries.append(session.identity.expires_at)
    if expiries:
        patience = GRACE_SECONDS + session.node.config.tokens.leeway
        due = min(due, now + max(0.0, min(expiries) + patience - time.time()))
    return due
