"""How long to wait before the next attempt."""

from __future__ import annotations

import random

__all__ = ["backoff"]


def backoff(attempt: int, base: float, ceiling: float) -> float:
    """Seconds before attempt number ``attempt`` (1, 2, …), drawn from the whole range ("full jitter"), so that
    many clients that failed together do not come back together.
    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(ceiling, base * 2 ** min(attempt, 30)))
