"""How many examples Hypothesis looks for a fault with.

In each run they are others. The run with the slow tests takes as many as a property is worth; the ordinary run a third of them.
"""

from __future__ import annotations

import pytest

__all__ = ["choose", "examples"]

_share = 3


def choose(config: pytest.Config) -> None:
    """For ``pytest_configure``."""
    global _share
    if config.getoption("markexpr") == "slow or not slow":
        _share = 1


def examples(count: int) -> int:
    return count // _share
