"""The client protocol over WebSocket, as docs/reference/wire-protocol.md has it: what is asked, what is answered, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from ..kit.beside import Waits, beside
from ..kit.clients import Socket, Wire, client, connected_socket, frame, opened
from ..kit.gateways import CLOSED_RULES, RULES, RunningGateway, Start, shared_gateway
from ..kit.publishing import publish_many
from ..kit.tokens import SECRET
from ..kit.waiting import until

gateway = shared_gateway(RULES, both_edges=True)

# Nothing is open to anyone, pings come fast, everything has a limit.
strict = shared_gateway(
    'ping_seconds = 1\npong_seconds = 1\nallowed_origins = ["https://app.example.org", "https://*.example.net"]\n'
    + CLOSED_RULES
    + "[limits]\npublishes_per_second = 3\nconnections_per_user = 3\nchannels_per_client = 4\n"
)


# Connecting.


async def test_connect_and_subscribes_in_one_frame_are_answered_in_order(gateway: RunningGateway, channel: str) -> None:
    gateway.publish(channel, "before")
    async with opened(gateway) as wire:
        names = [channel, f"{channel}-2", f"{channel}-3"]
        subscribes = [{"id": 2 + number, "subscribe": {"channel": name}} for number, name in enumerate(names)]
        await wire.send({"id": 1, "connect": {"token": gateway.token(), "name": "js"}}, *subscribes)
        answers = [await wire.next() for _ in range(4)]
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4]
        assert answers[1]["subscribe"] == {"recoverable": True, "positioned": True, "epoch": gateway.epoch(channel), "offset": 1}
        assert "offset" not in answers[2]["subscribe"], "zero values are left out"


async def test_the_reply_to_connect_has_what_sdks_read(gateway: RunningGateway) -> None:
    async with client(gateway) as wire:
        connected = wire.connected
        assert len(connected["client"]) == 36
        assert connected["version"]
        assert (connected["ping"], connected["pong"]) == (25, True)
        assert connected["expires"] is True and 3590 <= connected["ttl"] <= 3600
        assert list(connected["subs"]) == ["notifications:u1"]
    async with client(gateway, token=gateway.token(seconds=None)) as wire:
        assert not {"expires", "ttl"} & set(wire.connected), "a token without an end announces none"


async def test_the_anonymous_connect_where_something_is_open_to_them(gateway: RunningGateway) -> None:
    async with client(gateway, token="") as wire:
        assert "subs" not in wire.connected
        await wire.result("subscribe", channel="open:1")
        assert await wire.error("subscribe", channel="chat:1") == 103


async def test_without_a_token_a_connect_is_refused_where_nothing_is_open(strict: RunningGateway) -> None:
    async with opened(strict) as wire:
        await wire.send({"id": 1, "connect": {}})
        assert await wire.ended() == (3501, "bad request")
        assert wire.rest == []


async def test_unknown_fields_and_nulls_do_no_harm(gateway: RunningGateway, channel: str) -> None:
    async with opened(gateway) as wire:
        await wire.send(
            {"id": 1, "connect": {"token": gateway.token(), "data": None, "subs": None, "headers": {"a": "b"}, "future": [1]}, "x": 1}
        )
        assert "connect" in await wire.next()
        await wire.send({"id": 2, "subscribe": {"channel": channel, "token": None, "offset": None, "flag": 0, "shade": "blue"}})
        assert "subscribe" in await wire.next()


async def test_a_trailing_newline_and_fragments_are_understood(gateway: RunningGateway, channel: str) -> None:
    async with await connected_socket(gateway) as raw:
        command = json.dumps({"id": 5, "subscribe": {"channel": channel}}).encode() + b"\n"
        await raw.send(frame(command[:7], fin=False) + frame(command[7:9], 0, fin=False) + frame(b"", 9) + frame(command[9:], 0))
        opcode, _ = await raw.read_frame()
        assert opcode == 10, "the ping between the fragments is answered at once"
        assert (await raw.read_object())["id"] == 5


async def test_commands_may_come_in_binary_frames_and_a_byte_at_a_time(gateway: RunningGateway) -> None:
    async with await connected_socket(gateway) as raw:
        for byte in frame(b'{"id":9,"rpc":{"method":"gateway.time"}}', 2):
            await raw.send(bytes([byte]))
        assert (await raw.read_object())["id"] == 9


async def test_everything_goes_out_as_text_and_no_object_holds_a_newline(gateway: RunningGateway, channel: str) -> None:
    async with await connected_socket(gateway, channel) as raw:
        gateway.http(
            "POST", "/api/publish", b'{"channel":"%s","data":{"a":\n1,\r\n"b":"\\n"}}' % channel.encode(), {"X-API-Key": "test-key"}
        )
        opcode, payload = await raw.read_frame()
        assert opcode == 1 and b"\n" not in payload and b"\r" not in payload
        assert json.loads(payload)["push"]["pub"]["data"] == {"a": 1, "b": "\n"}


# Handshake.


async def test_protobuf_is_refused_and_json_is_accepted(gateway: RunningGateway) -> None:
    for asked in ({"query": "?format=protobuf"}, {"query": "?cf_protocol=protobuf"}, {"subprotocols": ["centrifuge-protobuf"]}):
        with pytest.raises(InvalidStatus) as caught:
            async with opened(gateway, **asked):
                pass
        assert caught.value.response.status_code == 400, asked
    async with opened(gateway, subprotocols=["centrifuge-json"]) as wire:
        assert wire.connection.subprotocol == "centrifuge-json"


async def test_compression_may_be_offered(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel, compression="deflate") as wire:
        gateway.publish(channel, "x" * 1000)
        assert (await wire.publication())["data"] == "x" * 1000


async def test_pages_of_listed_origins_or_the_own_host_and_programs_are_admitted(gateway: RunningGateway, strict: RunningGateway) -> None:
    """What a pattern admits is in tests/rules/test_origins.py."""
    for asked, headers, status in (
        (gateway, {"Host": "gateway.test:8000", "Origin": "https://gateway.test:8000"}, 101),
        (gateway, {}, 101),
        (gateway, {"Origin": "https://elsewhere.test"}, 403),
        (strict, {"Origin": "https://APP.example.org"}, 101),
        (strict, {"Origin": "https://a.b.example.net"}, 101),
        (strict, {"Origin": "https://app.example.org.evil.test"}, 403),
        (strict, {"Origin": "null"}, 403),
    ):
        async with await Socket.open(asked) as raw:
            assert await raw.upgrade(headers=headers) == status, headers


HANDSHAKE = {
    "Host": "gateway.test",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def handshake(line: str = "GET /connection/websocket HTTP/1.1", **changed: str | None) -> bytes:
    """The bytes of a handshake; ``changed`` headers, with _ for -, are others or, None, left out."""
    headers = HANDSHAKE | {name.replace("_", "-"): value for name, value in changed.items()}
    listed = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{line}\r\n{listed}\r\n".encode()


@pytest.mark.parametrize("value", ["", " ", ","], ids=["empty", "a space", "a comma"])
async def test_a_subprotocol_header_that_is_empty_counts_as_absent(strict: RunningGateway, value: str) -> None:
    """As every centrifuge-python before 0.7 sends it."""
    async with await Socket.open(strict) as raw:
        await raw.send(handshake(Sec_WebSocket_Protocol=value))
        status, headers = await raw.head()
        assert (status, "sec-websocket-protocol" in headers) == (101, False)


@pytest.mark.parametrize(
    "line, changed, status, more",
    [
        ("POST /connection/websocket HTTP/1.1", {}, 405, ("allow", "GET")),
        ("POST /connection/websocket HTTP/1.1", {"Content_Length": "0"}, 405, ("allow", "GET")),
        ("HEAD /connection/websocket HTTP/1.1", {}, 405, ("allow", "GET")),
        ("GET /connection/websocket HTTP/1.0", {}, 505, ("connection", "close")),
        ("GET /connection/websocket HTTP/1.1", {"Host": None}, 400, ("connection", "close")),
        ("GET /connection/websocket HTTP/1.1", {"Host": "a.test\r\nHost: b.test"}, 400, ("connection", "close")),
        ("GET /connection/websocket HTTP/1.1", {"Sec_WebSocket_Version": "8"}, 426, ("sec-websocket-version", "13")),
        ("GET /connection/websocket HTTP/1.1", {"Sec_WebSocket_Version": "14"}, 426, ("upgrade", "websocket")),
        ("GET /connection/websocket HTTP/1.1", {"Sec_WebSocket_Version": None}, 400, ("connection", "close")),
        ("GET /connection/websocket HTTP/1.1", {"Sec_WebSocket_Protocol": "a," * 20_000}, 431, ("connection", "close")),
        ("GET /connection/websocket HTTP/1.1", {"Connection": f"{'a,' * 20_000}upgrade"}, 431, ("connection", "close")),
    ],
    ids=[
        "POST",
        "POST with a length",
        "HEAD",
        "HTTP/1.0",
        "no Host",
        "two Hosts",
        "version 8",
        "version 14",
        "no version",
        "long list",
        "long Connection",
    ],
)
async def test_a_handshake_that_is_none_of_the_standard_is_refused(
    strict: RunningGateway, line: str, changed: dict[str, str | None], status: int, more: tuple[str, str]
) -> None:
    async with await Socket.open(strict) as raw:
        await raw.send(handshake(line, **changed))
        answered, headers = await raw.head()
        assert (answered, headers[more[0]].lower()) == (status, more[1].lower())


async def test_a_handshake_without_a_host_is_refused_by_either_edge(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(handshake(Host=None))
        assert (await raw.answer())[0] == 400


@pytest.mark.parametrize("split", [None, 60], ids=["one segment", "two segments"])
async def test_frames_that_come_with_the_handshake_are_read(strict: RunningGateway, split: int | None) -> None:
    first, second = (json.dumps(each) for each in ({"id": 1, "connect": {"token": strict.token("early")}}, {"id": 2, "ping": {}}))
    everything = handshake() + frame(first.encode()) + frame(second.encode())
    async with await Socket.open(strict) as raw:
        if split:
            await raw.send(everything[:split])
            await asyncio.sleep(0)
        await raw.send(everything[split or 0 : -5])
        assert (await raw.head())[0] == 101
        assert (await raw.read_object())["id"] == 1
        await raw.send(everything[-5:])  # the rest of a frame whose beginning came with the handshake
        assert (await raw.read_object())["id"] == 2


async def test_frames_that_come_with_a_refused_handshake_are_ignored(strict: RunningGateway) -> None:
    async with await Socket.open(strict) as raw:
        await raw.send(handshake(Origin="https://evil.test") + frame(b"ping", 9) + frame(b'{"id":1,"connect":{}}'))
        answer = await raw.rest()
        assert answer.startswith(b"HTTP/1.1 403 ") and answer.endswith(b"origin\n")


async def test_pongs_leave_in_the_order_of_what_was_asked(strict: RunningGateway) -> None:
    async with await connected_socket(strict, user="ponged") as raw:
        ask = frame(b'{"id":7,"rpc":{"method":"gateway.time"}}')
        refused = frame(b'{"id":8,"unsubscribe":{"channel":"nowhere:1"}}')
        await raw.send(frame(b"one", 9) + refused + frame(b"two", 9) + refused + frame(b"three", 9) + ask)
        received = [await raw.read_frame() for _ in range(6)]
        assert [opcode for opcode, _ in received] == [10, 1, 10, 1, 10, 1]
        assert [payload for opcode, payload in received if opcode == 10] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "parts", [[b'{"id":2,"rpc":{"method":"\xff\xfe"}}'], [b'{"id":2,"rpc":{"method":"\xc3', b'\x28"}}'], [b"\xed\xa0\x80"]]
)
@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
async def test_a_message_that_is_not_utf8_ends_the_connection_with_1007(strict: RunningGateway, parts: list[bytes], opcode: int) -> None:
    async with await connected_socket(strict, user="garbled") as raw:
        for number, part in enumerate(parts):
            await raw.send(frame(part, 0 if number else opcode, fin=number == len(parts) - 1))
        assert (await raw.read_to_close())[0] == 1007


async def test_a_binary_message_that_is_not_utf8_ends_the_connection_with_1007_on_either_edge(gateway: RunningGateway) -> None:
    async with await connected_socket(gateway) as raw:
        await raw.send(frame(b"\xff", 2))
        assert (await raw.read_to_close())[0] == 1007


async def test_a_character_in_two_fragments_is_utf8(gateway: RunningGateway) -> None:
    command = '{"id":2,"publish":{"channel":"chat:ä","data":"ä"}}'.encode()
    cut = command.index(b"\xa4")
    async with await connected_socket(gateway) as raw:
        await raw.send(frame(command[:cut], fin=False) + frame(command[cut:], 0))
        assert (await raw.read_object())["id"] == 2


# Publishing and receiving.


async def test_a_publication_reaches_all_subscribers_with_its_publisher(gateway: RunningGateway, channel: str) -> None:
    async with (
        client(gateway, subscribe=channel) as one,
        client(gateway, "u2", token=gateway.token("u2", info={"name": "Ann"}), subscribe=channel) as two,
    ):
        assert await two.ask("publish", channel=channel, data={"t": 1}) == {"id": 1003, "publish": {}}
        for wire in (one, two):
            publication = await wire.publication()
            assert publication == {
                "channel": channel,
                "data": {"t": 1},
                "offset": 1,
                "info": {"user": "u2", "client": two.connected["client"], "conn_info": {"name": "Ann"}},
            }
        gateway.publish(channel, None, tags={"lang": "de"})
        assert await one.publication() == {"channel": channel, "data": None, "offset": 2, "tags": {"lang": "de"}}


async def test_the_reply_to_subscribe_comes_before_any_publication(gateway: RunningGateway, channel: str) -> None:
    """While somebody publishes without a pause, each subscriber's first push continues the position of its reply."""
    done = asyncio.Event()

    async def publish_on() -> None:
        while not done.is_set():
            await asyncio.to_thread(gateway.publish, channel, 1)

    publishing = asyncio.create_task(publish_on())
    try:
        for _ in range(20):
            async with client(gateway) as wire:
                await wire.send({"id": 2, "subscribe": {"channel": channel}})
                answer = await wire.next()
                assert answer["id"] == 2
                offset = answer["subscribe"].get("offset", 0)
                assert [publication["offset"] for publication in await wire.publications(3)] == [offset + 1, offset + 2, offset + 3]
    finally:
        done.set()
        await publishing


async def test_a_client_that_unsubscribed_receives_nothing_more(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel) as wire:
        assert await wire.ask("unsubscribe", channel=channel) == {"id": 1003, "unsubscribe": {}}
        async with client(gateway, "u2", subscribe=channel) as other:
            gateway.publish(channel, "not received")
            await other.publication()  # this process has it: a subscription begins after it now
        await wire.result("subscribe", channel=channel)
        gateway.publish(channel, "received")
        assert (await wire.publication())["data"] == "received"
        for never in (f"{channel}-2", "nowhere:1"):
            assert await wire.result("unsubscribe", channel=never) == {}, "that it was never subscribed is no error"


async def test_a_client_ends_a_subscription_of_the_server_until_it_connects_again(gateway: RunningGateway) -> None:
    user = f"u{random.randbytes(6).hex()}"
    inbox = f"notifications:{user}"
    async with client(gateway, user) as wire, client(gateway, user) as other:
        assert inbox in wire.connected["subs"]
        assert await wire.ask("unsubscribe", channel=inbox) == {"id": 1002, "unsubscribe": {}}
        gateway.publish(inbox, "not received")
        await other.publication()  # what is written to both is written in the same turn
        assert await wire.ask("ping") == {"id": 1003, "ping": {}}
        assert await wire.ask("unsubscribe", channel=inbox) == {"id": 1004, "unsubscribe": {}}, "a second time is no error"
        await wire.result("subscribe", channel=inbox)
        gateway.publish(inbox, "received")
        assert (await wire.publication())["data"] == "received", "it may subscribe by itself"
    async with client(gateway, user) as again:
        assert inbox in again.connected["subs"]


async def test_a_client_that_changes_its_mind_is_answered_in_order(gateway: RunningGateway) -> None:
    """As pages do that mount a component, drop it and mount it again, all before the first reply."""
    minds = ["subscribe", "unsubscribe", "unsubscribe", "subscribe", "unsubscribe", "subscribe"]
    async with client(gateway) as wire:
        for _ in range(10):
            name = f"chat:{random.randbytes(6).hex()}"
            await wire.send(*[{"id": number, method: {"channel": name}} for number, method in enumerate(minds, 2)])
            answers = [await wire.next() for _ in minds]
            assert [answer["id"] for answer in answers] == [2, 3, 4, 5, 6, 7]
            assert [method in answer for answer, method in zip(answers, minds, strict=True)] == [True] * 6, answers
            gateway.publish(name, "it ends subscribed")
            assert (await wire.publication())["channel"] == name


async def test_subscribing_twice_is_an_error(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel) as wire:
        assert await wire.ask("subscribe", channel=channel) == {"id": 1003, "error": {"code": 105, "message": "already subscribed"}}
        await wire.send({"id": 1, "subscribe": {"channel": f"{channel}x"}}, {"id": 2, "subscribe": {"channel": f"{channel}x"}})
        answers = {(answer := await wire.next())["id"]: answer for _ in range(2)}
        assert "subscribe" in answers[1] and answers[2]["error"]["code"] == 105


async def test_more_channels_than_the_limit_are_refused(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, token="") as wire:
        await wire.send(*[{"id": 1 + number, "subscribe": {"channel": f"open:{channel[5:]}{number}"}} for number in range(129)])
        answers = {(answer := await wire.next())["id"]: answer for _ in range(129)}
        assert [id for id, answer in answers.items() if "error" in answer] == [129]
        assert answers[129]["error"] == {"code": 106, "message": "limit exceeded"}


async def test_a_name_of_255_characters_is_allowed(gateway: RunningGateway) -> None:
    name = "chat:" + "ü" * 250
    async with client(gateway, subscribe=name) as wire:
        gateway.publish(name, 1)
        assert (await wire.publication())["channel"] == name


async def test_a_channel_without_history_delivers_and_has_no_positions(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "forgetful")
    async with client(gateway) as wire:
        assert await wire.result("subscribe", channel=name) == {}
        assert gateway.publish(name, "now") == {}
        assert await wire.publication() == {"channel": name, "data": "now"}
        assert await wire.error("history", channel=name, limit=1) == 108


# History.


async def test_a_client_reads_history_in_both_directions(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, list(range(1, 11)))
    epoch = gateway.epoch(channel)
    async with client(gateway, subscribe=channel) as wire:

        async def offsets(**request: Any) -> list[int]:
            result = await wire.result("history", channel=channel, **request)
            assert (result["epoch"], result["offset"]) == (epoch, 10)
            assert all(publication["data"] == publication["offset"] for publication in result["publications"])
            return [publication["offset"] for publication in result["publications"]]

        assert await offsets() == []
        assert await offsets(limit=0) == []
        assert await offsets(limit=-1) == list(range(1, 11))
        assert await offsets(limit=3) == [1, 2, 3]
        assert await offsets(limit=3, reverse=True) == [10, 9, 8]
        assert await offsets(limit=-1, since={"offset": 7, "epoch": epoch}) == [8, 9, 10]
        assert await offsets(limit=1, since={"offset": 7, "epoch": epoch}) == [8]
        assert await offsets(limit=-1, since={"offset": 7}) == [8, 9, 10], "an empty epoch matches any"
        assert await offsets(limit=2, since={"offset": 5, "epoch": epoch}, reverse=True) == [4, 3]
        assert await offsets(limit=-1, since={"offset": 10, "epoch": epoch}) == []
        assert await wire.error("history", channel=channel, limit=1, since={"offset": 1, "epoch": "other"}) == 112


async def test_history_gives_300_at_most(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "endless")
    publish_many(gateway, name, list(range(400)))
    async with client(gateway, subscribe=name) as wire:
        for limit in (-1, 350):
            assert len((await wire.result("history", channel=name, limit=limit))["publications"]) == 300


# Who may do what.


@pytest.mark.parametrize("name", ["own:u12", "own:", "chat:x#"])
async def test_a_name_that_only_resembles_an_owners_is_open_to_no_user(gateway: RunningGateway, name: str) -> None:
    """The table of all rules is in tests/session/test_rights.py."""
    for token in ("", gateway.token("u1")):
        async with client(gateway, token=token) as wire:
            for method in ("subscribe", "publish", "history"):
                assert await wire.error(method, channel=name, data=1, limit=1) == 103, method


async def test_insecure_clients_may_do_anything_but_their_token_is_still_checked(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[insecure]\nclients = true\n")
    async with client(gateway, token="", subscribe="sealed:1") as wire:
        await wire.result("publish", channel="sealed:1", data="x")
        assert (await wire.publication())["data"] == "x"
        assert await wire.error("subscribe", channel="nowhere:1") == 102
    for token, end in ((gateway.token(seconds=-5), 3000), ("garbage", 3500)):
        async with opened(gateway) as wire:
            await wire.send({"id": 1, "connect": {"token": token}})
            assert (await wire.ended())[0] == end


# Subscription tokens.


async def test_a_subscription_token_opens_its_channel_for_its_user(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "ticket")
    async with client(gateway) as wire:
        assert await wire.error("subscribe", channel=name) == 103
        result = await wire.result("subscribe", channel=name, token=gateway.token("u1", channel=name, seconds=600))
        assert result["expires"] is True and 595 <= result["ttl"] <= 600
        gateway.publish(name, "for holders")
        assert (await wire.publication())["data"] == "for holders"
        refreshed = await wire.result("sub_refresh", channel=name, token=gateway.token("u1", channel=name, seconds=900))
        assert refreshed["expires"] is True and 895 <= refreshed["ttl"] <= 900


@pytest.mark.parametrize("user, named", [("u1", "ticket:2"), ("u2", "ticket:1"), ("", "ticket:1")], ids=["channel", "user", "anonymous"])
async def test_a_subscription_token_of_another_channel_or_user_ends_the_connection(gateway: RunningGateway, user: str, named: str) -> None:
    async with client(gateway) as wire:
        await wire.send({"id": 7, "subscribe": {"channel": "ticket:1", "token": gateway.token(user, channel=named)}})
        assert (await wire.ended())[0] == 3500


# Refreshing.


async def test_a_refresh_prolongs_the_connection(gateway: RunningGateway) -> None:
    async with client(gateway, token=gateway.token(seconds=100)) as wire:
        assert 95 <= wire.connected["ttl"] <= 100
        result = await wire.result("refresh", token=gateway.token(seconds=500))
        assert result["expires"] is True and 495 <= result["ttl"] <= 500
        assert "expires" not in await wire.result("refresh", token=gateway.token(seconds=None))


async def test_a_token_that_ends_in_centuries_has_a_ttl_that_every_sdk_can_read(gateway: RunningGateway) -> None:
    async with client(gateway, token=gateway.token(exp=9999999999)) as wire:
        assert wire.connected["ttl"] == 2**32 - 1
        assert (await wire.result("refresh", token=gateway.token(exp=1e300)))["ttl"] == 2**32 - 1


BAD_REFRESHES = [
    (method, bad) for method in ("refresh", "sub_refresh") for bad in ("another user's", "another channel's", "no token at all")
]


@pytest.mark.parametrize("method, bad", [*BAD_REFRESHES, ("refresh", "empty")])
async def test_a_refresh_with_a_bad_token_ends_the_connection(gateway: RunningGateway, channel: str, method: str, bad: str) -> None:
    own = {"channel": channel} if method == "sub_refresh" else {}
    tokens = {"another user's": gateway.token("u2", **own), "another channel's": gateway.token(channel="chat:other"), "empty": ""}
    async with client(gateway) as wire:
        await wire.result("subscribe", channel=channel, token=gateway.token(channel=channel))
        await wire.send({"id": 5, method: {"token": tokens.get(bad, "garbage"), **own}})
        assert await wire.ended() == (3500, "invalid token")


async def test_a_refresh_with_an_expired_token_has_the_client_come_back_with_another(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway) as wire:
        await wire.result("subscribe", channel=channel, token=gateway.token("u1", channel=channel))
        assert await wire.error("sub_refresh", channel=channel, token=gateway.token("u1", channel=channel, seconds=-10)) == 109
        assert (await wire.next())["push"]["unsubscribe"] == {"code": 2501, "reason": "subscription expired"}
        await wire.send({"id": 5, "refresh": {"token": gateway.token(seconds=-10)}})
        assert await wire.ended() == (3005, "connection expired")


# Remote procedures.


async def test_the_gateway_answers_its_own_rpc_methods(gateway: RunningGateway) -> None:
    async with client(gateway) as wire:
        answer = (await wire.result("rpc", method="gateway.time", data={"any": "thing"}))["data"]
        assert abs(answer["ms"] / 1000 - time.time()) < 60
        assert (await wire.result("rpc", method="gateway.whoami"))["data"] == {"user": "u1", "client": wire.connected["client"]}
        assert await wire.ask("rpc", method="x") == {"id": 1004, "error": {"code": 108, "message": "not available"}}


# Pings.


async def _pinged(strict: RunningGateway) -> None:
    async with client(strict, "pinged", pongs=False) as wire:
        assert wire.connected["ping"] == 1
        for _ in range(3):
            assert await wire.next(4) == {}
            await wire.send("{}")
        assert "rpc" in await wire.ask("rpc", method="gateway.time")


async def _mute(strict: RunningGateway) -> None:
    async with client(strict, "mute", pongs=False) as wire:
        assert await wire.next(4) == {}
        await wire.send({"id": 5, "rpc": {"method": "gateway.time"}})  # other traffic does not count
        assert await wire.ended() == (3012, "no pong")


async def _native(strict: RunningGateway) -> None:
    async with await Socket.open(strict) as raw, await Socket.open(strict) as mute:
        for native in (raw, mute):
            assert await native.upgrade("/connection/websocket?cf_ws_frame_ping_pong=true") == 101
            await native.say({"id": 1, "connect": {"token": strict.token("native")}})
            connected = (await native.read_object())["connect"]
            assert "ping" not in connected and "pong" not in connected
        for _ in range(3):
            opcode, payload = await raw.read_frame(4)
            assert opcode == 9
            await raw.send(frame(payload, 10))
        await raw.say({"id": 2, "rpc": {"method": "gateway.time"}})
        while (received := await raw.read_frame(4))[0] == 9:
            await raw.send(frame(received[1], 10))
        assert json.loads(received[1])["id"] == 2
        assert (await mute.read_to_close())[0] == 3012


waits = beside(_pinged, _mute, _native, gateway="strict")


@pytest.mark.parametrize("wait", ["_pinged", "_mute", "_native"])
async def test_pongs_hold_the_connection_and_native_pings_take_the_place_of_the_protocols(waits: Waits, wait: str) -> None:
    await waits[wait]


async def test_an_unasked_websocket_pong_is_fine(gateway: RunningGateway) -> None:
    async with await connected_socket(gateway) as raw:
        await raw.send(frame(b"unasked", 10))
        await raw.say({"id": 5, "rpc": {"method": "gateway.time"}})
        assert (await raw.read_object())["id"] == 5


# Limits.


async def test_a_client_that_publishes_too_fast_is_refused_and_may_go_on(strict: RunningGateway) -> None:
    async with client(strict, "fast") as wire:
        answers = [await wire.ask("publish", channel="member:fast", data=number) for number in range(6)]
        codes = [answer.get("error", {}).get("code") for answer in answers]
        assert codes[:3] == [None, None, None] and 111 in codes[3:]
        refused = next(answer["error"] for answer in answers if "error" in answer)
        assert refused == {"code": 111, "message": "too many requests", "temporary": True}


async def test_a_user_has_only_so_many_connections(strict: RunningGateway) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(client(strict, "many"))
        async with opened(strict) as wire:
            await wire.send({"id": 1, "connect": {"token": strict.token("many")}})
            assert await wire.ended() == (3504, "connection limit")
        async with client(strict, "other"):
            pass
    async with client(strict, "many"):
        pass


# Personal channels.


async def test_a_users_own_channel_is_there_on_connecting(gateway: RunningGateway, channel: str) -> None:
    user = channel[5:]
    name = f"notifications:{user}"
    gateway.publish(name, "old")
    async with client(gateway, user) as wire:
        assert wire.connected["subs"] == {name: {"recoverable": True, "epoch": gateway.epoch(name), "offset": 1, "positioned": True}}
        gateway.publish(name, "new")
        assert await wire.publication() == {"channel": name, "data": "new", "offset": 2}


async def test_a_long_absence_from_ones_own_channel_is_caught_up_in_pages(gateway: RunningGateway, channel: str) -> None:
    user = channel[5:]
    name = f"notifications:{user}"
    publish_many(gateway, name, list(range(1, 1001)))
    async with opened(gateway) as wire:
        await wire.send(
            {"id": 1, "connect": {"token": gateway.token(user), "subs": {name: {"recover": True, "epoch": gateway.epoch(name)}}}}
        )
        sub = (await wire.next())["connect"]["subs"][name]
        offsets = [p["offset"] for p in sub["publications"]]
        offsets += [(await wire.publication())["offset"] for _ in range(1000 - len(offsets))]
        assert offsets == list(range(1, 1001))


# Recovery.


async def resubscribe(wire: Wire, channel: str, epoch: str, offset: int, **request: Any) -> dict[str, Any]:
    position = ({"epoch": epoch} if epoch else {}) | ({"offset": offset} if offset else {})
    return await wire.ask("subscribe", channel=channel, recover=True, **position, **request)


async def test_what_was_missed_is_recovered_and_nothing_else(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, [1, 2, 3, 4, 5])
    epoch = gateway.epoch(channel)
    for offset in range(6):
        async with client(gateway) as wire:
            result = (await resubscribe(wire, channel, epoch if offset else "", offset))["subscribe"]  # an empty epoch matches any
            assert (result["recovered"], result["was_recovering"], result["recoverable"], result["positioned"]) == (True, True, True, True)
            assert result.get("offset", 0) == offset, "the offset is the request's"
            assert [p["offset"] for p in result.get("publications", [])] == list(range(offset + 1, 6))
            assert [p["data"] for p in result.get("publications", [])] == list(range(offset + 1, 6))


async def test_recovered_publications_have_their_tags_and_publisher(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel) as wire:
        await wire.result("publish", channel=channel, data=1)
        live = await wire.publication()
        gateway.publish(channel, 2, tags={"a": "b"})
        await wire.publication()
    async with client(gateway) as wire:
        first, second = (await resubscribe(wire, channel, "", 0))["subscribe"]["publications"]
        assert first | {"channel": channel} == live
        assert second["tags"] == {"a": "b"}


@pytest.mark.parametrize(
    "cause", ["trimmed", "removed", "another epoch", "the epoch of an SDK whose state was invalidated", "from the future"]
)
async def test_a_position_that_cannot_be_recovered_is_answered_as_not_recovered(gateway: RunningGateway, channel: str, cause: str) -> None:
    name = channel.replace("chat", "short")
    publish_many(gateway, name, list(range(1, 11)))
    epoch, offset = gateway.epoch(name), 8
    if cause in ("trimmed", "from the future"):
        offset = 4 if cause == "trimmed" else 1000
    elif cause == "removed":
        assert gateway.api("history_remove", channel=name) == {"result": {}}
    else:
        epoch = "_" if "SDK" in cause else "another"
    async with client(gateway) as wire:
        result = (await resubscribe(wire, name, epoch, offset))["subscribe"]
        assert result["was_recovering"] is True
        assert "recovered" not in result and "publications" not in result
        assert (result["epoch"], result["offset"]) == (gateway.epoch(name), 10)
        gateway.publish(name, "next")
        assert (await wire.publication())["offset"] == 11
    async with client(gateway) as wire:
        answer = await resubscribe(wire, name, epoch, offset, flag=2)
        assert answer["error"] == {"code": 112, "message": "unrecoverable position"}
        await wire.result("subscribe", channel=name)  # it is not subscribed
    async with client(gateway) as wire:
        answer = await resubscribe(wire, name, "", 0 if cause == "trimmed" else 5, flag=1)
        assert "subscribe" in answer, "other bits of the flag reject nothing"


async def test_a_level_position_recovers_after_history_was_removed(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, [1, 2, 3])
    gateway.api("history_remove", channel=channel)
    async with client(gateway) as wire:
        result = (await resubscribe(wire, channel, gateway.epoch(channel), 3))["subscribe"]
        assert result["recovered"] is True and result["offset"] == 3


async def test_the_oldest_position_that_history_leads_on_from_recovers(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "short")
    publish_many(gateway, name, list(range(1, 11)))
    async with client(gateway) as wire:
        result = (await resubscribe(wire, name, gateway.epoch(name), 5))["subscribe"]
        assert [p["offset"] for p in result["publications"]] == [6, 7, 8, 9, 10]


async def test_where_recovery_is_off_there_are_no_positions(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "unrecoverable")
    gateway.publish(name, 1)
    async with client(gateway) as wire:
        result = (await resubscribe(wire, name, "", 0))["subscribe"]
        assert not {"recoverable", "positioned", "recovered", "publications", "epoch", "offset"} & set(result)


async def test_catching_up_has_no_limit(gateway: RunningGateway, channel: str) -> None:
    name, missed = channel.replace("chat", "endless"), 2000
    publish_many(gateway, name, list(range(1, missed + 1)))
    async with client(gateway) as wire:
        publishing = asyncio.create_task(asyncio.to_thread(publish_many, gateway, name, list(range(missed + 1, missed + 201))))
        result = (await resubscribe(wire, name, gateway.epoch(name), 0))["subscribe"]
        assert result["recovered"] is True
        first_page = result["publications"]
        assert first_page
        rest = await wire.publications(missed + 200 - len(first_page))
        assert [(p["offset"], p["data"]) for p in first_page + rest] == [(n, n) for n in range(1, missed + 201)]
        await publishing


async def test_large_publications_are_caught_up_in_frames_that_sdks_take(gateway: RunningGateway, channel: str) -> None:
    """SDKs take frames of 1 MiB: sixty publications of 60 kB do not come in one reply."""
    name = channel.replace("chat", "endless")
    publish_many(gateway, name, ["x" * 60000] * 60)
    async with client(gateway, max_size=2**20) as wire:
        result = (await resubscribe(wire, name, "", 0))["subscribe"]
        offsets = [p["offset"] for p in result.get("publications", ())]
        offsets += [(await wire.publication())["offset"] for _ in range(60 - len(offsets))]
        assert offsets == list(range(1, 61))


async def test_a_storm_of_returning_clients_gets_the_same(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, list(range(1, 51)))
    epoch = gateway.epoch(channel)

    async def come_back(offset: int) -> list[int]:
        async with client(gateway, f"storm{offset}") as wire:
            result = (await resubscribe(wire, channel, epoch, offset))["subscribe"]
            return [p["offset"] for p in result.get("publications", [])]

    offsets = [number % 51 for number in range(150)]
    for offset, got in zip(offsets, await asyncio.gather(*map(come_back, offsets)), strict=True):
        assert got == list(range(offset + 1, 51))


# The end.


async def test_a_close_frame_is_answered_in_kind(gateway: RunningGateway) -> None:
    async with await connected_socket(gateway) as raw:
        await raw.send(frame((1000).to_bytes(2) + b"bye", 8))
        assert (await raw.read_to_close())[0] == 1000
        assert await raw.rest() == b""


async def test_a_client_whose_commands_waited_is_closed_as_soon_as_it_has_answered(gateway: RunningGateway) -> None:
    async with opened(gateway) as wire:
        connect = {"connect": {"token": gateway.token()}}
        await wire.send({"id": 1, **connect}, {"id": 2, "ping": {}}, {"id": 3, **connect})
        assert (await wire.ended(seconds=3))[0] == 3501


async def test_a_client_that_left_is_forgotten(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel):
        assert gateway.api("channels", pattern=channel)["result"]["channels"] == {channel: {"num_clients": 1}}
    await until(lambda: gateway.api("channels", pattern=channel)["result"]["channels"] == {}, "nobody follows it")


async def test_a_draining_gateway_sends_its_clients_elsewhere(start_gateway: Start) -> None:
    gateway = start_gateway(RULES)
    follower = client(gateway, "follower", subscribe="chat:drain")
    async with client(gateway, subscribe="chat:drain") as wire, opened(gateway) as silent, follower as following:
        publish_many(gateway, "chat:drain", list(range(50)))
        assert [publication["offset"] for publication in await following.publications(50)][-1] == 50, "all are announced"
        stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
        assert await wire.ended() == (3001, "shutdown")
        assert [message["push"]["pub"]["offset"] for message in wire.rest] == list(range(1, 51))
        assert await silent.ended() == (3001, "shutdown")
        assert await stopping == 0


async def test_the_log_holds_no_secret(gateway: RunningGateway) -> None:
    """Neither the log of any of these tests holds the token secret, nor a token."""
    assert SECRET not in gateway.log() and "eyJ" not in gateway.log()
