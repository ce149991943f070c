"""``python -m tests.soak --connects 1000000``: runs to its end, shows its progress, and exits with 1 if something grew."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

import uvloop

from .backend import Backend
from .samples import Rig, Sample, running
from .visitors import Visitors

BASE = 100_000  # connects after which the first sample is taken: until then memory fills up to its usual size
SHOWN = 5_000  # connects between lines of progress
STEP = 50_000  # connects between samples
QUIET_SECONDS = 30.0  # without any client, before the first sample and before the last: longer than a channel or its history stays
TOLERANCE = 0.1


async def soak(rig: Rig, connects: int, at_once: int, quiet: float) -> list[Sample]:
    """The samples: the first after BASE connects, the last after all; before both of them it is quiet for ``quiet`` seconds."""
    visitors, backend, samples = Visitors(rig.port), Backend(rig.port), list[Sample]()
    base, begun = min(BASE, connects // 2), time.monotonic()
    print(Sample.HEAD, flush=True)
    for start in range(0, connects, min(STEP, base)):
        stop = min(start + min(STEP, base), connects)
        await _visits(visitors, backend, range(start, stop), at_once)
        if stop in (base, connects):
            await asyncio.sleep(quiet)
        sample = rig.sample(stop, (await backend.call("info"))["nodes"][0]["num_clients"])
        print(sample.row(), flush=True)
        if stop >= base:
            samples.append(sample)
    print(f"\n{connects / (time.monotonic() - begun):.0f} connects a second, pauses included")
    backend.close()
    for what, count in sorted((visitors.did + backend.did).items()):
        print(f"{count:>9,} {what}")
    return samples


async def _visits(visitors: Visitors, backend: Backend, numbers: range, at_once: int) -> None:
    """These visitors, ``at_once`` of them at a time, each followed by the next."""
    waiting = iter(numbers)

    async def one_after_another() -> None:
        for number in waiting:
            await visitors.visit(number)
            await backend.follow(number)
            if number % SHOWN == 0:
                print(f"{time.strftime('%H:%M:%S')} visitor {number:,}", file=sys.stderr, flush=True)

    async with asyncio.TaskGroup() as together:
        for _ in range(at_once):
            together.create_task(one_after_another())


def report(first: Sample, last: Sample) -> int:
    """Prints what grew by more than TOLERANCE; the exit status."""
    pairs = {
        "the gateway's memory": (first.resident, last.resident),
        "its descriptors": (first.descriptors, last.descriptors),
        "keys without a TTL": (first.permanent.total(), last.permanent.total()),
    }
    grown = {what: pair for what, pair in pairs.items() if abs(pair[1] - pair[0]) > TOLERANCE * pair[0]}
    for what, (before, after) in pairs.items():
        print(f"{what}: {before:,} → {after:,}, {after / before - 1:+.1%}{' NOT LEVEL' if what in grown else ''}")
    for kind in first.permanent.keys() | last.permanent.keys():
        print(f"keys without a TTL, {kind}: {first.permanent[kind]:,} → {last.permanent[kind]:,}")
    for kind in first.objects.keys() | last.objects.keys():
        before, after = first.objects.get(kind, 0), last.objects.get(kind, 0)
        if abs(after - before) > max(100, TOLERANCE * before):
            print(f"objects, {kind}: {before:,} → {after:,}")
    return 1 if grown else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--connects", type=int, default=1_000_000, help="1,000,000; fewer than 200,000 end before memory and keys are level"
    )
    parser.add_argument("--at-once", type=int, default=500, help="visitors at a time")
    parser.add_argument("--quiet", type=float, default=QUIET_SECONDS, help="seconds without a client before the first and the last sample")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the gateway and its Valkey end, too
    with running() as rig:
        samples = uvloop.run(soak(rig, options.connects, options.at_once, options.quiet))
        print(rig.log.read_text()[-3000:], file=sys.stderr)
    return report(samples[0], samples[-1])


if __name__ == "__main__":
    sys.exit(main())
