"""Rate limits: token buckets, each of them one number. Pure: the clock is an argument.

A bucket holds the uses of one second, at least one, or of more seconds. ``used_up_to`` is the time up to which the allowance is spent,
in seconds of any clock: a use moves it by 1/rate, and a use that would move it further ahead of now than the bucket is deep is
refused. (Known as GCRA, ITU-T I.371.)
"""

from __future__ import annotations

from ..errors import TooManyRequests

__all__ = ["Allowances", "spend", "use"]

ROUNDING = 1e-6  # seconds: the error of adding thirds of a second
NAMES_LEAST = 1024  # names that are held before any of them is looked at again


def use(used_up_to: float, now: float, rate: float, seconds: float = 1) -> float | None:
    """``used_up_to`` after one use, or None if the bucket is empty.

    ``rate`` is uses a second, 0 for no limit; the uses of ``seconds`` may come at once.
    """
    if not rate:
        return used_up_to
    start = max(used_up_to, now)
    if start - now > max(0.0, seconds - 1 / rate) + ROUNDING:
        return None
    return start + 1 / rate


def spend(used_up_to: float, now: float, rate: float, setting: str) -> float:
    """``use`` for a client's allowance: raises TooManyRequests, which names ``setting``, if the bucket is empty."""
    used = use(used_up_to, now, rate)
    if used is None:
        raise TooManyRequests(f"{setting} is {rate:g}")
    return used


class Allowances:
    """A bucket for each name, as of users that make one request after the other. A name whose bucket is full again is forgotten.

    ``len()`` is how many names are held: those whose bucket is not full, and others, at most as many again or NAMES_LEAST.
    """

    def __init__(self, rate: float, setting: str) -> None:
        self._rate = rate
        self._setting = setting
        self._used: dict[str, float] = {}
        self._most = NAMES_LEAST

    def __len__(self) -> int:
        return len(self._used)

    def spend(self, name: str, now: float) -> None:
        """One use by ``name``. Raises TooManyRequests if its bucket is empty."""
        if not self._rate:
            return
        self._used[name] = spend(self._used.get(name, 0.0), now, self._rate, self._setting)
        if len(self._used) > self._most:
            self._used = {name: used for name, used in self._used.items() if used > now}
            self._most = max(NAMES_LEAST, 2 * len(self._used))
