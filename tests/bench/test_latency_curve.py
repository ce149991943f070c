"""Latency over load: what was not measured is no figure."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from gateway.bench.latencies import BOUNDS
from gateway.bench.load_orders import Answer
from gateway.bench.parts import latency_curve
from gateway.bench.parts.latency_curve import LOADS, SUBSCRIBERS, latency
from gateway.bench.stage import Effort, Use

LOAD_CLIENT = 0.9  # of a core


def measured(scale: float, *, arrive: bool) -> Mock:
    """The stage of a run of that length, with a server that takes what is published in time, and delivers it at once or never."""
    stage = Mock(effort=Effort(scale))
    stage.server.name = "gateway"

    def publish(channel: str, rate: float, seconds: float) -> int:
        return int(rate * seconds)

    def measure(published: int, expected: object) -> Use:
        counts = [published if arrive else 0, *[0] * len(BOUNDS)]
        return Use(Answer(done=published), 1.0, 0.0, 0.0, 0, LOAD_CLIENT, 0, counts)

    stage.publish_in_time.side_effect, stage.measure.side_effect = publish, measure
    for _ in latency(stage):
        pass
    return stage


def remarks(stage: Mock) -> list[str]:
    return [call.args[0] for call in stage.findings.remark.call_args_list]


def figures(stage: Mock) -> dict[str, float]:
    return {call.args[0]: call.args[2] for call in stage.figure.call_args_list}


def test_a_run_that_is_too_short_for_a_publication_finds_nothing() -> None:
    stage = measured(1e-9, arrive=True)
    assert not figures(stage) and not stage.findings.point.called, (
        "it found latencies of 0 ms, and that a million deliveries a second are held"
    )
    (remark,) = stage.findings.remark.call_args.args
    assert "each load lasted 0 ms" in remark


def test_a_load_of_which_nothing_arrives_is_not_held() -> None:
    stage = measured(1.0, arrive=False)
    assert figures(stage) == {"deliveries with p99 under 50 ms": 0} and not remarks(stage)


def test_the_highest_load_that_is_held_shows_how_busy_the_load_client_was() -> None:
    stage = measured(1.0, arrive=True)
    uses = [call.args[3] for call in stage.figure.call_args_list if call.args[0].startswith("deliveries")]
    assert uses and all(use.load_client == LOAD_CLIENT for use in uses)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_loads_of_which_everything_arrives_are_held_as_far_as_they_were_tried(scale: float) -> None:
    stage = measured(scale, arrive=True)
    assert figures(stage)["deliveries with p99 under 50 ms"] == LOADS[-1]
    assert any("each load lasted" in remark for remark in remarks(stage)) == (scale * latency_curve.SECONDS < latency_curve.HELD_SECONDS)
    assert "latency: gateway held 1,000,000 deliveries a second, the most that is tried: it may hold more." in remarks(stage)
    tried = [load for load in latency_curve.SHOWN if int(load / SUBSCRIBERS * stage.effort.seconds(latency_curve.SECONDS))]
    assert {f"p99 at {load:,} deliveries a second" in figures(stage) for load in tried} <= {True}
