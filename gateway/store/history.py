"""The functions of the library as methods: publish, read, remove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from ..errors import StoreError, Unavailable
from ..publication import MAX_OFFSET, Position, Publication
from ..rules.protocol import BEGINNING
from ..rules.recovery import same_life
from .access import Commands
from .command import Waiter
from .index import ChannelIndex
from .layout import Layout, pack_publish, read_entry, read_epoch

__all__ = ["PAGE_BYTES", "History", "Page"]

PAGE_BYTES = 256 * 1024  # of one read; a page may pass it by one publication
LOOK_SECONDS = 0.05  # until it is noticed that the index's shard is away
INDEX_SECONDS = 1.0  # that a publication on a cluster waits until its channel's name is in the index


class Page(NamedTuple):
    """Part of a channel's history, and the channel's newest position at that moment (``ms``: its time, 0 if unknown).

    ``expires`` is when history forgets these publications if none is added to them, on the loop's clock: not later, perhaps as
    much earlier as the read took.
    """

    top: Position
    ms: int
    publications: list[Publication]
    expires: float = float("inf")


class _Converted:
    """A waiter whose own waiter gets what ``convert`` makes of the answer, or the StoreError that it raises."""

    __slots__ = ("_convert", "_waiter", "done", "set_exception")

    def __init__(self, waiter: Waiter, convert: Callable[[Any], Any]) -> None:
        self._waiter = waiter
        self._convert = convert
        self.done = waiter.done
        self.set_exception = waiter.set_exception

    def set_result(self, result: Any, /) -> None:
        try:
            found = self._convert(result)
        except StoreError as error:
            self.set_exception(error)
        else:
            self._waiter.set_result(found)


def _separate(answer: Any) -> Any:
    """The answer of gateway_publish_all or gateway_publish_each, in which the errors are texts."""
    if not isinstance(answer, list):
        return answer
    return [StoreError(each.decode(errors="replace")) if isinstance(each, bytes) else each for each in answer]


def _position(channel: str, answer: Sequence[Any]) -> Page:
    """The answer of gateway_history to a read of the position alone."""
    epoch, offset, ms, *_ = answer
    return Page(Position(read_epoch(epoch, channel), offset), ms, [])


class History:
    """The channels' histories in Valkey, over one connection, which loads the library again where Valkey lost it.

    Every method raises StoreError, or Unavailable where Valkey cannot be reached.
    """

    def __init__(self, commands: Commands, layout: Layout) -> None:
        self.commands = commands
        self.layout = layout
        self._index = ChannelIndex(layout)
        self._indexing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while calls of the channel hold or await it

    async def publish(self, channel: str, words: Sequence[Any], *, repeatable: bool = False) -> Position | None:
        """Publishes ``publish_words(…)`` and returns the publication's position; None where the channel has no history.

        Calls are carried out in their order. ``repeatable``: the words have a key or a version, so that the call is sent again
        where its connection broke before the reply.
        """
        return await self._publish(channel, words, repeatable, inbox=False)

    async def notify(self, channel: str, words: Sequence[Any], *, repeatable: bool = False) -> Position | None:
        """``publish`` in an inbox: the publication has an id, and counts as unread until it is read."""
        return await self._publish(channel, words, repeatable, inbox=True)

    async def _publish(self, channel: str, words: Sequence[Any], repeatable: bool, *, inbox: bool) -> Position | None:
        await self.write_index_first(channel)
        answer = await self.commands.call(*self._publishing(channel, words, inbox), repeatable=repeatable, guarded=True)
        return self.published(channel, answer)

    def begins_at_once(self, channel: str) -> bool:
        """Whether ``begin_publish`` is allowed on a cluster, where the index is in another slot: only once the name is in it, or need not be."""
        return channel not in self._indexing and self._index.command(channel) is None

    def begin_publish(self, waiter: Waiter, channel: str, words: Sequence[Any], *, inbox: bool = False) -> None:
        """``publish`` without waiting: the answer that ``waiter`` gets is what ``published`` takes."""
        self._write_index(channel)
        if inbox:
            self.commands.begin_for(waiter, *self._publishing(channel, words, inbox), guarded=True)
        else:
            key = self.layout.channel(channel)
            self.commands.begin_packed(waiter, key, pack_publish(key, words, self.commands.guard_words))

    def begin_publish_all(self, waiter: Waiter, channel: str, publications: Sequence[Sequence[Any]]) -> None:
        """``begin_publish`` of several, one after another, for less of Valkey's time. None has a size or ttl of its own.

        The answer is a list: of each publication what ``published`` takes, or a StoreError of that one alone.
        """
        self._write_index(channel)
        words = (word for each in publications for word in (len(each), *each))
        self.commands.begin_for(
            _Converted(waiter, _separate), b"FCALL", b"gateway_publish_all", 3, *self.layout.keys(channel), *words, guarded=True
        )

    def begin_publish_each(self, waiter: Waiter, publications: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """``begin_publish_all`` to several channels, (channel, words) each, where one server has them all."""
        for channel, _ in publications:
            self._write_index(channel)
        keys = [key for channel, _ in publications for key in self.layout.keys(channel)]
        words = [word for _, each in publications for word in (len(each), *each)]
        self.commands.begin_for(_Converted(waiter, _separate), b"FCALL", b"gateway_publish_each", len(keys), *keys, *words, guarded=True)

    def _publishing(self, channel: str, words: Sequence[Any], inbox: bool) -> tuple[Any, ...]:
        """The command that publishes the words."""
        if inbox:
            return (b"FCALL", b"gateway_notify", 5, *self.layout.inbox_keys(channel), *words)
        return (b"FCALL", b"gateway_publish", 3, *self.layout.keys(channel), *words)

    def published(self, channel: str, answer: Sequence[Any]) -> Position | None:
        """The position of a publication, from the answer of its function; None where the channel has no history."""
        offset, epoch = answer
        if offset == 1:
            self._index.began(channel)
            self._write_index(channel)
        return Position(read_epoch(epoch, channel), offset) if offset else None

    async def relay(self, channel: str, version_epoch: str, rows: Sequence[tuple[int, str]], *, notify: bool) -> None:
        """Publishes (version, data) in order, as one act; versions that are not newer than the channel's were published before."""
        await self.write_index_first(channel, again=True)
        keys = self.layout.inbox_keys(channel) if notify else self.layout.keys(channel)
        await self.call(b"gateway_relay", keys, version_epoch, *(word for row in rows for word in row))

    async def restore(self, channel: str, version_epoch: str, version: int, entries: Sequence[tuple[int, str]]) -> Position:
        """Begins the channel's history anew, with ``entries``, (unix ms, data) each; ``version`` is that of the last one."""
        await self.write_index_first(channel, again=True)
        words = (word for entry in entries for word in entry)
        offset, epoch = await self.call(b"gateway_restore", self.layout.keys(channel), version_epoch, version, *words)
        return Position(read_epoch(epoch, channel), offset)

    async def read(
        self,
        channel: str,
        since: int = 0,
        limit: int = 0,
        *,
        reverse: bool = False,
        seen: tuple[Position, int] | None = None,
        max_bytes: int = PAGE_BYTES,
    ) -> Page:
        """The publications after offset ``since`` (``reverse``: those before it, newest first; 0 is the top), up to ``limit``.

        It is for those who follow the channel: where nobody published yet, it begins the channel's first epoch. ``limit`` 0 reads
        the position alone, -1 all there is; a page ends at about ``max_bytes``. ``seen`` is the newest publication that this
        process knows, as position and unix ms: if Valkey came back without it, the answer has a new epoch.
        """
        self._write_index(channel)
        (epoch, offset), ms = seen if seen is not None else (BEGINNING, 0)
        words = [min(since, MAX_OFFSET), min(limit, MAX_OFFSET), max_bytes, b"1" if reverse else b"", epoch, offset, ms, b"left"]
        return await self._page(b"gateway_history", channel, words)

    def begin_position(self, waiter: Waiter, channel: str) -> None:
        """``read`` of the position alone, without waiting: ``waiter`` gets the page, or a StoreError that is reported by the next ``read``."""
        self._write_index(channel)
        keys = self.layout.keys(channel)
        self.commands.begin_for(_Converted(waiter, partial(_position, channel)), b"FCALL", b"gateway_history", 3, *keys, 0, 0, PAGE_BYTES)

    async def _page(self, function: bytes, channel: str, words: Sequence[Any]) -> Page:
        asked, faults = asyncio.get_running_loop().time(), self.layout.faults
        try:
            epoch, offset, ms, entries, left = await self.call(function, self.layout.keys(channel), *words)
        except StoreError as error:
            if not error.is_general:  # as where a key is of another type
                faults.found("history", channel, error)
            raise
        expires = asked + left / 1000 if left >= 0 else float("inf")
        publications = [read_entry(entry, faults, channel) for entry in entries]
        # gateway_page has no epoch of a channel that nobody published to or follows.
        return Page(Position(read_epoch(epoch, channel) if epoch else "", offset), ms, publications, expires)

    async def after(
        self, channel: str, position: Position, limit: int, *, reverse: bool = False, max_bytes: int = PAGE_BYTES, begins: bool = False
    ) -> Page:
        """``read`` after a position. Raises UnrecoverablePosition if the position's epoch is not the channel's.

        It writes nothing: the epoch of a channel that nobody published to or follows is "". ``begins``: there it begins the first epoch.
        """
        if begins:
            page = await self.read(channel, position.offset, limit, reverse=reverse, max_bytes=max_bytes)
        else:
            page = await self._page(b"gateway_page", channel, [position.offset, limit, max_bytes, b"1" if reverse else b""])
        same_life(position, page.top.epoch)
        return page

    async def back(self, channel: str, count: int) -> Position:
        """The position ``count`` publications before the top, or the one before the oldest that history holds."""
        page = await self.after(channel, BEGINNING, 1)
        oldest = page.publications[0].offset if page.publications else page.top.offset + 1
        return Position(page.top.epoch, max(page.top.offset - count, oldest - 1))

    async def remove(self, channel: str) -> Position:
        """Empties the history and announces that; the position that is returned stays the top."""
        offset, epoch = await self.call(b"gateway_remove", self.layout.keys(channel))
        return Position(read_epoch(epoch, channel), offset)

    def _write_index(self, channel: str) -> asyncio.Future[int] | None:
        """Writes the channel's name into its namespace's index, where this process has not yet done so. On one server that is carried out
        before what is called next."""
        if (command := self._index.command(channel)) is None:
            return None
        written = self.commands.begin(*command, repeatable=True)
        written.add_done_callback(partial(self._on_index, channel))
        return written

    async def write_index_first(self, channel: str, *, again: bool = False) -> None:
        """``_write_index``, so that what the caller calls next is carried out after it. ``again``: also where this process has written the name,
        since the answer to the call does not show whether the history began anew.

        On a cluster, where the index is in another slot and nothing orders the two, it returns when the name is written. The channel's other
        calls wait for their turn. An index whose shard is away holds nothing up, and a namespace without an index waits for no other shard.
        """
        if again:
            self._index.began(channel)
        if not self.commands.sharded:
            self._write_index(channel)
            return
        lock = self._indexing.get(channel)
        if lock is None:
            if self._index.command(channel) is None:
                return
            lock = self._indexing[channel] = asyncio.Lock()
        async with lock:
            if not await self._has_index(channel):
                return
            if (written := self._write_index(channel)) is not None:
                until = asyncio.get_running_loop().time() + INDEX_SECONDS
                while not written.done() and self._reaches_index(channel) and asyncio.get_running_loop().time() < until:
                    await asyncio.wait((written,), timeout=LOOK_SECONDS)
                if not written.done():
                    self._index.unreachable(channel)

    async def _has_index(self, channel: str) -> bool:
        if self._index.is_known(channel):
            return True
        has = await self.commands.call(b"FCALL", b"gateway_has_index", 1, self.layout.channel(channel), repeatable=True)
        self._index.asked(channel, bool(has))
        return bool(has)

    def _reaches_index(self, channel: str) -> bool:
        shard = self.commands.shard(self.layout.index(channel.partition(":")[0]))
        return shard is not None and shard.connected

    def _on_index(self, channel: str, written: asyncio.Future[int]) -> None:
        if written.cancelled():
            return
        if (error := written.exception()) is None:
            self._index.answered(channel, written.result())
        elif not isinstance(error, Unavailable):  # the next publication tries again
            self.layout.faults.found("index", channel, error)

    async def call(self, function: bytes, keys: Sequence[bytes], *words: Any) -> Any:
        """Calls a function of the library."""
        return await self.commands.call(b"FCALL", function, len(keys), *keys, *words)
