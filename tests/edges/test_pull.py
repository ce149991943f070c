"""``GET /history`` and ``GET /inbox``: an error has the protocol's text in ``message``, as on every edge, and the cause in ``hint``."""

from __future__ import annotations

import json

import pytest

from ..kit.gateways import CLOSED_RULES, RunningGateway, shared_gateway

gateway = shared_gateway(CLOSED_RULES)


@pytest.mark.parametrize(
    ("path", "status", "code", "message", "words"),
    [
        ("/history?channel=sealed:1", 403, 103, "permission denied", "the rules of 'sealed:1'"),
        ("/history?channel=nowhere:1", 404, 102, "unknown channel", "nowhere"),
        ("/history?channel=member:1&limit=x", 400, 107, "bad request", "limit"),
        ("/history?channel=member:1&token=x", 401, 3500, "invalid token", "token"),
        ("/inbox?token=x", 401, 3500, "invalid token", "token"),
        ("/inbox?limit=x", 400, 107, "bad request", "limit"),
    ],
)
def test_an_error_has_a_code_its_text_and_a_hint(
    gateway: RunningGateway, path: str, status: int, code: int, message: str, words: str
) -> None:
    bearer = {} if "token" in path else {"Authorization": f"Bearer {gateway.token()}"}
    given, body = gateway.http("GET", path, headers=bearer)
    error = json.loads(body)["error"]
    assert (given, error["code"], error["message"]) == (status, code, message)
    assert error["hint"] != message and words in error["hint"]
