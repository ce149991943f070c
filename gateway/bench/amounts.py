"""Numbers as people read them: three digits that count, thousands apart, the unit after them."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["amount", "byte_count", "number", "percent", "tick_names", "unit_words"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN = (1e-4, 1e12)  # what is smaller or larger is written with a power of ten


def number(value: float, digits: int = 3) -> str:
    """``value`` rounded to ``digits`` digits: 0.987, 11.2, 1,020,000, 1.2 × 10⁻⁷."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    return (_plain if _PLAIN[0] <= abs(value) < _PLAIN[1] else _power)(value, digits).replace("-", "−")


def _plain(value: float, digits: int) -> str:
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _power(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa} × {power}"


def amount(value: float, unit: str) -> str:
    return f"{number(value)} {unit_words(unit)}".rstrip()


def unit_words(unit: str) -> str:
    """A unit as it is read after a number: "a second" for 1/s."""
    return "a second" if unit == "1/s" else unit


def tick_names(values: Sequence[float]) -> list[str]:
    """The numbers of an axis, with as few digits as they can have and differ; millions and billions are M and G."""
    for digits in range(3, 17):
        names = [_tick(value, digits) for value in values]
        if len(set(names)) == len(names):
            break
    return names


def _tick(value: float, digits: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if size <= abs(value) < 1e12:
            return f"{number(value / size, digits)}{letter}"
    return number(value, digits)


def percent(share: float) -> str:
    """A share of 1 as a change in percent, with its sign; shares of ten and more as a factor."""
    return f"{number(share + 1)} ×" if share >= 9.5 else f"{share * 100:+.0f} %".replace("-", "−")


def byte_count(count: float) -> str:
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if count >= size:
            return amount(count / size, unit)
    return amount(count / 2**10, "KiB")
