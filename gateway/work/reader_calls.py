"""The reader's functions in Valkey as methods, for one group. All raise StoreError, Unavailable where Valkey cannot be reached."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ..publication import MAX_OFFSET, Position, Publication
from ..store.access import Commands
from ..store.layout import Layout, read_entry, read_epoch
from ..store.valkey_clock import valkey_time

__all__ = ["DeadLetter", "Known", "Page", "ReaderCalls", "dead_letter"]

REASON_BYTES = 1000  # of a dead letter's reason


class Known(NamedTuple):
    """The newest publication of a channel that this process was given, and the offset up to which the group has settled all, as far as it knows."""

    position: Position
    ms: int
    settled: int


class Page(NamedTuple):
    """What one read gave: publications with how often each was given until now, what precedes a gap before the first, and the ids of new dead letters.

    ``more``: there are more, now or when those that were given are settled. ``position`` is what the group has acknowledged; None where nothing
    was published yet.
    """

    epoch: str
    before_gap: Position | None
    publications: list[tuple[Publication, int]]
    dead: list[str]
    more: bool
    position: Known | None


class DeadLetter(NamedTuple):
    """A publication that was rejected or given too often. ``data`` is its JSON; "null" if history no longer held it."""

    position: Position
    reason: str
    deliveries: int
    data: bytes


class ReaderCalls:
    """``start`` is where the group begins in a channel that it never read, ``tries`` how often a publication is given at most."""

    def __init__(self, commands: Commands, layout: Layout, group: str, start: str, tries: int, page_bytes: int) -> None:
        self._commands = commands
        self._layout = layout
        self._group = group
        self._start = start
        self._tries = tries
        self._page_bytes = page_bytes
        self.instances = layout.readers(group)

    async def beat(self, member: str, lease_ms: int, *free: str) -> set[str]:
        """Renews this instance's lease, or ends it (0), and announces channels without an owner. Returns the members whose lease is not over."""
        members = await self._commands.call(b"FCALL", b"gateway_reader_beat", 1, self.instances, member, lease_ms, *free)
        return {member.decode(errors="replace") for member in members}

    async def time(self) -> float:
        """The time by which leases end, in unix seconds."""
        return await valkey_time(self._commands, self.instances)

    async def take(self, channel: str, owner: str, holder: str = "") -> str:
        """Takes a channel that has no owner, or the owner ``holder``. Returns "" if ``owner`` has it, else the owner that has."""
        answer: bytes = await self._call(b"gateway_reader_take", channel, owner, holder.encode(errors="surrogateescape"))
        return answer.decode(errors="surrogateescape")

    async def release(self, channel: str, owner: str) -> None:
        """Gives a channel back."""
        await self._call(b"gateway_reader_release", channel, owner)

    async def read(self, channel: str, owner: str, count: int, after: int, known: Known | None) -> Page | None:
        """Up to ``count`` publications after an offset; None if the owner has to take the channel again."""
        words: list[Any] = [owner, self._start, self._tries, count, self._page_bytes, after]
        words += [b""] * 4 if known is None else [*known.position, known.ms, known.settled]
        alive, *answer = await self._call(b"gateway_reader_read", channel, *words, b"position")
        if not alive:
            return None
        epoch, before, entries, dead, foreign, more, *positions = answer
        faults = self._layout.faults
        if foreign:
            faults.found("entry", channel, "another program wrote an entry with the offset of a publication")
        publications = [(read_entry(entry, faults, channel), deliveries) for entry, deliveries in entries]
        before_gap = Position(before[0].decode(), before[1]) if before else None
        position = Known(Position(positions[0][0].decode(), positions[0][1]), positions[0][2], positions[0][1]) if positions else None
        return Page(
            read_epoch(epoch, channel) if epoch else "", before_gap, publications, [each.decode() for each in dead], bool(more), position
        )

    async def again(self, channel: str, owner: str, entry: str, deliveries: int) -> bool:
        """Counts one more delivery of a publication. False if the owner does not read the channel. A caller that is cancelled counts nothing."""
        try:
            return bool(await self._call(b"gateway_reader_again", channel, owner, entry, deliveries))
        except asyncio.CancelledError:
            keys = self._layout.reader(channel, self._group)
            words = (b"FCALL", b"gateway_reader_again", len(keys), *keys, owner, entry, deliveries - 1)
            undone = self._commands.begin(*words, repeatable=True)  # carried out before whatever the caller does next
            undone.add_done_callback(lambda future: future.cancelled() or future.exception())
            raise

    async def settle(self, channel: str, owner: str, epoch: str, entry: str, reason: str | None) -> bool:
        """Acknowledges a publication, or makes it a dead letter. False if the owner does not read the channel."""
        words = [] if reason is None else [reason.encode(errors="replace")[:REASON_BYTES]]
        return bool(await self._call(b"gateway_reader_settle", channel, owner, epoch, entry, *words))

    async def rewind(self, channel: str, start: str) -> Position | None:
        """Moves the group to ``start``, and announces it. Returns its position; None where nothing was published yet."""
        epoch, offset = await self._call(b"gateway_reader_rewind", channel, start)
        return Position(epoch.decode(), offset) if epoch else None

    async def lag(self, channel: str) -> int:
        """How many publications wait."""
        return int(await self._call(b"gateway_reader_lag", channel))

    async def dead(self, channel: str, limit: int) -> list[DeadLetter]:
        """The newest dead letters, newest first."""
        key = self._layout.reader(channel, self._group)[3]
        return [
            dead_letter(fields) for _, fields in await self._commands.call(b"XREVRANGE", key, b"+", b"-", b"COUNT", min(limit, MAX_OFFSET))
        ]

    async def _call(self, function: bytes, channel: str, *words: Any) -> Any:
        keys = self._layout.reader(channel, self._group)
        return await self._commands.call(b"FCALL", function, len(keys), *keys, *words, repeatable=True)


def dead_letter(words: list[bytes]) -> DeadLetter:
    """The dead letter of an entry, whatever fields it has: another program may have written there."""
    fields = dict(zip(words[::2], words[1::2], strict=True))
    texts = {name: fields.get(name.encode(), b"").decode(errors="replace") for name in ("epoch", "offset", "deliveries", "reason")}
    offset, deliveries = (int(texts[name][:15]) if texts[name].isdecimal() else 0 for name in ("offset", "deliveries"))
    return DeadLetter(Position(texts["epoch"], offset), texts["reason"], deliveries, fields.get(b"data", b"null"))
