"""Admission: which clients are connected to this process, and whether one more may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, cast

from ..config import Limits
from ..errors import Disconnect
from ..live.subscription import Subscription
from ..publication import Position
from ..rules.addresses import block_of
from ..rules.identity import Grant, Identity, ServerSubscription
from ..rules.rate_limit import Allowances, use
from ..runtime.turns import Turns
from .client_counts import ClientCounts
from .places import Place, Places

__all__ = ["Admission", "Client", "EmulatedSession"]


READ_AT_ONCE = 32  # clients that are read from in one turn of the loop: about 8 ms, if each of them connects and subscribes
CLOSED_AT_ONCE = 32  # sockets whose clients left, in one turn of the loop: about 0.6 ms


class Client(Protocol):
    """A connection of any edge, as far as the process and backends have to do with it."""

    @property
    def client(self) -> str:
        """Its id, "" before it connected."""

    @property
    def identity(self) -> Identity: ...

    @property
    def transport(self) -> str:
        """What carries it: one of a few fixed names."""

    @property
    def since_ms(self) -> int:
        """When it was connected, in unix ms."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes written for it that its socket has not taken yet."""

    @property
    def unconfirmed_bytes(self) -> int:
        """Bytes written for it that its machine has not confirmed."""

    @property
    def paused(self) -> bool:
        """Whether its socket is full."""

    def followed(self) -> Iterable[Subscription]:
        """Its subscriptions."""

    def drain(self) -> None:
        """The process is going away: sends the client elsewhere."""

    def close(self, disconnect: Disconnect) -> None: ...

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None:
        """Begins a server-side subscription; one that exists already stays."""

    def remove(self, channel: str) -> None:
        """Ends a subscription, of either side."""

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None:
        """Ends the subscriptions whose own tokens were revoked."""

    def renew(self, identity: Identity) -> None:
        """Replaces the identity: it is the same user, with another expiry or info."""


class EmulatedSession(Protocol):
    """A session whose commands come by POST."""

    @property
    def client(self) -> Client | None:
        """The session; None before it began, and after it ended."""

    def take(self, message: bytes) -> None:
        """Commands, one a line."""


class Admission:
    """The registry of a process's clients, and what they do in ``counts``. ``now`` is the clock, in seconds.

    Thousands of clients may send, be answered, and leave at the same time. So ``turns`` bounds how many clients' messages are handled in one turn of
    the loop, ``resumptions`` how many clients go on with commands that waited, and ``closings`` how many sockets of clients that left are closed.
    """

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self.draining = False  # clients are sent elsewhere: the process is going away, or an operator asked for it
        self.ending = False  # the process is going away: nothing ends the drain
        self.closing = False  # it is about to close all connections: an answer to a backend is the last of its connection
        self.clients: dict[Client, str] = {}  # each with the address that it came from
        self._own_places: dict[Client, Place] = {}  # of clients whose sockets have no place here, as those of another ASGI server
        self.places = Places(limits, now)
        self.counts = ClientCounts()
        self.turns = Turns(READ_AT_ONCE)
        self.resumptions = Turns(READ_AT_ONCE)
        self.closings = Turns(CLOSED_AT_ONCE)
        self.users: dict[str, set[Client]] = {}
        self.emulated: dict[str, EmulatedSession] = {}  # by session id
        self._limits = limits
        self._now = now
        self._connects_used = 0.0  # of limits.connects_per_second, see ``rate_limit``
        self._requests = Allowances(limits.commands_per_second, "limits.commands_per_second")

    def admit(self, client: Client, address: str, place: Place | None = None) -> None:
        """Registers a connection. ``place`` is its socket's; without one it takes one of its own, for as long as it is registered.

        Raises Disconnect 3504 over a limit, 3013 if they come too fast, 3001 while draining.
        """
        if self.draining:
            raise Disconnect(3001)
        own = None
        if place is None:
            own = place = self.places.enter(address)
        else:
            self.places.claim(place, address)
        if place.refusal:
            raise Disconnect(3504, place.refusal)
        rate = self._limits.connects_per_second
        used = use(self._connects_used, self._now(), rate)
        if used is None:
            if own is not None:
                own.release()
            raise Disconnect(3013, f"limits.connects_per_second is {rate:g}")
        self._connects_used = used
        self.clients[client] = address
        if own is not None:
            self._own_places[client] = own

    def admit_user(self, client: Client, user: str) -> None:
        """Registers whose connection it is. Raises Disconnect 3504 over ``limits.connections_per_user``."""
        most = self._limits.connections_per_user
        if most and user and len(self.users.get(user, ())) >= most:
            raise Disconnect(3504, f"limits.connections_per_user is {most}")
        self.users.setdefault(user, set()).add(client)

    def admit_request(self, user: str, address: str) -> None:
        """A request over plain HTTP, which counts as a command: of the user, or of the address where the user is anonymous (of IPv6: the network /64).

        Raises TooManyRequests over ``limits.commands_per_second``.
        """
        self._requests.spend(f"user {user}" if user else f"address {block_of(address)}", self._now())

    def forget(self, client: Client, user: str | None) -> None:
        """The connection is closed. ``user`` is None where ``admit_user`` did not register one."""
        self.clients.pop(client, None)
        if own := self._own_places.pop(client, None):
            own.release()
        if user is None or user not in self.users:
            return
        self.users[user].discard(client)
        if not self.users[user]:
            del self.users[user]

    def address_of(self, client: object) -> str:
        """The address that a connected client came from; "-" for a socket without one."""
        return self.clients.get(cast(Client, client)) or "-"

    def take_commands(self, session: str, message: bytes) -> bool:
        """Gives commands, one a line, to an emulated session. False if there is none of that id."""
        emulated = self.emulated.get(session)
        if emulated is not None:
            emulated.take(message)
        return emulated is not None

    def matching(self, user: str, client: str, session: str) -> list[Client]:
        """The connected clients of this user, with this client id, and of this emulated session. "" matches any, but three times "" none."""
        if not (user or client or session):
            return []
        theirs: Iterable[Client] = self.users.get(user, ()) if user else self.clients
        if session:
            emulated = self.emulated.get(session)
            theirs = [emulated.client] if emulated is not None and emulated.client is not None and emulated.client in theirs else []
        return [each for each in theirs if each.client and client in ("", each.client)]
