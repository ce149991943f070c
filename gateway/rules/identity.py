"""Who a client is, and what its tokens and the server API grant it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["ANONYMOUS", "ANYTHING", "Grant", "Identity", "Override", "ServerSubscription"]


class Override(NamedTuple):
    """Replaces some of the channel's rules for one subscription; None leaves a rule as it is. Source: docs/reference/tokens.md."""

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None


class ServerSubscription(NamedTuple):
    """The terms of a server-side subscription: ``info`` for presence and ``data`` for the client are raw JSON or None.

    ``expires_at`` is unix time in seconds, 0 for a subscription that does not expire.
    """

    info: bytes | None = None
    data: bytes | None = None
    override: Override | None = None
    expires_at: float = 0.0


class Identity(NamedTuple):
    """Who a client is: ``user`` is "" for an anonymous client; ``unchecked`` clients may do anything (``insecure.clients``).

    An ``operator`` is a page of the console, which leaves no traces: no lifecycle events, no presence.
    ``info`` and ``meta`` are raw JSON of the token; ``expires_at`` and ``issued_at`` are unix time in seconds, 0 for never and
    unknown; ``token_id`` names the token, so that it can be revoked; ``channels`` are those that the token subscribes its bearer to.
    """

    user: str = ""
    unchecked: bool = False
    info: bytes | None = None
    expires_at: float = 0.0
    token_id: str = ""
    issued_at: float = 0.0
    channels: Mapping[str, ServerSubscription] = MappingProxyType({})
    meta: bytes | None = None
    operator: bool = False

    @property
    def title(self) -> str:
        """For people: ``user 'u1'``, or ``anonymous``."""
        return f"user {self.user!r}" if self.user else "anonymous"


class Grant(NamedTuple):
    """What a subscription token allows: ``user`` may follow ``channel`` until ``expires_at``, unix time in seconds, 0 for never.

    ``client`` is the id of the one connection that it is for, "" for any of the user's.
    """

    user: str
    channel: str
    expires_at: float = 0.0
    info: bytes | None = None
    token_id: str = ""
    issued_at: float = 0.0
    override: Override | None = None
    client: str = ""


ANONYMOUS = Identity()
ANYTHING = Identity(unchecked=True)
