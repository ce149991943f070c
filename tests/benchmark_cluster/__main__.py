"""The command line of the two programs."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import __doc__ as usage
from . import connections, plan, scale


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark_cluster", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["scale", "connections", "plan"], default="scale")
    parser.add_argument("--seconds", type=float, default=5, help="scale: of load for each row, over all runs")
    parser.add_argument("--runs", type=int, default=3, help="scale: turns of all rows, whose middle is shown")
    parser.add_argument("--count", type=int, default=6000, help="connections: clients of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # what was started is ended then, too
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.what != "scale":
            figures |= connections.measure(Path(folder) / "connections", options.count)
        if options.what != "connections":
            figures |= scale.measure(Path(folder) / "scale", options.seconds, options.runs)
    if options.json:
        print(json.dumps(figures))
    else:
        {"scale": scale.show, "connections": connections.show, "plan": plan.show}[options.what](figures)


if __name__ == "__main__":
    main()
