"""Collects what the parts of a run measure, and makes the figures and lines of its report: the medians of all runs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median_low
from typing import Literal, NamedTuple

from .report import Axis, Figure, Part, Series

__all__ = ["Chart", "Findings"]

NEAR_LIMIT = 0.85  # of a core that a load client uses: from here on the figure may be its limit
DIGITS = 4  # of a figure


class Chart(NamedTuple):
    """What is drawn together: its title, and its axes."""

    part: Part
    title: str
    x: Axis
    y: Axis


class _Figure(NamedTuple):
    unit: str
    better: Literal["less", "more"]
    runs: list[float]
    shares: list[float]  # of a core, that the busiest load client used


class Findings:
    """``remarks`` are whole sentences."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._figures: dict[tuple[Part, str, str], _Figure] = {}
        self._points: dict[tuple[Chart, str, str], dict[float, list[float]]] = {}
        self._missing: dict[tuple[Part, str], tuple[int, int]] = {}
        self._lines: dict[tuple[Chart, str, str], list[tuple[float, list[tuple[float, float]]]]] = {}

    def figure(
        self,
        part: Part,
        name: str,
        unit: str,
        subject: str,
        value: float,
        *,
        better: Literal["less", "more"] = "less",
        load_client: float | None = None,
    ) -> None:
        """What one run found. The figure is the median of its runs, its ``load_client`` the largest."""
        figure = self._figures.setdefault((part, name, subject), _Figure(unit, better, [], []))
        figure.runs.append(_rounded(value))
        if load_client is not None:
            figure.shares.append(round(load_client, 2))

    def point(self, chart: Chart, subject: str, label: str, x: float, y: float) -> None:
        """A point of a line, the median of the runs that measure it."""
        self._points.setdefault((chart, subject, label), {}).setdefault(x, []).append(_rounded(y))

    def line(self, chart: Chart, subject: str, label: str, points: list[tuple[float, float]], weight: float) -> None:
        """A whole line; of the lines of all runs, that with the median ``weight`` is drawn."""
        self._lines.setdefault((chart, subject, label), []).append((weight, points))

    def deliveries(self, part: Part, subject: str, wanted: int, missing: int) -> None:
        """So many should have arrived, of which some had not when the part could wait no longer."""
        total, lost = self._missing.get((part, subject), (0, 0))
        self._missing[part, subject] = total + wanted, lost + max(0, missing)

    def remark(self, sentence: str) -> None:
        """The same sentence is written once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def figures(self) -> tuple[Figure, ...]:
        return tuple(
            Figure(
                part=part,
                name=name,
                unit=figure.unit,
                subject=subject,
                value=median_low(figure.runs),
                runs=tuple(figure.runs),
                better=figure.better,
                load_client=max(figure.shares) if figure.shares else None,
            )
            for (part, name, subject), figure in self._figures.items()
        )

    def series(self) -> tuple[Series, ...]:
        return tuple(
            Series(part=chart.part, title=chart.title, x=chart.x, y=chart.y, subject=subject, label=label, points=tuple(points))
            for chart, subject, label, points in self._all_lines()
        )

    def _all_lines(self) -> Iterator[tuple[Chart, str, str, list[tuple[float, float]]]]:
        for (chart, subject, label), found in self._points.items():
            yield chart, subject, label, [(x, median_low(values)) for x, values in sorted(found.items())]
        for (chart, subject, label), lines in self._lines.items():
            yield chart, subject, label, sorted(lines)[len(lines) // 2][1]

    def doubts(self) -> Iterator[str]:
        """What makes figures doubtful: deliveries that did not arrive, and load clients at their limit. A sentence each."""
        for (part, subject), (wanted, missing) in self._missing.items():
            if missing:
                yield f"{part}: {missing:,} of {wanted:,} deliveries of {subject} had not arrived when its measuring ended."
        limited: dict[str, list[str]] = {}
        for figure in self.figures():
            if figure.load_client is not None and figure.load_client >= NEAR_LIMIT and figure.better == "more":
                limited.setdefault(figure.subject, []).append(f"{figure.name} ({figure.load_client:.0%})")
        for subject, names in limited.items():
            yield f"A load client used nearly a whole core, so {subject} may be able to do more than these figures show: {', '.join(names)}."


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
