"""Alerts: a work queue reached a threshold of the configuration, or is below it again.

Each change is logged once and published once to the channel ``alerts``, however many gateways share a Valkey:

    {"queue": "mail", "alert": "oldest_seconds", "state": "raised", "value": 75.2, "threshold": 60, "since": 1764108000000}

``state`` is ``raised``, or ``cleared`` when it is over; ``since``, unix ms, is when it was raised, and the same in both.

Every CHECK_SECONDS one gateway looks, the one that takes the key ``gw:alerts:turn`` first. The hash ``gw:alerts`` holds what is
raised, ``QUEUE ALERT`` → ``SINCE STEP``: STEP is 0 until it was published, then 1, and 2 while its end is published. Another gateway may look
next time, and a gateway may be killed between any two steps. Then the next one publishes again with the same idempotency key, which publishes
nothing the second time.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import NamedTuple

from ..channel_rules import ALERTS
from ..config import Alerts as AlertSettings
from ..errors import StoreError, Unavailable
from ..rules.json_text import encode
from ..store.history import History
from ..store.layout import publish_words
from .jobs import check_queue_name
from .queues import Overview, Queues

__all__ = ["Alerts"]

log = logging.getLogger("gateway.alerts")

CHECK_SECONDS = 10.0
LOOK_MS = 30_000  # more than it takes; after so long another gateway looks in the place of one that was killed meanwhile

_SENTENCES = {
    "ready": "%g jobs are ready",
    "oldest_seconds": "the oldest job that is due waits for %g s",
    "dead": "it holds %g dead letters",
}
_VALUE = re.compile(rb"([0-9]{1,15}) ([012])").fullmatch
_NOTED, _ANNOUNCED, _ENDING = range(3)


class _Raised(NamedTuple):
    """``since``: unix ms."""

    since: int
    step: int


class Alerts:
    """Looks at all queues every ``every`` seconds, in turn with the other gateways."""

    def __init__(self, settings: AlertSettings, queues: Queues, history: History, *, every: float = CHECK_SECONDS) -> None:
        self._settings = settings
        self._queues = queues
        self._history = history
        self._key = history.layout.alerts
        self._every = every
        self._name = secrets.token_hex(6)  # by which it takes its turn

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                if await self._takes_its_turn():
                    await self._look()
                    await self._end_turn()
            except StoreError as error:
                log.debug("the queues were not looked at: %s", error)
                if not error.is_general:
                    self._history.layout.faults.found("alert", self._key.decode(), error)
            await asyncio.sleep(self._every)

    async def _takes_its_turn(self) -> bool:
        """True for one gateway each time. The turn lasts until it has looked; the next one begins not long before ``every`` seconds are over."""
        return await self._turn(LOOK_MS)

    async def _end_turn(self) -> None:
        await self._turn(int(self._every * 900))

    async def _turn(self, ms: int) -> bool:
        """Takes the turn for so long, or keeps it; False if it is another's. One that lasts longer than a lease, since Valkey's clock was set back, counts as over."""
        return not await self._history.call(b"gateway_lease", [self._key + b":turn"], self._name, ms)

    async def _look(self) -> None:
        raised = await self._raised()
        names = {field.partition(" ")[0] for field in raised}
        for queue in sorted(names.union(await self._queues.names())):
            try:
                if fault := self._queues.shard_fault(
                    queue
                ):  # else each of its queues would be waited for, and the others looked at too late
                    raise Unavailable(fault)
                await self._compare(queue, await self._queues.overview(queue), raised)
            except StoreError as error:
                if error.is_general and not self._history.commands.sharded:
                    raise
                log.debug("queue %r was not looked at: %s", queue, error)
                if not error.is_general:  # as where a key of the queue is of another type
                    self._history.layout.faults.found("queue", queue, error)

    async def _raised(self) -> dict[str, _Raised]:
        """What is raised by now. An entry that no gateway wrote is removed."""
        answer = await self._history.commands.call(b"HGETALL", self._key)
        found: dict[str, _Raised] = {}
        for field, value in zip(answer[::2], answer[1::2], strict=True):
            try:
                found[_checked(field)] = _read(value)
            except ValueError as error:
                self._history.layout.faults.found("alert", self._key.decode(), error)
                await self._history.commands.call(b"HDEL", self._key, field)
        return found

    async def _compare(self, queue: str, overview: Overview, raised: dict[str, _Raised]) -> None:
        thresholds = self._settings.of(queue)
        values = {"ready": overview.ready, "oldest_seconds": overview.oldest_ms / 1000, "dead": overview.dead_letters}
        for alert, value in values.items():
            threshold, before = getattr(thresholds, alert), raised.get(f"{queue} {alert}")
            is_reached = 0 < threshold <= value
            if before is not None and (not is_reached or before.step == _ENDING):  # of the latter subscribers may know that it is over
                await self._clear(queue, alert, value, threshold, before)
                before = None
            if is_reached:
                await self._raise(queue, alert, value, threshold, before)

    async def _raise(self, queue: str, alert: str, value: float, threshold: float, before: _Raised | None) -> None:
        if before is not None and before.step == _ANNOUNCED:
            return
        call, field = self._history.commands.call, f"{queue} {alert}"
        since = before.since if before is not None else int(time.time() * 1000)
        if before is None and not await call(b"HSETNX", self._key, field, f"{since} {_NOTED}"):
            return  # another gateway is faster
        await self._publish(queue, alert, "raised", value, threshold, since)
        log.warning("queue %r: %s, and the alert is set to %g", queue, _SENTENCES[alert] % value, threshold)
        await call(b"HSET", self._key, field, f"{since} {_ANNOUNCED}")

    async def _clear(self, queue: str, alert: str, value: float, threshold: float, before: _Raised) -> None:
        call, field = self._history.commands.call, f"{queue} {alert}"
        await call(b"HSET", self._key, field, f"{before.since} {_ENDING}")
        await self._publish(queue, alert, "cleared", value, threshold, before.since)
        log.info("queue %r: %s; the alert is over", queue, _SENTENCES[alert] % value)
        await call(b"HDEL", self._key, field)

    async def _publish(self, queue: str, alert: str, state: str, value: float, threshold: float, since: int) -> None:
        data = encode({"queue": queue, "alert": alert, "state": state, "value": value, "threshold": threshold, "since": since})
        words = publish_words(data, idempotency_key=f"{queue} {alert} {since} {state}")
        await self._history.publish(ALERTS, words, repeatable=True)


def _checked(field: bytes) -> str:
    """The field, which is ``QUEUE ALERT``. Raises ValueError for any other."""
    queue, _, alert = field.decode().partition(" ")
    check_queue_name(queue)
    if alert not in _SENTENCES:
        raise ValueError(f"there is no alert {alert!r}")
    return f"{queue} {alert}"


def _read(value: bytes) -> _Raised:
    read = _VALUE(value)
    if read is None:
        raise ValueError(f"{value!r} is not since when it is raised")
    return _Raised(int(read[1]), int(read[2]))
