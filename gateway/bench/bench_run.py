"""One run of the bench: starts the servers and the load clients, lets the parts measure, and makes the report.

The measured server has cores of its own where there are enough; load clients, Valkey and the bench share the others. Servers that are
measured beside each other take turns after each run of a part, so that what changes on the machine meanwhile meets all of them.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from ..errors import GatewayError
from .findings import Findings
from .load_clients import LoadClients, load_clients
from .machine_facts import machine, usable_cores
from .measured_server import MeasuredServer, free_port, start_gateway
from .parts import PARTS, Measuring
from .peers import PeerSettings, find_peers
from .process_usage import MEASURED
from .report import Report
from .stage import RUNS, Effort, Runs, Stage

__all__ = ["SECONDS", "Plan", "Progress", "run"]

SECONDS = sum(part.seconds for part in PARTS)  # about how long all parts take
SUBSCRIBERS_MOST = 4  # processes of subscribers
SPARE_DESCRIPTORS = 200


class Plan(NamedTuple):
    """What is measured. ``parts``: their names, none for all; ``seconds``: about how long, for each server, None for the usual time.

    ``url``: a Valkey to use, "" for the embedded one. ``centrifugo``: its program, by name or path; it and nchan are ``peers``.
    """

    parts: Sequence[str] = ()
    seconds: float | None = None
    workers: int = 1
    url: str = ""
    peers: bool = False
    centrifugo: str = "centrifugo"

    @property
    def chosen(self) -> list[Measuring]:
        return [part for part in PARTS if not self.parts or part.name in self.parts]

    @property
    def effort(self) -> Effort:
        return Effort(1.0 if self.seconds is None else self.seconds / sum(part.seconds for part in self.chosen))


class Progress(Protocol):
    """What people see meanwhile."""

    def begin(self, steps: int) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self) -> None: ...


class _Cores(NamedTuple):
    """Which cores the measured server has, and which all others; both are empty where they share all."""

    server: set[int]
    others: set[int]


def run(plan: Plan, progress: Progress) -> Report:
    """Measures. Whatever ends it, no process and no key of it is left. Raises GatewayError if something cannot be measured."""
    began, clock = datetime.now(UTC), time.monotonic()
    descriptors = _raise_descriptors(plan)
    findings, cores = Findings(), _share_cores(plan.workers)
    with ExitStack() as stack:
        stack.enter_context(_on_cores(cores.others))
        servers = stack.enter_context(_servers(plan, cores, findings, descriptors, progress))
        processes = max(1, min(SUBSCRIBERS_MOST, len(cores.others) - 1))
        clients = stack.enter_context(load_clients(processes, cores.others))
        progress.begin(len(plan.chosen) * len(servers) * RUNS)
        for part in plan.chosen:
            _run_part(part, [_stage(part, server, clients, findings, plan, progress) for server in servers], progress)
        valkey = servers[0].valkey().version
    return Report(
        began=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(time.monotonic() - clock, 1),
        scale=round(plan.effort.scale, 2),
        machine=machine(valkey),
        figures=findings.figures(),
        series=findings.series(),
        remarks=(*_remarks(plan, cores), *findings.remarks, *findings.doubts()),
    )


def _raise_descriptors(plan: Plan) -> int:
    """Each connection takes a descriptor of the server and one of a load client, which inherit the limit from here. Returns how many are needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(part.connections(plan.effort) for part in plan.chosen) + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise GatewayError(
            f"the bench needs {needed:,} descriptors for one process, and the limit here is {hard:,}; raise it (ulimit -n), or set fewer "
            "--seconds, for which fewer connections are opened"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return needed


def _share_cores(workers: int) -> _Cores:
    cores = usable_cores()
    if not MEASURED or len(cores) <= workers:
        return _Cores(set(), set())
    return _Cores(set(cores[:workers]), set(cores[workers:]))


@contextmanager
def _on_cores(cores: set[int]) -> Iterator[None]:
    """Has this process run on these cores meanwhile, and what it starts."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _servers(plan: Plan, cores: _Cores, findings: Findings, descriptors: int, progress: Progress) -> Iterator[list[MeasuredServer]]:
    """The gateway, then the peers. They end with the block."""
    progress.note("the gateway starts")
    port = free_port() if plan.peers and not plan.url else 0
    started = [start_gateway(plan.workers, plan.url, cores.server, valkey_port=port)]
    try:
        started[0].place_valkey(cores.others)
        if plan.peers:
            settings = PeerSettings(plan.url or f"valkey://127.0.0.1:{port}", started[0].prefix, descriptors)
            peers, missing = find_peers(plan.centrifugo, settings)
            for sentence in missing:
                findings.remark(sentence)
            for peer in peers:
                progress.note(f"{peer.name} starts")
                try:
                    started.append(peer.start(plan.workers, cores.server))
                except GatewayError as error:
                    findings.remark(f"{peer.name} was not measured: {error}.")
        yield started
    finally:
        progress.note("the servers end")
        for server in reversed(started):  # Centrifugo's keys are removed by the gateway's guardian
            server.end()


def _stage(part: Measuring, server: MeasuredServer, clients: LoadClients, findings: Findings, plan: Plan, progress: Progress) -> Stage:
    def note(text: str) -> None:
        progress.note(f"{part.name}: {text}" if not plan.peers else f"{part.name}, {server.name}: {text}")

    return Stage(part.name, server, clients, findings, plan.effort, note)


def _run_part(part: Measuring, stages: Sequence[Stage], progress: Progress) -> None:
    """A run of each server in turn. A peer that fails is left out from there on; the gateway's failure ends the bench."""
    running = {stage: part.run(stage) for stage in stages if part.can_measure(stage)}
    try:
        for _ in range(RUNS):
            for stage in stages:
                if stage in running and not _next(running[stage], stage, gateway=stage is stages[0]):
                    del running[stage]
                progress.advance()
    finally:
        for measuring in running.values():
            measuring.close()


def _next(measuring: Runs, stage: Stage, *, gateway: bool) -> bool:
    """Whether the part goes on with this server."""
    try:
        next(measuring)
        return True
    except StopIteration:
        return False
    except GatewayError as error:
        if gateway:
            raise GatewayError(f"{stage.part}: {error}") from None
        stage.findings.remark(f"{stage.part} was not measured to its end with {stage.server.name}: {error}.")
        return False


def _remarks(plan: Plan, cores: _Cores) -> Iterator[str]:
    if cores.server:
        plural = "s" if len(cores.server) > 1 else ""
        yield f"The measured server ran on {len(cores.server)} core{plural}, load clients and Valkey on the other {len(cores.others)}."
    else:
        yield "The measured server, load clients and Valkey shared all cores, so that each may have held up the others."
    if plan.url:
        yield "What Valkey took includes what other programs asked of it meanwhile."
    if plan.workers > 1:
        yield f"The gateway had {plan.workers} workers."
    if not MEASURED:
        yield "CPU and memory of other processes cannot be read on this system: what they cost is missing here."
