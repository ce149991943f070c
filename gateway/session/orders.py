"""Steering: what a service asks of the clients of this process, wherever it asked. Each message comes to every process."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from .. import __version__
from ..control.bus import Disconnection, Message, Question, Refreshing, Revocation, Subscribing, Unsubscribing
from ..errors import Disconnect
from ..publication import Position
from ..rules.identity import ServerSubscription
from ..rules.json_text import encode
from .node import Client, Node

__all__ = ["Steering"]

log = logging.getLogger("gateway.control")


class Steering:
    """``obey`` takes what ``Control`` hears, ``answer`` what it is asked; ``recall`` is for what it may have missed."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def obey(self, message: Message) -> None:
        if isinstance(message, Revocation):
            self._node.revoked.add(message.user, message.token_id, message.before, message.until)
            self._end_revoked()
            return
        for client in list(self._meant(message)):
            self._apply(client, message)

    async def recall(self) -> None:
        """Valkey forgets messages before it forgets what was revoked. Raises StoreError."""
        await self._node.revoked.load()
        self._end_revoked()

    def _end_revoked(self) -> None:
        covers = self._node.revoked.covers
        for client in list(self._node.clients):
            if client.client and covers(client.identity):
                client.close(Disconnect(3500, "its token was revoked"))
            else:
                client.end_revoked(covers)

    def _meant(self, message: Message) -> Iterable[Client]:
        """Those of the user, or the one that is named; of both, the one if it is the user's."""
        theirs = self._node.users.get(message.user, ()) if message.user else self._node.clients
        if message.session:
            emulated = self._node.emulated.get(message.session)
            theirs = [emulated.client] if emulated is not None and emulated.client in theirs else []
        if message.user or message.client or message.session:
            return [client for client in theirs if client.client and message.client in ("", client.client)]
        return []

    def _apply(self, client: Client, message: Message) -> None:
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
            if message.expired:
                client.close(Disconnect(3005, "by the server API"))
            else:
                info = _given(message.info) or client.identity.info
                client.renew(client.identity._replace(expires_at=message.expire_at, info=info))

    def answer(self, question: Question) -> bytes:
        if question.what == "channels":
            return encode(
                {name: count for name, count in self._node.hub.subscribers().items() if fnmatchcase(name, question.pattern or "*")}
            )
        if question.what == "info":
            return encode(self._info())
        return b"null"

    def _info(self) -> dict[str, object]:
        node = self._node
        statistics = node.hub.statistics()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "uid": node.uid,
            "name": f"{os.uname().nodename}_{node.config.port}",
            "version": __version__,
            "num_clients": len(node.clients),
            "num_users": len(node.users),
            "num_channels": statistics["channels"],
            "num_subs": statistics["subscriptions"],
            "uptime": int(time.monotonic() - node.started),
            "process": {"cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)},
        }


def _given(raw: msgspec.Raw) -> bytes | None:
    return None if bytes(raw) == b"null" else bytes(raw)
