"""A gateway that is ended lets its event streams go one after the other, and writes what they are still to receive."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import Sequence

import pytest

from ..kit.clients import Socket, Stream, client, connected_socket, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.waiting import until


async def test_a_draining_gateway_ends_its_streams_and_refuses_new_ones(start_gateway: Start) -> None:
    """Many streams, so that each moment of the drain has some."""
    gateway = start_gateway(f"drain_seconds = 1\n{RULES}")
    async with await Socket.open(gateway) as kept, stream(gateway, "chat:1") as events:
        await events.connected()
        gateway.publish("chat:1", 1)
        assert (await events.next()).data["data"] == 1
        others = [await Socket.open(gateway) for _ in range(300)]
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
    assert "stopping: no new connections are accepted, and 301 clients are asked to connect again" in gateway.log(), (
        "there may be no other gateway"
    )


async def test_a_slow_reader_gets_the_end_of_its_stream_from_a_gateway_that_drains(start_gateway: Start) -> None:
    """More than the kernel holds: the rest waits in the process, which ends only when it is taken."""
    seconds = {"gateway.edges.outlets.CLOSE_SECONDS": 25.0, "gateway.serve.server.LAST_ANSWERS_SECONDS": 26}  # a busy machine needs them
    gateway = start_gateway(f"{RULES}\n[limits]\nwaiting_bytes = 50000000\n", seconds=seconds)
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


async def open_and_time(gateway: RunningGateway, number: int) -> asyncio.Task[float]:
    """Opens a WebSocket or, every other time, an event stream. The task's result is when it was sent away, in seconds of the loop."""
    raw = await connected_socket(gateway, "chat:1") if number % 2 else await Socket.open(gateway)
    if number % 2 == 0:
        await raw.send(f"GET /sse?channel=chat:1&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await raw.reader.readuntil(b"connected")

    async def until_sent_away() -> float:
        if number % 2:
            assert (await raw.read_to_close(30))[0] == 3001
        else:
            await raw.reader.readuntil(b"0\r\n\r\n")
        return asyncio.get_running_loop().time()

    task = asyncio.create_task(until_sent_away())
    task.add_done_callback(lambda _: raw.writer.close())
    return task


def check_spread(times: Sequence[float], seconds: float, parts: int = 5) -> None:
    """At no moment have many more clients left than the share of the time that is over, and the last ones leave at its end.

    A machine that is busy can only delay them, which is no failure. ``serve/test_drain_pace.py`` has both bounds, in virtual time.
    """
    for part in range(1, parts):
        gone = sum(time <= part * seconds / parts for time in times) / len(times)
        assert gone <= 1.35 * part / parts, (part, gone, sorted(times))
    assert max(times) > 0.8 * seconds


async def test_the_clients_of_both_edges_leave_spread_over_the_drain_seconds(start_gateway: Start) -> None:
    seconds, count = 1.5, 300
    gateway = start_gateway(f"drain_seconds = {seconds}\n{RULES}")
    leaving = [await open_and_time(gateway, number) for number in range(count)]
    began = asyncio.get_running_loop().time()
    stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
    times = [time - began for time in await asyncio.gather(*leaving)]
    assert await stopping == 0
    assert asyncio.get_running_loop().time() - began < seconds + 10
    for kind in (times[::2], times[1::2]):
        check_spread(kind, seconds)


async def test_the_clients_of_an_ended_gateway_arrive_at_another_one_spread_over_the_drain_seconds(start_gateway: Start) -> None:
    """They come back as gateway.js does, whose delay is shortened here as the drain is. ``serve/test_drain_pace.py`` has more of them."""
    seconds, count = 2.0, 100
    gateway = start_gateway(f"drain_seconds = {seconds}\n{RULES}")
    other = start_gateway(RULES, beside=gateway)
    sockets = [await connected_socket(gateway, "chat:1") for _ in range(count)]
    now = asyncio.get_running_loop().time

    async def come_back(socket: Socket) -> float:
        assert (await socket.read_to_close(30))[0] == 3001
        await socket.close()
        await asyncio.sleep(random.uniform(0, 0.5 * seconds / 10))
        arrival = now()
        async with await Socket.open(other) as again:
            assert await again.upgrade() == 101
        return arrival

    coming = [asyncio.create_task(come_back(socket)) for socket in sockets]
    began = now()
    stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
    times = [arrival - began for arrival in await asyncio.gather(*coming)]
    assert await stopping == 0
    check_spread(times, seconds)


async def test_ctrl_c_sends_few_clients_away_at_once(start_gateway: Start) -> None:
    gateway = start_gateway(f"drain_seconds = 20\n{RULES}")
    leaving = [await open_and_time(gateway, number) for number in range(10)]
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop, signal.SIGINT) == 0
    await asyncio.gather(*leaving)
    assert time.monotonic() - began < 15, "sooner than in the 20 seconds of its drain"


async def test_the_last_answer_to_a_backend_ends_its_connection_which_is_not_closed_under_its_next_request(start_gateway: Start) -> None:
    """Of one that was used before, and of one on which nothing was sent yet."""
    gateway = start_gateway(RULES, seconds={"gateway.serve.server.LAST_REQUESTS_SECONDS": 20})
    body, headers = b'{"channel":"chat:1","data":1}', {"X-API-Key": API_KEY}
    async with await Socket.open(gateway) as used, await Socket.open(gateway) as new:
        status, answered, _ = await used.request("POST", "/api/publish", headers, body)
        assert status == 200 and "connection" not in answered
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: "stopping: " in gateway.log(), "it stops")
        for number, each in enumerate((used, new), 2):
            status, answered, text = await each.request("POST", "/api/publish", headers, body)
            assert (status, answered["connection"], json.loads(text)["result"]["offset"]) == (200, "close", number)
            assert await each.reader.read() == b""
    await until(lambda: gateway.process.poll() is not None, "it does not wait where no connection is left")


async def test_ctrl_c_during_a_drain_ends_it_at_once_and_without_a_traceback(start_gateway: Start) -> None:
    gateway = start_gateway(f"drain_seconds = 60\n{RULES}")
    async with stream(gateway, "chat:1") as first, stream(gateway, "chat:1") as second:
        await first.connected()
        await second.connected()
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining 2 clients" in gateway.log(), "it drains")
        gateway.process.send_signal(signal.SIGINT)
        await until(lambda: gateway.process.poll() is not None, "it ended")
    assert "Traceback" not in gateway.log() and "stopped: process" in gateway.log()
