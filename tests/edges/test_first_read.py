"""The first bytes of a socket: a handshake in one read is answered like one in two, and whole messages are what the library reads in them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.edges.first_read import HANDSHAKE_BYTES, read_handshake
from gateway.edges.websocket_frames import whole_messages

from ..kit.clients import Socket, frame
from ..kit.gateways import RULES, RunningGateway, shared_gateway

gateway = shared_gateway(RULES)

URL = "/connection/websocket"
USUAL = {
    "Host": "h",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def head(start: str = f"GET {URL} HTTP/1.1", end: str = "", **fields: str | None) -> bytes:
    given = USUAL | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [start, *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return ("\r\n".join(lines) + end + "\r\n\r\n").encode("latin-1")


HANDSHAKES = {
    "usual": head(),
    "Firefox": head(Connection="keep-alive, Upgrade"),
    "with a query": head(f"GET {URL}?cf_ws_frame_ping_pong=true HTTP/1.1"),
    "of Protobuf": head(f"GET {URL}?format=protobuf HTTP/1.1"),
    "with a subprotocol": head(Sec_WebSocket_Protocol="centrifuge-json"),
    "without a host": head(Host=None),
    "without a key": head(Sec_WebSocket_Key=None),
    "of version 8": head(Sec_WebSocket_Version="8"),
    "without Upgrade": head(Upgrade=None),
    "without Connection": head(Connection=None),
    "of a foreign page": head(Origin="http://elsewhere"),
    "with POST": head(f"POST {URL} HTTP/1.1"),
    "to another path": head("GET /connection/other HTTP/1.1"),
    "with HTTP/1.0": head(f"GET {URL} HTTP/1.0"),
    "with HTTP/2.0": head(f"GET {URL} HTTP/2.0"),
    "with a body": head(Content_Length="3"),
    "in chunks": head(Transfer_Encoding="chunked"),
    "with two origins": head(Origin="http://h", origin="http://elsewhere"),
    "with two hosts": head(host="elsewhere"),
    "with a space before the colon": head(end="\r\nX-Odd : 1"),
    "with a folded line": head(end="\r\nX-Odd: 1\r\n 2"),
    "with a control character": head(end="\r\nX-Odd: \x01"),
    "with a byte that is not ASCII": head(end="\r\nX-Odd: \xe9"),
    "with a line feed alone": head(end="\nX-Odd: 1"),
    "with an empty name": head(end="\r\n: 1"),
    "with a value between spaces": head(Upgrade="  websocket  "),
    "in other letters": head(Upgrade="WebSocket", Connection="upgrade"),
}


async def answered(gateway: RunningGateway, *parts: bytes) -> bytes:
    """What comes back for these segments, without the Date."""
    async with await Socket.open(gateway) as raw:
        for part in parts:
            await raw.send(part)
            await asyncio.sleep(0.05)
        text = await raw.reader.readuntil(b"\r\n\r\n")
    return b"\r\n".join(line for line in text.split(b"\r\n") if not line.lower().startswith(b"date:"))


@pytest.mark.parametrize("handshake", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_handshake_is_answered_alike_in_one_segment_and_in_two(gateway: RunningGateway, handshake: bytes) -> None:
    assert await answered(gateway, handshake) == await answered(gateway, handshake[:20], handshake[20:])


async def test_frames_in_the_segment_of_their_handshake_are_read(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(head() + frame(b'{"id":1,"connect":{"token":"%b"}}' % gateway.token("u1").encode()))
        assert b" 101 " in await raw.reader.readuntil(b"\r\n\r\n")
        assert "connect" in await raw.read_object()


@pytest.mark.parametrize("cuts", [(1,), (2,), (3,), (3, 2, 1)], ids=str)
async def test_frames_after_a_handshake_whose_blank_line_came_in_two_segments_are_read(
    gateway: RunningGateway, cuts: tuple[int, ...]
) -> None:
    """Each cut is so many bytes before the end of the head."""
    whole = head()
    places = [0, *(len(whole) - cut for cut in cuts)]
    async with await Socket.open(gateway) as raw:
        for begin, end in itertools.pairwise(places):
            await raw.send(whole[begin:end])
            await asyncio.sleep(0.05)
        await raw.send(whole[places[-1] :] + frame(b'{"id":1,"connect":{"token":"%b"}}' % gateway.token("u1").encode()))
        assert b" 101 " in await raw.reader.readuntil(b"\r\n\r\n")
        assert "connect" in await raw.read_object()


def test_only_a_whole_handshake_and_nothing_else_is_read_at_once() -> None:
    usual = head()
    assert read_handshake(usual) == (URL, [(name.lower().encode(), value.encode()) for name, value in USUAL.items()])
    for other in (
        usual[:-1],
        usual + b"\x81",
        usual + usual,
        b"\r\n" + usual,
        b"",
        head(X_Long="x" * HANDSHAKE_BYTES),
        head(f"GET {URL}?{'a&' * 1100} HTTP/1.1"),
    ):
        assert read_handshake(other) is None
    for name in (
        "with a body",
        "in chunks",
        "with POST",
        "with HTTP/1.0",
        "to another path",
        "with a folded line",
        "with a control character",
    ):
        assert read_handshake(HANDSHAKES[name]) is None, name


MOST = 300
TOGETHER = 1000


def read_by_library(data: bytes) -> Any:
    """The whole messages in ``data`` as the library reads them; None if there is anything else in it."""
    protocol = ServerProtocol(state=State.OPEN, max_size=MOST)
    protocol.receive_data(data)
    events: list[Any] = protocol.events_received()
    rest = protocol.reader.buffer
    if protocol.parser_exc is not None or rest or not all(each.fin and each.opcode in (Opcode.TEXT, Opcode.BINARY) for each in events):
        return None
    return [bytes(each.data) for each in events]


USUALLY = st.sampled_from([1, 1, 1, 2, 0, 8, 9, 10, 3])
FRAMES = st.builds(
    frame,
    st.binary(max_size=MOST + 10) | st.sampled_from([b"", b"x" * 125, b"x" * 126, b"x" * MOST, b"x" * (MOST + 1)]),
    USUALLY,
    fin=st.sampled_from([True, True, True, False]),
    masked=st.sampled_from([True, True, True, True, False]),
    bits=st.sampled_from([0, 0, 0, 0x40, 0x10]),
)


@given(frames=st.lists(FRAMES, max_size=4), cut=st.integers(0, 12))
def test_whole_messages_are_those_that_the_library_reads(frames: list[bytes], cut: int) -> None:
    data = b"".join(frames)
    data = data[: len(data) - cut] if cut < len(data) and cut > 6 else data
    found = whole_messages(data, MOST, TOGETHER)
    assert found is None or found == read_by_library(data)


@given(st.lists(st.binary(max_size=MOST), max_size=4), st.sampled_from([1, 2]))
def test_messages_in_whole_frames_need_no_library(messages: list[bytes], opcode: int) -> None:
    data = b"".join(frame(message, opcode) for message in messages)
    assert whole_messages(data, MOST, len(data)) == messages


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_never_read_otherwise_than_by_the_library(data: bytes) -> None:
    found = whole_messages(data, MOST, TOGETHER)
    assert found is None or found == read_by_library(data)


class Looked(bytes):
    """Counts the bytes that were looked at one by one."""

    count = 0

    def __getitem__(self, place: Any) -> Any:
        self.count += isinstance(place, int)
        return super().__getitem__(place)


def test_a_read_of_many_small_frames_is_given_up_at_its_first_one() -> None:
    data = Looked(frame() * 40_000)
    assert whole_messages(data, MOST, TOGETHER) is None and data.count < 5
    long = frame(b"x" * MOST)
    assert whole_messages(long, MOST, 100) == [b"x" * MOST] and whole_messages(long + frame(), MOST, 100) is None
