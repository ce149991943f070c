"""WebSocket in two halves, as docs/reference/wire-protocol.md has it: replies as a stream, commands by POST, at two gateways of one prefix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import quote

import pytest
import uvicorn
from playwright.async_api import async_playwright

from gateway.app import Gateway, create_app
from gateway.config import Config
from gateway.edges.emulation import emulation
from gateway.errors import Unavailable
from gateway.store.not_permitted import not_permitted

from ..kit.browser import launch_options
from ..kit.clients import SECONDS, Socket, Stream, client, lines
from ..kit.gateways import RULES, Pair, RunningGateway, Start, shared_gateway
from ..kit.javascript import Node
from ..kit.ports import free_port
from ..kit.publishing import publish_many
from ..kit.tokens import SECRET
from ..kit.waiting import eventually, until

pytestmark = pytest.mark.usefixtures("npm")  # from the first test on, since it takes its time

KINDS = ("sse", "http_stream")
ORIGIN = "https://app.example.org"
MESSAGE_BYTES = 65536
SETTINGS = f'allowed_origins = ["{ORIGIN}"]\n' + RULES
FILL = "x" * 60000
ONE_KIND = pytest.mark.parametrize("kind", ["http_stream"])  # for what takes seconds, and is the same code for both


@pytest.fixture(scope="module")
def pair(start_gateway_once: Start) -> Pair:
    return Pair(start_gateway_once(SETTINGS), start_gateway_once(SETTINGS))


@pytest.fixture(scope="module")
def gateway(pair: Pair) -> RunningGateway:
    return pair.here


# Pings come fast, and a slow client is closed after a second.
# A client that was closed takes what is left, for which a busy machine needs longer.
restless = shared_gateway(
    "ping_seconds = 1\npong_seconds = 0.9\n" + RULES + "[limits]\nslow_seconds = 1\n", seconds={"gateway.edges.outlets.CLOSE_SECONDS": 30.0}
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


class Line:
    """One emulated connection: the stream, and POSTs to ``post_to``."""

    def __init__(self, stream: Stream, kind: str, post_to: Any) -> None:
        self.stream = stream
        self.kind = kind
        self.post_to = post_to
        self.connected: dict[str, Any] = {}
        self.pings = 0
        self._id = 100
        self._read = len(b"\r\n") if kind == "sse" else 0
        self._objects: deque[dict[str, Any]] = deque()

    def _parse(self) -> None:
        body, end = self.stream.body, b"\n\n" if self.kind == "sse" else b"\n"
        while (found := body.find(end, self._read)) >= 0:
            text = bytes(body[self._read : found])
            self._read = found + len(end)
            assert self.kind != "sse" or text.startswith(b"data: ") or text == b"", text
            message = json.loads(text.removeprefix(b"data: "))
            self.pings += message == {}
            if message:
                self._objects.append(message)

    async def next(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next object that is not a ping."""
        async with asyncio.timeout(seconds):
            while not self._objects:
                assert not self.stream.over, "the stream ended"
                await self.stream._chunk()
                self._parse()
        return self._objects.popleft()

    async def end(self, seconds: float = SECONDS) -> list[dict[str, Any]]:
        """Everything up to the end of the stream."""
        async with asyncio.timeout(seconds):
            while not self.stream.over:
                await self.stream._chunk()
        self._parse()
        assert await self.stream.raw.rest() == b"", "nothing follows, and the connection is closed"
        return list(self._objects)

    async def ended(self) -> tuple[int, str]:
        disconnect = (await self.end())[-1]["push"]["disconnect"]
        return disconnect["code"], disconnect["reason"]

    async def post(self, *commands: Any, gateway: Any = None) -> int:
        return await post(gateway or self.post_to, self.connected["session"], self.connected["node"], lines(*commands))

    async def ask(self, method: str, /, gateway: Any = None, **request: Any) -> dict[str, Any]:
        self._id += 1
        assert await self.post({"id": self._id, method: request}, gateway=gateway) == 204
        answer = await self.next()
        assert answer["id"] == self._id, answer
        return answer

    async def publication(self) -> Any:
        return (await self.next())["push"]["pub"]["data"]


async def post(gateway: Any, session: str, node: str, data: str) -> int:
    body = json.dumps({"session": session, "node": node, "data": data}, ensure_ascii=False).encode()
    return (await asyncio.to_thread(gateway.http, "POST", "/emulation", body))[0]


@contextlib.asynccontextmanager
async def opened(
    gateway: Any, kind: str, *commands: Any, post_to: Any = None, small: bool = False, headers: dict[str, str] | None = None
) -> AsyncIterator[Line]:
    """The stream of a request that holds these commands; nothing of it is read yet."""
    async with await Socket.open(gateway, small=small) as raw:
        message = lines(*commands)
        listed = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        if kind == "sse":
            request = f"GET /connection/sse?cf_connect={quote(message)} HTTP/1.1\r\nHost: gateway.test\r\n{listed}\r\n"
        else:
            size = len(message.encode())
            request = f"POST /connection/http_stream HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {size}\r\n{listed}\r\n{message}"
        await raw.send(request.encode())
        async with asyncio.timeout(SECONDS):
            status, answered = await raw.head()
        stream = Stream(raw, status, answered)
        if answered.get("transfer-encoding") != "chunked":
            stream.body += await raw.reader.readexactly(int(answered.get("content-length", 0)))
            stream.over = True
        yield Line(stream, kind, post_to or gateway)


@contextlib.asynccontextmanager
async def line(gateway: Any, kind: str, user: str = "u1", *, subscribe: str = "", **options: Any) -> AsyncIterator[Line]:
    """A connected one; ``subscribe`` names a channel that it follows."""
    token = options.pop("token", None) or gateway.token(user)
    async with opened(gateway, kind, {"id": 1, "connect": {"token": token}}, **options) as found:
        answer = await found.next()
        assert "connect" in answer, answer
        found.connected = answer["connect"]
        if subscribe:
            assert "subscribe" in await found.ask("subscribe", channel=subscribe)
        yield found


# The stream.


async def test_the_reply_to_connect_names_the_session_and_the_node_that_commands_go_to(gateway: RunningGateway, kind: str) -> None:
    async with line(gateway, kind) as one, line(gateway, kind) as two:
        assert one.connected["node"] == two.connected["node"]
        assert one.connected["session"] != two.connected["session"] and len(one.connected["session"]) >= 32
        assert one.connected["session"] != one.connected["client"], "the id that others know gives no access"
        assert (one.connected["ping"], one.connected["pong"]) == (25, True)
        assert list(one.connected["subs"]) == ["notifications:u1"]
    async with client(gateway) as wire:
        assert not {"session", "node"} & set(wire.connected), "over WebSocket there is nothing to name"


async def test_the_streams_look_as_the_sdk_expects(gateway: RunningGateway) -> None:
    async with line(gateway, "sse") as events, line(gateway, "http_stream") as plain:
        assert events.stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert events.stream.headers["cache-control"] == "no-store" and events.stream.headers["x-accel-buffering"] == "no"
        assert events.stream.body.startswith(b'\r\ndata: {"id":1,"connect":') and events.stream.body.endswith(b"}\n\n")
        assert plain.stream.body.startswith(b'{"id":1,"connect":') and plain.stream.body.count(b"\n") == 1


async def test_sse_may_be_opened_by_post(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        body = lines({"id": 1, "connect": {"token": gateway.token()}}).encode()
        await raw.send(b"POST /connection/sse HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        found = Line(Stream(raw, *await raw.head()), "sse", gateway)
        assert "connect" in await found.next()


async def test_an_emulated_client_subscribes_publishes_and_asks(gateway: RunningGateway, kind: str, channel: str) -> None:
    async with line(gateway, kind, subscribe=channel) as here:
        assert (await here.ask("rpc", method="gateway.whoami"))["rpc"]["data"]["user"] == "u1"
        assert await here.post({"id": 7, "publish": {"channel": channel, "data": {"ü": "\n😀"}}}) == 204
        got = [await here.next(), await here.next()]
        assert {"id": 7, "publish": {}} in got
        (pub,) = [message["push"]["pub"] for message in got if "push" in message]
        assert (pub["data"], pub["offset"], pub["info"]["client"]) == ({"ü": "\n😀"}, 1, here.connected["client"])
        assert len((await here.ask("history", channel=channel, limit=10))["history"]["publications"]) == 1
        assert (await here.ask("unsubscribe", channel=channel))["unsubscribe"] == {}


@ONE_KIND
async def test_pings_come_and_pongs_may_come_twice(restless: RunningGateway, kind: str) -> None:
    async with line(restless, kind) as here:
        for wanted in (1, 2, 3):
            async with asyncio.timeout(SECONDS):
                while here.pings < wanted:
                    await here.stream._chunk()
                    here._parse()
            assert await here.post("{}") == 204 and await here.post("{}") == 204
        assert "rpc" in await here.ask("rpc", method="gateway.time")


@ONE_KIND
async def test_a_client_that_does_not_answer_pings_is_closed(restless: RunningGateway, kind: str) -> None:
    async with line(restless, kind) as here:
        assert await here.ended() == (3012, "no pong")


async def test_a_service_disconnects_an_emulated_client_like_any_other(pair: Pair, kind: str) -> None:
    user = secrets.token_hex(4)
    async with line(pair.here, kind, user) as here:
        await pair.there.ask("disconnect", user=user, disconnect={"code": 4501, "reason": "go"})
        assert await here.ended() == (4501, "go")


# Refusals of connect.


@pytest.mark.parametrize(
    "token, answers",
    [
        ("garbage", [{"push": {"disconnect": {"code": 3500, "reason": "invalid token"}}}]),
        (
            "expired",
            [
                {"id": 1, "error": {"code": 109, "message": "token expired"}},
                {"push": {"disconnect": {"code": 3000, "reason": "connection closed"}}},
            ],
        ),
    ],
)
async def test_a_refused_connect_is_answered_and_the_stream_ends(
    gateway: RunningGateway, kind: str, token: str, answers: list[Any]
) -> None:
    given = gateway.token(seconds=-5) if token == "expired" else token
    async with opened(gateway, kind, {"id": 1, "connect": {"token": given}}) as here:
        assert here.stream.status == 200
        assert await here.end() == answers


@pytest.mark.parametrize(
    "message",
    ["nonsense", "{}", '{"id":1,"rpc":{"method":"gateway.time"}}', '{"connect":{}}', "[" * 5000],
    ids=["text", "pong", "rpc", "no id", "deep"],
)
async def test_what_is_not_a_connect_is_a_bad_request(gateway: RunningGateway, kind: str, message: str) -> None:
    async with opened(gateway, kind, message) as here:
        assert await here.ended() == (3501, "bad request")


async def test_tokens_reach_no_log(gateway: RunningGateway, kind: str) -> None:
    token = gateway.token("secretive")
    async with line(gateway, kind, token=token) as here:
        assert await here.post({"id": 5, "refresh": {"token": token + "x"}}) == 204
        assert (await here.ended())[0] == 3500
        assert token.rpartition(".")[2] not in gateway.log() and here.connected["session"] not in gateway.log()


@pytest.mark.parametrize(
    "method, path, body, headers, status",
    [
        ("GET", "/connection/sse", b"", {}, 400),
        ("GET", "/connection/sse?cf_connect=%7B%7D&format=protobuf", b"", {}, 400),
        ("POST", "/connection/http_stream", b"x" * (MESSAGE_BYTES + 1), {}, 413),
        ("POST", "/connection/http_stream", b"\0\1", {"Content-Type": "application/octet-stream"}, 400),
        ("GET", "/connection/http_stream", b"", {}, 405),
        ("DELETE", "/connection/sse", b"", {}, 405),
        ("GET", "/emulation", b"", {}, 405),
        ("POST", "/connection/http_stream", b"{}", {"Origin": "https://evil.example.org"}, 403),
        ("GET", "/connection/sse?cf_connect=%7B%7D", b"", {"Origin": "https://evil.example.org"}, 403),
        ("POST", "/emulation", b"{}", {"Origin": "https://evil.example.org"}, 403),
        ("OPTIONS", "/emulation", b"", {"Origin": "https://evil.example.org"}, 403),
    ],
)
async def test_requests_that_cannot_be_served_have_a_plain_status(
    gateway: RunningGateway, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with await Socket.open(gateway) as raw:
        assert (await raw.request(method, path, headers, body))[0] == status


async def test_a_connect_over_the_limit_is_refused_in_a_query_too(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nmessage_bytes = 1000\n")
    assert gateway.http("GET", f"/connection/sse?cf_connect={'x' * 1001}")[0] == 413
    assert gateway.http("POST", "/connection/http_stream", b"x" * 1001)[0] == 413


async def test_a_full_gateway_refuses_inside_the_stream(start_gateway: Start, kind: str) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 1\n")
    async with line(gateway, kind), opened(gateway, kind, {"id": 1, "connect": {"token": gateway.token()}}) as second:
        assert await second.ended() == (3504, "connection limit")


# POSTs.


async def test_a_post_reaches_the_session_from_another_process(pair: Pair, kind: str, channel: str) -> None:
    async with line(pair.here, kind, post_to=pair.there, subscribe=channel) as here:
        assert (await here.ask("rpc", method="gateway.whoami"))["rpc"]["data"]["user"] == "u1"
        text = '"' * 20000 + "\\ ü 😀 \n" * 1000
        assert await here.post({"id": 9, "publish": {"channel": channel, "data": text}}) == 204
        got = [await here.next(), await here.next()]
        assert [message["push"]["pub"]["data"] for message in got if "push" in message] == [text]


async def test_a_service_finds_a_client_by_its_session_alone(pair: Pair, kind: str, channel: str) -> None:
    ask = pair.there.ask
    async with line(pair.here, kind) as one, line(pair.here, kind) as two:
        session = one.connected["session"]
        await ask("disconnect", session=session, user="somebody else")
        await ask("disconnect", session=session, client=two.connected["client"])
        await ask("disconnect", session="unknown")
        await ask("subscribe", session=session, channel=channel)
        received = await one.next()
        assert received["push"]["channel"] == channel and "subscribe" in received["push"], "no disconnect was meant for it"
        await ask("disconnect", session=session, user="u1", client=one.connected["client"])
        assert await one.ended() == (3503, "force disconnect")
        assert "rpc" in await two.ask("rpc", method="gateway.time"), "the user's other client was not meant"


async def test_a_post_to_an_unknown_session_or_process_is_a_404(pair: Pair, kind: str) -> None:
    async with line(pair.here, kind) as here, line(pair.there, kind) as there:
        for reached in pair:
            for node in (here.connected["node"], there.connected["node"], "", "nobody", "x" * 3000, "a\nb\0"):
                assert await post(reached, "unknown", node, "{}") == 404
            assert await post(reached, here.connected["session"], there.connected["node"], "{}") == 404
            assert await post(reached, here.connected["client"], here.connected["node"], "{}") == 404
        assert "rpc" in await here.ask("rpc", method="gateway.time"), "no other session was harmed"


async def test_a_post_after_the_stream_ended_is_a_404(pair: Pair, kind: str) -> None:
    async with line(pair.here, kind) as here:
        session, node = here.connected["session"], here.connected["node"]
        assert await here.post("nonsense") == 204
        assert await here.ended() == (3501, "bad request")
        for reached in pair:
            assert await post(reached, session, node, "{}") == 404
    async with line(pair.here, kind) as cut:
        session = cut.connected["session"]

    async def gone() -> bool:
        return await post(pair.there, session, node, "{}") == 404

    await eventually(gone, "the session is forgotten")


async def test_a_post_for_a_process_that_died_is_a_404(pair: Pair, start_gateway_once: Start, kind: str) -> None:
    third = start_gateway_once(SETTINGS)
    async with line(third, kind, post_to=pair.here) as here:
        assert await here.post("{}") == 204
        third.process.kill()
        third.process.wait()

        async def gone() -> bool:
            return await here.post("{}") == 404

        await eventually(gone, "its process is known to be dead")


async def test_a_post_for_a_process_that_hangs_is_a_503(pair: Pair, start_gateway_once: Start) -> None:
    third = start_gateway_once(SETTINGS)
    async with line(third, "sse", post_to=pair.here) as here:
        with third.frozen():
            assert await here.post("{}") == 503
        assert "rpc" in await here.ask("rpc", method="gateway.time")


async def test_a_post_that_valkey_fails_shows_the_client_nothing_of_valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(Config(), "valkey://ann:word@127.0.0.1:1")
    body, answers = json.dumps({"session": "", "node": "another", "data": ""}).encode(), []
    scope = {"type": "http", "method": "POST", "path": "/emulation", "headers": [], "query_string": b""}
    for error in (Unavailable("no connection to Valkey at 127.0.0.1:1"), not_permitted("NOPERM", "ZSCORE", "ann")):
        monkeypatch.setattr(gateway.node.control, "deliver", AsyncMock(side_effect=error))
        await emulation(
            gateway.node, scope, AsyncMock(return_value={"type": "http.request", "body": body}), AsyncMock(side_effect=answers.append)
        )
        start, end = answers[-2:]
        assert start["status"] == 503 and json.loads(end["body"]) == {"error": "the session's process was not reached; try again"}
    await gateway.stop()


@pytest.mark.parametrize(
    "body, status",
    [
        (b"", 400),
        (b"nonsense", 400),
        (b"\xff\xfe\x00", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"session":1,"node":"","data":""}', 400),
        (b'{"session":"","node":"","data":{}}', 400),
        (b'{"session":"","node":"","data":"\xff"}', 400),
        (b"[" * 10000, 400),
        (json.dumps({"session": "", "node": "", "data": "x" * (MESSAGE_BYTES + 1)}).encode(), 413),
        (b"x" * (3 * MESSAGE_BYTES), 413),
    ],
    ids=["empty", "text", "binary", "list", "nothing in it", "numbers", "object as data", "not UTF-8", "deep", "large data", "large"],
)
def test_a_malformed_post_is_refused(gateway: RunningGateway, body: bytes, status: int) -> None:
    assert gateway.http("POST", "/emulation", body)[0] == status


@pytest.mark.parametrize("data", ["", "\n", "{", '{"id":1}', "[" * 5000], ids=["empty", "newline", "half", "no method", "deep"])
async def test_malformed_commands_end_the_session_as_over_websocket(pair: Pair, kind: str, data: str) -> None:
    for reached in pair:
        async with line(pair.here, kind) as here:
            assert await post(reached, here.connected["session"], here.connected["node"], data) == 204
            assert await here.ended() == (3501, "bad request")


async def test_half_of_a_surrogate_pair_becomes_a_replacement_character(pair: Pair, channel: str) -> None:
    for reached in pair:
        async with line(pair.here, "sse", subscribe=channel) as here:
            command = json.dumps({"id": 3, "publish": {"channel": channel, "data": "\ud83d"}})
            body = json.dumps({"session": here.connected["session"], "node": here.connected["node"], "data": command})
            assert (await asyncio.to_thread(reached.http, "POST", "/emulation", body.encode()))[0] == 204
            got = [await here.next(), await here.next()]
            assert [message["push"]["pub"]["data"] for message in got if "push" in message] == ["\ufffd"]


# Pages of other origins.


@pytest.mark.parametrize("path", ["/emulation", "/connection/http_stream", "/connection/sse"])
async def test_a_preflight_is_answered(gateway: RunningGateway, path: str) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    async with await Socket.open(gateway) as raw:
        status, headers, _ = await raw.request("OPTIONS", path, asked)
    assert status == 204
    assert headers["access-control-allow-origin"] == ORIGIN and "POST" in headers["access-control-allow-methods"]
    assert "content-type" in headers["access-control-allow-headers"] and headers["vary"] == "Origin"


async def test_a_page_of_an_allowed_origin_may_read_every_answer(gateway: RunningGateway, kind: str) -> None:
    async with line(gateway, kind, headers={"Origin": ORIGIN}) as here:
        assert here.stream.headers["access-control-allow-origin"] == ORIGIN
    for body in (b"", json.dumps({"session": "", "node": "", "data": ""}).encode()):
        async with await Socket.open(gateway) as raw:
            status, headers, _ = await raw.request("POST", "/emulation", {"Origin": ORIGIN}, body)
            assert status in (400, 404) and headers["access-control-allow-origin"] == ORIGIN


# Slow clients.


@ONE_KIND
async def test_a_slow_client_that_reads_on_gets_everything_once_and_in_order(gateway: RunningGateway, kind: str, channel: str) -> None:
    endless = channel.replace("chat", "endless")
    async with line(gateway, kind, subscribe=endless, small=True) as here:
        await asyncio.to_thread(publish_many, gateway, endless, [{"n": number, "fill": FILL} for number in range(300)])
        assert [(await here.publication())["n"] for _ in range(300)] == list(range(300))
        gateway.publish(endless, "live again")
        assert await here.publication() == "live again"


@ONE_KIND
async def test_a_client_that_never_reads_is_closed_as_slow(restless: RunningGateway, kind: str, channel: str) -> None:
    async with line(restless, kind, user := secrets.token_hex(4), subscribe=channel, small=True) as here:
        await asyncio.to_thread(publish_many, restless, channel, [{"n": number, "fill": FILL} for number in range(300)])
        await until(lambda: f"client {here.connected['client']} closed: 3008 slow" in restless.log(), f"{user} is closed")
        *published, last = await here.end()
        assert last["push"]["disconnect"] == {"code": 3008, "reason": "slow"}
        numbers = [message["push"]["pub"]["data"]["n"] for message in published]
        assert numbers == list(range(len(numbers))), "what it did get is a run without a hole"


@ONE_KIND
async def test_commands_that_came_while_it_did_not_read_are_answered_when_it_does(gateway: RunningGateway, kind: str) -> None:
    user = secrets.token_hex(4)
    await asyncio.to_thread(publish_many, gateway, f"member:{user}", [FILL] * 60)
    async with line(gateway, kind, user, small=True) as here:
        for number in range(2, 62):  # more answers than sockets hold
            assert await here.post({"id": number, "history": {"channel": f"member:{user}", "limit": -1}}) == 204
        for number in range(62, 200):
            assert await here.post({"id": number, "rpc": {"method": "gateway.time"}}) == 204
        answers = [await here.next() for _ in range(198)]
        assert sorted(answer["id"] for answer in answers) == list(range(2, 200)) and not any("error" in answer for answer in answers)
        assert "rpc" in await here.ask("rpc", method="gateway.time")


@pytest.mark.parametrize(
    "waiting", [[{"id": 3, "rpc": {"method": "x", "data": FILL}}], [{"id": 3, "rpc": {}}] * 1000], ids=["large", "many"]
)
async def test_a_client_that_sends_on_and_reads_nothing_is_closed(gateway: RunningGateway, kind: str, waiting: list[Any]) -> None:
    """There is no socket to stop reading from; what waits has a bound of its own."""
    user = secrets.token_hex(4)
    await asyncio.to_thread(publish_many, gateway, f"member:{user}", [FILL] * 60)
    async with line(gateway, kind, user, small=True) as here:
        asked = {"id": 2, "history": {"channel": f"member:{user}", "limit": -1}}
        for _ in range(60):  # more answers than sockets hold
            assert await here.post(asked) == 204
        async with asyncio.timeout(SECONDS):
            while await here.post(*waiting) == 204:
                pass
        assert "closed: 3013 too many requests" in gateway.log()
        assert (await here.end(30))[-1]["push"]["disconnect"]["code"] == 3013


# Another server than ours: through ASGI.


@pytest.fixture
async def plain_server(valkey_url: str, tmp_path: Path) -> AsyncIterator[Any]:
    """The application in uvicorn as it comes, which lends no transport."""
    config = Config(prefix=f"p{secrets.token_hex(6)}", data_dir=str(tmp_path), tokens={"hmac_secret": SECRET})
    server = uvicorn.Server(uvicorn.Config(create_app(config, valkey_url), port=0, log_config=None, ws="none", http="h11", lifespan="on"))
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started, "started")
    port = server.servers[0].sockets[0].getsockname()[1]
    yield RunningGateway(None, tmp_path / "log", f"http://127.0.0.1:{port}", config.prefix, tmp_path)  # type: ignore[arg-type]
    server.should_exit = True
    await running


async def test_emulation_works_in_another_asgi_server(plain_server: Any, kind: str) -> None:
    async with line(plain_server, kind, subscribe="posts:1") as here:
        assert (await here.ask("rpc", method="gateway.whoami"))["rpc"]["data"]["user"] == "u1"
        assert await here.post("nonsense") == 204
        async with asyncio.timeout(SECONDS):
            while not here.stream.over:
                await here.stream._chunk()
        here._parse()
        assert here._objects[-1]["push"]["disconnect"]["code"] == 3501


# centrifuge of npm.


def test_the_sdk_comes_back_after_a_drain_but_not_after_a_refusal(
    start_gateway: Start, node: Node, gateway: RunningGateway, kind: str
) -> None:
    refused = node.client(gateway, kind, token="garbage")
    refused.call("connect")
    assert refused.codes("disconnected", 1) == [3500]
    own = start_gateway(RULES, port=free_port())
    client = node.client(own, kind, token=own.token("js"))
    client.call("connect")
    sub = client.subscribed(f"chat:sdk-{kind}")
    assert own.stop() == 0
    start_gateway(RULES, port=own.port)
    client.until("connected", 2)
    assert client.codes("connecting", 2)[1] == 3001
    sub.until("subscribed", 2)
    client.call("disconnect")


# The SDK in a browser that comes to no WebSocket.

IN_BROWSER = """async ({ url, other, token, transports }) => {
  window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.({ code: 1006, reason: '' })); } close() {} };
  const endpoint = (transport) => ({ transport, endpoint: `${transport === 'websocket' ? url.replace('http', 'ws') : url}/connection/${transport}` });
  const options = { token, emulationEndpoint: `${other}/emulation`, minReconnectDelay: 50, maxReconnectDelay: 300 };
  const client = new Centrifuge(transports.map(endpoint), options);
  const first = (of, event) => new Promise((resolve) => of.once(event, resolve));
  const sub = client.newSubscription('chat:browser');
  const publication = first(sub, 'publication');
  const connected = first(client, 'connected');
  sub.subscribe();
  client.connect();
  const { transport } = await connected;
  await sub.ready(30000);
  await sub.publish({ from: transport });
  const { data } = await publication;
  const answer = await client.rpc('gateway.whoami', null);
  client.disconnect();
  return { transport, data, user: answer.data.user };
}"""


async def test_the_sdk_in_a_browser_gets_through_where_websocket_is_blocked(start_gateway: Start, npm: Future[Path], kind: str) -> None:
    """The page's origin is neither that of the stream nor that of the POSTs, which reach another process."""
    options = launch_options()
    settings = 'allowed_origins = ["http://127.0.0.1:*"]\n' + RULES
    here, there = start_gateway(settings), start_gateway(settings)
    folder = await asyncio.wrap_future(npm)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**options)
        page = await browser.new_page()
        await page.goto(f"{there.url}/health/live")
        await page.add_script_tag(content=(folder / "node_modules/centrifuge/dist/centrifuge.js").read_text())
        arguments = {
            "url": here.url,
            "other": there.url.replace("127.0.0.1", "localhost"),
            "token": here.token("ann"),
            "transports": ["websocket", kind],
        }
        found = await page.evaluate(IN_BROWSER, arguments)
        await browser.close()
    assert found == {"transport": kind, "data": {"from": kind}, "user": "ann"}
