"""Publishing from Python, with and without asyncio.

    async with Publisher("valkey://localhost") as publisher:
        position = await publisher.publish("posts:tech", {"title": "…"}, idempotency_key="post-17")

    with SyncPublisher() as publisher:                   # no URL: the embedded server of a running `gateway serve`
        publisher.publish("posts:tech", {"title": "…"})

An acknowledged publish is in the stream and announced. If the connection breaks before the acknowledgement, whether it
happened is not known: with an idempotency key or a version it is repeated, which is safe, for up to ``patience``
seconds; without one it raises ``Unavailable``, and the caller decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec
from valkey.exceptions import ConnectionError, ResponseError, TimeoutError, ValkeyError

from gateway.errors import BadRequest, StoreError, Unavailable
from gateway.publication import Position, channel_fault
from gateway.rules.json_text import is_json
from gateway.rules.notifications import channel_of, notification_id
from gateway.runtime.backoff import backoff
from gateway.store.connect import Address
from gateway.store.connection import Commands
from gateway.store.embedded import find_url
from gateway.store.history import History
from gateway.store.layout import Layout, publish_words
from gateway.store.library import Library

__all__ = ["Publisher", "SyncPublisher"]

PATIENCE = 10.0


def _words(
    channel: str,
    data: Any,
    *,
    raw: bool,
    idempotency_key: str | None,
    version: int | None,
    version_epoch: str | None,
    size: int | None,
    ttl: int | None,
    tags: Mapping[str, str] | None,
    info: Mapping[str, Any] | None,
) -> list[Any]:
    """Checks what would only fail in Valkey, or later. Raises ValueError, TypeError for data that is not JSON."""
    fault = channel_fault(channel)
    if fault:
        raise ValueError(fault)
    return publish_words(
        data if raw else msgspec.json.encode(data),
        idempotency_key=idempotency_key,
        version=version,
        version_epoch=version_epoch,
        size=size,
        ttl=ttl,
        tags=None if tags is None else msgspec.json.encode(tags),
        info=None if info is None else msgspec.json.encode(info),
    )


def _notify_words(user: str, notification: Mapping[str, Any], key: str | None) -> tuple[str, list[Any]]:
    """The inbox and what gateway_notify is given; a random key where there is none, so that it can be repeated."""
    channel, data = channel_of(user), msgspec.json.encode(notification)
    if not is_json(data):
        raise ValueError("the notification is nested too deep")
    try:
        notification_id(data)
    except BadRequest as error:
        raise ValueError(error.hint) from None
    return channel, publish_words(data, idempotency_key=key or uuid4().hex)


class Publisher:
    """Publishes over one pipelined connection; any number of ``publish`` may wait at once, and arrive in order.

    Without ``url`` it finds the embedded server of the gateway that runs on ``data_dir`` (default: the user's). The rules
    of the channels are those of the gateways that use the same Valkey.
    """

    def __init__(self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = PATIENCE) -> None:
        self._given_url = url
        self._data_dir = data_dir
        self._layout = Layout(prefix)
        self._patience = patience
        self._queues: dict[str, _Queue] = {}
        self._history: History | None = None
        self._commands: Commands | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Raises Unavailable if Valkey cannot be reached."""
        self._commands = Commands(Address(find_url(self._given_url, self._data_dir)), patience=self._patience)
        await self._commands.start()
        self._history = History(self._commands, Library(None, self._layout.prefix), self._layout)

    async def close(self) -> None:
        if self._commands is not None:
            await self._commands.close()

    @property
    def history(self) -> History:
        """The channels' history, to read and to remove."""
        if self._history is None:
            raise RuntimeError("the publisher is not connected: use `async with Publisher(…) as publisher:`")
        return self._history

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        raw: bool = False,
        idempotency_key: str | None = None,
        version: int | None = None,
        version_epoch: str | None = None,
        size: int | None = None,
        ttl: int | None = None,
        tags: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Position | None:
        """Publishes one document; ``raw``: ``data`` is JSON text already. Returns its position, None if the channel remembers nothing.

        A repeated ``idempotency_key`` returns the first position; a ``version`` that is not newer is dropped. ``size`` and
        ``ttl`` (seconds, 0: announce only) override the channel's rules.
        Raises ValueError for an impossible channel, StoreError if Valkey refuses, Unavailable if it cannot be reached.
        """
        words = _words(
            channel,
            data,
            raw=raw,
            idempotency_key=idempotency_key,
            version=version,
            version_epoch=version_epoch,
            size=size,
            ttl=ttl,
            tags=tags,
            info=info,
        )
        repeatable = idempotency_key is not None or version is not None
        return await self._in_order(self.history.publish, channel, words, repeatable)

    async def notify(self, user: str, notification: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position | None:
        """Publishes into the inbox of ``user``. ``notification["id"]``, a text, names it: the same id again is an update,
        which takes its place and counts once as unread.

        It is repeated over a broken connection. Raises ValueError for a user or a notification that cannot be; else as ``publish``.
        """
        channel, words = _notify_words(user, notification, idempotency_key)
        return await self._in_order(self.history.notify, channel, words, True)

    async def _in_order(self, publish: _Publish, channel: str, words: list[Any], repeatable: bool) -> Position | None:
        queue = self._queues.setdefault(channel, _Queue())
        try:
            with queue.place() as place:
                if queue.broken:
                    await queue.turn(place)
                return await self._publish(publish, channel, words, repeatable, queue, place)
        finally:
            if queue.empty:
                self._queues.pop(channel, None)

    async def _publish(
        self, publish: _Publish, channel: str, words: list[Any], repeatable: bool, queue: _Queue, place: object
    ) -> Position | None:
        loop = asyncio.get_running_loop()
        deadline, attempt = loop.time() + self._patience, 0
        while True:
            try:
                return await publish(channel, words)
            except Unavailable:
                attempt += 1
                pause = backoff(attempt, 0.05, 1.0)
                if not repeatable or loop.time() + pause > deadline:
                    raise
                # What was under way together is repeated one by one, in its order, before anything newer.
                queue.broken = True
                await asyncio.sleep(pause)
                await queue.turn(place)

    async def publish_many(self, channel: str, documents: Iterable[Any], *, raw: bool = False) -> list[Position | None]:
        """Publishes documents in order, pipelined; raises the first failure, behind which later ones may have happened."""
        return list(await asyncio.gather(*[self.publish(channel, document, raw=raw) for document in documents]))

    async def publish_ephemeral(self, channel: str, data: Any) -> None:
        """Announces a document to whoever is live now: no offset, no history."""
        await self.publish(channel, data, ttl=0)


_Publish = Callable[[str, list[Any]], Awaitable[Position | None]]


class _Queue:
    """The publishes of one channel that are under way, oldest first. ``broken``: a connection was lost under them."""

    def __init__(self) -> None:
        self._places: dict[object, None] = {}
        self._moved = asyncio.Event()
        self.broken = False

    @property
    def empty(self) -> bool:
        return not self._places

    @contextmanager
    def place(self) -> Iterator[object]:
        place = object()
        self._places[place] = None
        try:
            yield place
        finally:
            del self._places[place]
            self.broken = self.broken and bool(self._places)
            if self.broken:
                self._moved.set()

    async def turn(self, place: object) -> None:
        """Returns when ``place`` is the oldest."""
        while next(iter(self._places)) is not place:
            self._moved.clear()
            await self._moved.wait()


class SyncPublisher:
    """The same without asyncio: for Django, Flask, scripts. Safe to share between threads."""

    def __init__(self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = PATIENCE) -> None:
        self._layout = Layout(prefix)
        self._library = Library(None, self._layout.prefix)
        self._patience = patience
        self._client = Address(find_url(url, data_dir)).sync_client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def publish(
        self,
        channel: str,
        data: Any,
        *,
        raw: bool = False,
        idempotency_key: str | None = None,
        version: int | None = None,
        version_epoch: str | None = None,
        size: int | None = None,
        ttl: int | None = None,
        tags: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Position | None:
        """As ``Publisher.publish``."""
        words = _words(
            channel,
            data,
            raw=raw,
            idempotency_key=idempotency_key,
            version=version,
            version_epoch=version_epoch,
            size=size,
            ttl=ttl,
            tags=tags,
            info=info,
        )
        repeatable = idempotency_key is not None or version is not None
        return self._publish(b"gateway_publish", self._layout.keys(channel), words, repeatable)

    def notify(self, user: str, notification: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position | None:
        """As ``Publisher.notify``."""
        channel, words = _notify_words(user, notification, idempotency_key)
        return self._publish(b"gateway_notify", self._layout.inbox_keys(channel), words, True)

    def _publish(self, function: bytes, keys: Sequence[bytes], words: list[Any], repeatable: bool) -> Position | None:
        deadline, attempt = time.monotonic() + self._patience, 0
        while True:
            try:
                offset, epoch = self._call(function, keys, *words)
                return Position(epoch.decode(), offset) if offset else None
            except Unavailable:
                attempt += 1
                pause = backoff(attempt, 0.05, 1.0)
                if not repeatable or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)

    def publish_ephemeral(self, channel: str, data: Any) -> None:
        self.publish(channel, data, ttl=0)

    def _call(self, function: bytes, keys: Sequence[bytes], *words: Any) -> Any:
        command = (b"FCALL", function, len(keys), *keys, *words)
        try:
            return self._execute(*command)
        except StoreError as error:
            if "Function not found" not in str(error):
                raise
        _finish(self._library.restore(self._execute_at_once))
        return self._execute(*command)

    async def _execute_at_once(self, *words: Any) -> Any:
        return self._execute(*words)

    def _execute(self, *words: Any) -> Any:
        try:
            return self._client.execute_command(*words)
        except ResponseError as error:
            raise StoreError(str(error)) from None
        except (ConnectionError, TimeoutError, OSError) as error:
            raise Unavailable(f"no Valkey: {error}") from None
        except ValkeyError as error:
            raise StoreError(str(error)) from None


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that waits for nothing: it needs no loop, and there may be one already."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("the coroutine waits for something")
