"""Clients that read slowly, or never, or break off: they cost a bounded amount of memory, lose nothing that history holds, and harm no other client."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from typing import Any

import pytest

from ..kit.bystander import Bystander, Log
from ..kit.clients import Socket, client, connected_socket
from ..kit.gateways import RULES, RunningGateway, Start, shared_gateway
from ..kit.programs import cpu_seconds
from ..kit.publishing import publish_many
from ..kit.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("nobody_else_notices")]

SLOW_SECONDS = 6

# A client that was closed takes what is left, for which a busy machine needs longer.
gateway = shared_gateway(
    f"pong_seconds = 60\n{RULES}[limits]\nslow_seconds = {SLOW_SECONDS}\n", seconds={"gateway.edges.outlets.CLOSE_SECONDS": 30.0}
)
# Of the clients that read on at last, however long it takes to publish what they then read.
patient = shared_gateway(f"pong_seconds = 60\n{RULES}[limits]\nslow_seconds = 60\n")


FILL = "x" * 60000


def filled(numbers: range) -> list[Any]:
    return [{"n": number, "fill": FILL} for number in numbers]


async def test_a_client_that_never_reads_is_closed_and_costs_little(gateway: RunningGateway, bystander: Bystander, log: Log) -> None:
    async with await connected_socket(gateway, "chat:flood", small=True) as raw:
        before, peak = gateway.memory(), 0
        for round_number in range(12):
            await asyncio.to_thread(publish_many, gateway, "chat:flood", filled(range(round_number * 100, round_number * 100 + 100)))
            await bystander.check()
            peak = max(peak, gateway.memory())
            if "closed: 3008 slow" in log.text:
                break  # a busy machine: its close frame waits for no more rounds
        # Up to 72 MB were published. History, and so the ring, keeps 100 publications: 6 MB, in up to three encoded forms.
        assert peak - before < 48 * 2**20
        await log.says("closed: 3008 slow")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3008, "slow")
        numbers = [message["push"]["pub"]["data"]["n"] for message in objects]
        assert numbers == list(range(len(numbers))), "what it did get is a run without a hole"


async def test_a_slow_client_that_reads_on_gets_everything_once_and_in_order(patient: RunningGateway) -> None:
    async with await connected_socket(patient, "endless:slow", small=True) as raw, client(patient, subscribe="chat:beside") as beside:
        await asyncio.to_thread(publish_many, patient, "endless:slow", filled(range(300)))  # 18 MB: far more than the kernel holds
        patient.publish("chat:beside", 1)
        assert (await beside.publication())["data"] == 1, "another client notices nothing"
        offsets = [(await raw.read_object())["push"]["pub"]["offset"] for _ in range(300)]
        assert offsets == list(range(1, 301))
        patient.publish("endless:slow", "live again")
        assert (await raw.read_object())["push"]["pub"] == {"data": "live again", "offset": 301}


async def test_a_slow_client_whose_position_was_trimmed_away_is_unsubscribed(patient: RunningGateway) -> None:
    async with await connected_socket(patient, "short:slow", small=True) as raw:
        await asyncio.to_thread(publish_many, patient, "short:slow", filled(range(300)))  # history keeps five
        seen = []
        while "pub" in (message := (await raw.read_object())["push"]):
            seen.append(message["pub"]["offset"])
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < 295, "this client was not slow, and the test shows nothing"
        assert message == {"channel": "short:slow", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
        epoch = patient.epoch("short:slow")
        await raw.say({"id": 9, "subscribe": {"channel": "short:slow", "recover": True, "epoch": epoch, "offset": seen[-1]}})
        result = (await raw.read_object())["subscribe"]
        assert result["was_recovering"] is True and "recovered" not in result and "publications" not in result
        assert result["offset"] == 300
        patient.publish("short:slow", "on")
        assert (await raw.read_object())["push"]["pub"]["offset"] == 301


async def test_a_slow_client_of_a_channel_without_history_is_closed(gateway: RunningGateway, log: Log) -> None:
    async with await connected_socket(gateway, "forgetful:slow", small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "forgetful:slow", filled(range(200)))
        await log.says("closed: 3008 slow")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3008, "slow")
        numbers = [message["push"]["pub"]["data"]["n"] for message in objects]
        assert numbers == list(range(len(numbers)))


async def test_a_slow_client_of_its_own_channel_that_missed_some_is_closed(patient: RunningGateway) -> None:
    """A server-side subscription has no unsubscribe push: the connection closes with 3010."""
    log = Log(patient)
    async with await connected_socket(patient, user="slowpoke", small=True) as raw:
        await asyncio.to_thread(publish_many, patient, "notifications:slowpoke", filled(range(200)))
        patient.api("history_remove", channel="notifications:slowpoke")
        code, reason, objects = await raw.read_to_close()
        assert (code, reason) == (3010, "insufficient state")
        offsets = [message["push"]["pub"]["offset"] for message in objects]
        assert offsets == list(range(1, len(offsets) + 1))
    await log.says("closed: 3010 insufficient state")


async def test_a_flood_of_commands_is_answered_one_by_one(gateway: RunningGateway, bystander: Bystander) -> None:
    async with client(gateway) as wire:
        for start in range(0, 3000, 500):
            await wire.send(*[{"id": number, "rpc": {"method": "gateway.time"}} for number in range(start + 1, start + 501)])
        await bystander.check()
        answered = {(await wire.next())["id"] for _ in range(3000)}
        assert answered == set(range(1, 3001))


# What once took the whole process down, or stopped it for everybody, has a gateway of its own.


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_clients_that_break_off_while_they_are_written_to_end_nothing(start_gateway: Start, kind: str) -> None:
    gateway = start_gateway(RULES)
    async with client(gateway, subscribe="chat:gone") as wire:
        total = 0
        for _ in range(4):
            leaving = []
            for _ in range(10):
                raw = await _follower(gateway, kind)
                raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaving.append(raw)
            flood = asyncio.ensure_future(asyncio.to_thread(publish_many, gateway, "chat:gone", filled(range(40))))
            for raw in leaving:
                await wire.publication()
                total += 1
                await raw.close()
            await flood
            for _ in range(30):
                await wire.publication()
                total += 1
        assert gateway.process.poll() is None, f"the gateway ended with {gateway.process.poll()}"
        assert total == 160
        assert "Traceback" not in gateway.log()
        await until(lambda: gateway.clients == 1, "they are forgotten")


async def _follower(gateway: RunningGateway, kind: str) -> Socket:
    if kind == "websocket":
        return await connected_socket(gateway, "chat:gone", small=True)
    raw = await Socket.open(gateway, small=True)
    await raw.send(f"GET /sse?channel=chat:gone&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await raw.reader.readuntil(b"connected")
    return raw


async def test_a_broken_pipe_does_not_end_the_gateway(start_gateway: Start) -> None:
    """SIGPIPE is what the kernel sends to a process that writes to a connection that the client has reset."""
    gateway = start_gateway(RULES)
    gateway.process.send_signal(signal.SIGPIPE)
    assert gateway.http("GET", "/health/live")[0] == 200
    assert gateway.process.poll() is None


async def test_a_client_that_asks_for_much_and_never_reads_costs_little(start_gateway: Start) -> None:
    """Replies cannot wait in history, so the gateway stops reading from a client that does not read them, and closes it in the end."""
    gateway = start_gateway(RULES + "[limits]\nslow_seconds = 1\n")
    await asyncio.to_thread(publish_many, gateway, "member:big", filled(range(60)))
    async with await connected_socket(gateway, small=True) as raw:
        before, peak = gateway.memory(), 0
        asking = asyncio.ensure_future(_ask_for_much(raw))
        try:
            for _ in range(20):
                await asyncio.wait((asking,), timeout=0.1)
                used = cpu_seconds(gateway.process.pid)  # real seconds pass on a machine that is busy, too
                await gateway.ask("publish", channel="member:other", data=1)
                assert cpu_seconds(gateway.process.pid) - used < 1, "another client waits for this one's answers"
                peak = max(peak, gateway.memory())
            assert peak - before < 64 * 2**20
            await until(lambda: "closed: 3008 slow" in gateway.log(), "it is closed")
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _ask_for_much(raw: Socket) -> None:
    """A gigabyte of answers, in commands of 70 bytes."""
    for number in range(2, 4000):
        await raw.say({"id": number, "history": {"channel": "member:big", "limit": -1}})


async def test_a_frame_that_subscribes_to_one_channel_again_and_again_costs_little(start_gateway: Start) -> None:
    """Each subscribe is answered with a page of what was missed: a thousandfold of what was asked. A ring has them at once."""
    gateway = start_gateway(RULES)
    async with await connected_socket(gateway, "chat:big"), await connected_socket(gateway, small=True) as raw:
        await asyncio.to_thread(publish_many, gateway, "chat:big", ["x" * 1300] * 100)
        before = gateway.memory()
        pair = [{"id": 2, "subscribe": {"channel": "chat:big", "recover": True}}, {"id": 3, "unsubscribe": {"channel": "chat:big"}}]
        await raw.say(*pair * 500)
        await gateway.ask("publish", channel="chat:other", data=1)
        assert "subscribe" in await raw.read_object()
        assert gateway.memory() - before < 16 * 2**20
