"""The commands of one server that are not answered yet, in their order, and how long they may wait.

    called ──▶ waiting ──written──▶ written ──answered──▶ (gone)
                  ▲                   │
                  └──released── refused: not carried out, or lost with the connection and to be repeated

All that is ``refused`` is older than what is ``written``, which is older than what is ``waiting``. But for ``alone``, the oldest of all.

What was written when Valkey refused a command may be carried out, where the cause is over in between. A guarded command to the same channel that was
refused is *overtaken* then: it fails, since it would be carried out after a newer one. So it does where the answer to the newer one is lost. Jobs are told apart by numbers of their producers, and wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..errors import Unavailable
from .command import Command, counters_of

__all__ = ["OVERTAKEN", "CommandQueue"]

STEP_SECONDS = 0.02  # commands whose patience is over within it fail together
OVERTAKEN = (
    "Valkey refused it for the moment, and has carried out a newer one of its channel, as far as is known: it is not sent again, which would be "
    "out of order"
)


class CommandQueue:
    """``patience``: seconds that a command may wait while nothing is written; ``reason`` is why it then fails, in words.

    ``held``: nothing is written, but for urgent commands, which pass the queue, and for ``alone``, which shows whether Valkey carries out more.
    """

    def __init__(self, patience: float, reason: str) -> None:
        self.held = True
        self.waiting: deque[Command] = deque()
        self.written: deque[Command] = deque()
        self.refused: deque[Command] = deque()
        self.alone: Command | None = None
        self._refused_at: dict[bytes, list[Command]] = {}  # the guarded ones, by the counter of their channel
        self._overtaken: set[Command] = set()
        self._patience = patience
        self._reason = reason
        self._impatience: asyncio.TimerHandle | None = None

    def take_parts(self, now: float, guard: bytes) -> list[bytes]:
        """The texts of all that waits, which is written ``now``; ``guard`` ends each guarded command."""
        parts, written = [], self.written
        for command in self.waiting:
            if not command.waiter.done():  # else its caller was cancelled
                command.written = now
                written.append(command)
                parts.append(command.text)
                if command.guarded:
                    parts.append(guard)
        self.waiting.clear()
        return parts

    def withdraw(self, stays: Callable[[int], bool]) -> list[Command]:
        """Takes back what was not written, or has to be written again, of slots that do not stay; the oldest first."""
        taken: list[Command] = []
        for some in (self.refused, self.waiting):
            kept: list[Command] = []
            for command in some:
                (kept if command.slot < 0 or stays(command.slot) else taken).append(command)
            some.clear()
            some.extend(kept)
        return taken

    def slots(self) -> set[int]:
        """The slots of all commands that are here."""
        return {command.slot for some in (self.refused, self.waiting, self.written) for command in some if command.slot >= 0}

    def refuse(self, command: Command) -> None:
        """Valkey answered the command and has not carried it out: nothing is written before ``release``."""
        self._take_back(command)
        if command.guarded:
            for key in counters_of(command.text):
                self._refused_at.setdefault(key, []).append(command)
        self.held = True
        self.watch_patience()

    def _take_back(self, command: Command) -> None:
        (self.refused.appendleft if command is self.alone else self.refused.append)(command)

    def carried_out(self, command: Command) -> None:
        """Valkey has carried out this guarded command, or perhaps has, though it refused others."""
        if command is not self.alone:
            for key in counters_of(command.text):
                self._overtaken.update(self._refused_at.pop(key, ()))

    def take_alone(self, now: float) -> Command | None:
        """The oldest of those that were refused, which is written ``now``; None if nobody waits for any."""
        self._fail_overtaken()
        while self.refused:
            command = self.refused.popleft()
            if not command.waiter.done():
                command.written, self.alone = now, command
                self.written.append(command)
                return command
        return None

    def release(self) -> None:
        """Writing goes on, with the oldest."""
        self._fail_overtaken()
        self.waiting.extendleft(reversed(self.refused))
        self.refused.clear()
        self._refused_at.clear()
        self.held, self.alone = False, None

    def _fail_overtaken(self) -> None:
        if not self._overtaken:
            return
        overtaken, self._overtaken = self._overtaken, set()
        refused, self.refused = self.refused, deque[Command]()
        for command in refused:
            if command not in overtaken:
                self.refused.append(command)
            elif not command.waiter.done():
                command.waiter.set_exception(Unavailable(OVERTAKEN))

    def lose(self, reason: str) -> None:
        """The connection is lost: of the commands that were written, those that may be repeated wait for the next one."""
        self.held = True
        for command in self.written:
            if command.repeatable:
                self._take_back(command)
            elif not command.waiter.done():
                command.waiter.set_exception(Unavailable(reason))
        self.written.clear()
        self.alone = None
        self.watch_patience()

    def watch_patience(self) -> None:
        """Call it when something may wait that cannot be written."""
        if self._impatience is None and (self.refused or self.waiting):
            oldest = (self.refused or self.waiting)[0]
            loop = asyncio.get_running_loop()
            self._impatience = loop.call_at(max(oldest.called + self._patience, loop.time() + STEP_SECONDS), self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        if self.held:
            self.fail(asyncio.get_running_loop().time() - self._patience, self._reason)
            self.watch_patience()

    def fail(self, called_by: float, reason: str) -> None:
        """Ends the waiting of those that were called no later than ``called_by``; they are the oldest."""
        for some in (self.refused, self.waiting):
            while some and some[0].called <= called_by:
                command = some.popleft()
                if not command.waiter.done():
                    command.waiter.set_exception(Unavailable(reason))
