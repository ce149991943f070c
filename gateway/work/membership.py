"""An instance of a group of readers: its lease, which the others are, and which channels it takes and gives back."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Protocol

from ..errors import StoreError
from ..runtime.failure_log import FailureLog
from ..store.untrusted import Faults
from ..store.valkey_clock import SetForward
from .reader_calls import ReaderCalls
from .sharing import Shares

__all__ = ["Channels", "Membership"]

log = logging.getLogger("gateway.reader")

TAKEN_AT_ONCE = 200  # channels in one pipeline
NEW = "new"  # among the members that a beat answers: this instance had no lease
_MEMBER = re.compile(r"[0-9a-f]{12}\.[0-9a-f]{8}").fullmatch  # INSTANCE.DIGEST


class Channels(Protocol):
    """The reader's channels."""

    def followed(self) -> Collection[str]:
        """All that the group reads."""
        ...

    def held(self) -> Collection[str]:
        """Those that this instance reads, in a copy."""
        ...

    def on_taken(self, channel: str, owner: str) -> None:
        """This instance reads the channel from now on, as ``owner``."""

    def on_moved(self, channel: str) -> None:
        """The channel is another instance's: it is to be given back. Called again until that is done."""

    def on_announced(self, channel: str) -> None:
        """Something that concerns this channel of the group was announced: the group was moved to another position, for instance."""


class Membership:
    """``run`` until cancelled, then ``end``. It is a listener of the link, on the channel of the group's changes.

    Instances that follow different channels, as while a new list is rolled out, share only with those of their own ``digest``. A channel
    stays with whoever has it until that one gives it back or is gone, so each is read whatever the others follow. ``lease`` is in seconds.
    """

    def __init__(self, calls: ReaderCalls, channels: Channels, digest: str, lease: float, faults: Faults, *, evenly: bool) -> None:
        self.instance = secrets.token_hex(6)
        self._member = f"{self.instance}.{digest}"
        self._digest = digest
        self._calls = calls
        self._channels = channels
        self._lease = lease
        self._faults = faults
        self._shares = Shares(self._member, evenly=evenly)
        self._numbers = count(1)
        self._woken = asyncio.Event()
        self._free: list[str] = []  # given back, and not announced yet
        self._renewed = self._trusted = float("-inf")
        self._clock = SetForward(lease / 2)
        self._alive: set[str] = set()  # at the last beat
        self._awaited: set[str] = set()  # members whose leases Valkey has lost, and which are not back
        self._share: set[str] = set()  # what was wanted last while none was awaited

    def wake(self) -> None:
        """Something changed: looks at the channels anew."""
        self._woken.set()

    def announce_free(self, *channels: str) -> None:
        """Announces channels that have no owner any more, or another position."""
        self._free += channels
        self._woken.set()

    async def run(self) -> None:
        """Renews the lease, and takes and gives back channels. Runs until cancelled."""
        renewing, failures = asyncio.create_task(self._renew()), FailureLog(log)
        try:
            while True:
                self._woken.clear()
                try:
                    await self._look()
                except StoreError as error:
                    failures.failed("the lease of this reader was not renewed: %s; trying again", error)
                else:
                    failures.worked()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease / 4):
                        await self._woken.wait()
        finally:
            renewing.cancel()

    async def _renew(self) -> None:
        """Renews the lease while a look takes longer than that, as where 500,000 channels are to be taken: others would take them from it."""
        while True:
            await asyncio.sleep(self._lease / 4)
            if asyncio.get_running_loop().time() - self._renewed >= self._lease / 4:
                with suppress(StoreError):  # the next look logs it
                    await self._beat()

    async def end(self, free: Sequence[str]) -> None:
        """Ends the lease at once, and announces the channels that were given back. Raises StoreError."""
        await self._calls.beat(self._member, 0, *free)

    def on_subscribed(self) -> None:
        self._woken.set()

    def on_payloads(self, payloads: list[bytes]) -> None:
        self._woken.set()
        for payload in payloads:
            for name in payload.decode(errors="replace").split("\n"):
                self._channels.on_announced(name)

    async def _look(self) -> None:
        alive, are_awaited = await self._beat()
        sharing = [each for each in alive if each.endswith(self._digest)]
        # Of a namespace's 100,000 channels this takes a second, in which the application and the link go on.
        wanted = await asyncio.to_thread(self._shares.mine, set(self._channels.followed()), sharing)
        if are_awaited:  # they know how far their channels were read, where Valkey has lost that, too
            wanted &= self._share
        else:
            self._share = wanted
        held = set(self._channels.held())
        for some in _chunks(sorted(held - wanted), TAKEN_AT_ONCE):
            for channel in some:
                self._channels.on_moved(channel)
            await asyncio.sleep(0)
        abandoned: dict[str, str] = {}
        for some in _chunks(sorted(wanted.difference(held)), TAKEN_AT_ONCE):
            abandoned |= await self._take(dict.fromkeys(some, ""))
        instances = _instances(alive)
        if any(holder.partition("/")[0] not in instances for holder in abandoned.values()):
            instances = _instances((await self._beat())[0])  # one that joined after the first look has taken none before
        mine_or_gone = {channel: holder for channel, holder in abandoned.items() if self._may_take_from(holder, instances)}
        await self._take(mine_or_gone)

    def _may_take_from(self, holder: str, instances: set[str]) -> bool:
        instance = holder.partition("/")[0]
        return instance == self.instance or (instance not in instances and asyncio.get_running_loop().time() > self._trusted)

    async def _beat(self) -> tuple[set[str], bool]:
        """The members that are alive, and whether others are awaited."""
        free, self._free = self._free, []
        try:
            members = await self._calls.beat(self._member, int(self._lease * 1000), *free)
        except StoreError:
            self._free = free + self._free  # the next beat announces them: the owner of a moved channel learns of it in no other way
            raise
        alive, loop = {member for member in members if _MEMBER(member)}, asyncio.get_running_loop()
        if loop.time() > self._trusted:
            self._awaited = set()
        if NEW in members and self._renewed > 0:
            self._awaited, self._trusted = self._awaited | self._alive, loop.time() + self._lease
        self._awaited -= alive
        self._alive, are_awaited = alive, bool(self._awaited)  # another beat may find them back meanwhile
        valkey, now = await self._calls.time(), loop.time()
        if self._clock.is_noticed(valkey, now) or (self._renewed > 0 and now - self._renewed > self._lease / 2):
            self._trusted = now + self._lease  # Valkey was away, or its clock was set: the others' leases may seem to be over as well
        self._renewed = now
        return alive, are_awaited

    async def _take(self, holders: dict[str, str]) -> dict[str, str]:
        """Takes these channels, from their holders if they have any. Returns the holders of those that others have."""
        owners = {channel: f"{self.instance}/{next(self._numbers)}" for channel in holders}
        calls = (self._calls.take(channel, owners[channel], holder) for channel, holder in holders.items())
        refused: dict[str, str] = {}
        for channel, answer in zip(holders, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if answer == "":
                self._channels.on_taken(channel, owners[channel])
            elif isinstance(answer, str):
                refused[channel] = answer
            elif isinstance(answer, StoreError) and not answer.is_general:
                self._faults.found("reader", channel, answer)  # as where a key is of another type
            else:
                raise answer
        return refused


def _instances(members: set[str]) -> set[str]:
    return {member.partition(".")[0] for member in members}


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
