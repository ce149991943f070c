"""What happened in a run: events in the order in which this process saw them, written as JSON lines.

An event is an object with ``t``, seconds since the run began, and ``what``, beside the fields of the table. A client's events
about a channel are in the order in which it received them, so the verdict needs no clock.

| what       | fields                                    | when                                                              |
|------------|-------------------------------------------|-------------------------------------------------------------------|
| run        | seed, seconds, topology, faults           | first: the faults are the whole schedule                          |
| fault      | id, kind, phase, target, loses            | phase ``begins``, ``mended``, or ``absent`` where it cannot be made |
| published  | channel, n, epoch, offset                 | acknowledged; without a position where only a commit is known     |
| refused    | channel, n, why                           | an attempt failed; the same document is tried again               |
| connected  | client, gateway, id                       | a client has a connection, in which it has this client id         |
| closed     | client, why                               | its connection ended                                              |
| begun      | client, channel, epoch, offset            | a subscription begins after this position, or goes on from it     |
| gap        | client, channel, epoch, offset            | the client was notified that it missed something before this position |
| got        | client, channel, epoch, offset, n         | a publication                                                     |
| bad        | client, channel, why                      | something arrived that never may                                  |
| notified   | user, id                                  | a notification was acknowledged                                   |
| read       | user, id                                  | it was acknowledged as read                                       |
| enqueued   | key                                       | a job was acknowledged                                            |
| presence, inbox, jobs, outbox, history, ready, log | see ``last_look`` | how it was at the end                   |
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Event", "History", "read_history", "write_history"]

Event = dict[str, Any]


class History:
    """The events of one run. ``record`` adds one, with the seconds since ``began``."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.events: list[Event] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def record(self, what: str, **fields: Any) -> None:
        self.events.append({"t": round(self.now, 4), "what": what, **fields})


def write_history(events: Iterable[Event], file: Path) -> None:
    file.write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))


def read_history(file: Path) -> list[Event]:
    return [json.loads(line) for line in file.read_text().splitlines()]
