"""The node: what all clients of one process share, and the checks that every edge makes alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..config import ChannelRules, Config
from ..control.bus import Control
from ..control.events import Lifecycle
from ..control.presence import Presence
from ..control.revocations import Revocations
from ..errors import BadRequest, Disconnect, KeyUnknown, PermissionDenied, TokenExpired, TokenInvalid, TokenStale
from ..live.hub import Hub
from ..live.inbox import Inbox
from ..publication import Position, channel_fault
from ..rpc.calls import Calls
from ..rpc.methods import Methods
from ..rules.identity import ANONYMOUS, ANYTHING, Grant, Identity, ServerSubscription
from ..rules.permissions import admits, owner_of
from ..rules.rate_limit import use
from ..runtime.tasks import Tasks
from ..runtime.wheel import Wheel
from ..store.history import History

__all__ = ["Node", "new_id"]

Checked = TypeVar("Checked")


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) in a quarter of the time that ``uuid.uuid4`` takes."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Verifier(Protocol):
    def connection(self, token: str) -> Identity: ...

    def subscription(self, token: str) -> Grant: ...

    async def learn(self) -> None: ...


class Client(Protocol):
    """A connection of any edge, as far as the process and its operators have to do with it.

    ``client`` is its id, "" before it connected. ``subscribe`` and what follows are asked for by a service: ``steering``.
    """

    client: str
    identity: Identity

    def drain(self) -> None: ...

    def close(self, disconnect: Disconnect) -> None: ...

    def add(self, channel: str, granted: ServerSubscription, since: Position | None) -> None: ...

    def remove(self, channel: str) -> None: ...

    def end_revoked(self, revoked: Callable[[Grant], bool]) -> None: ...

    def renew(self, identity: Identity) -> None: ...


class Emulated(Protocol):
    """A session whose commands come by POST."""

    @property
    def client(self) -> Client | None: ...

    def take(self, message: bytes) -> None: ...


@dataclass(slots=True)
class Node:
    config: Config
    hub: Hub
    history: History
    inbox: Inbox
    verifier: Verifier
    methods: Methods
    wheel: Wheel
    clients: dict[Client, str] = field(default_factory=dict)  # each with the address it came from
    addresses: dict[str, int] = field(default_factory=dict)  # counted where limits.connections_per_address is set
    connects_used: float = 0.0
    users: dict[str, set[Client]] = field(default_factory=dict)
    emulated: dict[str, Emulated] = field(default_factory=dict)  # by session id
    control: Control = None  # type: ignore[assignment]
    lifecycle: Lifecycle = None  # type: ignore[assignment]
    calls: Calls = None  # type: ignore[assignment]
    presence: Presence = None  # type: ignore[assignment]
    revoked: Revocations = None  # type: ignore[assignment]
    tasks: Tasks = field(default_factory=Tasks)
    draining: bool = False
    started: float = field(default_factory=time.monotonic)
    uid: str = field(default_factory=new_id)

    def admit(self, client: Client, address: str) -> None:
        """Counts a connection in. Raises Disconnect 3504 over a limit, 3013 if they come too fast, 3001 while draining."""
        limits = self.config.limits
        if self.draining:
            raise Disconnect(3001)
        if limits.connections and len(self.clients) >= limits.connections:
            raise Disconnect(3504, f"limits.connections is {limits.connections}")
        theirs = self.addresses.get(address, 0)
        if limits.connections_per_address and address and theirs >= limits.connections_per_address:
            raise Disconnect(3504, f"limits.connections_per_address is {limits.connections_per_address}, and {address} has as many")
        used = use(self.connects_used, self.hub.now(), limits.connects_per_second)
        if used is None:
            raise Disconnect(3013, f"limits.connects_per_second is {limits.connects_per_second:g}")
        self.connects_used = used
        self.clients[client] = address
        if limits.connections_per_address:
            self.addresses[address] = theirs + 1

    def admit_user(self, client: Client, user: str) -> None:
        most = self.config.limits.connections_per_user
        theirs = self.users.get(user, ())
        if most and user and len(theirs) >= most:
            raise Disconnect(3504, f"limits.connections_per_user is {most}")
        self.users.setdefault(user, set()).add(client)

    def forget(self, client: Client, user: str | None) -> None:
        address = self.clients.pop(client, None)
        if address is not None and address in self.addresses:
            self.addresses[address] -= 1
            if not self.addresses[address]:
                del self.addresses[address]
        theirs = self.users.get(user) if user is not None else None
        if theirs is not None:
            theirs.discard(client)
            if not theirs:
                del self.users[user]

    def command(self, session: str, message: bytes) -> bool:
        """Commands for an emulated session. False if there is none of that id."""
        emulated = self.emulated.get(session)
        if emulated is not None:
            emulated.take(message)
        return emulated is not None

    def authenticate(self, token: str) -> Identity:
        """Who a client is.

        Raises TokenExpired, Disconnect 3500 for any other bad token, and 3501 without one where nothing is open to anyone;
        KeyUnknown if another look, once keys were fetched (``verifier.learn``), may admit it.
        A token that is refused never makes its bearer anonymous.
        """
        insecure = self.config.insecure.clients
        if not token:
            if not self.config.admits_anonymous:
                raise Disconnect(3501, "no token, and no channel that anyone may follow")
            return ANYTHING if insecure else ANONYMOUS
        try:
            identity = self.verifier.connection(token)
        except KeyUnknown:
            raise
        except TokenStale as error:
            raise TokenExpired(str(error)) from None
        except TokenInvalid as error:
            raise Disconnect(3500, str(error)) from None
        if self.revoked.covers(identity):
            raise Disconnect(3500, "the token was revoked")
        return identity._replace(unchecked=insecure)

    async def identify(self, token: str) -> Identity:
        """``authenticate``, with the keys that it takes."""
        try:
            return await self._with_keys(self.authenticate, token)
        except KeyUnknown as error:
            raise Disconnect(3500, str(error)) from None

    def grant(self, token: str, channel: str, user: str) -> Grant:
        """What a subscription token allows. Raises PermissionDenied, TokenExpired, KeyUnknown, or Disconnect 3500 if it is somebody else's."""
        return self._grant(token, (channel,), user)

    async def grant_one_of(self, token: str, channels: Collection[str], user: str) -> Grant:
        """``grant``, with the keys that it takes, for whichever of ``channels`` the token names."""
        try:
            return await self._with_keys(self._grant, token, channels, user)
        except KeyUnknown as error:
            raise PermissionDenied(str(error)) from None

    def _grant(self, token: str, channels: Collection[str], user: str) -> Grant:
        try:
            grant = self.verifier.subscription(token)
        except KeyUnknown:
            raise
        except TokenStale as error:
            raise TokenExpired(str(error)) from None
        except TokenInvalid as error:
            raise PermissionDenied(str(error)) from None
        if self.revoked.covers(grant):
            raise PermissionDenied("the subscription token was revoked")
        if grant.channel not in channels or grant.user != user:
            raise Disconnect(3500, "the subscription token names another channel or user")
        return grant

    async def _with_keys(self, check: Callable[..., Checked], *token: Any) -> Checked:
        """``check``, once more if keys had to be fetched for it. Raises KeyUnknown if they do not help."""
        try:
            return check(*token)
        except KeyUnknown:
            await self.verifier.learn()
        return check(*token)

    def rules(self, channel: str) -> ChannelRules:
        """The rules of a channel that a client named. Raises BadRequest for an impossible name, UnknownChannel."""
        fault = channel_fault(channel)
        if fault:
            raise BadRequest(fault)
        return self.config.rules(channel)

    def may_subscribe(self, identity: Identity, channel: str, *, token: bool = False) -> bool:
        rules = self.rules(channel)
        return admits(rules.subscribe, identity, channel, token=token) or (token and rules.subscribe != "nobody")

    def personal_channels(self, user: str) -> list[str]:
        """The channels that a user is subscribed to on connecting."""
        if not user:
            return []
        names = [f"{name}:{user}" for name, rules in self.config.namespaces.items() if rules.personal]
        if self.config.channels.personal:
            names.append(f"#{user}")
        # With a # in their id a channel would be somebody else's; some ids are none of a channel's name.
        return [name for name in names if owner_of(name) == user and not channel_fault(name)]
