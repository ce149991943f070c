"""Ten thousand clients and channels: an operator's question holds the loop up for a few milliseconds at a time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.control.messages import Question
from gateway.control.questions import ChannelRows, ChannelSearch, ClientRows, ClientSearch, DeliveryReport, DeliverySearch
from gateway.rules.identity import Identity
from gateway.session.client_views import ClientViews

from ..kit.clients import Socket
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.operators import WITH_CONSOLE, log_in

MANY = 10_000
MOST_SECONDS = 0.010  # of one turn of the loop, in processor time: other programs share the machine


class Client:
    """A connected client with one subscription."""

    transport, since_ms, waiting_bytes, unconfirmed_bytes, paused = "websocket", 1, 0, 0, False

    def __init__(self, number: int) -> None:
        self.client = f"{number:08d}-0000-4000-a000-000000000000"
        self.identity = Identity(f"u{number * 7919 % MANY}")
        self._followed = [SimpleNamespace(channel=SimpleNamespace(name=f"chat:{number % 100}"))]

    def followed(self) -> list[Any]:
        return self._followed


class Turns:
    """Measures the turns of the loop while it is open as a context: ``longest`` in seconds of processor time. Nothing is collected meanwhile,
    which depends on what other tests left."""

    def __enter__(self) -> Turns:
        gc.disable()
        self.longest, self.count = 0.0, 0
        self._began = time.thread_time()
        self._handle = asyncio.get_running_loop().call_soon(self._next)
        return self

    def _next(self) -> None:
        now = time.thread_time()
        self.longest, self._began, self.count = max(self.longest, now - self._began), now, self.count + 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()
        gc.enable()


async def in_short_turns(ask: Callable[[], Awaitable[bytes]], most: float = MOST_SECONDS) -> tuple[bytes, int]:
    """What ``ask()`` returns, and in how many turns. In one of five attempts none may be longer than ``most``: what the machine does meanwhile
    may count as this process's."""
    longest = []
    for _ in range(5):
        with Turns() as turns:
            answer = await ask()
        if turns.longest < most:
            return answer, turns.count
        longest.append(turns.longest)
    raise AssertionError(f"the longest turns took {longest} s")


@pytest.fixture(scope="module")
def views() -> Iterator[ClientViews]:
    addresses = {Client(number): "10.0.0.1" for number in range(MANY)}
    channels = {f"chat:{number}": number % 997 + 1 for number in range(MANY)}
    admission: Any = SimpleNamespace(clients=addresses, address_of=addresses.__getitem__, users={})
    hub: Any = SimpleNamespace(subscribers=lambda: channels)
    yield ClientViews(Config(), "p", "here", hub, admission, SimpleNamespace())  # type: ignore[arg-type]  # it is not asked about events


def question(what: str, asked: msgspec.Struct | str) -> Question:
    return Question(1, "p", what, msgspec.json.encode(asked).decode())


@pytest.mark.parametrize(
    "search", [ClientSearch(), ClientSearch(user="u9"), ClientSearch(channel="chat:7"), ClientSearch(address="10.", client="0000")]
)
async def test_a_search_over_ten_thousand_clients_is_cut(views: ClientViews, search: ClientSearch) -> None:
    answer, turns = await in_short_turns(lambda: views.answer(question("clients", search)))
    found = msgspec.json.decode(answer, type=ClientRows)
    assert turns >= MANY / 1000
    assert len(found.clients) == 100 and found.total >= 100
    assert [row.user for row in found.clients] == sorted(row.user for row in found.clients)


async def test_one_of_ten_thousand_clients_is_looked_for_in_turns(views: ClientViews) -> None:
    answer, _ = await in_short_turns(lambda: views.answer(question("client", "nobody")))
    assert answer == b"null"


@pytest.mark.parametrize("pattern", ["", "chat:*", "*9*"])
async def test_the_busiest_of_ten_thousand_channels_are_chosen_in_turns(views: ClientViews, pattern: str) -> None:
    answer, _ = await in_short_turns(lambda: views.answer(question("busiest", ChannelSearch(pattern))))
    found = msgspec.json.decode(answer, type=ChannelRows)
    counts = list(found.channels.values())
    assert len(counts) == 100 and counts == sorted(counts, reverse=True) and found.total == (MANY if pattern != "*9*" else 3439)


async def test_no_pattern_holds_the_loop_up_on_long_names(views: ClientViews, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = dict.fromkeys([f"{'a' * 240}{number}" for number in range(1000)], 1)
    monkeypatch.setattr(views, "_hub", SimpleNamespace(subscribers=lambda: channels))
    asked = question("busiest", ChannelSearch("*" + "[a-z]" * 50 + "!"))
    answer, _ = await in_short_turns(lambda: views.answer(asked), 2 * MOST_SECONDS)  # one turn took 60 ms
    assert b'"total":0' in answer


async def test_the_channels_of_the_server_api_are_listed_in_turns(views: ClientViews) -> None:
    answer, _ = await in_short_turns(lambda: views.answer(Question(1, "p", "channels", "chat:*")))
    assert len(msgspec.json.decode(answer, type=dict[str, int])) == MANY


async def test_a_user_with_ten_thousand_connections_is_looked_at_in_turns(views: ClientViews) -> None:
    admission, events = views._admission, SimpleNamespace(written=_all_written, dropped=0)
    asked = Question(1, "p", "delivery", msgspec.json.encode(DeliverySearch("ann", "no:1", 1)).decode())
    theirs: Any = SimpleNamespace(users={"ann": list(admission.clients)}, clients={})
    other = ClientViews(Config(), "p", "here", views._hub, theirs, events)  # type: ignore[arg-type]  # a stand-in
    with Turns() as turns:
        answer = msgspec.json.decode(await other.answer(asked), type=DeliveryReport)
    assert turns.count >= MANY / 1000 and answer.total == MANY and len(answer.connections) == 100


async def _all_written(seconds: float) -> int:
    return 0


@pytest.mark.slow
async def test_ten_thousand_connections_are_searched_while_others_are_served(start_gateway: Start) -> None:
    gateway = await asyncio.to_thread(start_gateway, f"{WITH_CONSOLE}ping_seconds = 300\npong_seconds = 60\n{RULES}")
    sockets: list[Socket] = []
    try:
        for first in range(0, MANY, 100):
            sockets += await asyncio.gather(*[_connected(gateway, f"u{number:05d}") for number in range(first, first + 100)])
        operator = log_in(gateway)
        lags: list[float] = []
        for _ in range(20):
            began = time.monotonic()
            page = await asyncio.to_thread(lambda: operator.call("connections", user="u0", limit=50))
            lags.append(time.monotonic() - began)
            assert page["total"] == MANY
        assert page["connections"][0]["user"] == "u00000" and page["cursor"]
        assert sorted(lags)[10] < 0.5, "the middle one of twenty answers"
        busiest = await asyncio.to_thread(lambda: operator.call("channels_busy", limit=1))
        assert busiest["channels"] == [{"name": "chat:all", "clients": MANY}]
    finally:
        for socket in sockets:
            socket.writer.close()


async def _connected(gateway: RunningGateway, user: str) -> Socket:
    raw = await Socket.open(gateway)
    assert await raw.upgrade() == 101
    await raw.say({"id": 1, "connect": {"token": gateway.token(user)}})
    await raw.read_object()
    await raw.say({"id": 2, "subscribe": {"channel": "chat:all"}})
    await raw.read_object()
    return raw
