"""The fault rig itself: a short run finds nothing, and its pure parts do what the long runs rely on."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from .history import Event, History, read_history, write_history
from .kinds import MAKERS
from .page import page
from .run import Size, run
from .schedule import KINDS, Fault, kinds_of, loses, schedule
from .shrink import shrink
from .verdict import Finding, judge, summary

LOSSLESS = "clients_flap,gateway_killed,links_cut,commands_cut,functions_flushed,relay_killed,job_worker_killed".split(",")


async def test_nothing_is_violated_in_a_short_run() -> None:
    faults = schedule(5, 7, "single", LOSSLESS)
    assert len(faults) >= 3
    events = await run(5, 7, "single", faults, Size(gateways=2, workers=1, clients=1, pace=0.05))
    assert judge(events) == []
    total = summary(events)
    assert total.faults == len(faults) and total.gaps == 0 and total.deliveries > 500, total


# Schedules.


def test_a_schedule_follows_from_its_seed() -> None:
    kinds = kinds_of("single")
    assert schedule(1, 300, "single", kinds) == schedule(1, 300, "single", kinds[::-1])
    assert schedule(1, 300, "single", kinds) != schedule(2, 300, "single", kinds)


@pytest.mark.parametrize("topology", ["single", "sentinel", "cluster"])
def test_a_long_schedule_has_every_kind_and_can_make_it(topology: str) -> None:
    kinds = kinds_of(topology)
    assert {fault.kind for fault in schedule(1, 1200, topology, kinds)} == set(kinds)
    assert set(kinds) <= set(MAKERS) == set(KINDS)


@pytest.mark.parametrize("topology", ["single", "sentinel", "cluster"])
def test_faults_that_overlap_go_together(topology: str) -> None:
    faults = schedule(7, 3600, topology, kinds_of(topology))
    overlapping = [(one, other) for one, other in combinations(faults, 2) if other.at < one.at + one.seconds]
    assert len(overlapping) > 50
    for one, other in overlapping:
        resources = {KINDS[one.kind].resource, KINDS[other.kind].resource}
        assert len(resources) == 2, (one, other)
        if loses(one.kind, topology) or loses(other.kind, topology):
            assert not resources & {"gateway", "proxy"}, (one, other)


def test_only_some_kinds_may_be_asked_for() -> None:
    assert kinds_of("single", ["links_cut"]) == ["links_cut"]
    with pytest.raises(ValueError, match="there is no fault 'failover' in the topology 'single'"):
        kinds_of("single", ["failover"])


# Shrinking.


@pytest.mark.parametrize("guilty", [{3}, {0, 19}, {4, 5, 6}, {1, 9, 17}])
async def test_a_failing_schedule_is_shrunk_to_the_faults_that_it_needs(guilty: set[int]) -> None:
    async def fails(some: list[int]) -> bool:
        return guilty <= set(some)

    assert await shrink(range(20), fails, tries=200) == sorted(guilty)


async def test_shrinking_ends_after_so_many_runs() -> None:
    runs: list[list[int]] = []

    async def fails(some: list[int]) -> bool:
        runs.append(some)
        return {1, 18} <= set(some)

    smallest = await shrink(range(20), fails, tries=9)
    assert len(runs) == 9 and {1, 18} <= set(smallest) and len(smallest) < 20


# Verdicts. A fabricated history, right as it is, and what is changed in it.


def right_history(documents: int = 6) -> list[Event]:
    """Two clients that follow a channel, a fault that loses nothing, and an end at which everything is as it has to be."""
    events: list[Event] = [{"what": "run", "seed": 1, "seconds": 1.0, "topology": "single", "faults": []}]
    events += [{"what": "follows", "client": client, "channels": ["c"]} for client in "ab"]
    events += [{"what": "begun", "client": client, "channel": "c", "epoch": "e", "offset": 0} for client in "ab"]
    events += [fault_event("begins"), fault_event("mended")]
    for n in range(documents):
        events.append({"what": "published", "channel": "c", "n": n, "epoch": "e", "offset": n + 1})
        events += [{"what": "got", "client": client, "channel": "c", "epoch": "e", "offset": n + 1, "n": n} for client in "ab"]
    events += [{"what": "notified", "user": "a", "id": "1"}, {"what": "notified", "user": "a", "id": "2"}]
    events += [{"what": "read", "user": "a", "id": "1"}, {"what": "enqueued", "key": "job"}]
    events += [
        {"what": "presence", "gateway": "g", "channel": "c", "present": ["1", "2"], "connected": ["2", "1"]},
        {"what": "inbox", "user": "a", "unread": 1, "ids": ["2"]},
        {"what": "jobs", "ready": 0, "delayed": 0, "parked": 0, "running": 0, "dead": {}, "done": ["job"]},
        {"what": "outbox", "waiting": 0},
        {"what": "ready", "gateway": "g", "status": 200},
    ]
    return [{"t": float(number), **event} for number, event in enumerate(events)]


def fault_event(phase: str, *, loses: bool = False, t: float = 0.0) -> Event:
    return {"t": t, "what": "fault", "id": 0, "kind": "links_cut", "phase": phase, "target": "x", "loses": loses}


def rules(events: list[Event]) -> list[str]:
    return sorted({finding.rule for finding in judge(events)})


def got(events: list[Event], n: int, client: str = "a") -> Event:
    return next(event for event in events if event["what"] == "got" and event["client"] == client and event["n"] == n)


def without(events: list[Event], n: int) -> list[Event]:
    return [event for event in events if event is not got(events, n)]


def exchanged(events: list[Event]) -> list[Event]:
    """Documents 2 and 3 of a client come in the other order, at the offsets that were expected."""
    got(events, 2)["n"], got(events, 3)["n"] = 33, 2
    got(events, 33)["n"] = 3
    return events


def renumbered(events: list[Event]) -> list[Event]:
    """A client misses document 2, and the offsets that it sees have no hole."""
    kept = without(events, 2)
    for event in kept:
        if event["what"] == "got" and event["client"] == "a" and event["n"] > 2:
            event["offset"] -= 1
    return kept


def doubled(events: list[Event]) -> list[Event]:
    events.insert(events.index(got(events, 4)), dict(got(events, 3)))
    return events


def moved(events: list[Event], what: str) -> list[Event]:
    """A client's position jumps over document 2: by a gap, or in silence."""
    kept = without(events, 2)
    place = {"t": got(events, 2)["t"], "client": "a", "channel": "c", "epoch": "e", "offset": 3}
    kept.insert(kept.index(got(kept, 3)), {"what": what, **place})
    return kept


def changed(what: str, **fields: Any) -> Callable[[list[Event]], list[Event]]:
    def change(events: list[Event]) -> list[Event]:
        return [event | (fields if event["what"] == what else {}) for event in events]

    return change


PLANTED: dict[str, tuple[Callable[[list[Event]], list[Event]], list[str]]] = {
    "nothing": (lambda events: events, []),
    "a loss": (lambda events: without(events, 2), ["lost without a gap"]),
    "a loss that the offsets hide": (renumbered, ["another position", "lost without a gap"]),
    "a loss at the end": (lambda events: without(events, 5), ["lost at the end"]),
    "a double": (doubled, ["twice"]),
    "another order": (exchanged, ["another position", "lost without a gap", "out of order or twice"]),
    "a gap that was not announced": (lambda events: moved(events, "begun"), ["lost without a gap", "moved without a gap"]),
    "a gap without a cause": (lambda events: moved(events, "gap"), ["a gap without a cause"]),
    "a client that is never subscribed": (
        lambda events: [event for event in events if event.get("client") != "b" or event["what"] == "follows"],
        ["never subscribed"],
    ),
    "somebody present who is not there": (changed("presence", present=["1", "2", "3"]), ["presence"]),
    "somebody there who is not present": (changed("presence", present=["1"]), ["presence"]),
    "an unread notification that was read": (changed("inbox", unread=2, ids=["2", "1"]), ["unread"]),
    "a notification that is not unread": (changed("inbox", unread=0, ids=[]), ["unread"]),
    "a count that is wrong": (changed("inbox", unread=5), ["unread"]),
    "a job without an effect": (changed("jobs", done=[]), ["jobs"]),
    "a job that still runs": (changed("jobs", running=1), ["jobs"]),
    "a dead letter without a reason": (changed("jobs", dead={"x": ""}), ["jobs"]),
    "a row in the outbox": (changed("outbox", waiting=1), ["outbox"]),
    "a gateway that is not ready": (changed("ready", status=503), ["not ready"]),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_verdict_finds_what_is_planted(planted: str) -> None:
    change, expected = PLANTED[planted]
    assert rules(change(right_history())) == expected


def lossy(events: list[Event]) -> list[Event]:
    """The same with a fault, from the first document on, that may make Valkey forget something."""
    last = events[-1]["t"]
    return [*events, fault_event("begins", loses=True) | {"id": 1}, fault_event("mended", loses=True, t=last) | {"id": 1}]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [([0, 1, 3, 4, 5], []), ([0, 1, 2, 4, 5], ["lost without a gap"]), ([0, 1, 2, 3, 4], ["lost without a gap"])],
    ids=["as the client received it", "another document in its place", "all of it, at other offsets"],
)
def test_what_a_replaced_primary_was_given_may_be_missing_where_history_lacks_it_too(entries: list[int], expected: list[str]) -> None:
    events = [event for event in renumbered(right_history()) if event["what"] != "published"]
    events += [{"t": 20.0, "what": "published", "channel": "c", "n": n} for n in range(6)]
    events.append({"t": 90.0, "what": "history", "channel": "c", "epoch": "e", "entries": list(enumerate(entries, 1))})
    events = [event for event in events if event.get("client") != "b"]
    assert rules(lossy(events)) == expected


def test_a_gap_is_right_where_a_fault_may_lose_something() -> None:
    events = moved(right_history(), "gap")
    at = next(place for place, event in enumerate(events) if event["what"] == "fault")
    events[at : at + 2] = [fault_event("begins", loses=True, t=events[at]["t"]), fault_event("mended", loses=True, t=events[at + 1]["t"])]
    assert rules(events) == []
    assert rules([event for event in events if event["what"] != "gap"]) == ["lost without a gap"], "it must be announced still"


def test_what_was_acknowledged_after_the_last_loss_is_not_excused() -> None:
    events = changed("jobs", done=[])(changed("inbox", unread=0, ids=[])(right_history()))
    for event in events:
        event["loses"] = event["what"] == "fault"
    assert rules(events) == ["jobs", "unread"]
    late = fault_event("begins", loses=True, t=events[-1]["t"])
    assert rules([*events, late | {"id": 1}]) == [], "a fault that is not mended may have lost all of it"


# What is written.


class _Checker(HTMLParser):
    """Collects every address that a page names, and checks that its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_faults_gaps_and_findings_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    events = moved(right_history(), "gap")
    text = page(events, [Finding(3.0, "lost <without> a gap", "a & b")])
    checker = _Checker()
    checker.feed(text)
    assert checker.open == [] and checker.addresses == []
    assert "links_cut" in text and 'class="gap"' in text and "lost &lt;without&gt; a gap" in text and "prefers-color-scheme: dark" in text


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = History()
    history.record("run", seed=1, faults=[list(Fault(1.5, "links_cut", 2.0, 0.25))])
    write_history(history.events, tmp_path / "history.jsonl")
    assert read_history(tmp_path / "history.jsonl") == history.events
    assert Fault(*read_history(tmp_path / "history.jsonl")[0]["faults"][0]) == Fault(1.5, "links_cut", 2.0, 0.25)
