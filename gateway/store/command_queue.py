"""The commands of one server that are not answered yet, in their order, and how long they may wait.

    called ──▶ waiting ──written──▶ written ──answered──▶ (gone)
                  ▲                   │
                  └──released── refused: not carried out, or lost with the connection and to be repeated

All that is ``refused`` is older than what is ``written``, which is older than what is ``waiting``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..errors import Unavailable
from .command import Command

__all__ = ["CommandQueue"]

STEP_SECONDS = 0.02  # commands whose patience is over within it fail together


class CommandQueue:
    """``patience``: seconds that a command may wait while nothing is written; ``reason`` is why it then fails, in words.

    ``held``: nothing is written, but for urgent commands, which pass the queue.
    """

    def __init__(self, patience: float, reason: str) -> None:
        self.held = True
        self.waiting: deque[Command] = deque()
        self.written: deque[Command] = deque()
        self.refused: deque[Command] = deque()
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
        self.refused.append(command)
        self.held = True
        self.watch_patience()

    def release(self) -> None:
        """Writing goes on, with the oldest."""
        self.waiting.extendleft(reversed(self.refused))
        self.refused.clear()
        self.held = False

    def lose(self, reason: str) -> None:
        """The connection is lost: of the commands that were written, those that may be repeated wait for the next one."""
        self.held = True
        for command in self.written:
            if command.repeatable:
                self.refused.append(command)
            elif not command.waiter.done():
                command.waiter.set_exception(Unavailable(reason))
        self.written.clear()
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
