"""The load clients: they count every publication, wherever a read of the socket ends, and answer in words what went wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gateway.bench.findings import Chart, Findings
from gateway.bench.latencies import BOUNDS, percentile
from gateway.bench.load_clients import LoadClient, load_clients
from gateway.bench.load_orders import DIGITS, MARK, STAMP, Answer, Close, Open, Request, State, document
from gateway.bench.load_requests import _end_of_answer, _stamped
from gateway.bench.load_sockets import Sockets
from gateway.bench.ready_sockets import ReadySockets
from gateway.bench.report import Axis
from gateway.errors import GatewayError
from gateway.runtime.histogram import Histogram

HELLO = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@contextmanager
def server_that(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose only client ``serve`` talks to; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with listener.accept()[0] as client:
                client.settimeout(5)
                serve(client)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def opened(port: int, **more: int) -> tuple[Sockets, ReadySockets, Answer]:
    ready = ReadySockets()
    sockets = Sockets(ready)
    order = Open(server="s", group="g", port=port, path="/", messages=["hello"], ready="welcome", count=1, seconds=5, **more)
    return sockets, ready, sockets.open(order)


def published(number: int) -> bytes:
    stamp = MARK + b"%0*d" % (DIGITS, time.monotonic() * 1e6)
    return b'\x81\x7e\x01\x22{"data":' + document().encode().replace(STAMP, stamp) + b'"offset":%d}' % number


@pytest.mark.parametrize("timed", [0, 1])
def test_publications_are_counted_wherever_a_read_ends(timed: int) -> None:
    """The server writes one byte after the other into the first publication, then many together."""
    received = threading.Event()

    def serve(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.recv(1000)
        client.sendall(HELLO)
        client.recv(1000)
        client.sendall(b"welcome")
        for byte in published(1)[:40]:
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        client.sendall(published(1)[40:] + b"".join(map(published, range(2, 11))))
        received.wait(5)

    with server_that(serve) as port:
        sockets, ready, answer = opened(port, timed=timed)
        total, latencies, until = answer.received, 0, time.monotonic() + 5
        while total < 10 and time.monotonic() < until:
            ready.turn(0.01)
            state = sockets.state(State("s"))
            total, latencies = total + state.received, latencies + sum(state.latencies)
        received.set()
        assert (answer.failure, total) == ("", 10)
        assert latencies >= 9 * timed, "the time of one came in pieces"
        assert sockets.state(State("another")).received == 0
        assert sockets.close(Close("s", "g")) == Answer()


def test_a_refusal_is_a_failure_in_words() -> None:
    def serve(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    with server_that(serve) as port:
        assert "503 Service Unavailable" in opened(port)[2].failure


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 41),
        (b"HTTP/1.1 200 OK\r\ncontent-length:3\r\n\r\nab", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Len", 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 60),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 27),
    ],
)
def test_an_answer_is_whole_when_its_body_is(data: bytes, end: int) -> None:
    assert _end_of_answer(data) == end


def test_a_stamp_has_the_length_of_what_it_replaces() -> None:
    request = document().encode()
    stamped = _stamped(request, 1234.5)
    assert len(request) == 200 == len(stamped) and MARK + b"0000001234500000" in stamped


def test_a_failed_order_raises_and_a_process_that_is_gone_is_named() -> None:
    with load_clients(1, set()) as clients:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(GatewayError, match="refused"):
            clients.publisher.carry_out(Request(port=port, requests=["x"], connections=1, seconds=0.1)).checked()
        assert clients.look("s").publications == 0
    gone = LoadClient(set())
    gone.end()
    with pytest.raises((GatewayError, ValueError)):
        gone.carry_out(State("s"))


def test_percentiles_are_right_to_a_few_hundredths() -> None:
    histogram = Histogram(BOUNDS)
    for micros in range(1, 100_001):
        histogram.add(micros)
    assert percentile(histogram.counts, 0.5) == pytest.approx(50_000, rel=0.03)
    assert percentile(histogram.counts, 0.99) == pytest.approx(99_000, rel=0.03)
    assert percentile([0] * (len(BOUNDS) + 1), 0.5) == 0


def test_findings_are_the_middle_of_their_runs_and_doubts_are_sentences() -> None:
    findings, chart = Findings(), Chart("storm", "A storm", Axis(name="x"), Axis(name="y"))
    for run in (3.0, 1.0, 2.00001):
        findings.figure("storm", "seconds", "1/s", "gateway", run, better="more", load_client=run / 3.1)
        findings.point(chart, "gateway", "", 7, run)
        findings.line(chart, "peer", "", [(0, run)], run)
    findings.deliveries("storm", "peer", 1000, 0)
    findings.deliveries("storm", "gateway", 1000, 2)
    (figure,) = findings.figures()
    assert (figure.value, figure.runs, figure.load_client) == (2.0, (3.0, 1.0, 2.0), 0.97)
    assert [series.points for series in findings.series()] == [((7, 2.0),), ((0, 2.00001),)]
    assert list(findings.doubts()) == [
        "storm: 2 of 1,000 deliveries of gateway had not arrived when its measuring ended.",
        "A load client used nearly a whole core, so gateway may be able to do more than these figures show: seconds (97%).",
    ]
