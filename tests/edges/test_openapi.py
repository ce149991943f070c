"""The schema at /openapi.json, and a running gateway held to it: what the schema allows and what it does not, answered as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema_rs import Draft202012Validator
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.app import create_app
from gateway.config import Config
from gateway.edges.api.methods import METHODS
from gateway.edges.api.openapi import POSITION, document

from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.tokens import SECRET

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")  # of each operation; by hand, thousands
# schemathesis' other checks are of each answer: its status, its type, its schema, its headers. The first four need several requests, or no key.
EXCLUDED = ["ignored_auth", "object_level_authorization", "ensure_resource_availability", "use_after_free"]
BY_STATUS = ["negative_data_rejection", "positive_data_acceptance"]
# What no schema knows: tokens, namespaces, epochs; and in a batch each command is answered by itself, a wrong one too.
EXPECTED = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 416]
[[operations]]
include-name = "POST /api/batch"
[operations.checks.negative_data_rejection]
enabled = false
"""
TRANSPORT = {"X-Centrifugo-Error-Mode": "transport"}

ROOT = Path(__file__).parents[2]
DOCUMENT = {name: json.loads(text) for name, text in document().items()}


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES)


# The document.


@pytest.mark.parametrize("method", [*METHODS, "batch"])
def test_every_method_of_the_server_api_is_in_it(method: str) -> None:
    operation = DOCUMENT["paths"][f"/api/{method}"]["post"]
    assert operation["summary"]
    assert {"200", "400", "401", "413"} <= operation["responses"].keys()
    assert [*operation["security"]] == [{"api_key": []}, {"api_key_authorization": []}, {"api_key_query": []}]


def test_every_path_of_simple_clients_is_in_it() -> None:
    others = {"/", "/static", "/openapi.json", "/health/doctor"}  # pages, and what is for gateway doctor alone
    paths = {route.path for route in create_app(Config()).routes if not route.path.startswith("/docs")}
    assert paths - others | {"/sse"} == {path for path in DOCUMENT["paths"] if "/api/" not in path}


def test_what_the_structs_require_and_bound_is_in_it() -> None:
    subscribe = DOCUMENT["components"]["schemas"]["SubscribeRequest"]
    assert subscribe["required"] == ["channel"] and {"user", "client", "session"} <= subscribe["properties"].keys()
    assert subscribe["properties"]["channel"]["maxLength"] == 255
    assert DOCUMENT["components"]["schemas"]["Reason"]["properties"]["code"]["maximum"] == 4999


@pytest.mark.parametrize("edge", ["fast", "asgi"])
def test_the_schema_is_public_and_has_no_secret(start_gateway: Start, edge: str) -> None:
    with httpx.Client(base_url=start_gateway(edge=edge).url, trust_env=False) as http:
        answer = http.get("/openapi.json")
        assert http.post("/openapi.json").status_code == 405
    assert answer.json() == DOCUMENT | {"servers": [{"url": "/"}]}
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-cache")
    assert API_KEY not in answer.text and SECRET not in answer.text


async def test_mounted_elsewhere_the_schema_names_the_path(valkey_url: str, prefix: str) -> None:
    application = create_app(Config(prefix=prefix, api_keys=[API_KEY]), valkey_url)
    outer = Starlette(routes=[Mount("/live", application)])
    async with application.lifespan(outer), httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test") as http:
        (server,) = (await http.get("/live/openapi.json")).json()["servers"]
        assert server == {"url": "/live"}
        assert (await http.post(f"{server['url']}/api/info", headers={"X-API-Key": API_KEY})).status_code == 200


# The gateway held to it.


REQUESTS = [
    ("/api/publish", {"data": ""}, True),
    ("/api/publish", {"data": []}, True),
    ("/api/publish", {"data": None}, True),
    ("/api/publish", {"b64data": "MQ=="}, True),
    ("/api/publish", {"data": 1, "b64data": ""}, True),
    ("/api/publish", {"data": 1, "b64data": None, "tags": None, "skip_history": None, "idempotency_key": None, "version": None}, True),
    ("/api/publish", {"data": 1, "tags": {"a": None}}, False),
    ("/api/publish", {"b64data": None}, False),
    ("/api/publish", {"b64data": ""}, False),
    ("/api/publish", {}, False),
    ("/api/publish", {"b64data": "MQ"}, False),
    ("/api/publish", {"b64data": "0"}, False),
    ("/api/publish", {"b64data": "M Q="}, False),
    ("/api/publish", {"b64data": "_w=="}, False),
    ("/api/publish", {"data": 1, "version": 2**64 - 1}, True),
    ("/api/publish", {"data": 1, "version": 2**64}, False),
    ("/api/subscribe", {"user": "u", "b64info": "0"}, False),
    ("/api/subscribe", {"user": "u", "recover_since": {"offset": 2**53 - 1}}, True),
    ("/api/subscribe", {"user": "u", "recover_since": {"offset": 2**53}}, False),
    ("/api/subscribe", {"user": "u", "client": None, "info": None, "override": {"presence": {"value": None}, "join_leave": None}}, True),
    ("/api/subscribe", {"user": None}, False),
    ("/api/disconnect", {"user": "u", "whitelist": None, "disconnect": {"code": None, "reason": None}}, True),
    ("/api/disconnect", {"user": "u", "disconnect": {"code": 0}}, True),
    ("/api/disconnect", {"user": "u", "disconnect": {"code": 1}}, False),
    ("/api/disconnect", {"user": "u", "disconnect": {"code": 2999}}, False),
    ("/api/disconnect", {"user": "u", "disconnect": {"code": 3000}}, True),
    ("/api/disconnect", {"user": "u", "disconnect": {"code": 5000}}, False),
    ("/api/notify", {"user": "u", "data": {"id": "1"}}, True),
    ("/api/notify", {"user": "u#1", "data": {"id": "1"}}, False),
    ("/api/notify", {"user": "x" * 242, "data": {"id": "1"}}, False),
    ("/api/notify", {"user": "x" * 241, "data": {"id": "1"}}, True),
    ("/api/notify", {"user": "u", "users": ["v"], "data": {"id": "1"}}, False),
    ("/api/notify", {"users": ["u", "v"], "data": {"id": ""}}, False),
    ("/api/enqueue", {"name": "x", "key": "", "at": 0, "expires": 0, "channel": "", "serial": ""}, True),
    ("/api/enqueue", {"name": "x", "channel": "open:" + "c" * 250}, True),
    ("/api/enqueue", {"name": "x", "channel": "open:" + "c" * 251}, False),
    ("/api/enqueue", {"name": "x", "data": None, "queue": None, "attempts": None, "expires": None}, True),
    ("/api/enqueue", {"name": None}, False),
    ("/api/batch", {"commands": None, "parallel": None}, True),
    ("/api/batch", {"commands": [{"publish": {"channel": "chat:schema", "data": 1, "tags": None}}]}, True),
    ("/api/enqueue", {"name": "x" * 201}, False),
    ("/api/enqueue", {"name": "x", "queue": "a b"}, False),
    ("/api/enqueue", {"name": "x", "queue": "\u2028"}, False),
    ("/api/enqueue", {"name": "x", "expires": 0.0001}, False),
    ("/inbox/read", {"all": True}, True),
    ("/inbox/read", {"all": False}, False),
    ("/inbox/read", {"ids": [], "all": True}, False),
    ("/inbox/read", {"ids": ["1"]}, True),
    ("/inbox/read", {"ids": [""]}, False),
    ("/inbox/read", {"upto": ""}, False),
    ("/inbox/read", {"upto": "e:x"}, False),
    ("/inbox/read", {"upto": f":{2**53 - 1}"}, True),
    ("/inbox/read", {"upto": f":{2**53}"}, False),
]


@pytest.mark.parametrize("path, body, accepted", REQUESTS, ids=str)
def test_schema_and_gateway_agree_on_a_body(gateway: RunningGateway, path: str, body: dict[str, Any], accepted: bool) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]
    if path in ("/api/publish", "/api/subscribe"):
        body = {"channel": "chat:schema"} | body
    assert Draft202012Validator(DOCUMENT | reference).is_valid(body) == accepted
    headers = TRANSPORT | {"X-API-Key": API_KEY, "Authorization": f"Bearer {gateway.token()}"}
    assert gateway.http("POST", path, json.dumps(body).encode(), headers)[0] == (200 if accepted else 400)


@pytest.mark.parametrize("value, status", [("1", 200), ("true", 200), ("0", 200), ("false", 200), ("", 200), ("yes", 400), ("TRUE", 400)])
def test_schema_and_gateway_agree_on_reverse(gateway: RunningGateway, value: str, status: int) -> None:
    (schema,) = (each["schema"] for each in DOCUMENT["paths"]["/history"]["get"]["parameters"] if each["name"] == "reverse")
    assert (value in schema["enum"]) == (status == 200)
    path = f"/history?channel=open:1&reverse={value}"
    assert gateway.http("GET", path, headers={"Authorization": f"Bearer {gateway.token()}"})[0] == status


@pytest.mark.parametrize("number", [0, 9, 10**15, 10**16 - 1, 2**53 - 2, 2**53 - 1, 2**53, 2**53 + 8])
def test_the_pattern_of_positions_ends_with_the_greatest_offset(number: int) -> None:
    assert bool(re.fullmatch(POSITION["pattern"], f"epoch:{number}")) == (number < 2**53)


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [pytest.param({}, id="errors with 200"), pytest.param(TRANSPORT, id="errors with a status")],
)
def test_the_gateways_answers_match_its_schema(gateway: RunningGateway, tmp_path: Path, headers: dict[str, str]) -> None:
    """schemathesis as it comes: what the schema allows and what it does not, some three thousand requests in all.

    Where errors have a status, it also checks that what the schema allows is accepted, and that everything else is refused; otherwise only
    what the schema does not allow is sent, and to the server API alone, since all other answers are the same.
    """
    (tmp_path / "schemathesis.toml").write_text(EXPECTED)
    location = [f"{gateway.url}/openapi.json", "--exclude-path", "/sse"]  # which does not end
    if not headers:
        location += ["--include-path-regex", "^/api/"]
    keys = {"X-API-Key": API_KEY, "Authorization": f"Bearer {gateway.token()}"}
    sent = [word for name, value in (keys | headers).items() for word in ("-H", f"{name}: {value}")]
    phases, mode = ("examples,coverage,fuzzing", "all") if headers else ("coverage", "negative")
    extent = ["--phases", phases, "--mode", mode, "--max-examples", EXAMPLES, "--generation-deterministic"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", *location, *sent, *extent, "--no-color"]
    excluded = ["--exclude-checks", ",".join(EXCLUDED if headers else EXCLUDED + BY_STATUS)]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.kit.openapi_hooks", "PYTHONPATH": str(ROOT)}
    environment = os.environ | hooks | {"HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")}  # tables of Unicode, made once
    done = subprocess.run(command + excluded, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    tested, passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups()
    assert tested == passed and int(tested) > (1500 if headers else 900)
