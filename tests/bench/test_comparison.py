"""What counts as worse, better or level, and which differences of two reports are put into words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.bench.comparison import changes, obstacles, slower
from gateway.bench.report import Figure

from .samples import PEERS, beside_peers, figure, later, plain, report

LEVEL = (10.0, 10.2, 10.4)


def micros(*runs: float, **more: Any) -> Figure:
    return figure("publish", "CPU", "µs", *runs, **more)


@pytest.mark.parametrize(
    "now, verdict",
    [
        (LEVEL, "level"),
        ((11.5, 11.6, 11.7), "worse"),
        ((8.0, 8.1, 8.2), "better"),
        ((10.3, 11.9, 12.0), "level"),  # over a tenth, but the best of these runs is as good as the worst of those
        ((10.5, 10.9, 11.0), "level"),  # apart, but by less than a tenth
        ((0.0, 0.0, 0.0), "better"),
    ],
)
def test_a_figure_changed_if_it_did_by_over_a_tenth_and_no_runs_overlap(now: tuple[float, ...], verdict: str) -> None:
    assert [change.verdict for change in changes(report(micros(*now)), report(micros(*LEVEL)))] == [verdict]


@pytest.mark.parametrize("now, verdict", [(12.0, "level"), (13.0, "worse"), (7.0, "better")])
def test_figures_of_fewer_than_three_runs_must_change_by_over_a_quarter(now: float, verdict: str) -> None:
    assert [change.verdict for change in changes(report(micros(now)), report(micros(*LEVEL)))] == [verdict]


def test_where_more_is_better_less_is_worse() -> None:
    before, now = (report(figure("own", "rate", "1/s", *runs, better="more")) for runs in ((100, 101, 102), (50, 51, 52)))
    assert [change.share for change in slower(now, before)] == [pytest.approx(-0.495, abs=0.001)]
    assert not slower(before, now)


@pytest.mark.parametrize("now, verdict", [(0.0, "level"), (3.0, "worse")])
def test_a_figure_that_was_zero_is_worse_as_soon_as_it_is_more(now: float, verdict: str) -> None:
    assert changes(report(micros(now, now, now)), report(micros(0, 0, 0)))[0].verdict == verdict


def test_a_peer_that_became_worse_is_no_fault_of_the_gateway() -> None:
    before, now = report(micros(1, 1, 1, subject="nchan")), report(micros(9, 9, 9, subject="nchan"))
    assert changes(now, before)[0].verdict == "worse"
    assert slower(now, before) == []


def test_a_later_report_names_what_became_slower() -> None:
    assert [change.figure.name for change in slower(later(), plain())] == ["CPU per delivery to 1,000 subscribers"]
    assert slower(plain(), plain()) == []


def test_reports_that_differ_in_nothing_have_no_obstacle() -> None:
    assert obstacles(plain(), plain()) == []


def test_another_machine_python_part_and_size_are_put_into_words() -> None:
    assert obstacles(later(), plain()) == [
        "The other report was made with another Python: 3.11.9, and this one with 3.14.0.",
        "This report has no storm, which the other has.",
    ]
    before = report(figure("own", "2,000 clients", "µs", 1), cores=8)
    assert obstacles(report(figure("own", "500 clients", "µs", 1)), before) == [
        "The other report is of another machine: 8 cores of AMD EPYC 7763, and this one of 2 cores of AMD EPYC 7763. "
        "What changed may be the machine.",
        "1 of this report's figures are not in the other, as '500 clients': the two did not measure the same.",
    ]


def test_a_peer_that_only_one_report_has_is_named() -> None:
    assert obstacles(beside_peers(), plain()) == [f"The other report has no {' and no '.join(PEERS)}."]


def test_runs_of_another_length_are_named_where_both_lengths_are_known() -> None:
    short, usual = (msgspec.structs.replace(plain(), scale=scale) for scale in (0.06, 1.0))
    (sentence,) = obstacles(short, usual)
    assert sentence.startswith("The other report measured for 1 of the usual time, and this one for 0.06:")
    assert obstacles(short, short) == obstacles(short, plain()) == []
