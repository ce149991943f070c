"""The node: the finished parts that all clients of one process share, and what the configuration says of channels."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..channel_rules import CONSOLE_RULES, ChannelRules
from ..config import Config
from ..control.bus import Bus
from ..control.events import LifecycleEvents
from ..control.presence import Presence
from ..control.revocations import Revocations
from ..errors import BadRequest, PermissionDenied
from ..live.hub import Hub
from ..live.inbox import Inbox
from ..publication import channel_fault
from ..rpc.calls import Calls
from ..rpc.methods import Methods
from ..rules.permissions import owner_of
from ..runtime.tasks import Tasks
from ..runtime.wheel import Wheel
from ..store.history import History
from ..work.queues import Queues
from .admission import Admission
from .authentication import Authentication

__all__ = ["Node", "new_id"]


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) in a quarter of the time that ``uuid.uuid4`` takes."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@dataclass(frozen=True, slots=True)
class Node:
    """One process. ``uid`` is its id, by which other processes know it; ``tasks`` holds the work of its clients."""

    config: Config
    uid: str
    tasks: Tasks
    wheel: Wheel
    history: History
    hub: Hub
    inbox: Inbox
    control: Bus
    presence: Presence
    revocations: Revocations
    events: LifecycleEvents
    calls: Calls
    methods: Methods
    admission: Admission
    authentication: Authentication
    queues: Queues

    def rules(self, channel: str, *, operator: bool = False) -> ChannelRules:
        """The rules of a channel that a client named. Raises BadRequest for an impossible name, UnknownChannel, and PermissionDenied for
        the console's own channel, unless the client is an ``operator``."""
        fault = channel_fault(channel)
        if fault:
            raise BadRequest(fault)
        rules = self.config.rules(channel)
        if rules is CONSOLE_RULES and not operator:
            raise PermissionDenied(f"{channel!r} is the console's own channel")
        return rules

    def personal_channels(self, user: str) -> list[str]:
        """The channels that a user is subscribed to on connecting."""
        if not user or not (self.config.personal_namespaces or self.config.channels.personal):
            return []
        names = [f"{name}:{user}" for name in self.config.personal_namespaces]
        if self.config.channels.personal:
            names.append(f"#{user}")
        # With a # in the user's id the channel would be another user's; some ids cannot be part of a channel's name.
        return [name for name in names if owner_of(name) == user and not channel_fault(name)]
