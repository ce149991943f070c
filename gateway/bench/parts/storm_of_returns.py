"""A storm: many clients come back at once, and each has missed publications that it is sent now."""

from __future__ import annotations

from itertools import pairwise

from ...errors import GatewayError
from ...publication import Position
from ..findings import Chart
from ..load_orders import SAMPLE_SECONDS, Answer
from ..report import Axis
from ..server_api import position_of
from ..stage import RUNS, Runs, Stage

__all__ = ["CLIENTS", "storm"]

CLIENTS = 2000
MISSED = 100
AT_ONCE = 500  # being opened at a time
CHANNEL = "storm"
POINTS = 25  # of the chart

ARRIVALS = Chart("storm", "A storm over time", Axis(name="since the return", unit="s"), Axis(name="deliveries a second"))


def storm(stage: Stage) -> Runs:
    """How long it takes until all have all, what it costs, and how often Valkey is asked."""
    count, addressing = stage.effort.count(CLIENTS), stage.server.addressing
    stage.note("publications that nobody receives")
    since = position_of(stage.server, CHANNEL) if addressing.tokens else Position("", 0)
    batch = min(MISSED, addressing.batch)
    for _ in range(0, MISSED, batch):
        _publish_once(stage, batch)
    for run in range(RUNS):
        stage.note(f"{count:,} clients return")
        _return(stage, f"storm{run}", count, since)
        yield


def _publish_once(stage: Stage, batch: int) -> None:
    """Each request is answered before the next is sent."""
    answer = stage.publish_at_once([[CHANNEL] * batch], 1, 0.0)()
    if answer.done != 1:
        raise GatewayError(f"{answer.done} requests were answered where one was sent")


def _return(stage: Stage, group: str, count: int, since: Position) -> None:
    work = stage.open(group, [CHANNEL], count, since=since, at_once=AT_ONCE, deliveries=count * MISSED)
    use = stage.measure(work, valkey=True)
    what = f"{count:,} clients return, {MISSED} missed each"
    stage.figure(f"{what}: until all have all", "s", use.answer.seconds, use)
    stage.cost("CPU per returning client", use, count)
    if stage.has_valkey:
        stage.figure(f"{what}: reads of Valkey", "", use.reads)
    stage.findings.line(ARRIVALS, stage.server.name, "", _course(use.answer), use.answer.seconds)
    stage.close(group)


def _course(answer: Answer) -> list[tuple[float, float]]:
    """Deliveries a second over the seconds since the return began, up to POINTS of them. They were counted each SAMPLE_SECONDS."""
    counted = [0, *answer.line]
    step = -(-len(counted) // POINTS)
    received = [*counted[::step], answer.received]
    seconds = step * SAMPLE_SECONDS
    rates = [(now - before) / seconds for before, now in pairwise(received)]
    return [(0.0, 0.0), *((round((place + 0.5) * seconds, 3), rate) for place, rate in enumerate(rates))]
