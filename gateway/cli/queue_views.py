"""What ``gateway queue`` prints: one JSON object, or tables and progress bars for people, who may follow them live.

What is in a job comes from anywhere. Nothing of it reaches a terminal that the terminal would obey: in tables it is written as
the log writes it (``runtime.logs``), in JSON as an escape of JSON, which means the same to programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..errors import GatewayError, StoreError
from ..rules.json_text import clean, encode
from ..runtime.logs import printable, printable_json
from ..work.queues import JobView, Overview, Queues

__all__ = ["View", "follow", "jobs_of_queue", "json_line", "one_job", "print_line", "print_view", "progress", "queue_list"]

REFRESH_SECONDS = 1.0
PAGE = 200  # jobs of one read
ROWS = 1000  # queues that people are shown
TOGETHER = 100  # queues that are asked for at once
WIDE = 1000  # columns where the output is no terminal: nothing is cut off


class View(NamedTuple):
    """What a command found: ``fields`` for programs, ``shown`` for people."""

    fields: dict[str, Any]
    shown: RenderableType


# Printing.


def json_line(value: Any) -> str:
    """``value`` as JSON on one line; what is not to be seen, as the controls of a terminal, is an escape."""
    return printable_json(encode(value).decode())


def print_line(fields: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Prints what a command did: ``fields`` for programs, ``text`` for people."""
    print(json_line(fields) if as_json else printable(text), flush=True)


def print_view(view: View, *, as_json: bool) -> None:
    if as_json:
        print(json_line(view.fields), flush=True)
    elif sys.stdout.isatty():
        Console(highlight=False).print(view.shown)
    else:
        console = Console(width=WIDE, highlight=False)
        with console.capture() as written:
            console.print(view.shown)
        print("\n".join(line.rstrip() for line in written.get().rstrip("\n").split("\n")))


async def follow(look: Callable[[], Awaitable[View]], *, as_json: bool) -> None:
    """Shows what ``look`` finds anew each second, until it is cancelled. While Valkey is away it shows that."""
    if as_json:
        while True:
            print_view(await _look_patiently(look), as_json=True)
            await asyncio.sleep(REFRESH_SECONDS)
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            live.update((await _look_patiently(look)).shown, refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


async def _look_patiently(look: Callable[[], Awaitable[View]]) -> View:
    try:
        return await look()
    except StoreError as error:
        return View({"error": str(error)}, _text(str(error)))


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while a block runs, which calls what it is given with how much was done; nothing where it is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


# Looking.


async def queue_list(queues: Queues) -> View:
    """All queues with their numbers. A queue whose keys in Valkey are of other types, or in a shard that is away, is shown with that error."""
    names = await queues.names()
    rows: list[tuple[str, Overview | str]] = []
    for first in range(0, len(names), TOGETHER):
        page = names[first : first + TOGETHER]
        rows += zip(page, await asyncio.gather(*map(queues.overview_or_fault, page)), strict=True)
    table = _table("queue", *_NUMBERS, left=1)
    for name, found in rows[:ROWS]:
        table.add_row(_text(name), *(_numbers(found) if isinstance(found, Overview) else [_text(found)]))
    shown = Group(table, Text(f"and {len(rows) - ROWS:,} more, which --json lists")) if len(rows) > ROWS else table
    return View({"queues": [_queue_fields(name, found) for name, found in rows]}, shown if rows else Text("there are no queues"))


async def jobs_of_queue(queues: Queues, name: str, states: Sequence[str], limit: int) -> View:
    """The numbers of a queue, and up to ``limit`` of its jobs of each state."""
    overview = await queues.overview(name)
    jobs = [view for state in states for view in await _jobs(queues, name, state, limit)]
    numbers = _table(*_NUMBERS)
    numbers.add_row(*_numbers(overview))
    shown = Group(numbers, Text(), _jobs_table(jobs)) if jobs else numbers
    return View({**_queue_fields(name, overview), "jobs": [_job_fields(view) for view in jobs]}, shown)


async def _jobs(queues: Queues, name: str, state: str, limit: int) -> list[JobView]:
    found: list[JobView] = []
    while len(found) < limit:
        page = await queues.jobs(name, state, first=len(found), limit=min(PAGE, limit - len(found)))
        if not page:  # a page is shorter where the jobs are large, too
            break
        found += page
    return found


async def one_job(queues: Queues, name: str, id: str) -> View:
    """One job with its data and its failures. Raises GatewayError if the queue does not have it."""
    view = await queues.job(name, id)
    if view.state == "none":
        raise GatewayError(f"queue {name} has no job {id}")
    return View({"queue": name, **_job_fields(view)}, _job_shown(view))


# For programs.


def _queue_fields(name: str, found: Overview | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"queue": name, "error": found}
    means = {"start_mean_ms": _mean(found.start_ms, found.started), "finish_mean_ms": _mean(found.finish_ms, found.finished)}
    return {"queue": name, **msgspec.to_builtins(found), **means}


def _job_fields(view: JobView) -> dict[str, Any]:
    """A job, with what Valkey has of it; what another program wrote has no more than an id and a state."""
    fields: dict[str, Any] = {"id": view.id, "state": view.state, "ms": view.ms}
    if view.job is not None:
        fields |= {name: getattr(view.job, name) for name in view.job.__struct_fields__}
        fields["data"] = msgspec.Raw(clean(bytes(view.job.data)))
    fields["failures"] = view.failures
    if view.result:
        fields["outcome"] = msgspec.Raw(clean(view.result))
    return fields


# For people.

_NUMBERS = ("ready", "delayed", "parked", "running", "dead", "oldest", "workers", "to start", "to finish")


def _numbers(found: Overview) -> list[str]:
    counts = (found.ready, found.delayed, found.parked, found.running, found.dead_letters)
    return [
        *(f"{count:,}" for count in counts),
        _span(found.oldest_ms) if found.ready or found.oldest_ms else "",
        f"{found.workers:,}",
        _span(_mean(found.start_ms, found.started)),
        _span(_mean(found.finish_ms, found.finished)),
    ]


def _mean(sum_ms: int, count: int) -> float | None:
    return sum_ms / count if count else None


def _span(ms: float | None) -> str:
    """A time for people: 12 ms, 3.4 s, 5 min, 2.0 h, 3.1 d."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    for unit, size, until in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < until:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def _time(ms: float) -> str:
    """A moment in the time zone of the terminal; ``ms`` is unix milliseconds."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000):%Y-%m-%d %H:%M:%S}" if ms else ""
    except (ValueError, OverflowError, OSError):  # no function wrote it
        return f"{ms:.0f}"


def _jobs_table(jobs: list[JobView]) -> Table:
    table = _table("state", "id", "name", "since or due", "failures", "reason or data", left=6, yielding=("name", "reason or data"))
    for view in jobs:
        name = "?" if view.job is None else view.job.name
        data = "" if view.job is None else bytes(view.job.data)[:WIDE].decode(errors="replace")
        reason = view.failures[-1].error.partition("\n")[0] if view.failures else data
        cells = (view.state, view.id, name, _time(view.ms or (view.job.due if view.job else 0)), str(len(view.failures) or ""), reason)
        table.add_row(*map(_text, cells))
    return table


def _job_shown(view: JobView) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in _lines_of(view):
        table.add_row(Text(name), Text("\n".join(map(printable, text.split("\n")))))
    return table


def _lines_of(view: JobView) -> Iterator[tuple[str, str]]:
    yield "id", view.id
    yield "state", view.state
    if view.ms:
        yield "due" if view.state == "delayed" else "since", _time(view.ms)
    if view.job is not None:
        yield from _lines_of_job(view.job)
    for failure in view.failures:
        yield f"attempt {failure.attempt}", f"{_time(failure.at)} {failure.worker}\n{failure.error}"
    if view.result:
        yield "outcome", _indented(view.result)


def _lines_of_job(job: Any) -> Iterator[tuple[str, str]]:
    yield "name", job.name
    for name in ("key", "channel", "serial"):
        if getattr(job, name) is not None:
            yield name, getattr(job, name)
    yield "priority", str(job.priority)
    yield "attempts", str(job.attempts)
    yield "timeout", f"{job.timeout:g} s"
    yield "enqueued", _time(job.enqueued)
    if job.expires:
        yield "expires", _time(job.expires)
    yield "data", _indented(bytes(job.data))


def _indented(text: bytes) -> str:
    return msgspec.json.format(clean(text), indent=2).decode(errors="replace")


def _table(*columns: str, left: int = 0, yielding: Collection[str] = ()) -> Table:
    """Numbers are on the right, the first ``left`` columns are texts. What is too long for the terminal is cut off, in ``yielding`` columns first."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        # rich narrows the columns that may wrap before the others; their cells do not wrap
        justify: Literal["left", "right"] = "left" if number < left else "right"
        table.add_column(column, justify=justify, no_wrap=column not in yielding, overflow="ellipsis")
    return table


def _text(text: str) -> Text:
    return Text(printable(text), no_wrap=True, overflow="ellipsis")
