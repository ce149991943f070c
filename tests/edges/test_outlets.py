"""The buffers between sessions, streams and ASGI."""

from __future__ import annotations

import asyncio
import gc
import socket
from itertools import pairwise
from math import ceil
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.edges.outlets import Buffer, Buffered, Direct, until_gone
from gateway.edges.sse.open import EventStreams
from gateway.edges.sse.stream import EventStream
from gateway.edges.websocket_asgi import serve_websocket
from gateway.edges.websocket_handshake import PATH
from gateway.errors import Disconnect
from gateway.publication import Position
from gateway.rules.identity import Identity
from gateway.runtime.turns import Turns
from gateway.session.admission import READ_AT_ONCE
from gateway.session.dispatch import SLOT_COMMANDS
from gateway.session.places import UNLIMITED
from gateway.store.layout import publish_words

from ..kit.waiting import until


class Writer:
    """Whoever writes: ``notified`` is when its output was full, and when it had drained."""

    def __init__(self) -> None:
        self.notified: list[str] = []

    def pause_writing(self) -> None:
        self.notified.append("full")

    def resume_writing(self) -> None:
        self.notified.append("drained")


class Wire:
    """ASGI's end: takes a piece, and the next one when the test lets it."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.turn = asyncio.Semaphore(0)

    async def send(self, data: bytes) -> None:
        self.taken.append(data)
        await self.turn.acquire()


@pytest.mark.parametrize(("separator", "joined"), [(b"", b"abbccc"), (b"\n", b"a\nbb\nccc")])
def test_a_buffer_gives_its_parts_in_order_once(separator: bytes, joined: bytes) -> None:
    buffer = Buffer(separator)
    assert not buffer
    for part in (b"a", b"bb", b"ccc"):
        buffer.add(part)
    assert buffer and buffer.size == 6
    assert buffer.take() == joined
    assert not buffer and buffer.size == 0 and buffer.take() == b""


async def test_what_asgi_does_not_take_pauses_the_writer_until_it_was_taken() -> None:
    wire, writer = Wire(), Writer()
    output = Buffered(wire.send, b"\n")
    output.carry(writer, waiting_bytes=4)
    pump = asyncio.create_task(output.pump())
    for part in (b"ab", b"cd", b"e", b"f"):
        output.write(part)
    assert writer.notified == ["full"], "at five bytes, and once"
    await asyncio.sleep(0)
    output.write(b"g")
    wire.turn.release()
    await asyncio.sleep(0)
    assert (wire.taken, writer.notified) == ([b"ab\ncd\ne\nf", b"g"], ["full"]), "another part waits"
    wire.turn.release()
    await asyncio.sleep(0)
    assert writer.notified == ["full", "drained"]
    pump.cancel()


async def test_what_was_written_before_the_end_is_sent_and_nothing_after_it() -> None:
    wire, writer = Wire(), Writer()
    output = Buffered(wire.send)
    output.carry(writer, waiting_bytes=1)
    wire.turn.release()
    output.write(b"last")
    output.finish()
    output.write(b"late")
    await output.pump()
    assert (wire.taken, writer.notified) == ([b"last"], ["full"])


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system knows no such time")
def test_the_system_ends_a_connection_whose_client_confirms_nothing() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as tcp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        for each in (tcp, local, None):  # a Unix socket's client cannot vanish
            transport = SimpleNamespace(write=None, get_extra_info=lambda name, each=each: each)
            Direct(
                SimpleNamespace(connections=set(), transport=transport, place=UNLIMITED, closings=Turns(1), hand_over=None)
            ).end_unconfirmed(1.5)
        assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


async def test_a_stream_whose_client_broke_off_a_moment_before_ends_its_request() -> None:
    """The write of the head noticed it, and the loop reports it a turn later."""
    transport, lender, stream = Mock(), Mock(), Mock()
    transport.is_closing.return_value = True
    lender.transport = transport
    Direct(lender).carry(stream, 1)
    lender.end_requests.assert_called_once()
    lender.hand_over.assert_not_called()
    await asyncio.sleep(0)
    stream.gone.assert_called_once()


async def test_of_streams_that_open_at_the_same_time_some_have_a_turn(valkey_url: str, prefix: str) -> None:
    gateway = Gateway(Config(prefix=prefix, insecure={"clients": True}), valkey_url)
    await gateway.start()
    query = "&".join(f"channel=posts:{number}" for number in range(2 * SLOT_COMMANDS))
    scope = {"type": "http", "method": "GET", "query_string": query.encode(), "headers": [], "client": None}
    opening = [asyncio.create_task(EventStreams(gateway.node)(scope, asyncio.Event().wait, AsyncMock())) for _ in range(READ_AT_ONCE)]
    opened = [0]
    while opened[-1] < READ_AT_ONCE:
        await asyncio.sleep(0)
        opened.append(len(gateway.node.admission.clients))
    assert max(now - before for before, now in pairwise(opened)) == ceil(READ_AT_ONCE / 3)
    for task in opening:
        task.cancel()
    await asyncio.wait(opening)
    await gateway.stop()


async def test_a_publication_makes_one_mark_however_many_channels_its_stream_has(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids have a mark of each channel. With all of them made anew, a publication to a thousand streams of 128 channels took 50 ms."""
    gateway, names = Gateway(Config(prefix=prefix), valkey_url), [f"posts:{number}" for number in range(20)]
    marked: list[Position] = []
    await gateway.start()
    stream = EventStream(gateway.node, Buffered(AsyncMock()), Identity("u1"), dict.fromkeys(names), {})
    await until(lambda: stream.connected, "it is open")
    monkeypatch.setattr("gateway.edges.sse.stream.mark_of", lambda position: marked.append(position) or b"m")
    await gateway.node.history.publish(names[0], publish_words(b"1"))
    await until(lambda: marked, "it was written")
    assert [position.offset for position in marked] == [1]
    stream.gone()
    await gateway.stop()


async def test_the_close_code_reaches_a_client_that_goes_on_sending_whatever_server_carries_it(valkey_url: str, prefix: str) -> None:
    """An SDK that does not see the code connects again, although a service disconnected it for good."""
    gateway = Gateway(Config(prefix=prefix, namespaces={"open": {"subscribe": "anyone"}}), valkey_url)
    await gateway.start()
    incoming, sent = asyncio.Queue[dict[str, object]](), list[dict[str, object]]()

    async def send(message: dict[str, object]) -> None:
        for _ in range(5):  # as a server whose socket is full for a moment
            await asyncio.sleep(0)
        sent.append(message)

    async def come(*commands: str) -> None:
        for command in commands:
            incoming.put_nowait({"type": "websocket.receive", "text": command})

    try:
        incoming.put_nowait({"type": "websocket.connect"})
        scope = {"headers": [(b"host", b"h")], "client": ("127.0.0.1", 1)}
        serving = asyncio.create_task(serve_websocket(gateway.node, PATH, scope, incoming.get, send))  # type: ignore[arg-type]
        await come('{"id":1,"connect":{}}')
        await until(lambda: any("connect" in str(message.get("text")) for message in sent), "it is connected")
        (client,) = gateway.node.admission.clients
        await come('{"id":2,"ping":{}}', '{"id":3,"ping":{}}')
        client.close(Disconnect(3503))
        await asyncio.wait_for(serving, 10)
        assert sent[-1] == {"type": "websocket.close", "code": 3503, "reason": "force disconnect"}
    finally:
        await gateway.stop()


@pytest.mark.parametrize("how", ["its server raises", "its server ends it"])
async def test_a_stream_of_another_server_leaves_no_task_behind(how: str) -> None:
    """A server of ASGI 2.4 raises where something is sent to a client that is gone; each was a traceback in the log."""
    reported, before = [], asyncio.all_tasks()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    output = Buffered(AsyncMock(side_effect=OSError if how == "its server raises" else None))
    stream = SimpleNamespace(output=output, gone=Mock())
    request = asyncio.create_task(until_gone(stream, asyncio.Event().wait, AsyncMock()))
    output.write(b"data")
    for _ in range(5):
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    del request
    gc.collect()
    assert asyncio.all_tasks() == before and not reported
    stream.gone.assert_called_once()
