"""What a run of the bench found, and the JSON that holds it.

A ``Report`` is made by one run. Two reports can be compared if they were made by the same parts; a figure is found in another report
by its ``part``, ``name`` and ``subject``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["FORMAT", "Axis", "Figure", "Machine", "Report", "Series", "decode", "encode"]

FORMAT = 1

Part = Literal["fan-out", "connects", "memory", "publish", "storm", "own", "latency"]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured. ``memory`` is in bytes; ``cores`` are those that the run may use."""

    cpu: str
    cores: int
    memory: int
    system: str
    python: str
    gateway: str
    valkey: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number. ``subject`` is the measured server: "gateway", or the name of a peer.

    ``value`` is the median of ``runs``. ``load_client`` is the share of one core, 0 to 1, that the busiest load client used while it
    was measured: near 1, it may be the load client's limit and not the server's.
    """

    part: Part
    name: str
    unit: str
    subject: str = "gateway"
    value: float
    runs: tuple[float, ...] = ()
    better: Literal["less", "more"] = "less"
    load_client: float | None = None


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted along one side of a picture, in which unit ("" for a plain number)."""

    name: str
    unit: str = ""
    scale: Literal["linear", "log"] = "linear"


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a picture; the lines of one ``part`` and ``title`` are drawn together, one colour for each ``subject`` and ``label``."""

    part: Part
    title: str
    x: Axis
    y: Axis
    subject: str = "gateway"
    label: str = ""
    points: tuple[tuple[float, float], ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run: when it began (RFC 3339, UTC), how many seconds it took, what it found, and remarks in whole sentences.

    ``scale`` is how long each figure was measured, 1 for the usual time; 0 where that is not known.
    """

    format: int = FORMAT
    began: str
    seconds: float
    scale: float = 0.0
    machine: Machine
    figures: tuple[Figure, ...]
    series: tuple[Series, ...]
    remarks: tuple[str, ...] = ()


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def decode(text: bytes) -> Report:
    """Raises ``ValueError`` if it is no report, or one of another format."""
    report = msgspec.json.decode(text, type=Report)
    if report.format != FORMAT:
        raise ValueError(f"the report has format {report.format}; this version reads {FORMAT}")
    return report
