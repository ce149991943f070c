"""Every limit has a code, which a client over the limit gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from gateway.config import load
from gateway.edges.request import client_address
from gateway.errors import ConfigurationError, TooManyRequests
from gateway.rules.rate_limit import NAMES_LEAST, Allowances, use

from ..kit.clients import client, opened, stream
from ..kit.gateways import RunningGateway, Start

PROXIED = {"X-Forwarded-For": "203.0.113.7"}


@pytest.fixture
def limited(start_gateway: Start) -> Iterator[Any]:
    return lambda limits, head="": start_gateway(f"{head}\n[limits]\n{limits}\n[namespaces.chat]\npublish = 'subscriber'\n")


@contextlib.asynccontextmanager
async def several(gateway: RunningGateway, count: int, **options: Any) -> AsyncIterator[list[Any]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(gateway, **options)) for _ in range(count)]


async def close_code(gateway: RunningGateway, **options: Any) -> int:
    """Of a connection that is one too many."""
    async with opened(gateway, **options) as wire:
        with contextlib.suppress(ConnectionClosed):
            await wire.send({"id": 1, "connect": {"token": gateway.token()}})
        return (await wire.ended())[0]


async def test_connections_of_one_address_are_limited(limited: Any) -> None:
    gateway = limited("connections_per_address = 2", 'trusted_proxies = ["127.0.0.0/8"]')
    async with several(gateway, 2), several(gateway, 2, additional_headers=PROXIED):
        assert await close_code(gateway) == 3504
        assert await close_code(gateway, additional_headers=PROXIED) == 3504
        async with several(gateway, 1, additional_headers={"X-Forwarded-For": "203.0.113.8"}):
            pass
        async with stream(gateway, "chat:1", headers=PROXIED) as events:
            assert (await events.next()).data["code"] == 3504
    async with several(gateway, 2):
        pass


async def test_a_client_that_is_no_trusted_proxy_cannot_choose_its_address(limited: Any) -> None:
    gateway = limited("connections_per_address = 1", 'trusted_proxies = ["10.0.0.0/8"]')
    async with several(gateway, 1):
        assert await close_code(gateway, additional_headers=PROXIED) == 3504


async def test_connects_are_limited_by_the_second(limited: Any) -> None:
    gateway = limited("connects_per_second = 3")
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(opened(gateway)) for _ in range(12)]
        codes = []
        for wire in wires:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await wire.send({"id": 1, "connect": {"token": gateway.token()}})
                await wire.next(1)
                continue
            codes.append((await wire.ended())[0])
    assert codes and set(codes) == {3013}


async def test_commands_are_limited_by_the_second(limited: Any) -> None:
    gateway = limited("commands_per_second = 5")
    async with client(gateway) as wire:
        answers = [await wire.ask("rpc", method="gateway.time") for _ in range(40)]
        codes = [answer.get("error", {}).get("code") for answer in answers]
        assert 111 in codes and None in codes
        while (await wire.ask("rpc", method="gateway.time")).get("error"):
            await asyncio.sleep(0.02)  # it is let in again by itself


async def test_bytes_that_wait_for_a_client_are_bounded_and_nothing_is_lost(limited: Any) -> None:
    gateway = limited("waiting_bytes = 2048")
    async with client(gateway, subscribe="chat:1", max_queue=1) as wire:
        for number in range(60):
            await asyncio.to_thread(gateway.publish, "chat:1", {"n": number, "fill": "x" * 20_000})
        assert [pub["data"]["n"] for pub in await wire.publications(60)] == list(range(60))


# The rules below them.


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 2), max_size=60))
def test_no_more_are_let_through_than_the_rate_and_a_seconds_worth(rate: float, pauses: list[float]) -> None:
    used, now, let_through = 0.0, 1000.0, 0
    for pause in pauses:
        now += pause
        after = use(used, now, rate)
        if after is not None:
            used, let_through = after, let_through + 1
    assert let_through <= rate * (now - 1000.0) + max(1, rate) + 1


def test_without_a_rate_there_is_no_limit() -> None:
    assert use(5.0, 1.0, 0) == 5.0


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (("192.0.2.1", 1), "203.0.113.7", "192.0.2.1"),
        (("10.0.0.1", 1), "203.0.113.7", "203.0.113.7"),
        (("10.0.0.1", 1), "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (("10.0.0.1", 1), "203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (("10.0.0.1", 1), "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (("10.0.0.1", 1), "", "10.0.0.1"),
        (("10.0.0.1", 1), " , ", "10.0.0.1"),
        (("10.0.0.1", 1), "garbage", "garbage"),
        (("10.0.0.1", 1), "x" * 1000, "x" * 64),
        (("fd00::1", 1, 0, 0), "2001:db8::7", "2001:db8::7"),
        (("10.0.0.1", 1), "198.51.100.1:5, 203.0.113.7:4711, 10.0.0.2:80", "203.0.113.7"),
        (("10.0.0.1", 1), "203.0.113.7" + ", 10.0.0.2" * 1000, "10.0.0.2"),
        (("10.0.0.1", 1), "[2001:db8::7]:4711, [fd00::2]", "2001:db8::7"),
        (("::ffff:10.0.0.1", 1, 0, 0), "203.0.113.7", "203.0.113.7"),
        (None, "203.0.113.7", ""),
    ],
)
def test_the_address_is_the_last_that_is_no_proxy_of_ours(peer: Any, forwarded: str, address: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert client_address(peer, headers, [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]) == address


def test_a_proxy_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('trusted_proxies = ["proxy.example.org"]')
    with pytest.raises(ConfigurationError, match=r"trusted_proxies.*proxy\.example\.org"):
        load(tmp_path / "c.toml")


# Over plain HTTP.


def status(gateway: RunningGateway, path: str, user: str = "", **headers: str) -> int:
    given = {"Authorization": f"Bearer {gateway.token(user)}"} if user else {}
    return gateway.http(
        "POST" if path.endswith("read") else "GET", path, b'{"all":true}' if path.endswith("read") else None, given | headers
    )[0]


OPEN = 'trusted_proxies = ["127.0.0.0/8"]'


async def test_requests_over_http_are_limited_as_commands_are(start_gateway: Start) -> None:
    """Each user has an allowance over all paths, each address one for its anonymous users."""
    rules = '[namespaces.open]\nsubscribe = "anyone"\nhistory = "anyone"\n'
    gateway = start_gateway(f"{OPEN}\n[limits]\ncommands_per_second = 0.5\n{rules}")
    history = "/history?channel=open:1"
    assert [await asyncio.to_thread(status, gateway, history, "u1") for _ in range(2)] == [200, 429]
    for path in ("/inbox", "/inbox/read"):
        assert await asyncio.to_thread(status, gateway, path, "u1") == 429
    async with stream(gateway, "open:1", user="u1") as events:
        assert (await events.next()).data == {"code": 111, "message": "too many requests"}
    assert [await asyncio.to_thread(status, gateway, history, "u2") for _ in range(2)] == [200, 429]
    for address in ("203.0.113.7", "203.0.113.8"):
        found = [await asyncio.to_thread(lambda a=address: status(gateway, history, **{"X-Forwarded-For": a})) for _ in range(2)]
        assert found == [200, 429]


def test_an_allowance_is_forgotten_when_it_is_whole_again() -> None:
    allowances = Allowances(1, "limits.commands_per_second")
    for number in range(10 * NAMES_LEAST):
        allowances.spend(f"u{number}", number / 100)
        assert len(allowances) <= NAMES_LEAST + 1
    with pytest.raises(TooManyRequests, match="commands_per_second is 1"):
        allowances.spend(f"u{number}", number / 100 + 0.9)
    allowances.spend(f"u{number}", number / 100 + 1)
