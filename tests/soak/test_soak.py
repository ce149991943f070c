"""The soak's visitors and backend do what they are meant to, and the gateway holds nothing of them afterwards."""

from __future__ import annotations

import asyncio

import pytest

from ..kit.gateways import Start
from ..kit.waiting import eventually
from .backend import Backend
from .visitors import RULES, Visitors

pytestmark = pytest.mark.slow
VISITORS = 120


async def test_visitors_come_and_go_without_a_fault(start_gateway: Start) -> None:
    gateway = await asyncio.to_thread(start_gateway, RULES)
    visitors, backend = Visitors(gateway.port), Backend(gateway.port)

    async def visit(number: int) -> None:
        await visitors.visit(number)
        await backend.follow(number)

    await asyncio.gather(*[visit(number) for number in range(VISITORS)])

    async def nobody_is_left() -> bool:
        return (await backend.call("info"))["nodes"][0]["num_clients"] == 0

    await eventually(nobody_is_left, "all have gone")
    backend.close()
    assert not [what for what in visitors.did if what.startswith(("failed", "error"))], visitors.did
    assert all(visitors.did[kind] for kind in ("WebSockets", "event streams", "emulated", "closed properly")), visitors.did
    assert all(backend.did[method] for method in ("publish", "notify", "revoke", "disconnect", "subscribe")), backend.did
