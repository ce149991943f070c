"""Presence: which clients follow a channel, on whatever process. It is stored in Valkey; joins and leaves announce its changes.

Clients that enter and leave are gathered for a moment and written channel by channel, so that a storm of clients is a few
calls. What a process wrote is listed in a set of its own, ``gw:present:{process}``, before it is written: if the process dies,
which its expired lease shows (``leases``), another one removes its clients and announces their leaves. There is one lease a
process, so a heartbeat costs the same however many clients there are. A process that was taken for dead by mistake writes all of
its own anew; so it does where Valkey came back, perhaps older than it was, and then it also removes those who left meanwhile. On a
cluster the set is at another shard than most channels, so that it lists clients for some time after they left; a process that removes
the clients of a dead one lists them for that time.

A read first writes what this process has not written yet, so that a client that just subscribed finds itself. Numbers are Valkey's
own; lists are bounded by ``limits.presence_clients``. Equal reads are one until Valkey is asked. A caller that comes later may have been
notified of a join or leave that the answer lacks, so such callers share the next read, which begins when that answer has come.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from ..config import Config
from ..errors import LimitExceeded, StoreError, Unavailable, UnknownChannel
from ..publication import channel_fault
from ..rules.json_text import encode
from ..runtime.tasks import shared, write_changes
from ..store.history import History
from ..store.layout import read_presence

__all__ = ["Presence"]

log = logging.getLogger("gateway.presence")

AT_ONCE = 500  # clients of one call
# Of one turn of the loop: about 3 ms each. With all clients of a process in one turn, the loop was held for 30 ms and longer.
CHANNELS_AT_ONCE = 300  # channels that are written
CLIENTS_AT_ONCE = 2000  # clients that are listed, looked through, or written in one channel
LIST_BYTES = 1024 * 1024  # of one list of clients
STILL_LISTED_SECONDS = 30.0  # on a cluster, after a client left: longer than a replica that takes over may lack what was written
GONE = b""
Changes = dict[str, dict[str, tuple[bytes, bool]]]  # channel → client → (ClientInfo or GONE, whether it is announced)

Item = TypeVar("Item")


class _Part(NamedTuple):
    """What one call writes of a channel: up to AT_ONCE clients, each with its ClientInfo or GONE."""

    channel: str
    announced: bool
    clients: list[tuple[str, bytes]]


class Presence:
    """The clients of ``process``, this gateway's id, and a view of all others'. What asks Valkey raises StoreError."""

    def __init__(self, config: Config, history: History, process: str) -> None:
        self._config = config
        self._history = history
        self._process = process
        self._present: dict[tuple[str, str, bool], bytes] = {}  # (channel, client, announced) → ClientInfo, of this process
        self._changes: Changes = {}  # not written yet
        self._writing: Changes = {}
        self._left: deque[tuple[float, list[tuple[str, str]]]] = deque()  # who left which channel, and when they are unlisted
        self._now = time.monotonic
        self._changed = asyncio.Event()
        self._one_writes = asyncio.Lock()
        # (channel, "clients" or "counts") → a read that Valkey is not asked for yet, and one that it is asked for.
        self._reads: dict[tuple[str, str], asyncio.Task[bytes]] = {}
        self._asked: dict[tuple[str, str], asyncio.Future[bytes]] = {}

    def enter(self, channel: str, client: str, info: bytes, announced: bool) -> None:
        """``info`` is the protocol's ClientInfo in JSON; ``announced`` is whether the channel gets a join now, and a leave one day.

        A client that is there already has this info from now on, and is not announced again.
        """
        if self._present.get((channel, client, announced)) != info:
            self._present[channel, client, announced] = info
            self._change(channel, client, info, announced)

    def leave(self, channel: str, client: str, announced: bool) -> None:
        """``announced`` as when the client entered. Leaving without having entered changes nothing."""
        if self._present.pop((channel, client, announced), None) is not None:
            self._change(channel, client, GONE, announced)

    def _change(self, channel: str, client: str, info: bytes, announced: bool) -> None:
        self._changes.setdefault(channel, {})[client] = info, announced
        self._changed.set()
        if self._reads or self._asked:  # one under way may miss this change: it is not shared any more, and the next does not wait for it
            for what in ("clients", "counts"):
                self._reads.pop((channel, what), None)
                self._asked.pop((channel, what), None)

    # Reading.

    async def clients(self, channel: str) -> bytes:
        """The protocol's PresenceResult, in JSON: client → ClientInfo. Raises LimitExceeded if the list is too long."""
        return await self._shared(channel, "clients", self._read_clients)

    async def counts(self, channel: str) -> bytes:
        """The protocol's PresenceStatsResult, in JSON: how many clients and users there are; all anonymous clients count as one user."""
        return await self._shared(channel, "counts", self._read_counts)

    async def page(self, channel: str, cursor: int, limit: int) -> bytes:
        """A part of the PresenceResult: about ``limit`` clients. ``cursor`` is 0 at first, then that of the page before; the last page has none.

        Clients that are there all the while are in at least one of the pages.
        """
        await self._write_first(channel)
        key, _ = self._history.layout.presence(channel)
        following, found = await self._history.commands.call(b"HSCAN", key, cursor, b"COUNT", limit)
        more = b"" if following == b"0" else b',"cursor":%b' % encode(following.decode())
        return b'{"presence":%b%b}' % (_object(self._checked(found, channel)), more)

    async def _shared(self, channel: str, what: str, read: Callable[[str], Awaitable[bytes]]) -> bytes:
        """What ``read`` returns of the channel, after what this process has to write there. Equal reads that Valkey is not asked for yet are one."""
        return await shared(self._reads, (channel, what), partial(self._write_and_read, (channel, what), read))

    async def _write_and_read(self, of: tuple[str, str], read: Callable[[str], Awaitable[bytes]]) -> bytes:
        channel, _ = of
        if (before := self._asked.get(of)) is not None:
            await asyncio.wait((before,))
        await self._write_first(channel)
        if self._reads.get(of) is asyncio.current_task():
            del self._reads[of]
        asked = self._asked[of] = asyncio.ensure_future(read(channel))
        try:
            return await asked
        finally:
            if self._asked.get(of) is asked:
                del self._asked[of]

    async def _write_first(self, channel: str) -> None:
        """Writes what this process has not written yet, if some of it is of the channel."""
        if channel in self._changes or channel in self._writing:
            await self._flush()

    async def _read_clients(self, channel: str) -> bytes:
        most = self._config.limits.presence_clients
        count, _, *found = await self._ask(channel, most)
        if not found:
            limit = f"limits.presence_clients is {most}" if count > most else f"their infos have more than {LIST_BYTES} bytes"
            raise LimitExceeded(f"{count} clients are in {channel!r}, and {limit}; the server API lists them in pages: limit and cursor")
        return b'{"presence":%b}' % _object(self._checked(found[0], channel))

    async def _read_counts(self, channel: str) -> bytes:
        clients, users, *_ = await self._ask(channel, 0)
        return b'{"num_clients":%d,"num_users":%d}' % (clients, users)

    async def _ask(self, channel: str, most: int) -> Any:
        return await self._history.call(b"gateway_present", self._history.layout.presence(channel), most, LIST_BYTES)

    def _checked(self, found: list[bytes], channel: str) -> dict[str, bytes]:
        return read_presence(found, self._history.layout.faults, channel)

    # Writing.

    async def run(self) -> None:
        """Writes what changed. Runs until cancelled."""
        await write_changes(self._changed, self._flush)

    async def _flush(self) -> None:
        """If Valkey fails, the changes stay for the next time, where a newer change of the same client replaces the older."""
        async with self._one_writes:
            self._writing, self._changes = self._changes, {}
            try:
                await self._write_own()
            except (StoreError, asyncio.CancelledError):
                older, newer = self._writing, self._changes
                for channel, clients in newer.items():
                    older.setdefault(channel, {}).update(clients)
                self._changes = older
                raise
            finally:
                self._writing = {}

    async def _write_own(self) -> None:
        try:
            await self._write_and_unlist(self._writing)
        except Unavailable:
            raise
        except StoreError:
            # A Valkey whose memory is full lists nobody who came. Those who left need no memory: they are not to be seen until it has some again.
            gone = _only(self._writing, came=False)
            if gone:
                await self._write_and_unlist(gone)
                self._writing = _only(self._writing, came=True)
            raise

    async def _write_and_unlist(self, changes: Changes) -> None:
        self._left.append((self._now() + self._listed_seconds, await self._write(self._process, changes)))
        await self._unlist_left()

    async def _write(self, process: str, changes: Changes) -> list[tuple[str, str]]:
        """The registry is always a superset of what is in presence: clients that came are listed first. Returns who left which channel, to be
        unlisted last."""
        registry, begin = self._registry(process), self._history.commands.begin
        went: list[tuple[str, str]] = []
        for some in _parts(_each(changes), CLIENTS_AT_ONCE):
            came = [_entry(channel, client) for channel, client, info in some if info]
            went += [(channel, client) for channel, client, info in some if not info]
            await asyncio.gather(*[begin(b"SADD", registry, *entries) for entries in _parts(came, AT_ONCE)])
            await asyncio.sleep(0)
        for parts in _portions(_by_channel(changes)):
            answers = await asyncio.gather(*[self._begin_channel(part) for part in parts], return_exceptions=True)
            for part, answer in zip(parts, answers, strict=True):
                self._check(part.channel, answer)
        return went

    @property
    def _listed_seconds(self) -> float:
        return STILL_LISTED_SECONDS if self._history.commands.sharded else 0.0

    async def _unlist_left(self) -> None:
        """Those of this process that left long enough ago, unless they came back."""
        while self._left and self._left[0][0] <= self._now():
            for some in _parts(self._left[0][1], CLIENTS_AT_ONCE):
                await self._unlist(self._process, [each for each in some if not self._is_present(*each)])
                await asyncio.sleep(0)
            self._left.popleft()

    def _is_present(self, channel: str, client: str) -> bool:
        return (channel, client, False) in self._present or (channel, client, True) in self._present

    async def _unlist(self, process: str, left: list[tuple[str, str]]) -> None:
        for some in _parts(left, AT_ONCE):
            await self._history.commands.call(b"SREM", self._registry(process), *[_entry(*each) for each in some])

    def _begin_channel(self, part: _Part) -> asyncio.Future[Any]:
        """The call that writes this part. All calls that begin in one turn of the loop leave in one write."""
        keys = self._history.layout.presence(part.channel)
        words = [word for pair in part.clients for word in pair]
        return self._history.commands.begin(b"FCALL", b"gateway_presence", len(keys), *keys, int(part.announced), *words)

    def _check(self, channel: str, answer: object) -> None:
        """Raises what a call failed with, and then all is written again; not where Valkey's key is of another type, which stays so."""
        if isinstance(answer, StoreError) and answer.is_wrong_type:
            self._history.layout.faults.found("presence", channel, answer)
        elif isinstance(answer, BaseException):
            raise answer

    def _is_announced(self, channel: str) -> bool:
        try:
            return self._config.rules(channel).announces
        except UnknownChannel:  # another gateway's namespace
            return True

    def _registry(self, process: str) -> str:
        return f"{self._history.layout.prefix}:present:{process}"

    # Leases.

    async def write_anew(self) -> None:
        """Valkey does not know this process: it was emptied, or another process took this one for dead."""
        for some in _parts(list(self._present.items()), CLIENTS_AT_ONCE):
            for present, info in some:
                if self._present.get(present) is info:  # otherwise it left meanwhile, or came with another info
                    channel, client, announced = present
                    self._change(channel, client, info, announced)
            await asyncio.sleep(0)

    async def reconcile(self) -> None:
        """Another server answers: it may have forgotten who came and who left lately. Writes anew who is there, and who is not any more."""
        async for channel, client in self._listed(self._process):
            if not self._is_present(channel, client):
                self._change(channel, client, GONE, self._is_announced(channel))
        await self.write_anew()

    async def clean_up(self, process: str) -> None:
        """Removes the clients of a dead process. Several processes may do this at once: each client leaves once.

        On a cluster they are listed as clients of this process that left, for as long as those are.
        """
        changes: Changes = {}
        async for channel, client in self._listed(process):
            changes.setdefault(channel, {})[client] = GONE, self._is_announced(channel)
        if self._history.commands.sharded:
            for some in _parts([(channel, client) for channel, client, _ in _each(changes)], AT_ONCE):
                await self._history.commands.call(b"SADD", self._registry(self._process), *[_entry(*each) for each in some])
        left = await self._write(process, changes)
        if self._history.commands.sharded:
            self._left.append((self._now() + self._listed_seconds, left))
        await self._unlist(process, left)
        if left:
            log.info("process %s is gone; %d of its subscriptions were taken out of presence", process, len(left))

    async def _listed(self, process: str) -> AsyncIterator[tuple[str, str]]:
        """Channel and client of each entry in the registry of a process."""
        registry = self._registry(process)
        for some in _parts(await self._history.commands.call(b"SMEMBERS", registry), CLIENTS_AT_ONCE):
            for entry in some:
                client, _, channel = entry.decode(errors="replace").partition(" ")
                if channel_fault(channel):
                    self._history.layout.faults.found("presence", registry, f"{entry[:60]!r} names no channel")
                else:
                    yield channel, client
            await asyncio.sleep(0)

    async def close(self) -> bool:
        """Removes all clients of this process. False if another process has to clean up after this one: if Valkey does not answer, and on a
        cluster, where a shard may forget for some time yet that they left."""
        for some in _parts(list(self._present), CLIENTS_AT_ONCE):
            for present in some:
                self.leave(*present)
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(2):
                await self._flush()
                if self._history.commands.sharded:
                    return False
                await self._history.commands.call(b"DEL", self._registry(self._process))
        except (StoreError, TimeoutError) as error:
            log.debug("presence was not cleaned up: %s", error)
            return False
        return True


def _object(present: dict[str, bytes]) -> bytes:
    """A JSON object of client → ClientInfo."""
    return b"{%b}" % b",".join([b"%b:%b" % (encode(client), info) for client, info in present.items()])


def _entry(channel: str, client: str) -> str:
    return f"{client} {channel}"


def _each(changes: Changes) -> Iterator[tuple[str, str, bytes]]:
    """Channel, client, and its ClientInfo or GONE."""
    for channel, clients in changes.items():
        for client, (info, _) in clients.items():
            yield channel, client, info


def _only(changes: Changes, *, came: bool) -> Changes:
    """The changes of clients that came, or of clients that left."""
    some = {
        channel: {client: change for client, change in clients.items() if bool(change[0]) is came} for channel, clients in changes.items()
    }
    return {channel: clients for channel, clients in some.items() if clients}


def _by_channel(changes: Changes) -> Iterator[_Part]:
    for channel, clients in changes.items():
        for announced in (False, True):
            for some in _parts([(client, info) for client, (info, its) in clients.items() if its is announced], AT_ONCE):
                yield _Part(channel, announced, some)


def _portions(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """The parts in lists, each as long as what one turn of the loop writes."""
    some, clients = list[_Part](), 0
    for part in parts:
        some.append(part)
        clients += len(part.clients)
        if len(some) == CHANNELS_AT_ONCE or clients >= CLIENTS_AT_ONCE:
            yield some
            some, clients = [], 0
    if some:
        yield some


def _parts(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Takes the items from ``items`` as they are needed: what may change meanwhile is to be given as a list."""
    left = iter(items)
    while some := list(islice(left, most)):
        yield some
