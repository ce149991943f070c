"""Making the console of a process from the process's parts."""

from __future__ import annotations

import time

from ..auth.admin_keys import AdminKeys
from ..metrics.process_figures import Measured
from ..session.control_orders import Orders
from .caller import Console
from .live_figures import LiveFigures
from .log_lines import LogLines
from .login import LoginLimit
from .methods import register_answers

__all__ = ["make_console"]


def make_console(measured: Measured, orders: Orders, keys: AdminKeys) -> Console:
    """The console, which answers the questions of other processes' consoles from now on. ``open`` and ``close`` it."""
    node = measured.node
    lines = LogLines(node.config)
    figures = LiveFigures(node.config, measured, lines, orders.name)
    console = Console(node, measured, orders, keys, figures, lines, LoginLimit(time.monotonic))
    register_answers(console)
    return console
