"""One HTML page of a history: channels × time, faults as bands, gaps as marks. Pure; the page needs nothing from elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from .history import Event
from .verdict import Finding, summary

__all__ = ["page"]

LEFT, WIDTH, ROW, LANE = 150, 1000, 14, 4  # pixels: names, time, the height of a fault, of a client
BINS = 250  # of the time, in each of which deliveries are counted

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #fff; --quiet: #6a737d; --line: #d0d7de; --fault: #e8a33d; --loses: #d73a49;
  --got: #2f6fde; --none: #d0d7de55; --gap: #c2185b; --found: #b00020; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --quiet: #8b949e; --line: #30363d; --fault: #bb8009;
  --loses: #da3633; --got: #58a6ff; --none: #30363d66; --gap: #ff7bd0; --found: #ff7b72; } }
body { font: 14px/1.4 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 1.5rem; }
svg { max-width: 100%; height: auto; } text { font-size: 10px; fill: var(--text); } .quiet { fill: var(--quiet); }
.fault { fill: var(--fault); } .loses { fill: var(--loses); } .faint { opacity: .3; } .got { stroke: var(--got); } .none { fill: var(--none); }
.gap { fill: var(--gap); } .grid { stroke: var(--line); } .found { color: var(--found); } rect.found { fill: var(--found); }
table { border-collapse: collapse; } td, th { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
"""


def page(events: Sequence[Event], findings: Sequence[Finding]) -> str:
    run, total = events[0], summary(list(events))
    drawing = _Drawing(events, findings)
    said = f"{total.seconds:.0f} s, {total.faults} faults, {total.publications:,} publications, {total.deliveries:,} deliveries, {total.gaps} gaps"
    title = f"Faults: seed {run['seed']}, {run['topology']}"
    found = "".join(f"<tr><td>{each.t:.2f} s</td><td>{escape(each.rule)}</td><td>{escape(each.text)}</td></tr>" for each in findings)
    verdict = f'<h2 class="found">{len(findings)} findings</h2><table>{found}</table>' if findings else "<h2>Nothing is violated</h2>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{said}</p>{drawing.svg()}{_legend()}{verdict}{_faults(events)}</body></html>\n"
    )


def _legend() -> str:
    return (
        "<p>Each line of a channel is a client; it is coloured where publications arrived. A band is a fault from its beginning until it is "
        "mended, red where it may lose acknowledged publications; a diamond is a gap that the client was notified of; a red bar is a finding.</p>"
    )


def _faults(events: Iterable[Event]) -> str:
    rows = "".join(
        f"<tr><td>{event['t']:.2f} s</td><td>{escape(event['kind'])}</td><td>{event['phase']}</td><td>{escape(str(event['target']))}</td></tr>"
        for event in events
        if event["what"] == "fault"
    )
    return f"<h2>Faults</h2><table><tr><th>at</th><th>kind</th><th></th><th>what</th></tr>{rows}</table>"


class _Drawing:
    def __init__(self, events: Sequence[Event], findings: Sequence[Finding]) -> None:
        self._seconds: float = max(events[-1]["t"], 1.0)
        self._findings = findings
        self._faults = [event for event in events if event["what"] == "fault"]
        self._got: dict[str, dict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
        self._gaps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for event in events:
            if event["what"] == "got":
                self._got[event["channel"]][event["client"]][int(event["t"] / self._seconds * BINS)] += 1
            elif event["what"] == "gap":
                self._gaps[event["channel"]][event["client"]].append(event["t"])

    def _x(self, t: float) -> float:
        return LEFT + t / self._seconds * WIDTH

    def svg(self) -> str:
        bands = list(self._bands())
        kinds = list(dict.fromkeys(name for name, *_ in bands))
        channels_at = 20 + ROW * len(kinds)
        height = channels_at + sum(LANE * len(clients) + ROW for clients in self._got.values()) + 20
        parts = [*self._grid(height), *self._fault_rows(bands, kinds, channels_at, height), *self._channels(channels_at)]
        parts += [f'<rect class="found" x="{self._x(each.t):.1f}" y="12" width="1.5" height="{height}"/>' for each in self._findings]
        drawn = "".join(parts)
        return f'<svg viewBox="0 0 {LEFT + WIDTH + 20} {height}" role="img" aria-label="faults and channels over time">{drawn}</svg>'

    def _grid(self, height: int) -> Iterator[str]:
        step = next((each for each in (1, 5, 10, 30, 60, 300) if self._seconds / each <= 15), 600)
        for t in range(0, int(self._seconds) + 1, step):
            x = self._x(t)
            yield f'<line class="grid" x1="{x:.1f}" y1="12" x2="{x:.1f}" y2="{height}"/><text class="quiet" x="{x:.1f}" y="10">{t} s</text>'

    def _bands(self) -> Iterator[tuple[str, str, float, float]]:
        """Name, class, where it begins and where it ends."""
        ends = {event["id"]: event["t"] for event in self._faults if event["phase"] in ("mended", "absent")}
        for event in self._faults:
            if event["phase"] == "begins":
                end = ends.get(event["id"], self._seconds)
                yield event["kind"], "loses" if event["loses"] else "fault", self._x(event["t"]), self._x(end)

    @staticmethod
    def _fault_rows(bands: list[tuple[str, str, float, float]], kinds: list[str], channels_at: int, height: int) -> Iterator[str]:
        """A row for each kind of fault, and faintly a band through all channels."""
        for number, kind in enumerate(kinds):
            yield f'<text x="2" y="{24 + ROW * number}">{escape(kind)}</text>'
        for kind, css, start, end in bands:
            width, y = max(end - start, 1.5), 16 + ROW * kinds.index(kind)
            yield f'<rect class="{css}" x="{start:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 4}"><title>{escape(kind)}</title></rect>'
            yield f'<rect class="{css} faint" x="{start:.1f}" y="{channels_at}" width="{width:.1f}" height="{height - channels_at}"/>'

    def _channels(self, y: int) -> Iterator[str]:
        for channel in sorted(self._got):
            clients = self._got[channel]
            yield f'<text x="2" y="{y + 10}">{escape(channel)}</text>'
            y += ROW
            for client in sorted(clients):
                yield f'<rect class="none" x="{LEFT}" y="{y}" width="{WIDTH}" height="{LANE - 1}"><title>{escape(client)}</title></rect>'
                yield "".join(self._lane(clients[client], y))
                for t in self._gaps[channel][client]:
                    x = self._x(t)
                    yield f'<path class="gap" d="M{x:.1f} {y - 3}l4 4l-4 4l-4 -4z"><title>{escape(client)}: a gap at {t:.2f} s</title></path>'
                y += LANE

    def _lane(self, bins: Counter[int], y: int) -> Iterator[str]:
        """One path: a stroke for each stretch of time in which publications arrived."""
        width = WIDTH / BINS
        strokes = "".join(f"M{LEFT + number * width:.1f} {y + 1.5}h{width:.1f}" for number in sorted(bins))
        yield f'<path class="got" stroke-width="{LANE - 1}" d="{strokes}"/>'
