"""The parts of the bench. Each is a generator: it prepares, measures a run of all its figures, and yields after each run, so that servers
which are measured beside each other take turns; when it is closed, it closes its clients.

delivery_cost    fan-out, own
connect_cost     memory, connects
publish_cost     publish
storm_of_returns storm
latency_curve    latency
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..report import Part
from ..stage import RUNS, Effort, Runs, Stage
from .connect_cost import CONNECTS, STEP, WARM, connects, memory
from .delivery_cost import OWN, SIZES, fan_out, own_channels
from .latency_curve import SUBSCRIBERS, latency
from .publish_cost import CONNECTIONS, publishing
from .storm_of_returns import CLIENTS, storm

__all__ = ["PARTS", "Measuring"]


class Measuring(NamedTuple):
    """A part, about how many seconds it takes, and how many connections it has open at a time. ``can_measure``: whether it is of any use with
    the server of a stage."""

    name: Part
    seconds: float
    run: Callable[[Stage], Runs]
    connections: Callable[[Effort], int]
    can_measure: Callable[[Stage], bool] = lambda stage: True


# In this order: memory is measured best where nothing has happened before.
PARTS = (
    Measuring("memory", 6, memory, lambda effort: effort.count(WARM) + RUNS * effort.count(STEP)),
    Measuring("fan-out", 20, fan_out, lambda effort: sum(SIZES)),
    Measuring("connects", 10, connects, lambda effort: effort.count(CONNECTS)),
    Measuring("publish", 14, publishing, lambda effort: CONNECTIONS),
    Measuring("storm", 10, storm, lambda effort: effort.count(CLIENTS)),
    Measuring("own", 9, own_channels, lambda effort: effort.count(OWN), lambda stage: stage.server.addressing.batch > 1),
    Measuring("latency", 18, latency, lambda effort: SUBSCRIBERS),
)
