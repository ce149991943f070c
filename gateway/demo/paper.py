"""A month's numbers as a PDF of two A4 pages: totals, a chart of each day, the busiest channels and restaurants, a table.

It is drawn by ReportLab, which the package's extra ``demo`` brings, as vectors and in the fonts that every reader of PDF has; those
show Western letters, and a square for any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.shapes import Circle, Drawing, Path, Rect, String
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from .month import KINDS, Numbers

__all__ = ["draw"]

INK, SOFT, LINE, PAPER, GREEN = (HexColor(colour) for colour in ("#1c1b19", "#66635c", "#e3dfd8", "#f7f5f1", "#0b734f"))
COLOURS = [HexColor(colour) for colour in ("#0b734f", "#e0a341", "#9cc5b3", "#3f5f9e")]  # of KINDS, distinguishable in grey too
MARGIN = 20 * mm
PADDING = 6  # of the frame that ReportLab puts into the margins
WIDTH = A4[0] - 2 * MARGIN
TEXT, BOLD = "Helvetica", "Helvetica-Bold"

TITLE = ParagraphStyle("title", fontName=BOLD, fontSize=26, leading=30, textColor=INK)
HEADING = ParagraphStyle("heading", fontName=BOLD, fontSize=12.5, leading=16, textColor=INK, spaceBefore=16, spaceAfter=6)
PROSE = ParagraphStyle("prose", fontName=TEXT, fontSize=10, leading=14.5, textColor=SOFT)


def draw(numbers: Numbers, owner: str, subjects: dict[str, str], made: datetime | None = None) -> bytes:
    """The file. ``subjects`` are the names of the restaurants by their ids; ``made`` is when it was made, by default now."""
    file, title = BytesIO(), f"Piazza in {numbers.month.title}"
    document = SimpleDocTemplate(
        file, pagesize=A4, leftMargin=MARGIN - PADDING, rightMargin=MARGIN - PADDING, topMargin=29 * mm, bottomMargin=20 * mm,
        title=title, author="Piazza", subject=f"Monthly report for {owner}", lang="en",
    )  # fmt: skip
    note = f"for {owner} · made on {_moment(made or datetime.now(UTC))}"
    document.build(_story(numbers, subjects), canvasmaker=lambda *given, **named: _Pages(note, *given, **named))
    return file.getvalue()


class _Pages(Canvas):  # type: ignore[misc]  # ReportLab ships no types
    """Draws head and foot of each page at the end, when it is known how many pages there are."""

    def __init__(self, note: str, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._note = note
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, 1):
            self.__dict__.update(page)
            self._frame(f"page {number} of {len(self._pages)}")
            super().showPage()
        super().save()

    def _frame(self, page: str) -> None:
        top = A4[1] - 20 * mm
        _logo().drawOn(self, MARGIN, top - 4)
        self.setFillColor(INK)
        self.setFont(BOLD, 13)
        self.drawString(MARGIN + 26, top + 1, "Piazza")
        self.setFillColor(SOFT)
        self.setFont(TEXT, 8.5)
        self.drawRightString(A4[0] - MARGIN, top + 1, self._note)
        self.setStrokeColor(LINE)
        self.line(MARGIN, top - 12, A4[0] - MARGIN, top - 12)
        self.drawString(MARGIN, 13 * mm, "Days begin at midnight UTC.")
        self.drawRightString(A4[0] - MARGIN, 13 * mm, page)


def _moment(when: datetime) -> str:
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def _logo() -> Drawing:
    drawing = Drawing(18, 18)
    drawing.add(Rect(0, 0, 18, 18, rx=5, ry=5, fillColor=GREEN, strokeColor=None))
    arch = Path(strokeColor=HexColor("#ffffff"), strokeWidth=1.7, strokeLineCap=1, fillColor=None)
    arch.moveTo(4.5, 4.5)
    arch.lineTo(4.5, 9.6)
    arch.curveTo(4.5, 15.6, 13.5, 15.6, 13.5, 9.6)
    arch.lineTo(13.5, 4.5)
    drawing.add(arch)
    drawing.add(Circle(9, 7.9, 1.7, fillColor=HexColor("#ffffff"), strokeColor=None))
    return drawing


def _story(numbers: Numbers, subjects: dict[str, str]) -> list[Any]:
    stars = [(subjects.get(id, id), count, f"{mean:.1f} of 5") for id, count, mean in numbers.subjects]
    return [
        Paragraph(numbers.month.title, TITLE),
        Spacer(1, 4),
        Paragraph(_summary(numbers), PROSE),
        Spacer(1, 14),
        _tiles(numbers),
        Paragraph("Day by day", HEADING),
        _chart(numbers),
        Paragraph("Restaurants", HEADING),
        _list(("Restaurant", "Reviews", "Mean stars"), stars, "Nobody reviewed a restaurant in this month."),
        Paragraph("Notice board", HEADING),
        _list(("Channel", "Posts"), numbers.channels, "Nobody posted in this month."),
        PageBreak(),
        Paragraph("All days", HEADING),
        _days(numbers),
    ]


def _summary(numbers: Numbers) -> str:
    busiest = max(numbers.days, key=lambda day: sum(day.counts))
    if not sum(busiest.counts):
        return "Nothing was counted in this month."
    day = f"{busiest.date:%A}, {busiest.date.day} {busiest.date:%B}"
    return f"What the town did, counted from its database. The busiest day was {day}, with {sum(busiest.counts)} acts."


def _tiles(numbers: Numbers) -> Table:
    """A number in large for each kind."""
    table = Table([numbers.totals, KINDS], colWidths=[WIDTH / len(KINDS)] * len(KINDS), rowHeights=[28, 20])
    table.setStyle(
        TableStyle(
            [
                ("FONT", (0, 0), (-1, 0), BOLD, 22), ("TEXTCOLOR", (0, 0), (-1, 0), INK),
                ("FONT", (0, 1), (-1, 1), TEXT, 9.5), ("TEXTCOLOR", (0, 1), (-1, 1), SOFT),
                ("BACKGROUND", (0, 0), (-1, -1), PAPER), ("LEFTPADDING", (0, 0), (-1, -1), 12),
                ("TOPPADDING", (0, 0), (-1, 0), 12), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                *(("LINEABOVE", (place, 0), (place, 0), 2.5, COLOURS[place]) for place in range(len(KINDS))),
                *(("LINEAFTER", (place, 0), (place, -1), 8, HexColor("#ffffff")) for place in range(len(KINDS) - 1)),
            ]
        )
    )  # fmt: skip
    return table


def _chart(numbers: Numbers) -> Drawing:
    """One bar a day, the kinds on top of each other."""
    height = 220
    drawing = Drawing(WIDTH, height)
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 22, 22, WIDTH - 22, height - 50
    chart.data = [[day.counts[place] for day in numbers.days] for place in range(len(KINDS))]
    chart.categoryAxis.style = "stacked"
    chart.categoryAxis.categoryNames = [str(day.date.day) for day in numbers.days]
    chart.categoryAxis.visibleTicks = 0
    for axis in (chart.categoryAxis, chart.valueAxis):
        axis.strokeColor = LINE
        axis.labels.fontName, axis.labels.fontSize, axis.labels.fillColor = TEXT, 7.5, SOFT
    highest = max(1, *(sum(day.counts) for day in numbers.days))
    chart.valueAxis.valueMin, chart.valueAxis.valueStep = 0, _step(highest)
    chart.valueAxis.valueMax = -(-highest // _step(highest)) * _step(highest)
    chart.valueAxis.visibleAxis, chart.valueAxis.visibleTicks = 0, 0
    chart.valueAxis.visibleGrid, chart.valueAxis.gridStrokeColor, chart.valueAxis.gridStrokeWidth = 1, LINE, 0.5
    chart.groupSpacing, chart.barWidth = 4, 10
    for place in range(len(KINDS)):
        chart.bars[place].fillColor, chart.bars[place].strokeColor = COLOURS[place], None
    drawing.add(chart)
    for place, kind in enumerate(KINDS):
        drawing.add(Rect(22 + 70 * place, height - 12, 8, 8, rx=2, ry=2, fillColor=COLOURS[place], strokeColor=None))
        drawing.add(String(34 + 70 * place, height - 11, kind, fontName=TEXT, fontSize=8.5, fillColor=SOFT))
    return drawing


def _step(highest: int) -> int:
    """Between two lines of the grid: 1, 2 or 5 times a power of ten, so that there are at most six."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if highest <= 6 * factor * power:
                return factor * power
        power *= 10


def _list(head: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> Table | Paragraph:
    if not rows:
        return Paragraph(empty, PROSE)
    cells = [[Paragraph(escape(str(row[0])), ParagraphStyle("cell", PROSE, textColor=INK, leading=12)), *row[1:]] for row in rows]
    return _table([head, *cells], [WIDTH - 90 * (len(head) - 1), *([90] * (len(head) - 1))])


def _days(numbers: Numbers) -> Table:
    rows = [[f"{day.date:%A}, {day.date.day} {day.date:%B}", *day.counts, sum(day.counts)] for day in numbers.days]
    totals = numbers.totals
    table = _table(
        [["Day", *(kind.capitalize() for kind in KINDS), "All"], *rows, ["The month", *totals, sum(totals)]], [WIDTH - 4 * 75, *[75] * 4]
    )
    table.setStyle(TableStyle([("FONT", (0, -1), (-1, -1), BOLD, 9.5), ("LINEABOVE", (0, -1), (-1, -1), 1, SOFT)]))
    return table


def _table(rows: Sequence[Sequence[Any]], widths: Sequence[float]) -> Table:
    """A table whose head is repeated on each page; numbers are on the right."""
    table = Table(rows, colWidths=widths, repeatRows=1)
    table.setStyle(
        TableStyle(
            [
                ("FONT", (0, 0), (-1, -1), TEXT, 9.5), ("TEXTCOLOR", (0, 0), (-1, -1), INK),
                ("FONT", (0, 0), (-1, 0), BOLD, 8.5), ("TEXTCOLOR", (0, 0), (-1, 0), SOFT),
                ("ALIGN", (1, 0), (-1, -1), "RIGHT"), ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                ("LINEBELOW", (0, 0), (-1, -1), 0.5, LINE), ("LEFTPADDING", (0, 0), (0, -1), 0), ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 3), ("BOTTOMPADDING", (0, 0), (-1, -1), 3.5),
            ]
        )
    )  # fmt: skip
    return table
