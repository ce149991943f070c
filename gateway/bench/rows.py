"""The figures of a report as rows, which the terminal's table and the page show alike: one row a figure, one column a measured server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .amounts import number, percent
from .comparison import Change, changes
from .report import Figure, Report

__all__ = ["NEAR_LIMIT", "Row", "change_words", "rows_by_part", "spread", "subjects"]

NEAR_LIMIT = 0.8  # of a core: from here on the load client may be what limits a figure


class Row(NamedTuple):
    """``figures`` are by subject; ``load_client`` is "" unless it was near its limit; ``change`` is the gateway's since the other report."""

    name: str
    unit: str
    figures: dict[str, Figure]
    load_client: str
    change: Change | None

    @property
    def first(self) -> Figure:
        return next(iter(self.figures.values()))


def subjects(report: Report) -> list[str]:
    """The measured servers, the gateway first."""
    return sorted(dict.fromkeys(figure.subject for figure in report.figures), key=lambda subject: subject != "gateway")


def rows_by_part(report: Report, other: Report | None = None) -> dict[str, list[Row]]:
    """Part → its rows, both in the order of the report."""
    changed = {_key(change.figure): change for change in changes(report, other) if change.figure.subject == "gateway"} if other else {}
    together: dict[tuple[str, str, str], dict[str, Figure]] = {}
    for figure in report.figures:
        together.setdefault(_key(figure), {})[figure.subject] = figure
    parts: dict[str, list[Row]] = {}
    for key, figures in together.items():
        row = Row(key[1], key[2], figures, _load_client(list(figures.values())), changed.get(key))
        parts.setdefault(key[0], []).append(row)
    return parts


def _key(figure: Figure) -> tuple[str, str, str]:
    return figure.part, figure.name, figure.unit


def _load_client(figures: Sequence[Figure]) -> str:
    share = max((figure.load_client or 0.0 for figure in figures), default=0.0)
    return f"{share * 100:.0f} % busy" if share >= NEAR_LIMIT else ""


def change_words(change: Change) -> str:
    """ "−12 %, better": the change and what it means; "level" if it may be noise."""
    return "level" if change.verdict == "level" else f"{percent(change.share)}, {change.verdict}"


def spread(figure: Figure) -> str:
    """The least and the most of its runs, if they differ as they are printed."""
    least, most = (number(min(figure.runs)), number(max(figure.runs))) if figure.runs else ("", "")
    return f"{least}–{most}" if least != most else ""
