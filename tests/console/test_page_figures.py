"""The series that the console's page makes of figures: seconds in which they arrived here, whatever the clocks of the processes show."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from gateway.edges.pages import STATIC

NODE = shutil.which("node")
TOTALS = dict.fromkeys(
    ["clients", "users", "channels", "subs", "slow", "connects", "deliveries", "bytes", "gaps", "recovered", "pages", "cpu"], 0
)
SCRIPT = """
const { Figures, arrivals } = await import(FILE);
const figures = new Figures();
const { history, live } = INPUT;
const arrived = arrivals(history, 300_000);
for (let at = history.length - 1; at >= 0; at--) figures.take(history[at], arrived[at]);
for (const [data, at] of live) figures.take(data, at);
console.log(JSON.stringify({ samples: figures.samples, nodes: [...figures.nodes.keys()] }));
"""


def _of(node: str, ms: int, publications: int) -> dict[str, Any]:
    return {**TOTALS, "node": node, "ms": ms, "clients": 1, "publications": publications}


def _series(history: list[Any], live: list[Any]) -> dict[str, Any]:
    """What the page has at 300,000 ms of its own clock, when it read the history (newest first), and after what came live."""
    if NODE is None:
        pytest.skip("there is no node")
    script = SCRIPT.replace("FILE", json.dumps((STATIC / "admin/figures.js").as_uri())).replace(
        "INPUT", json.dumps({"history": history, "live": live})
    )
    return json.loads(subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, check=True, timeout=20).stdout)


@pytest.mark.parametrize("skew", [0, 7_000, -7_000, 3_600_000])
def test_processes_whose_clocks_differ_are_all_in_each_second(skew: int) -> None:
    history = [figures for at in range(299_000, 289_000, -1000) for figures in (_of("b", at + skew, at // 100), _of("a", at, at // 100))]
    live = [[each, at] for at in range(300_000, 310_000, 1000) for each in (_of("a", at, at // 100), _of("b", at + skew, at // 100))]
    found = _series(history, live)
    assert found["nodes"] == ["a", "b"]
    assert [sample["second"] for sample in found["samples"][-15:]] == list(range(294, 309))
    assert all((sample["clients"], sample["publications"]) == (2, 20) for sample in found["samples"][-15:])


def test_a_process_goes_on_after_its_clock_was_set_back() -> None:
    live = [[_of("a", at if at < 305_000 else at - 60_000, at // 100), at] for at in range(300_000, 312_000, 1000)]
    rates = [sample["publications"] for sample in _series([], live)["samples"]]
    assert rates == [None, 10, 10, 10, 10, None, 10, 10, 10, 10, 10]


def test_what_arrived_late_and_all_at_once_counts_for_its_seconds() -> None:
    live = [[_of("a", at, at // 100), at if at < 303_000 else 309_000] for at in range(300_000, 310_000, 1000)]
    assert [sample["second"] for sample in _series([], live)["samples"]] == list(range(300, 309))
