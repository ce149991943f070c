"""A client whose subscription has begun gets joins and leaves, whether or not it is given what it missed first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.live.subscription import State
from gateway.session.client_subscription import ClientSubscription
from gateway.store.layout import JoinLeave

from ..kit.model import WIRE
from ..kit.quiet_hub import quiet_hub

JOIN = b'{"push":{"channel":"posts:1","join":{"info":{"client":"c"}}}}'


class Outlet:
    """Notes what is sent, and how much of it leaves together."""

    wire = WIRE

    def __init__(self, paused: bool) -> None:
        self.paused = paused
        self.sent: list[bytes] = []
        self.writes: list[int] = []

    def write(self, joined: Any) -> None: ...

    def cork(self) -> bool:
        return True

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def uncork(self) -> None:
        self.writes.append(len(self.sent))


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("state", [State.CATCHING_UP, State.LIVE])
async def test_joins_leave_in_one_write_unless_the_socket_is_full(state: State, paused: bool) -> None:
    outlet, hub = Outlet(paused), quiet_hub()
    subscription = ClientSubscription(SimpleNamespace(outlet=outlet), hub.channel("posts:1"), None, asked=1)
    subscription.state = state
    subscription.on_join_leave([JoinLeave("join", b'{"client":"c"}')] * 3)
    assert (outlet.sent, outlet.writes) == (([], []) if paused else ([JOIN] * 3, [3]))
    await hub.close()
