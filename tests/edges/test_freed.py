"""What is left of a connection that is closed: nothing that waits for a search for cycles, which comes late in a process with many clients."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.edges.outlets import Buffered
from gateway.edges.sse.stream import EventStream
from gateway.rules.identity import Identity


async def _send(data: bytes) -> None:
    raise AssertionError("nothing is pumped")


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
async def test_a_stream_that_is_closed_is_freed_at_once(valkey_url: str, prefix: str, names: tuple[str, ...]) -> None:
    gateway = Gateway(Config(prefix=prefix), valkey_url)
    await gateway.start()
    try:
        opened = EventStream(gateway.node, Buffered(_send), Identity("u"), dict.fromkeys(names), {})
        async with asyncio.timeout(10):
            while not opened.connected:
                await asyncio.sleep(0.001)
        gc.collect()
        gc.disable()
        opened.gone()
        del opened
        assert not [
            each for each in gc.get_objects() if type(each) is EventStream
        ]  # isinstance asks lazy objects of other tests for their class
    finally:
        gc.enable()
        await gateway.stop()
