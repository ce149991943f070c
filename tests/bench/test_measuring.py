"""``gateway bench`` measures: every part in a short run on a real Valkey, what a run leaves behind, and how it ends."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.bench import bench_run, parts, stage
from gateway.bench.bench_run import Plan, run
from gateway.bench.guardian import GuardedServer
from gateway.bench.measured_server import ServerProcess, free_port, wait_until_it_listens
from gateway.bench.parts import delivery_cost, latency_curve
from gateway.bench.prefix_removal import remove_prefix
from gateway.bench.process_usage import descendants
from gateway.bench.report import Figure, Report, decode, encode
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.store.layout import publish_words

from ..kit.forks import Program
from ..kit.programs import runs
from ..kit.valkeys import OwnValkey, opened_history
from ..kit.waiting import wait_until

pytestmark = pytest.mark.slow

SHORT = 1.2  # seconds for all parts
KINDS = {"µs", "KiB", "1/s", "s", "ms", ""}


class Silent:
    """Counts the steps of a run, and shows nothing."""

    steps = done = 0
    noted = ""

    def begin(self, steps: int) -> None:
        self.steps = steps

    def note(self, text: str) -> None:
        self.noted = text

    def advance(self) -> None:
        self.done += 1


@pytest.fixture(scope="module")
def measured(own: OwnValkey) -> Iterator[tuple[Report, Silent]]:
    """All parts, as short as they may be, with few clients."""
    progress = Silent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery_cost, "SIZES", (1, 20))
        patch.setattr(latency_curve, "LOADS", (1_000, 10_000))
        patch.setattr(latency_curve, "SUBSCRIBERS", 50)
        patch.setattr(stage, "LOOK_SECONDS", 0.01)
        yield run(Plan(seconds=SHORT, url=own.url), progress), progress


def test_every_part_finds_figures_of_three_runs_and_the_pictures_lines(measured: tuple[Report, Silent]) -> None:
    report, progress = measured
    assert {figure.part for figure in report.figures} == {part.name for part in parts.PARTS}
    assert {(each.part, each.label) for each in report.series} >= {
        ("fan-out", ""), ("memory", ""), ("storm", ""), ("latency", "p50"), ("latency", "p99")
    }  # fmt: skip
    for figure in report.figures:
        assert figure.subject == "gateway" and figure.unit in KINDS
        # On a busy machine a run may bring nothing: a load that it does not reach, a delivery that comes too late.
        assert len(figure.runs) == 3 or (figure.part in ("latency", "fan-out") and figure.runs), figure
        assert figure.value == sorted(figure.runs)[(len(figure.runs) - 1) // 2]
    assert all(point[1] >= 0 for series in report.series for point in series.points)
    assert progress.done == progress.steps > 0
    assert decode(encode(report)) == report


def test_what_was_sent_arrived_and_costs_what_such_things_cost(measured: tuple[Report, Silent]) -> None:
    report, _ = measured
    assert not [remark for remark in report.remarks if "had not arrived" in remark]
    assert 1 < _figure(report, "CPU per delivery to 20 subscribers").value < 5000
    assert 100 < _figure(report, "CPU per connect with token, presence and subscription").value < 50_000
    assert 1 < _figure(report, "Valkey's CPU per publication by FCALL, one subscriber").value < 1000
    assert _figure(report, "clients return, 100 missed each: reads of Valkey").value < 30, "they are served from the ring"
    share = _figure(report, "deliveries at most").load_client
    assert share is not None and 0 < share < 1.2


def _figure(report: Report, name: str) -> Figure:
    return next(figure for figure in report.figures if figure.name.endswith(name))


def test_nothing_of_a_run_is_left_in_the_valkey_that_it_was_given(measured: tuple[Report, Silent], own: OwnValkey) -> None:
    client: Any = own.client
    assert client.keys("*") == []
    assert client.execute_command("FUNCTION", "LIST") == [], "the library came with the run"


async def test_what_is_another_prefixes_stays(own: OwnValkey) -> None:
    for prefix in ("theirs", "bench-1"):
        async with opened_history(own.url, prefix, Config()) as history:
            assert await history.publish("posts:1", publish_words(b"1"))
    await remove_prefix(own.url, "bench-1")
    client: Any = own.client
    keys, rules = client.keys("*"), msgspec.json.decode(client.execute_command("FCALL", "gateway_rules", 0))
    assert keys and all(key.startswith(b"theirs:") for key in keys)
    assert "theirs" in rules and "bench-1" not in rules


def test_a_run_that_would_open_more_than_the_limit_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1024))
    with pytest.raises(GatewayError, match=r"needs 5,200 descriptors .* limit here is 1,024; raise it \(ulimit -n\)"):
        bench_run.run(Plan(), Silent())


@pytest.mark.parametrize(
    ("text", "reason"),
    [("no program", "cannot be started: Exec format error"), ("#!/bin/sh\necho broken >&2\n", "did not start: broken")],
)
def test_a_server_that_does_not_start_says_why_in_one_line(
    tmp_path: Path, text: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    program, folder = tmp_path / "program", tmp_path / "server"
    program.write_text(text)
    program.chmod(0o700)
    folder.mkdir()
    process = ServerProcess(GuardedServer(command=[str(program)], folder=str(folder)))
    with pytest.raises(GatewayError, match=rf"{reason}\Z"):
        wait_until_it_listens(process, "a peer", free_port())
    process.end()
    assert not folder.exists() and capfd.readouterr().err == ""


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    output, error = tmp_path / "output", tmp_path / "error"
    bench = Program("gateway.cli", output, error, "bench", "publish")
    wait_until(lambda: len(descendants(bench.pid)) >= 5, "a guardian, a gateway, its Valkey and the load clients", 60)
    started = descendants(bench.pid)
    bench.send_signal(signal.SIGINT)
    assert bench.wait(30) == 1
    assert (output.read_text(), error.read_text().strip()) == ("", "gateway: interrupted")
    assert not any(map(runs, started))


def test_a_bench_that_is_killed_takes_its_servers_and_load_clients_with_it(tmp_path: Path) -> None:
    """Their standard input ends with it; that is all that they look at."""
    folder = tmp_path / "server"
    folder.mkdir()
    charge = GuardedServer(command=["sleep", "60"], folder=str(folder))
    guardian, client = (
        subprocess.Popen([sys.executable, "-m", f"gateway.bench.{name}"], stdin=subprocess.PIPE, start_new_session=True)
        for name in ("guardian", "load_process")
    )
    assert guardian.stdin and client.stdin
    guardian.stdin.write(msgspec.json.encode(charge) + b"\n")
    guardian.stdin.flush()
    wait_until(lambda: descendants(guardian.pid), "the server")
    started = descendants(guardian.pid)
    for program in (guardian, client):
        assert program.stdin
        program.send_signal(signal.SIGINT)  # is not theirs
        program.stdin.close()
        assert program.wait(30) == 0
    assert not any(map(runs, started)) and not folder.exists()
