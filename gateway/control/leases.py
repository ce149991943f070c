"""Leases: which gateway processes are alive.

Each process renews its lease in the sorted set ``gw:nodes`` every BEAT_SECONDS. The answer names the leases that are over. What
those processes left in Valkey is cleaned up, and only then is their lease removed, so that a clean-up that fails is tried again by
the next process that renews. Several processes may clean up after the same one at once. Where it lives after all, the missing lease has it
write all of its own anew.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ..errors import NotPermitted, StoreError, Unavailable
from ..rules.json_text import is_utf8
from ..runtime.tasks import Tasks
from ..store.history import History
from ..store.valkey_clock import SetForward, valkey_time

__all__ = ["LeaseListener", "Leases"]

log = logging.getLogger("gateway.control")

LEASE_MS = 7000
BEAT_SECONDS = 2.0
TRUST_SECONDS = 10.0  # after Valkey was away, or its clock was set: until then the others' leases look as if they were over


class LeaseListener(Protocol):
    """Owns what a process has in Valkey for as long as it lives."""

    async def write_anew(self) -> None:
        """Valkey does not know this process (any more): what it had there may be gone."""

    async def reconcile(self) -> None:
        """Another Valkey server answers, which may have forgotten what was written lately. Raises StoreError if that did not succeed."""

    async def clean_up(self, process: str) -> None:
        """That process is dead: removes what it had in Valkey. Raises StoreError if that did not succeed."""


class Leases:
    """The lease of ``process``, this gateway's id, and a view of all others', in the sorted set ``key``."""

    def __init__(self, history: History, process: str, listener: LeaseListener) -> None:
        self._history = history
        self._process = process
        self._listener = listener
        self.key = f"{history.layout.prefix}:nodes".encode()
        self._tasks = Tasks()
        self._reconciling: asyncio.Task[None] | None = None
        self._cleaning: set[str] = set()  # after these processes: it may take longer than a beat
        self._half_cleaned: set[str] = set()  # processes whose clean-up failed: some of what they had may be gone
        self._refused = False
        self._servers: set[str] = set()  # those that answered at the last beat, by their run ids

    async def count(self) -> int:
        """How many processes hold a lease. Raises StoreError."""
        return int(await self._history.commands.call(b"ZCARD", self.key))

    async def holders(self) -> set[str]:
        """The processes that hold a lease. Raises StoreError."""
        found = await self._history.commands.call(b"ZRANGE", self.key, 0, -1)
        return {process.decode() for process in found if is_utf8(process)}

    async def holds(self, process: str) -> bool:
        """Whether that process holds a lease. Raises StoreError."""
        return await self._history.commands.call(b"ZSCORE", self.key, process) is not None

    async def run(self) -> None:
        """Renews the lease, and notices whose is over. Runs until cancelled."""
        now = asyncio.get_running_loop().time
        renewed, trusted, clock = float("-inf"), now() + TRUST_SECONDS, SetForward(LEASE_MS / 2000)
        while True:
            try:
                unknown, *dead = await self._history.call(b"gateway_beat", [self.key], self._process, LEASE_MS)
                if unknown:
                    await self._listener.write_anew()
                # Asked after the leases were looked at: a clock that is set between the two is noticed in vain, and not too late.
                valkey = await valkey_time(self._history.commands, self.key)
            except StoreError as error:
                self._note_refusal(error)
            else:
                self._note_success()
                if clock.is_noticed(valkey, now()) or now() - renewed > LEASE_MS / 2000:
                    trusted = now() + TRUST_SECONDS
                renewed = now()
                self._reconcile()
                processes = [process.decode() for process in dead if is_utf8(process)]
                if now() >= trusted:
                    self._clean_up_after(processes)
                self._end_leases_of_revived(processes)
            await asyncio.sleep(BEAT_SECONDS)

    def _note_refusal(self, error: StoreError) -> None:
        """Logs once that Valkey takes no writes, as where it is out of memory or its disk is full: all commands that fail of it stay quiet.

        In a cluster the connection to each shard logs it of this shard. That the user lacks a right is logged where it is noticed.
        """
        is_logged = isinstance(error, (Unavailable, NotPermitted)) or (error.is_general and self._history.commands.sharded)
        is_new = not self._refused and not is_logged
        log.log(logging.WARNING if is_new else logging.DEBUG, "valkey refuses what gateways write: %s", error)
        self._refused = self._refused or is_new

    def _note_success(self) -> None:
        if self._refused:
            log.warning("valkey takes what gateways write again")
            self._refused = False

    def _reconcile(self) -> None:
        """A server has another run id after each start, so that one which came back, or took over, is known by it."""
        servers = {shard.server.run_id for shard in self._history.commands.shards if shard.server is not None}
        if not self._servers or not servers - self._servers:
            self._servers = servers or self._servers  # a server that takes over again is another one than the last
        elif self._reconciling is None or self._reconciling.done():
            # No beat waits for it: on a cluster it may need another shard, which is away for longer than the lease.
            self._reconciling = self._tasks.spawn(self._reconcile_with(servers))

    async def _reconcile_with(self, servers: set[str]) -> None:
        try:
            await self._listener.reconcile()
            self._servers = servers
        except StoreError as error:  # at the next beat again
            log.debug("what this process has in valkey was not reconciled: %s", error)

    def _clean_up_after(self, processes: list[str]) -> None:
        for process in processes:
            self._clean_up_once(process)

    def _end_leases_of_revived(self, dead: list[str]) -> None:
        """A process that was taken for dead by mistake does not know what was removed: one whose lease is gone writes all of its own anew."""
        for process in self._half_cleaned.difference(dead):
            self._clean_up_once(process, lives=True)

    def _clean_up_once(self, process: str, *, lives: bool = False) -> None:
        if process not in self._cleaning:
            self._cleaning.add(process)
            self._tasks.spawn(self._clean_up(process, lives=lives))

    async def _clean_up(self, process: str, *, lives: bool = False) -> None:
        """Removes what the process had, unless it ``lives``, and then its lease."""
        try:
            if not lives:
                await self._listener.clean_up(process)
            await self._history.commands.call(b"ZREM", self.key, process)
        except StoreError as error:
            self._half_cleaned.add(process)
            log.debug("process %s is dead, but not cleaned up yet: %s", process, error)
        else:
            self._half_cleaned.discard(process)
        finally:
            self._cleaning.discard(process)

    async def give_back(self, *, clean: bool) -> None:
        """This process ends. ``clean``: it left nothing in Valkey. Otherwise others clean up after it at their next beat: until then each of
        their surveys waits for its answer."""
        history = self._history
        try:
            async with asyncio.timeout(1):
                if clean:
                    await history.call(b"gateway_beat", [self.key], self._process, 0)
                else:
                    await history.commands.send(b"ZADD", self.key, b"XX", 0, self._process)
        except (StoreError, TimeoutError) as error:
            log.debug("the lease was not given back: %s", error)
