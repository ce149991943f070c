"""Control orders: carries out what backends ask of the clients of this process. Each control message reaches every process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable

import msgspec

from .. import __version__
from ..config import Config
from ..control.events import LifecycleEvents
from ..control.messages import AnyMessage, Disconnection, Question, Refreshing, Revocation, Subscribing, Unsubscribing
from ..control.revocations import Revocations
from ..errors import Disconnect
from ..live.hub import Hub
from ..publication import Position
from ..rules.identity import Grant, Identity, ServerSubscription
from ..rules.json_text import encode
from ..runtime.memory import resident_bytes
from .admission import Admission, Client
from .client_views import ClientViews
from .drain import send_away

__all__ = ["Orders"]

LOOKED_AT_ONCE = 1000  # clients of one turn of the loop whose tokens are compared with what was revoked: about 3 ms


class Orders:
    """The bus's recipient (``control.bus.Recipient``). ``process`` is this gateway's id.

    ``answers`` has what answers further kinds of question: each takes the question's ``pattern`` and returns JSON.
    """

    def __init__(
        self, config: Config, process: str, hub: Hub, revocations: Revocations, admission: Admission, events: LifecycleEvents
    ) -> None:
        self._process = process
        self._hub = hub
        self._revocations = revocations
        self._admission = admission
        self._drain_seconds = config.drain_seconds
        self._started = time.monotonic()
        self.name = f"{os.uname().nodename}_{config.port}"  # of this process, for people
        self._views = ClientViews(config, process, self.name, hub, admission, events)
        self.answers: dict[str, Callable[[str], bytes]] = {}

    def carry_out(self, message: AnyMessage) -> None:
        if isinstance(message, Revocation):
            self._revocations.add(message.user, message.token_id, message.before, message.until)
            self._carry_out_revocation(message)
            return
        for client in self._admission.matching(message.user, message.client, message.session):
            self._apply(client, message)

    def _carry_out_revocation(self, message: Revocation) -> None:
        """Ends what the revoked tokens opened: all in one turn of the loop, so that nothing that is published later reaches those clients."""
        if message.user:
            _end_revoked(list(self._admission.users.get(message.user, ())), self._revocations.covers)
        if message.token_id and time.time() < message.until:
            # Each client's tokens are compared with this one alone: with all that were revoked it took three times as long.
            _end_revoked(list(self._admission.clients), lambda token: token.token_id == message.token_id)

    async def reload(self) -> None:
        """Reads which tokens are revoked, which Valkey stores for longer than the messages that revoked them. Raises StoreError."""
        await self._revocations.load()
        there = self._admission.clients
        clients = list(there) if self._revocations else []
        for start in range(0, len(clients), LOOKED_AT_ONCE):
            _end_revoked((client for client in clients[start : start + LOOKED_AT_ONCE] if client in there), self._revocations.covers)
            await asyncio.sleep(0)

    async def start_over(self) -> None:
        """Has each client connect again, and so get what its token and the rules give it: the orders that were missed are not for connections made later."""
        await send_away(self._admission, self._drain_seconds)

    def take_commands(self, session: str, commands: bytes) -> bool:
        return self._admission.take_commands(session, commands)

    def _apply(self, client: Client, message: AnyMessage) -> None:
        if isinstance(message, Subscribing):
            since = None if message.epoch is None else Position(message.epoch, message.offset)
            granted = ServerSubscription(_given(message.info), _given(message.data), message.override, message.expire_at)
            client.add(message.channel, granted, since)
        elif isinstance(message, Unsubscribing):
            client.remove(message.channel)
        elif isinstance(message, Disconnection):
            if client.client not in message.whitelist:
                client.close(Disconnect(message.code, "by the server API", reason=message.reason))
        elif isinstance(message, Refreshing):
            if message.expired or 0 < message.expire_at <= time.time():
                client.close(Disconnect(3005, "by the server API"))
            else:
                info = _given(message.info) or client.identity.info
                client.renew(client.identity._replace(expires_at=message.expire_at, info=info))

    async def answer(self, question: Question) -> bytes:
        if question.what == "info":
            return encode(self.info())
        further = self.answers.get(question.what)
        return await self._views.answer(question) if further is None else further(question.pattern)

    def info(self) -> dict[str, object]:
        """A node of the server API's ``info``."""
        return {
            "uid": self._process,
            "name": self.name,
            "version": __version__,
            "num_clients": len(self._admission.clients),
            "num_users": len(self._admission.users),
            "num_channels": self._hub.channel_count,
            "num_subs": self._hub.subscriptions,
            "uptime": int(time.monotonic() - self._started),
            "process": {"cpu": time.process_time(), "rss": resident_bytes()},
        }


def _end_revoked(clients: Iterable[Client], revoked: Callable[[Identity | Grant], bool]) -> None:
    for client in clients:
        if client.client and revoked(client.identity):
            client.close(Disconnect(3500, "its token was revoked"))
        else:
            client.end_revoked(revoked)


def _given(raw: msgspec.Raw) -> bytes | None:
    """The JSON; None for null."""
    return None if bytes(raw) == b"null" else bytes(raw)
