"""The answer to a WebSocket handshake. Source: RFC 6455, 4.2.

Nearly every client sends the same few headers, which are judged here; what is unusual is left to ``websockets``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from ..config import Config
from .request import NO_HOST, NO_PROTOBUF, OF_PAGE, asks_for_protobuf, is_foreign, refused_origin

__all__ = ["PATH", "QUIET", "answer_handshake", "refusal_of"]

PATH = "/connection/websocket"
JUDGED_BYTES = 2048  # of the headers that the library reads, in a time that grows with their square: 64 KiB of commas took it 0.15 s

QUIET = logging.getLogger("gateway.websocket.protocol")
QUIET.setLevel(logging.CRITICAL)  # the library would log handshakes, and tracebacks of clients' mistakes; ours is one line for each

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
_OTHER_VERSION = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}  # Source: RFC 6455, 4.4
_OF_PAGE = [(name, name.encode()) for name in OF_PAGE]
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")

Query = Mapping[str, list[str]]


def answer_handshake(
    method: str, path: str, version: str, headers: list[tuple[bytes, bytes]], query: Query, config: Config
) -> tuple[int, bytes, str]:
    """Status, answer, and for a refusal its reason. ``version`` is that of HTTP; names of ``headers`` are in lower case."""
    if path.partition("?")[0] != PATH:
        return _refusal(404, f"WebSocket lives at {PATH}")
    if method != "GET":
        return _refusal(405, "a WebSocket is opened with GET", Allow="GET")
    if version != "1.1":
        return _refusal(505, "a WebSocket is opened with HTTP/1.1")
    fields = dict(headers)
    # An SDK that wants no subprotocol may send an empty list of them, which counts as absent: centrifuge-python before 0.7 does.
    if b"sec-websocket-protocol" in fields:
        headers = [(name, value) for name, value in headers if name != b"sec-websocket-protocol" or value.strip(b", \t")]
        fields = dict(headers)
    offered = fields.get(b"sec-websocket-protocol", b"").decode("latin-1")
    if refused := refusal_of(fields, offered, query, config):
        return _refusal(*refused)
    if len(fields) == len(headers) and _is_plain(fields):
        return 101, b"%b%b\r\n\r\n" % (_SWITCHING, accept_key(fields[b"sec-websocket-key"].decode()).encode()), ""
    if any(sum(1 for name, _ in headers if name == once) > 1 for once in (b"origin", b"host")):
        return _refusal(400, "Origin and Host are sent once")
    if sum(len(value) for name, value in headers if name == b"connection" or name.startswith(b"sec-websocket-")) > JUDGED_BYTES:
        return _refusal(431, f"the headers of the handshake itself have more than {JUDGED_BYTES} bytes")
    if fields.get(b"sec-websocket-version", b"13") != b"13":
        return _refusal(426, "this server speaks version 13 of WebSocket", **_OTHER_VERSION)
    request = Request(path, Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]))
    response = _hands.accept(request)
    return response.status_code, response.serialize(), response.body.decode().partition("\n")[0]


def refusal_of(fields: Mapping[bytes, bytes], offered: str, query: Query, config: Config) -> tuple[int, str] | None:
    """Status and reason for a client that may not connect, or not so; None for another. ``offered`` are its subprotocols."""
    if asks_for_protobuf(query, offered):
        return 400, NO_PROTOBUF
    if not fields.get(b"host"):
        return 400, NO_HOST
    if is_foreign({name: fields[raw].decode("latin-1") for name, raw in _OF_PAGE if raw in fields}, config):
        return 403, refused_origin(fields.get(b"origin", b"").decode("latin-1"))
    return None


def _is_plain(fields: Mapping[bytes, bytes]) -> bool:
    """Whether it is what every client sends: then it needs no parsing, which would take a third of a connect's time."""
    return (
        fields.get(b"upgrade", b"").lower() == b"websocket"
        and fields.get(b"connection", b"").lower() == b"upgrade"
        and fields.get(b"sec-websocket-version") == b"13"
        and b"sec-websocket-protocol" not in fields
        and _KEY.fullmatch(fields.get(b"sec-websocket-key", b"")) is not None
    )


def _select_subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("centrifuge-json") if "centrifuge-json" in offered else None


# Answers all unusual handshakes: it holds nothing of one for the next.
_hands = ServerProtocol(select_subprotocol=_select_subprotocol, logger=QUIET)


def _refusal(status: int, text: str, **headers: str) -> tuple[int, bytes, str]:
    response = _hands.reject(status, text + "\n")
    response.headers.update({"X-Content-Type-Options": "nosniff"} | headers)
    return status, response.serialize(), text
