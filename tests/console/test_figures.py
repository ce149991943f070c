"""What is computed for the console: shares of a histogram, which lines of the log fit a second, answers of other versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.config import Config, Limits
from gateway.console.caller import Caller, answers_of
from gateway.console.live_figures import LINES_BYTES, LINES_MOST, LiveFigures, _Interval, quantile
from gateway.console.log_lines import Line
from gateway.control.messages import Question
from gateway.runtime.histogram import Histogram
from gateway.session.admission import Admission
from gateway.session.control_orders import Orders
from gateway.session.drain import begin_drain, end_drain

from ..kit.operators import WRITE_KEY


@pytest.mark.parametrize(
    "counts, share, value",
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),  # half of the way through the first range
        ([0, 10, 0, 0], 0.5, 1.5),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([99, 0, 1, 0], 0.99, 1.0),
        ([0, 0, 0, 7], 0.5, 4.0),  # above all bounds
    ],
)
def test_a_share_of_what_was_measured_lies_below_its_quantile(counts: list[int], share: float, value: float | None) -> None:
    assert quantile([0.001, 0.002, 0.004], counts, share) == value


class _Lines:
    def __init__(self, *texts: str) -> None:
        self.count = len(texts)
        self._lines = [Line(number, 0, "info", "x", text) for number, text in enumerate(texts, 1)]

    def since(self, count: int) -> list[Line]:
        return self._lines[count:]


class _Node:
    uid = "p1"


class _Measured:
    node = _Node()


def _new_lines(*texts: str) -> dict[str, Any] | None:
    figures = LiveFigures.__new__(LiveFigures)
    figures._lines, figures._seen, figures._measured, figures._name = _Lines(*texts), 0, _Measured(), "here"  # type: ignore[assignment]
    return figures._new_lines()


def test_of_many_new_lines_the_newest_are_published_and_the_others_counted() -> None:
    assert _new_lines() is None
    found = _new_lines(*map(str, range(LINES_MOST + 5)))
    assert found is not None and (len(found["lines"]), found["lines"][-1].text, found["more"]) == (LINES_MOST, str(LINES_MOST + 4), 5)
    found = _new_lines(*["x" * 4000] * 20)
    assert found is not None and len(found["lines"]) + found["more"] == 20
    assert 4000 < sum(len(line.text) for line in found["lines"]) <= LINES_BYTES


class _Bus:
    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    async def survey(self, what: str, pattern: str) -> list[bytes]:
        return self._answers


async def test_a_process_of_another_version_is_left_out_of_the_answers() -> None:
    class Node:
        control = _Bus(b"null", b'{"a":1}', b'["no object"]', b'{"a":2}')

    class Console:
        node = Node()

        def require_others(self) -> None: ...

    caller = Caller(Console(), None)  # type: ignore[arg-type]
    assert await answers_of(caller, "nodes", dict[str, int]) == [{"a": 1}, {"a": 2}]


async def test_a_process_that_does_not_know_a_question_answers_null() -> None:
    orders = Orders(Config(admin_keys=[WRITE_KEY]), "p1", None, None, None, None)  # type: ignore[arg-type]
    assert await orders.answer(Question(1, "p2", "a question of a later version")) == b"null"


async def test_nothing_ends_the_drain_of_a_process_that_is_ending() -> None:
    class Node:
        admission = Admission(Limits(), asyncio.get_running_loop().time)

    Node.admission.draining = Node.admission.ending = True
    begin_drain(Node())  # type: ignore[arg-type]  # it is under way, so nothing begins
    assert end_drain(Node()) == "the process is ending" and Node.admission.draining  # type: ignore[arg-type]


def test_a_mean_is_of_the_values_since_the_last_look() -> None:
    """Not of the time since a page of the console was open last, divided by the values of a second."""
    histogram = Histogram((0.001, 1.0))
    interval = _Interval(histogram)
    for _ in range(1000):
        histogram.add(0.5)
    interval.take()
    histogram.add(0.002)
    assert (interval.mean_ms(), interval.mean_ms()) == (2.0, None)
