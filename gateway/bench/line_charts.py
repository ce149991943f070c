"""Lines of one picture as SVG: axes with ticks and units, and the names of the lines above them or at their ends.

    y axis's name
    keys: names of colours and dashes, if there are any
    │ grid, lines
    └──────────── x ticks
        x axis's name

All places are in a picture that is ``WIDTH`` wide, which is about as many pixels of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .amounts import amount, tick_names, unit_words
from .axes import Scale, cost_scale, fitted_scale
from .report import Axis
from .svg import WIDTH, Drawing, Markup, element, joined, shortened, text_width

__all__ = ["Key", "Line", "axis_name", "line_chart"]

_PLOT = 176  # high
_ROW = 17  # of the lines' names
_SWATCH = 24  # a piece of the line before its name
_MARKED = 30  # points; where a line has more, none has marks
_BOLD = 1.1  # names are, which makes them wider


class Key(NamedTuple):
    """What a colour or a dash means; ``colour`` is None where it is a dash of any colour."""

    name: str
    colour: int | None
    dash: int


class Line(NamedTuple):
    """``colour`` and ``dash`` are numbers of the style sheet's."""

    name: str
    colour: int
    dash: int
    points: tuple[tuple[float, float], ...]


class _Frame(NamedTuple):
    """Where the plot is, and the scales of its sides."""

    left: float
    right: float
    top: float
    bottom: float
    x: Scale
    y: Scale

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        across, up = self.x.place(point[0]), self.y.place(point[1])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def axis_name(axis: Axis) -> str:
    """ "latency, ms", "deliveries a second"."""
    unit = unit_words(axis.unit)
    return f"{axis.name}{' ' if unit.startswith('a ') else ', '}{unit}" if unit else axis.name


def line_chart(lines: Sequence[Line], keys: Sequence[Key], x: Axis, y: Axis, *, width: float = WIDTH) -> Drawing:
    """Without ``keys``, the names of several lines are at their ends. Points that are no numbers are left out."""
    lines = [line._replace(points=tuple(point for point in line.points if all(map(math.isfinite, point)))) for line in lines]
    rows = _rows_of_keys(keys, width)
    marked = all(len(line.points) <= _MARKED for line in lines)
    direct = [line for line in lines if line.points] if len(lines) > 1 and not keys else []
    room = max((text_width(line.name) * _BOLD + 10 for line in direct), default=14)
    frame = _frame(lines, x, y, top=28.0 + _ROW * len(rows), right=width - room)
    parts = [
        element("text", shortened(axis_name(y), width - 4), class_="axis", x=2, y=12),
        *_keys(rows),
        *_grid(frame),
        *_ticks_across(frame),
        element("text", shortened(axis_name(x), width - 4), class_="axis", x=frame.right, y=frame.bottom + 34, text_anchor="end"),
        *[
            _line(line, frame, x, y, marked=marked, washed=len(lines) == 1) for line in reversed(lines)
        ],  # the first is the gateway's, and above all
        *_names_at_the_ends(direct, frame),
    ]
    return Drawing(width, frame.bottom + 40, joined(parts))


def _frame(lines: Sequence[Line], x: Axis, y: Axis, *, top: float, right: float) -> _Frame:
    points = [point for line in lines for point in line.points]
    across, up = fitted_scale([point[0] for point in points], x.scale), cost_scale([point[1] for point in points], y.scale)
    left = max(map(text_width, tick_names(up.ticks))) + 10
    return _Frame(left, right, top, top + _PLOT, across, up)


# Axes.


def _grid(frame: _Frame) -> Iterator[Markup]:
    for value, name in zip(frame.y.ticks, tick_names(frame.y.ticks), strict=True):
        y = frame.at((frame.x.low, value))[1]
        yield element("path", d=f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}", class_="base" if value == frame.y.low else "grid")
        yield element("text", name, class_="tick", x=frame.left - 7, y=y + 4, text_anchor="end")


def _ticks_across(frame: _Frame) -> Iterator[Markup]:
    """A tick's number is left out where it would touch the one before it."""
    free = -math.inf
    for value, name in zip(frame.x.ticks, tick_names(frame.x.ticks), strict=True):
        x = frame.at((value, frame.y.low))[0]
        yield element("path", d=f"M{x:.1f} {frame.bottom:.1f}v4", class_="base")
        half = text_width(name) / 2
        if x - half > free:
            yield element("text", name, class_="tick", x=x, y=frame.bottom + 17, text_anchor="middle")
            free = x + half + 6


# Lines.


def _line(line: Line, frame: _Frame, x: Axis, y: Axis, *, marked: bool, washed: bool) -> Markup:
    """A line; under a single one a wash of its colour."""
    places = [frame.at(point) for point in line.points]
    path = "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in places)
    parts = [element("path", d=path, class_=f"line d{line.dash}")] if len(places) > 1 else []
    if washed and parts and not frame.y.log:
        ground = frame.at((frame.x.low, max(frame.y.low, 0.0)))[1]
        parts.insert(0, element("path", d=f"{path}V{ground:.1f}H{places[0][0]:.1f}Z", class_="wash"))
    if marked:
        parts += [_mark(line, point, place, x, y) for point, place in zip(line.points, places, strict=True)]
    return element("g", *parts, class_=f"c{line.colour}")


def _mark(line: Line, point: tuple[float, float], place: tuple[float, float], x: Axis, y: Axis) -> Markup:
    """A point, with its numbers where a mouse rests on it."""
    words = f"{line.name + ': ' if line.name else ''}{amount(point[1], y.unit)} at {amount(point[0], x.unit)}"
    return element("circle", element("title", words), class_="mark", cx=place[0], cy=place[1], r=2.75)


# Their names.


def _names_at_the_ends(lines: Sequence[Line], frame: _Frame) -> Iterator[Markup]:
    """From the top to the bottom, each at least a row under the one before it."""
    ends = sorted(((*frame.at(line.points[-1]), line) for line in lines), key=lambda end: end[1])
    lowest = frame.bottom - (len(ends) - 1) * (_ROW - 3)
    free = frame.top - _ROW
    for place, (x, y, line) in enumerate(ends):
        free = min(max(y, free), lowest + place * (_ROW - 3))
        yield element("text", line.name, class_=f"name c{line.colour}", x=x + 7, y=free + 4)
        free += _ROW - 3


def _rows_of_keys(keys: Sequence[Key], width: float) -> list[list[tuple[Key, float]]]:
    """The keys in rows, each with its place from the left."""
    rows: list[list[tuple[Key, float]]] = []
    left = width
    for key in keys:
        needed = _SWATCH + text_width(key.name) * _BOLD + 14
        if left + needed - 14 > width:
            rows, left = [*rows, []], 2.0
        rows[-1].append((key, left))
        left += needed
    return rows


def _keys(rows: Sequence[Sequence[tuple[Key, float]]]) -> Iterator[Markup]:
    for number, row in enumerate(rows):
        y = 13.0 + _ROW * (number + 1)
        for key, left in row:
            colour = "" if key.colour is None else f" c{key.colour}"
            yield element("path", d=f"M{left:.1f} {y - 4:.1f}h17", class_=f"line d{key.dash}{colour}")
            yield element("text", shortened(key.name, (WIDTH - _SWATCH - 8) / _BOLD), class_=f"name{colour}", x=left + _SWATCH, y=y)
