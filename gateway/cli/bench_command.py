"""``gateway bench``: measures this installation, draws what it found, and compares it with what it found before.

What measures and what draws is in ``gateway.bench``; it is imported when the command runs.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, GatewayError
from ..store.connect import Address

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ..bench.report import Report

__all__ = ["bench"]

SHORTEST = 0.5  # seconds
WIDE = 200  # columns where the output is no terminal


def _parts(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    from ..bench.parts import PARTS

    known = [part.name for part in PARTS]
    split = tuple(name for each in names for name in each.split(","))
    for name in split:
        if name not in known:
            raise click.UsageError(f"there is no part {name!r}; the parts are {', '.join(known)}")
    return split


def _seconds(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not SHORTEST <= value < math.inf:
        raise click.UsageError(f"--seconds: {value:g} is not at least {SHORTEST:g}")
    return value


def _url(context: click.Context, parameter: click.Parameter, url: str) -> str:
    try:
        return str(Address(url).url) if url else ""
    except ConfigurationError as error:
        raise click.UsageError(str(error).replace("valkey_url", "--url", 1)) from None


_file = click.Path(dir_okay=False)
_existing = click.Path(exists=True, dir_okay=False)


@click.command()
@click.argument("parts", nargs=-1, metavar="[PARTS]…", callback=_parts)
@click.option(
    "--only", multiple=True, metavar="PARTS", callback=_parts, help="The same as PARTS, with commas between them; may be repeated."
)
@click.option(
    "--seconds", type=float, metavar="S", callback=_seconds, help="About how long it measures each server; by default 90 s for all parts."
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Processes of the measured gateway."
)
@click.option(
    "--url",
    default="",
    metavar="URL",
    callback=_url,
    help="Valkey to use, under a prefix that is removed afterwards; absent: an embedded one.",
)
@click.option("--peers", is_flag=True, help="Measure nchan and Centrifugo too, where they are installed.")
@click.option("--centrifugo", default="centrifugo", metavar="PATH", help="The program of Centrifugo.")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="FILE",
    help="Write the report as JSON; - or no FILE is the standard output, without the table.",
)
@click.option("--html", "--out", "html_file", type=_file, metavar="FILE", help="Write a page with pictures.")
@click.option("--picture", "picture_file", type=_file, metavar="FILE", help="Write one picture, SVG.")
@click.option(
    "--compare",
    "other_file",
    type=_existing,
    metavar="FILE",
    help="Show what changed since this report; exit with 1 if anything became slower.",
)
@click.option("--from", "report_file", type=_existing, metavar="FILE", help="Show this report instead of measuring.")
def bench(
    parts: tuple[str, ...],
    only: tuple[str, ...],
    json_file: str | None,
    html_file: str | None,
    picture_file: str | None,
    other_file: str | None,
    report_file: str | None,
    **plan: Any,
) -> int:
    """Measure what this installation can do on this machine, on 127.0.0.1 alone.

    PARTS are memory, fan-out, connects, publish, storm, own and latency; without any, all of them.
    """
    for file in (json_file, html_file, picture_file):
        _check_file(file)
    other = _read(other_file) if other_file else None
    report = _read(report_file) if report_file else _measured({**plan, "parts": (*parts, *only)})
    if json_file != "-":  # first: a file that cannot be written loses no figures
        _print_table(report, other)
    if html_file:
        from ..bench.page import html

        _write(html_file, html(report, other))
    if picture_file:
        from ..bench.summary_picture import summary

        _write(picture_file, summary(report))
    if json_file:
        _write_json(json_file, report)
    return 1 if other is not None and _is_slower(report, other) else 0


def _check_file(file: str | None) -> None:
    """Raises UsageError for a file that cannot be written: now, and not when the bench has measured for a minute and a half."""
    if not file or file == "-":
        return
    path = Path(file).absolute()
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent}, so {file} cannot be written")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.UsageError(f"{file} cannot be written: it is a folder, or belongs to somebody else")


def _read(file: str) -> Report:
    from ..bench.report import decode

    try:
        return decode(Path(file).read_bytes())
    except ValueError as error:
        raise GatewayError(f"{file} is no report of the bench: {error}") from None


def _write(file: str, text: str) -> None:
    Path(file).write_text(text, encoding="utf-8")


def _write_json(file: str, report: Report) -> None:
    from ..bench.report import encode

    text = encode(report).decode() + "\n"
    if file == "-":
        sys.stdout.write(text)
    else:
        _write(file, text)


def _print_table(report: Report, other: Report | None) -> None:
    from rich.console import Console

    from ..bench.table import draw

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as drawn:
        console.print(draw(report, other))
    print("\n".join(line.rstrip() for line in drawn.get().rstrip().splitlines()))


def _is_slower(report: Report, other: Report) -> bool:
    from ..bench.comparison import slower

    return bool(slower(report, other))


def _measured(plan: dict[str, Any]) -> Report:
    from ..bench.bench_run import Plan, run

    with _progress() as progress:
        return run(Plan(**plan), progress)


class _Bar:
    """How far the bench is, on standard error. ``bar`` None is for what is no terminal: there nothing is shown."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        if bar:
            self._task = bar.add_task("", total=None)

    def begin(self, steps: int) -> None:
        if self._bar:
            self._bar.update(self._task, total=steps)

    def note(self, text: str) -> None:
        if self._bar:
            self._bar.update(self._task, description=text)

    def advance(self) -> None:
        if self._bar:
            self._bar.advance(self._task)


@contextlib.contextmanager
def _progress() -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Bar(None)
        return
    with Progress(
        BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False), console=console, transient=True
    ) as bar:
        yield _Bar(bar)
