"""The verdict: what a history violates. Pure.

For each client and channel: offsets without a hole, documents once and in the order in which they were published, the
acknowledged position of each, all of them up to the last one, and a gap wherever something is missing. A gap needs a cause: a fault
that makes Valkey forget publications lasts, or was mended moments before, or the client learns of it only now. A document that was
delivered and then forgotten by Valkey before its publish was acknowledged may come again, after the gap. While a replica takes over
there are two primaries for a moment: what is given to the one that is given up is lost with it. So what was acknowledged during such a
fault may be missing, where Valkey's history does not have it in the end; and what history has, every client has at the same offset.

What is read at the end: every gateway is ready, presence is who is connected, unread is what was notified and not read, every job
has had its effect or is a dead letter with a reason, the outbox is empty, and no log holds a traceback. What Valkey forgot is
excused, and nothing that came after the last fault that could make it forget.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .history import Event

__all__ = ["Finding", "Summary", "judge", "summary"]

MENDED_SECONDS = 5.0  # after a fault was mended, until gateways have noticed all of it
REPORTED_MOST = 5  # findings of one client and channel: after one loss everything else may be wrong too


class Finding(NamedTuple):
    """One violation. ``t`` is the second of the run at which it was seen, ``rule`` a short name of what is violated."""

    t: float
    rule: str
    text: str


class Summary(NamedTuple):
    """What a run did."""

    seconds: float
    faults: int
    publications: int
    deliveries: int
    connections: int
    gaps: int


def summary(events: list[Event]) -> Summary:
    count = Counter(event["what"] for event in events)
    faults = sum(1 for event in events if event["what"] == "fault" and event["phase"] == "begins")
    return Summary(events[-1]["t"], faults, count["published"], count["got"], count["connected"], count["gap"])


def judge(events: list[Event]) -> list[Finding]:
    """Everything that the history violates, in the order of time."""
    by_what: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_what[event["what"]].append(event)
    losses = _losses(by_what["fault"])
    findings = [
        *_of_tracks(events, losses),
        *_of_acknowledgements(by_what["published"], losses),
        *_of_inboxes(by_what, losses),
        *_of_jobs(by_what, losses),
        *_of_the_end(by_what),
    ]
    return sorted(findings)


class Loss(NamedTuple):
    """While a fault lasts that may make Valkey forget what it acknowledged."""

    begins: float
    ends: float


def _losses(faults: list[Event]) -> list[Loss]:
    ends = {event["id"]: event["t"] for event in faults if event["phase"] == "mended"}
    never = float("inf")
    return [Loss(event["t"], ends.get(event["id"], never)) for event in faults if event["phase"] == "begins" and event["loses"]]


def _safe_since(losses: list[Loss]) -> float:
    """From then on Valkey forgot nothing."""
    return max((loss.ends for loss in losses), default=-1.0)


# Clients and channels.


def _of_tracks(events: Iterable[Event], losses: list[Loss]) -> Iterator[Finding]:
    acknowledged: dict[str, dict[int, Event]] = defaultdict(dict)
    kept: dict[str, _Kept] = {}
    tracks: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event["what"] == "published":
            acknowledged[event["channel"]][event["n"]] = event
        elif event["what"] == "history":
            kept[event["channel"]] = _Kept(event["epoch"], dict(event["entries"]))
        elif event["what"] == "follows":
            tracks |= {(event["client"], channel): [] for channel in event["channels"]}
        elif event["what"] in ("begun", "gap", "got"):
            tracks[event["client"], event["channel"]].append(event)
    for (client, channel), track in tracks.items():
        yield from _Track(client, channel, acknowledged[channel], kept.get(channel), losses).findings(track)[:REPORTED_MOST]


class _Kept(NamedTuple):
    """What Valkey's history of a channel has in the end: offset → number of the document."""

    epoch: str
    entries: dict[int, int]


class _Skip(NamedTuple):
    """Documents between ``last`` and ``n`` did not come."""

    t: float
    last: int
    n: int
    position: tuple[str, int]


class _Track:
    """One client in one channel."""

    def __init__(self, client: str, channel: str, acknowledged: dict[int, Event], kept: _Kept | None, losses: list[Loss]) -> None:
        self._name = f"{client} in {channel}"
        self._acknowledged = acknowledged
        self._kept = kept
        self._losses = losses
        self._found: list[Finding] = []
        self._position: tuple[str, int] | None = None
        self._last = -1
        self._may_jump = False
        self._gaps: list[float] = []  # when each was
        self._skips: list[_Skip] = []

    def _report(self, t: float, rule: str, text: str) -> None:
        self._found.append(Finding(t, rule, f"{self._name}: {text}"))

    def findings(self, track: list[Event]) -> list[Finding]:
        for event in track:
            {"begun": self._begun, "gap": self._gap, "got": self._got}[event["what"]](event, (event["epoch"], event["offset"]))
        if track:
            self._end(track)
        else:
            self._report(0.0, "never subscribed", "no subscription began")
        return self._found

    def _begun(self, event: Event, position: tuple[str, int]) -> None:
        if self._position is not None and position != self._position:
            self._report(event["t"], "moved without a gap", f"goes on at {position} after {self._position}")
        self._position = position

    def _gap(self, event: Event, position: tuple[str, int]) -> None:
        self._position, self._may_jump = position, True
        if not any(self._explains(loss, event["t"]) for loss in self._losses):
            self._report(event["t"], "a gap without a cause", f"no fault that loses something explains gap {len(self._gaps) + 1}")
        self._gaps.append(event["t"])

    def _explains(self, loss: Loss, t: float) -> bool:
        return loss.begins <= t <= loss.ends + MENDED_SECONDS or (loss.ends < t and not any(gap > loss.begins for gap in self._gaps))

    def _got(self, event: Event, position: tuple[str, int]) -> None:
        n, before = event["n"], self._position
        if before is None:
            self._report(event["t"], "not subscribed", f"document {n} came before the subscription began")
        elif position[0] != before[0]:
            self._report(event["t"], "another epoch without a gap", f"{position} after {before}")
        elif position[1] <= before[1]:
            self._report(event["t"], "twice", f"offset {position[1]} after {before[1]}")
        elif position[1] > before[1] + 1:
            self._report(event["t"], "lost without a gap", f"offset {position[1]} after {before[1]}")
        elif n <= self._last and not self._may_jump:
            self._report(event["t"], "out of order or twice", f"document {n} after {self._last}, at {position}")
        elif n > self._last + 1 and not self._may_jump:
            self._skips.append(_Skip(event["t"], self._last, n, position))
        self._position, self._last, self._may_jump = position, n, False

    def _end(self, track: list[Event]) -> None:
        for skip in self._skips:
            if not any(self._excuses(loss, skip) for loss in self._losses):
                self._report(skip.t, "lost without a gap", f"document {skip.n} after {skip.last}, at {skip.position}")
        newest = max(self._acknowledged, default=-1)
        if self._last < newest:
            self._report(track[-1]["t"], "lost at the end", f"has document {self._last} as its last, {newest} was acknowledged")
        last_gap = max((place for place, event in enumerate(track) if event["what"] == "gap"), default=-1)
        for event in track[last_gap + 1 :]:
            known = self._acknowledged.get(event.get("n", -1), {})
            if event["what"] == "got" and "offset" in known and (known["epoch"], known["offset"]) != (event["epoch"], event["offset"]):
                text = f"document {event['n']} at {event['epoch']}:{event['offset']}, not {known['epoch']}:{known['offset']}"
                self._report(event["t"], "another position", text)
            if event["what"] == "got" and self._kept is not None and event["epoch"] == self._kept.epoch:
                n = self._kept.entries.get(event["offset"], event["n"])
                if n != event["n"]:
                    self._report(event["t"], "lost without a gap", f"document {event['n']} at {event['offset']}, where history has {n}")

    def _excuses(self, loss: Loss, skip: _Skip) -> bool:
        """Two primaries: what was skipped was given to the one that was given up."""
        numbers = range(skip.last + 1, skip.n)
        missing = [self._acknowledged.get(n) for n in numbers]
        if not all(event is None or self._is_during(loss, event) for event in missing):
            return False
        return any(loss.begins <= gap for gap in self._gaps) or (
            self._kept is not None and not set(numbers) & set(self._kept.entries.values())
        )

    @staticmethod
    def _is_during(loss: Loss, event: Event) -> bool:
        """A document without a position was committed by then, and published later."""
        return event["t"] <= loss.ends + MENDED_SECONDS and (loss.begins <= event["t"] or "offset" not in event)


def _of_acknowledgements(published: list[Event], losses: list[Loss]) -> Iterator[Finding]:
    """Where nothing was forgotten, no two documents of a channel have the same position."""
    first_loss = min((loss.begins for loss in losses), default=float("inf"))
    taken: dict[Any, int] = {}
    for event in published:
        if "offset" in event and event["t"] < first_loss:
            place = event["channel"], event["epoch"], event["offset"]
            if taken.setdefault(place, event["n"]) != event["n"]:
                yield Finding(event["t"], "one position twice", f"documents {taken[place]} and {event['n']} at {place}")


# What is read at the end.


def _of_inboxes(by_what: dict[str, list[Event]], losses: list[Loss]) -> Iterator[Finding]:
    since = _safe_since(losses)
    for inbox in by_what["inbox"]:
        mine = [event for event in by_what["notified"] if event["user"] == inbox["user"]]
        read = {event["id"] for event in by_what["read"] if event["user"] == inbox["user"]}
        expected = {event["id"] for event in mine if event["t"] > since} - read
        found = set(inbox["ids"])
        if inbox["unread"] != len(inbox["ids"]) or len(found) != len(inbox["ids"]):
            yield Finding(inbox["t"], "unread", f"{inbox['user']}: counts {inbox['unread']}, lists {len(inbox['ids'])}")
        if missing := sorted(expected - found):
            yield Finding(inbox["t"], "unread", f"{inbox['user']}: {missing[:3]} are not unread")
        if not losses and (more := sorted(found - expected)):
            yield Finding(inbox["t"], "unread", f"{inbox['user']}: {more[:3]} are unread, but were read or never sent")


def _of_jobs(by_what: dict[str, list[Event]], losses: list[Loss]) -> Iterator[Finding]:
    since = _safe_since(losses)
    for end in by_what["jobs"]:
        for field in ("ready", "delayed", "parked", "running"):
            if end[field]:
                yield Finding(end["t"], "jobs", f"{end[field]} jobs are {field}")
        if nameless := [key for key, reason in end["dead"].items() if not reason]:
            yield Finding(end["t"], "jobs", f"dead letters without a reason: {nameless[:3]}")
        due = {event["key"] for event in by_what["enqueued"] if event["t"] > since}
        if lost := sorted(due - set(end["done"]) - set(end["dead"])):
            yield Finding(end["t"], "jobs", f"{len(lost)} were acknowledged and had no effect: {lost[:3]}")


def _of_the_end(by_what: dict[str, list[Event]]) -> Iterator[Finding]:
    for event in by_what["presence"]:
        present, connected = set(event["present"]), set(event["connected"])
        if present != connected:
            text = f"{sorted(present - connected)} are not connected, {sorted(connected - present)} are not present"
            yield Finding(event["t"], "presence", f"{event['gateway']}, {event['channel']}: {text}")
    for event in by_what["ready"]:
        if event["status"] != 200:
            yield Finding(event["t"], "not ready", f"{event['gateway']}: {event['status']} {event.get('why', '')}")
    for event in by_what["outbox"]:
        if event["waiting"]:
            yield Finding(event["t"], "outbox", f"{event['waiting']} rows wait")
    for event in by_what["log"]:
        yield Finding(event["t"], "log", f"{event['process']}: {event['text']}")
    for event in by_what["bad"]:
        yield Finding(event["t"], "bad", f"{event.get('client', '')} {event.get('channel', '')}: {event['why']}")
