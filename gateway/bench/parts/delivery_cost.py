"""What a delivery costs: of one channel that many follow, and of many channels that one client each follows."""

from __future__ import annotations

from ..findings import Chart
from ..report import Axis
from ..stage import RUNS, Runs, Stage

__all__ = ["OWN", "SIZES", "fan_out", "own_channels"]

SIZES = (1, 10, 100, 1000)  # subscribers of a channel
DELIVERIES = 20_000  # a second, of a paced run with many subscribers
RATE_MOST = 200.0  # publications a second, with few subscribers
PACED_SECONDS = 1.0
FULL_BATCH = 20  # publications in a request when the most is looked for
FULL_AT_ONCE = 80  # publications in requests that are under way
FULL_SECONDS = 1.5

OWN = 2000  # clients with a channel each
OWN_BATCH = 100
OWN_CONNECTIONS = 2
OWN_SECONDS = 1.5

COST = Chart(
    "fan-out",
    "CPU per delivery over subscribers",
    Axis(name="subscribers", scale="log"),
    Axis(name="CPU per delivery", unit="µs", scale="log"),
)


def fan_out(stage: Stage) -> Runs:
    """CPU for each delivery, over the number of subscribers; then the most deliveries a second."""
    for size in SIZES:
        stage.open(f"fan{size}", [f"fan{size}"], size)()
    try:
        for _ in range(RUNS):
            for size in SIZES:
                _paced(stage, size)
            _at_most(stage, SIZES[-1])
            yield
    finally:
        for size in SIZES:
            stage.close(f"fan{size}")


def _paced(stage: Stage, size: int) -> None:
    stage.note(f"{size:,} subscribers")
    rate = min(RATE_MOST, DELIVERIES / size)
    work = stage.publish_in_time(f"fan{size}", rate, stage.effort.seconds(PACED_SECONDS))
    use = stage.measure(work, lambda answer: answer.done * size)
    if micros := stage.cost(f"CPU per delivery to {size:,} subscriber{'s' * (size > 1)}", use, use.received):
        stage.findings.point(COST, stage.server.name, "", size, micros)


def _at_most(stage: Stage, size: int) -> None:
    stage.note(f"the most to {size:,} subscribers")
    batch = min(FULL_BATCH, stage.server.addressing.batch)
    work = stage.publish_at_once([[f"fan{size}"] * batch], FULL_AT_ONCE // batch, stage.effort.seconds(FULL_SECONDS))
    use = stage.measure(work, lambda answer: answer.done * batch * size)
    stage.figure("deliveries at most", "1/s", use.received / use.seconds, use, better="more")
    stage.cost("CPU per delivery at most", use, use.received)


def own_channels(stage: Stage) -> Runs:
    """Each client has a channel of its own, as with inboxes: a publication is one delivery."""
    count = stage.effort.count(OWN)
    channels = [f"own{number}" for number in range(count)]
    stage.note(f"{count:,} clients connect")
    stage.open("own", channels, count)()
    batch = min(OWN_BATCH, stage.server.addressing.batch)
    requests = [channels[first : first + batch] for first in range(0, count, batch)]
    try:
        for _ in range(RUNS):
            stage.note(f"{count:,} channels")
            work = stage.publish_at_once(requests, OWN_CONNECTIONS, stage.effort.seconds(OWN_SECONDS))
            use = stage.measure(work, lambda answer: sum(len(requests[number % len(requests)]) for number in range(answer.done)))
            stage.cost(f"CPU per publication, {count:,} clients on own channels", use, use.received)
            stage.figure(f"publications, {count:,} clients on own channels", "1/s", use.received / use.seconds, use, better="more")
            yield
    finally:
        stage.close("own")
