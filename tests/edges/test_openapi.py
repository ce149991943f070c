"""The schema at /openapi.json, and a running gateway held to it: what the schema allows and what it does not, answered as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.app import create_app
from gateway.config import Config
from gateway.edges.api.methods import METHODS
from gateway.edges.api.openapi import document

from ..kit.gateways import API_KEY, RULES, RunningGateway, Start
from ..kit.tokens import SECRET

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")  # of each operation; by hand, thousands
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]

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
    pages = {"/", "/static", "/openapi.json"}
    assert {route.path for route in create_app(Config()).routes} - pages | {"/sse"} == {
        path for path in DOCUMENT["paths"] if "/api/" not in path
    }


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


def test_the_gateways_answers_match_its_schema(gateway: RunningGateway, tmp_path: Path) -> None:
    """schemathesis as it comes: what the schema allows and what it does not, some two thousand requests."""
    location = [f"{gateway.url}/openapi.json", "--exclude-path", "/sse"]  # which does not end
    headers = ["-H", f"X-API-Key: {API_KEY}", "-H", f"Authorization: Bearer {gateway.token()}"]
    extent = ["--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples", EXAMPLES, "--generation-deterministic"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", *location, *headers, *extent, "--checks", ",".join(CHECKS), "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    tested, passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups()
    assert tested == passed and int(tested) > 1000
