"""The pictures as SVG: what is in them, that they are well formed, and that their colours can be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from gateway.bench.pictures import STYLE, beside_peers, lines, svg
from gateway.bench.report import Axis, Report
from gateway.bench.summary_picture import summary
from gateway.edges.pages import STATIC

from . import samples
from .samples import PEERS, report, series

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter() if each.tag.removeprefix(SVG) == "text"]


def test_a_line_has_axes_with_units_ticks_and_its_points_numbers() -> None:
    picture = next(picture for picture in lines(samples.plain()) if picture.title == "CPU per delivery")
    root = parsed(svg(picture, "cost"))
    shown = texts(root)
    assert "CPU per delivery, µs" in shown and "subscribers of the channel" in shown
    assert [text for text in shown if text[0].isdigit()] == ["0", "20", "40", "60", "80", "1", "10", "100", "1,000", "10,000"]
    assert root.find("g/circle/title").text == "73.1 µs at 1"  # type: ignore[union-attr]  # a missing title fails as well
    assert picture.heads == ("subscribers of the channel", "CPU per delivery, µs")
    assert picture.rows[0] == ("1", "73.1") and len(picture.rows) == 9


def test_short_names_are_at_the_ends_of_lines_and_never_touch() -> None:
    x, y = Axis(name="x"), Axis(name="y")
    picture = lines(report(*[series("latency", "same", x, y, (0, 0), (1, 1), label=label) for label in ("p50", "p99", "max")]))[0]
    names = [each for each in parsed(svg(picture, "a")).iter("text") if "name" in each.attrib["class"]]
    assert [each.text for each in names] == ["p50", "p99", "max"]
    heights = [float(each.attrib["y"]) for each in names]
    assert all(after - before >= 13 for before, after in pairwise(heights))
    assert 0 < heights[0] and heights[-1] < picture.drawing.height


def test_beside_peers_colours_are_servers_and_dashes_are_labels() -> None:
    picture = next(picture for picture in lines(samples.beside_peers()) if picture.part == "latency")
    root = parsed(svg(picture, "a"))
    assert [text for text in texts(root) if not text[0].isdigit()][1:6] == ["gateway", *PEERS, "p50", "p99"]
    drawn = {(group.attrib["class"], path.attrib["class"]) for group in root.iter("g") for path in group.iter("path")}
    assert drawn == {(f"c{colour}", f"line d{dash}") for colour in range(3) for dash in range(2)}


def test_bars_show_how_many_times_the_gateways_a_peers_figure_is() -> None:
    pictures = {picture.title: picture for picture in beside_peers(samples.beside_peers())}
    assert list(pictures) == [
        "Fan-out: CPU per delivery to 1,000 subscribers",
        "Memory per idle connection",
        "Publishing: CPU per publication by HTTP",
    ]
    picture = pictures["Memory per idle connection"]
    assert texts(parsed(svg(picture, "a"))) == ["gateway", "4.3 KiB", "nchan", "5.6 KiB1.3 ×", "Centrifugo, Redis engine", "48.9 KiB11.4 ×"]
    assert picture.description == "gateway: 4.3 KiB. nchan: 5.6 KiB. Centrifugo, Redis engine: 48.9 KiB."


@pytest.mark.parametrize("made", [samples.plain, samples.beside_peers, samples.odd])
def test_every_picture_is_well_formed_and_names_itself(made: Callable[[], Report]) -> None:
    found = made()
    for picture in [*lines(found), *beside_peers(found)]:
        root = parsed(svg(picture, "some"))
        assert root.attrib["role"] == "img" and root.attrib["aria-labelledby"] == "some-title some-description"
        assert root.find("title").text == picture.title and root.find("desc").text  # type: ignore[union-attr]
        assert not list(root.iter("script")) and "nan" not in svg(picture, "some")


def test_series_without_points_have_no_picture() -> None:
    assert "Nothing" not in [picture.title for picture in lines(samples.odd())]
    assert lines(report()) == beside_peers(report()) == []


def test_the_readmes_picture_shows_deliveries_and_memory_beside_peers() -> None:
    shown = texts(parsed(summary(samples.beside_peers())))
    assert shown[0] == "Fan-out: CPU per delivery to 1,000 subscribersLess is better."
    assert shown[1:3] == ["gateway", "11.4 µs"] and "Memory per idle connectionLess is better." in shown
    assert shown[-1] == "gateway bench, 26 November 2026, 2 cores of AMD EPYC 7763, Python 3.11.9"


def test_the_readmes_picture_without_peers_shows_numbers_and_the_cost_of_deliveries() -> None:
    shown = texts(parsed(summary(samples.plain())))
    assert shown[1] == "11.4µs" and "4.3KiB" in shown and "CPU per delivery" in shown


def test_the_readmes_picture_of_odd_reports_is_well_formed() -> None:
    for found in (samples.odd(), report()):
        assert parsed(summary(found)).tag == f"{SVG}svg"


def test_the_picture_in_the_readme_is_there_and_follows_the_systems_colours() -> None:
    text = (STATIC / "bench.svg").read_text()
    assert "(static/bench.svg)" in (STATIC.parent / "README.md").read_text()
    assert "prefers-color-scheme: dark" in text and parsed(text).attrib["role"] == "img"


def _scheme(dark: bool) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)  # light and dark of what pages share, then of pictures
    return dict(re.findall(r"--([\w-]+): (#\w{6});", "".join(blocks[dark::2])))


def _brightness(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_colours_can_be_read_as_text_and_differ(dark: bool) -> None:
    colours = _scheme(dark)
    lines_and_texts = [name for name in colours if name[0] == "c" and name != "card"] + ["ink", "soft"]
    assert len(lines_and_texts) == 8
    for ground in ("paper", "card"):
        for name in lines_and_texts:
            low, high = sorted([_brightness(colours[ground]), _brightness(colours[name])])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, name)
    assert all(colours[one] != colours[other] for one, other in combinations(lines_and_texts[:6], 2))
