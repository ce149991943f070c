"""One command on its way to Valkey: its text, what gets its answer, and how replies are read.

A *guarded* command is a function call that ends with the generation of the function library that it needs. Those two words are written
after its text, since the generation may change while it waits; the number of words at the head of the text counts them already. Without
the guard, commands that are on their way while another program loads the library would be carried out before older ones that were refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import libvalkey
import msgspec

from ..errors import StoreError

__all__ = ["GUARD_WORDS", "Call", "Command", "Functions", "Replies", "Waiter", "asking_command", "counters_of", "guard_of", "make_command"]

GUARD_WORDS = 2
_ASKING = libvalkey.pack_command((b"ASKING",))


Call = Callable[..., Awaitable[Any]]


class Functions(Protocol):
    """The function library that commands call."""

    async def ready(self, call: Call, shared: Call | None = None) -> bytes:
        """Loads the functions where they are missing and returns their generation. Raises StoreError, Unavailable.

        ``call`` sends a command to the server that needs them; ``shared``, in a cluster, sends one to where its keys are.
        """
        ...


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


class Command(msgspec.Struct, eq=False):
    """One command on its way. ``text`` is what Valkey reads, without the guard's words; ``called`` and ``written`` are times of the loop.

    ``slot`` is the hash slot of its keys in a cluster; -1 for one without keys, and where there is one server. ``number`` counts a
    cluster's commands in the order in which they were called. ``urgent``: it passed the queue, to mend what the others wait for.
    """

    text: bytes
    waiter: Waiter
    called: float
    guarded: bool = False
    repeatable: bool = False
    urgent: bool = False
    slot: int = -1
    number: int = 0
    written: float = 0.0

    @property
    def future(self) -> asyncio.Future[Any]:
        """The waiter of a command that was made for a future."""
        assert isinstance(self.waiter, asyncio.Future)
        return self.waiter


def make_command(words: tuple[Any, ...], *, guarded: bool, repeatable: bool, waiter: Waiter | None = None) -> Command:
    """The command of these words. Without a ``waiter`` its answer goes to a future of its own."""
    loop = asyncio.get_running_loop()
    text = libvalkey.pack_command(words)
    if guarded:
        text = b"*%d%b" % (len(words) + GUARD_WORDS, text[text.index(b"\r") :])
    return Command(text, loop.create_future() if waiter is None else waiter, loop.time(), guarded=guarded, repeatable=repeatable)


def guard_of(generation: bytes) -> bytes:
    """What is written after a guarded command."""
    return b"$10\r\ngeneration\r\n$%d\r\n%b\r\n" % (len(generation), generation)


def counters_of(text: bytes) -> list[bytes]:
    """The keys of the counters of those channels that a function call, as Valkey reads it, writes to: of a queue none. No key holds a line break."""
    count = int(text.split(b"\r\n", 7)[6])
    keys = text.split(b"\r\n", 7 + 2 * count)[8 : 8 + 2 * count : 2]
    return [key for key in keys if key.endswith(b":meta")]


def asking_command() -> Command:
    """Goes before a command whose slot is on the way to the server that gets it. Nobody waits for its answer."""
    loop = asyncio.get_running_loop()
    command = Command(_ASKING, loop.create_future(), loop.time())
    command.future.add_done_callback(lambda future: future.cancelled() or future.exception())
    return command
