"""Slots whose commands wait, since their shard has just refused one: the slot is elsewhere, moves, or is nowhere.

The order of a slot's commands is what a channel's order rests on. So from the first refusal on nothing of the slot is sent: what was
written already is answered first; then the oldest command is sent alone, to wherever the slot is, until it is answered; only then
do the others follow. ``ASK`` is answered one by one, until the slot has arrived.

What was written already may be carried out, where the cause of the refusal is over in between. Then an older one of the same channel that was
refused fails, as where there is one server (``command_queue``).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from ..errors import Unavailable
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks
from .command import Command, counters_of
from .command_queue import OVERTAKEN
from .connection import ServerCommands
from .topology import NodeAddress, redirected_to

__all__ = ["HeldSlots", "Routes"]

PAUSE_SECONDS = 0.02  # before the second attempt; it doubles up to PAUSE_MOST
PAUSE_MOST = 0.5
MOVED = "MOVED"  # instead of an answer: the table of slots says so


class Routes(Protocol):
    """What the held slots need of the cluster."""

    def owner(self, slot: int) -> ServerCommands | None: ...

    def moved(self, slot: int, node: NodeAddress) -> ServerCommands: ...

    def server(self, node: NodeAddress) -> ServerCommands: ...

    def look_again(self) -> None: ...


class _Held:
    """One slot and its commands, the oldest first. ``attempt`` is the one that was sent alone, ``answer`` its refusal, None if it was answered."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.attempt: Command | None = None
        self.answer: asyncio.Future[str | None] | None = None
        self._commands: list[tuple[int, Command]] = []  # a heap

    def add(self, commands: Iterable[Command]) -> None:
        for command in commands:
            heapq.heappush(self._commands, (command.number, command))

    def oldest(self) -> Command | None:
        """The oldest that somebody still waits for."""
        while self._commands:
            if not (command := self._commands[0][1]).future.done():
                return command
            heapq.heappop(self._commands)
        return None

    def take_all(self) -> list[Command]:
        commands = [command for _, command in sorted(self._commands)]
        self._commands.clear()
        return commands

    def fail_overtaken(self, by: Command) -> None:
        """Those that are older than a guarded command, which was carried out, and of its channel."""
        oldest = self.oldest()
        if oldest is None or oldest.number >= by.number:
            return
        counters = set(counters_of(by.text))
        for number, command in self._commands:
            is_older = number < by.number and command.guarded and command is not self.attempt and not command.future.done()
            if is_older and not counters.isdisjoint(counters_of(command.text)):
                command.future.set_exception(Unavailable(OVERTAKEN))

    def answered(self, refusal: str) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(refusal)


class HeldSlots:
    """All held slots of one cluster's commands. ``patience`` is for how many seconds a command may wait."""

    def __init__(self, routes: Routes, patience: float) -> None:
        self._routes = routes
        self._patience = patience
        self._held: dict[int, _Held] = {}
        self._tasks = Tasks()

    def takes(self, command: Command) -> bool:
        """Takes a command if its slot is held: a new one, or one that a closed connection gives back."""
        if not self._held or (held := self._held.get(command.slot)) is None:
            return False
        if held.attempt is command:
            held.answered(MOVED)
        else:
            held.add([command])
        return True

    def hold_unowned(self, command: Command) -> None:
        """Holds the slot of a command that no shard is known for."""
        self._hold(command.slot, None).add([command])

    def hold_moved(self, server: ServerCommands, slots: Iterable[int]) -> None:
        """Holds slots that another shard has now; ``server`` has commands of them."""
        settled: asyncio.Task[None] | None = None
        for slot in slots:
            if (held := self._held.get(slot)) is None:
                settled = settled or self._tasks.spawn(server.settle())
                self._hold(slot, server, settled)
            elif held.attempt is not None and server.withdraw(lambda each, slot=slot: each != slot):  # type: ignore[misc]
                held.answered(MOVED)

    def refused(self, server: ServerCommands, command: Command, refusal: str) -> None:
        """``server`` has not carried the command out."""
        held = self._held.get(command.slot)
        if held is not None and held.attempt is command:
            held.answered(refusal)
            return
        if held is None:
            held = self._hold(command.slot, server, self._tasks.spawn(server.settle()))
        held.add([command])

    def carried_out(self, command: Command) -> None:
        """A shard has carried out this guarded command, or perhaps has."""
        if self._held and (held := self._held.get(command.slot)) is not None:
            held.fail_overtaken(command)

    def _hold(self, slot: int, server: ServerCommands | None, settled: Awaitable[None] | None = None) -> _Held:
        held = self._held[slot] = _Held(slot)
        if server is not None:
            held.add(server.withdraw(lambda each: each != slot))
        self._tasks.spawn(self._mend(held, server, settled))
        return held

    async def close(self) -> None:
        await self._tasks.cancel()
        for held in self._held.values():
            for command in held.take_all():
                if not command.future.done():
                    command.future.set_exception(Unavailable("the connection was closed"))
        self._held.clear()

    async def _mend(self, held: _Held, server: ServerCommands | None, settled: Awaitable[None] | None) -> None:
        """Sends the oldest until it is answered, then all others."""
        if server is not None and settled is not None:
            await settled
            held.add(server.withdraw(lambda each: each != held.slot))
        refusals = 0
        while (command := held.oldest()) is not None:
            if self._is_over(command):
                continue
            refusal, at_owner = await self._attempt(held, command)
            if refusal is None:
                refusals = 0
                if at_owner:
                    break
                continue
            refusals += 1
            if refusals > 1 or not refusal.startswith(MOVED):
                await asyncio.sleep(backoff(refusals, PAUSE_SECONDS, PAUSE_MOST))
        del self._held[held.slot]
        self._release(held)

    def _release(self, held: _Held) -> None:
        owner = self._routes.owner(held.slot)
        for command in held.take_all():
            if command.future.done():
                continue
            if owner is not None:
                owner.take(command)
            elif not self.takes(command):
                self.hold_unowned(command)

    def _is_over(self, command: Command) -> bool:
        """Ends the waiting of a command whose patience is over."""
        if asyncio.get_running_loop().time() - command.called < self._patience:
            return False
        command.future.set_exception(Unavailable(f"no shard of the cluster took the command for {self._patience:g} s"))
        return True

    async def _attempt(self, held: _Held, command: Command) -> tuple[str | None, bool]:
        """Sends one command to where its slot is. Returns why it was refused, None if it was not; and whether the slot's owner answered."""
        owner = self._routes.owner(held.slot)
        if owner is None:
            self._routes.look_again()
            return "CLUSTERDOWN", False
        refusal = await self._answer(held, command, owner)
        if refusal is None:
            return None, _was_carried_out(command)
        kind, node = refusal.partition(" ")[0], redirected_to(refusal, owner.address.host_and_port)
        if kind == "ASK" and node is not None:
            return await self._answer(held, command, self._routes.server(node), asking=True), False
        if kind == "MOVED" and node is not None:
            self._routes.moved(held.slot, node)
        elif kind != "TRYAGAIN":
            self._routes.look_again()
        return refusal, False

    async def _answer(self, held: _Held, command: Command, server: ServerCommands, *, asking: bool = False) -> str | None:
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def ended(_: asyncio.Future[Any]) -> None:  # of this attempt alone: by then the next command may be under way
            if not answer.done():
                answer.set_result(None)

        held.attempt, held.answer = command, answer
        command.future.add_done_callback(ended)
        server.take(command, asking=asking)
        try:
            return await answer
        finally:
            held.attempt = held.answer = None


def _was_carried_out(command: Command) -> bool:
    """Whether Valkey answered it, with a result or an error of the command itself."""
    future = command.future
    return future.done() and not future.cancelled() and not isinstance(future.exception(), Unavailable)
