"""What a full gateway does with the sockets that are too many: plain HTTP, streams, WebSockets, and those that send nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ..kit.clients import Socket, client, opened, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.waiting import eventually, until

NONE: Mapping[str, str] = {}
A, B = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
KEY = {"X-API-Key": API_KEY}


@contextlib.asynccontextmanager
async def idle(gateway: Any, count: int) -> AsyncIterator[list[Socket]]:
    """Kept connections of plain HTTP, between two requests."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(await Socket.open(gateway)) for _ in range(count)]
        for raw in sockets:
            assert (await raw.request("GET", "/health/live"))[0] == 200
        yield sockets


async def answer(
    gateway: Any, path: str = "/openapi.json", headers: Mapping[str, str] = NONE, body: bytes = b""
) -> tuple[int, dict[str, str]]:
    """Status and headers of one request on a socket of its own."""
    async with await Socket.open(gateway) as raw:
        status, given, _ = await raw.request("POST" if body else "GET", path, headers, body)
        return status, given


async def freed(gateway: Any, headers: Mapping[str, str] = NONE) -> None:
    """A request is answered again: the end of another client's socket is noticed."""

    async def served() -> bool:
        return (await answer(gateway, headers=headers))[0] == 200

    await eventually(served, "there is a place again")


async def test_plain_http_takes_places_and_a_full_gateway_answers_503(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 2\n")
    async with idle(gateway, 2) as (first, _):
        status, headers = await answer(gateway)
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "5")
        assert headers["x-content-type-options"] == "nosniff"
        assert (await first.request("GET", "/openapi.json"))[0] == 200, "a socket that has a place stays"
        async with opened(gateway) as wire:
            assert (await wire.ended())[0] == 3504
        async with stream(gateway, "chat:1") as events:
            assert (await events.refused())["code"] == 3504
        await first.close()
        await freed(gateway)
    assert gateway.log().count("sockets are refused: limits.connections is 2") == 1


async def test_a_full_gateway_still_answers_its_operators_once_a_socket(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 1\n")
    async with client(gateway, subscribe="chat:1") as wire, await Socket.open(gateway) as raw:
        body = json.dumps({"channel": "chat:1", "data": 1}).encode()
        status, headers, _ = await raw.request("POST", "/api/publish", KEY, body)
        assert (status, headers["connection"]) == (200, "close")
        assert await raw.rest() == b""
        assert (await wire.publication())["data"] == 1
        assert (await answer(gateway, "/health/ready"))[0] == 200
        assert (await answer(gateway, "/metrics", {"X-API-Key": API_KEY}))[0] == 200
        assert (await answer(gateway, "/api/publish", body=body))[0] == 401


async def test_the_commands_of_an_emulated_client_find_a_full_gateway_open(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 1\n")
    async with await Socket.open(gateway) as raw:
        connect = json.dumps({"id": 1, "connect": {"token": gateway.token()}}).encode()
        head = f"POST /connection/http_stream HTTP/1.1\r\nHost: h\r\nContent-Length: {len(connect)}\r\n\r\n".encode()
        await raw.send(head + connect)
        line = (await raw.reader.readuntil(b'"node"') + await raw.reader.readuntil(b"}}")).partition(b"\r\n\r\n")[2]
        result = json.loads(line.partition(b"\r\n")[2])["connect"]
        command = {"session": result["session"], "node": result["node"], "data": '{"id":2,"rpc":{"method":"gateway.time"}}'}
        assert (await answer(gateway, "/emulation", body=json.dumps(command).encode()))[0] == 204
        await raw.reader.readuntil(b'"rpc"')


async def test_sockets_that_send_nothing_are_bounded_and_lock_no_operator_out(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 10\n")
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await Socket.open(gateway)) for _ in range(300)]
        assert (await answer(gateway, "/health/live"))[0] == 200
        assert gateway.api("info")["result"]
        await until(lambda: sum(raw.reader.at_eof() for raw in silent) >= 300 - 10 - 64, "the oldest of them are cut off")
        assert not any(raw.reader.at_eof() for raw in silent[:10]), "these have a place"


async def test_plain_http_counts_for_its_address(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections_per_address = 2\n")
    async with idle(gateway, 2):
        assert (await answer(gateway))[0] == 503
    await freed(gateway)


async def test_a_proxy_is_not_one_client(start_gateway: Start) -> None:
    """Its sockets count for the clients whose requests and streams they carry, while they do."""
    gateway = start_gateway(f'trusted_proxies = ["127.0.0.0/8"]\n{RULES}[limits]\nconnections_per_address = 1\n')
    async with idle(gateway, 5) as sockets, stream(gateway, "chat:1", headers=A) as events:
        await events.connected()
        for raw in sockets[:3]:
            assert (await raw.request("GET", "/openapi.json", B))[0] == 200
        assert (await sockets[0].request("GET", "/openapi.json", A))[0] == 503
        await events.raw.close()
        await freed(gateway, A)


# TLS.


@pytest.fixture
def tls_gateway(start_gateway: Start, certificate: Path) -> RunningGateway:
    head = f'tls_cert = "{certificate}"\ntls_key = "{certificate.with_name("key.pem")}"\n'
    return start_gateway(f"{head}{RULES}[limits]\nconnections = 2\n", seconds={"gateway.serve.tls.HANDSHAKE_SECONDS": 2.5})


async def secured_status(gateway: Any, path: str) -> int:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
    async with Socket(reader, writer) as raw:
        return (await raw.request("GET", path))[0]


async def test_a_tls_handshake_takes_a_place_and_ends_in_time(tls_gateway: RunningGateway) -> None:
    began = time.monotonic()
    async with await Socket.open(tls_gateway) as silent, await Socket.open(tls_gateway) as other:
        assert await secured_status(tls_gateway, "/openapi.json") == 503
        assert await secured_status(tls_gateway, "/health/live") == 200
        assert await silent.rest() == await other.rest() == b""
        assert time.monotonic() - began < 9, "sooner than in the ten seconds that a handshake has otherwise"
        assert await secured_status(tls_gateway, "/openapi.json") == 200


async def test_a_tls_handshake_that_never_ends_holds_up_no_restart(tls_gateway: RunningGateway) -> None:
    async with await Socket.open(tls_gateway):
        began = time.monotonic()
        assert await asyncio.to_thread(tls_gateway.stop) == 0
        assert time.monotonic() - began < 9
