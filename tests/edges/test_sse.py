"""Event streams: the contract of docs/reference/http.md, byte by byte.

The one that matters most: wherever a stream is cut, the last id seen brings exactly the rest.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from ..kit.beside import Waits, beside
from ..kit.clients import client, read_events, stream
from ..kit.gateways import RULES, RunningGateway, shared_gateway
from ..kit.publishing import publish_many
from ..kit.waiting import until

HEAD = 'ping_seconds = 1\npong_seconds = 60\nallowed_origins = ["https://app.example.org"]\n'
gateway = shared_gateway(f"{HEAD}{RULES}[limits]\nslow_seconds = 4\n", both_edges=True)


async def test_a_stream_opens_with_retry_and_connected(gateway: RunningGateway, channel: str) -> None:
    gateway.publish(channel, 1)
    async with stream(gateway, channel) as events:
        opened = await events.connected()
        assert events.status == 200
        assert events.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events.headers["cache-control"] == "no-store"
        assert bytes(events.body).startswith(b"retry: ")
        assert events.reading.retry == [1000]
        assert len(opened["client"]) == 36
        epoch = gateway.epoch(channel)
        assert opened["channels"] == {channel: {"epoch": epoch, "offset": 1, "recovered": False}}
        assert events.last_id == f"{epoch}:1", "an id at once, or a browser would not send one"


async def test_publications_are_nameless_events_with_ids(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel) as events:
        await events.connected()
        gateway.publish(channel, {"title": "ü\n"}, tags={"a": "b"})
        event = await events.next()
        assert (event.name, event.id) == ("message", f"{gateway.epoch(channel)}:1")
        assert event.data == {"channel": channel, "offset": 1, "data": {"title": "ü\n"}, "tags": {"a": "b"}}


async def test_the_info_of_a_publication_names_the_connection_that_published_it(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel) as events, client(gateway, "u2", subscribe=channel) as wire:
        await events.connected()
        await wire.result("publish", channel=channel, data=1)
        assert (await events.next()).data["info"]["user"] == "u2"


async def test_raw_newlines_never_break_an_event(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel) as events:
        await events.connected()
        body = b'{"channel":"%s","data":{"a":\n\n"id: 7",\r\n"b":\r1}}' % channel.encode()
        gateway.http("POST", "/api/publish", body, {"X-API-Key": "test-key"})
        assert (await events.next()).data["data"] == {"a": "id: 7", "b": 1}


async def test_several_channels_share_a_stream_and_every_id_holds_all_positions(gateway: RunningGateway, channel: str) -> None:
    names = [f"{channel}-b", f"{channel}-a", f"{channel}-c"]
    epochs = [gateway.epoch(name) for name in names]
    async with stream(gateway, *names) as events:
        opened = await events.connected()
        assert list(opened["channels"]) == names, "in the order of the request"
        assert events.last_id == ",".join(f"{epoch}:0" for epoch in epochs)
        positions = [0, 0, 0]
        for number in (1, 0, 1, 2, 0):
            gateway.publish(names[number], "x")
            positions[number] += 1
            event = await events.next()
            assert (event.data["channel"], event.data["offset"]) == (names[number], positions[number])
            assert event.id == ",".join(f"{epoch}:{offset}" for epoch, offset in zip(epochs, positions, strict=True))


async def test_a_channel_that_is_named_twice_is_subscribed_once(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel, channel) as events:
        await events.connected()
        publish_many(gateway, channel, [1, 2])
        assert [event.data["data"] for event in await events.many(2)] == [1, 2]


# Resuming.


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_stream_resumes_after_the_last_event_seen(gateway: RunningGateway, channel: str, by: str) -> None:
    publish_many(gateway, channel, [1, 2, 3, 4])
    mark = f"{gateway.epoch(channel)}:2"
    options: dict[str, Any] = {"headers": {"Last-Event-ID": mark}} if by == "header" else {"last_event_id": mark}
    async with stream(gateway, channel, **options) as events:
        opened = await events.connected()
        assert opened["channels"][channel] == {"epoch": gateway.epoch(channel), "offset": 2, "recovered": True}
        assert [event.data["data"] for event in await events.many(2)] == [3, 4]
        gateway.publish(channel, 5)
        assert (await events.next()).data["data"] == 5


async def test_the_header_of_a_browser_counts_more_than_the_url(gateway: RunningGateway, channel: str) -> None:
    """An EventSource repeats its first URL for ever; what it saw last is in the header."""
    publish_many(gateway, channel, [1, 2, 3])
    epoch = gateway.epoch(channel)
    async with stream(gateway, channel, headers={"Last-Event-ID": f"{epoch}:2"}, last_event_id=f"{epoch}:0", last=3) as events:
        await events.connected()
        assert (await events.next()).data["data"] == 3


async def test_wherever_a_stream_is_cut_the_last_id_brings_exactly_the_rest(gateway: RunningGateway, channel: str) -> None:
    """Cut after any byte: what was complete until there, and what the last id brings, is everything, once and in order."""
    names = [f"{channel}-1", f"{channel}-2"]
    for name in names:
        publish_many(gateway, name, [0, 1, 2])
    order = [random.choice(names) for _ in range(20)]
    async with stream(gateway, *names, last=2) as events:
        await events.connected()
        for number, name in enumerate(order):
            gateway.publish(name, {"n": number, "text": "id: 1:1\n\nübermorgen"})
        await events.many(len(order) + 4)
        body = bytes(events.body)

    def by_channel(found: list[Any]) -> dict[str, list[int]]:
        return {
            name: [event.data["offset"] for event in found if event.name == "message" and event.data["channel"] == name] for name in names
        }

    everything = by_channel(read_events(body).events)
    assert everything == {name: list(range(2, 4 + order.count(name))) for name in names}
    rests: dict[str, dict[str, list[int]]] = {}
    for cut in range(len(body) + 1):
        reading = read_events(body[:cut])
        if not reading.last_id:
            continue  # nothing to resume from: `connected` was not complete
        if reading.last_id not in rests:
            rests[reading.last_id] = await _rest_after(gateway, names, reading.last_id, everything)
        seen, rest = by_channel(reading.events), rests[reading.last_id]
        assert {name: seen[name] + rest[name] for name in names} == everything, f"cut at {cut} of {len(body)}, after {reading.last_id}"
    assert len(rests) == len(order) + 5


async def _rest_after(gateway: RunningGateway, names: list[str], mark: str, everything: dict[str, list[int]]) -> dict[str, list[int]]:
    """What a stream that resumes after ``mark`` brings before anything live."""
    tops = {name: offsets[-1] for name, offsets in everything.items()}
    missing = sum(tops[name] - int(part.rpartition(":")[2]) for name, part in zip(names, mark.split(","), strict=True))
    async with stream(gateway, *names, last_event_id=mark) as events:
        opened = await events.connected()
        assert all(channel["recovered"] for channel in opened["channels"].values())
        found = await events.many(missing) if missing else []
        assert all(event.name == "message" for event in found)
        return {name: [event.data["offset"] for event in found if event.data["channel"] == name] for name in names}


async def test_a_long_absence_is_caught_up_while_publishing_goes_on(gateway: RunningGateway, channel: str) -> None:
    """And a stream that is cut in the middle of catching up resumes there, too."""
    name = channel.replace("chat", "endless")
    publish_many(gateway, name, list(range(1, 3001)))
    mark = f"{gateway.epoch(name)}:0"
    publishing = asyncio.create_task(asyncio.to_thread(publish_many, gateway, name, list(range(3001, 3501))))
    seen: list[int] = []
    for count in (700, 1, 1500, 1299):
        async with stream(gateway, name, last_event_id=mark) as events:
            assert (await events.connected())["channels"][name]["recovered"] is True
            found = await events.many(count)
            seen += [event.data["offset"] for event in found]
            mark = found[-1].id
            assert mark.endswith(f":{seen[-1]}")
    await publishing
    assert seen == list(range(1, 3501))


async def test_one_channel_that_catches_up_moves_no_other_channels_position(gateway: RunningGateway, channel: str) -> None:
    """An id never runs ahead: while one channel catches up, another one's mark stays where its events are."""
    long, short = channel.replace("chat", "endless"), channel
    publish_many(gateway, long, ["x" * 200] * 1500)
    epochs = gateway.epoch(long), gateway.epoch(short)
    async with stream(gateway, long, short, last_event_id=f"{epochs[0]}:0,{epochs[1]}:0") as events:
        await events.connected()
        publish_many(gateway, short, list(range(20)))
        reached = {long: 0, short: 0}
        for event in await events.many(1520):
            reached[event.data["channel"]] += 1
            assert event.data["offset"] == reached[event.data["channel"]]
            assert event.id == f"{epochs[0]}:{reached[long]},{epochs[1]}:{reached[short]}"


# First connections.


@pytest.mark.parametrize("last, expected", [("3", [8, 9, 10]), ("100", [6, 7, 8, 9, 10]), ("0", []), ("", [])])
async def test_a_first_connection_may_start_in_the_past(gateway: RunningGateway, channel: str, last: str, expected: list[int]) -> None:
    name = channel.replace("chat", "short")
    publish_many(gateway, name, list(range(1, 11)))
    async with stream(gateway, name, last=last) as events:
        await events.connected()
        gateway.publish(name, 11)
        assert [event.data["data"] for event in await events.many(len(expected) + 1)] == [*expected, 11]


async def test_a_start_some_publications_back_of_an_empty_channel_is_its_top(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel, f"{channel}2", last=5) as events:
        opened = await events.connected()
        assert [sub["offset"] for sub in opened["channels"].values()] == [0, 0]
        gateway.publish(channel, 1)
        event = await events.next()
        assert (event.name, event.data["offset"]) == ("message", 1)


async def test_where_history_was_removed_a_stream_starts_after_it(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, [1, 2, 3])
    gateway.api("history_remove", channel=channel)
    gateway.publish(channel, 4)
    async with stream(gateway, channel, last=10) as events:
        await events.connected()
        assert (await events.next()).data["offset"] == 4


# Gaps.


@pytest.mark.parametrize("cause", ["trimmed", "another epoch", "fewer channels in the id", "from the future"])
async def test_a_position_that_cannot_be_recovered_is_a_gap(gateway: RunningGateway, channel: str, cause: str) -> None:
    name = channel.replace("chat", "short")
    publish_many(gateway, name, list(range(1, 11)))
    epoch = gateway.epoch(name)
    marks = {"trimmed": f"{epoch}:3", "another epoch": "other:9", "fewer channels in the id": f"{epoch}:9,{epoch}:9"}
    mark = marks.get(cause, f"{epoch}:1000")
    async with stream(gateway, name, last_event_id=mark) as events:
        opened = await events.connected()
        assert opened["channels"][name] == {"epoch": epoch, "offset": 10, "recovered": False}
        gap = await events.next()
        assert (gap.name, gap.data, gap.id) == ("gap", {"channel": name, "epoch": epoch, "offset": 10}, f"{epoch}:10")
        gateway.publish(name, 11)
        assert (await events.next()).data["offset"] == 11


async def test_a_gap_in_one_channel_is_none_in_the_others(gateway: RunningGateway, channel: str) -> None:
    whole, broken = channel, channel.replace("chat", "short")
    publish_many(gateway, whole, list(range(1, 11)))
    publish_many(gateway, broken, list(range(1, 11)))
    marks = f"{gateway.epoch(broken)}:1,{gateway.epoch(whole)}:8"
    async with stream(gateway, broken, whole, last_event_id=marks) as events:
        opened = await events.connected()
        assert [sub["recovered"] for sub in opened["channels"].values()] == [False, True]
        gap, *rest = await events.many(3)
        assert (gap.name, gap.data["channel"]) == ("gap", broken)
        assert [(event.data["channel"], event.data["offset"]) for event in rest] == [(whole, 9), (whole, 10)]


async def test_a_stream_that_is_cut_between_two_gaps_receives_the_second_when_it_comes_back(gateway: RunningGateway, channel: str) -> None:
    names = [channel.replace("chat", "short"), f"{channel.replace('chat', 'short')}-b"]
    for name in names:
        publish_many(gateway, name, list(range(1, 11)))
    async with stream(gateway, *names, last_event_id=",".join(f"{gateway.epoch(name)}:1" for name in names)) as events:
        await events.connected()
        first = await events.next()
        assert (first.name, first.data["channel"]) == ("gap", names[0])
        second = await events.next()
        assert second.id == ",".join(f"{gateway.epoch(name)}:10" for name in names)
    async with stream(gateway, *names, last_event_id=first.id) as events:
        opened = await events.connected()
        assert [sub["recovered"] for sub in opened["channels"].values()] == [True, False]
        gap = await events.next()
        assert (gap.name, gap.data["channel"]) == ("gap", names[1])


async def test_a_channel_without_history_has_a_dash_for_a_position(gateway: RunningGateway, channel: str) -> None:
    forgetful = channel.replace("chat", "forgetful")
    async with stream(gateway, forgetful, channel) as events:
        await events.connected()
        assert events.last_id == f"-,{gateway.epoch(channel)}:0"
        gateway.publish(forgetful, "x")
        event = await events.next()
        assert event.data == {"channel": forgetful, "data": "x"}
        mark = event.id
    async with stream(gateway, forgetful, channel, last_event_id=mark) as events:
        opened = await events.connected()
        assert opened["channels"][channel]["recovered"] is True
        gateway.publish(channel, 1)
        assert (await events.next()).name == "message", "no gap where there never was a position"


# Refusals.


@pytest.mark.parametrize(
    "token, name, code, message",
    [
        ("expired", "chat:1", 109, "token expired"),
        ("garbage", "chat:1", 3500, "invalid token"),
        ("good", "own:other", 103, "permission denied"),
        ("good", "sealed:1", 103, "permission denied"),
        ("", "chat:1", 103, "permission denied"),
    ],
)
async def test_a_temporary_refusal_is_inside_the_stream(gateway: RunningGateway, token: str, name: str, code: int, message: str) -> None:
    given = {"expired": gateway.token(seconds=-5), "good": gateway.token()}.get(token, token)
    async with stream(gateway, name, token=given) as events:
        assert events.status == 200
        (event,) = await events.end()
        expected = {"code": code, "message": message} | ({"channel": name} if code == 103 else {})
        assert (event.name, event.data, event.had_id) == ("refused", expected, False)
        (retry,) = events.reading.retry
        assert 2000 <= retry <= 12000


async def test_of_several_channels_the_one_that_no_namespace_has_is_refused_by_name(gateway: RunningGateway, channel: str) -> None:
    """A page follows the others without it; a plain 400 would show it nothing, and cut off all of them."""
    async with stream(gateway, channel, "nowhere:1") as events:
        (event,) = await events.end()
        assert (event.name, event.data) == ("refused", {"code": 102, "message": "unknown channel", "channel": "nowhere:1"})


async def test_refusals_spread_the_return_of_clients(gateway: RunningGateway) -> None:
    retries = set()
    for _ in range(8):
        async with stream(gateway, "sealed:1") as events:
            await events.end()
            retries |= set(events.reading.retry)
    assert len(retries) > 4


@pytest.mark.parametrize(
    "path",
    [
        "/sse",
        "/sse?channel=",
        "/sse?channel=nowhere:1",
        "/sse?channel=chat:%7Bx%7D",
        "/sse?channel=chat:%0A",
        "/sse?channel=" + "x" * 256,
        "/sse?" + "&".join(f"channel=chat:{n}" for n in range(200)),
        "/sse?channel=chat:1&last=abc",
        "/sse?channel=chat:1&last=-1",
        "/sse?channel=chat:1&last=1.5",
        "/sse?channel=chat:1&last=1000000000",
    ],
    ids=[
        *("none", "empty", "unknown namespace", "braces", "control character", "too long", "too many"),
        *("a start that is no number", "a negative start", "a fraction", "more digits than a number has"),
    ],
)
async def test_a_stream_that_can_never_open_is_a_plain_400(gateway: RunningGateway, path: str) -> None:
    status, body = gateway.http("GET", path, headers={"Authorization": f"Bearer {gateway.token()}"})
    assert status == 400
    reason = json.loads(body)["error"]
    assert f"stream refused with status 400: {reason}" in gateway.log()


async def test_a_plain_400_has_the_code_and_the_channel_that_are_its_cause(gateway: RunningGateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    for path, cause in {
        "/sse?channel=nowhere:1": {"code": 102, "channel": "nowhere:1"},
        "/sse?" + "&".join(f"channel=chat:{n}" for n in range(200)): {"code": 106},
        "/sse?channel=chat:1&pings=x": {"code": 107},
    }.items():
        status, body = gateway.http("GET", path, headers=headers)
        answer = json.loads(body)
        assert (status, answer) == (400, {"error": answer["error"], **cause})


async def test_a_stream_takes_as_many_channels_as_its_ids_have_room_for(gateway: RunningGateway, channel: str) -> None:
    names = [f"{channel}-{number}" for number in range(128)]
    async with stream(gateway, *names) as events:
        await events.connected()
        assert len(events.last_id) <= 4096
        assert len(events.last_id.split(",")) == 128
        gateway.publish(names[100], 1)
        assert len((await events.next()).id) <= 4096


async def test_other_methods_are_not_allowed(gateway: RunningGateway) -> None:
    assert gateway.http("POST", "/sse?channel=chat:1", b"{}")[0] == 405


async def _commented(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:silent") as events:
        await events.connected()
        await events.until(lambda events: events.reading.comments >= 2)
        gateway.publish("chat:silent", 1)
        assert (await events.next()).data["data"] == 1


async def _pinged(gateway: RunningGateway) -> None:
    async with stream(gateway, "chat:silent", pings=1) as events:
        assert (await events.connected())["ping"] == 1
        event = await events.next()
        assert (event.name, event.data, event.had_id, events.reading.comments) == ("ping", {}, False, 0)


waits = beside(_commented, _pinged)


async def test_comments_show_that_a_silent_stream_is_alive(waits: Waits) -> None:
    await waits["_commented"]


async def test_a_page_that_asks_for_it_gets_events_in_place_of_comments(waits: Waits) -> None:
    await waits["_pinged"]


# Who it is.


@pytest.mark.parametrize("way", ["bearer", "cookie", "query"])
async def test_the_token_comes_in_three_ways(gateway: RunningGateway, way: str) -> None:
    token = gateway.token("u7")
    headers = {"bearer": {"Authorization": f"bearer {token}"}, "cookie": {"Cookie": f"a=b; gateway_token={token}; c=d"}, "query": {}}[way]
    query = {"url_token": token} if way == "query" else {}
    async with stream(gateway, "own:u7", token="", headers=headers, **query) as events:
        await events.connected()


async def test_the_first_of_the_three_ways_decides(gateway: RunningGateway) -> None:
    """A refused token is refused, though another one would have been good."""
    good = gateway.token("u7")
    for headers, query in (
        ({"Authorization": "Bearer garbage", "Cookie": f"gateway_token={good}"}, {}),
        ({"Cookie": "gateway_token=garbage"}, {"url_token": good}),
    ):
        async with stream(gateway, "own:u7", token="", headers=headers, **query) as events:
            assert (await events.next()).data["code"] == 3500


async def test_the_anonymous_follow_what_is_open(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel.replace("chat", "open"), token="") as events:
        await events.connected()


async def test_other_origins_may_read_only_where_they_are_listed(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel, headers={"Origin": "https://app.example.org"}) as events:
        assert events.headers["access-control-allow-origin"] == "https://app.example.org"
        assert events.headers["access-control-allow-credentials"] == "true"
    async with stream(gateway, channel, headers={"Origin": "https://evil.test"}) as events:
        assert events.status == 403 and "access-control-allow-origin" not in events.headers


# What a backend orders.


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        ("unsubscribe", {"channel": True}, 2000, "server unsubscribe"),
        ("disconnect", {}, 3503, "force disconnect"),
        ("disconnect", {"disconnect": {"code": 4500, "reason": "enough"}}, 4500, "enough"),
        ("refresh", {"expired": True}, 109, "token expired"),
        ("revoke", {}, 3500, "invalid token"),
    ],
)
async def test_a_stream_that_a_backend_ends_says_why_where_it_need_not_come_back(
    gateway: RunningGateway, channel: str, method: str, request_: dict[str, Any], code: int, message: str
) -> None:
    """As a close code of WebSocket does. A stream of several channels goes on without the one that is named."""
    user = channel[5:]
    named = {"channel": channel} if "channel" in request_ else {}
    async with stream(gateway, channel, f"{channel}-too", user=user) as events:
        await events.connected()
        await gateway.ask(method, **{**request_, "user": user, **named})
        assert await events.refused() == {"code": code, "message": message, **named}


async def test_a_stream_that_is_to_come_back_just_ends(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel, user=channel[5:]) as events:
        await events.connected()
        await gateway.ask("disconnect", user=channel[5:], disconnect={"code": 4001, "reason": "elsewhere"})
        assert await events.end() == []


# Slow and gone.


async def test_a_slow_stream_that_reads_on_gets_everything_once_and_in_order(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "endless")
    async with stream(gateway, name, small=True) as events:
        await events.connected()
        publish_many(gateway, name, ["x" * 60000] * 120)
        assert [event.data["offset"] for event in await events.many(120)] == list(range(1, 121))
        gateway.publish(name, "live")
        assert (await events.next()).data["data"] == "live"


async def test_a_slow_stream_of_several_channels_gets_each_in_order_with_true_ids(gateway: RunningGateway, channel: str) -> None:
    names = [f"endless:{channel[5:]}{number}" for number in range(2)]
    async with stream(gateway, *names, small=True) as events:
        await events.connected()
        for _ in range(3):
            for name in names:
                publish_many(gateway, name, ["x" * 60000] * 20)
        reached = dict.fromkeys(names, 0)
        for event in await events.many(120):
            reached[event.data["channel"]] += 1
            assert event.data["offset"] == reached[event.data["channel"]]
            assert [int(mark.rpartition(":")[2]) for mark in event.id.split(",")] == list(reached.values())


async def test_a_slow_stream_whose_position_was_trimmed_away_receives_a_gap_and_goes_on(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "short")
    async with stream(gateway, name, small=True) as events:
        await events.connected()
        publish_many(gateway, name, ["x" * 60000] * 200)
        seen, event = 0, await events.next()
        while event.name == "message":
            seen += 1
            assert event.data["offset"] == seen
            event = await events.next()
        assert (event.name, event.data["offset"]) == ("gap", 200)
        assert seen < 195
        gateway.publish(name, "on")
        assert (await events.next()).data["offset"] == 201


async def test_a_stream_that_never_reads_is_ended_and_resumes_later(gateway: RunningGateway, channel: str, edge: str) -> None:
    if edge == "asgi":
        pytest.skip("ASGI has no way to drop a socket that is full; that is its server's to do")
    name = channel.replace("chat", "endless")
    ended = gateway.log().count("closed: 3008 slow")
    async with stream(gateway, name, small=True) as events:
        await events.connected()
        publish_many(gateway, name, ["x" * 60000] * 150)
        await until(lambda: gateway.log().count("closed: 3008 slow") > ended, "it is closed")
        await until(lambda: gateway.api("channels", pattern=name)["result"]["channels"] == {}, "its channel has no subscriber")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await events.end()
        seen = [event.data["offset"] for event in events.reading.events[1:]]
        assert seen == list(range(1, len(seen) + 1))
        mark = events.last_id
    async with stream(gateway, name, last_event_id=mark) as events:
        await events.connected()
        rest = [event.data["offset"] for event in await events.many(150 - len(seen))]
        assert seen + rest == list(range(1, 151))


async def test_a_reader_that_left_is_forgotten(gateway: RunningGateway, channel: str) -> None:
    async with stream(gateway, channel) as events:
        await events.connected()
        assert gateway.api("channels", pattern=channel)["result"]["channels"] == {channel: {"num_clients": 1}}
    await until(lambda: gateway.api("channels", pattern=channel)["result"]["channels"] == {}, "nobody follows it")
