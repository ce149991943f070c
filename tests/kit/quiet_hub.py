"""A hub whose Valkey has an empty history of every channel, and confirms and announces nothing by itself: the test does that."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.config import Config
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.publication import Position
from gateway.store.history import Page
from gateway.store.layout import Layout

__all__ = ["quiet_hub"]


EMPTY = Page(Position("e1", 0), 0, [])


class _Valkey:
    async def read(self, *words: Any, **options: Any) -> Page:
        return EMPTY

    def begin_position(self, waiter: Any, channel: str) -> None:
        asyncio.get_running_loop().call_soon(waiter.set_result, EMPTY)

    def subscribe(self, channels: list[bytes]) -> None: ...

    def unsubscribe(self, channels: list[bytes]) -> None: ...

    def hold_reading(self, hold: bool) -> None: ...

    def on_missed_ephemeral(self, channel: Channel) -> None: ...


def quiet_hub() -> Hub:
    """Make it inside a running loop, and close it."""
    valkey = _Valkey()
    return Hub(Config(), Layout("t"), valkey, valkey, valkey)
