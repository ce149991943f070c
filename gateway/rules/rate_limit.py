"""Rate limits: token buckets, each of them one number. Pure: the clock is an argument.

A bucket holds the uses of one second, at least one. ``used_up_to`` is the time up to which the allowance is spent, in seconds of any
clock: a use moves it by 1/rate, and a use that would move it more than a second ahead of now is refused. (Known as GCRA, ITU-T I.371.)
"""

from __future__ import annotations

from ..errors import TooManyRequests

__all__ = ["spend", "use"]

ROUNDING = 1e-6  # seconds: the error of adding thirds of a second


def use(used_up_to: float, now: float, rate: float) -> float | None:
    """``used_up_to`` after one use, or None if the bucket is empty. ``rate`` is uses a second, 0 for no limit."""
    if not rate:
        return used_up_to
    start = max(used_up_to, now)
    if start - now > max(0.0, 1 - 1 / rate) + ROUNDING:
        return None
    return start + 1 / rate


def spend(used_up_to: float, now: float, rate: float, setting: str) -> float:
    """``use`` for a client's allowance: raises TooManyRequests, which names ``setting``, if the bucket is empty."""
    used = use(used_up_to, now, rate)
    if used is None:
        raise TooManyRequests(f"{setting} is {rate:g}")
    return used
