"""From numbers to places on paper: linear and logarithmic axes, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

__all__ = ["Scale", "cost_scale", "fitted_scale"]

_STEPS = (1, 2, 2.5, 5, 10)
_NEARLY = 1e-9  # of a step: sums of steps are not exact
COST_TICKS, FITTED_TICKS = 4, 5  # about as many


class Scale(NamedTuple):
    """An axis from ``low`` to ``high``, which are places 0 and 1; ``ticks`` are the round numbers between them."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def cost_scale(values: Sequence[float], scale: Literal["linear", "log"]) -> Scale:
    """An axis that ends at ticks. A linear one has 0, so that twice the height is twice the cost."""
    low, high = _range(values)
    if scale == "log" and low > 0:
        return _whole_log(low, high)
    low, high = min(low, 0.0), max(high, 0.0)
    return _whole_linear(low, high if high > low else low + 1)


def fitted_scale(values: Sequence[float], scale: Literal["linear", "log"]) -> Scale:
    """An axis that ends where the values do; from 0 if they begin near it. A logarithmic one needs values above 0, or it is linear."""
    low, high = _range(values)
    if scale == "log" and low > 0:
        return _fitted_log(low, high)
    if 0 < low <= high / 3:
        low = 0.0
    if low == high:
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    step = _step((high - low) / FITTED_TICKS)
    return Scale(low, high, False, tuple(_multiples(step, low, high)))


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _step(least: float) -> float:
    """The smallest round number that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - _NEARLY))


def _multiples(step: float, low: float, high: float) -> Iterable[float]:
    first, last = math.ceil(low / step - _NEARLY), math.floor(high / step + _NEARLY)
    return (count * step for count in range(first, last + 1))


def _whole_linear(low: float, high: float) -> Scale:
    step = _step((high - low) / COST_TICKS)
    low, high = math.floor(low / step + _NEARLY) * step, math.ceil(high / step - _NEARLY) * step
    return Scale(low, high, False, tuple(_multiples(step, low, high)))


def _whole_log(low: float, high: float) -> Scale:
    """Whole steps of 1, 2 and 5; over more than four powers of ten, of powers."""
    steps = _round_logs(low, high, (1, 2, 5) if high / low < 1e4 else (1,))
    first = max((step for step in steps if step <= low * (1 + _NEARLY)), default=low)
    last = min((step for step in steps if step >= high * (1 - _NEARLY) and step > first), default=high)
    return Scale(first, last, True, _few_logs(steps, first, last))


def _fitted_log(low: float, high: float) -> Scale:
    if low == high:
        low, high = low / 3, high * 3
    return Scale(low, high, True, _few_logs(_round_logs(low, high, (1, 2, 5)), low, high))


def _round_logs(low: float, high: float, factors: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    return [factor * 10.0**power for power in range(first, last + 1) for factor in factors]


def _few_logs(steps: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """Of the steps between the two, all of them if they are at most five, else the powers of ten, else every second or third power."""
    within = [step for step in steps if low * (1 - _NEARLY) <= step <= high * (1 + _NEARLY)]
    if len(within) <= 5:
        return tuple(within) if len(within) > 1 else (low, high)
    powers = [step for step in within if abs(math.log10(step) % 1) < _NEARLY or abs(math.log10(step) % 1 - 1) < _NEARLY]
    return tuple(powers[:: math.ceil(len(powers) / 6)]) if len(powers) > 1 else tuple(within[:: math.ceil(len(within) / 5)])
