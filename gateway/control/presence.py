"""Presence: which clients follow a channel, on whatever process. Kept in Valkey, told by joins and leaves.

Who comes and goes is gathered for a moment and written channel by channel, so that a storm of clients is a few calls. What a
process wrote is listed in a set of its own, ``gw:present:{process}``, before it is written: should the process die, which its
lapsed lease tells (``Control.beat``), another one takes its clients out and announces their leaves. One lease a process, so
a heartbeat costs the same however many clients there are. A process that was given up by mistake writes all of its own anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from ..config import Config
from ..errors import StoreError, UnknownChannel
from ..rules.json_text import encode
from ..runtime.tasks import Tasks, keep_writing
from ..store.history import History
from .bus import Control

__all__ = ["Presence"]

log = logging.getLogger("gateway.presence")

AT_ONCE = 500  # clients of one call
GONE = b""
Changes = dict[str, dict[str, tuple[bytes, bool]]]  # channel → client → (ClientInfo or GONE, whether it is told)

Item = TypeVar("Item")


class _User(msgspec.Struct):
    user: str = ""


_user = msgspec.json.Decoder(_User)


class Presence:
    def __init__(self, config: Config, history: History, control: Control, process: str) -> None:
        self._config = config
        self._history = history
        self._control = control
        self._process = process
        self._present: dict[tuple[str, str, bool], bytes] = {}  # (channel, client, told) → ClientInfo, of this process
        self._changes: Changes = {}  # not written yet
        self._writing: Changes = {}
        self._changed = asyncio.Event()
        self._burials = Tasks()

    def enter(self, channel: str, client: str, info: bytes, told: bool) -> None:
        """``told``: that it comes, and one day goes, is announced to the channel's watchers."""
        self._present[channel, client, told] = info
        self._change(channel, client, info, told)

    def leave(self, channel: str, client: str, told: bool) -> None:
        """``told`` as when it entered. Leaving without having entered changes nothing."""
        if self._present.pop((channel, client, told), None) is not None:
            self._change(channel, client, GONE, told)

    def _change(self, channel: str, client: str, info: bytes, told: bool) -> None:
        self._changes.setdefault(channel, {})[client] = info, told
        self._changed.set()

    # Asking. Raises StoreError.

    async def clients(self, channel: str) -> bytes:
        """The protocol's PresenceResult, in JSON: client → ClientInfo."""
        found = await self._found(channel)
        return b'{"presence":{%b}}' % b",".join([b"%b:%b" % (encode(client), info) for client, info in found.items()])

    async def counts(self, channel: str) -> bytes:
        """The protocol's PresenceStatsResult, in JSON: how many clients and users; the anonymous count as one user."""
        infos = (await self._found(channel)).values()
        return b'{"num_clients":%d,"num_users":%d}' % (len(infos), len({_user.decode(info).user for info in infos}))

    async def _found(self, channel: str) -> dict[str, bytes]:
        """Client → ClientInfo. What this process has not written yet counts: who just subscribed finds themselves."""
        own = self._writing.get(channel, {}) | self._changes.get(channel, {})
        found = await self._history.commands.call(b"HGETALL", self._history.layout.presence(channel))
        there = {client.decode(): info for client, info in zip(found[::2], found[1::2], strict=True)}
        there |= {client: info for client, (info, _) in own.items()}
        return {client: info for client, info in there.items() if info != GONE}

    # Writing.

    async def keep(self) -> None:
        """Writes what changed, until cancelled."""
        await keep_writing(self._changed, self._flush)

    async def _flush(self) -> None:
        """Raises StoreError: the changes wait, and the newest of a client counts."""
        self._writing, self._changes = self._changes, {}
        try:
            await self._write(self._process, self._writing)
        except (StoreError, asyncio.CancelledError):
            for channel, clients in self._writing.items():
                self._changes[channel] = clients | self._changes.get(channel, {})
            raise
        finally:
            self._writing = {}

    async def _write(self, process: str, changes: Changes) -> None:
        """First the list, then the presence, then the list again: it never lacks what is there."""
        registry = self._registry(process)
        came = [_entry(channel, client) for channel, clients in changes.items() for client, (info, _) in clients.items() if info]
        went = [_entry(channel, client) for channel, clients in changes.items() for client, (info, _) in clients.items() if not info]
        call = self._history.commands.call
        for some in _parts(came):
            await call(b"SADD", registry, *some)
        await asyncio.gather(*[self._write_channel(channel, clients) for channel, clients in changes.items()])
        for some in _parts(went):
            await call(b"SREM", registry, *some)

    async def _write_channel(self, channel: str, clients: dict[str, tuple[bytes, bool]]) -> None:
        key = self._history.layout.presence(channel)
        for told in (False, True):
            for some in _parts((client, info) for client, (info, its) in clients.items() if its is told):
                await self._history.call(b"gateway_presence", [key], int(told), *(word for pair in some for word in pair))

    def _is_told(self, channel: str) -> bool:
        try:
            return self._config.rules(channel).announces
        except UnknownChannel:  # another gateway's namespace
            return True

    def _registry(self, process: str) -> str:
        return f"{self._history.layout.prefix}:present:{process}"

    # Life and death.

    def write_anew(self) -> None:
        """Valkey does not know this process: it was emptied, or somebody took us for dead."""
        for (channel, client, told), info in self._present.items():
            self._change(channel, client, info, told)

    def bury(self, processes: list[str]) -> None:
        for process in processes:
            self._burials.spawn(self._bury(process))

    async def _bury(self, process: str) -> None:
        """Several may do this at once: a client leaves once."""
        try:
            listed = await self._history.commands.call(b"SMEMBERS", self._registry(process))
            changes: Changes = {}
            for entry in listed:
                client, _, channel = entry.decode().partition(" ")
                changes.setdefault(channel, {})[client] = GONE, self._is_told(channel)
            await self._write(process, changes)
            await self._control.bury(process)
        except StoreError as error:
            log.debug("process %s is not buried yet: %s", process, error)
            return
        if listed:
            log.info("process %s is gone; %d of its subscriptions were taken out of presence", process, len(listed))

    async def close(self) -> bool:
        """All clients are gone; says so, if Valkey hears it at once. False: somebody has to bury this process."""
        for present in list(self._present):
            self.leave(*present)
        try:
            async with asyncio.timeout(2):
                await self._flush()
        except (StoreError, TimeoutError) as error:
            log.debug("presence was not cleaned up: %s", error)
            return False
        return True


def _entry(channel: str, client: str) -> str:
    return f"{client} {channel}"


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    listed = list(items)
    for start in range(0, len(listed), AT_ONCE):
        yield listed[start : start + AT_ONCE]
