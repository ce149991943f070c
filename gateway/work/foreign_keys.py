"""Foreign Lists and Streams, whose entries come exactly once, over the death of this process at any point.

Functions of the library, in ``bridge.lua``, hold the state in Valkey and nothing in this process: each batch begins with what Valkey
says is not finished. The entries have versions that grow, and an entry that comes again has the same version as before.

Valkey is waited for on a connection of its own, on which a command blocks: any other command would wait there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..bridging import BridgeRules
from ..store.blocking import BlockingCommands
from ..store.connect import Address
from ..store.history import History
from .mapping import Entry
from .source import BATCH, BATCH_BYTES, FAILED_MOST, Batch

__all__ = ["ForeignList", "ForeignStream"]

BLOCK_SECONDS = 2  # of one wait: well below the silence after which Commands gives a connection up


class _ForeignKey(ABC):
    """``most`` is the most bytes that an entry may have."""

    def __init__(self, address: Address, history: History, rules: BridgeRules, most: int) -> None:
        self._address = address
        self._history = history
        self._source = rules.source.encode()
        self._state = history.layout.bridge(rules.source, rules.title)
        self._taken = self._state + b":taken"
        self.failed = rules.failed.encode() or self._state + b":failed"
        self._epoch = f"bridge:{rules.title}:"
        self._bounds = (BATCH, BATCH_BYTES, most)
        self._waiting: BlockingCommands | None = None

    async def open(self) -> None:
        waiting = BlockingCommands(self._address, self._history.commands, self._source, BLOCK_SECONDS)
        await waiting.start()
        self._waiting = waiting

    async def close(self) -> None:
        if self._waiting is not None:
            await self._waiting.close()

    async def take(self) -> Batch:
        while not (batch := await self._batch()).entries:
            if batch.lost:
                return batch
            assert self._waiting is not None, "it is open"
            await self._waiting.call(*self._wait(batch.position))
        return batch

    @abstractmethod
    async def _batch(self) -> Batch:
        """What is there now, perhaps nothing."""

    @abstractmethod
    def _wait(self, position: bytes) -> Sequence[Any]:
        """The command that blocks until there is an entry, for up to BLOCK_SECONDS; it may change nothing that ``_batch`` does not find."""

    async def finish(self, batch: Batch, failures: Sequence[bytes]) -> int:
        keys = [self._state, self._taken, self.failed]
        epoch = batch.epoch.removeprefix(self._epoch)
        words = (epoch, batch.position, batch.next, len(batch.entries), FAILED_MOST, *failures)
        return int(await self._history.call(b"gateway_bridge_finish", keys, *words))


class ForeignList(_ForeignKey):
    """A List, from which entries are taken: another program that takes from it gets other entries."""

    def __init__(self, address: Address, history: History, rules: BridgeRules, most: int) -> None:
        super().__init__(address, history, rules, most)
        self._side = rules.take.upper().encode()

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def _batch(self) -> Batch:
        keys = [self._source, self._state, self._taken]
        answer = await self._history.call(b"gateway_bridge_list", keys, self._side, *self._bounds, b"read")
        epoch, position, texts, waiting, read = answer
        entries = [_listed(int(position) + number, read + number, text) for number, text in enumerate(texts, 1)]
        return Batch(self._epoch + epoch.decode(), entries, position, b"%d" % (int(position) + len(entries)), waiting)

    def _wait(self, position: bytes) -> Sequence[Any]:
        return b"BLMOVE", self._source, self._source, self._side, self._side, BLOCK_SECONDS  # to where it is


class ForeignStream(_ForeignKey):
    """A Stream, which is only read: it stays as it is for its other readers."""

    def __init__(self, address: Address, history: History, rules: BridgeRules, most: int) -> None:
        super().__init__(address, history, rules, most)
        self._start = b"$" if rules.start == "new" else b"0-0"  # and then what was read last

    async def prepare(self) -> None:
        """What is added from now on is read, also if no process works yet."""
        await self._read((0, *self._bounds[1:]))

    async def _batch(self) -> Batch:
        return await self._read(self._bounds)

    async def _read(self, bounds: Sequence[int]) -> Batch:
        keys = [self._source, self._state]
        epoch, position, found, waiting, lost = await self._history.call(b"gateway_bridge_stream", keys, self._start, *bounds)
        entries = [_streamed(*each) for each in found]
        last = self._start = found[-1][0] if found else position
        return Batch(self._epoch + epoch.decode(), entries, position, last, max(waiting - len(entries), 0), lost)

    def _wait(self, position: bytes) -> Sequence[Any]:
        return b"XREAD", b"COUNT", 1, b"BLOCK", BLOCK_SECONDS * 1000, b"STREAMS", self._source, position


def _listed(version: int, number: int, text: bytes | list[Any]) -> Entry:
    """An entry as gateway_bridge_list returns it. Its id is the ``number`` of entries that the bridge has taken, this one included."""
    if isinstance(text, bytes):
        return Entry(str(version), text, str(number))
    size, head = text
    return Entry(str(version), head, str(number), size=size)


def _streamed(id: bytes, content: list[bytes] | int, head: bytes = b"") -> Entry:
    """An entry as gateway_bridge_stream returns it. Its version is its id, ``ms-seq``, with 20 digits for seq: both have up to 64 bits."""
    ms, _, seq = id.decode().partition("-")
    version = f"{ms}{seq:>020}"
    if isinstance(content, int):
        return Entry(version, head, id.decode(), size=content)
    return Entry(version, content, id.decode())
