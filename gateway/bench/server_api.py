"""Calls of the server API that the bench makes itself, one at a time."""

from __future__ import annotations

import http.client

import msgspec

from ..errors import GatewayError
from ..publication import Position
from .measured_server import MeasuredServer

__all__ = ["position_of"]

SECONDS = 10.0


class _Result(msgspec.Struct):
    offset: int
    epoch: str


class _Answer(msgspec.Struct):
    result: _Result


def position_of(server: MeasuredServer, channel: str) -> Position:
    """Publishes one document; the position that it has in the channel. Raises GatewayError if it has none."""
    head, _, body = server.addressing.publish([channel]).partition("\r\n\r\n")
    request, *lines = head.split("\r\n")
    method, path, _ = request.split(" ")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    try:
        connection.request(method, path, body, dict(line.split(": ", 1) for line in lines))
        answer = connection.getresponse().read()
        result = msgspec.json.decode(answer, type=_Answer).result
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise GatewayError(f"{server.name} did not publish: {error}") from None
    finally:
        connection.close()
    return Position(result.epoch, result.offset)
