"""What clients send without waiting for an answer: real gateways, a real Valkey, a real service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

import pytest
import valkey

from gateway.rpc import Caller, Failure, Service
from gateway.rpc.calls import SENT

from ..kit.clients import client
from ..kit.gateways import RunningGateway, Start
from ..kit.services import lists, running
from ..kit.waiting import PATIENCE, until

TIGHT = "rpc_seconds = {}\n[limits]\nrpc_bytes = 1000\nrpc_queue = 3\n[channels]\nsubscribe = 'anyone'\n"


@pytest.fixture
def gateway(start_gateway: Start) -> RunningGateway:
    return start_gateway(TIGHT.format(60))


@pytest.fixture
def got(gateway: RunningGateway, valkey_url: str) -> tuple[Service, list[tuple[Caller, Any]]]:
    """A service, and what it was sent. It fails on ``"bad"``, refuses ``"odd"``."""
    service, sent = Service(valkey_url, prefix=gateway.prefix), []

    @service.sent
    async def take(caller: Caller, data: Any) -> str:
        sent.append((caller, data))
        if data == "bad":
            raise ValueError("a handler's own fault")
        if data == "odd":
            raise Failure(409, "not now")
        return "goes nowhere"

    return service, sent


async def test_what_a_client_sends_reaches_a_service_in_order_and_is_not_answered(
    gateway: RunningGateway, got: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service, sent = got
    said = [{"typing": True}, "bad", "odd", None, "last"]
    async with running(service), client(gateway, token=gateway.token("ann", info={"role": "clerk"})) as wire:
        for data in said:
            await wire.send({"send": {} if data is None else {"data": data}})
            await until(lambda data=data: sent and sent[-1][1] == data, f"{data} has arrived")
        assert await wire.result("rpc", method="gateway.whoami"), "the connection lives, and nothing else was answered"
        assert [data for _, data in sent] == said and not wire.rest
        assert (sent[0][0].user, sent[0][0].client, sent[0][0].info) == ("ann", wire.connected["client"], {"role": "clerk"})
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert any("gateway.send failed" in line for line in logged) and any("409" in line and "ann" in line for line in logged)


async def test_several_sends_in_one_frame_stay_in_order(gateway: RunningGateway, got: Any) -> None:
    service, sent = got
    async with client(gateway) as wire, running(service):
        for start in range(0, 30, 3):
            await wire.send(*({"send": {"data": number}} for number in range(start, start + 3)))
            await until(lambda start=start: len(sent) == start + 3, "all have arrived")
    assert [data for _, data in sent] == list(range(30))


async def test_a_handler_is_finished_though_it_takes_longer_than_rpc_seconds(start_gateway: Start, valkey_url: str) -> None:
    gateway = start_gateway(TIGHT.format(0.7))
    service, begun, done = Service(valkey_url, prefix=gateway.prefix), asyncio.Event(), asyncio.Event()

    @service.sent
    async def take(caller: Caller, data: Any) -> None:
        begun.set()
        await asyncio.sleep(0.8)  # longer than rpc_seconds
        done.set()

    async with running(service), client(gateway) as wire:
        while not begun.is_set():  # on a busy machine it may come to the service later than within rpc_seconds, and is dropped
            await wire.send({"send": {"data": 1}})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(begun.wait(), 1)
        await asyncio.wait_for(done.wait(), PATIENCE)


@pytest.mark.parametrize(
    ("message", "code"),
    [({"data": 1}, 3508), ({"data": "x" * 1000}, 3501), ({"data": json.loads("[" * 300 + "]" * 300)}, 3501)],
    ids=["nobody takes it", "too large", "nested too deep"],
)
async def test_a_send_that_cannot_be_passed_on_ends_the_connection(gateway: RunningGateway, message: dict[str, Any], code: int) -> None:
    async with client(gateway) as wire:
        await wire.send({"send": message})
        assert (await wire.ended())[0] == code


async def test_a_client_that_may_not_call_services_may_not_send(gateway: RunningGateway, got: Any) -> None:
    service, sent = got
    async with running(service), client(gateway, token="") as wire:
        await wire.send({"send": {"data": 1}})
        assert await wire.ended() == (3507, "permission denied")
    assert not sent


async def test_too_many_sends_that_wait_end_the_connection_with_a_code_to_reconnect(gateway: RunningGateway, valkey_url: str) -> None:
    queue, lease = lists(gateway, SENT)
    with valkey.Valkey.from_url(valkey_url, decode_responses=True) as store:
        store.set(lease, "a service that hangs", ex=60)
        async with client(gateway) as wire:
            await wire.send(*({"send": {"data": number}} for number in range(4)))
            assert await wire.ended() == (3013, "too many requests")
        waiting = [json.loads(text) for text in store.lrange(queue, 0, -1)]
        assert [each["data"] for each in reversed(waiting)] == [0, 1, 2]
        assert all("reply_to" not in each and "id" not in each and each["method"] == SENT for each in waiting)
        assert 0 < store.pttl(queue) <= 61_000


async def test_sends_count_for_the_rate_limit_of_commands(start_gateway: Start, valkey_url: str) -> None:
    gateway = start_gateway("[limits]\ncommands_per_second = 5")
    async with client(gateway) as wire:
        await asyncio.to_thread(lambda: valkey.Valkey.from_url(valkey_url).set(lists(gateway, SENT)[1], "me", ex=10))
        await wire.send(*({"send": {"data": number}} for number in range(50)))
        assert (await wire.ended())[0] == 3013
