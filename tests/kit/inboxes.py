"""Inboxes: one as Valkey has it, and a model in plain Python of what it has to hold.

Box       a user's inbox on a real Valkey, asked as clients ask, and looked at past every gateway
Model     the whole history of an inbox, and which ids are unread
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from gateway.config import Config
from gateway.live.inbox import Inbox
from gateway.publication import Position
from gateway.rules.notifications import channel_of
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout, publish_words
from gateway.store.library import Library, Rules

from .valkeys import OwnValkey
from .waiting import until

__all__ = ["NOT_A_NOTIFICATION", "SIZE", "Box", "Model", "marks", "opened_box"]

NOT_A_NOTIFICATION = 'a notification is a JSON object with an "id", a text of 1 to 200 bytes'
SIZE = 6  # of a history that is trimmed


class Box:
    """``announced`` are the states that were announced so far, oldest first; ``own`` is the Valkey it is in."""

    def __init__(self, own: OwnValkey, prefix: str, user: str, history: History) -> None:
        self.own = own
        self.user = user
        self.channel = channel_of(user)
        self.history = history
        self.keys = [key.decode() for key in Layout(prefix).inbox_keys(self.channel)]
        self.meta, self.stream, _, self.unread_key, self.inbox_key = self.keys
        self.announced: list[dict[str, Any]] = []
        self._inbox = Inbox(Config(), history)
        self._pubsub = own.client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(Layout(prefix).channel(self.channel))

    def close(self) -> None:
        self._pubsub.close()

    async def notify(self, id: str, *, text: str = "", **options: Any) -> Position:
        data = {"id": id} | ({"text": text} if text else {})
        position = await self.history.notify(self.channel, publish_words(json.dumps(data), **options))
        assert position is not None
        return position

    async def plain(self, **options: Any) -> None:
        await self.history.publish(self.channel, publish_words(b'{"id":"plain"}', **options))

    async def read(self, **request: Any) -> dict[str, Any]:
        return json.loads(await self._inbox.read(self.user, json.dumps(request).encode()))

    async def list(self, **request: Any) -> dict[str, Any]:
        return json.loads(await self._inbox.list(self.user, json.dumps(request).encode()))

    async def pages(self, limit: int) -> list[dict[str, Any]]:
        """All notifications, page by page."""
        listed: list[dict[str, Any]] = []
        before: str | None = None
        while True:
            page = await self.list(limit=limit, before=before)
            assert len(page["notifications"]) <= limit
            listed += page["notifications"]
            assert page["next"] != before or before is None, "the same page again"
            before = page["next"]
            if before is None:
                return listed

    async def marks(self) -> dict[str, bool]:
        """Whether each is unread, newest first."""
        return marks(await self.list())

    async def state(self) -> tuple[int, int]:
        state = await self.list(limit=0)
        return state["unread"], state["change"]

    async def announcements(self, count: int) -> list[dict[str, Any]]:
        """Everything that was announced, once there are so many states among it."""

        def receive() -> bool:
            while message := self._pubsub.get_message():
                if message["data"].startswith(b"{"):
                    self.announced.append(json.loads(message["data"])["inbox"])
            return len(self.announced) >= count

        await until(receive, f"{count} announcements", 5)
        return self.announced

    def unread(self) -> dict[str, int]:
        """What Valkey counts: id → offset."""
        return {id.decode(): int(score) for id, score in self.own.client.zrange(self.unread_key, 0, -1, withscores=True)}

    def notify_words(self, id: str, *options: Any) -> tuple[Any, ...]:
        return ("FCALL", "gateway_notify", 5, *self.keys, json.dumps({"id": id}), *options)

    def read_words(self, *ids: str) -> tuple[Any, ...]:
        return ("FCALL", "gateway_read", 5, *self.keys, "", "", *ids)


def marks(listed: dict[str, Any]) -> dict[str, bool]:
    return {each["id"]: each["unread"] for each in listed["notifications"]}


@contextlib.asynccontextmanager
async def opened_box(own: OwnValkey, prefix: str, user: str, rules: Rules | None = None) -> AsyncIterator[Box]:
    """With the rules of the gateways, or with those given."""
    library = Library(rules, prefix)
    commands = make_commands(Address(own.url), functions=library)
    await commands.start()
    if rules is not None:
        await library.install(commands)
    box = Box(own, prefix, user, History(commands, Layout(prefix)))
    try:
        yield box
    finally:
        box.close()
        await commands.close()


class Model:
    """Each operation returns whether it made a change that is announced to devices."""

    def __init__(self) -> None:
        self.top = 0
        self.history: list[tuple[int, str | None]] = []  # offset, id; a plain publication has none
        self.unread: set[str] = set()

    def notify(self, id: str, size: int = 0) -> bool:
        self._append(id)
        self.unread.add(id)
        self.trim(size)
        return True

    def plain(self, size: int = 0) -> bool:
        self._append(None)
        return self.trim(size)

    def _append(self, id: str | None) -> None:
        self.top += 1
        self.history.append((self.top, id))

    def trim(self, size: int) -> bool:
        return self._keep(self.history[-size:])

    def remove(self) -> bool:
        return self._keep([])

    def _keep(self, history: list[tuple[int, str | None]]) -> bool:
        self.history = history
        return self._unread(self.unread & {id for _, id in history if id})

    def read(self, ids: list[str] | None = None, upto: int | None = None) -> bool:
        chosen = {id for id in self.unread if (ids is None or id in ids) and (upto is None or self.newest(id) <= upto)}
        return self._unread(self.unread - chosen)

    def _unread(self, now: set[str]) -> bool:
        before, self.unread = self.unread, now
        return now != before

    def newest(self, id: str) -> int:
        return max(offset for offset, name in self.history if name == id)

    def listed(self) -> list[tuple[str, int, bool]]:
        """id, offset, unread: newest first, each once."""
        newest = {id: offset for offset, id in self.history if id is not None}
        return [(id, offset, id in self.unread) for id, offset in sorted(newest.items(), key=lambda each: -each[1])]
