"""A gateway that is ended lets its event streams go one after the other, and writes what they are still to receive."""

from __future__ import annotations

import asyncio
import json

import pytest

from ..kit.clients import Socket, Stream, client, stream
from ..kit.gateways import RULES, Start


async def test_a_draining_gateway_ends_its_streams_and_refuses_new_ones(start_gateway: Start) -> None:
    """Many streams, so that the drain lasts for some tenths of a second: batches of 200."""
    gateway = start_gateway(RULES)
    async with await Socket.open(gateway) as kept, stream(gateway, "chat:1") as events:
        await events.connected()
        gateway.publish("chat:1", 1)
        assert (await events.next()).data["data"] == 1
        others = [await Socket.open(gateway) for _ in range(900)]
        for other in others:
            await other.send(f"GET /sse?channel=chat:2&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await asyncio.gather(*[other.reader.readuntil(b"connected") for other in others])
        assert (await kept.request("GET", "/health/ready"))[0] == 200
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        assert await events.end() == []
        assert len(events.reading.retry) == 2 and 2000 <= events.reading.retry[1] <= 12000
        status, _, body = await kept.request("GET", "/health/ready")
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        await kept.send(f"GET /sse?channel=chat:1&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        late = Stream(kept, *await kept.head())
        assert late.status == 200
        (refused,) = await late.end()
        assert (refused.name, refused.data, refused.had_id) == ("refused", {"code": 3001, "message": "shutdown"}, False)
        assert late.reading.retry[0] >= 2000
        for other in others:
            await other.close()
        assert await stopping == 0


async def test_a_slow_reader_gets_the_end_of_its_stream_from_a_gateway_that_drains(start_gateway: Start) -> None:
    """More than the kernel holds: the rest waits in the process, which ends only when it is taken."""
    gateway = start_gateway(f"{RULES}\n[limits]\nwaiting_bytes = 50000000\n")
    async with stream(gateway, "chat:1", small=True) as events:
        await events.connected()
        async with client(gateway, subscribe="chat:1") as follower:
            for _ in range(200):
                gateway.publish("chat:1", "x" * 50_000)
            assert [publication["offset"] for publication in await follower.publications(200)][-1] == 200, "all are announced"
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stopping), 2)
        assert len(await events.end()) == 200 and len(events.reading.retry) == 2
        assert await stopping == 0
