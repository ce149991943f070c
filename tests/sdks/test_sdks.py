"""centrifuge of npm, over each of its transports, and centrifuge-python, both unchanged: all that they know, against this gateway.

What reads or writes in Valkey runs on each kind of it; tokens and transports do not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.javascript import Node, Script, SdkError, minted
from ..kit.ports import free_port
from ..kit.python_sdk import PythonSdk
from ..kit.sdks import RULES, answering, forget
from ..kit.tokens import token
from ..kit.waiting import wait_until

TRANSPORTS = ("websocket", "http_stream", "sse")  # of npm's SDK
ALL = (*TRANSPORTS, "python")

gateway = shared_gateway(RULES)


@pytest.fixture(scope="module")
def services(gateway: RunningGateway, valkey_url: str) -> Iterator[None]:
    with answering(valkey_url, gateway):
        yield


@pytest.fixture(params=ALL)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["websocket", "python"])
def sdk(request: pytest.FixtureRequest) -> str:
    """Either SDK, where the transport does not matter."""
    return request.param


Connect = Callable[..., Script]


@pytest.fixture
def connect(gateway: RunningGateway, node: Node, python_sdk: PythonSdk, user: str) -> Iterator[Connect]:
    """``connect(transport, token=…)``: a connected client; ``ready=False`` does not wait for that, ``post_to`` gets an emulated one's commands."""
    opened: list[Script] = []

    def open_client(transport: str = "websocket", *, ready: bool = True, at: RunningGateway = gateway, **options: Any) -> Script:
        if "getToken" not in options:
            options.setdefault("token", at.token(user))
        client = python_sdk.client(at, **options) if transport == "python" else node.client(at, transport, **options)
        opened.append(client)
        client.call("connect")
        if ready:
            client.until("connected")
        return client

    yield open_client
    for client in opened:
        client.call("disconnect")


# Connecting.


def test_short_tokens_are_refreshed_in_band_and_those_that_came_too_late_made_good(
    start_gateway: Start, connect: Connect, user: str
) -> None:
    """Pings keep it alive meanwhile: one in 2 s is announced. The others need none: if the SDK for Python reads one together with the
    frame that ends the connection, its pong finds the connection closed, and it tells its user "transport closed" and not the frame's code."""
    gateway = start_gateway("ping_seconds = 2\n" + RULES)
    steady, late, plain = f"ticket:{user}", f"ticket:{user}-late", f"chat:{user}"

    def tokens(*seconds: float, **claims: Any) -> list[Any]:
        return [minted(user, each, **claims) for each in (*seconds, 600)]

    connected = []
    for transport in ALL:
        client = connect(transport, at=gateway, getToken=tokens(3, 2), maxServerPingDelay=4000)
        subscriptions = [
            client.subscribed(steady, getToken=tokens(3, 2, channel=steady)),
            client.subscribed(late, getToken=tokens(3, -5, channel=late)),
        ]
        late_client = connect(transport, at=gateway, getToken=tokens(3, -5))
        connected.append((transport, client, *subscriptions, late_client, late_client.subscribed(plain)))
    for transport, client, of_steady, of_late, late_client, of_plain in connected:
        client.until("getToken", 3)
        of_steady.until("getToken", 3)
        assert [context["recovered"] for context in of_late.until("subscribed", 2)][:2] == [False, True]
        assert [context["recovered"] for context in of_plain.until("subscribed", 2)] == [False, True]
        assert client.codes("connecting") == of_steady.codes("subscribing") == [0], (
            client.told("connecting"),
            client.told("connected"),
            client.told("error"),
        )
        assert of_late.codes("subscribing") == [0, 2501]
        ended = [[0, 3005]] + [[0, 1]] * (transport == "python")
        assert late_client.codes("connecting") in ended, (late_client.told("connecting"), late_client.told("error"))
        assert of_plain.codes("subscribing") == [0, 1]
    for name in (steady, late, plain):
        gateway.publish(name, "still here")
    for _, client, *subscriptions, late_client, of_plain in connected:
        assert all(subscription.data(1) == ["still here"] for subscription in (*subscriptions, of_plain))
        assert client.told("disconnected") == late_client.told("disconnected") == []


def test_expired_tokens_are_replaced_and_bad_ones_refused(connect: Connect, user: str, sdk: str) -> None:
    name = f"ticket:{user}"
    client = connect(sdk, getToken=[token(user, seconds=-5), token(user)])
    assert [context["error"]["code"] for context in client.told("error")] == [109] and len(client.told("getToken")) == 2
    subscription = client.subscribed(name, getToken=[token(user, seconds=-5, channel=name), token(user, channel=name)])
    assert [context["error"]["code"] for context in subscription.told("error")] == [109]
    refused = client.subscription(f"{name}-2", token="garbage")
    refused.call("subscribe")
    assert refused.codes("unsubscribed", 1) == [103]


def test_without_a_token_a_client_is_refused_where_nothing_is_open(connect: Connect, user: str, transport: str) -> None:
    client = connect(transport, ready=False, token="")
    assert client.codes("disconnected", 1) == [3501]
    client.call("setToken", token(user))
    client.call("connect")
    client.until("connected")


def test_the_name_version_and_data_of_a_client_are_accepted(connect: Connect, transport: str) -> None:
    npm = transport != "python"
    data, since = ({"getData": [each]} if npm else {"data": each} for each in ({"theme": "dark"}, {"since": "yesterday"}))
    client = connect(transport, **data, name="a name of its own", version="1.2.3", headers={"X-Any": "thing"})
    (connected,) = client.told("connected")
    assert connected["client"] and (not npm or (connected["transport"] == transport and len(client.told("getData")) == 1))
    subscription = client.subscribed("posts:any", **since, positioned=True, recoverable=True)
    assert subscription.told("subscribed")[0]["recoverable"] and len(subscription.told("getData")) == npm


def test_a_service_ends_a_connection_for_a_while_or_for_good(gateway: RunningGateway, connect: Connect, user: str, transport: str) -> None:
    client = connect(transport)
    for code in (3000, 4000):
        gateway.api("disconnect", user=user, disconnect={"code": code, "reason": "said the service"})
        client.until("connected", 2 if code == 3000 else 3)
    gateway.api("disconnect", user=user)
    (final,) = client.until("disconnected")
    assert (final["code"], final["reason"]) == (3503, "force disconnect")
    client.call("connect")
    client.until("connected", 4)
    gateway.api("disconnect", user=user, disconnect={"code": 4500, "reason": "for good"})
    assert [(context["code"], context["reason"]) for context in client.until("disconnected", 2)[1:]] == [(4500, "for good")]
    assert client.codes("connecting") == [0, 3000, 4000, 0]


def test_a_client_whose_state_is_insufficient_starts_afresh(
    gateway: RunningGateway, connect: Connect, user: str, channel: str, sdk: str
) -> None:
    client = connect(sdk, getToken=[token(user)])
    subscription = client.subscribed(channel)
    gateway.publish(channel, 1)
    subscription.until("publication")
    gateway.api("disconnect", user=user, disconnect={"code": 3014})
    again = subscription.until("subscribed", 2)[1]
    assert again["wasRecovering"] and not again["recovered"] and again["streamPosition"]["offset"] == 1
    assert len(client.told("getToken")) == 2 and subscription.data() == [1]


def test_messages_that_expect_no_reply_are_refused(connect: Connect) -> None:
    (client := connect()).call("send", {"any": "thing"})
    assert client.codes("disconnected", 1) == [3508]


# Subscriptions.


@pytest.mark.every_valkey
def test_it_publishes_and_reads_presence(gateway: RunningGateway, connect: Connect, user: str, transport: str) -> None:
    name = f"chat:{user}"
    client = connect(transport, token=token(user, info={"name": "Ann"}))
    subscription = client.subscribed(name, token=token(user, channel=name, info={"role": "owner"}), joinLeave=True)
    assert subscription.call("publish", {"n": 1}) == {}
    gateway.publish(name, {"n": 2}, tags={"lang": "de"})
    own, tagged = subscription.until("publication", 2)
    id = client.told("connected")[0]["client"]
    info = {"client": id, "user": user, "connInfo": {"name": "Ann"}, "chanInfo": {"role": "owner"}}
    assert own == {"channel": name, "data": {"n": 1}, "offset": 1, "info": info}
    assert tagged == {"channel": name, "data": {"n": 2}, "offset": 2, "tags": {"lang": "de"}}
    raw = {"conn_info", "chan_info"}  # npm's SDK hands on what came, beside its own names
    wait_until(lambda: list(subscription.call("presence")["clients"]) == [id], "its own presence")
    assert {name: value for name, value in subscription.call("presence")["clients"][id].items() if name not in raw} == info
    assert subscription.call("presenceStats") == {"numClients": 1, "numUsers": 1}

    other = connect(transport)
    theirs = other.subscribed(name)
    their_id = other.told("connected")[0]["client"]
    wait_until(lambda: their_id in [context["info"]["client"] for context in subscription.told("join")], "the other's join")
    other.call("disconnect")
    assert [context["info"] for context in subscription.until("leave")] == [{"client": their_id, "user": user}]
    assert theirs.told("join") == []


@pytest.mark.every_valkey
def test_an_sdk_reads_history_in_every_direction(gateway: RunningGateway, connect: Connect, channel: str, sdk: str) -> None:
    subscription = connect(sdk).subscribed(channel)
    epoch = subscription.told("subscribed")[0]["streamPosition"]["epoch"]
    for number in range(1, 8):
        gateway.publish(channel, number)

    def offsets(**question: Any) -> list[int]:
        page = subscription.call("history", question)
        assert (page["epoch"], page["offset"]) == (epoch, 7)
        return [publication["offset"] for publication in page["publications"]]

    assert offsets() == [] and offsets(limit=-1) == [1, 2, 3, 4, 5, 6, 7] and offsets(limit=2, reverse=True) == [7, 6]
    assert offsets(limit=3, since={"offset": 2, "epoch": epoch}) == [3, 4, 5]
    assert offsets(limit=3, since={"offset": 4, "epoch": epoch}, reverse=True) == [3, 2, 1]
    with pytest.raises(SdkError) as caught:
        offsets(limit=1, since={"offset": 1, "epoch": "another"})
    assert (caught.value.code, caught.value.message) == (112, "unrecoverable position")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_subscription_may_begin_in_the_past(gateway: RunningGateway, connect: Connect, channel: str, transport: str) -> None:
    epoch = {gateway.publish(channel, number)["epoch"] for number in range(1, 5)}.pop()
    for since, recovered in (({"offset": 2, "epoch": epoch}, True), ({"offset": 2}, True), ({"offset": 2, "epoch": "another"}, False)):
        subscription = connect(transport).subscribed(channel, since=since)
        (context,) = subscription.told("subscribed")
        assert (context["wasRecovering"], context["recovered"], context["hasRecoveredPublications"]) == (True, recovered, recovered)
        assert context["streamPosition"]["offset"] == (2 if recovered else 4)
        assert not recovered or subscription.data(2) == [3, 4]


@pytest.mark.every_valkey
def test_a_client_that_comes_back_gets_what_it_missed(
    gateway: RunningGateway, connect: Connect, user: str, channel: str, transport: str
) -> None:
    subscription = connect(transport).subscribed(channel)
    gateway.publish(channel, 1)
    subscription.until("publication")
    subscription.call("unsubscribe")
    gateway.publish(channel, 2)
    subscription.call("subscribe")
    subscription.until("publication", 2)
    gateway.api("unsubscribe", user=user, channel=channel)
    left = subscription.until("unsubscribed", 2)[1]
    assert (left["code"], left["reason"]) == (2000, "server unsubscribe")
    gateway.publish(channel, 3)
    subscription.call("subscribe")
    assert subscription.data(3) == [1, 2, 3]
    assert [context["recovered"] for context in subscription.told("subscribed")] == [False, True, True]


def test_a_change_of_mind_is_no_error(gateway: RunningGateway, connect: Connect, channel: str, transport: str) -> None:
    client = connect(transport)
    subscription = client.subscription(channel)
    on, off = (subscription, "subscribe"), (subscription, "unsubscribe")
    # Batched, and so in one frame, where the transport does not make the SDK wait for each answer.
    client.node.send_all((client, "startBatching"), on, off, on, off, on, (client, "stopBatching"))
    subscription.call("ready", 5000)
    gateway.publish(channel, 1)
    assert subscription.data(1) == [1]
    assert subscription.codes("unsubscribed") == [0, 0] and subscription.told("error") == []


def test_a_batch_is_answered_whole_and_in_order(connect: Connect, channel: str, transport: str) -> None:
    client = connect(transport)
    node = client.node
    subscription = client.subscribed(channel)
    publishes = [(client, "publish", channel, number) for number in range(100)]
    calls = [(client, "startBatching"), *publishes, (client, "rpc", "gateway.whoami", None), (client, "rpc", "nobody.here", None)]
    numbers = node.send_all(*calls, (client, "stopBatching"))
    assert [node.answer(number) for number in numbers[1:101]] == [{}] * 100
    assert node.answer(numbers[101])["data"]["client"] == client.told("connected")[0]["client"]
    with pytest.raises(SdkError) as caught:
        node.answer(numbers[102])
    assert caught.value.code == 108
    assert subscription.data(100) == list(range(100))


@pytest.mark.every_valkey
def test_a_subscription_whose_history_is_lost_is_reported_as_not_recovered(
    gateway: RunningGateway, connect: Connect, channel: str, valkey_url: str, sdk: str
) -> None:
    subscription = connect(sdk).subscribed(channel)
    gateway.publish(channel, 1)
    subscription.until("publication")
    forget(valkey_url, gateway, channel)
    gateway.publish(channel, "of another life")
    again = subscription.until("subscribed", 2)[1]
    assert subscription.codes("subscribing") == [0, 2500]
    assert again["wasRecovering"] and not again["recovered"] and again["streamPosition"]["offset"] == 1
    gateway.publish(channel, "and on")
    assert subscription.data(2) == [1, "and on"]


@pytest.mark.every_valkey
def test_a_filter_holds_until_the_next_subscribe_with_another(gateway: RunningGateway, connect: Connect, user: str, sdk: str) -> None:
    name = f"news:{user}"
    sized = {"op": "or", "nodes": [{"key": "size", "cmp": "gte", "val": "2"}, {"key": "k", "cmp": "in", "vals": ["x"]}]}
    final = {"op": "not", "nodes": [{"key": "draft", "cmp": "ex"}]}
    subscription = connect(sdk).subscribed(
        name, tagsFilter={"op": "and", "nodes": [{"key": "lang", "cmp": "eq", "val": "de"}, final, sized]}
    )
    for number, tags in enumerate(({"lang": "de", "size": "3"}, {"lang": "en", "size": "3"}, {"lang": "de", "k": "x", "draft": "1"}), 1):
        gateway.publish(name, number, tags=tags)
    gateway.publish(name, 4, tags={"lang": "de", "k": "x"})
    subscription.until("publication", 2)
    subscription.call("unsubscribe")
    gateway.publish(name, 5, tags={"lang": "en"})
    gateway.publish(name, 6, tags={"lang": "de", "size": "9"})
    subscription.call("setTagsFilter", {"key": "lang", "cmp": "sw", "val": "e"})
    subscription.call("subscribe")
    assert subscription.data(3) == [1, 4, 5]


def test_state_is_loaded_again_when_its_position_cannot_be_recovered(
    gateway: RunningGateway, connect: Connect, user: str, sdk: str
) -> None:
    name = f"short:{user}"
    epoch = {gateway.publish(name, number)["epoch"] for number in range(1, 12)}.pop()
    subscription = connect(sdk).subscribed(name, getState=[{"offset": 2, "epoch": epoch}, {"offset": 8, "epoch": epoch}])
    assert subscription.data(3) == [9, 10, 11]
    assert len(subscription.told("getState")) == 2 and subscription.told("unsubscribed") == []
    assert [context["recovered"] for context in subscription.told("subscribed")] == [True]


# Server-side subscriptions.


def test_channels_of_the_token_and_of_a_service_are_subscribed(
    gateway: RunningGateway, connect: Connect, user: str, transport: str
) -> None:
    own, added = f"room:{user}", f"room:{user}-added"
    given = token(user, subs={own: {"info": {"seat": 1}, "data": {"hello": 2}}})
    since = gateway.publish(added, "before")
    gateway.publish(added, "missed")
    client = connect(transport, token=given)
    first = {context["channel"]: context for context in client.until("subscribed", 2)}[own]
    assert first["recoverable"] and first["positioned"] and first["data"] == {"hello": 2} and not first["wasRecovering"]
    gateway.api("subscribe", user=user, channel=added, data={"by": "service"}, recover_since=since)
    assert client.until("subscribed", 3)[2]["data"] == {"by": "service"}
    other = connect(transport, token=given)
    id = other.told("connected")[0]["client"]
    wait_until(lambda: id in [context["info"]["client"] for context in client.told("join")], "the other's join")
    other.call("disconnect")
    (left,) = client.until("leave")
    assert left == {"channel": own, "info": {"client": id, "user": user, "chanInfo": {"seat": 1}}}
    gateway.publish(own, 1)
    client.until("publication", 2)

    gateway.api("unsubscribe", user=user, channel=added)
    assert client.until("unsubscribed") == [{"channel": added}]
    gateway.api("subscribe", user=user, channel=added)
    client.until("subscribed", 4)
    gateway.api("disconnect", user=user, disconnect={"code": 4000})
    for number in (2, 3):
        gateway.publish(own, number)
    seen = client.until("publication", 4)
    again = [context for context in client.told("subscribed") if context["channel"] == own][1]
    assert again["wasRecovering"] and again["data"] == {"hello": 2}
    assert [(context["channel"], context["data"]) for context in seen] == [(added, "missed"), (own, 1), (own, 2), (own, 3)]
    # What a service added was the connection's: a client that comes back is told that it is gone.
    assert client.until("unsubscribed", 2) == [{"channel": added}] * 2


# Calls.


@pytest.mark.every_valkey
def test_services_answer_and_refuse_in_their_own_words(connect: Connect, services: None, user: str, transport: str) -> None:
    client = connect(transport, token=token(user, info={"plan": "gold"}))
    answer = client.call("rpc", "shop.order", {"n": [1, None]})
    assert answer == {"data": {"user": user, "info": {"plan": "gold"}, "data": {"n": [1, None]}}}
    refused = []
    for method, question in (
        ("shop.refuse", {"code": 409}),
        ("shop.refuse", {"code": 1999, "temporary": True}),
        ("shop.break", 1),
        ("nobody.here", 1),
    ):
        with pytest.raises(SdkError) as caught:
            client.call("rpc", method, question)
        refused.append((caught.value.code, caught.value.temporary))
    assert refused == [(409, False), (1999, True), (100, True), (104, False)]


# A gateway that is killed.


def test_what_was_missed_is_caught_up_once_and_in_order_though_the_gateway_is_killed_on_the_way(
    gateway: RunningGateway, start_gateway: Start, connect: Connect, user: str, channel: str
) -> None:
    """The commands of emulated clients go to another process, which stays."""
    first = start_gateway(RULES, port=free_port(), beside=gateway)
    room, count = f"room:{user}", 0
    clients = [connect(transport, at=first, post_to=gateway, token=token(user, channels=[room])) for transport in ALL]
    followed = [client.subscribed(channel) for client in clients]

    def publish(more: int) -> None:
        nonlocal count
        commands = [{"publish": {"channel": channel, "data": [n, "x" * 500]}} for n in range(count + 1, count + more + 1)]
        assert all("publish" in reply for reply in gateway.api("batch", commands=commands)["replies"])
        count += more

    for live, seen, away in ((10, 10, 1500), (1, 300, 20)):
        publish(live)
        wait_until(lambda seen=seen: max(len(subscription.told("publication")) for subscription in followed) >= seen, "some of them")
        first.process.kill()
        first.process.wait()
        publish(away)
        gateway.publish(room, away)
        first = start_gateway(RULES, port=first.port, beside=gateway)
    for client, subscription in zip(clients, followed, strict=True):
        assert [number for number, _ in subscription.data(count)] == list(range(1, count + 1))
        assert all(context["wasRecovering"] and context["recovered"] for context in subscription.told("subscribed")[1:])
        assert client.data(2) == [1500, 20]
        assert client.told("disconnected") == subscription.told("unsubscribed") == []
        client.call("disconnect")
