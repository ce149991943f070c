"""``POST /api``, commands as lines: what gocent before version 4, and libraries for Ruby and PHP of that time, send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..kit.gateways import API_KEY, RULES, RunningGateway, Start, shared_gateway

gateway = shared_gateway(RULES)


def line(method: str, **params: Any) -> str:
    return json.dumps({"method": method, "params": params})


def answers(gateway: RunningGateway, body: str) -> list[Any]:
    status, text = gateway.http("POST", "/api", body.encode(), {"Authorization": f"apikey {API_KEY}"})
    assert status == 200, text
    return [json.loads(answer) for answer in text.splitlines()]


def test_each_line_has_an_answer_and_they_are_carried_out_in_order(gateway: RunningGateway, channel: str) -> None:
    sent = [line("publish", channel=channel, data={"n": n}) for n in range(3)]
    sent += [line("history", channel=channel, limit=-1), line("broadcast", channels=[channel, "nowhere:1"], data=3), line("channels")]
    *published, history, broadcast, channels = answers(gateway, "\n".join(sent) + "\n")
    assert [answer["result"]["offset"] for answer in published] == [1, 2, 3]
    assert [publication["data"] for publication in history["result"]["publications"]] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [set(response) for response in broadcast["result"]["responses"]] == [{"result"}, {"error"}]
    assert channels == {"result": {"channels": {}}}


def test_a_command_that_fails_costs_the_others_nothing(gateway: RunningGateway, channel: str) -> None:
    sent = [
        line("publish", channel="nowhere:1", data=1),
        line("publish", channel=channel),
        line("levitate"),
        line("publish", channel=channel, data=1),
    ]
    *failed, good = answers(gateway, "\n".join(sent))
    assert [answer["error"]["code"] for answer in failed] == [102, 107, 104]
    assert good["result"]["offset"] == 1


@pytest.mark.parametrize(
    "command",
    ['{"id": 7, "method": "INFO", "params": null}', '{\n  "id": 7,\n  "method": "info",\n  "params": {}\n}', '{"id":7,"method":"info"}'],
)
def test_a_single_command_is_answered_however_it_is_written(gateway: RunningGateway, command: str) -> None:
    (answer,) = answers(gateway, command)
    assert answer["id"] == 7 and len(answer["result"]["nodes"]) == 1


@pytest.mark.parametrize("end", ["{", '{"params": {}}', "[]", "x"])
def test_of_a_body_that_is_no_commands_nothing_is_carried_out(gateway: RunningGateway, channel: str, end: str) -> None:
    body = f"{line('publish', channel=channel, data=1)}\n{end}".encode()
    status, text = gateway.http("POST", "/api", body, {"X-API-Key": API_KEY})
    assert (status, json.loads(text)["error"]["code"]) == (400, 107)
    assert gateway.api("history", channel=channel)["result"]["offset"] == 0


def test_without_a_key_it_is_closed_where_the_api_needs_none_too(start_gateway: Start) -> None:
    """Such an API may be closed by a proxy, whose rule for ``/api/`` does not know this path."""
    open_to_all = start_gateway(RULES + "[insecure]\napi = true\n")
    assert open_to_all.http("POST", "/api/info", b"{}")[0] == 200
    assert open_to_all.http("POST", "/api", line("info").encode())[0] == 401
    assert open_to_all.http("POST", "/api", line("info").encode(), {"X-API-Key": API_KEY})[0] == 200


def test_an_empty_body_and_a_missing_key_are_refused(gateway: RunningGateway) -> None:
    assert gateway.http("POST", "/api", b"", {"X-API-Key": API_KEY})[0] == 400
    assert gateway.http("POST", "/api", line("info").encode())[0] == 401
    assert gateway.http("GET", "/api", None, {"X-API-Key": API_KEY})[0] == 405
