"""Subscription tokens of simple clients, and how their streams end: on time, told before, and never silently."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from ..kit.clients import Event, Stream, stream
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.tokens import SECRET
from ..kit.waiting import until

HEAD = "ping_seconds = 1\npong_seconds = 60\n"


@pytest.fixture(scope="module", params=["fast", "asgi"])
def gateway(start_gateway_once: Start, request: pytest.FixtureRequest) -> RunningGateway:
    return start_gateway_once(HEAD + RULES, edge=request.param)


def a_channel() -> str:
    return f"ticket:{os.urandom(6).hex()}"


def ticket(channel: str, seconds: float = 3600, **claims: Any) -> str:
    """A subscription token of u1."""
    now = time.time()
    return jwt.encode({"sub": "u1", "channel": channel, "iat": now, "exp": now + seconds} | claims, SECRET)


async def connected(events: Stream) -> dict[str, Any]:
    event = await events.next()
    assert event.name == "connected", event
    return event.data


async def refused(events: Stream) -> dict[str, Any]:
    (event,) = await events.end()
    assert (event.name, event.had_id) == ("refused", False)
    return event.data


async def api(gateway: RunningGateway, method: str, **request: Any) -> dict[str, Any]:
    return (await asyncio.to_thread(lambda: gateway.api(method, **request)))["result"]


async def test_each_token_opens_the_channel_that_it_names_whatever_their_order(gateway: RunningGateway) -> None:
    one, other, open_to_all = a_channel(), a_channel(), "chat:beside"
    async with stream(gateway, one, open_to_all, other, subscription_token=[ticket(other), ticket(one)]) as events:
        assert set((await connected(events))["channels"]) == {one, other, open_to_all}
        for channel in (other, open_to_all, one):
            gateway.publish(channel, channel)
            assert (await events.next()).data["data"] == channel
    async with stream(gateway, one, other, subscription_token=ticket(other)) as events:
        assert await refused(events) == {"code": 103, "message": "permission denied", "channel": one}


async def test_presence_says_what_the_subscription_token_says_of_its_bearer(gateway: RunningGateway) -> None:
    channel = a_channel()
    async with stream(gateway, channel, subscription_token=ticket(channel, info={"seat": 7})) as events:
        client = (await connected(events))["client"]

        def present() -> dict[str, Any]:
            return gateway.api("presence", channel=channel)["result"]["presence"]

        await until(present, "it is there")
        assert present() == {client: {"user": "u1", "client": client, "chan_info": {"seat": 7}}}


@pytest.mark.parametrize("path", ["/sse", "/history"])
def test_there_are_no_more_tokens_than_channels(gateway: RunningGateway, path: str) -> None:
    channel = a_channel()
    query = urlencode([("channel", channel)] + [("subscription_token", ticket(channel))] * 2)
    status, body = gateway.http("GET", f"{path}?{query}", headers={"Authorization": f"Bearer {gateway.token()}"})
    assert status == 400
    assert "2 subscription tokens for 1 channel" in str(json.loads(body)["error"])


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (lambda channel: ticket(channel, -5), 109, True),
        (lambda channel: ticket(channel, jti="gone"), 103, True),
        (lambda channel: ticket(channel, sub="u2"), 3500, True),
        (lambda channel: jwt.encode({"sub": "u1", "channel": channel}, "x" * 40), 103, True),
        (lambda channel: ticket("chat:elsewhere"), 3500, False),
        (lambda channel: "garbage", 103, False),
        (lambda channel: jwt.encode({"sub": "u1", "channel": 7}, SECRET), 103, False),
    ],
    ids=["expired", "revoked", "another user's", "forged", "another channel's", "garbage", "of no type"],
)
async def test_a_refusal_names_the_channel_whose_token_is_the_cause(
    gateway: RunningGateway, make: Callable[[str], str], code: int, named: bool
) -> None:
    channel = a_channel()
    await api(gateway, "revoke", token_id="gone")
    async with stream(gateway, "chat:1", channel, subscription_token=make(channel)) as events:
        data = await refused(events)
        assert (data["code"], data.get("channel")) == (code, channel if named else None)


async def test_a_revoked_subscription_token_ends_its_stream_and_no_other(gateway: RunningGateway) -> None:
    channel, id = a_channel(), os.urandom(4).hex()
    async with (
        stream(gateway, "chat:1", channel, subscription_token=ticket(channel, jti=id)) as events,
        stream(gateway, channel, subscription_token=ticket(channel)) as kept,
    ):
        await connected(events)
        await connected(kept)
        await api(gateway, "revoke", token_id=id)
        assert await refused(events) == {"code": 109, "message": "token expired", "channel": channel}
        gateway.publish(channel, 1)
        assert (await kept.next()).data["data"] == 1


async def test_history_takes_one_that_holds(gateway: RunningGateway) -> None:
    channel = a_channel()
    gateway.publish(channel, "kept")

    def read(**query: str) -> tuple[int, Any]:
        query = {"channel": channel, "token": gateway.token()} | query
        status, body = gateway.http("GET", f"/history?{urlencode(query)}")
        return status, json.loads(body)

    assert [pub["data"] for pub in read(subscription_token=ticket(channel))[1]["publications"]] == ["kept"]
    assert read() == (403, {"error": {"code": 103, "message": read()[1]["error"]["message"]}})
    status, answer = read(subscription_token=ticket(channel, -5))
    assert (status, answer["error"]["code"]) == (401, 109)
    status, answer = read(subscription_token=ticket(channel), token=gateway.token(seconds=-5))
    assert (status, answer["error"]["code"]) == (401, 109), "the connection's token counts first"


async def test_no_subscription_token_reaches_the_log(gateway: RunningGateway) -> None:
    """Neither those of any of these tests: all are JSON Web Tokens, which begin alike."""
    channel = a_channel()
    for given in (ticket(channel), ticket(channel, -5), ticket(channel) + "x"):
        async with stream(gateway, channel, subscription_token=given) as events:
            await events.next()
        query = urlencode({"channel": channel, "token": gateway.token(), "subscription_token": given})
        gateway.http("GET", f"/history?{query}")
    assert "refused with 109" in gateway.log()
    assert SECRET not in gateway.log() and "eyJ" not in gateway.log() and "subscription_token=" not in gateway.log()


# What waits for seconds to pass does so beside the other tests.

Wait = Callable[[RunningGateway], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def waits(gateway: RunningGateway) -> Iterator[dict[Wait, Future[None]]]:
    with ThreadPoolExecutor() as pool:
        yield {wait: pool.submit(asyncio.run, wait(gateway)) for wait in (_expires, _shortened, _lengthened)}  # type: ignore[arg-type]


async def _to_the_end(events: Stream) -> tuple[Event, Event]:
    warning, end = await events.end()
    assert (warning.name, end.name) == ("expiring", "refused")
    assert not warning.had_id and not end.had_id
    return warning, end


async def _expires(gateway: RunningGateway) -> None:
    first, later = a_channel(), a_channel()
    tickets = [ticket(later, 600), ticket(first, 4)]
    async with stream(gateway, first, later, subscription_token=tickets, token=gateway.token(seconds=60)) as events:
        assert 3 <= (await connected(events))["ttl"] <= 4
        warning, end = await _to_the_end(events)
        assert warning.data == {"ttl": warning.data["ttl"], "channel": first} and 1 <= warning.data["ttl"] <= 2
        assert end.data == {"code": 109, "message": "token expired", "channel": first}


async def _shortened(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:1", user="shortened") as events:
        client = (await connected(events))["client"]
        await api(gateway, "refresh", user="shortened", client=client, expire_at=time.time() + 4)
        _, end = await _to_the_end(events)
        assert end.data == {"code": 109, "message": "token expired"}


async def _lengthened(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:1", token=gateway.token("lengthened", seconds=3)) as events:
        client = (await connected(events))["client"]
        await api(gateway, "refresh", user="lengthened", client=client, expire_at=time.time() + 600)
        await events.until(lambda events: events.reading.comments >= 5)
        assert "refused" not in {event.name for event in events.reading.events}


@pytest.mark.parametrize(
    "wait", [_expires, _shortened, _lengthened], ids=["the first token to end", "a refresh may shorten", "or lengthen"]
)
async def test_a_stream_ends_when_its_tokens_do(gateway: RunningGateway, waits: dict[Wait, Future[None]], wait: Wait) -> None:
    await asyncio.wrap_future(waits[wait])
