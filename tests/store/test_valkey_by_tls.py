"""Valkey by TLS: everything works as without, and what is wrong with a certificate is one clear line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.check import Report, _doubt_tls
from gateway.errors import ConfigurationError, Unavailable
from gateway.rpc import Service
from gateway.store.connect import Address, open_connection
from gateway.store.rights import acl_words, rights_of
from gateway.store.tls_options import explained
from gateway.work import Queue, Worker
from publishers import Publisher, SyncPublisher

from ..kit.certificates import Authority
from ..kit.clients import client
from ..kit.gateways import RULES, Start
from ..kit.jobs import working
from ..kit.ports import free_port
from ..kit.programs import run
from ..kit.servers import REDIS, SERVICE, TlsServer, ValkeyServer, tls_files
from ..kit.services import running
from ..kit.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def trusted(authority: Authority) -> str:
    """The option with which the servers' certificates are trusted."""
    return f"ssl_ca_certs={authority.path}"


@pytest.fixture(scope="module")
def redis(folder: Path, authority: Authority) -> Iterator[TlsServer]:
    if REDIS is None:
        pytest.skip("there is no redis-server, of Debian's package redis-server")
    server = TlsServer(folder / "redis", authority)
    yield server
    server.stop()


# What works.


async def test_every_program_works_by_tls_and_recovers_when_it_is_cut(
    redis: TlsServer, trusted: str, prefix: str, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rpc.service.BLOCK_SECONDS", 0.5)
    redis.client.execute_command(*acl_words("least", rights_of("gateway", prefix), "secret"))
    url = redis.url(trusted)
    gateway = await asyncio.to_thread(start_gateway, RULES, valkey_url=redis.url(trusted, login="least:secret@"))
    async with client(gateway, subscribe="chat:a") as wire, Publisher(url, prefix=prefix) as publisher:
        await publisher.publish("chat:a", 1)
        with SyncPublisher(url, prefix=prefix) as plain:
            plain.publish("chat:a", 2)
        await _rpc_and_a_job(wire, url, prefix)
        for type in ("pubsub", "normal"):
            redis.client.execute_command("CLIENT", "KILL", "TYPE", type)
        await publisher.publish("chat:a", 3, idempotency_key="3")
        await until(lambda: "the link to valkey was lost" in gateway.log(), "the gateway notices")
        assert [each["data"] for each in await wire.publications(3)] == [1, 2, 3]
        await until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "the gateway is ready again")
    assert redis.client.acl_log() == []


async def _rpc_and_a_job(wire: Any, url: str, prefix: str) -> None:
    service, worker = Service(url, prefix=prefix), Worker(url=url, prefix=prefix)

    @service.method("echo")
    async def echo(caller: Any, data: Any) -> Any:
        return data

    @worker.job("twice")
    async def twice(job: Any, data: int) -> int:
        return data * 2

    async with running(service), working(worker), Queue(url, prefix=prefix) as queue:
        assert (await wire.result("rpc", method="echo", data=7))["data"] == 7
        assert await (await queue.enqueue("twice", 21, result_ttl=60)).result(10) == 42


async def _asynchronously(url: str, prefix: str) -> None:
    async with Publisher(url, prefix=prefix) as publisher:
        assert await publisher.publish("posts:a", 1)


async def _plainly(url: str, prefix: str) -> None:
    with SyncPublisher(url, prefix=prefix) as publisher:
        assert await asyncio.to_thread(publisher.publish, "posts:a", 1)


both = pytest.mark.parametrize("publish", [_asynchronously, _plainly])


@both
async def test_the_primary_that_sentinels_name_is_reached_by_tls(
    publish: Callable[..., Any], redis: TlsServer, authority: Authority, trusted: str, folder: Path, prefix: str
) -> None:
    port = free_port()
    tls = (f"tls-port {port}", "tls-replication yes", "tls-auth-clients no", *tls_files(authority, authority.issue("sentinel")))
    monitor = f"sentinel monitor {SERVICE} 127.0.0.1 {redis.port} 1"
    sentinel = ValkeyServer(folder / f"sentinel-{publish.__name__}", *tls, monitor, sentinel=True, program=str(REDIS))
    try:
        await publish(f"valkeys+sentinel://127.0.0.1:{port}/{SERVICE}?{trusted}", prefix)
        with pytest.raises(Unavailable):
            await publish(f"valkeys+sentinel://127.0.0.1:{port}/{SERVICE}", prefix)
    finally:
        sentinel.stop()


@both
async def test_a_client_shows_its_certificate_where_the_server_wants_one(
    publish: Callable[..., Any], redis: TlsServer, authority: Authority, trusted: str, prefix: str
) -> None:
    certificate = authority.issue("client")
    key = certificate.with_suffix(".key")
    together = certificate.with_name("both.pem")
    together.write_bytes(certificate.read_bytes() + key.read_bytes())
    redis.client.config_set("tls-auth-clients", "yes")
    try:
        for options in ([f"ssl_certfile={certificate}", f"ssl_keyfile={key}"], [f"ssl_certfile={together}"]):
            await publish(redis.url(trusted, *options), prefix)
        with pytest.raises(Unavailable, match="ssl_certfile=FILE&ssl_keyfile=FILE"):
            await publish(redis.url(trusted), prefix)
    finally:
        redis.client.config_set("tls-auth-clients", "optional")


# What does not.


@both
@pytest.mark.parametrize(
    "host, options, reason",
    [
        ("127.0.0.1", "", r"its certificate is not trusted; name the file of its CA: \?ssl_ca_certs=FILE"),
        ("127.0.0.1", "ssl_ca_certs={other}", "its certificate is not trusted"),
        ("localhost", "{trusted}", "its certificate is one of another host; .*not valid for 'localhost'"),
        ("localhost", "{trusted}&ssl_check_hostname=false", ""),
        ("localhost", "ssl_cert_reqs=none", ""),
    ],
)
async def test_a_certificate_that_proves_nothing_is_refused_in_a_sentence(
    publish: Callable[..., Any], host: str, options: str, reason: str, redis: TlsServer, trusted: str, prefix: str, tmp_path: Path
) -> None:
    url = redis.url(options.format(trusted=trusted, other=Authority(tmp_path, "other").path), host=host)
    if reason:
        with pytest.raises(Unavailable, match=reason):
            await publish(url, prefix)
    else:
        await publish(url, prefix)


def test_a_certificate_without_the_extensions_that_newer_pythons_require_is_refused_in_a_sentence() -> None:
    error = ConnectionError("certificate verify failed: Missing Authority Key Identifier (_ssl.c:1130)")  # of Python 3.13 and later
    assert explained(error, by_tls=True).startswith("its certificate, or that of its CA, lacks an extension")


@both
async def test_an_address_that_takes_tls_for_no_tls_says_so(publish: Callable[..., Any], redis: TlsServer, prefix: str) -> None:
    with pytest.raises(Unavailable, match=r"perhaps it speaks only TLS there: valkeys://"):
        await publish(redis.url().replace("valkeys://", "valkey://"), prefix)


async def test_a_server_that_has_answered_is_not_suspected_of_speaking_tls(single_url: str) -> None:
    """As it ends, it resets connections, too."""
    address, reset = Address(single_url), ConnectionResetError(104, "Connection reset by peer")
    assert "perhaps it speaks only TLS" in explained(reset, by_tls=False, has_answered=address.has_answered)
    transport, writer, _ = await open_connection(address, asyncio.Protocol)
    writer.close()
    transport.abort()
    assert explained(reset, by_tls=False, has_answered=address.has_answered) == str(reset)


def test_check_has_one_line_about_a_certificate(redis: TlsServer) -> None:
    outcome = run("check", "--valkey-url", redis.url())
    assert outcome.status == 1 and outcome.error.count("\n") == 1 and "its certificate is not trusted" in outcome.error


@pytest.mark.parametrize(
    "url, fault",
    [
        ("valkeys://h?ssl_ca_cert=x", "there is no option ssl_ca_cert; those of TLS are ssl_ca_certs,"),
        ("valkey://h?ssl_ca_certs=x", "ssl_ca_certs is an option of TLS; write valkeys:// for it"),
        ("valkeys://h?ssl_ca_certs=/none.pem", "ssl_ca_certs: /none.pem holds no certificates .*: No such file"),
        ("valkeys://h?ssl_ca_certs={key}", "ssl_ca_certs: .* holds no certificates that can be read"),
        ("valkeys://h?ssl_certfile={ca}", "ssl_certfile, ssl_keyfile: .* and the key in it are no pair that can be used"),
        ("valkeys+sentinel://h/s?ssl_certfile={ca}&ssl_keyfile={key}", "ssl_certfile, ssl_keyfile: .* are no pair"),
        ("valkeys://h?ssl_keyfile={key}", "ssl_keyfile is the key of a certificate: name that too"),
        ("valkeys://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs is none, optional or required"),
    ],
)
def test_options_of_tls_that_cannot_work_are_named(url: str, fault: str, authority: Authority) -> None:
    key = authority.issue("another").with_suffix(".key")
    with pytest.raises(ConfigurationError, match=f"^valkey_url: {fault}"):
        Address(url.format(ca=authority.path, key=key))


@pytest.mark.parametrize(
    "options, warns",
    [
        ("", False),
        ("?ssl_cert_reqs=none", True),
        ("?ssl_cert_reqs=optional", True),
        ("?ssl_check_hostname=false", True),
        ("?ssl_check_hostname=true", False),
    ],
)
def test_check_warns_of_options_by_which_any_server_may_be_valkey(options: str, warns: bool) -> None:
    report = Report()
    _doubt_tls(f"valkeys://u:secret@h{options}", report)
    assert bool(report.warnings) is warns
    assert "secret" not in str(report)


def test_an_option_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="given once"):
        Address("valkeys://h?ssl_cert_reqs=none&ssl_cert_reqs=required")
