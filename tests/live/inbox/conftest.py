"""An inbox's own Valkey, which tests may empty, and two gateways on it: a user's devices need not be on the same one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.publication import Position

from ...kit.gateways import CLOSED_RULES, RULES, RunningGateway, Start
from ...kit.inboxes import Box, opened_box
from ...kit.valkeys import OwnValkey

LIMIT = 4096  # bytes of a request's body


@pytest.fixture(scope="session")
def body_limit() -> int:
    """The most bytes that ``gateway`` takes as a request's body."""
    return LIMIT


@pytest.fixture(scope="module")
def gateway(own: OwnValkey, start_gateway_once: Start) -> RunningGateway:
    settings = f"""allowed_origins = ["https://app.example.org"]\n{RULES}\n[limits]\nmessage_bytes = {LIMIT}\n"""
    return start_gateway_once(settings, valkey_url=own.url)


@pytest.fixture(scope="module")
def other_gateway(own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start) -> RunningGateway:
    """Nothing is open to the anonymous here."""
    return start_gateway_once(CLOSED_RULES, valkey_url=own.url)


@pytest.fixture
async def box(own: OwnValkey, gateway: RunningGateway, user: str) -> AsyncIterator[Box]:
    """The inbox of ``user``."""
    async with opened_box(own, gateway.prefix, user) as box:
        yield box


@pytest.fixture
async def three(box: Box) -> Position:
    """The position of the second of three notifications: a, b, and c."""
    await box.notify("a")
    position = await box.notify("b")
    await box.notify("c")
    return position
