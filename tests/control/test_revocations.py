"""What a process holds of the tokens that were revoked."""

from __future__ import annotations

import time

import pytest

from gateway.control.revocations import HELD_LEAST, Revocations
from gateway.rules.identity import Identity
from gateway.store.history import History
from gateway.store.layout import Layout


class NoCommands:
    """Nothing is stored."""


@pytest.fixture
def revocations() -> Revocations:
    return Revocations(History(NoCommands(), Layout("t")))  # type: ignore[arg-type]


def test_a_process_that_runs_for_months_forgets_revocations_that_are_over(revocations: Revocations) -> None:
    now = time.time()
    for number in range(10 * HELD_LEAST):
        revocations.add(f"u{number}", f"t{number}", now, now - 1)
        assert len(revocations) <= HELD_LEAST + 2


def test_revocations_in_force_are_never_forgotten(revocations: Revocations) -> None:
    now = time.time()
    for number in range(3 * HELD_LEAST):
        revocations.add(f"u{number}", "", now, now + 60)
        revocations.add("", f"t{number}", now, now - 1)
    assert all(revocations.covers(Identity(f"u{number}", issued_at=now - 1)) for number in range(3 * HELD_LEAST))
    assert len(revocations) <= 2 * 3 * HELD_LEAST
