"""TLS by ``tls_cert`` and ``tls_key``: every edge over it, and a drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.cli.check import Report, _check_certificate
from gateway.config import Config
from gateway.edges.responses import PART_BYTES
from gateway.runtime.tasks import Tasks
from gateway.runtime.turns import Turns
from gateway.serve.certificate import certificate_fault
from gateway.serve.tls import HANDSHAKE_SLOTS, TlsHandshake
from gateway.session.admission import READ_AT_ONCE

from ..kit.clients import frame, lines
from ..kit.gateways import API_KEY, RunningGateway, Start

HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def gateway(start_gateway: Start, certificate: Path) -> RunningGateway:
    return start_gateway(f'tls_cert = "{certificate}"\ntls_key = "{certificate.with_name("key.pem")}"\ndrain_seconds = 0.5')


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False  # the certificate names no address
    return context


def test_a_key_with_a_password_is_named_and_nobody_is_asked_for_it(certificate: Path) -> None:
    """OpenSSL would ask at the terminal; a service has none, and its log had "Invalid argument"."""
    path = certificate.with_name("key.pem")
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert f"{path} is encrypted" in certificate_fault(Config(tls_cert=str(certificate), tls_key=str(path)))


@pytest.mark.parametrize("days, faults, warnings", [(400, 0, 0), (5, 0, 1), (-1, 1, 0)])
def test_check_finds_a_certificate_that_nothing_renews(certificate: Path, days: int, faults: int, warnings: int) -> None:
    """A gateway starts with it, and every client refuses it."""
    key = load_pem_private_key(certificate.with_name("key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(9), now + timedelta(days)).sign(key, hashes.SHA256())
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    report = Report()
    _check_certificate(Config(tls_cert=str(certificate), tls_key=str(certificate)), report)
    assert (len(report.faults), len(report.warnings)) == (faults, warnings)


async def test_of_handshakes_that_come_at_the_same_moment_some_have_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature with an RSA key takes a millisecond: those of hundreds of clients that came back together were one turn of the loop."""
    begun: list[socket.socket] = []
    monkeypatch.setattr("gateway.serve.tls.HttpProtocol", Mock())
    monkeypatch.setattr(
        asyncio.get_running_loop(), "connect_accepted_socket", AsyncMock(side_effect=lambda _, accepted, **options: begun.append(accepted))
    )
    node = SimpleNamespace(tasks=Tasks(), admission=SimpleNamespace(turns=Turns(READ_AT_ONCE)))
    here, there = socket.socketpair()
    for _ in range(20):
        transport = SimpleNamespace(get_extra_info=lambda name: here if name == "socket" else ("127.0.0.1", 1), abort=Mock())
        TlsHandshake(Mock(), app_state={"node": node}).connection_made(transport)
    sizes = [0]
    while sizes[-1] < 20:
        await asyncio.sleep(0)
        sizes.append(len(begun))
    assert max(now - before for before, now in pairwise(sizes)) == READ_AT_ONCE // HANDSHAKE_SLOTS
    await node.tasks.finish()
    for each in (here, there, *begun):
        each.close()


async def test_a_socket_for_which_no_descriptor_is_left_is_closed_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serve.tls.HttpProtocol", Mock())
    monkeypatch.setattr("gateway.serve.tls.os.dup", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
    here, there = socket.socketpair()
    with here, there:
        transport = SimpleNamespace(get_extra_info=lambda name: here, abort=Mock())
        TlsHandshake(Mock(), app_state={"node": SimpleNamespace(tasks=Tasks())}).connection_made(transport)
        transport.abort.assert_called_once()


async def test_a_handshake_that_waits_for_its_turn_leaves_no_socket_when_its_place_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serve.tls.HttpProtocol", Mock())
    node = SimpleNamespace(tasks=Tasks(), admission=SimpleNamespace(turns=Turns(0)))
    here, there = socket.socketpair()
    there.setblocking(False)
    handshake = TlsHandshake(Mock(), app_state={"node": node})
    handshake.connection_made(SimpleNamespace(get_extra_info=lambda name: here, abort=here.close))
    await asyncio.sleep(0)
    handshake.abort()
    await node.tasks.finish()
    assert there.recv(1) == b"", "it is closed"
    there.close()


async def test_every_edge_speaks_tls_and_is_drained(gateway: RunningGateway, trusting: ssl.SSLContext) -> None:
    assert gateway.url.startswith("https://")
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    http = httpx.AsyncClient(base_url=gateway.url, verify=trusting, headers=headers, timeout=20)
    async with http, connect(gateway.websocket_url.replace("ws:", "wss:"), ssl=trusting, compression=None, proxy=None) as socket:
        async with http.stream("GET", "/sse", params={"channel": "posts:tls"}) as stream:
            lines = stream.aiter_lines()
            await socket.send(json.dumps({"id": 1, "connect": {"token": gateway.token()}}))
            await socket.send(json.dumps({"id": 2, "subscribe": {"channel": "posts:tls"}}))
            assert "connect" in json.loads(await socket.recv()) and "subscribe" in json.loads(await socket.recv())
            while not (await anext(lines)).startswith("data:"):
                continue
            data = "x" * 300_000
            await http.post("/api/publish", json={"channel": "posts:tls", "data": data}, headers={"X-API-Key": API_KEY})
            assert json.loads(await socket.recv())["push"]["pub"]["data"] == data
            assert json.loads((await _event(lines))["data"])["data"] == data
            ended = asyncio.to_thread(gateway.stop)
            rest, status = await asyncio.gather(_rest(lines), ended)
            assert status == 0 and any(line.startswith("retry:") for line in rest), "told to come back at a time of its own"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3001


async def _event(lines: Any) -> dict[str, str]:
    fields: dict[str, str] = {}
    async for line in lines:
        if not line and "data" in fields:
            return fields
        name, _, value = line.partition(": ")
        fields[name] = value
    raise AssertionError("the stream ended")


async def _rest(lines: Any) -> list[str]:
    return [line async for line in lines]


async def test_plain_http_on_the_tls_port_is_refused_and_harms_no_other_client(gateway: RunningGateway, trusting: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"200 OK" not in await asyncio.wait_for(reader.read(), 15)
    writer.close()
    async with httpx.AsyncClient(base_url=gateway.url, verify=trusting) as http:
        assert (await http.get("/health/live")).status_code == 200


async def test_a_stream_whose_client_does_not_listen_holds_up_no_restart(gateway: RunningGateway, trusting: ssl.SSLContext) -> None:
    """TLS asks it before the connection closes, and it never answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trusting)
    writer.write(f"GET /sse?channel=posts:deaf&token={gateway.token()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await reader.readuntil(b"event: connected")
    writer.transport.pause_reading()
    began = time.monotonic()
    assert await asyncio.to_thread(gateway.stop) == 0
    assert time.monotonic() - began < 4
    writer.transport.abort()


def unread(gateway: RunningGateway, trusting: ssl.SSLContext, text: bytes, until: bytes) -> ssl.SSLSocket:
    """A client that sends ``text``, reads ``until`` it has that, and nothing more; what its machine holds for it is as little as can be."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", gateway.port))
    secured = trusting.wrap_socket(plain)
    secured.sendall(text)
    received = b""
    while until not in received:
        received += secured.recv(1024)
    return secured


async def test_an_answer_that_nobody_reads_is_not_held_as_a_whole(gateway: RunningGateway, trusting: ssl.SSLContext) -> None:
    """TLS encrypts what is written at once: each stranger that asked for the index of the documentation, and did not read, cost 0.6 MB."""
    ask = b"GET /docs/search.json HTTP/1.1\r\nHost: h\r\n\r\n"
    async with httpx.AsyncClient(base_url=gateway.url, verify=trusting) as http:
        size = len((await http.get("/docs/search.json")).content)
    with contextlib.ExitStack() as stack:
        before = gateway.memory()
        for _ in range(60):
            stack.enter_context(await asyncio.to_thread(unread, gateway, trusting, ask, b"200 OK"))
        assert size > 4 * PART_BYTES
        assert gateway.memory() - before < 60 * (4 * PART_BYTES)


async def test_a_client_that_closes_its_side_costs_no_line_of_the_log_for_each_publication(
    start_gateway: Start, certificate: Path, trusting: ssl.SSLContext
) -> None:
    """Whether it says so by TLS or not: uvloop warned of each write until what the client had not read was given up."""
    tls = f'tls_cert = "{certificate}"\ntls_key = "{certificate.with_name("key.pem")}"\n'
    gateway = start_gateway(f"{tls}pong_seconds = 60\n[limits]\nwaiting_bytes = 50000000\n")
    connect = {"id": 1, "connect": {"token": gateway.token()}}, {"id": 2, "subscribe": {"channel": "posts:tls"}}
    text = HANDSHAKE + frame(lines(*connect).encode())
    fill = {"commands": [{"publish": {"channel": "posts:tls", "data": "x" * 60_000}}] * 100}
    async with httpx.AsyncClient(base_url=gateway.url, verify=trusting, headers={"X-API-Key": API_KEY}, timeout=20) as http:
        with (
            await asyncio.to_thread(unread, gateway, trusting, text, b'"id":2') as silent,
            await asyncio.to_thread(unread, gateway, trusting, text, b'"id":2') as polite,
        ):
            for _ in range(4):  # 24 MB, more than the kernel takes
                await http.post("/api/batch", json=fill)
            silent.shutdown(socket.SHUT_WR)
            polite.setblocking(False)
            with contextlib.suppress(ssl.SSLError):
                polite.unwrap()
            for number in range(30):
                assert (await http.post("/api/publish", json={"channel": "posts:tls", "data": number})).status_code == 200
            log = gateway.log()
    assert log.count(" connected from ") == 2 and log.count("disconnected") < 2, "one at least was written to after its end"
    assert "WARNING" not in log
