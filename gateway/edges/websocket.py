"""A WebSocket connection: the outlet of a session.

Messages as nearly every client sends them are read by ``websocket_frames``; ``websockets``' sans-I/O protocol reads all others, from the
first read of a connection on that is anything but whole messages. Outbound, publications are prepared frames: each is framed once,
stored with the publication, and written as it is to the transports of all subscribers. There is no task and no queue; what
a full socket does not take stays in history, and the session catches up from there when the transport has drained.

One read of the socket may bring forty thousand frames of six bytes. A turn of the loop handles some of them and the next turn
goes on, with other clients in between; meanwhile nothing is read. Frames that cost more than they bring are limited by the second.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from ..errors import Disconnect
from ..live.wire_formats import ChannelView
from ..publication import Publication
from ..rules.json_text import is_utf8
from ..rules.protocol import PING, publication_json
from ..rules.rate_limit import use
from ..session.client_counts import BY_WEBSOCKET, FROM_WEBSOCKET
from ..session.node import Node
from ..session.places import UNLIMITED
from ..session.session import Session
from .closing import stays_open
from .outlets import unconfirmed_bytes
from .request import client_address, protocol_fields
from .session_outlet import SessionOutlet
from .websocket_frames import whole_messages
from .websocket_handshake import QUIET, answer_handshake

__all__ = ["NOT_UTF8", "WEBSOCKET", "WebSocketConnection", "text_frame"]

log = logging.getLogger("gateway.websocket")

CLOSE_SECONDS = 5.0  # for the client to answer a close frame
REASON_BYTES = 123
PARSED_BYTES = 1024  # at a time; up to 170 frames, since the smallest have 6 bytes
TURN_FRAMES = 128  # of a client in one turn of the loop, where a large frame counts as one for each FRAME_BYTES
FRAME_BYTES = 256
SMALL_BYTES = 64  # a part of a message that is smaller is counted with pings and pongs
SMALL_PER_SECOND = 100.0  # so many at once: browsers send none, libraries a ping in some seconds
NOT_UTF8 = Disconnect(1007, reason="a message that is not UTF-8")  # RFC 6455, 8.1


def text_frame(payload: bytes) -> bytes:
    """A server's unmasked text frame."""
    return _frame_head(len(payload)) + payload


def _frame_head(size: int) -> bytes:
    """What a server's unmasked text frame of so many bytes begins with. Source: RFC 6455, 5.2."""
    if size < 126:
        return b"\x81%c" % size
    return b"\x81\x7e" + size.to_bytes(2) if size < 65536 else b"\x81\x7f" + size.to_bytes(8)


_WHOLE = (Opcode.TEXT, Opcode.BINARY)
_DATA = (*_WHOLE, Opcode.CONT)
_DATA_NAME = b'{"data":'
_PING_FRAME = text_frame(PING)
_NATIVE_PING = b"\x89\x00"


class WebSocketWire:
    """A publication is one text frame; those that go out together are joined."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        if len(publications) == 1:
            publication = publications[0]
            return publication.ws or _prepare(channel, publication)
        return b"".join([publication.ws or _prepare(channel, publication) for publication in publications])


def _prepare(channel: ChannelView, publication: Publication) -> bytes:
    prefix = channel.push_prefix
    if publication.json is None and publication.tags is None and publication.info is None and publication.offset:
        # The same text as below in one go: nearly all publications are so, and each is prepared once by every process.
        end = b',"offset":%d}}}' % publication.offset
        size = len(prefix) + len(_DATA_NAME) + len(publication.data) + len(end)
        frame = b"".join((_frame_head(size), prefix, _DATA_NAME, publication.data, end))
    else:
        frame = text_frame(b"%b%b}}" % (prefix, publication_json(publication)))
    publication.ws = frame
    return frame


WEBSOCKET = WebSocketWire()


class WebSocketConnection(SessionOutlet, asyncio.Protocol):
    """``HttpProtocol`` hands a connection over: ``connection_made``, ``shake_hands``, then whatever the socket brings."""

    __slots__ = (
        *("_fragments", "_node", "_protocol", "_reading_paused", "_rest", "_small_used", "_transport"),
        *("native_pings", "place"),
    )

    wire = WEBSOCKET
    transport = BY_WEBSOCKET
    return_path: dict[str, bytes] = {}

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(_loop or asyncio.get_running_loop())
        self._node: Node = app_state["node"]
        self._protocol: ServerProtocol | None = None  # made by ``_judge``
        self._fragments: list[bytes] | None = None
        self._reading_paused = False
        self._rest = b""  # was read, and waits for a later turn
        self._small_used = 0.0
        self.native_pings = False
        self.place = UNLIMITED

    @property
    def waiting_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def unconfirmed_bytes(self) -> int:
        return unconfirmed_bytes(self._transport)

    # The handshake.

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=self._node.config.limits.waiting_bytes)

    def shake_hands(self, method: str, path: str, version: str, headers: list[tuple[bytes, bytes]], peer: Any = None) -> None:
        """Answers the upgrade request: ``version`` is that of HTTP, names of ``headers`` are in lower case. Everything after it is frames."""
        query = protocol_fields(path.partition("?")[2]) if "?" in path else {}
        status, answer, text = answer_handshake(method, path, version, headers, query, self._node.config)
        self._put(answer)
        if status != 101:
            log.info("handshake refused with %d: %s", status, text)
            self._transport.close()
            self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
            return
        self.native_pings = "true" in query.get("cf_ws_frame_ping_pong", ())
        try:
            self._session = Session(self._node, self, self._loop.time(), client_address(peer, headers, self._node.config.proxies))
        except Disconnect as disconnect:
            self.disconnect(disconnect.code, disconnect.reason)

    # Inbound.

    def data_received(self, data: bytes) -> None:
        self._node.admission.counts.received[FROM_WEBSOCKET] += len(data)
        if self._rest or self._reading_paused:  # the transport, or TLS above it, may have read it before it was paused
            self._rest += data
            self._read_or_not()
        elif self._node.admission.turns.take():
            self._take_turn(data)
        else:  # thousands send at once; that most of them send no more meanwhile saves pausing
            self._rest = data
            self._go_on_later()

    def _take_whole(self, data: bytes) -> bool:
        """Acts on ``data`` if it is whole messages, and not too much for one turn. False if nothing was done."""
        messages = whole_messages(data, self._node.config.limits.message_bytes, PARSED_BYTES)
        if messages is None:
            return False
        for message in messages:
            self._take(message)
        if self._reading_paused:
            self._read_or_not()
        return True

    def _take_turn(self, data: bytes) -> None:
        """Acts on the frames in ``data`` until the client has had its turn, or has to wait; the rest waits with it."""
        if self._protocol is None and self._take_whole(data):
            return
        room, start = TURN_FRAMES, 0
        while start < len(data) and room > 0 and not self._held and not self.paused:
            room -= self._parse(data[start : start + PARSED_BYTES])
            start += PARSED_BYTES
        if start < len(data):
            self._rest = data[start:]
        if self._rest or self._reading_paused:
            self._read_or_not()

    def _parse(self, data: bytes) -> int:
        """Acts on the frames that end in ``data``. Returns for how many they count."""
        protocol, count = self._judge(), 0
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            count += 1 + len(event.data) // FRAME_BYTES
            self._on_frame(event)
        if protocol.parser_exc is not None and self._session is not None:
            log.info("client %s closed: %s", self._session.client or "-", protocol.parser_exc)
            self._end_session()
        if protocol.writes:
            self._write_protocol()
        return count

    def _go_on_later(self) -> None:
        if not self.waits_for_turn:
            self.waits_for_turn = True
            self._node.admission.turns.later(self._go_on)

    def _judge(self) -> ServerProtocol:
        """The library's protocol, which reads all further frames of the connection."""
        if self._protocol is None:
            self._protocol = ServerProtocol(state=State.OPEN, max_size=self._node.config.limits.message_bytes, logger=QUIET)
        return self._protocol

    def _go_on(self) -> None:
        self.waits_for_turn = False
        if self._rest and not self._held and not self.paused:
            data, self._rest = self._rest, b""
            self._take_turn(data)

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode not in _WHOLE or not frame.fin or self._session is None:
            self._count_small(frame)
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            if frame.fin:
                self._take(bytes(frame.data))
            else:
                self._fragments = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT:
            assert self._fragments is not None  # the protocol refuses a continuation of nothing
            if frame.data:  # the protocol counts no empty ones, and there may be any number of them
                self._fragments.append(bytes(frame.data))
            if frame.fin:
                message, self._fragments = b"".join(self._fragments), None
                self._take(message)
        elif frame.opcode is Opcode.PING:
            if writes := self._judge().writes:  # empty if the close frame has gone out
                self._put(writes.pop(0))  # its pong, before the answers to what follows the ping
        elif frame.opcode is Opcode.PONG:
            if self._session is not None:
                self._session.ponged()
        elif frame.opcode is Opcode.CLOSE:
            self._end_session()

    def _count_small(self, frame: Frame) -> None:
        """Ends the connection of a client that sends too many control frames, and parts of messages that bring next to nothing; once it
        is closing, too many frames of any kind."""
        if self._session is not None and frame.opcode in _DATA and len(frame.data) >= SMALL_BYTES:
            return
        used = use(self._small_used, self._loop.time(), SMALL_PER_SECOND)
        if used is not None:
            self._small_used = used
            return
        if self._session is not None:
            self._session.close(Disconnect(3013, f"more than {SMALL_PER_SECOND:g} pings, pongs and small fragments a second"))
        self._judge().fail(3013)  # the close frame is sent; whatever else comes is discarded without being parsed

    def _take(self, message: bytes) -> None:
        if self._session is None:
            return  # a close frame is on its way
        if is_utf8(message):
            self._receive(self._session, message)
        else:
            self._session.close(NOT_UTF8)

    def eof_received(self) -> bool:
        if stays_open(self._transport, self._node.admission.closings):
            return True
        if not self._transport.get_write_buffer_size():
            self._end_session()  # what is written from here on is dropped
        return False  # uvloop closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.place.release()
        self._end_session()
        self._rest = b""
        if self._protocol is not None:
            # A generator and its object hold each other, and so do an error and its object, by the traceback.
            self._protocol.parser = self._protocol.parser_exc = None  # type: ignore[assignment]

    # Outbound.

    def _framed(self, message: bytes) -> bytes:
        return text_frame(message)

    def ping(self) -> None:
        self._put(_NATIVE_PING if self.native_pings else _PING_FRAME)

    def disconnect(self, code: int, reason: str) -> None:
        self._session = None
        self.flush()
        protocol = self._judge()
        if protocol.state is State.OPEN:
            protocol.send_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._write_protocol()
        self.hold_reading(False)  # its commands wait no longer, and its close frame would wait with them
        self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def _read_or_not(self) -> None:
        """Stops reading from a client that does not read itself: the answers to its commands, even to a ping, would fill memory.

        What was read already waits as well; where it need not wait any longer, the next turn goes on with it.
        """
        pause = self._held or self.paused
        if self._rest and not pause:
            pause = True
            self._go_on_later()
        if pause != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _write_protocol(self) -> None:
        parts = self._judge().data_to_send()
        if data := b"".join(parts):
            self._put(data)
        if b"" in parts and not self._transport.is_closing():  # the library's sign for the end
            # Half-closed: the client reads what was written, answers, and closes. If it does not, we do.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:  # TLS has no half
                self._transport.close()
            self._loop.call_later(CLOSE_SECONDS, self._transport.abort)
