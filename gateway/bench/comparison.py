"""Two reports beside each other: which figures became worse, which better, and what keeps the two from being compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from .captions import cores
from .report import Figure, Machine, Report

__all__ = ["Change", "Verdict", "changes", "obstacles", "slower"]

Verdict = Literal["worse", "better", "level"]

NOISE = 0.10  # on a shared machine, single figures vary by a tenth from one minute to the next
NOISE_OF_ONE_RUN = 0.25  # where fewer than three runs show no spread


class Change(NamedTuple):
    """A figure in both reports. ``before`` is the other report's. ``share`` is by how much of it the value changed: 0.5 is half more."""

    figure: Figure
    before: Figure
    share: float
    verdict: Verdict


def slower(report: Report, other: Report) -> list[Change]:
    """The gateway's figures that became worse since ``other`` by more than noise. What changed of its peers is in ``changes`` alone.

    A figure is worse, or better, if both hold: it changed by more than 10 %, and the runs of the two reports do not overlap, so that
    the best run of the one is worse than the worst run of the other. With fewer than three runs on a side there is no spread to look at:
    it must then have changed by more than 25 %.
    """
    return [change for change in changes(report, other) if change.verdict == "worse" and change.figure.subject == "gateway"]


def changes(report: Report, other: Report) -> list[Change]:
    """Every figure of ``report`` that ``other`` has too, in the order of ``report``; by the rule of ``slower``."""
    before = {_key(figure): figure for figure in other.figures}
    return [_change(figure, before[_key(figure)]) for figure in report.figures if _key(figure) in before]


def obstacles(report: Report, other: Report) -> list[str]:
    """Why the two can be compared in part only, or with care: in whole sentences, none if nothing is different."""
    return [*_machines(report.machine, other.machine), *_lengths(report, other), *_missing(report, other)]


def _key(figure: Figure) -> tuple[str, str, str, str]:
    return figure.part, figure.name, figure.unit, figure.subject


def _change(figure: Figure, before: Figure) -> Change:
    return Change(figure, before, _share(figure.value, before.value), _verdict(figure, before))


def _share(value: float, before: float) -> float:
    if before == 0:
        return 0.0 if value == 0 else math.copysign(math.inf, value)
    return (value - before) / abs(before)


def _verdict(figure: Figure, before: Figure) -> Verdict:
    if not _beyond_noise(figure, before):
        return "level"
    return "better" if (figure.value > before.value) == (figure.better == "more") else "worse"


def _beyond_noise(figure: Figure, before: Figure) -> bool:
    share = abs(_share(figure.value, before.value))
    if min(len(figure.runs), len(before.runs)) < 3:
        return share > NOISE_OF_ONE_RUN
    return share > NOISE and (min(figure.runs) > max(before.runs) or max(figure.runs) < min(before.runs))


def _machines(machine: Machine, other: Machine) -> Iterator[str]:
    """Where it was measured. Another version of the gateway is what one compares, so it is no obstacle."""
    if (machine.cpu, machine.cores) != (other.cpu, other.cores):
        yield (
            f"The other report is of another machine: {cores(other)}, and this one of {cores(machine)}. What changed may be the machine."
        )
    for what, now, before in (
        ("operating system", machine.system, other.system),
        ("Python", machine.python, other.python),
        ("Valkey", machine.valkey, other.valkey),
    ):
        if now != before:
            yield f"The other report was made with another {what}: {before}, and this one with {now}."


def _lengths(report: Report, other: Report) -> Iterator[str]:
    if report.scale and other.scale and report.scale != other.scale:
        yield (
            f"The other report measured for {other.scale:g} of the usual time, and this one for {report.scale:g}: a shorter run opens fewer "
            "connections, and its figures differ for that alone. Give both the same --seconds and parts."
        )


def _missing(report: Report, other: Report) -> Iterator[str]:
    """Parts and peers that only one of the two has, and figures of parts that both have, as those of other counts of clients."""
    before = {_key(figure) for figure in other.figures}
    both = set(_parts(other)), {figure.subject for figure in other.figures}
    alone = [figure for figure in report.figures if _key(figure) not in before and figure.part in both[0] and figure.subject in both[1]]
    if alone:
        yield f"{len(alone)} of this report's figures are not in the other, as {alone[0].name!r}: the two did not measure the same."
    for names, others in ((_parts(report), _parts(other)), (_peers(report), _peers(other))):
        if absent := [name for name in names if name not in others]:
            yield f"The other report has no {' and no '.join(absent)}."
        if absent := [name for name in others if name not in names]:
            yield f"This report has no {' and no '.join(absent)}, which the other has."


def _parts(report: Report) -> list[str]:
    return list(dict.fromkeys(figure.part for figure in report.figures))


def _peers(report: Report) -> list[str]:
    return list(dict.fromkeys(figure.subject for figure in report.figures if figure.subject != "gateway"))
