"""What a process holds of the tokens that were revoked."""

from __future__ import annotations

import time

import pytest

from gateway.control.revocations import HELD_LEAST, Revocations
from gateway.rules.identity import Identity
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout

from ..kit.valkeys import OwnValkey


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


@pytest.mark.parametrize("lost", [("user 2.000 u",), ("user 2.000 u", "token t")])
async def test_what_valkey_lost_is_stored_again_for_processes_that_start_later(
    own: OwnValkey, lost: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """As where it came back from an older backup."""
    own.empty()
    commands, until = make_commands(Address(own.url)), time.time() + 60
    await commands.start()
    try:
        running, later = (Revocations(History(commands, Layout("t"))) for _ in range(2))
        for user, token_id in (("u", ""), ("", "t")):
            running.add(user, token_id, 2.0, until)
            await running.persist(user, token_id, 2.0, until)
        running.add("u", "", 1.0, time.time() - 1)
        await running.load()
        assert not caplog.text and own.ask("ZCARD", "t:revoked") == 2
        own.ask("ZREM", "t:revoked", *lost)
        await running.load()
        assert f"had lost {len(lost)} revocations" in caplog.text
        await later.load()
        assert later.covers(Identity("u", issued_at=1.5)) and later.covers(Identity("v", token_id="t"))
    finally:
        await commands.close()
