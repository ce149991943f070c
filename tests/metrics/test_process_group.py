"""Several workers in one scrape, whatever happens to one of them; and the port of its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ..kit.clients import client
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.ports import free_port
from ..kit.scrapes import scraped_port
from ..kit.waiting import wait_until

WORKERS = 2


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start, port: int) -> RunningGateway:
    return start_gateway_once(f"workers = {WORKERS}\nmetrics_port = {port}\n{RULES}")


def _workers(gateway: RunningGateway) -> list[int]:
    """The processes of the workers."""
    return [int(pid) for pid in Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()]


def _up(port: int) -> list[float]:
    read = scraped_port(port)
    return [read.value("gateway_worker_up", worker=number) for number in range(WORKERS)]


async def test_one_scrape_has_the_figures_of_all_workers(gateway: RunningGateway, port: int) -> None:
    for _ in range(20):  # so that both take some
        async with client(gateway, subscribe="chat:group"):
            pass
    read = scraped_port(port)
    connects = [read.value("gateway_connects_total", worker=number, code=0) for number in range(WORKERS)]
    assert sum(connects) == 20
    assert read.values("worker") == {"0", "1"}


@contextmanager
def _stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_worker_that_hangs_or_died_costs_a_scrape_its_own_figures_only(gateway: RunningGateway, port: int) -> None:
    process = _workers(gateway)[0]
    with _stopped(process):
        assert sorted(_up(port)) == [0, 1]
    wait_until(lambda: _up(port) == [1, 1], "the worker answers again")
    with _stopped(gateway.process.pid):  # so that it starts no other meanwhile
        os.kill(process, signal.SIGKILL)
        assert sorted(_up(port)) == [0, 1]
    wait_until(lambda: _up(port) == [1, 1], "another took its place, and its number")
    assert gateway.log().count("does not answer") <= 2 * WORKERS, "once each time"


def test_the_port_of_metrics_has_metrics_alone(gateway: RunningGateway, port: int) -> None:
    for path, method, status in (("/metrics", "GET", 200), ("/metrics?x=1", "GET", 200), ("/", "GET", 404), ("/metrics", "POST", 405)):
        try:
            with urlopen(Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=10) as answer:
                assert answer.status == status
        except HTTPError as error:
            with error:
                assert error.code == status
    assert gateway.http("GET", "/metrics")[0] == 401, "on the gateway's own port, a key is needed"


def test_who_sends_nothing_or_too_much_to_the_port_of_metrics_harms_no_scrape(gateway: RunningGateway, port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", port)) as flood:
        flood.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 20_000)
        flood.settimeout(5)
        with pytest.raises(ConnectionError):
            while flood.recv(1000):
                pass
            raise ConnectionResetError  # closed without an answer, as good
    wait_until(lambda: _up(port) == [1, 1], "a scrape is answered")
    for each in silent:
        each.close()


async def test_the_progress_of_a_drain_shows_on_the_port_of_metrics(start_gateway: Start) -> None:
    port = free_port()
    gateway = start_gateway(f"drain_seconds = 6\nmetrics_port = {port}\n{RULES}")
    async with client(gateway), client(gateway), client(gateway), client(gateway):
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: scraped_port(port).value("gateway_draining") == 1, "it drains")
        read = scraped_port(port)
        left = read.value("gateway_drain_clients_left")
        assert left + read.value("gateway_closes_total", code=3001) == 4
        assert read.value("gateway_ready") == 0
        wait_until(lambda: scraped_port(port).value("gateway_drain_clients_left") < left, "fewer are left")
    assert gateway.process.wait(30) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))


def test_a_port_of_metrics_that_is_in_use_is_an_error_in_one_line(start_gateway: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AssertionError, match=r"metrics_port \d+ on 127.0.0.1 is in use"):
            start_gateway(f"metrics_port = {taken.getsockname()[1]}\n")
