"""``/health/ready`` is for anybody: it shows nothing of Valkey that only operators know."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from gateway.config import Config
from gateway.edges.health import SOME_AWAY, UNPROVEN, ready

KEY = "a key of the server API"
REFUSED = "NOPERM: the user gateway-7 may not PUBLISH at valkey://10.1.2.3:6379"


async def answer(reason: str = "", impaired: str = "", key: str = "") -> dict[str, Any]:
    config = Config(api_keys=[KEY])
    gateway = SimpleNamespace(unready=lambda: reason, impaired=lambda: impaired, node=SimpleNamespace(config=config))
    scope = {"type": "http", "headers": [(b"x-api-key", key.encode())] if key else [], "query_string": b"", "path": "/health/ready"}
    found = await ready(Request(scope | {"state": {"gateway": gateway, "node": gateway.node}}))
    assert found.status_code == (503 if reason else 200)
    return json.loads(bytes(found.body))


@pytest.mark.parametrize("key, shown", [("", UNPROVEN), ("wrong", UNPROVEN), (KEY, REFUSED)])
async def test_why_it_is_not_ready_is_for_those_with_a_key(key: str, shown: str) -> None:
    assert await answer(reason=REFUSED, key=key) == {"status": "not ready", "reason": shown}


@pytest.mark.parametrize("key, shown", [("", SOME_AWAY), (KEY, REFUSED)])
async def test_which_shards_are_away_is_for_those_with_a_key(key: str, shown: str) -> None:
    assert await answer(impaired=REFUSED, key=key) == {"status": "ready", "impaired": shown}


@pytest.mark.parametrize("reason", ["starting", "draining", "no connection to Valkey"])
async def test_what_names_nothing_is_for_anybody(reason: str) -> None:
    assert await answer(reason=reason) == {"status": "not ready", "reason": reason}
