"""centrifuge-python, unchanged: all that it knows, against this gateway. What it needs first of all is in test_clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import centrifuge
import pytest
from centrifuge import Filter, StreamPosition

from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.sdks import RULES, Open, Told, answering, forget, giving, subscribed, until_clients
from ..kit.tokens import token
from ..kit.waiting import until

gateway = shared_gateway(RULES)


@pytest.fixture(scope="module")
def services(gateway: RunningGateway, valkey_url: str) -> Iterator[None]:
    with answering(valkey_url, gateway):
        yield


@pytest.fixture
def channel(user: str) -> str:
    return f"chat:{user}"


# Connecting.


async def test_short_tokens_are_refreshed_in_band_and_those_that_came_too_late_made_good(
    gateway: RunningGateway, connect: Open, user: str
) -> None:
    """Pings keep it alive meanwhile: one in 2 s is announced, and 3 s of silence would end it."""
    steady, late, plain = f"ticket:{user}", f"ticket:{user}-late", f"chat:{user}"

    def tokens(*seconds: float, **claims: Any) -> tuple[Any, list[Any]]:
        return giving(*(partial(token, user, seconds=each, **claims) for each in (*seconds, 600)))

    (get_token, asked), (get_late, _) = tokens(3, 2), tokens(3, -5)
    client, told = await connect(get_token=get_token, max_server_ping_delay=1)
    late_client, late_told = await connect(get_token=get_late)
    (sub_token, sub_asked), (sub_late, _) = tokens(3, 2, channel=steady), tokens(3, -5, channel=late)
    _, of_steady = await subscribed(client, steady, get_token=sub_token)
    _, of_late = await subscribed(client, late, get_token=sub_late)
    _, of_plain = await subscribed(late_client, plain)
    await until(lambda: len(asked) >= 3 and len(sub_asked) >= 3, "refreshed twice, by the ttl of the reply before")
    assert sub_asked[0] == (steady,)
    assert [ctx.recovered for ctx in await of_late.until("subscribed", 2)] == [False, True]
    assert [ctx.recovered for ctx in await of_plain.until("subscribed", 2)] == [False, True]
    assert told.codes("connecting") == of_steady.codes("subscribing") == [0] and of_late.codes("subscribing") == [0, 2501]
    assert late_told.codes("connecting") == [0, 3005] and of_plain.codes("subscribing") == [0, 1]
    for name in (steady, late, plain):
        gateway.publish(name, "still here")
    for sub_told in (of_steady, of_late, of_plain):
        await sub_told.until("publication")
    assert told.of("disconnected") == late_told.of("disconnected") == []


async def test_an_expired_subscription_token_is_replaced_and_a_bad_one_refused(connect: Open, user: str) -> None:
    name = f"ticket:{user}"
    get_token, asked = giving(token(user, seconds=-5, channel=name), token(user, channel=name))
    client, _ = await connect()
    _, told = await subscribed(client, name, get_token=get_token)
    assert len(asked) == 2 and [ctx.error.code for ctx in told.of("error")] == [109]
    refused = Told()
    await client.new_subscription(f"{name}-2", refused, token="garbage").subscribe()
    assert [(ctx.code, ctx.reason) for ctx in await refused.until("unsubscribed")] == [(103, "permission denied")]


async def test_without_a_token_a_client_is_refused_where_nothing_is_open(connect: Open, gateway: RunningGateway, user: str) -> None:
    client, told = await connect(ready=False, token="")
    assert [(ctx.code, ctx.reason) for ctx in await told.until("disconnected")] == [(3501, "bad request")]
    client.set_token(gateway.token(user))
    await client.connect()
    await client.ready(5)
    assert len(told.of("connected")) == 1


async def test_the_name_version_and_data_of_a_client_are_accepted(connect: Open) -> None:
    options = {"data": {"theme": "dark"}, "name": "a name of its own", "version": "1.2.3", "headers": {"X-Any": "thing"}}
    client, told = await connect(**options)
    (connected,) = told.of("connected")
    assert connected.client == client.client_id and connected.version
    subscription, _ = await subscribed(client, "posts:any", data={"since": "yesterday"}, positioned=True, recoverable=True)
    assert (await subscription.presence_stats()).num_clients <= 1


@pytest.mark.parametrize("code", [3000, 3503, 4000, 4500])
async def test_a_service_ends_a_connection_for_a_while_or_for_good(gateway: RunningGateway, connect: Open, user: str, code: int) -> None:
    _, told = await connect()
    gateway.api("disconnect", user=user, disconnect={"code": code, "reason": "said the service"})
    if code % 1000 < 500:
        await told.until("connected", 2)
        assert [(ctx.code, ctx.reason) for ctx in told.of("connecting")[1:]] == [(code, "said the service")]
    else:
        assert [(ctx.code, ctx.reason) for ctx in await told.until("disconnected")] == [(code, "said the service")]
        assert len(told.of("connected")) == 1


async def test_a_client_whose_state_is_insufficient_starts_afresh(gateway: RunningGateway, connect: Open, user: str, channel: str) -> None:
    get_token, asked = giving(lambda: gateway.token(user))
    client, _ = await connect(get_token=get_token)
    _, told = await subscribed(client, channel)
    gateway.publish(channel, 1)
    await told.until("publication")
    gateway.api("disconnect", user=user, disconnect={"code": 3014})
    again = (await told.until("subscribed", 2))[1]
    assert again.was_recovering and not again.recovered and again.stream_position.offset == 1
    assert len(asked) == 2 and told.data == [1]


# Subscriptions.


async def test_an_sdk_reads_history_in_every_direction(gateway: RunningGateway, connect: Open, channel: str) -> None:
    client, _ = await connect()
    subscription, told = await subscribed(client, channel)
    epoch = told.of("subscribed")[0].stream_position.epoch
    for number in range(1, 8):
        gateway.publish(channel, number)

    async def offsets(**question: Any) -> list[int]:
        page = await subscription.history(**question)
        assert (page.epoch, page.offset) == (epoch, 7)
        return [pub.offset for pub in page.publications]

    assert await offsets() == []
    assert await offsets(limit=-1) == [1, 2, 3, 4, 5, 6, 7]
    assert await offsets(limit=2) == [1, 2]
    assert await offsets(limit=2, reverse=True) == [7, 6]
    assert await offsets(limit=3, since=StreamPosition(2, epoch)) == [3, 4, 5]
    assert await offsets(limit=3, since=StreamPosition(4, epoch), reverse=True) == [3, 2, 1]
    with pytest.raises(centrifuge.ReplyError) as caught:
        await subscription.history(limit=1, since=StreamPosition(1, "another"))
    assert caught.value.code == 112


async def test_publications_have_their_publisher_and_tags(gateway: RunningGateway, connect: Open, user: str) -> None:
    name = f"ticket:{user}"
    client, _ = await connect(token=token(user, info={"name": "Ann"}))
    subscription, told = await subscribed(client, name, token=token(user, channel=name, info={"role": "owner"}))
    with pytest.raises(centrifuge.ReplyError) as caught:
        await subscription.publish({"n": 0})
    assert caught.value.code == 103
    gateway.publish(name, {"n": 1}, tags={"lang": "de"})
    chat = f"chat:{user}"
    chat_subscription, chat_told = await subscribed(client, chat)
    await chat_subscription.publish({"n": 2})
    (tagged,), (own,) = await told.until("publication"), await chat_told.until("publication")
    assert (tagged.pub.data, tagged.pub.tags, tagged.pub.info) == ({"n": 1}, {"lang": "de"}, None)
    assert (own.pub.info.user, own.pub.info.client, own.pub.info.conn_info) == (user, client.client_id, {"name": "Ann"})
    present = await until_clients(subscription, 1)
    assert [(info.user, info.conn_info, info.chan_info) for info in present.values()] == [(user, {"name": "Ann"}, {"role": "owner"})]


async def test_joins_and_leaves_come_to_clients_that_ask(connect: Open, channel: str, user: str) -> None:
    client, _ = await connect()
    other, _ = await connect()
    subscription, told = await subscribed(client, channel, join_leave=True)
    theirs, unasked = await subscribed(other, channel)
    clients = await until_clients(subscription, 2)
    assert set(clients) == {client.client_id, other.client_id}
    counted = await subscription.presence_stats()
    assert (counted.num_clients, counted.num_users) == (2, 1)
    await until(lambda: other.client_id in [ctx.info.client for ctx in told.of("join")], "the other's join")
    await theirs.unsubscribe()
    (left,) = await told.until("leave")
    assert (left.info.client, left.info.user) == (other.client_id, user)
    assert unasked.of("join") == [] and unasked.of("leave") == []


async def test_a_client_that_unsubscribes_and_comes_back_gets_what_it_missed(
    gateway: RunningGateway, connect: Open, channel: str, user: str
) -> None:
    client, _ = await connect()
    subscription, told = await subscribed(client, channel)
    gateway.publish(channel, 1)
    await told.until("publication")
    await subscription.unsubscribe()
    gateway.publish(channel, 2)
    await subscription.subscribe()
    await subscription.ready(5)
    await told.until("publication", 2)
    gateway.api("unsubscribe", user=user, channel=channel)
    left = (await told.until("unsubscribed", 2))[1]
    assert (left.code, left.reason) == (2000, "server unsubscribe")
    gateway.publish(channel, 3)
    await subscription.subscribe()
    await told.until("publication", 3)
    assert told.data == [1, 2, 3]
    assert [(ctx.was_recovering, ctx.recovered) for ctx in told.of("subscribed")] == [(False, False), (True, True), (True, True)]


async def test_unsubscribe_and_subscribe_at_once_end_subscribed(gateway: RunningGateway, connect: Open, channel: str) -> None:
    client, _ = await connect()
    told = Told()
    subscription = client.new_subscription(channel, told)  # type: ignore[arg-type]
    with gateway.frozen():
        for _ in range(3):
            await subscription.subscribe()
            await asyncio.sleep(0.01)  # the command is written in a task of the SDK's
            await subscription.unsubscribe()
        await subscription.subscribe()
        await asyncio.sleep(0.01)
    await subscription.ready(5)
    gateway.publish(channel, 1)
    await told.until("publication")
    assert told.codes("unsubscribed") == [0, 0, 0] and told.data == [1] and told.of("error") == []


async def test_a_subscription_whose_history_is_lost_is_reported_as_not_recovered(
    gateway: RunningGateway, connect: Open, channel: str, valkey_url: str
) -> None:
    client, _ = await connect()
    _, told = await subscribed(client, channel)
    gateway.publish(channel, 1)
    await told.until("publication")
    forget(valkey_url, gateway, channel)
    gateway.publish(channel, "of another life")
    again = (await told.until("subscribed", 2))[1]
    assert told.codes("subscribing") == [0, 2500]
    assert again.was_recovering and not again.recovered and again.stream_position.offset == 1
    gateway.publish(channel, "and on")
    await told.until("publication", 2)
    assert told.data == [1, "and on"]


async def test_only_what_a_filter_wants_comes_and_a_new_filter_holds_from_the_next_subscribe(
    gateway: RunningGateway, connect: Open, user: str
) -> None:
    name = f"news:{user}"
    client, _ = await connect()
    wanted = Filter.all(
        Filter.eq("lang", "de"), Filter.negate(Filter.exists("draft")), Filter.any(Filter.gte("size", "2"), Filter.is_in("k", ["x"]))
    )
    subscription, told = await subscribed(client, name, tags_filter=wanted)
    for number, tags in enumerate(
        [{"lang": "de", "size": "3"}, {"lang": "en", "size": "3"}, {"lang": "de", "k": "x", "draft": "1"}, {"lang": "de", "k": "x"}], 1
    ):
        gateway.publish(name, number, tags=tags)
    await told.until("publication", 2)
    await subscription.unsubscribe()
    gateway.publish(name, 5, tags={"lang": "en"})
    gateway.publish(name, 6, tags={"lang": "de", "size": "9"})
    subscription.set_tags_filter(Filter.starts_with("lang", "e"))
    await subscription.subscribe()
    await told.until("publication", 3)
    assert told.data == [1, 4, 5]


async def test_state_is_loaded_again_when_its_position_cannot_be_recovered(gateway: RunningGateway, connect: Open, user: str) -> None:
    name = f"short:{user}"
    epoch = gateway.publish(name, 1)["epoch"]
    for number in range(2, 12):
        gateway.publish(name, number)
    get_state, asked = giving(StreamPosition(2, epoch), StreamPosition(8, epoch))
    client, _ = await connect()
    _, told = await subscribed(client, name, get_state=get_state)
    await told.until("publication", 3)
    assert len(asked) == 2 and told.data == [9, 10, 11] and told.of("unsubscribed") == []
    (at,) = told.of("subscribed")
    assert at.was_recovering and at.recovered


# Server-side subscriptions.


async def test_channels_of_the_token_and_of_a_service_live_and_recover(gateway: RunningGateway, connect: Open, user: str) -> None:
    own, added = f"room:{user}", f"room:{user}-added"
    given = token(user, subs={own: {"info": {"seat": 1}, "data": {"hello": 2}}})
    since = gateway.publish(added, "before")
    gateway.publish(added, "missed")
    _, told = await connect(token=given)
    first = {ctx.channel: ctx for ctx in await told.until("subscribed", 2)}[own]
    assert first.recoverable and first.positioned and first.data == {"hello": 2} and not first.was_recovering
    gateway.api("subscribe", user=user, channel=added, data={"by": "service"}, recover_since=since)
    assert [(ctx.channel, ctx.data) for ctx in await told.until("subscribed", 3)][2] == (added, {"by": "service"})
    other, _ = await connect(token=given)
    await until(lambda: other.client_id in [ctx.info.client for ctx in told.of("join")], "the other's join")
    await other.disconnect()
    await until(lambda: other.client_id in [ctx.info.client for ctx in told.of("leave")], "and its leave")
    assert {ctx.info.chan_info["seat"] for ctx in told.of("leave") if ctx.channel == own} == {1}
    gateway.publish(own, 1)
    await told.until("publication", 2)

    gateway.api("unsubscribe", user=user, channel=added)
    assert [ctx.channel for ctx in await told.until("unsubscribed")] == [added]
    gateway.api("subscribe", user=user, channel=added)
    await told.until("subscribed", 4)
    gateway.api("disconnect", user=user, disconnect={"code": 4000})
    for number in (2, 3):
        gateway.publish(own, number)
    await told.until("publication", 4)
    again = [ctx for ctx in told.of("subscribed") if ctx.channel == own][1]
    assert again.was_recovering and again.data == {"hello": 2}
    assert [(ctx.channel, ctx.pub.data) for ctx in told.of("publication")] == [(added, "missed"), (own, 1), (own, 2), (own, 3)]
    # What a service added was the connection's: a client that comes back is told that it is gone.
    assert [ctx.channel for ctx in await told.until("unsubscribed", 2)] == [added, added]


# Calls.


async def test_services_answer_and_refuse_in_their_own_words(connect: Open, services: None, user: str) -> None:
    client, _ = await connect(token=token(user, info={"plan": "gold"}))
    answer = (await client.rpc("shop.order", {"n": [1, None]})).data
    assert answer == {"user": user, "info": {"plan": "gold"}, "data": {"n": [1, None]}}
    assert (await client.rpc("shop.order", None)).data["data"] is None
    refused = []
    for method, data in (
        ("shop.refuse", {"code": 409}),
        ("shop.refuse", {"code": 1999, "temporary": True}),
        ("shop.break", 1),
        ("nobody.here", 1),
    ):
        with pytest.raises(centrifuge.ReplyError) as caught:
            await client.rpc(method, data)
        refused.append((caught.value.code, caught.value.temporary))
    assert refused == [(409, False), (1999, True), (100, True), (104, False)]


# A gateway that is killed.


async def test_what_was_missed_is_caught_up_once_and_in_order_though_the_gateway_is_killed_on_the_way(
    gateway: RunningGateway, start_gateway: Start, connect: Open, user: str, channel: str
) -> None:
    first = start_gateway(RULES, beside=gateway)
    room, count = f"room:{user}", 0
    client, told = await connect(at=first, token=token(user, channels=[room]))
    _, sub_told = await subscribed(client, channel)

    def publish(more: int) -> None:
        nonlocal count
        commands = [{"publish": {"channel": channel, "data": [n, "x" * 500]}} for n in range(count + 1, count + more + 1)]
        assert all("publish" in reply for reply in gateway.api("batch", commands=commands)["replies"])
        count += more

    for live, seen, away in ((10, 10, 1000), (1, 300, 20)):
        publish(live)
        await until(lambda seen=seen: len(sub_told.data) >= seen, "some of them")
        first.process.kill()
        first.process.wait()
        publish(away)
        gateway.publish(room, away)
        first = await asyncio.to_thread(start_gateway, RULES, port=first.port, beside=gateway)
    await until(lambda: len(sub_told.data) == count, "all of them")
    await until(lambda: told.data == [1000, 20], "those of the room")
    assert [number for number, _ in sub_told.data] == list(range(1, count + 1))
    assert all(ctx.was_recovering and ctx.recovered for ctx in sub_told.of("subscribed")[1:])
    assert sub_told.of("unsubscribed") == [] and told.of("disconnected") == []
