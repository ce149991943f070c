"""Latency over load: publications come faster and faster, until the server, or what loads it, can do no more."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..findings import Chart
from ..latencies import percentile
from ..report import Axis
from ..stage import RUNS, Runs, Stage, Use

__all__ = ["SUBSCRIBERS", "latency"]

SUBSCRIBERS = 500
TIMED = 50  # of them measure latencies
LOADS = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_000_000)  # deliveries a second
SECONDS = 0.5
SHOWN = (10_000, 100_000)  # loads whose latencies are figures
GOOD_MS = 50.0
SATURATED_MS = 500.0
ENOUGH = 0.9  # of the publications that a load is made of
HELD_SECONDS = 0.25  # from then on, what a server cannot hold is later than GOOD_MS: after so long, a fifth more than it can is 50 ms late
CHANNEL = "latency"

CURVE = Chart("latency", "Latency over load", Axis(name="deliveries a second", scale="log"), Axis(name="latency", unit="ms", scale="log"))


def latency(stage: Stage) -> Runs:
    """From the moment at which a publication is due until a subscriber has it, p50 and p99."""
    count = SUBSCRIBERS
    stage.note(f"{count:,} clients connect")
    stage.open("latency", [CHANNEL], count, timed=TIMED)()
    if (lasted := stage.effort.seconds(SECONDS)) < HELD_SECONDS:
        stage.findings.remark(
            f"latency: each load lasted {lasted * 1000:.0f} ms, so that one which the server cannot hold for longer may count as held."
        )
    try:
        for _ in range(RUNS):
            loads = _climb(stage, count)
            if loads:  # else the run is too short for a publication
                good = max((each.load for each in loads if each.p99 <= GOOD_MS), default=0)
                busiest = max((each.use for each in loads), key=lambda use: use.load_client)
                stage.figure(f"deliveries with p99 under {GOOD_MS:g} ms", "1/s", good, busiest, better="more")
                if good == LOADS[-1]:
                    stage.findings.remark(
                        f"latency: {stage.server.name} held {good:,} deliveries a second, the most that is tried: it may hold more."
                    )
            yield
    finally:
        stage.close("latency")


class _Load(NamedTuple):
    """A load that was measured, in deliveries a second. ``p99`` is in ms, infinite where so many could not be published or nothing arrived."""

    load: int
    p99: float
    use: Use


def _climb(stage: Stage, count: int) -> list[_Load]:
    """The loads that were measured, up to one that is too much. None where the time is too short for a publication."""
    found: list[_Load] = []
    for load in LOADS:
        p99, use = _measure(stage, load, count)
        if p99 is not None:
            found.append(_Load(load, p99, use))
        if p99 is not None and p99 > SATURATED_MS:
            break
    return found


def _measure(stage: Stage, load: int, count: int) -> tuple[float | None, Use]:
    """Its p99, None where the time is too short for a publication."""
    stage.note(f"{load:,} deliveries a second")
    rate, seconds = load / count, stage.effort.seconds(SECONDS)
    use = stage.measure(stage.publish_in_time(CHANNEL, rate, seconds), lambda answer: answer.done * count)
    stage.settle()
    if use.answer.done < ENOUGH * int(rate * seconds):
        return math.inf, use
    if not sum(use.latencies):
        return (math.inf if use.answer.done else None), use
    p50, p99 = (percentile(use.latencies, share) / 1000 for share in (0.5, 0.99))
    for label, value in (("p50", p50), ("p99", p99)):
        stage.findings.point(CURVE, stage.server.name, label, load, value)
        if load in SHOWN:
            stage.figure(f"{label} at {load:,} deliveries a second", "ms", value, use)
    return p99, use
