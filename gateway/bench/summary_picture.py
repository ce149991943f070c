"""The summary of a report in one picture: an SVG file for a README, which a stranger understands in five seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from .amounts import amount, number, unit_words
from .captions import cores, day
from .meanings import TITLES
from .pictures import STYLE, Picture, bars, key_figures, lines
from .report import Figure, Report
from .svg import Drawing, Markup, element, joined, shortened, text_width, wrapped

__all__ = ["summary"]

_WIDE = 640  # a README shows no more of it
_MARGIN = 28
_INNER = _WIDE - 2 * _MARGIN
_ZOOM = 1.4  # of the charts: a phone shows the picture at half its size
_TITLE = 30  # high
_WEIGHT = ("fan-out", "memory", "latency", "publish")  # the parts that say most to a stranger, in this order

_OWN_STYLE = """
svg .panel { font-size: 17px; font-weight: 650; }
svg .note { font-size: 14px; font-weight: 400; fill: var(--soft); }
svg .big { font-size: 32px; font-weight: 680; letter-spacing: -0.02em; }
svg .unit { font-size: 16px; font-weight: 500; letter-spacing: 0; }
svg .foot { font-size: 13px; fill: var(--soft); }
.ground { fill: var(--card); stroke: var(--line); }
"""

Part = TypeVar("Part", Figure, Picture)


def summary(report: Report) -> str:
    """Beside peers, the bars of two figures; without, three figures and a line. It has a ground: a page may be dark where the system is light."""
    report = _without_runs(report)
    panels = [_panel(picture) for picture in _beside_peers(report)] or list(_alone(report))
    top, content = float(_MARGIN), list[Markup]()
    for drawing in panels:
        content.append(element("g", drawing.content, transform=f"translate({_MARGIN} {top:.0f})"))
        top += drawing.height + _MARGIN
    foot = f"gateway bench, {day(report.began)}, {cores(report.machine)}, Python {report.machine.python}"
    content.append(element("text", shortened(foot, _INNER, 13), class_="foot", x=_MARGIN, y=top + 4))
    return _file(report, content, round(top + _MARGIN))


def _without_runs(report: Report) -> Report:
    """Five seconds are too short for the spread of runs."""
    return msgspec.structs.replace(report, figures=tuple(msgspec.structs.replace(figure, runs=()) for figure in report.figures))


def _file(report: Report, content: Sequence[Markup], height: int) -> str:
    parts = [
        element("title", "What the gateway costs", id="title"),
        element("desc", _words(report), id="description"),
        element("style", Markup(STYLE + _OWN_STYLE)),
        element("rect", class_="ground", x=0.5, y=0.5, width=_WIDE - 1, height=height - 1, rx=12),
    ]
    size = {"width": _WIDE, "height": height, "viewBox": f"0 0 {_WIDE} {height}"}
    labels = {"role": "img", "aria_labelledby": "title description"}
    return element("svg", *parts, *content, xmlns="http://www.w3.org/2000/svg", **labels, **size) + "\n"


def _words(report: Report) -> str:
    """What is to be seen, for readers who do not see it."""
    if shown := _beside_peers(report):
        return " ".join(f"{picture.title}: {picture.description}" for picture in shown)
    return " ".join(f"{figure.name}: {amount(figure.value, figure.unit)}." for figure in _by_weight(key_figures(report))[:3])


def _beside_peers(report: Report) -> list[Picture]:
    """The two of the gateway's key figures that say most, of those that were measured of peers too."""
    several = [[other for other in report.figures if _same(other, figure)] for figure in _by_weight(key_figures(report))]
    return [bars(report, figures, _INNER / _ZOOM) for figures in several if len(figures) > 1][:2]


def _same(figure: Figure, other: Figure) -> bool:
    return (figure.part, figure.name, figure.unit) == (other.part, other.name, other.unit)


def _by_weight(found: Iterable[Part]) -> list[Part]:
    return sorted(found, key=lambda each: _WEIGHT.index(each.part) if each.part in _WEIGHT else len(_WEIGHT))


def _panel(picture: Picture) -> Drawing:
    """A picture with its title, larger than in the page."""
    drawing = picture.drawing
    chart = element("g", drawing.content, transform=f"translate(0 {_TITLE}) scale({_ZOOM})")
    return Drawing(_INNER, _TITLE + drawing.height * _ZOOM, joined([_title(picture), chart]))


def _title(picture: Picture) -> Markup:
    note = element("tspan", picture.note, class_="note", dx=8) if picture.note else ""
    return element("text", shortened(picture.title, _INNER - 120, 18), note, class_="panel", x=0, y=14)


def _alone(report: Report) -> Iterator[Drawing]:
    if figures := _by_weight(key_figures(report))[:3]:
        yield _numbers(figures)
    for picture in _by_weight(lines(report, _INNER / _ZOOM))[:1]:
        yield _panel(picture)


def _numbers(figures: Sequence[Figure]) -> Drawing:
    """As many of them as have room beside each other."""
    needed = list(map(_room, figures))
    while len(needed) > 1 and sum(needed) > _INNER:
        needed.pop()
    left, more, shown = 0.0, (_INNER - sum(needed)) / len(needed), list[Markup]()
    for figure, room in zip(figures, needed, strict=False):
        shown += _number(figure, left, room + more - 16)
        left += room + more
    return Drawing(_INNER, 94, joined(shown))


def _room(figure: Figure) -> float:
    return text_width(number(figure.value), 35) + text_width(unit_words(figure.unit), 16) + 25


def _number(figure: Figure, left: float, room: float) -> Iterator[Markup]:
    yield element("text", TITLES.get(figure.part, figure.part), class_="note", x=left, y=10)
    unit = element("tspan", unit_words(figure.unit), class_="unit", dx=5)
    yield element("text", number(figure.value), unit, class_="big", x=left, y=44)
    for line, words in enumerate(wrapped(figure.name, room, 14, 2)):
        yield element("text", words, class_="note", x=left, y=67 + 18 * line)
