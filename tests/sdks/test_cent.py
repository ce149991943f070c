"""cent, the reference server's Python client, unchanged: every typed method, and what clients on both of two workers see of it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import cent
import pytest

from ..kit.clients import Wire, client
from ..kit.gateways import API_KEY, RULES, RunningGateway, shared_gateway
from ..kit.waiting import until, wait_until

pytestmark = pytest.mark.every_valkey

OPENED_AT_MOST = 40  # until one reaches the other worker: a fair coin fails so often once in 10^12

gateway = shared_gateway("workers = 2\n" + RULES)


Ask = Callable[[cent.CentRequest[Any]], Awaitable[Any]]


@pytest.fixture(params=["Client", "AsyncClient"])
async def ask(gateway: RunningGateway, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    """A request to the method of its type, of either client."""
    server = getattr(cent, request.param)(f"{gateway.url}/api", API_KEY)

    async def asked(request: cent.CentRequest[Any]) -> Any:
        method = getattr(server, request.__api_method__)
        return await (method(request) if inspect.iscoroutinefunction(method) else asyncio.to_thread(method, request))

    yield asked
    if request.param == "AsyncClient":
        await server._session._session.close()
    else:
        server.close()


class Both(NamedTuple):
    """A user's connections at one worker and at the other."""

    user: str
    here: Wire
    there: Wire

    async def pushes(self, kind: str) -> list[Any]:
        """The next push of each, which is of this kind."""
        messages = [await self.here.next(), await self.there.next()]
        assert all(kind in message.get("push", {}) for message in messages), messages
        return [message["push"][kind] for message in messages]


@contextlib.asynccontextmanager
async def _at_both(gateway: RunningGateway, user: str, subscribe: str = "") -> AsyncIterator[Both]:
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Wire] = {}
        for _ in range(OPENED_AT_MOST):
            before = _clients(gateway)
            wire = await stack.enter_async_context(client(gateway, user, subscribe=subscribe))
            (worker,) = (uid for uid, count in _clients(gateway).items() if count > before[uid])
            if worker in found:
                await wire.connection.close()
                await until(lambda before=before: _clients(gateway) == before, "the worker forgot it")
            found.setdefault(worker, wire)
            if len(found) == 2:
                break
        yield Both(user, *found.values())
    await until(lambda: not any(_clients(gateway).values()), "everybody is forgotten")


def _clients(gateway: RunningGateway) -> dict[str, int]:
    """Of each worker. One that is starting, or that takes more than a second to answer, is missing in ``info``."""

    def both() -> list[dict[str, Any]] | None:
        nodes = gateway.api("info")["result"]["nodes"]
        return nodes if len(nodes) == 2 else None

    return {node["uid"]: node["num_clients"] for node in wait_until(both, "both workers answer")}


@pytest.fixture
async def both(gateway: RunningGateway) -> AsyncIterator[Both]:
    async with _at_both(gateway, f"u{os.urandom(4).hex()}") as found:
        yield found


@pytest.fixture
async def followers(gateway: RunningGateway, channel: str) -> AsyncIterator[Both]:
    """Both follow ``channel``."""
    async with _at_both(gateway, f"u{os.urandom(4).hex()}", channel) as found:
        yield found


# Publishing.


async def test_publish_and_broadcast_reach_clients_of_both_workers(ask: Ask, followers: Both, channel: str) -> None:
    first = await ask(cent.PublishRequest(channel=channel, data={"n": None}, tags={"a": "b"}, idempotency_key="k"))
    assert (first.offset, bool(first.epoch)) == (1, True)
    assert (await ask(cent.PublishRequest(channel=channel, data=0, idempotency_key="k"))).offset == 1
    for publication in await followers.pushes("pub"):
        assert publication == {"data": {"n": None}, "offset": 1, "tags": {"a": "b"}}
    answer = await ask(cent.BroadcastRequest(channels=["nowhere:1", channel], data="passed over", b64data="WzFd", skip_history=True))
    assert answer.responses[0].error.code == 102 and answer.responses[1].error is None
    assert await followers.pushes("pub") == [{"data": [1]}] * 2


@pytest.mark.parametrize("parallel", [False, True])
async def test_every_method_works_in_a_batch(ask: Ask, followers: Both, channel: str, parallel: bool) -> None:
    await ask(cent.PublishRequest(channel=channel, data="before", tags={"a": "b"}))
    await until_present(ask, channel)
    requests = [
        cent.PublishRequest(channel=channel, data="in it"),
        cent.BroadcastRequest(channels=[channel], data="in it"),
        cent.SubscribeRequest(user=followers.user, channel=f"{channel}-more"),
        cent.UnsubscribeRequest(user="nobody", channel=channel),
        cent.DisconnectRequest(user="nobody"),
        cent.RefreshRequest(user="nobody", expired=True),
        cent.HistoryRequest(channel=channel, limit=1),
        cent.PresenceRequest(channel=channel),
        cent.PresenceStatsRequest(channel=channel),
        cent.ChannelsRequest(pattern=f"{channel}*"),
        cent.InfoRequest(),
        cent.HistoryRemoveRequest(channel=f"{channel}-more"),
    ]
    replies = (await ask(cent.BatchRequest(requests=requests, parallel=parallel))).replies
    assert [type(reply) for reply in replies] == [request.__returning__ for request in requests]
    publish, broadcast, *_, history, presence, stats, channels, info, _ = replies
    assert {publish.offset, broadcast.responses[0].result.offset} == {2, 3}
    assert [(publication.offset, publication.data, publication.tags) for publication in history.publications] == [(1, "before", {"a": "b"})]
    assert (len(presence.presence), stats.num_clients, stats.num_users) == (2, 2, 1)
    assert channels.channels[channel].num_clients == 2 and len(info.nodes) == 2
    seen = [await wire.next() for wire in followers[1:] for _ in range(4)]
    assert [message["push"]["pub"]["data"] for message in seen if "pub" in message["push"]] == ["before", "in it", "in it"] * 2
    assert [message["push"]["channel"] for message in seen if "subscribe" in message["push"]] == [f"{channel}-more"] * 2


# Clients.


async def test_subscribe_and_unsubscribe_concern_the_user_at_both_workers(ask: Ask, both: Both, channel: str) -> None:
    await ask(cent.SubscribeRequest(user=both.user, channel=channel, info={"role": "guest"}, data={"hello": 1}))
    assert [push["data"] for push in await both.pushes("subscribe")] == [{"hello": 1}] * 2
    presence = await until_present(ask, channel)
    assert {(info.user, info.chan_info["role"]) for info in presence.values()} == {(both.user, "guest")}
    await ask(cent.PublishRequest(channel=channel, data=1))
    assert [push["data"] for push in await both.pushes("pub")] == [1, 1]
    await ask(cent.UnsubscribeRequest(user=both.user, channel=channel))
    assert await both.pushes("unsubscribe") == [{"code": 2000, "reason": "server unsubscribe"}] * 2
    assert await until_present(ask, channel, 0) == {}


async def test_subscribe_recovers_for_the_client_that_is_named(ask: Ask, both: Both, channel: str) -> None:
    positions = [await ask(cent.PublishRequest(channel=channel, data=number)) for number in (1, 2, 3)]
    since = cent.StreamPosition(offset=1, epoch=positions[0].epoch)
    override = cent.ChannelOptionsOverride(presence=cent.BoolValue(value=True))
    named = both.there.connected["client"]
    await ask(cent.SubscribeRequest(user=both.user, client=named, channel=channel, recover_since=since, override=override, b64data="WzFd"))
    told = (await both.there.next())["push"]
    assert (told["channel"], told["subscribe"]["data"]) == (channel, [1])
    assert [publication["offset"] for publication in await both.there.publications(2)] == [2, 3]
    await ask(cent.UnsubscribeRequest(user=both.user, client=named, channel=channel))
    assert "unsubscribe" in (await both.there.next())["push"]
    await both.here.result("rpc", method="gateway.time")
    assert not both.here.rest, "the other one was not meant"


async def test_disconnect_spares_the_whitelisted_and_ends_the_rest(ask: Ask, both: Both) -> None:
    reason = cent.Disconnect(code=4000, reason="go there")
    await ask(cent.DisconnectRequest(user=both.user, whitelist=[both.there.connected["client"]], disconnect=reason))
    assert await both.here.ended() == (4000, "go there")
    await both.there.result("rpc", method="gateway.time")
    await ask(cent.DisconnectRequest(user=both.user, client=both.there.connected["client"], disconnect=cent.Disconnect(reason="why")))
    assert await both.there.ended() == (3503, "why"), "a code of 0, which cent sends, is the usual one"


async def test_refresh_lengthens_and_ends_connections_at_both_workers(ask: Ask, both: Both) -> None:
    await ask(cent.RefreshRequest(user=both.user, expire_at=int(time.time()) + 5000))
    assert all(4900 < push["ttl"] <= 5000 for push in await both.pushes("refresh"))
    await ask(cent.RefreshRequest(user=both.user, expired=True))
    assert await both.here.ended() == await both.there.ended() == (3005, "connection expired")


# Looking.


async def until_present(ask: Ask, channel: str, clients: int = 2) -> dict[str, Any]:
    """Presence, once so many are in it: it is written after clients receive their reply."""
    async with asyncio.timeout(5):
        while len(present := (await ask(cent.PresenceRequest(channel=channel))).presence) != clients:
            continue
    return present


async def test_presence_channels_and_info_are_of_both_workers(ask: Ask, followers: Both, channel: str) -> None:
    present = await until_present(ask, channel)
    assert present.keys() == {followers.here.connected["client"], followers.there.connected["client"]}
    stats = await ask(cent.PresenceStatsRequest(channel=channel))
    assert (stats.num_clients, stats.num_users) == (2, 1)
    found = (await ask(cent.ChannelsRequest(pattern=f"{channel[:-3]}*"))).channels
    assert {name: context.num_clients for name, context in found.items()} == {channel: 2}
    assert channel in (await ask(cent.ChannelsRequest())).channels
    nodes = (await ask(cent.InfoRequest())).nodes
    assert [node.num_clients for node in nodes] == [1, 1] and all(node.process.rss > 0 for node in nodes)


async def test_history_goes_both_ways_from_a_position(ask: Ask, channel: str) -> None:
    for number in (1, 2, 3, 4):
        epoch = (await ask(cent.PublishRequest(channel=channel, data=number))).epoch
    since = cent.StreamPosition(offset=2, epoch=epoch)

    async def offsets(**request: Any) -> list[int]:
        page = await ask(cent.HistoryRequest(channel=channel, **request))
        assert (page.offset, page.epoch) == (4, epoch)
        return [publication.offset for publication in page.publications]

    assert await offsets() == []
    assert await offsets(limit=-1) == [1, 2, 3, 4]
    assert await offsets(limit=1, since=since) == [3]
    assert await offsets(limit=2, reverse=True) == [4, 3]
    assert await offsets(limit=5, since=since, reverse=True) == [1]
    with pytest.raises(cent.CentApiResponseError) as caught:
        await ask(cent.HistoryRequest(channel=channel, limit=1, since=cent.StreamPosition(offset=2, epoch="other")))
    assert caught.value.code == 112
    await ask(cent.HistoryRemoveRequest(channel=channel))
    assert await offsets(limit=-1) == []


async def test_errors_are_cents_own(gateway: RunningGateway, ask: Ask) -> None:
    for request, code in (
        (cent.PublishRequest(channel="nowhere:1", data={}), 102),
        (cent.PublishRequest(channel="", data={}), 107),
        (cent.PresenceRequest(channel="chat:{}"), 107),
        (cent.HistoryRequest(channel="forgetful:1"), 108),
    ):
        with pytest.raises(cent.CentApiResponseError) as caught:
            await ask(request)
        assert caught.value.code == code
    stranger = cent.Client(f"{gateway.url}/api", "wrong")
    with pytest.raises(cent.CentUnauthorizedError):
        await asyncio.to_thread(stranger.info, cent.InfoRequest())
    stranger.close()
