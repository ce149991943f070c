"""What holds for one subscription instead of its channel's rules, where one of three grants it: a token's ``subs``, a subscription token, the server API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ..kit.clients import client, until_counted
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.tokens import ticket, token

RULES = """
[namespaces.chat]
join_leave = "asked"
[namespaces.room]
join_leave = "all"
[namespaces.forgetful]
recover = false
"""

gateway = shared_gateway(RULES)


@pytest.fixture(params=["subs of a token", "a subscription token", "the server API"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@contextlib.asynccontextmanager
async def subscribed(gateway: RunningGateway, way: str, channel: str, **values: bool) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """A client, and the result of its subscription to ``channel``, where ``values`` override the rules."""
    override = {name: {"value": value} for name, value in values.items()}
    subs = {"subs": {channel: {"override": override}}} if way == "subs of a token" else {}
    async with client(gateway, token=token("guest", **subs)) as wire:
        if way == "subs of a token":
            result = wire.connected["subs"][channel]
        elif way == "a subscription token":
            result = await wire.result("subscribe", channel=channel, token=ticket(channel, "guest", override=override))
        else:
            await gateway.ask("subscribe", user="guest", channel=channel, override=override)
            result = (await wire.next())["push"]["subscribe"]
        yield wire, result


@pytest.mark.parametrize("more", [{}, {"join_leave": False}], ids=["presence", "presence and joins"])
async def test_a_client_without_presence_is_not_listed(gateway: RunningGateway, way: str, user: str, more: dict[str, bool]) -> None:
    channel = f"room:{user}"
    async with client(gateway, subscribe=channel) as watching, subscribed(gateway, way, channel, presence=False, **more):
        assert (await watching.result("presence_stats", channel=channel))["num_clients"] == 1
        async with client(gateway, "seen", subscribe=channel):
            await until_counted(watching, channel, 2)
        found = (await watching.result("presence", channel=channel))["presence"]
        assert {info["user"] for info in found.values()} <= {"u1", "seen"}


async def test_a_client_without_joins_is_present_and_not_announced(gateway: RunningGateway, way: str, user: str) -> None:
    channel = f"room:{user}"
    async with client(gateway, subscribe=channel) as watching:
        async with subscribed(gateway, way, channel, join_leave=False):
            await until_counted(watching, channel, 2)
        await until_counted(watching, channel, 1)
        pushes = [message["push"] for message in watching.rest]
        assert all("join" in push and push["join"]["info"]["user"] == "u1" for push in pushes), "its own join alone"


async def test_a_client_that_did_not_ask_may_be_sent_joins_and_leaves(gateway: RunningGateway, way: str, user: str) -> None:
    channel = f"chat:{user}"
    async with subscribed(gateway, way, channel, force_push_join_leave=True) as (wire, _):
        async with client(gateway, "seen", subscribe=channel):
            while (await wire.next())["push"]["join"]["info"]["user"] != "seen":
                continue
        assert (await wire.next())["push"]["leave"]["info"]["user"] == "seen"


async def test_a_client_that_would_be_sent_joins_and_leaves_may_be_spared_them(gateway: RunningGateway, way: str, user: str) -> None:
    channel = f"room:{user}"
    async with subscribed(gateway, way, channel, force_push_join_leave=False) as (wire, _), client(gateway, subscribe=channel) as other:
        await until_counted(other, channel, 2)
        await gateway.ask("publish", channel=channel, data=1)
        assert (await wire.publication())["data"] == 1 and not wire.rest


async def test_recovery_is_granted_and_withheld(gateway: RunningGateway, way: str, user: str) -> None:
    async with subscribed(gateway, way, f"chat:{user}", force_recovery=False) as (_, result):
        assert "recoverable" not in result and "epoch" not in result
    async with subscribed(gateway, way, f"forgetful:{user}", force_recovery=True) as (_, result):
        assert result["recoverable"] is True and result["epoch"]
    async with subscribed(gateway, way, f"forgetful:{user}", force_positioning=True) as (_, result):
        assert "recoverable" not in result, "positions are kept anyway"
