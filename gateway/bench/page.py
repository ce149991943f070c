"""A report as one HTML file: it loads nothing, runs no script, and looks like the landing page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from .amounts import amount, number, unit_words
from .captions import machine_words, moment
from .comparison import Change, changes, obstacles
from .meanings import PARTS, TITLES, full_name, meaning
from .pictures import STYLE, Picture, beside_peers, key_figures, lines, svg
from .report import Figure, Report
from .rows import Row, change_words, rows_by_part, spread, subjects
from .svg import Markup, element

__all__ = ["html"]

HERE = Path(__file__).parent
OF_BARS = "After a peer's figure is how many times the gateway's it is. A thin line is the spread of the runs."
SHOWN_REMARKS = 5  # without a click
BARS_WIDTH = 280  # three of them are beside each other on a desk
SHOWN_ROWS = 100  # of a picture's numbers; the JSON has all
ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='5' fill='%230f8a5f'/%3E%3C/svg%3E"


def html(report: Report, other: Report | None = None) -> str:
    """The page; with ``other``, the report of an earlier run, it shows what changed since."""
    style = STYLE + (HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"gateway bench, {moment(report.began)}"
    head = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="content-security-policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{element("title", title)}
<link rel="icon" href="{ICON}">
<style>{style}</style>
</head>
"""
    return f"{head}{element('body', _header(report), element('main', *_main(report, other)))}\n</html>\n"


def _header(report: Report) -> Markup:
    return element(
        "header", element("p", "gateway bench", class_="brand"), element("p", f"gateway {report.machine.gateway}", class_="pill")
    )


def _main(report: Report, other: Report | None) -> Iterator[Markup]:
    yield element("h1", "What the gateway does on this machine")
    yield element(
        "p",
        f"Measured on {moment(report.began)}, in {number(report.seconds)} seconds, on 127.0.0.1: {machine_words(report.machine)}.",
        class_="lead",
    )
    yield _keys(report)
    yield from _remarks(report)
    if other:
        yield _compared(report, other)
    yield from _pictures("Pictures", lines(report))
    yield from _pictures("Beside peers", beside_peers(report, BARS_WIDTH), OF_BARS, "narrow")
    yield _figures(report, other)
    yield _repeat()


def _keys(report: Report) -> Markup:
    return element("ul", *[_key(figure) for figure in key_figures(report)], class_="keys")


def _key(figure: Figure) -> Markup:
    value = element("b", number(figure.value), " ", element("i", unit_words(figure.unit)))
    return element("li", element("span", TITLES.get(figure.part, figure.part), class_="kicker"), value, element("span", figure.name))


def _section(title: str, *content: str, **attributes: object) -> Markup:
    id = title.lower().replace(" ", "-")
    return element("section", element("h2", title, id=id), *content, aria_labelledby=id, **attributes)


def _remarks(report: Report) -> Iterator[Markup]:
    if first := report.remarks[:SHOWN_REMARKS]:
        more = report.remarks[SHOWN_REMARKS:]
        rest = [element("details", element("summary", f"{len(more)} more"), _sentences(more))] if more else []
        yield _section("Remarks", _sentences(first), *rest)


def _sentences(sentences: Sequence[str]) -> Markup:
    return element("ul", *[element("li", each) for each in sentences], class_="hint")


# Since another run.


def _compared(report: Report, other: Report) -> Markup:
    own = [change for change in changes(report, other) if change.figure.subject == "gateway"]
    by = {verdict: [change for change in own if change.verdict == verdict] for verdict in ("worse", "better", "level")}
    counted = (
        f"Of {len(own)} figures {len(by['worse'])} became worse, {len(by['better'])} better, and {len(by['level'])} are level within noise."
    )
    against = f"Against the run of {moment(other.began)}, of gateway {other.machine.gateway}."
    different = obstacles(report, other)
    return _section(
        "What changed",
        element("p", f"{against} {counted}"),
        *([element("ul", *map(_changed, by["worse"] + by["better"]), class_="changes")] if by["worse"] or by["better"] else []),
        *([_sentences(different)] if different else []),
    )


def _changed(change: Change) -> Markup:
    figure, before = change.figure, change.before
    words = f"{full_name(figure)}: from {number(before.value)} to {amount(figure.value, figure.unit)}, "
    return element("li", words, element("span", change_words(change), class_=change.verdict))


# Pictures.


def _pictures(title: str, pictures: Sequence[Picture], note: str = "", width: str = "") -> Iterator[Markup]:
    if pictures:
        drawn = [_picture(picture, f"{title.split()[0].lower()}-{place}") for place, picture in enumerate(pictures)]
        notes = [element("p", note, class_="soft")] if note else []
        yield _section(title, *notes, element("div", *drawn, class_=f"pictures {width}".rstrip()))


def _picture(picture: Picture, id: str) -> Markup:
    caption = element("figcaption", element("h3", picture.title), element("p", picture.note or PARTS.get(picture.part, ""), class_="soft"))
    numbers = element("details", element("summary", "The numbers"), _numbers(picture))
    return element("figure", caption, svg(picture, id), numbers)


def _numbers(picture: Picture) -> Markup:
    rows = picture.rows[:: -(-len(picture.rows) // SHOWN_ROWS)]
    left_out = len(picture.rows) - len(rows)
    table = element(
        "table",
        element("thead", element("tr", *[element("th", head, scope="col") for head in picture.heads])),
        element("tbody", *[_row(row[0], row[1:]) for row in rows]),
    )
    more = [element("p", f"{left_out} rows between these are in the JSON.", class_="soft")] if left_out else []
    return element("div", table, *more, class_="scroll", role="region", tabindex=0, aria_label=f"{picture.title}: the numbers")


def _row(head: str, cells: Sequence[str]) -> Markup:
    return element("tr", element("th", head, scope="row"), *[element("td", cell) for cell in cells])


# All figures.


def _figures(report: Report, other: Report | None) -> Markup:
    parts, servers = rows_by_part(report, other), subjects(report)
    heads = ["figure", *servers, "unit", *["runs" if len(servers) == 1 else "gateway's runs"]]
    busy = any(row.load_client for rows in parts.values() for row in rows)
    heads += ["load client"] * busy + ["change"] * (other is not None)
    head = element(
        "thead", element("tr", *[element("th", each, scope="col", class_="words" if each == "unit" else None) for each in heads])
    )
    bodies = [_part(part, rows, servers, len(heads), busy=busy, compared=other is not None) for part, rows in parts.items()]
    table = element("table", head, *bodies, class_="figures")
    note = element(
        "p", "Less is better where nothing else is said. Runs: the least and the most of them; the figure is their median.", class_="soft"
    )
    return _section(
        "All figures", note, element("div", table, class_="scroll", role="region", tabindex=0, aria_label="All figures, as a table")
    )


def _part(part: str, rows: Sequence[Row], servers: Sequence[str], columns: int, *, busy: bool, compared: bool) -> Markup:
    title = element("th", TITLES.get(part, part), element("span", PARTS.get(part, ""), class_="soft"), colspan=columns, scope="rowgroup")
    drawn = [_figure(row, servers, busy=busy, compared=compared) for row in rows]
    return element("tbody", element("tr", title, class_="part"), *drawn)


def _figure(row: Row, servers: Sequence[str], *, busy: bool, compared: bool) -> Markup:
    sentences = " ".join(filter(None, [meaning(row.first), "More is better." if row.first.better == "more" else ""]))
    runs = spread(row.figures["gateway"]) if "gateway" in row.figures else ""
    return element(
        "tr",
        element("th", row.name, *([element("span", sentences, class_="soft")] if sentences else []), scope="row"),
        *[_value(server, row) for server in servers],
        element("td", unit_words(row.unit), class_="words"),
        element("td", runs, class_="soft"),
        *[element("td", row.load_client, class_="limit")] * busy,
        *[_change(row.change)] * compared,
    )


def _value(server: str, row: Row) -> Markup:
    figure = row.figures.get(server)
    return element("td", number(figure.value) if figure else "", class_="own" if server == "gateway" else None)


def _change(change: Change | None) -> Markup:
    return element("td", change_words(change), class_=change.verdict) if change else element("td", "new")


def _repeat() -> Markup:
    commands = element("code", "gateway bench --json now.json --html now.html", Markup("\n"), "gateway bench --compare now.json")
    return _section(
        "Repeat it",
        element(
            "p",
            "The first command measures again and writes such a page. The second measures once more, shows what changed, and fails if "
            "a figure of the gateway became worse by more than noise.",
        ),
        element("pre", commands, tabindex=0, aria_label="Commands"),
        element(
            "p",
            "Each figure is the median of its runs. A change counts if it is over 10 % and the runs of both reports do not overlap. "
            "Machines differ, and shared ones also from hour to hour: compare figures of one machine.",
        ),
    )
