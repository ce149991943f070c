"""Connections, of all processes: which there are, and what one of them is subscribed to."""

from __future__ import annotations

import heapq
from typing import Annotated

import msgspec
from msgspec import Meta

from ..control.questions import ROWS_MOST, ClientDetail, ClientRow, ClientRows, ClientSearch
from ..edges.api.requests import Shape
from ..errors import BadRequest, NotAvailable
from ..publication import MAX_CHANNEL_LENGTH
from ..rules.json_text import encode
from .caller import Caller, answers_of, read_method

__all__ = ["METHODS", "Limit"]

Limit = Annotated[int, Meta(ge=1, le=ROWS_MOST)]
Prefix = Annotated[str, Meta(max_length=MAX_CHANNEL_LENGTH)]


class ConnectionsRequest(Shape):
    """Connections whose user, address and client id begin so, and that are subscribed to ``channel``. ``cursor`` is that of the page before."""

    user: Prefix = ""
    address: Prefix = ""
    client: Prefix = ""
    channel: Prefix = ""
    cursor: str = ""
    limit: Limit = ROWS_MOST


class ConnectionsResult(msgspec.Struct, omit_defaults=True):
    """``total`` counts all that match; ``cursor`` is where the next page begins, "" after the last."""

    connections: list[ClientRow]
    total: int
    cursor: str = ""


class ConnectionRequest(Shape):
    """``client`` is a client's id."""

    client: Annotated[str, Meta(min_length=1, max_length=100)]


async def connections(caller: Caller, request: ConnectionsRequest) -> bytes:
    """The clients of all processes that match, ordered by user and id."""
    search = ClientSearch(request.user, request.address, request.client, request.channel, _start_of(request.cursor), request.limit)
    answers = await answers_of(caller, "clients", ClientRows, search)
    rows = [row for answer in answers for row in answer.clients]
    first = heapq.nsmallest(request.limit, rows, key=_order)
    more = len(rows) > len(first) or any(answer.more for answer in answers)
    cursor = encode(_order(first[-1])).decode() if more and first else ""
    return encode(ConnectionsResult(first, sum(answer.total for answer in answers), cursor))


def _order(row: ClientRow) -> tuple[str, str]:
    return row.user, row.client


def _start_of(cursor: str) -> tuple[str, str] | None:
    """The client after which the page begins. Raises BadRequest."""
    try:
        return msgspec.json.decode(cursor, type=tuple[str, str]) if cursor else None
    except msgspec.MsgspecError:
        raise BadRequest("the cursor is not one that an answer had") from None


async def connection(caller: Caller, request: ConnectionRequest) -> bytes:
    """One client with its subscriptions. Raises NotAvailable if no process has it."""
    for found in await answers_of(caller, "client", ClientDetail, request.client):
        return encode(found)
    raise NotAvailable(f"no process has a connection {request.client!r} now")


METHODS = {
    "connections": read_method(connections, ConnectionsRequest),
    "connection": read_method(connection, ConnectionRequest),
}
