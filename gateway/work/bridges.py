"""Bridges: what other programs push into Lists, add to Streams and publish by Pub/Sub becomes publications of channels.

    source → take: a batch → mapping: entry → publication, or why not → publish, channel by channel → finish: the batch is done

One of all processes works for a bridge, the others stand by. Each step is tried again until Valkey takes it, so a Valkey that is away or
refuses for now stops the bridge and loses nothing. What Valkey or the rules refuse for good is recorded in the list of what failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from ..bridging import BridgeRules, slot_tag
from ..config import Config
from ..errors import ConfigurationError, StoreError, is_general
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.connect import Address
from ..store.history import History
from ..store.topology import slot_of
from .exclusive import Exclusive
from .foreign_keys import ForeignList, ForeignStream
from .foreign_messages import ForeignMessages
from .mapping import Entry, Mapped, Mapping, Unpublishable
from .source import Batch, Source, failure

__all__ = ["BridgeStatistics", "Bridges", "slot_fault"]

log = logging.getLogger("gateway.work")

SHOWN = 300  # characters of a reason in a log line
START_SECONDS = 3.0  # for a bridge to begin to listen, or to learn that another process works

Result = TypeVar("Result")
Target = tuple[str, bool]  # a channel, and whether it is an inbox


class BridgeStatistics(msgspec.Struct):
    """What this process did for one bridge since its start, in entries. ``waiting`` is how many were left in the source at the last batch.

    ``failed``: those in the list of what failed; ``forgotten``: older records of that list that were dropped. ``lost``: entries of a Stream
    that were removed before they were read, and messages that came while too many waited. ``working``: whether this process works.
    """

    bridged: int = 0
    failed: int = 0
    forgotten: int = 0
    lost: int = 0
    waiting: int = 0
    working: bool = False


def slot_fault(rules: BridgeRules) -> str:
    """Why a bridge cannot work on a cluster; "" if it can. A List or Stream is finished in one act, whose keys are all in one hash slot."""
    if rules.kind in ("list", "stream") and rules.failed and slot_of(rules.failed.encode()) != slot_of(rules.source.encode()):
        tag = slot_tag(rules.source)
        return (
            f"bridge {rules.title}: on a cluster failed is in the hash slot of its source; {rules.failed!r} is not: "
            f"write {{{tag}}} into its name, or leave it out"
        )
    return ""


class Bridges:
    """All bridges of the configuration, in ``process``. ``await start()``, ``await close()``. Raises ConfigurationError."""

    def __init__(self, config: Config, address: Address, history: History, process: str) -> None:
        for rules in config.bridges:
            if address.is_cluster and (fault := slot_fault(rules)):
                raise ConfigurationError(fault)
        self._bridges = [_Bridge(config, rules, address, history, process) for rules in config.bridges]
        self._running = Tasks()

    @property
    def statistics(self) -> dict[str, BridgeStatistics]:
        """What each bridge did, by its name."""
        return {bridge.title: bridge.statistics() for bridge in self._bridges}

    async def start(self) -> None:
        """Returns when each bridge listens, here or in another process, or after START_SECONDS if one cannot yet: that is logged."""
        for bridge in self._bridges:
            what = f"bridge {bridge.title} was ended by an error"  # of whatever kind: a bridge that rests until the next start helps nobody
            self._running.spawn(retrying(bridge.run, what, log, on=Exception, ceiling=10.0, reason=repr))
        if self._bridges:
            waiting = [asyncio.create_task(bridge.settled()) for bridge in self._bridges]
            _, late = await asyncio.wait(waiting, timeout=START_SECONDS)
            for task in late:
                task.cancel()

    async def close(self) -> None:
        """Ends the work and gives the leases back. What is not finished is the next process's."""
        await self._running.cancel()


class _Bridge:
    """One bridge. ``settled`` returns once it is known which process works, and the source is open if it is this process."""

    def __init__(self, config: Config, rules: BridgeRules, address: Address, history: History, process: str) -> None:
        self.title = rules.title
        self.source = _source(config, rules, Address(address.url), history)
        self._rules = rules
        self._mapping = Mapping(rules, config.rules)
        self._history = history
        self._what = f"bridge {rules.title}"
        self._exclusive = Exclusive(history, history.layout.bridge(rules.source, rules.title) + b":lease", process, self._what)
        self._open = asyncio.Event()
        self._counts = BridgeStatistics()

    def statistics(self) -> BridgeStatistics:
        dropped = self.source.dropped if isinstance(self.source, ForeignMessages) else 0
        return msgspec.structs.replace(self._counts, lost=self._counts.lost + dropped, working=self._exclusive.working)

    async def settled(self) -> None:
        await self._exclusive.asked.wait()
        if self._exclusive.working:
            await self._open.wait()

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._again(self.source.prepare, "the source cannot be read")
        await self._exclusive.run(self._work)

    async def _work(self) -> None:
        try:
            await self._again(self.source.open, "the source cannot be listened to")
            self._open.set()
            while True:
                await self._round()
        finally:
            await self.source.close()

    async def _round(self) -> None:
        batch = await self._again(self.source.take, "nothing can be taken")
        failures = await self._publish(batch)
        forgotten = await self._again(lambda: self.source.finish(batch, failures), "what was published cannot be marked as finished")
        self._count(batch, failures, max(forgotten, 0))

    async def _publish(self, batch: Batch) -> list[bytes]:
        """Publishes a batch, each channel's entries in order and as one act; returns the records of those that failed, in order."""
        reasons: dict[int, str] = {}
        targets: dict[Target, list[tuple[int, Entry, Mapped]]] = {}
        for index, entry in enumerate(batch.entries):
            try:
                mapped = self._mapping.publication(entry)
            except Unpublishable as error:
                reasons[index] = str(error)
            else:
                targets.setdefault((mapped.channel, mapped.inbox), []).append((index, entry, mapped))
        for refused in await asyncio.gather(*[self._publish_one(batch.epoch, *each) for each in targets.items()]):
            reasons |= refused
        return [failure(batch.entries[index], self._rules.source, reasons[index]) for index in sorted(reasons)]

    async def _publish_one(self, epoch: str, target: Target, items: Sequence[tuple[int, Entry, Mapped]]) -> dict[int, str]:
        """Publishes what is for one channel; returns why entries were refused, by their index."""
        channel, inbox = target
        keys = self._history.layout.inbox_keys(channel) if inbox else self._history.layout.keys(channel)
        words = [word for _, entry, mapped in items for word in (entry.version, mapped.key, mapped.data)]

        async def publish() -> list[bytes]:
            await self._history.write_index_first(channel, again=True)  # on a cluster it asks the channel's shard, which may be away
            answers: list[bytes] = await self._history.call(b"gateway_bridge_publish", keys, epoch, *words)
            return answers

        answers = await self._again(publish, f"nothing can be published to {channel!a}")
        refused = zip(items, answers, strict=True)
        return {index: answer.decode(errors="replace") for (index, _, _), answer in refused if answer}

    def _count(self, batch: Batch, failures: Sequence[bytes], forgotten: int) -> None:
        counts = self._counts
        if failures and not counts.failed:
            first, key = msgspec.json.decode(failures[0]), self.source.failed.decode()
            self._log(
                f"entry {first['id']} could not be published: {first['reason'][:SHOWN]}; it is in the List {key}, where later ones are added without a line here"
            )
        if forgotten and not counts.forgotten:
            self._log("the list of what failed is full: its oldest records are dropped")
        if batch.lost and not counts.lost:
            self._log(f"{batch.lost} entries were removed from the stream before they were read")
        counts.bridged += len(batch.entries) - len(failures)
        counts.failed += len(failures)
        counts.forgotten += forgotten
        counts.lost += batch.lost
        counts.waiting = batch.waiting

    def _log(self, what: str) -> None:
        log.warning("%s: %s", self._what, what)

    async def _again(self, step: Callable[[], Awaitable[Result]], what: str) -> Result:
        return await retrying(step, f"{self._what}: {what}", log, on=StoreError, quiet=is_general)


def _source(config: Config, rules: BridgeRules, address: Address, history: History) -> Source:
    most = config.limits.api_bytes
    if rules.kind == "list":
        return ForeignList(address, history, rules, most)
    if rules.kind == "stream":
        return ForeignStream(address, history, rules, most)
    return ForeignMessages(address, history, rules, most)
