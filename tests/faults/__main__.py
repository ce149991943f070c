"""``python -m tests.faults``: runs a schedule, writes its history, and says what is violated. Exit status 0 where nothing is, 1 otherwise."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .history import Event, read_history, write_history
from .page import page
from .run import Size, run
from .schedule import TOPOLOGIES, Fault, kinds_of, loses, schedule
from .shrink import shrink
from .verdict import Finding, judge, summary

__all__ = ["main"]

TRIES = 12  # runs of a shrinking


class Plan(NamedTuple):
    """What is run: of a seed, or of an earlier history."""

    seed: int
    seconds: float
    topology: str
    faults: list[Fault]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Breaks everything on purpose, and checks what every client received."
    )
    parser.add_argument("--seed", type=int, default=1, help="the schedule follows from it (1)")
    parser.add_argument("--minutes", type=float, default=2, help="of faults (2); mending and checking come on top")
    parser.add_argument("--topology", choices=TOPOLOGIES, default="single")
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of the second gateway")
    parser.add_argument("--only", default="", metavar="KIND,…", help="these kinds of faults alone")
    parser.add_argument("--without", default="", metavar="KIND,…", help="all kinds but these")
    parser.add_argument("--lossless", action="store_true", help="only kinds by which Valkey forgets nothing: no gap is allowed at all then")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="the history as a page; beside it, as PAGE.jsonl, the history itself")
    parser.add_argument("--replay", type=Path, metavar="PAGE.jsonl", help="the schedule of an earlier run, in place of a seed's")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="copies the logs of all processes into it")
    parser.add_argument(
        "--shrink", action="store_true", help=f"where it fails, look for the fewest faults that fail, in up to {TRIES} runs"
    )
    return parser.parse_args()


def _plan(given: argparse.Namespace) -> Plan:
    if given.replay is not None:
        first = read_history(given.replay)[0]
        return Plan(first["seed"], first["seconds"], first["topology"], [Fault(*fault) for fault in first["faults"]])
    kinds = kinds_of(given.topology, _names(given.only))
    left_out = {*_names(given.without), *(kind for kind in kinds if given.lossless and loses(kind, given.topology))}
    kinds = [kind for kind in kinds if kind not in left_out]
    seconds = given.minutes * 60
    return Plan(given.seed, seconds, given.topology, schedule(given.seed, seconds, given.topology, kinds))


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main() -> int:
    given = _arguments()
    try:
        plan = _plan(given)
    except ValueError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    size = Size(gateways=given.gateways, workers=given.workers)
    findings = _run_once(plan, plan.faults, size, given.out, given.logs)
    if findings and given.shrink:
        _shrink(plan, size, given.out)
    return 1 if findings else 0


def _run_once(plan: Plan, faults: Sequence[Fault], size: Size, out: Path | None, logs: Path | None = None) -> list[Finding]:
    print(f"seed {plan.seed}, {plan.topology}, {len(faults)} faults", flush=True)
    events = asyncio.run(run(plan.seed, plan.seconds, plan.topology, faults, size, logs))
    findings = judge(events)
    if out is not None:
        out.write_text(page(events, findings))
        write_history(events, out.with_suffix(".jsonl"))
    _print(events, findings)
    return findings


def _print(events: list[Event], findings: list[Finding]) -> None:
    total = summary(events)
    absent = sorted({event["kind"] for event in events if event["what"] == "fault" and event["phase"] == "absent"})
    if absent:
        print(f"not available here: {', '.join(absent)}")
    print(", ".join(f"{value:,.0f} {name}" for name, value in total._asdict().items()))
    for finding in findings[:30]:
        print(f"{finding.t:9.2f} s  {finding.rule}: {finding.text}")
    print(f"{len(findings)} findings" if findings else "nothing is violated", flush=True)


def _shrink(plan: Plan, size: Size, out: Path | None) -> None:
    async def fails(faults: list[Fault]) -> bool:
        place = out.with_name(f"{out.stem}-shrunk.html") if out is not None else None
        return bool(await asyncio.to_thread(_run_once, plan, faults, size, place))

    smallest = asyncio.run(shrink(plan.faults, fails, tries=TRIES))
    print(f"fails with {len(smallest)} of {len(plan.faults)} faults:")
    for fault in smallest:
        print(f"{fault.at:9.2f} s  {fault.kind} for {fault.seconds} s ({fault.chance})")


if __name__ == "__main__":
    sys.exit(main())
