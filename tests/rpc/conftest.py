"""What the tests of calls share: services that wait for 0.1 s where the real ones wait for a second."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of this process that is cancelled ends when its wait for a request does."""
    monkeypatch.setattr("gateway.rpc.service.BLOCK_SECONDS", 0.1)


@pytest.fixture
def method() -> str:
    """The name of a method that no other test serves."""
    return f"test.{os.urandom(4).hex()}"
