"""Names that no other test uses: every test takes its own channels and users in the Valkey that all share."""

from __future__ import annotations

import secrets

import pytest

__all__ = ["channel", "new_channel", "new_user", "user"]


def new_channel(namespace: str = "chat") -> str:
    return f"{namespace}:{secrets.token_hex(6)}"


def new_user() -> str:
    return f"u{secrets.token_hex(6)}"


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the namespace that the test's module calls NAMESPACE, else of "chat"."""
    return new_channel(getattr(request.module, "NAMESPACE", "chat"))


@pytest.fixture
def user() -> str:
    return new_user()
