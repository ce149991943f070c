"""Whether two clocks agree: this machine's, and Valkey's or a gateway's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .diagnosis import Finding, Weight

__all__ = ["Reading", "clock_findings", "read_clock"]

AGREES_SECONDS = 1.0  # NTP holds machines within some hundredths of it
APART_SECONDS = 30.0  # as much as many token makers allow for: beyond it, new tokens are refused, or old ones pass


class Reading(NamedTuple):
    """How much later another clock is than this machine's, in seconds, and by how much that may be wrong."""

    ahead: float
    doubt: float


async def read_clock(other: Callable[[], Awaitable[float]], now: Callable[[], float] = time.time) -> Reading:
    """``other`` asks for the other clock's unix time, ``now`` is this machine's. The answer was made while it was waited for, we do not know when."""
    before = now()
    theirs = await other()
    after = now()
    return Reading(theirs - (before + after) / 2, (after - before) / 2)


def clock_findings(whose: str, reading: Reading) -> list[Finding]:
    """``whose`` is the other clock: "Valkey's"."""
    apart = abs(reading.ahead) - reading.doubt
    if apart < AGREES_SECONDS:
        return []
    order = "later" if reading.ahead > 0 else "earlier"
    return [
        Finding(
            Weight.FAULT if apart >= APART_SECONDS else Weight.WARNING,
            f"{whose} clock is {abs(reading.ahead):.1f} s {order} than this machine's: tokens end too early or too late, delayed jobs run at another "
            "time, and revocations may miss tokens",
            "timedatectl set-ntp true    (on both machines; timedatectl shows which one is not synchronized)",
        )
    ]
