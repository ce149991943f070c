"""Which connections of a user there were, and whether they were given a publication: from lifecycle events, where they are recorded.

An event ``unsubscribed`` names what was written to the connection: each publication after ``after``, up to ``offset``. Every subscription that
was given the publication and is not there now has ended after the publication was made. So if the events reach back to that time, none of them
was lost, and no process was killed before it could write its own, they show all of them. The stream is read from its end, some entries in each
turn of the loop, until the delivery is proven.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from ..control.questions import DeliveryReport
from ..errors import StoreError, Unavailable
from ..session.node import Node
from .evidence import Evidence, Question, was_confirmed

__all__ = ["add_past"]

READ_AT_ONCE = 500  # events: about 4 ms
READ_MOST = 200_000  # events of one question
CLOCKS_APART_MS = 1000  # the shards of a cluster have clocks of their own, and the events and the channel may be at two of them
UNREAD_CODES = {b"3008", b"3009", b"3012"}  # of a connection that ended since its client read nothing
SETTING = "events = true"

Fields = dict[bytes, bytes]


class Ended(msgspec.Struct):
    """A subscription of the user to the channel that is over. ``closed``: it ended with its connection, whose ``code`` and ``reason``
    are "" where they are not recorded, or with a ``gap``, after which the stream goes on; ``waiting`` bytes were not confirmed by its machine then. ``is_known``: it is recorded what was written to it."""

    client: str
    ms: int
    epoch: str
    after: int
    offset: int
    is_known: bool
    filtered: bool
    closed: bool
    gap: bool
    waiting: int
    code: bytes = b""
    reason: str = ""


class _Reading:
    """What one reading of the stream, from its end, has found."""

    def __init__(self, question: Question, here: dict[str, int]) -> None:
        self._question = question
        self._here = here  # clients that are connected now → bytes that their machines have not confirmed
        self._ends: dict[str, tuple[bytes, str]] = {}  # client → code and reason of its connection's end
        self._later: dict[str, bytes] = {}  # client → the event in this channel that follows, in time, what is read next
        self.ended: list[Ended] = []
        self.cut_off: list[tuple[str, int]] = []  # clients whose process ended without a record of it, and since when they were subscribed
        self.gaps: list[tuple[str, int, int]] = []  # clients that asked to recover and could not, at which offset they went on, and when
        self.oldest_ms = 0
        self.count = 0

    def take(self, id: bytes, fields: Fields) -> None:
        self.oldest_ms = _number(id.partition(b"-")[0])
        self.count += 1
        if fields.get(b"user", b"") != self._question.user.encode():
            return
        client, event = fields.get(b"client", b"").decode(errors="replace"), fields.get(b"event", b"")
        if event == b"disconnected":
            self._on_disconnected(client, fields)
        elif fields.get(b"channel") == self._question.channel.encode():
            if event == b"unsubscribed":
                self.ended.append(self._ended(client, fields))
                self._name_end(self.ended[-1])
            elif event == b"subscribed":
                self._on_subscribed(client, fields)
            self._later[client] = event

    def _on_disconnected(self, client: str, fields: Fields) -> None:
        """A connection's end is recorded after those of its subscriptions, or before them."""
        self._ends[client] = fields.get(b"code", b""), fields.get(b"reason", b"").decode(errors="replace")
        for each in self.ended:
            if each.client == client:
                self._name_end(each)

    def _name_end(self, each: Ended) -> None:
        if each.closed:
            each.code, each.reason = self._ends.get(each.client, (b"", ""))

    def _on_subscribed(self, client: str, fields: Fields) -> None:
        offset = _number(fields.get(b"offset", b"0"))
        if b"offset" in fields and fields.get(b"epoch", b"").decode(errors="replace") != self._question.epoch:
            return
        if self._later.get(client) != b"unsubscribed" and client not in self._here and offset < self._question.offset:
            self.cut_off.append((client, _number(fields.get(b"ms", b"0"))))
        if fields.get(b"recovered") == b"0" and offset >= self._question.offset:
            self.gaps.append((client, offset, _number(fields.get(b"ms", b"0"))))

    def _ended(self, client: str, fields: Fields) -> Ended:
        ended = _ended(client, fields)
        if not ended.closed and self._here.get(client) == 0:
            ended.waiting = 0  # its machine has confirmed them since
        return ended


def _ended(client: str, fields: Fields) -> Ended:
    is_known = all(name in fields for name in (b"epoch", b"after", b"offset"))
    epoch = fields.get(b"epoch", b"").decode(errors="replace")
    after, offset, ms, waiting = (_number(fields.get(name, b"0")) for name in (b"after", b"offset", b"ms", b"waiting"))
    return Ended(client, ms, epoch, after, offset, is_known, b"filtered" in fields, b"closed" in fields, b"gap" in fields, waiting)


def _number(text: bytes) -> int:
    """Another program may have written there."""
    return int(text[:16]) if text.isdigit() else 0


async def add_past(node: Node, question: Question, reports: Sequence[DeliveryReport], evidence: Evidence) -> None:
    """Adds what lifecycle events show of connections that have ended, or what is not known without them."""
    if not reports:
        evidence.doubt(
            "past", "no process answered, so whether connections that have ended are recorded is not known. Ask again in a moment"
        )
        return
    silent = [report.name for report in reports if not report.events]
    if silent:
        text = (
            f"connections that have ended are not recorded by {', '.join(silent)}: lifecycle events are off. With them on, what each connection was "
            "given is known afterwards"
        )
        evidence.doubt("past", text, setting=SETTING)
        if len(silent) == len(reports):
            return
    if lost := sum(report.dropped for report in reports):
        evidence.doubt(
            "past",
            f"{lost} lifecycle events were lost, or are not written yet, since Valkey did not take them: what they record is not known",
        )
    here = {each.client: each.unconfirmed_bytes for report in reports for each in report.connections}
    reading = _Reading(question, here)
    try:
        await _read(node, question, reading)
    except Unavailable:
        raise
    except StoreError as error:  # another program wrote there
        evidence.doubt("past", f"lifecycle events could not be read: {error}")
        return
    _add_ended(question, reading, evidence)
    if not evidence.delivered:
        await _add_reach(node, question, reading, evidence)


async def _read(node: Node, question: Question, reading: _Reading) -> None:
    """Reads until the delivery is proven, or to the end."""
    async for entries in _pages(node):
        for id, words in entries:
            reading.take(id, dict(zip(words[::2], words[1::2], strict=True)))
        if any(_proves(question, each) for each in reading.ended):
            return


async def _pages(node: Node) -> AsyncIterator[list[tuple[bytes, list[bytes]]]]:
    """The events from the newest on, READ_MOST at most."""
    key, before, read = f"{node.history.layout.prefix}:events", b"+", 0
    while read < READ_MOST:
        entries = await node.history.commands.call(b"XREVRANGE", key, before, b"-", b"COUNT", READ_AT_ONCE, repeatable=True)
        read += len(entries)
        yield entries
        if len(entries) < READ_AT_ONCE:
            return
        before = b"(" + entries[-1][0]
        await asyncio.sleep(0)


def _was_written(question: Question, each: Ended) -> bool:
    return each.is_known and each.epoch == question.epoch and each.after < question.offset <= each.offset


def _proves(question: Question, each: Ended) -> bool:
    """Whether nothing that is read from here on changes that it was written to its client."""
    is_named = bool(each.code) is each.closed
    return _was_written(question, each) and is_named and _was_taken(question, each) and not each.filtered


def _was_taken(question: Question, each: Ended) -> bool:
    """Whether what was written to its client left this machine, and nothing shows that the client did not read it."""
    return each.code not in UNREAD_CODES and was_confirmed(question.offset, each.offset, each.waiting, filtered=each.filtered)


def _add_ended(question: Question, reading: _Reading, evidence: Evidence) -> None:
    for each in reading.ended:  # the newest first
        if not each.is_known:
            text = (
                f"client {each.client} was subscribed until then, in a process of an older version, which does not record what it was given"
            )
            evidence.doubt("past", text, at_ms=each.ms, client=each.client)
        elif _was_written(question, each):
            _add_written(question, each, evidence)
        elif each.epoch == question.epoch:
            _add_other(question, each, evidence)
    for client, offset, ms in reading.gaps:
        text = f"client {client} came back, and history did not hold what it had missed any more: the gap was announced to it, and it went on at offset {offset}"
        evidence.add("gap", False, text, at_ms=ms, client=client)
    for client, ms in reading.cut_off:
        text = (
            f"client {client} subscribed then, no process that answered has it now, and its end is not recorded: its process was killed, or did "
            "not answer. What the client was given is not known"
        )
        evidence.doubt("past", text, at_ms=ms, client=client)


def _add_written(question: Question, each: Ended, evidence: Evidence) -> None:
    which = " that its tags filter admitted" if each.filtered else ""
    covered = f"client {each.client} was written every publication from {each.after + 1} to {each.offset}{which}, until {_how(each)}"
    if each.filtered:
        text = f"{covered}; it had a tags filter, which is not recorded: whether this one was left out is not known"
        evidence.doubt("past", text, at_ms=each.ms, client=each.client)
    elif not was_confirmed(question.offset, each.offset, each.waiting, filtered=False):
        text = f"{covered}, and {each.waiting} bytes of that were not confirmed by its machine then: whether this one is among them is not known"
        evidence.doubt("past", text, at_ms=each.ms, client=each.client)
    elif each.closed and not each.code:
        evidence.doubt(
            "past",
            f"{covered}, and with which code is not recorded: whether it had read all of that is not known",
            at_ms=each.ms,
            client=each.client,
        )
    elif each.code in UNREAD_CODES:
        text = f"{covered}: what it did not read of that is not known"
        evidence.doubt("past", text, at_ms=each.ms, client=each.client)
    else:
        evidence.proof("past", covered, at_ms=each.ms, client=each.client)


def _add_other(question: Question, each: Ended, evidence: Evidence) -> None:
    made = question.publication.ms if question.publication is not None else 0
    if each.offset < question.offset and each.ms >= made:
        text = f"client {each.client} had been given the publications up to offset {each.offset} only, when {_how(each)}"
    elif each.offset < question.offset:
        text = f"client {each.client} was away: it was subscribed until {_how(each)}, at offset {each.offset}, before the publication"
    else:
        text = f"client {each.client} was subscribed later, from offset {each.after} on, until {_how(each)}"
    evidence.add("past", False, text, at_ms=each.ms, client=each.client)


def _how(each: Ended) -> str:
    if not each.closed:
        return "its stream went on after a gap" if each.gap else "it was unsubscribed"
    return f"its connection ended with {each.code.decode(errors='replace')} {each.reason}" if each.code else "its connection ended"


async def _add_reach(node: Node, question: Question, reading: _Reading, evidence: Evidence) -> None:
    """Whether the events show all that may have been a delivery."""
    apart = CLOCKS_APART_MS if node.history.commands.sharded else 0
    made = question.publication.ms if question.publication is not None else _began_ms(question.epoch)
    if not reading.count:
        evidence.doubt("past", "no lifecycle event is recorded yet, so those of the time of the publication are not known", setting=SETTING)
    elif not made:
        text = "when the publication was made is not known, so whether the lifecycle events, which begin then, go back so far is not known either"
        evidence.doubt("past", text, at_ms=reading.oldest_ms)
    elif reading.oldest_ms + apart > made:
        is_full = reading.count < READ_MOST and await _is_trimmed(node)
        setting = f"events_size = {node.config.events_size}" if is_full else ""
        text = f"the last {reading.count} lifecycle events, which were read, begin after the publication: who was connected before is not known"
        evidence.doubt("past", text, at_ms=reading.oldest_ms, setting=setting)
    else:
        other = "other " if any(_was_written(question, each) for each in reading.ended) else ""
        text = f"lifecycle events go back to before the publication: no {other}connection whose end they record was given it"
        older = ". A connection that is older than they are, in a process that was killed, would not be among them"
        # A process gathers events for a tenth of a second, so one that is killed leaves no trace of what it began last.
        evidence.add("past", False, text + (older if await _is_trimmed(node) else ""), at_ms=reading.oldest_ms)


def _began_ms(epoch: str) -> int:
    """When an epoch began, in unix ms: it is that microsecond in base 36. 0 if it is no such text."""
    try:
        ms = int(epoch, 36) // 1000
    except ValueError:
        return 0
    return ms if ms <= time.time() * 1000 else 0


async def _is_trimmed(node: Node) -> bool:
    """Whether the stream has let go of its oldest events."""
    key = f"{node.history.layout.prefix}:events"
    words = await node.history.commands.call(b"XINFO", b"STREAM", key, repeatable=True)
    about = dict(zip(words[::2], words[1::2], strict=True))
    return about.get(b"entries-added") != about.get(b"length")
