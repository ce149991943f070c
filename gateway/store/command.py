"""One command on its way to Valkey: its text, what gets its answer, and how replies are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import libvalkey

from ..errors import StoreError

__all__ = ["Command", "Replies", "Waiter", "asking_command", "make_command"]

_ASKING = libvalkey.pack_command((b"ASKING",))


class Replies(asyncio.Protocol):
    """Reads replies with libvalkey. ``on_replies`` gets all that one read of the socket brought, ``on_lost`` is called when it is closed."""

    def __init__(self, on_replies: Callable[[list[Any]], None], on_lost: Callable[[], None]) -> None:
        self._on_replies = on_replies
        self._on_lost = on_lost
        self._reader = libvalkey.Reader(replyError=StoreError)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        replies: list[Any] = []
        append, gets = replies.append, reader.gets
        while (reply := gets()) is not False:
            append(reply)
        if replies:
            self._on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()


class Waiter(Protocol):
    """What gets the answer to a command: a future, or an object that is called at once, for which no callback has to be scheduled.

    One of the two ``set_…`` is called, once. Neither may raise: other replies are read after it.
    """

    def done(self) -> bool:
        """Whether the answer is not wanted any more: a command that was not sent yet is not sent then."""
        ...

    def set_result(self, result: Any, /) -> object: ...

    def set_exception(self, exception: StoreError, /) -> object:
        """The error may come before the call that began the command returns."""


class Command:
    """One command on its way. ``words`` are kept of a guarded one alone, whose text changes with the generation.

    ``slot`` is the hash slot of its keys in a cluster; -1 for one without keys, and where there is one server. ``number`` counts a
    cluster's commands in the order in which they were called.
    """

    __slots__ = ("called", "generation", "number", "repeatable", "slot", "text", "urgent", "waiter", "words", "written")

    def __init__(self, text: bytes, waiter: Waiter, now: float, *, repeatable: bool = False, urgent: bool = False) -> None:
        self.text = text
        self.waiter = waiter
        self.called = self.written = now
        self.repeatable = repeatable
        self.slot = -1
        self.number = 0
        self.urgent = urgent  # it passed the queue, to mend what the others wait for
        self.words: tuple[Any, ...] | None = None
        self.generation: bytes | None = None

    @property
    def future(self) -> asyncio.Future[Any]:
        """The waiter of a command that was made for a future."""
        assert isinstance(self.waiter, asyncio.Future)
        return self.waiter

    def guard(self, generation: bytes) -> None:
        if self.words is not None and self.generation != generation:
            self.generation = generation
            self.text = libvalkey.pack_command((*self.words, b"generation", generation))


def make_command(words: tuple[Any, ...], generation: bytes | None, *, repeatable: bool, waiter: Waiter | None = None) -> Command:
    """``generation`` is the one that the command is guarded by, as far as it is known yet, b"" if it is not; None: it is not guarded.
    Without a ``waiter`` it is made for a future."""
    loop = asyncio.get_running_loop()
    command = Command(b"", loop.create_future() if waiter is None else waiter, loop.time(), repeatable=repeatable)
    if generation is None:
        command.text = libvalkey.pack_command(words)
    else:
        command.words = words
        command.guard(generation)  # packed once, as long as the generation stays
    return command


def asking_command() -> Command:
    """Goes before a command whose slot is on the way to the server that gets it. Nobody waits for its answer."""
    loop = asyncio.get_running_loop()
    command = Command(_ASKING, loop.create_future(), loop.time())
    command.future.add_done_callback(lambda future: future.cancelled() or future.exception())
    return command
