"""What a connection costs: to make it, and to have it idle."""

from __future__ import annotations

from ..findings import Chart
from ..process_usage import MEASURED
from ..report import Axis
from ..stage import RUNS, Runs, Stage

__all__ = ["CONNECTS", "STEP", "WARM", "connects", "memory"]

CONNECTS = 1500
WARM = 500  # connections that are made before memory is measured
STEP = 1500
KIB, MIB = 1024, 1024 * 1024

RESIDENT = Chart("memory", "Memory over connections", Axis(name="connections"), Axis(name="memory", unit="MiB"))


def connects(stage: Stage) -> Runs:
    """CPU for each connect, as many as come at once: with a token, presence and a subscription, the same with a channel of its own, and without any."""
    count = stage.effort.count(CONNECTS)
    for run in range(RUNS):
        _connect(stage, f"bare{run}-", "connect alone", "", count)
        if stage.server.addressing.tokens:
            _connect(stage, f"whole{run}-", "connect with token, presence and subscription", "connects", count, users=True)
            _connect(stage, f"own{run}-", "connect with all that and a channel of its own", "connects", count, users=True, own=True)
        yield


def _connect(stage: Stage, group: str, what: str, channel: str, count: int, *, users: bool = False, own: bool = False) -> None:
    stage.note(f"{count:,} clients {what}")
    use = stage.measure(stage.open(group, [channel], count, users=users, own=own))
    stage.cost(f"CPU per {what}", use, count)
    stage.figure(f"{what}, at most", "1/s", count / use.answer.seconds, use, better="more")
    stage.close(group)


def memory(stage: Stage) -> Runs:
    """Resident memory for each idle connection with a subscription. Each run adds as many, and what they add is its figure."""
    if not MEASURED:
        return
    step = stage.effort.count(STEP)
    groups = ["warm"]
    try:
        stage.note("the first clients connect")
        stage.open("warm", ["memory"], stage.effort.count(WARM))()
        total = stage.effort.count(WARM)
        for run in range(RUNS):
            stage.note(f"{total + step:,} connections")
            before = _resident(stage, total)
            groups.append(f"idle{run}")
            stage.open(groups[-1], ["memory"], step)()
            total += step
            stage.figure("memory per idle connection", "KiB", max(0, _resident(stage, total) - before) / step / KIB)
            yield
    finally:
        for group in groups:
            stage.close(group)


def _resident(stage: Stage, connections: int) -> int:
    stage.settle()
    resident = stage.server.memory()
    stage.findings.point(RESIDENT, stage.server.name, "", connections, resident / MIB)
    return resident
