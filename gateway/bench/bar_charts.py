"""Bars of one figure as SVG: a server's name above its bar, the number at its end, the spread of its runs as a thin line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .amounts import amount, number
from .report import Figure
from .svg import WIDTH, Drawing, Markup, element, joined, shortened, text_width

__all__ = ["Bar", "bar_chart"]

_ROW = 38.0  # the name, the bar, and space
_BAR = 11.0


class Bar(NamedTuple):
    """``colour`` is a number of the style sheet's."""

    figure: Figure
    colour: int


def bar_chart(bars: Sequence[Bar], *, width: float = WIDTH) -> Drawing:
    """The figures of several servers, which have one unit. At a peer's end is how many times the gateway's it is."""
    own = next((bar.figure.value for bar in bars if bar.figure.subject == "gateway"), 0.0)
    words = [(amount(bar.figure.value, bar.figure.unit), _times(bar.figure, own)) for bar in bars]
    room = max(text_width("   ".join(each)) * 1.08 for each in words) + 12
    most = max((abs(value) for bar in bars for value in (bar.figure.value, *bar.figure.runs) if math.isfinite(value)), default=0) or 1
    drawn = [part for place, bar in enumerate(bars) for part in _row(bar, *words[place], place * _ROW, (width - room) / most, width)]
    return Drawing(width, len(bars) * _ROW - 6, joined(drawn))


def _row(bar: Bar, value: str, times: str, top: float, scale: float, width: float) -> Iterator[Markup]:
    figure, strong = bar.figure, " strong" if bar.figure.subject == "gateway" else ""
    middle = top + 23
    end = max(_shown(figure.value) * scale, 2.0)
    yield element("text", shortened(figure.subject, width - 4), class_=f"subject{strong}", x=0, y=top + 12)
    yield element("rect", class_=f"bar c{bar.colour}", x=0, y=middle - _BAR / 2, width=end, height=_BAR, rx=2)
    reach = [_shown(run) * scale for run in figure.runs] or [end]
    if max(reach) - min(reach) > 2:
        path = f"M{min(reach):.1f} {middle - 3}v6m0 -3H{max(reach):.1f}m0 -3v6"
        yield element("path", class_="spread", d=path)
    ratio = [element("tspan", times, class_="ratio", dx=8)] if times else []
    yield element("text", value, *ratio, class_=f"value{strong}", x=max(end, *reach) + 7, y=middle + 4.3)


def _times(figure: Figure, own: float) -> str:
    """How many times the gateway's a peer's figure is."""
    return f"{number(round(figure.value / own, 2))} ×" if own > 0 and figure.subject != "gateway" and figure.value > 0 else ""


def _shown(value: float) -> float:
    return max(value, 0.0) if math.isfinite(value) else 0.0
