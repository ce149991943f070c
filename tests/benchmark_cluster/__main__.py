"""The command line of the two programs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from . import __doc__ as usage
from . import connections, scale


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark_cluster", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["scale", "connections"], default="scale")
    parser.add_argument("--seconds", type=float, default=5, help="scale: of load for each row, over all runs")
    parser.add_argument("--runs", type=int, default=3, help="scale: turns of all rows, whose middle is shown")
    parser.add_argument("--count", type=int, default=6000, help="connections: clients of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "scale":
            scale.run(Path(folder), options.seconds, options.runs, options.json)
        else:
            connections.run(Path(folder), options.count, options.json)


if __name__ == "__main__":
    main()
