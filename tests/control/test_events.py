"""Lifecycle events, as a backend reads them; and what browsers of other origins may."""

from __future__ import annotations

import pytest
from valkey import Valkey

from ..kit.clients import client, stream
from ..kit.gateways import RunningGateway, Start
from ..kit.waiting import wait_until

RULES = """
events = true
events_size = 1000
allowed_origins = ["https://app.example.org"]
[namespaces.chat]
publish = "subscriber"
"""


@pytest.fixture
def gateway(start_gateway: Start) -> RunningGateway:
    return start_gateway(RULES)


def events(store: Valkey, gateway: RunningGateway, count: int) -> list[dict[str, str]]:
    """The first ``count``, read by a consumer group, as backends do."""
    key, group = f"{gateway.prefix}:events", "backend"
    wait_until(lambda: store.xlen(key) >= count, f"{count} events")
    store.xgroup_create(key, group, id="0", mkstream=True)
    entries = store.xreadgroup(group, "one", {key: ">"}, count=count)[0][1]
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]


async def test_the_events_of_a_connection_come_in_order_with_reasons(gateway: RunningGateway, store: Valkey) -> None:
    async with client(gateway, "ann", subscribe="chat:1") as wire:
        await wire.result("unsubscribe", channel="chat:1")
        gateway.api("disconnect", user="ann", disconnect={"code": 4500, "reason": "enough"})
        assert await wire.ended() == (4500, "enough")
        id = wire.connected["client"]
    recorded = events(store, gateway, 6)
    assert {event["client"] for event in recorded} == {id} and {event["user"] for event in recorded} == {"ann"}
    assert [(event["event"], event.get("channel", "")) for event in recorded] == [
        ("subscribed", "notifications:ann"),
        ("connected", ""),
        ("subscribed", "chat:1"),
        ("unsubscribed", "chat:1"),
        ("disconnected", ""),
        ("unsubscribed", "notifications:ann"),
    ]
    assert (recorded[4]["code"], recorded[4]["reason"]) == ("4500", "enough")
    assert all(event["ms"].isdigit() and event["process"] for event in recorded)


async def test_a_subscribe_refused_for_its_position_makes_no_event(gateway: RunningGateway, store: Valkey) -> None:
    async with client(gateway, "ann") as wire:
        answer = await wire.ask("subscribe", channel="chat:1", recover=True, epoch="another", offset=7, flag=2)
        assert answer["error"]["code"] == 112
        await wire.result("subscribe", channel="chat:1")
    recorded = [event["event"] for event in events(store, gateway, 6) if event.get("channel") != "notifications:ann"]
    assert recorded == ["connected", "subscribed", "disconnected", "unsubscribed"]


async def test_the_events_of_an_event_stream_are_those_of_a_connection(gateway: RunningGateway, store: Valkey) -> None:
    async with stream(gateway, "chat:1", user="bob") as opened:
        await opened.next()
    recorded = [(event["event"], event["user"]) for event in events(store, gateway, 4)]
    assert recorded == [(name, "bob") for name in ("connected", "subscribed", "unsubscribed", "disconnected")]


def test_no_events_are_written_unless_the_setting_is_on(start_gateway: Start, store: Valkey) -> None:
    gateway = start_gateway('[namespaces.chat]\npublish = "subscriber"')
    gateway.publish("chat:1", 1)
    gateway.stop()
    assert not store.exists(f"{gateway.prefix}:events")


@pytest.mark.parametrize("path", ["/history", "/inbox", "/inbox/read", "/sse"])
def test_a_page_of_an_allowed_origin_may_call_with_a_token(gateway: RunningGateway, path: str) -> None:
    headers = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert gateway.http("OPTIONS", path, headers=headers)[0] == 204
    assert gateway.http("OPTIONS", path, headers=headers | {"Origin": "https://evil.example.org"})[0] == 403
    assert gateway.http("OPTIONS", path)[0] == 403
