"""A head that a connection repeats is not parsed again; everything else goes to the parser, and nothing is answered differently."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.config import load
from gateway.edges.api.known_heads import HEADS_MOST, Head, KnownHeads
from gateway.edges.http_protocol import HttpProtocol
from gateway.errors import StoreError
from gateway.publication import Position
from gateway.runtime.wheel import Wheel
from gateway.session.admission import Admission
from gateway.store.command import Waiter

from ..kit.gateways import API_KEY

HEAD = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\n".encode()
PUBLISH = Head("publish", {b"host": b"h"})


def request(body: bytes, *more: bytes, head: bytes = HEAD) -> bytes:
    return b"".join([head, b"Content-Length: %d\r\n" % len(body), *more, b"\r\n", body])


def publish(number: int) -> bytes:
    return request(b'{"channel":"c","data":%d}' % number)


def test_the_length_of_the_body_may_be_another() -> None:
    heads = KnownHeads()
    heads.learn(request(b"12345", b"A: b\r\n"), PUBLISH)
    data = b"x" + request(b"1" * 300, b"A: b\r\n") + b"rest"
    found = heads.find(data, 1)
    assert found is not None and found.head is PUBLISH and data[found.start : found.end] == b"1" * 300
    found = heads.find(request(b"", b"A: b\r\n"), 0)
    assert found is not None and found.start == found.end
    found = heads.find(request(b"12345", b"A: b\r\n")[:-2], 0)
    assert found is not None and found.end - found.start == 5  # more than was read


@pytest.mark.parametrize(
    "other",
    [
        request(b"12345", b"A: c\r\n"),
        request(b"12345", b"a: b\r\n"),
        request(b"12345", b"A: b\r\n", b"Connection: close\r\n"),
        request(b"12345", b"A: b\r\n", head=HEAD.replace(b"publish", b"notify")),
        request(b"12345", b"A: b\r\n", head=HEAD.replace(API_KEY.encode(), b"other")),
        request(b"12345", b"A: b\r\n").replace(b": 5", b":5"),
        request(b"12345", b"A: b\r\n").replace(b": 5", b": +5"),
        request(b"12345", b"A: b\r\n").replace(b": 5", b": 5 "),
        request(b"12345", b"A: b\r\n").replace(b": 5", b": " + b"5" * 5000),
        request(b"12345", b"A: b\r\n").replace(b": 5", b": "),
        request(b"12345", b"A: b\r\n", b"Content-Length: 5\r\n"),
        request(b"12345", b"A: b\r\n")[:-9],
        b"",
    ],
)
def test_what_differs_in_anything_else_is_not_known(other: bytes) -> None:
    heads = KnownHeads()
    heads.learn(request(b"12345", b"A: b\r\n"), PUBLISH)
    assert heads.find(other, 0) is None


def test_a_head_without_a_plain_length_is_never_known_and_few_are_remembered() -> None:
    heads = KnownHeads()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    both = request(b"12345", b"Transfer-Encoding: chunked\r\n")
    heads.learn(chunked, PUBLISH)
    heads.learn(both, Head("publish", {b"transfer-encoding": b"chunked"}))
    assert heads.find(chunked, 0) is None and heads.find(both, 0) is None
    for number in range(10 * HEADS_MOST):
        heads.learn(request(b"1", b"Request: %d\r\n" % number), PUBLISH)
        assert heads.find(request(b"22", b"Request: %d\r\n" % number), 0) is not None
        assert len(heads._heads) <= HEADS_MOST


class Socket:
    """A transport that collects what is written."""

    def __init__(self) -> None:
        self.written, self.closing, self.aborted = b"", False, False

    def get_extra_info(self, name: str) -> Any:
        return None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class History:
    """Holds what is published until ``answer``."""

    commands = SimpleNamespace(sharded=False)

    def __init__(self) -> None:
        self.waiting: list[tuple[Waiter, Any]] = []
        self.published_data: list[Any] = []

    def begin_publish(self, waiter: Waiter, channel: str, words: Sequence[Any], *, inbox: bool = False) -> None:
        self.waiting.append((waiter, words[0]))
        self.published_data.append(json.loads(words[0]))

    def answer(self, count: int = 100) -> None:
        for waiter, data in self.waiting[:count]:
            waiter.set_result([int(data), b"e"])
        del self.waiting[:count]

    def published(self, channel: str, answer: Any) -> Position:
        offset, epoch = answer
        return Position(epoch.decode(), offset)


class Connection:
    """An HttpProtocol without a network. ``parsed`` are the pieces that the parser was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed: list[bytes] = []
        feed = HttpToolsProtocol.data_received

        def counted(protocol: HttpToolsProtocol, data: bytes) -> None:
            self.parsed.append(data)
            feed(protocol, data)

        monkeypatch.setattr(HttpToolsProtocol, "data_received", counted)
        config = load(None, api_keys=[API_KEY])
        self.socket, self.history, self.wheel = Socket(), History(), Wheel()
        self.to_application: list[str] = []
        admission = Admission(config.limits, lambda: 0.0)
        node = SimpleNamespace(config=config, wheel=self.wheel, history=self.history, admission=admission, rules=lambda channel: None)
        uvicorn = UvicornConfig(self._application, log_config=None, timeout_keep_alive=7)
        uvicorn.load()
        uvicorn.loaded_app = self._application
        self._application.__func__.is_served_directly = True  # type: ignore[attr-defined]
        self.protocol = HttpProtocol(uvicorn, ServerState(), {"node": node}, asyncio.get_running_loop())
        self.protocol.connection_made(self.socket)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.to_application.append(scope["path"])
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"app"})

    def receive(self, *data: bytes) -> None:
        for part in data:
            self.protocol.data_received(part)

    async def answers(self, count: int) -> list[Any]:
        """The offsets that were answered, or the text of another answer, in order."""
        async with asyncio.timeout(5):
            while self.socket.written.count(b"HTTP/1.1 ") < count:
                self.history.answer()
                await asyncio.sleep(0)
        bodies = [answer.partition(b"\r\n\r\n")[2] for answer in self.socket.written.split(b"HTTP/1.1 ")[1:]]
        self.socket.written = b""
        return [json.loads(body)["result"]["offset"] if body.startswith(b"{") else body.decode() for body in bodies]

    async def make_known(self) -> None:
        """Sends the head until the connection knows it."""
        self.receive(publish(1), publish(2))
        assert await self.answers(2) == [1, 2]
        self.parsed.clear()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Connection]:
    return lambda: Connection(monkeypatch)


async def test_a_head_that_came_before_is_not_parsed_and_its_request_is_answered(connect: Callable[[], Connection]) -> None:
    connection = connect()
    await connection.make_known()
    connection.receive(publish(3), publish(4444), publish(5) + publish(6) + publish(7))
    assert await connection.answers(5) == [3, 4444, 5, 6, 7]
    assert connection.parsed == [] and connection.to_application == []


async def test_the_parser_takes_over_wherever_a_request_is_not_known_or_not_complete(connect: Callable[[], Connection]) -> None:
    connection = connect()
    await connection.make_known()
    whole = publish(4)
    connection.receive(publish(3) + whole[:30], whole[30:])
    assert await connection.answers(2) == [3, 4]
    assert b"".join(connection.parsed) == whole
    at = whole.index(b"\r\n\r\n") + 4
    connection.parsed.clear()
    connection.receive(publish(3)[:at], publish(3)[at:], whole[: at + 3], whole[at + 3 :], publish(5))
    assert await connection.answers(3) == [3, 4, 5] and connection.parsed == []
    connection.receive(whole[:at], whole[at : at + 5], whole[at + 5 :], publish(5))
    assert await connection.answers(2) == [4, 5]
    assert b"".join(connection.parsed) == whole
    other = request(b'{"channel":"c","data":5}', b"Other: 1\r\n")
    connection.receive(publish(3) + other + publish(6))
    assert await connection.answers(3) == [3, 5, 6]
    info = HEAD.replace(b"publish", b"info") + b"Content-Length: 2\r\n\r\n{}"
    connection.receive(publish(7) + info + publish(8))
    assert await connection.answers(3) == [7, "app", "app"]  # while the application has a request, it gets those that follow
    assert connection.to_application == ["/api/info", "/api/publish"]


async def test_what_looks_like_a_head_within_a_body_is_a_body(connect: Callable[[], Connection]) -> None:
    connection = connect()
    await connection.make_known()
    body = b'{"channel":"c","data":9}' + b" " * 9 + b"\r\n" * 9
    whole = request(body + publish(3))  # JSON and more after it: a mistake, of which the application is to judge
    at = len(whole) - len(publish(3))
    connection.receive(whole[:at], whole[at:])
    assert await connection.answers(1) == ["app"]
    assert connection.history.published_data == [1, 2]


async def test_a_request_that_has_a_mistake_goes_to_the_application_whole(connect: Callable[[], Connection]) -> None:
    connection = connect()
    await connection.make_known()
    connection.receive(request(b'{"channel":"c","data":'))
    assert await connection.answers(1) == ["app"]
    connection.receive(publish(3))
    connection.receive(publish(4))
    assert await connection.answers(2) == [3, 4]


async def test_an_answer_that_no_function_gives_ends_its_connection_and_harms_no_other(connect: Callable[[], Connection]) -> None:
    one, two = connect(), connect()
    one.receive(publish(1))
    two.receive(publish(2))
    ((waiter, _),) = one.history.waiting
    waiter.set_result(None)
    assert one.socket.aborted and not two.socket.aborted
    assert await two.answers(1) == [2]


async def test_an_error_of_valkey_may_come_before_all_calls_are_sent(connect: Callable[[], Connection]) -> None:
    connection = connect()

    def refuse(waiter: Waiter, channel: str, words: Sequence[Any], *, inbox: bool = False) -> None:
        waiter.set_exception(StoreError("no shard"))

    cast(Any, connection.history).begin_publish = refuse
    connection.receive(request(b'{"channels":["a","b"],"data":1,"skip_history":true}', head=HEAD.replace(b"publish", b"broadcast")))
    async with asyncio.timeout(5):
        while not connection.socket.written:
            await asyncio.sleep(0)
    responses = json.loads(connection.socket.written.partition(b"\r\n\r\n")[2])["result"]["responses"]
    assert [response["error"]["code"] for response in responses] == [100, 100]


async def test_a_head_whose_body_does_not_come_times_out_and_one_whose_server_ends_is_still_answered(
    connect: Callable[[], Connection],
) -> None:
    slow, ended = connect(), connect()
    at = publish(3).index(b"\r\n\r\n") + 4
    for connection in (slow, ended):
        await connection.make_known()
        connection.receive(publish(3)[:at])
        assert connection.parsed == []
    slow.wheel.turn(asyncio.get_running_loop().time() + 12)
    assert slow.socket.written.startswith(b"HTTP/1.1 408") and slow.socket.closing
    ended.protocol.shutdown()
    assert not ended.socket.closing
    ended.receive(publish(3)[at:])
    assert await ended.answers(1) == [3] and ended.socket.closing


async def test_a_connection_without_a_next_request_is_closed_in_time_and_not_while_one_is_answered(
    connect: Callable[[], Connection],
) -> None:
    connection = connect()
    await connection.make_known()
    now = asyncio.get_running_loop().time()
    connection.wheel.turn(now + 5)
    assert not connection.socket.closing
    connection.receive(publish(3))
    connection.wheel.turn(now + 60)
    assert not connection.socket.closing
    assert await connection.answers(1) == [3]
    connection.wheel.turn(now + 62)
    assert connection.socket.closing
