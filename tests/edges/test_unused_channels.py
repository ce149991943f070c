"""Reading the history of a channel that was never published to: it costs Valkey nothing, and what follows is not missed."""

from __future__ import annotations

import json
from urllib.parse import quote

import valkey

from ..kit.clients import client, stream
from ..kit.gateways import CLOSED_RULES, RunningGateway, shared_gateway

NAMESPACE = "member"
gateway = shared_gateway(CLOSED_RULES)


def keys(store: valkey.Valkey, gateway: RunningGateway, channel: str) -> list[bytes]:
    return list(store.scan_iter(f"{gateway.prefix}:{{{channel}}}*", count=10_000))


def get(gateway: RunningGateway, channel: str, **query: str) -> tuple[int, dict[str, object]]:
    path = "".join([f"/history?channel={quote(channel)}", *(f"&{name}={quote(value)}" for name, value in query.items())])
    status, body = gateway.http("GET", path, headers={"Authorization": f"Bearer {gateway.token()}"})
    return status, json.loads(body)


NOTHING = {"publications": [], "epoch": "", "offset": 0}


async def test_a_client_that_reads_history_makes_no_key(gateway: RunningGateway, store: valkey.Valkey, channel: str) -> None:
    assert get(gateway, channel) == (200, NOTHING)
    assert get(gateway, channel, since="1a2b3c:4")[0] == 416
    async with client(gateway) as wire:
        assert await wire.result("history", channel=channel, limit=10) == NOTHING
        assert await wire.error("history", channel=channel, limit=10, since={"epoch": "1a2b3c", "offset": 4}) == 112
    assert not keys(store, gateway, channel)


async def test_the_position_of_an_unused_channel_is_one_to_read_on_from(gateway: RunningGateway, channel: str) -> None:
    _, before = get(gateway, channel)
    for number in (1, 2):
        gateway.publish(channel, number)
    _, after = get(gateway, channel, since=f"{before['epoch']}:{before['offset']}")
    assert [each["data"] for each in after["publications"]] == [1, 2] and after["epoch"]


async def test_a_follower_and_a_service_begin_the_epoch(gateway: RunningGateway, store: valkey.Valkey, channel: str) -> None:
    async with stream(gateway, channel, last="5") as events:
        told = await events.connected()
        position = told["channels"][channel]
        assert position["epoch"] and position["offset"] == 0
        gateway.publish(channel, "x")
        assert (await events.next()).id == f"{position['epoch']}:1"
    other = f"{channel}-b"
    epoch = gateway.epoch(other)
    assert epoch and len(keys(store, gateway, other)) == 1
    assert gateway.publish(other, "x")["epoch"] == epoch, "a client may recover from the position that a service gave it"
