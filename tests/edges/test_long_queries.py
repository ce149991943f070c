"""Requests with hundreds of fields in their query that come together: a few are begun in each turn of the loop."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette

from gateway.config import Config
from gateway.edges import request
from gateway.edges.request import FIELDS_PER_SLOT
from gateway.session.admission import READ_AT_ONCE

from ..kit.clients import Socket
from ..kit.served import FAST, served_here
from ..kit.turns import TurnCounter

REQUESTS = 40
FIELDS = 8 * FIELDS_PER_SLOT


async def test_long_queries_that_come_together_are_parsed_a_few_in_each_turn(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Starlette.__call__
    rules = {"open": {"subscribe": "anyone", "history": "anyone"}}
    path = "/history?channel=open:1" + "&limit=1" * FIELDS
    async with served_here(Config(prefix=prefix, namespaces=rules), valkey_url) as port:
        sockets = [await Socket.open(SimpleNamespace(port=port)) for _ in range(REQUESTS)]
        with TurnCounter() as turns:

            async def noted(self: Starlette, scope: Any, receive: Any, send: Any) -> None:
                turns.note()
                await answer(self, scope, receive, send)

            monkeypatch.setattr(Starlette, "__call__", noted)
            answers = await asyncio.gather(*(raw.request("GET", path) for raw in sockets))
        assert {status for status, _, _ in answers} == {200}
        assert turns.total == REQUESTS
        # Those that waited begin one turn after they were given their places, beside others that find places at once.
        assert turns.most <= 2 * READ_AT_ONCE // (FIELDS // FIELDS_PER_SLOT)
        for raw in sockets:
            await raw.close()


@pytest.mark.parametrize("query", ["&a=1" * FIELDS, "&a=" + "%41" * FIELDS], ids=["fields", "escapes"])
async def test_those_of_the_server_api_are_parsed_a_few_in_each_turn_too(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """The direct way looks for the API key before the application is asked."""
    parse = request.QueryParams
    async with served_here(Config(prefix=prefix), valkey_url, FAST | {"proxy_headers": False}) as port:
        sockets = [await Socket.open(SimpleNamespace(port=port)) for _ in range(REQUESTS)]
        with TurnCounter() as turns:

            def noted(text: bytes) -> Any:
                turns.note()
                return parse(text)

            monkeypatch.setattr(request, "QueryParams", noted)
            answers = await asyncio.gather(*(raw.request("POST", f"/api/publish?{query[1:]}", body=b"{}") for raw in sockets))
        assert {status for status, _, _ in answers} == {401}
        assert turns.total == REQUESTS
        assert turns.most <= 2 * READ_AT_ONCE // (FIELDS // FIELDS_PER_SLOT)
        for raw in sockets:
            await raw.close()


def test_of_the_query_of_a_handshake_nothing_is_parsed_but_what_chooses_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake waits for no turn."""
    parsed: list[str] = []
    parse = request.parse_qs
    monkeypatch.setattr(request, "parse_qs", lambda text: parsed.append(text) or parse(text))
    long = "a=1&" * FIELDS + "token=" + "%41" * FIELDS
    assert request.protocol_fields(f"{long}&format=protobuf&xformat=json&cf_ws_frame_ping_pong=true") == {
        "format": ["protobuf"],
        "cf_ws_frame_ping_pong": ["true"],
    }
    assert request.protocol_fields(f"cf_protocol=protobuf&{long}&format=&format={'%41' * FIELDS}") == {"cf_protocol": ["protobuf"]}
    assert max(map(len, parsed)) < 100
