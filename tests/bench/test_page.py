"""The page and the terminal's table: what they show, and that names from a file are text and nothing else.

How a browser shows the page is tested in ``static/test_accessibility.py``.
"""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from gateway.bench.page import html
from gateway.bench.report import Axis, Report, decode, encode
from gateway.bench.table import draw

from . import samples
from .samples import figure, report, series


def printed(found: Report, other: Report | None = None, width: int = 150) -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(draw(found, other))
    return [" ".join(line.split()) for line in captured.get().splitlines() if line.strip()]


def words(page: str) -> str:
    """What is to be read on it."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_the_table_has_a_row_for_each_figure_under_its_part() -> None:
    lines = printed(samples.plain())
    assert lines[0] == "figure gateway unit runs load client"
    assert lines[2:5] == [
        "Fan-out",
        "CPU per delivery to 1,000 subscribers 11.4 µs 11.2–11.9",
        "deliveries at most 1,020,000 a second 996,000–1,040,000 91 % busy",
    ]
    assert lines[-1] == "The load client was the limit of: the most deliveries a second."


def test_the_table_has_a_column_for_each_peer() -> None:
    lines = printed(samples.beside_peers())
    assert lines[0] == "figure gateway nchan Centrifugo, Redis engine unit gateway's runs load client"
    assert "CPU per delivery to 1,000 subscribers 11.4 11.7 24.5 µs 11.2–11.9" in lines


def test_the_table_shows_what_changed_since_another_report() -> None:
    lines = printed(samples.later(), samples.plain())
    assert "CPU per delivery to 1,000 subscribers 14.8 µs 14.6–15.5 +30 %, worse" in lines
    assert "memory per idle connection 4.39 KiB 4.39–4.43 level" in lines
    assert lines[-1] == "This report has no storm, which the other has."


@pytest.mark.parametrize("found", [samples.odd(), report()], ids=["odd", "empty"])
def test_the_table_of_odd_reports_is_drawn_and_obeys_no_name(found: Report) -> None:
    assert printed(found, found)
    assert not [line for line in printed(report(figure("own", "\x1b[31m[red]name", "µs", 1))) if "\x1b" in line]


def test_the_page_names_the_machine_the_figures_what_they_mean_and_how_to_repeat_it() -> None:
    text = words(html(samples.plain()))
    assert "Measured on 26 November 2026, 04:12 UTC, in 83.4 seconds, on 127.0.0.1: 2 cores of AMD EPYC 7763, 8 GiB, Linux 6.18" in text
    assert "Fan-out 11.4 µs CPU per delivery to 1,000 subscribers" in text  # the part's key figure
    assert "Resident memory of the server that one more subscribed client takes while nothing happens." in text
    assert "gateway bench --compare now.json" in text


def test_the_page_shows_what_changed_since_another_report() -> None:
    text = words(html(samples.later(), samples.plain()))
    assert "Of 10 figures 1 became worse, 1 better, and 8 are level within noise." in text
    assert "Fan-out: CPU per delivery to 1,000 subscribers: from 11.4 to 14.8 µs, +30 %, worse" in text


def test_names_are_text_whatever_they_hold() -> None:
    page = html(samples.odd(), samples.odd())
    assert "<script" not in page and "<b>" not in page.replace("<b>", "", 4) and "<i>µs" not in page
    assert "&lt;script&gt;" in page


def test_long_lines_are_thinned_in_the_table_of_their_numbers() -> None:
    page = html(report(series("storm", "long", Axis(name="x"), Axis(name="y"), *[(place, place) for place in range(1000)])))
    assert page.count("<tr>") < 120 and "900 rows between these are in the JSON." in page


def test_many_remarks_are_not_in_the_way_of_the_pictures() -> None:
    page = html(report(remarks=tuple(f"Remark {place}." for place in range(8))))
    assert page.index("Remark 4.") < page.index("<summary>3 more</summary>") < page.index("Remark 5.")


def test_a_report_survives_its_json() -> None:
    assert html(decode(encode(samples.beside_peers()))) == html(samples.beside_peers())


def test_every_label_of_the_page_names_one_element() -> None:
    for page in (html(samples.beside_peers(), samples.plain()), html(samples.odd())):
        ids = re.findall(r' id="([^"]*)"', page)
        assert len(ids) == len(set(ids))
        assert {id for label in re.findall(r'aria-labelledby="([^"]*)"', page) for id in label.split()} <= set(ids)
