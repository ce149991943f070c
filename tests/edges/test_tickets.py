"""Subscription tokens of simple clients, and how their streams end: on time, announced before, and never silently."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from ..kit.beside import Waits, beside
from ..kit.channels import new_channel
from ..kit.clients import Event, Stream, stream
from ..kit.gateways import RULES, RunningGateway, shared_gateway
from ..kit.tokens import SECRET, ticket, token
from ..kit.waiting import until

HEAD = "ping_seconds = 1\npong_seconds = 60\n"

gateway = shared_gateway(HEAD + RULES, both_edges=True)


async def test_each_token_opens_the_channel_that_it_names_whatever_their_order(gateway: RunningGateway) -> None:
    one, other, open_to_all = new_channel("ticket"), new_channel("ticket"), "chat:beside"
    async with stream(gateway, one, open_to_all, other, subscription_token=[ticket(other), ticket(one)]) as events:
        assert set((await events.connected())["channels"]) == {one, other, open_to_all}
        for channel in (other, open_to_all, one):
            gateway.publish(channel, channel)
            assert (await events.next()).data["data"] == channel
    async with stream(gateway, one, other, subscription_token=ticket(other)) as events:
        assert await events.refused() == {"code": 103, "message": "permission denied", "channel": one}


async def test_presence_has_the_info_of_the_subscription_token(gateway: RunningGateway) -> None:
    channel = new_channel("ticket")
    async with stream(gateway, channel, subscription_token=ticket(channel, info={"seat": 7})) as events:
        client = (await events.connected())["client"]

        def present() -> dict[str, Any]:
            return gateway.api("presence", channel=channel)["result"]["presence"]

        await until(present, "it is there")
        assert present() == {client: {"user": "u1", "client": client, "chan_info": {"seat": 7}}}


@pytest.mark.parametrize("path", ["/sse", "/history"])
def test_there_are_no_more_tokens_than_channels(gateway: RunningGateway, path: str) -> None:
    channel = new_channel("ticket")
    query = urlencode([("channel", channel)] + [("subscription_token", ticket(channel))] * 2)
    status, body = gateway.http("GET", f"{path}?{query}", headers={"Authorization": f"Bearer {gateway.token()}"})
    assert status == 400
    assert "2 subscription tokens for 1 channel" in str(json.loads(body)["error"])


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (lambda channel: ticket(channel, seconds=-5), 109, True),
        (lambda channel: ticket(channel, jti="gone"), 103, True),
        (lambda channel: ticket(channel, sub="u2"), 3500, True),
        (lambda channel: ticket(channel, secret="x" * 40), 103, True),
        (lambda channel: ticket(channel, client="8b6c"), 3500, True),
        (lambda channel: ticket("chat:elsewhere"), 3500, False),
        (lambda channel: "garbage", 103, False),
        (lambda channel: token(channel=7), 103, False),
    ],
    ids=["expired", "revoked", "another user's", "forged", "another connection's", "another channel's", "garbage", "of no type"],
)
async def test_a_refusal_names_the_tokens_channel(gateway: RunningGateway, make: Callable[[str], str], code: int, named: bool) -> None:
    channel = new_channel("ticket")
    await gateway.ask("revoke", token_id="gone")
    async with stream(gateway, "chat:1", channel, subscription_token=make(channel)) as events:
        data = await events.refused()
        assert (data["code"], data.get("channel")) == (code, channel if named else None)


async def test_a_revoked_subscription_token_ends_its_stream_and_no_other(gateway: RunningGateway) -> None:
    channel, id = new_channel("ticket"), os.urandom(4).hex()
    async with (
        stream(gateway, "chat:1", channel, subscription_token=ticket(channel, jti=id)) as events,
        stream(gateway, channel, subscription_token=ticket(channel)) as kept,
    ):
        await events.connected()
        await kept.connected()
        await gateway.ask("revoke", token_id=id)
        assert await events.refused() == {"code": 109, "message": "token expired", "channel": channel}
        gateway.publish(channel, 1)
        assert (await kept.next()).data["data"] == 1


def test_a_good_subscription_token_does_not_replace_an_expired_connection_token(gateway: RunningGateway) -> None:
    channel = new_channel("ticket")
    query = {"channel": channel, "token": gateway.token(seconds=-5), "subscription_token": ticket(channel)}
    status, body = gateway.http("GET", f"/history?{urlencode(query)}")
    assert (status, json.loads(body)["error"]["code"]) == (401, 109)


async def test_no_subscription_token_reaches_the_log(gateway: RunningGateway) -> None:
    """Neither those of any of these tests: all are JSON Web Tokens, which begin alike."""
    channel = new_channel("ticket")
    for given in (ticket(channel), ticket(channel, seconds=-5), ticket(channel) + "x"):
        async with stream(gateway, channel, subscription_token=given) as events:
            await events.next()
        query = urlencode({"channel": channel, "token": gateway.token(), "subscription_token": given})
        gateway.http("GET", f"/history?{query}")
    assert "refused with 109" in gateway.log()
    assert SECRET not in gateway.log() and "eyJ" not in gateway.log() and "subscription_token=" not in gateway.log()


# What waits for seconds to pass does so beside the other tests.


async def _to_the_end(events: Stream) -> tuple[Event, Event]:
    mark = events.last_id
    warning, end = await events.end()
    assert (warning.name, end.name) == ("expiring", "refused")
    assert not warning.had_id and not end.had_id and events.last_id == mark and events.reading.retry[-1] >= 2000
    return warning, end


async def _expires(gateway: RunningGateway) -> None:
    first, later = new_channel("ticket"), new_channel("ticket")
    tickets = [ticket(later, seconds=600), ticket(first, seconds=4)]
    async with stream(gateway, first, later, subscription_token=tickets, token=gateway.token(seconds=60)) as events:
        assert 3 <= (await events.connected())["ttl"] <= 4
        warning, end = await _to_the_end(events)
        assert warning.data == {"ttl": warning.data["ttl"], "channel": first} and 1 <= warning.data["ttl"] <= 2
        assert end.data == {"code": 109, "message": "token expired", "channel": first}


async def _shortened(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:1", user="shortened") as events:
        client = (await events.connected())["client"]
        await gateway.ask("refresh", user="shortened", client=client, expire_at=time.time() + 4)
        warning, end = await _to_the_end(events)
        assert set(warning.data) == {"ttl"} and 1 <= warning.data["ttl"] <= 2, "at half of what was left"
        assert end.data == {"code": 109, "message": "token expired"}


async def _lengthened(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:1", token=gateway.token("lengthened", seconds=3)) as events:
        client = (await events.connected())["client"]
        await gateway.ask("refresh", user="lengthened", client=client, expire_at=time.time() + 600)
        await events.until(lambda events: events.reading.comments >= 5)
        assert "refused" not in {event.name for event in events.reading.events}


waits = beside(_expires, _shortened, _lengthened)


@pytest.mark.parametrize("wait", ["_expires", "_shortened", "_lengthened"])
async def test_a_stream_ends_when_its_first_token_does_and_a_refresh_moves_its_end(waits: Waits, wait: str) -> None:
    await waits[wait]
