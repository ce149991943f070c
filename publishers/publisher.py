"""Publishing from Python, with and without asyncio.

    async with Publisher("valkey://localhost") as publisher:
        position = await publisher.publish("posts:tech", {"title": "…"}, idempotency_key="post-17")

    with SyncPublisher() as publisher:                   # no URL: the embedded server of a running `gateway serve`
        publisher.publish("posts:tech", {"title": "…"})

An acknowledged publish is in the stream and announced. If the connection breaks before the acknowledgement, whether it
happened is not known: with an idempotency key or a version the publisher repeats it, which is safe, for up to ``patience``
seconds (10, and 2 without asyncio); without one it raises ``Unavailable``, and the caller decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, Unpack, overload
from uuid import uuid4

from gateway.errors import StoreError, Unavailable
from gateway.publication import Position, channel_fault
from gateway.rules.json_values import raw_json_of
from gateway.runtime import tracing
from gateway.store.access import Commands, make_commands
from gateway.store.connect import Address
from gateway.store.embedded import find_url
from gateway.store.history import History
from gateway.store.index import ChannelIndex
from gateway.store.layout import Layout, PublishOptions, Word, publish_words, read_epoch
from gateway.store.library import Library
from gateway.store.plain_connection import PlainConnection

from .checks import check_options, document_of, notification_json

__all__ = ["PublishOptions", "Publisher", "SyncPublisher"]


PATIENCE = 10.0  # seconds for which a publish is repeated
SYNC_PATIENCE = 2.0  # the same without asyncio, where a thread waits, with the web request that it serves


class _Call(NamedTuple):
    """One publish: what its function in Valkey is given, and whether a second call with the same words is harmless."""

    channel: str
    words: list[Word]
    repeatable: bool
    inbox: bool = False


def _publication(channel: str, data: Any, raw: bool, options: PublishOptions, trace: bool) -> _Call:
    """Checks what would only fail in Valkey, or later. Raises TypeError or ValueError with a sentence that names the mistake."""
    if not isinstance(channel, str):
        raise TypeError(f"the channel is a text, not {channel!r}")
    fault = channel_fault(channel)
    if fault:
        raise ValueError(fault)
    if trace:
        options = {**options, "tags": _traced(options.get("tags"))}
    words = publish_words(raw_json_of(data) if raw else document_of(data), **options)
    check_options(**options)
    return _Call(channel, words, options.get("idempotency_key") is not None or options.get("version") is not None)


def _traced(tags: Mapping[str, str] | bytes | None) -> Mapping[str, str] | bytes | None:
    """The tags with the ``traceparent`` of the caller's span, where there is one; tags that are no mapping, such as JSON text, stay as they are."""
    tracing.find()
    traceparent = tracing.traceparent()
    return {"traceparent": traceparent, **(tags or {})} if traceparent and isinstance(tags, Mapping | None) else tags


def _notification(user: str, notification: Mapping[str, Any], key: str | None, trace: bool) -> _Call:
    """The publish into the user's inbox; without a key it gets a random one, so that it can be repeated. Raises as ``_publication``."""
    channel, data = notification_json(user, notification)
    check_options(idempotency_key=key)
    words = publish_words(data, idempotency_key=key or uuid4().hex, tags=_traced(None) if trace else None)
    return _Call(channel, words, repeatable=True, inbox=True)


class Publisher:
    """Publishes over one pipelined connection; any number of ``publish`` may wait at once, and arrive in order.

    Without ``url`` it takes GATEWAY_VALKEY_URL of the environment, else it finds the embedded server of the gateway that runs on
    ``data_dir`` (default: GATEWAY_DATA_DIR, else the user's). The rules of the channels are those of the gateways that use the same Valkey, under the same ``prefix``,
    which is no matter of the environment. ``patience`` is for how many seconds a publish waits for
    a Valkey that is away; 10 are enough for a failover of Sentinels with ``down-after-milliseconds 5000``, since nothing else waits with it.
    ``trace``: each publication has the tag ``traceparent``, that of the OpenTelemetry span in which it is published, where there is one.
    """

    def __init__(
        self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = PATIENCE, trace: bool = False
    ) -> None:
        self._given_url = url
        self._trace = trace
        self._data_dir = data_dir
        self._layout = Layout(prefix)
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the connection belongs
        self._history: History | None = None
        self._commands: Commands | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects once; afterwards the connection comes back by itself. Raises Unavailable if Valkey cannot be reached, RuntimeError if it
        is connected in another event loop."""
        if self._is_connected():
            return
        library = Library(None, self._layout.prefix)
        address = Address(find_url(self._given_url, self._data_dir))
        commands = make_commands(address, patience=self._patience, functions=library)
        await commands.start()
        if self._is_connected():  # by another task meanwhile
            await commands.close()
            return
        self._loop, self._commands, self._history = asyncio.get_running_loop(), commands, History(commands, self._layout)

    async def close(self) -> None:
        """Closes the connection, unless it went with its event loop; every publish that still waits raises Unavailable."""
        commands, self._commands, self._history = self._commands, None, None
        if commands is not None and not self._lost_loop:
            await commands.close()

    def _is_connected(self) -> bool:
        """Raises RuntimeError where it is connected in another event loop."""
        if self._commands is None or self._lost_loop:
            return False
        self._check_loop()
        return True

    @property
    def _lost_loop(self) -> bool:
        return self._loop is not None and self._loop.is_closed()

    def _check_loop(self) -> None:
        """Raises RuntimeError where the connection belongs to another event loop: a publication would be made, and its reply never read."""
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "a Publisher is used in the event loop that it connected in; give each loop one of its own, or use SyncPublisher"
            )

    @property
    def history(self) -> History:
        """The channels' histories, to read and to remove. Raises RuntimeError before ``connect``, and after ``close``.

        ``await history.read(channel, since, limit)`` returns a page: ``top`` is the channel's position, and ``publications`` are those after
        the offset ``since``, ``limit`` at most, each with ``offset``, ``ms`` and ``data``, which is JSON as bytes. ``limit`` 0, the default,
        reads the position alone, -1 all there is; a page ends at about 256 KiB. ``await history.remove(channel)`` removes the history of
        a channel, whose offsets go on.
        """
        if self._history is None:
            raise RuntimeError("the publisher is not connected: use `async with Publisher(…) as publisher:`")
        return self._history

    @overload
    async def publish(
        self, channel: str, data: Any, *, raw: Literal[False] = False, **options: Unpack[PublishOptions]
    ) -> Position | None: ...
    @overload
    async def publish(self, channel: str, data: str | bytes, *, raw: bool, **options: Unpack[PublishOptions]) -> Position | None: ...
    async def publish(self, channel: str, data: Any, *, raw: bool = False, **options: Unpack[PublishOptions]) -> Position | None:
        """Publishes one document; ``raw``: ``data`` is JSON text already. Returns its position, None if the channel remembers nothing.

        The options are ``idempotency_key``, ``version``, ``version_epoch``, ``size``, ``ttl``, ``tags`` and ``info``. A
        repeated ``idempotency_key`` returns the first position; a ``version`` that is not newer is dropped. ``size`` and
        ``ttl`` (seconds, 0: announce only) override the channel's rules. ``PublishOptions`` describes each.

        Raises ValueError for an impossible channel, NaN, or raw data that is not JSON; TypeError for an unknown option, one of the
        wrong type, or data that JSON does not have; StoreError if Valkey refuses; Unavailable if it cannot be reached; RuntimeError where it
        is not connected, or in another event loop.
        """
        return await self._publish(_publication(channel, data, raw, options, self._trace))

    async def notify(self, user: str, notification: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position | None:
        """Publishes into the inbox of ``user``. ``notification["id"]``, a text, names it: the same id again is an update,
        which takes its place and counts once as unread.

        It is repeated over a broken connection. Raises TypeError or ValueError for a user or a notification that cannot be; else as ``publish``.
        """
        return await self._publish(_notification(user, notification, idempotency_key, self._trace))

    @overload
    async def publish_many(self, channel: str, documents: Iterable[Any], *, raw: Literal[False] = False) -> list[Position | None]: ...
    @overload
    async def publish_many(self, channel: str, documents: Iterable[str | bytes], *, raw: bool) -> list[Position | None]: ...
    async def publish_many(self, channel: str, documents: Iterable[Any], *, raw: bool = False) -> list[Position | None]:
        """Publishes documents in order, pipelined. Raises the first failure; documents after the failed one may be published."""
        return list(await asyncio.gather(*[self.publish(channel, document, raw=raw) for document in documents]))

    async def publish_ephemeral(self, channel: str, data: Any) -> None:
        """Announces a document to those who are live now: no offset, no history."""
        await self.publish(channel, data, ttl=0)

    async def _publish(self, call: _Call) -> Position | None:
        publish = self.history.notify if call.inbox else self.history.publish
        self._check_loop()
        return await publish(call.channel, call.words, repeatable=call.repeatable)


class SyncPublisher:
    """The same without asyncio: for Django, Flask, scripts. Safe to share between threads.

    It looks for its server and connects when it is first used, so that a module may make one while no server runs. ``trace`` is as in ``Publisher``.

    ``patience`` is for how many seconds a call waits at most, also for a Valkey that does not answer. It is short, since a thread waits, and the web
    request with it. A failover lasts longer: ``down-after-milliseconds`` of the Sentinels, or ``cluster-node-timeout``, and one or two seconds. Where a
    thread may wait for one, give ``patience=10`` and an idempotency key; where it may not, the outbox publishes afterwards.
    """

    def __init__(
        self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", patience: float = SYNC_PATIENCE, trace: bool = False
    ) -> None:
        self._trace = trace
        self._layout = Layout(prefix)
        self._index = ChannelIndex(self._layout)
        self._connection = PlainConnection(url, self._layout.prefix, data_dir, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a call that is made afterwards opens new ones."""
        self._connection.close()

    @overload
    def publish(self, channel: str, data: Any, *, raw: Literal[False] = False, **options: Unpack[PublishOptions]) -> Position | None: ...
    @overload
    def publish(self, channel: str, data: str | bytes, *, raw: bool, **options: Unpack[PublishOptions]) -> Position | None: ...
    def publish(self, channel: str, data: Any, *, raw: bool = False, **options: Unpack[PublishOptions]) -> Position | None:
        """As ``Publisher.publish``."""
        return self._publish(_publication(channel, data, raw, options, self._trace))

    def notify(self, user: str, notification: Mapping[str, Any], *, idempotency_key: str | None = None) -> Position | None:
        """As ``Publisher.notify``."""
        return self._publish(_notification(user, notification, idempotency_key, self._trace))

    def publish_ephemeral(self, channel: str, data: Any) -> None:
        """As ``Publisher.publish_ephemeral``."""
        self.publish(channel, data, ttl=0)

    def _publish(self, call: _Call) -> Position | None:
        attempt = partial(self._attempt, call)
        if not call.repeatable:
            return attempt()
        return self._connection.repeated(attempt)

    def _attempt(self, call: _Call) -> Position | None:
        keys = self._layout.inbox_keys(call.channel) if call.inbox else self._layout.keys(call.channel)
        function = b"gateway_notify" if call.inbox else b"gateway_publish"
        self._write_index(call.channel)
        offset, epoch = self._connection.call(b"FCALL", function, len(keys), *keys, *call.words)
        if offset == 1:
            self._index.began(call.channel)
            with contextlib.suppress(Unavailable):  # it is published; the next publication tries again
                self._write_index(call.channel)
        return Position(read_epoch(epoch, call.channel), offset) if offset else None

    def _has_index(self, channel: str) -> bool:
        """Asked in a cluster, in the channel's own shard: that of an index which is not there holds nobody up."""
        if not self._connection.commands.sharded or self._index.is_known(channel):
            return True
        has = bool(self._connection.call(b"FCALL", b"gateway_has_index", 1, self._layout.channel(channel)))
        self._index.asked(channel, has)
        return has

    def _write_index(self, channel: str) -> None:
        """Writes the channel's name into its namespace's index, where this process has not yet done so."""
        if (command := self._index.command(channel)) and self._has_index(channel):
            try:
                self._index.answered(channel, self._connection.call(*command))
            except Unavailable:
                if not self._connection.commands.sharded:
                    raise
                self._index.unreachable(channel)  # another shard has it: this channel's publications go on, and a later one writes the name
            except StoreError as error:  # as where another program wrote to its key: the publication is not the worse for it
                self._layout.faults.found("index", channel, error)
