"""A service on a cluster, where each method's requests are in a slot of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.rpc import Caller, Service

from ..kit.clients import client
from ..kit.clusters import Cluster
from ..kit.gateways import RunningGateway, Start
from ..kit.services import running


@pytest.fixture(scope="module")
def gateway(shared_cluster: Cluster, start_gateway_once: Start) -> Iterator[RunningGateway]:
    yield start_gateway_once(valkey_url=shared_cluster.url)


@pytest.mark.parametrize("concurrency", [1, 64])
async def test_methods_of_several_shards_are_served_though_fewer_requests_run_at_once(
    shared_cluster: Cluster, gateway: RunningGateway, method: str, concurrency: int
) -> None:
    service, at_once, most = Service(shared_cluster.url, prefix=gateway.prefix, concurrency=concurrency), 0, 0

    def serve(name: str) -> None:
        @service.method(name)
        async def answer(caller: Caller, data: Any) -> list[Any]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            return [name, data]

    names = [f"{method}.{number}" for number in range(5)]
    for name in names:
        serve(name)
    assert len({shared_cluster.owner(f"{gateway.prefix}:rpc:{{{name}}}") for name in names}) > 1

    async def ask(name: str) -> None:
        async with client(gateway, token=gateway.token("ann")) as wire:
            for number in range(4):
                assert await wire.result("rpc", method=name, data=number) == {"data": [name, number]}

    async with running(service):
        await asyncio.gather(*map(ask, names))
    assert most <= concurrency


async def test_a_service_follows_a_method_whose_slot_moves(shared_cluster: Cluster, gateway: RunningGateway, method: str) -> None:
    service = Service(shared_cluster.url, prefix=gateway.prefix)

    @service.method(method)
    async def answer(caller: Caller, data: Any) -> Any:
        return data

    slot = shared_cluster.slot(f"{gateway.prefix}:rpc:{{{method}}}")
    async with running(service), client(gateway, token=gateway.token("ann")) as wire:
        for number, move in enumerate((shared_cluster.move_slot, lambda slot, to: shared_cluster.migrate([(slot, slot)], to))):
            owner = shared_cluster.owner(slot)
            await asyncio.to_thread(move, slot, next(each for each in shared_cluster.primaries if each is not owner))
            assert shared_cluster.owner(slot) is not owner
            assert await wire.result("rpc", method=method, data=number) == {"data": number}
