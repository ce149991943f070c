"""A publisher of a load client that calls the library's function itself, as backends do that publish without HTTP."""

from __future__ import annotations

import asyncio
import time

import uvloop

from ..errors import GatewayError
from ..store.access import make_commands
from ..store.connect import Address
from ..store.layout import Layout
from ..store.library import Library
from .load_orders import Answer, Call

__all__ = ["publish_by_calls"]


def publish_by_calls(order: Call) -> Answer:
    """A closed loop over one pipelined connection."""
    try:
        return uvloop.run(_publish(order))
    except GatewayError as error:
        return Answer(failure=str(error))


async def _publish(order: Call) -> Answer:
    commands = make_commands(Address(order.url), functions=Library(None, order.prefix))
    await commands.start()
    try:
        words = (b"FCALL", b"gateway_publish", 3, *Layout(order.prefix).keys(order.channel), order.data)
        began, done = time.monotonic(), 0
        while time.monotonic() < began + order.seconds:
            await asyncio.gather(*[commands.begin(*words, guarded=True) for _ in range(order.window)])
            done += order.window
        return Answer(done=done, seconds=time.monotonic() - began)
    finally:
        await commands.close()
