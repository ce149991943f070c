"""A report as one table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..runtime.logs import printable
from .amounts import number, unit_words
from .comparison import Verdict, obstacles
from .meanings import TITLES
from .report import Report
from .rows import Row, change_words, rows_by_part, spread, subjects

__all__ = ["draw"]

COLOURS: dict[Verdict, str] = {"worse": "bold red", "better": "green", "level": "dim"}


def draw(report: Report, other: Report | None = None) -> RenderableType:
    """One table of all figures, a column for each measured server, and the remarks under it.

    There is a column for the load client if it was near its limit while a figure was measured, and with ``other``, the report of an
    earlier run, one for what changed since.
    """
    parts = rows_by_part(report, other)
    servers = subjects(report)
    busy = any(row.load_client for rows in parts.values() for row in rows)
    table = _table(servers, busy=busy, compared=other is not None)
    for part, rows in parts.items():
        table.add_row(_text(TITLES.get(part, part), "bold"))
        for row in rows:
            table.add_row(*_cells(row, servers, busy=busy, compared=other is not None))
        table.add_section()
    remarks = [*report.remarks, *(obstacles(report, other) if other else [])]
    return Group(table, *(_text(remark, "yellow") for remark in remarks))


def _table(servers: list[str], *, busy: bool, compared: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("figure", overflow="fold")
    for server in servers:
        table.add_column(_text(server), justify="right", no_wrap=len(servers) < 3)
    table.add_column("unit")
    table.add_column("runs" if len(servers) < 2 else "gateway's runs", style="dim")
    for head in ["load client"] * busy + ["change"] * compared:
        table.add_column(head, no_wrap=True)
    return table


def _cells(row: Row, servers: list[str], *, busy: bool, compared: bool) -> list[Text]:
    values = [_text(number(row.figures[server].value) if server in row.figures else "") for server in servers]
    runs = spread(row.figures["gateway"]) if "gateway" in row.figures else ""
    return [
        _text(f"  {row.name}"),
        *values,
        _text(unit_words(row.unit)),
        _text(runs),
        *[_text(row.load_client, "yellow")] * busy,
        *[_change(row)] * compared,
    ]


def _change(row: Row) -> Text:
    return _text(change_words(row.change), COLOURS[row.change.verdict]) if row.change else _text("new", "dim")


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)
