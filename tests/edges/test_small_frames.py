"""Many small frames in one read of the socket: no client has the loop for itself, whatever it sends."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.edges.emulation import EmulationStream
from gateway.edges.websocket import PARSED_BYTES, SMALL_PER_SECOND, TURN_FRAMES, WebSocketConnection
from gateway.runtime.turns import Turns
from gateway.session.admission import READ_AT_ONCE
from gateway.session.client_counts import ClientCounts

from ..kit.clients import Socket, connected_socket, frame
from ..kit.gateways import CLOSED_RULES, RunningGateway, shared_gateway
from ..kit.waiting import until

SMALLEST = 6  # bytes of a client's frame
CONTINUATION, CLOSE, PING, PONG = 0, 8, 9, 10


class Transport:
    """A transport that notes whether it is read."""

    reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection(WebSocketConnection):
    """A connection that notes the messages it takes; ``holds_at``: with that one its client has to wait."""

    __slots__ = ("__dict__",)

    def _take(self, message: bytes) -> None:
        self.taken.append(message)
        if len(self.taken) == self.holds_at:
            self.hold_reading(True)


@pytest.fixture
async def connection() -> Any:
    limits = SimpleNamespace(message_bytes=65536)
    node = SimpleNamespace(
        config=SimpleNamespace(limits=limits), admission=SimpleNamespace(counts=ClientCounts(), turns=Turns(READ_AT_ONCE))
    )
    connection: Any = Connection(None, None, {"node": node})
    connection._transport, connection.taken, connection.holds_at = Transport(), [], 0
    connection._session = object()
    return connection


async def test_clients_that_send_at_the_same_time_are_read_from_in_portions(connection: Any) -> None:
    connections = [connection]
    for _ in range(5 * READ_AT_ONCE - 1):
        another: Any = Connection(None, None, {"node": connection._node})
        another._transport, another.taken, another.holds_at = Transport(), [], 0
        connections.append(another)
    sizes = []
    for each in connections:
        each.data_received(frame(b"first"))
        each.data_received(frame(b"second"))
    had_turn = READ_AT_ONCE // 2
    assert [each.waits_for_turn for each in connections] == [False] * had_turn + [True] * (len(connections) - had_turn)
    while not sizes or sizes[-1] < len(connections):
        sizes.append(sum(each.taken[:1] == [b"first"] for each in connections))
        await asyncio.sleep(0)
    assert all(now - before <= READ_AT_ONCE for before, now in zip([0, *sizes], sizes, strict=False))
    await until(lambda: all(each._transport.reading for each in connections), "all is handled")
    assert all(each.taken == [b"first", b"second"] and not each.waits_for_turn for each in connections)


MESSAGES = [b"%d" % number for number in range(5000)]


async def test_the_frames_of_one_read_are_handled_in_several_turns_and_in_order(connection: Any) -> None:
    connection.data_received(b"".join(map(frame, MESSAGES)))
    assert len(connection.taken) <= TURN_FRAMES + PARSED_BYTES / SMALLEST and not connection._transport.reading
    before = len(connection.taken)
    await asyncio.sleep(0)
    assert before < len(connection.taken) <= 2 * (TURN_FRAMES + PARSED_BYTES / SMALLEST), "the next turn of the loop goes on"
    connection.data_received(frame(b"last"))
    await until(lambda: connection._transport.reading, "all of it is handled")
    assert connection.taken == [*MESSAGES, b"last"]


async def test_what_follows_a_command_that_waits_waits_too(connection: Any) -> None:
    connection.holds_at = 10
    connection.data_received(b"".join(map(frame, MESSAGES)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(connection.taken) <= 10 + PARSED_BYTES / SMALLEST and not connection._transport.reading
    connection.hold_reading(False)
    await until(lambda: connection._transport.reading, "all of it is handled")
    assert connection.taken == MESSAGES


async def test_a_large_message_is_one_turn(connection: Any) -> None:
    connection.data_received(frame(b"x" * 60_000))
    assert connection.taken == [b"x" * 60_000] and connection._transport.reading


class Stream(EmulationStream):
    """An emulated connection that notes the messages that its session is given."""

    __slots__ = ("__dict__",)

    def _receive(self, session: Any, message: bytes) -> None:
        self.taken.append(message)


def emulated(connection: Any) -> Any:
    connection._node.uid = "node"
    output = SimpleNamespace(place=None, direct=True, write=lambda data: None)
    stream: Any = Stream(connection._node, output, "/connection/http_stream", "")
    stream._session, stream.taken = object(), []
    return stream


async def test_of_emulated_clients_that_post_at_the_same_time_some_have_a_turn(connection: Any) -> None:
    streams = [emulated(connection) for _ in range(READ_AT_ONCE + 8)]
    for message in (b"first", b"second"):
        for stream in streams:
            stream.take(message)
    assert [stream.taken for stream in streams] == [[b"first"]] * READ_AT_ONCE + [[]] * 8
    assert all(stream.waits_for_turn for stream in streams)
    await until(lambda: all(stream.taken == [b"first", b"second"] for stream in streams), "all is handled")


async def test_the_posts_that_waited_for_an_emulated_session_are_handled_in_several_turns_and_in_order(connection: Any) -> None:
    """There may be sixteen thousand of them."""
    stream = emulated(connection)
    stream.hold_reading(True)
    for message in MESSAGES:
        stream.take(message)
    stream.hold_reading(False)
    sizes = []
    while not sizes or sizes[-1] < len(MESSAGES):
        await asyncio.sleep(0)
        sizes.append(len(stream.taken))
    assert all(now - before <= TURN_FRAMES for before, now in zip([0, *sizes], sizes, strict=False))
    assert stream.taken == MESSAGES


gateway = shared_gateway(CLOSED_RULES)


FLOODS = {
    "pings": frame(opcode=PING) * 1000,
    "pongs": frame(opcode=PONG) * 1000,
    "empty continuations": frame(fin=False) + frame(opcode=CONTINUATION, fin=False) * 1000,
    "continuations of one byte": frame(fin=False) + frame(b" ", opcode=CONTINUATION, fin=False) * 1000,
}


async def frames_until_close(raw: Socket) -> list[tuple[int, bytes]]:
    frames = [await raw.read_frame()]
    while frames[-1][0] != CLOSE:
        frames.append(await raw.read_frame())
    return frames


@pytest.mark.parametrize("what", FLOODS)
async def test_frames_that_bring_nothing_are_limited_by_the_second(gateway: RunningGateway, what: str) -> None:
    async with await connected_socket(gateway) as raw:
        await raw.send(FLOODS[what])
        frames = await frames_until_close(raw)
    assert frames[-1] == (CLOSE, (3013).to_bytes(2) + b"too many requests")
    assert len(frames) <= SMALL_PER_SECOND + PARSED_BYTES / SMALLEST
    await until(lambda: "pings, pongs and small fragments a second" in gateway.log(), "the log has the reason")


async def test_what_a_client_sends_on_after_it_was_refused_is_soon_not_parsed_any_more(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        assert await raw.upgrade() == 101
        await raw.send(frame() * 5000)
        assert await frames_until_close(raw) == [(CLOSE, (3501).to_bytes(2) + b"bad request")]
        assert await raw.rest(3) == b"", "the connection ends at once, not when the time for an answer is over"


async def test_pings_and_fragments_at_an_ordinary_rate_are_answered(gateway: RunningGateway) -> None:
    command = json.dumps({"id": 2, "ping": {}}).encode()
    parts = [command[at : at + 1] for at in range(len(command))]
    async with await connected_socket(gateway) as raw:
        await raw.send(frame(b"a", opcode=PING) * 20)
        await raw.send(frame(parts[0], fin=False) + b"".join(frame(part, CONTINUATION, fin=False) for part in parts[1:]))
        await raw.send(frame(opcode=CONTINUATION))
        assert [await raw.read_frame() for _ in range(20)] == [(PONG, b"a")] * 20
        assert json.loads((await raw.read_frame())[1]) == {"id": 2, "ping": {}}
