"""The pictures of a report: its series as lines, and its figures beside peers as bars.

Every picture has a title, a description of what is to be seen, and its numbers as a table, for readers who do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..edges.pages import STATIC
from .amounts import amount, number, unit_words
from .bar_charts import Bar, bar_chart
from .line_charts import Key, Line, axis_name, line_chart
from .meanings import full_name, key_figure
from .report import Figure, Report, Series
from .svg import WIDTH, Drawing, Markup, element

__all__ = ["STYLE", "Picture", "bars", "beside_peers", "better", "colours", "key_figures", "lines", "svg"]

STYLE = (STATIC / "colours.css").read_text() + (Path(__file__).parent / "pictures.css").read_text()  # of every picture
COLOURS = 6  # of the style sheet; more lines begin anew
DASHES = 4
DIRECT_LINES, DIRECT_CHARACTERS = 4, 8  # up to which names are at the lines' ends
GATEWAY = "gateway"


class Picture(NamedTuple):
    """``rows`` are its numbers as text, under ``heads``; ``note`` is a sentence to go with the title, or ""."""

    part: str
    title: str
    note: str
    description: str
    drawing: Drawing
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def svg(picture: Picture, id: str) -> Markup:
    """As an image that is as wide as its place; ``id`` is its own in the page."""
    drawing = picture.drawing
    return element(
        "svg",
        element("title", picture.title, id=f"{id}-title"),
        element("desc", picture.description, id=f"{id}-description"),
        drawing.content,
        role="img",
        aria_labelledby=f"{id}-title {id}-description",
        viewBox=f"0 0 {drawing.width:.0f} {drawing.height:.0f}",
    )


def colours(report: Report) -> dict[str, int]:
    """Each measured server's colour, the same in all pictures; the gateway's is the first."""
    measured = [*(figure.subject for figure in report.figures), *(series.subject for series in report.series)]
    subjects = dict.fromkeys([GATEWAY, *measured])
    return {subject: place % COLOURS for place, subject in enumerate(subjects)}


def key_figures(report: Report) -> list[Figure]:
    """Of each part the gateway's most important figure, in the order of the report."""
    own = [figure for figure in report.figures if figure.subject == GATEWAY]
    parts = dict.fromkeys(figure.part for figure in own)
    return [key_figure(figure for figure in own if figure.part == part) for part in parts]


# Lines.


def lines(report: Report, width: float = WIDTH) -> list[Picture]:
    """A picture for each part and title of the series that have points, in the order of the report."""
    together: dict[tuple[str, str], list[Series]] = {}
    for series in report.series:
        if series.points:
            together.setdefault((series.part, series.title), []).append(series)
    return [_lines(several, colours(report), width) for several in together.values()]


def _lines(several: Sequence[Series], colour: dict[str, int], width: float) -> Picture:
    first = several[0]
    drawn = _named(several, colour)
    description = " ".join(_course(series, line.name) for series, line in zip(several, drawn, strict=True))
    heads = (axis_name(first.x), *(line.name or axis_name(first.y) for line in drawn))
    drawing = line_chart(drawn, _keys(several, drawn), first.x, first.y, width=width)
    return Picture(first.part, first.title, "", description, drawing, heads, _numbers(drawn))


def _named(several: Sequence[Series], colour: dict[str, int]) -> list[Line]:
    """Of one server, each label has a colour; of several, each server, and the labels have different dashes."""
    subjects = list(dict.fromkeys(series.subject for series in several))
    labels = list(dict.fromkeys(series.label for series in several))
    if len(subjects) == 1:
        return [_line(series, series.label, labels.index(series.label) + colour[series.subject], 0) for series in several]
    return [
        _line(series, ", ".join(filter(None, [series.subject, series.label])), colour[series.subject], labels.index(series.label))
        for series in several
    ]


def _keys(several: Sequence[Series], drawn: Sequence[Line]) -> list[Key]:
    """The colours of servers and the dashes of labels; none where a few short names have room at the lines' ends."""
    if len({series.subject for series in several}) == 1:
        short = len(drawn) <= DIRECT_LINES and all(len(line.name) <= DIRECT_CHARACTERS for line in drawn)
        return [] if short else [Key(line.name, line.colour, line.dash) for line in drawn]
    servers = {series.subject: Key(series.subject, line.colour, 0) for series, line in zip(several, drawn, strict=True)}
    labels = {series.label: Key(series.label, None, line.dash) for series, line in zip(several, drawn, strict=True)}
    return [*servers.values(), *(labels.values() if len(labels) > 1 else ())]


def _line(series: Series, name: str, colour: int, dash: int) -> Line:
    return Line(name, colour % COLOURS, dash % DASHES, series.points)


def _course(series: Series, name: str) -> str:
    """Where a line begins, ends, and is highest."""
    (first_x, first_y), (last_x, last_y) = series.points[0], series.points[-1]
    highest = max(series.points, key=lambda point: point[1])
    x, y = series.x.unit, series.y.unit
    parts = [f"{amount(first_y, y)} at {amount(first_x, x)}"]
    if len(series.points) > 1:
        parts += [f"{amount(last_y, y)} at {amount(last_x, x)}, at most {amount(highest[1], y)} at {amount(highest[0], x)}"]
    return f"{name or series.y.name}: {' to '.join(parts)}."


def _numbers(drawn: Sequence[Line]) -> list[tuple[str, ...]]:
    """A row for each place along the picture; a line that has no point there has none."""
    columns = [dict(line.points) for line in drawn]
    places = sorted({x for column in columns for x in column})
    return [(number(x), *(number(column[x]) if x in column else "" for column in columns)) for x in places]


# Bars.


def beside_peers(report: Report, width: float = WIDTH) -> list[Picture]:
    """A picture for each figure that was measured of several servers."""
    names = dict.fromkeys((figure.part, figure.name, figure.unit) for figure in report.figures)
    together = [[figure for figure in report.figures if (figure.part, figure.name, figure.unit) == name] for name in names]
    return [bars(report, several, width) for several in together if len(several) > 1]


def bars(report: Report, several: Sequence[Figure], width: float = WIDTH) -> Picture:
    """A picture of one figure of several servers."""
    first, colour = several[0], colours(report)
    drawing = bar_chart([Bar(figure, colour[figure.subject]) for figure in several], width=width)
    description = " ".join(f"{figure.subject}: {amount(figure.value, figure.unit)}." for figure in several)
    rows = [(figure.subject, number(figure.value), " · ".join(map(number, figure.runs))) for figure in several]
    heads = ("server", unit_words(first.unit) or "value", "runs")
    return Picture(first.part, full_name(first), better(first), description, drawing, heads, rows)


def better(figure: Figure) -> str:
    return "More is better." if figure.better == "more" else "Less is better."
