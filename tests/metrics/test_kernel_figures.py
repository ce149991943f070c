"""What is counted of the process itself is what Prometheus' own client counts."""

from __future__ import annotations

import os

import pytest
from prometheus_client.process_collector import ProcessCollector

from gateway.metrics import kernel_figures as module
from gateway.metrics.kernel_figures import kernel_figures


def counted_by_prometheus() -> dict[str, float]:
    return {sample.name: sample.value for family in ProcessCollector(registry=None).collect() for sample in family.samples}


def test_the_figures_are_those_of_prometheus_client() -> None:
    theirs, ours = counted_by_prometheus(), dict(kernel_figures())
    assert ours.keys() == theirs.keys()
    assert ours["process_start_time_seconds"] == pytest.approx(theirs["process_start_time_seconds"], abs=0.1)
    assert ours["process_max_fds"] == theirs["process_max_fds"]
    assert ours["process_cpu_seconds_total"] == pytest.approx(theirs["process_cpu_seconds_total"], abs=0.2)
    assert ours["process_resident_memory_bytes"] == pytest.approx(theirs["process_resident_memory_bytes"], rel=0.1)
    assert ours["process_virtual_memory_bytes"] == pytest.approx(theirs["process_virtual_memory_bytes"], rel=0.1)


@pytest.mark.parametrize("has_number", [True, False], ids=["by the folder's size", "by listing the folder"])
def test_each_open_file_counts(monkeypatch: pytest.MonkeyPatch, has_number: bool) -> None:
    if not has_number:
        monkeypatch.setattr(module.os, "stat", lambda folder: os.stat_result([0] * 10))
    before = dict(kernel_figures())["process_open_fds"]
    pipes = [os.pipe() for _ in range(20)]
    assert dict(kernel_figures())["process_open_fds"] == before + 40
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_there_is_nothing_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(module, "_PROC", tmp_path)
    assert dict(kernel_figures()) == {}
