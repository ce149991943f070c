"""What is published in a run, each document until it is acknowledged; each publisher numbers its documents 0, 1, 2 … in its channel.

direct        ``Publisher``, with idempotency keys
over_http     ``POST /api/publish`` of one gateway after another, with idempotency keys
by_outbox     transactions of a database, which the relays publish
notifications into the inboxes of users; some are marked as read over HTTP
jobs          ``Queue``, with keys
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import StoreError
from gateway.publication import Position
from gateway.work import Queue
from publishers.database import Database
from publishers.publisher import Publisher

from ..kit.clients import LOST, Socket
from ..kit.gateways import API_KEY
from .history import History
from .programs import QUEUE
from .stage import PREFIX, Stage

__all__ = ["API", "DIRECT", "OUTBOX", "Producers"]

DIRECT, API, OUTBOX = "direct:rig", "api:rig", "posts:rig"
FILL_BYTES = 100
PATIENCE_SECONDS = 4.0
REQUEST_SECONDS = 3.0
AGAIN_SECONDS = 0.1
FAILURES = (StoreError, SQLAlchemyError, *LOST)


class Refused(Exception):
    """A gateway answered with an error."""


class Producers:
    """All that is published. ``pace`` is the mean of the seconds between two documents of a channel."""

    def __init__(self, stage: Stage, history: History, users: Sequence[str], chance: Random, *, pace: float) -> None:
        self.pace = pace
        self._fills = [FILL_BYTES]
        self.stopping = False
        self.newest: dict[str, int] = {}  # the number of the newest acknowledged document, by channel
        self._stage = stage
        self._history = history
        self._users = users
        self._chance = chance
        self._turn = itertools.count()

    @contextlib.contextmanager
    def filled(self, size: int) -> Iterator[None]:
        """In this block documents have at least so many bytes."""
        self._fills.append(size)
        yield
        self._fills.remove(size)

    async def run(self) -> None:
        """Until ``stopping``, and then until what was begun is acknowledged."""
        url = self._stage.topology.url
        options: dict[str, Any] = {"prefix": PREFIX, "patience": PATIENCE_SECONDS}
        async with (
            Publisher(url, **options) as publisher,
            Publisher(url, **options) as notifier,
            Queue(url, **options) as queue,
            Database(self._stage.database_url) as database,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._each(DIRECT, partial(self._direct, publisher)))
            group.create_task(self._each(API, self._over_http))
            group.create_task(self._each(OUTBOX, partial(self._by_outbox, database)))
            group.create_task(self._jobs(queue))
            for user in self._users:
                group.create_task(self._notifications(notifier, user))

    async def _until_done(self, attempt: Callable[[], Awaitable[Any]], **about: Any) -> Any:
        """Tries again and again: what is repeated has a key, or has failed as a whole."""
        while True:
            try:
                return await attempt()
            except (*FAILURES, Refused) as error:
                self._history.record("refused", why=f"{type(error).__name__}: {error}"[:160], **about)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _each(self, channel: str, publish: Callable[[int], Awaitable[Position | None]]) -> None:
        for n in itertools.count():
            if self.stopping:
                return
            position = await self._until_done(partial(publish, n), channel=channel, n=n)
            place = {"epoch": position.epoch, "offset": position.offset} if position is not None else {}
            self._history.record("published", channel=channel, n=n, **place)
            self.newest[channel] = n
            await asyncio.sleep(self.pace * self._chance.uniform(0.2, 1.8))

    def _document(self, n: int) -> dict[str, Any]:
        return {"n": n, "fill": "x" * max(self._fills)}

    async def _direct(self, publisher: Publisher, n: int) -> Position | None:
        return await publisher.publish(DIRECT, self._document(n), idempotency_key=f"direct {n}")

    async def _over_http(self, n: int) -> Position:
        request = {"channel": API, "data": self._document(n), "idempotency_key": f"api {n}"}
        result = json.loads(await self._post("/api/publish", request, {"X-API-Key": API_KEY}))["result"]
        return Position(result["epoch"], result["offset"])

    async def _post(self, path: str, request: Any, headers: dict[str, str]) -> bytes:
        """To one gateway after another. Raises Refused for an error in the answer."""
        gateways = self._stage.gateways
        gateway = gateways[next(self._turn) % len(gateways)].gateway
        async with asyncio.timeout(REQUEST_SECONDS), await Socket.open(gateway) as socket:
            status, _, body = await socket.request("POST", path, headers, json.dumps(request).encode())
        if status != 200 or b'"error"' in body:
            raise Refused(f"{status} {body[:120].decode(errors='replace')}")
        return body

    async def _by_outbox(self, database: Database, n: int) -> None:
        async with database.transaction() as transaction:
            transaction.publish(OUTBOX, self._document(n))

    async def _notifications(self, publisher: Publisher, user: str) -> None:
        channel = f"notifications:{user}"
        for n in itertools.count():
            if self.stopping:
                return
            id = f"{user} {n}"
            notify = partial(publisher.notify, user, {"id": id, "n": n}, idempotency_key=id)
            position = await self._until_done(notify, channel=channel, n=n)
            self._history.record("notified", user=user, id=id)
            self._history.record("published", channel=channel, n=n, epoch=position.epoch, offset=position.offset)
            self.newest[channel] = n
            if self._chance.random() < 0.3:
                await self._until_done(partial(self._mark_read, user, id), channel=channel, n=n)
                self._history.record("read", user=user, id=id)
            await asyncio.sleep(self.pace * 8 * self._chance.uniform(0.2, 1.8))

    async def _mark_read(self, user: str, id: str) -> None:
        token = self._stage.gateways[0].gateway.token(user)
        await self._post("/inbox/read", {"ids": [id]}, {"Authorization": f"Bearer {token}"})

    async def _jobs(self, queue: Queue) -> None:
        for n in itertools.count():
            if self.stopping:
                return
            key = f"job {n}"
            await self._until_done(partial(queue.enqueue, "effect", {"n": n}, queue=QUEUE, key=key), channel=QUEUE, n=n)
            self._history.record("enqueued", key=key)
            await asyncio.sleep(self.pace * 2 * self._chance.uniform(0.2, 1.8))
