"""By when a client must have done what, and what happens otherwise: one rule for every edge, whatever carries the client.

| a session waits for                               | for                                               | else                             |
|---------------------------------------------------|---------------------------------------------------|----------------------------------|
| connect                                           | ``limits.first_command_seconds``                  | closed with 3502                 |
| Valkey's answer where its own channels are        | ``CONNECT_SECONDS``                               | closed with 3004                 |
| its full socket to drain                          | ``limits.slow_seconds``                           | closed with 3008                 |
| the answer to a ping                              | ``pong_seconds``                                  | closed with 3012                 |
| a new token, after the end of its connection's    | ``tokens.leeway`` + ``GRACE_SECONDS``             | closed with 3005                 |
| a new token, after the end of a subscription's    | ``tokens.leeway`` + ``GRACE_SECONDS``             | unsubscribed: 2501; refused: 109 |

An event stream waits for the same, but for two things: it is its own connect, and it answers no ping. Nothing can be sent to
it, so it ends ``tokens.leeway`` after its first token (refused: 109); it is notified ``GRACE_SECONDS`` before that. Where its client's machine
confirms nothing of what was sent, a ping at least, the system ends it after ``limits.slow_seconds`` + ``ping_seconds``.

No client has a timer or a task of its own. The wheel ticks it in the second after the first of its deadlines; the tick does
what is due, and returns when something is due again. ``now`` is the loop's clock everywhere; tokens go by the time of day.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from operator import itemgetter
from typing import Generic, TypeVar

from ..errors import Disconnect
from ..live.subscription import State, Subscription
from ..rules.identity import Identity
from ..runtime.moments import shared_ms
from ..runtime.wheel import NEVER
from .client_counts import ClientCounts
from .node import Node
from .states import CLOSED, CONNECTED, OPENED, ConnectionState, transition

__all__ = ["CLIENT_LEFT", "CONNECT_SECONDS", "GRACE_SECONDS", "NEVER", "OF_MANY", "TimedClient", "TimedSubscription"]

log = logging.getLogger("gateway.clients")

CONNECT_SECONDS = 30.0
GRACE_SECONDS = 25.0  # Source: docs/reference/wire-protocol.md, A connection
_end_of = itemgetter(0)  # of an entry of ``token_ends``
CLIENT_LEFT = Disconnect(3000)
OF_MANY = (3000, 3001, 3010)  # codes with which many clients may end together: the cause, a drain or a lost history, is logged once


class TimedSubscription(Subscription):
    """A subscription of a timed client. Each edge implements it."""

    __slots__ = ()

    @property
    @abstractmethod
    def expires_at(self) -> float:
        """When what opened it ends, in unix seconds; 0 for never."""


Followed = TypeVar("Followed", bound=TimedSubscription)


class TimedClient(ABC, Generic[Followed]):
    """A connection as time and its socket see it. ``client`` is its id, "" before there is one.

    ``open_by`` is when it must be connected, ``next_ping`` when it is pinged next, ``slow_since`` since when its socket is
    full: seconds of the loop's clock, NEVER where that does not apply. ``since_ms`` is when it was connected, in unix ms, 0 before.
    ``bucket`` is the wheel's mark.
    """

    __slots__ = ("bucket", "client", "identity", "next_ping", "node", "open_by", "since_ms", "slow_since", "state")

    has_grace = False  # whether the client may bring a new token within GRACE_SECONDS after its token's end

    def __init__(self, node: Node, identity: Identity, state: ConnectionState, open_by: float) -> None:
        self.node = node
        self.identity = identity
        self.state = state
        self.client = ""
        self.bucket = 0
        self.since_ms = 0
        self.open_by = open_by
        self.next_ping = self.slow_since = NEVER
        node.wheel.set(self, open_by)

    # What each edge implements.

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether its socket is full."""

    @property
    @abstractmethod
    def transport(self) -> str:
        """What carries it: one of a few fixed names."""

    @property
    @abstractmethod
    def waiting_bytes(self) -> int:
        """Bytes written for it that its socket has not taken yet."""

    @abstractmethod
    def followed(self) -> Iterable[Followed]:
        """Its subscriptions."""

    @abstractmethod
    def ping(self, now: float) -> None: ...

    @abstractmethod
    def expired(self, subscription: Followed | None) -> None:
        """The token of a subscription, or for None that of the connection, and its grace are over. May raise Disconnect."""

    @abstractmethod
    def close(self, disconnect: Disconnect) -> None:
        """Ends the connection, with that code for the client. Closing it twice changes nothing."""

    def cut_off(self, disconnect: Disconnect) -> None:
        """Ends the connection of a client that missed a deadline."""
        self.close(disconnect)

    # The state.

    @property
    def connected(self) -> bool:
        return self.state is CONNECTED

    def move(self, state: ConnectionState) -> None:
        """Raises IllegalTransition for a state that may not follow, and changes nothing then."""
        self.state = transition(self.state, state)

    def opened(self) -> None:
        """It is connected from now on, and pinged."""
        self.move(CONNECTED)
        self.open_by = NEVER
        self.since_ms = shared_ms()
        # The first ping comes at a random time, so that clients that connected together are not all pinged together later.
        self.next_ping = self.node.hub.now() + self.node.config.ping_seconds * random.uniform(0.5, 1)
        self.watch_deadlines()

    # What is counted and logged of it.

    @property
    def counts(self) -> ClientCounts:
        return self.node.admission.counts

    def count_end(self, code: int) -> None:
        """Counts how the connection ends, and how its connect did; called before it is CLOSED."""
        self.counts.closed(code)
        if not self.connected and code != CLIENT_LEFT.code:
            self.counts.refused(self.transport, code)

    def log_start(self) -> None:
        """Logs that the client is connected, and the address that it came from."""
        log.debug("client %s of user %r connected from %s", self.client, self.identity.user, self.node.admission.address_of(self))

    def log_end(self, disconnect: Disconnect) -> None:
        """Logs how the connection ended; called while the registry of clients still has it."""
        address = self.node.admission.address_of(self)
        log.debug("client %s of user %r disconnected from %s: %s", self.client or "-", self.identity.user, address, disconnect)

    # Time.

    def tick(self, now: float) -> float | None:
        """Does what is due; the wheel calls it. Returns when something is due again, None if nothing ever is."""
        try:
            self.enforce(now)
        except Disconnect as disconnect:
            self.cut_off(disconnect)
        if self.state is not CLOSED and now >= self.next_ping:
            self.next_ping = now + self.node.config.ping_seconds
            self.ping(now)
        return None if self.state is CLOSED else self.next_due(now)

    def enforce(self, now: float) -> None:
        """Ends what is over. Raises Disconnect if that is the connection."""
        limits = self.node.config.limits
        if now >= self.open_by:
            if self.state is OPENED:
                raise Disconnect(3502, f"no connect within {limits.first_command_seconds:g} s")
            raise Disconnect(3004, "Valkey did not answer in time where the client's channels are")
        if now >= self.slow_since + limits.slow_seconds:
            raise Disconnect(3008)
        if ends := self.token_ends():
            over = time.time() - self._grace
            for end, subscription in ends:
                if over >= end:
                    self.expired(subscription)

    def next_due(self, now: float) -> float:
        """When ``tick`` may have something to do."""
        due = min(self.open_by, self.next_ping, self.slow_since + self.node.config.limits.slow_seconds)
        if ends := self.token_ends():
            first, _ = min(ends, key=_end_of)
            due = min(due, now + max(0.0, first + self._grace - time.time()))
        return due

    @property
    def _grace(self) -> float:
        return GRACE_SECONDS if self.has_grace else 0.0

    def watch_deadlines(self) -> None:
        """Looks at the deadlines anew: one was added that may be due before all others."""
        self.node.wheel.set(self, self.next_due(self.node.hub.now()))

    def token_ends(self) -> list[tuple[float, Followed | None]]:
        """When its tokens end, in unix seconds: the connection's (None) and those of subscriptions. None ends before ``tokens.leeway`` is over."""
        leeway = self.node.config.tokens.leeway
        ends: list[tuple[float, Followed | None]] = []
        if self.identity.expires_at:
            ends.append((self.identity.expires_at + leeway, None))
        for each in self.followed():
            if expires_at := each.expires_at:
                ends.append((expires_at + leeway, each))
        return ends

    # The socket.

    def fell_behind(self, now: float) -> None:
        """Its socket is full. Its subscriptions wait, for history has what they miss; without history the client is too slow."""
        self.slow_since = now
        self.node.wheel.set(self, now + self.node.config.limits.slow_seconds)
        for subscription in list(self.followed()):
            if subscription.state is State.LIVE and not subscription.channel.has_history:
                self.close(Disconnect(3008, "a channel without history to catch up from"))
                return
            subscription.fall_behind()

    def drained(self) -> None:
        """Its socket takes more: its subscriptions catch up, until it is full again."""
        self.slow_since = NEVER
        for subscription in list(self.followed()):
            if self.state is CLOSED or self.paused:
                return
            self.node.hub.drained(subscription)
