"""The server API, GET /history and the health checks, over plain HTTP; and what programs write straight into Valkey."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import valkey

from gateway.edges.api.requests import PATTERN_MOST, PublishRequest
from gateway.edges.api.unknown_fields import NAMED_MOST, unknown_fields

from ..kit.clients import Socket, client, stream
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start, shared_gateway
from ..kit.publishing import publish_many

LIMIT = 200_000
NO_NAMESPACE = "no namespace 'nowhere' is configured; its rules are a table [namespaces.nowhere] in gateway.toml"

gateway = shared_gateway(f'allowed_origins = ["https://app.example.org"]\n{RULES}[limits]\napi_bytes = {LIMIT}\n')


def call(gateway: RunningGateway, method: str, body: Any, mode: str = "") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = gateway.http("POST", f"/api/{method}", data, {"X-API-Key": API_KEY, "X-Centrifugo-Error-Mode": mode})
    return status, json.loads(answer) if answer else None


# Who may call.


def test_the_key_comes_in_three_ways(gateway: RunningGateway) -> None:
    for scheme in ("apikey", "ApiKey"):
        assert gateway.http("POST", "/api/info", b"{}", {"Authorization": f"{scheme} {API_KEY}"})[0] == 200
    assert gateway.http("POST", "/api/info", b"{}", {"X-API-Key": API_KEY})[0] == 200
    assert gateway.http("POST", f"/api/info?api_key={API_KEY}", b"{}")[0] == 200


@pytest.mark.parametrize(
    "path, headers",
    [
        ("/api/info", {}),
        ("/api/info", {"X-API-Key": ""}),
        ("/api/info", {"X-API-Key": "wrong"}),
        ("/api/info", {"X-API-Key": API_KEY + "x"}),
        ("/api/info", {"X-API-Key": API_KEY[:-1]}),
        ("/api/info", {"X-API-Key": "clé"}),
        ("/api/info", {"Authorization": f"Bearer {API_KEY}"}),
        ("/api/info", {"X-API-Key": "wrong", "Authorization": f"apikey {API_KEY}"}),
        ("/api/info?api_key=wrong", {}),
        ("/api/nothing", {}),
        ("/api/publish", {"X-API-Key": "wrong"}),
    ],
)
async def test_without_a_good_key_the_answer_is_401_and_names_the_ways(gateway: RunningGateway, path: str, headers: dict[str, str]) -> None:
    async with await Socket.open(gateway) as raw:
        sent = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        status, _, body = await raw.request("POST", path, sent, b"not even JSON")
        error = json.loads(body)["error"]
        assert (status, error["code"], error["message"]) == (401, 101, "unauthorized") and "X-API-Key" in error["hint"]


async def test_every_refusal_looks_the_same(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        answers = []
        for key in ("", "wrong", API_KEY[:-1], API_KEY + "x"):
            status, headers, body = await raw.request("POST", "/api/publish", {"X-API-Key": key}, b"{}")
            answers.append((status, headers | {"date": ""}, body))
        assert all(answer == answers[0] for answer in answers)


def test_an_unknown_method_is_404_and_get_is_405(gateway: RunningGateway) -> None:
    status, answer = call(gateway, "levitate", {})
    assert (status, answer["error"]["code"], answer["error"]["message"]) == (404, 104, "not found")
    assert "'levitate'" in answer["error"]["hint"] and "publish" in answer["error"]["hint"]
    assert gateway.http("GET", "/api/info", None, {"X-API-Key": API_KEY})[0] in (404, 405)
    for path in ("/api/", "/api/x/api/info"):  # a proxy's rule for the path of a method finds all requests for it
        assert gateway.http("POST", path, b"{}", {"X-API-Key": API_KEY})[0] == 404, path


@pytest.mark.parametrize("body", [b"{", b"hello", b"\xff\xfe", b'{"channel":"chat:1","data":}', b"{}}"], ids=repr)
def test_what_is_not_json_is_400(gateway: RunningGateway, body: bytes) -> None:
    status, answer = call(gateway, "publish", body)
    assert (status, answer["error"]["code"]) == (400, 107) and "not JSON" in answer["error"]["hint"]


@pytest.mark.parametrize(
    "method, body",
    [
        ("publish", {"data": 1}),
        ("publish", {"channel": "", "data": 1}),
        ("publish", {"channel": 17, "data": 1}),
        ("publish", {"channel": "chat:1"}),
        ("publish", {"channel": "chat:" + "x" * 251, "data": 1}),
        ("publish", {"channel": "chat:{x}", "data": 1}),
        ("publish", {"channel": "chat:a\nb", "data": 1}),
        ("publish", {"channel": "chat:1", "data": 1, "tags": {"a": 1}}),
        ("publish", {"channel": "chat:1", "data": 1, "tags": ["a"]}),
        ("publish", {"channel": "chat:1", "data": 1, "version": -1}),
        ("publish", {"channel": "chat:1", "data": 1, "version": "1"}),
        ("publish", {"channel": "chat:1", "data": 1, "skip_history": "yes"}),
        ("publish", {"channel": "chat:1", "b64data": "%%%"}),
        ("publish", {"channel": "chat:1", "b64data": "é"}),
        ("publish", {"channel": "chat:1", "b64data": base64.b64encode(b"no json").decode()}),
        ("publish", []),
        ("publish", "text"),
        ("broadcast", {"data": 1}),
        ("broadcast", {"channels": [], "data": 1}),
        ("broadcast", {"channels": "chat:1", "data": 1}),
        ("history", {"channel": "chat:1", "limit": "all"}),
        ("history", {"channel": "chat:1", "since": {"offset": -1}}),
        ("history", {"channel": "chat:1", "since": {"offset": 2**53 + 1}}),
        ("history", {}),
        ("history", {"channel": "chat:1", "limit": 10**30}),
        ("history_remove", {}),
        ("notify", {"user": "u1"}),
        ("notify", {"user": "u1", "users": ["u2"], "data": {"id": "1"}}),
        ("refresh", {"user": "u1", "expire_at": 1e300}),
        ("refresh", {"user": "u1", "expire_at": -1}),
        ("revoke", {"user": "u1", "issued_before": 1_700_000_000_000}),
        ("subscribe", {"channel": "chat:1", "user": "u1", "expire_at": "soon"}),
        ("disconnect", {"user": "u1", "disconnect": {"code": 1000}}),
        ("channels", {"pattern": 1}),
        ("batch", {"commands": [{"levitate": {}}]}),
        ("batch", {"commands": [{}]}),
        ("batch", {"commands": {}}),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_request_of_the_wrong_shape_is_a_bad_request(gateway: RunningGateway, method: str, body: Any) -> None:
    status, answer = call(gateway, method, body)
    assert status == 200
    assert answer["error"]["code"] == 107 and answer["error"]["message"] == "bad request"
    assert answer["error"]["hint"] not in ("", "bad request")


def test_a_misspelled_field_is_named_in_a_warning_or_in_the_error(gateway: RunningGateway, channel: str) -> None:
    answer = gateway.api("publish", channel=channel, data=1, idempotencykey="k")
    assert answer["result"]["offset"] == 1
    assert answer["warnings"] == ["there is no field 'idempotencykey'; did you mean 'idempotency_key'?"]
    history = gateway.api("history", channel=channel, since={"offset": 0, "epoch": answer["result"]["epoch"], "id": 1})
    assert history["warnings"] == ["there is no field 'since.id'"]
    error = gateway.api("publish", chanel=channel, data=1)["error"]
    assert "`channel`" in error["hint"] and "'chanel'; did you mean 'channel'?" in error["hint"]
    batch = gateway.api("batch", commands=[{"publish": {"channel": channel, "data": 2, "tag": {}}}], paralel=True)
    assert batch["replies"][0]["publish"]["offset"] == 2
    assert batch["warnings"] == [
        "there is no field 'paralel'; did you mean 'parallel'?",
        "there is no field 'commands[0].publish.tag'; did you mean 'tags'?",
    ]


def test_of_very_many_unknown_fields_the_first_are_named(gateway: RunningGateway, channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"f{number}": 0 for number in range(1000)}
    assert gateway.api("publish", **many)["error"]["hint"].count("there is no field") == NAMED_MOST
    assert len(gateway.api("publish", channel=channel, data=1, **many)["warnings"]) == NAMED_MOST
    compared: list[str] = []
    monkeypatch.setattr("difflib.get_close_matches", lambda name, *_: compared.append(name) or [])
    assert unknown_fields(json.dumps(many | {"x" * 1000: 0}).encode(), PublishRequest) and len(compared) == NAMED_MOST
    assert unknown_fields(json.dumps({"x" * 1_000_000: 0}).encode(), PublishRequest) == [f"there is no field {'x' * 60!r}"]
    assert len(compared) == NAMED_MOST, "a name of a megabyte is not compared, which would take a second"


def test_a_pattern_is_no_longer_than_every_process_can_read_at_once(gateway: RunningGateway) -> None:
    """Of a pattern of a megabyte each process made a regular expression, which held its loop for 10 s."""
    assert gateway.api("channels", pattern="a" * PATTERN_MOST)["result"] == {"channels": {}}
    assert gateway.api("channels", pattern="a" * (PATTERN_MOST + 1))["error"]["code"] == 107


@pytest.mark.parametrize(
    "head, tail", [(b"", b""), (b'{"channel":"chat:1","data":', b"}"), (b'{"x":', b"}")], ids=["body", "data", "unknown field"]
)
@pytest.mark.parametrize("depth", [1000, 90_000])
def test_deep_nesting_is_a_bad_request(gateway: RunningGateway, head: bytes, tail: bytes, depth: int) -> None:
    status, answer = call(gateway, "publish", head + b"[" * depth + b"]" * depth + tail)
    assert status == 400 or answer["error"]["code"] == 107


@pytest.mark.parametrize(
    "method, body, code, status",
    [
        ("publish", {"channel": "nowhere:1", "data": 1}, 102, 404),
        ("publish", {"channel": "chat:1"}, 107, 400),
        ("history", {"channel": "forgetful:1", "limit": 1}, 108, 400),
        ("history", {"channel": "chat:1", "limit": 1, "since": {"offset": 1, "epoch": "other"}}, 112, 416),
        ("history_remove", {"channel": "forgetful:1"}, 108, 400),
    ],
)
def test_errors_are_mapped_to_statuses_where_it_is_asked_for(
    gateway: RunningGateway, method: str, body: Any, code: int, status: int
) -> None:
    usual = call(gateway, method, body)
    mapped = call(gateway, method, body, "transport")
    assert usual[0] == 200 and mapped[0] == status
    error = usual[1]["error"]
    assert error["code"] == code and error["message"]
    assert mapped[1] == {"error": error, "code": code, "message": error["message"]}, "libraries look for it without the object around it"


async def test_a_body_over_the_limit_is_413_and_one_of_the_limit_is_taken(gateway: RunningGateway, channel: str) -> None:
    def body(size: int) -> bytes:
        head = b'{"channel":"%s","data":"' % channel.encode()
        return head + b"x" * (size - len(head) - 2) + b'"}'

    async with await Socket.open(gateway) as raw:
        assert (await raw.request("POST", "/api/publish", {"X-API-Key": API_KEY}, body(LIMIT)))[0] == 200
        assert (await raw.request("POST", "/api/publish", {"X-API-Key": API_KEY}, body(LIMIT + 1)))[0] == 413


# Publishing.


def test_a_publication_gets_its_position(gateway: RunningGateway, channel: str) -> None:
    first = gateway.publish(channel, {"a": 1})
    assert first["offset"] == 1 and first["epoch"]
    assert gateway.publish(channel, {"a": 2}) == {"offset": 2, "epoch": first["epoch"]}


@pytest.mark.parametrize("data", [None, 0, False, "", {}, [], "text", 1.5, {"deep": [{"ü": None}]}, 12345678901234567890], ids=repr)
async def test_any_json_is_data_and_arrives_as_it_is(gateway: RunningGateway, channel: str, data: Any) -> None:
    async with client(gateway, subscribe=channel) as wire:
        gateway.publish(channel, data)
        assert (await wire.publication())["data"] == data


async def test_data_is_passed_on_byte_by_byte(gateway: RunningGateway, channel: str) -> None:
    """It is never parsed and written again: numbers keep their digits, keys their order and their repeats."""
    data = b'{"b":1.0,"a":1e3,"b":12345678901234567890.10,"u":"\\u00fc"}'
    call(gateway, "publish", b'{"channel":"%s","data":%s}' % (channel.encode(), data))
    answer = gateway.http("POST", "/api/history", json.dumps({"channel": channel, "limit": 1}).encode(), {"X-API-Key": API_KEY})[1]
    assert data in answer


async def test_a_string_of_javascript_that_is_no_unicode_is_data_too(gateway: RunningGateway, channel: str) -> None:
    """JSON.stringify writes half of a surrogate pair as an escape, which UTF-8 cannot hold: it arrives as U+FFFD."""
    name = channel.replace("chat", "member")
    async with client(gateway, subscribe=name) as wire:
        status, answer = call(gateway, "publish", b'{"channel":"%s","data":"\\ud800"}' % name.encode())
        assert (status, answer["result"]["offset"]) == (200, 1)
        await wire.send(f'{{"id":5,"publish":{{"channel":"{name}","data":"\\ud800"}}}}')
        messages = [await wire.next() for _ in range(3)]
        assert {"id": 5, "publish": {}} in messages
        assert [message["push"]["pub"]["data"] for message in messages if "push" in message] == ["\ufffd", "\ufffd"]


async def test_a_version_that_is_not_newer_is_dropped(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, subscribe=channel) as wire:
        for version, epoch in ((1, "a"), (3, "a"), (2, "a"), (3, "a"), (4, "a"), (1, "b"), (2**60, "b"), (2**60 - 1, "b")):
            gateway.publish(channel, f"{version}{epoch}", version=version, version_epoch=epoch)
        gateway.publish(channel, "end")
        assert [p["data"] for p in await wire.publications(6)] == ["1a", "3a", "4a", "1b", f"{2**60}b", "end"]


async def test_a_broadcast_answers_for_each_channel_in_order(gateway: RunningGateway, channel: str) -> None:
    names = [channel, "nowhere:1", f"{channel}-2", "forgetful:1"]
    async with client(gateway, subscribe=channel) as wire:
        answer = gateway.api("broadcast", channels=names, data={"to": "all"}, tags={"a": "b"})["result"]["responses"]
        assert answer[0]["result"]["offset"] == 1
        assert answer[1] == {"error": {"code": 102, "message": "unknown channel", "hint": NO_NAMESPACE}}
        assert answer[2]["result"]["offset"] == 1
        assert answer[3] == {"result": {}}
        publication = await wire.publication()
        assert (publication["data"], publication["tags"]) == ({"to": "all"}, {"a": "b"})


@pytest.mark.parametrize("parallel", [False, True])
def test_a_batch_answers_each_command_in_order(gateway: RunningGateway, channel: str, parallel: bool) -> None:
    commands = [
        {"publish": {"channel": channel, "data": 1}},
        {"publish": {"channel": "nowhere:1", "data": 1}},
        {"publish": {"channel": channel}},
        {"channels": {"pattern": "none"}},
        {"broadcast": {"channels": [channel], "data": 2}},
    ]
    status, answer = call(gateway, "batch", {"commands": commands, "parallel": parallel})
    assert status == 200 and list(answer) == ["replies"]
    one, unknown, bad, channels, broadcast = answer["replies"]
    assert one["publish"]["offset"] in (1, 2)
    assert unknown == {"error": {"code": 102, "message": "unknown channel", "hint": NO_NAMESPACE}}
    assert bad == {"error": {"code": 107, "message": "bad request", "hint": "give data or b64data"}}
    assert channels == {"channels": {"channels": {}}}
    assert broadcast["broadcast"]["responses"][0]["result"]["offset"] in (1, 2)


def test_a_command_of_a_batch_may_have_the_names_of_all_others_with_null(gateway: RunningGateway, channel: str) -> None:
    """As libraries of some languages write an object."""
    nulls = dict.fromkeys(("broadcast", "history", "map_publish"))
    commands = [
        {"publish": {"channel": channel, "data": 1, "tags": None}} | nulls,
        nulls | {"presence_stats": {"channel": channel, "pages": 1}},
    ]
    answer = gateway.api("batch", commands=commands)
    assert answer["replies"][0]["publish"]["offset"] == 1 and answer["replies"][1]["presence_stats"]["num_clients"] == 0
    assert answer["warnings"] == ["there is no field 'commands[1].presence_stats.pages'"]


def test_a_batch_in_sequence_publishes_in_order(gateway: RunningGateway, channel: str) -> None:
    assert publish_many(gateway, channel, list(range(50))) == list(range(1, 51))


@pytest.mark.parametrize("users", ["users", "us\\u0065rs"])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_publication_does_not_overtake_those_to_several_before_it(
    gateway: RunningGateway, channel: str, parallel: bool, users: str
) -> None:
    """An unknown field has the batch answered by the application on either edge. The name of a field may be written with an escape."""
    inbox = f"notifications:{channel.partition(':')[2]}"
    commands = [
        {"broadcast": {"channels": [channel, channel], "data": 1}},
        {"publish": {"channel": channel, "data": 2}},
        {"notify": {"users": [inbox.partition(":")[2]] * 2, "data": {"id": "3"}}},
        {"publish": {"channel": inbox, "data": 4}},
    ]
    body = json.dumps({"commands": commands, "parallel": parallel, "unknown": 1}).replace('"users"', f'"{users}"')
    _, answer = call(gateway, "batch", body.encode())
    broadcast, published, notified, last = answer["replies"]
    assert [each["result"]["offset"] for each in broadcast["broadcast"]["responses"]] == [1, 2]
    assert published["publish"]["offset"] == 3
    assert [each["result"]["offset"] for each in notified["notify"]["responses"]] == [1, 2]
    assert last["publish"]["offset"] == 3


# History.


def test_all_of_a_long_history_comes_with_limit_minus_one(gateway: RunningGateway, channel: str) -> None:
    name = channel.replace("chat", "endless")
    for _ in range(4):
        publish_many(gateway, name, [{"n": 1}] * 400)
    offsets = [p["offset"] for p in gateway.api("history", channel=name, limit=-1)["result"]["publications"]]
    assert offsets == list(range(1, 1601))


def test_history_that_was_removed_is_gone_and_the_counter_goes_on(gateway: RunningGateway, channel: str) -> None:
    epoch = gateway.publish(channel, 1)["epoch"]
    assert gateway.api("history_remove", channel=channel) == {"result": {}}
    assert gateway.api("history", channel=channel, limit=-1)["result"] == {"publications": [], "epoch": epoch, "offset": 1}
    assert gateway.publish(channel, 2) == {"offset": 2, "epoch": epoch}


# What is going on.


async def test_channels_lists_what_is_followed_by_pattern(gateway: RunningGateway, channel: str) -> None:
    mark = channel[5:]
    names = [f"chat:{mark}-a", f"chat:{mark}-b", f"open:{mark}-a"]
    async with client(gateway, subscribe=names[0]) as one, client(gateway) as two:
        await one.result("subscribe", channel=names[1])
        await two.result("subscribe", channel=names[0])
        await two.result("subscribe", channel=names[2])

        def found(**request: Any) -> dict[str, Any]:
            channels = gateway.api("channels", **request)["result"]["channels"]
            return {name: count for name, count in channels.items() if mark in name}

        assert found() == found(pattern="*") == {names[0]: {"num_clients": 2}, names[1]: {"num_clients": 1}, names[2]: {"num_clients": 1}}
        assert set(found(pattern=f"chat:{mark}-*")) == set(names[:2])
        assert set(found(pattern=f"*{mark}-?")) == set(names)
        assert found(pattern="chat") == {}


async def test_info_counts_this_node(gateway: RunningGateway, channel: str) -> None:
    async with client(gateway, "u1", subscribe=channel), client(gateway, "u1"), client(gateway, "u2"), stream(gateway, channel) as events:
        await events.next()
        (node,) = gateway.api("info")["result"]["nodes"]
        assert {"uid", "name", "version", "num_clients", "num_users", "num_channels", "num_subs", "uptime", "process"} <= set(node)
        assert node["num_clients"] == 4
        assert node["num_users"] == 2
        assert node["num_subs"] == 5, "one each, and the personal channels of three connections"
        assert node["process"]["rss"] > 10**7 and node["process"]["cpu"] > 0


def test_unknown_paths_are_404(gateway: RunningGateway) -> None:
    for path in (
        "/nothing",
        "/api",
        "/health",
        "/history/x",
        "/static/none.js",
        "/static/../pyproject.toml",
        "/static/%2e%2e/pyproject.toml",
    ):
        assert gateway.http("GET", path)[0] in (404, 405), path


# GET /history.


def get_history(gateway: RunningGateway, query: str, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, body = gateway.http("GET", f"/history?{query}", None, headers)
    return status, json.loads(body)


def test_a_client_reads_history_over_http(gateway: RunningGateway, channel: str) -> None:
    publish_many(gateway, channel, list(range(1, 11)))
    epoch = gateway.api("history", channel=channel)["result"]["epoch"]

    def offsets(query: str) -> list[int]:
        status, answer = get_history(gateway, f"channel={channel}{query}", gateway.token())
        assert status == 200 and (answer["epoch"], answer["offset"]) == (epoch, 10)
        return [publication["offset"] for publication in answer["publications"]]

    assert offsets("") == list(range(1, 11))
    assert offsets("&limit=3") == [1, 2, 3]
    assert offsets("&limit=0") == []
    assert offsets(f"&since={epoch}:7") == [8, 9, 10]
    assert offsets("&limit=2&reverse=1") == [10, 9]
    assert offsets(f"&since={epoch}:4&reverse=1") == [3, 2, 1]
    assert get_history(gateway, f"channel={channel}&limit=1", gateway.token())[1] == {
        "publications": [{"data": 1, "offset": 1}],
        "epoch": epoch,
        "offset": 10,
    }


@pytest.mark.parametrize(
    "query, user, status, code",
    [
        ("channel=open:1", None, 200, 0),
        ("channel=chat:1", "u1", 200, 0),
        ("channel=nowhere:1", "u1", 404, 102),
        ("channel=forgetful:1", "u1", 400, 108),
        ("channel=chat:1&limit=x", "u1", 400, 107),
        ("channel=chat:1&since=other:1", "u1", 416, 112),
        ("", "u1", 400, 107),
        ("channel=chat:%7B", "u1", 400, 107),
    ],
)
def test_the_namespaces_rules_decide_which_users_read(
    gateway: RunningGateway, query: str, user: str | None, status: int, code: int
) -> None:
    answered, answer = get_history(gateway, query, gateway.token(user) if user else None)
    assert (answered, answer.get("error", {}).get("code", 0)) == (status, code)


@pytest.mark.parametrize("way", ["cookie", "query"])
def test_history_takes_the_token_of_simple_clients(gateway: RunningGateway, way: str) -> None:
    token = gateway.token("u7")
    headers = {"Cookie": f"gateway_token={token}"} if way == "cookie" else {}
    query = f"&token={token}" if way == "query" else ""
    assert gateway.http("GET", f"/history?channel=own:u7{query}", None, headers)[0] == 200


async def test_history_lets_listed_origins_read(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        for origin, allowed in (("https://app.example.org", "https://app.example.org"), ("https://evil.test", None)):
            _, headers, _ = await raw.request("GET", "/history?channel=open:1", {"Origin": origin})
            assert headers.get("access-control-allow-origin") == allowed


def test_no_client_token_opens_the_server_api(gateway: RunningGateway) -> None:
    assert gateway.http("POST", "/api/info", b"{}", {"Authorization": f"Bearer {gateway.token()}"})[0] == 401


def test_the_server_api_may_be_opened_to_all(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[insecure]\napi = true\n")
    assert gateway.http("POST", "/api/info", b"{}")[0] == 200


# Straight into Valkey, as programs in any language do.


def keys(gateway: RunningGateway, channel: str) -> list[str]:
    base = f"{gateway.prefix}:{{{channel}}}"
    return [f"{base}:meta", f"{base}:stream", f"{base}:keys"]


BYTES = {
    "JSON": (b'{"a":1}', {"a": 1}),
    "JSON over several lines": (b'{\r\n  "a": 1\n}\n', {"a": 1}),
    "text": (b"hello", "hello"),
    "text with newlines and quotes": (b'say "hi"\nand go', 'say "hi"\nand go'),
    "half of a document": (b'{"a":', '{"a":'),
    "two documents": (b"{}{}", "{}{}"),
    "NaN": (b"NaN", "NaN"),
    "bytes of no encoding": (b"\xff\x00\xfe", "\ufffd\x00\ufffd"),
    "a thousand deep": (b"[" * 1000 + b"]" * 1000, "[" * 1000 + "]" * 1000),
    "an end of a document": (b'1},"offset":7', '1},"offset":7'),
    "a control character in a string": (b'"a\tb"', '"a\tb"'),
}


@pytest.mark.parametrize("name", BYTES)
async def test_what_fcall_publishes_arrives_as_json(gateway: RunningGateway, store: valkey.Valkey, channel: str, name: str) -> None:
    raw, expected = BYTES[name]
    async with client(gateway, subscribe=channel) as wire, stream(gateway, channel) as events:
        await events.next()
        offset, epoch = store.fcall("gateway_publish", 3, *keys(gateway, channel), raw, "tags", '{"from":"lua"}')
        publication = await wire.publication()
        assert publication == {"channel": channel, "data": expected, "offset": offset, "tags": {"from": "lua"}}
        event = await events.next()
        assert (event.data["data"], event.data["offset"], event.id) == (expected, 1, f"{epoch.decode()}:1")
    async with client(gateway) as wire:
        result = await wire.result("subscribe", channel=channel, recover=True)
        assert result["publications"] == [{"data": expected, "offset": 1, "tags": {"from": "lua"}}]
    assert gateway.api("history", channel=channel, limit=1)["result"]["publications"][0]["data"] == expected


@pytest.mark.parametrize("name", BYTES)
async def test_what_a_plain_publish_announces_is_ephemeral(gateway: RunningGateway, store: valkey.Valkey, channel: str, name: str) -> None:
    raw, expected = BYTES[name]
    async with client(gateway, subscribe=channel) as wire, stream(gateway, channel) as events:
        await events.next()
        mark = events.last_id
        assert store.publish(f"{gateway.prefix}:{{{channel}}}", raw) == 1
        assert await wire.publication() == {"channel": channel, "data": expected}
        event = await events.next()
        assert event.data == {"channel": channel, "data": expected}
        assert event.id == mark, "it has no place in history"
        gateway.publish(channel, "placed")
        assert (await wire.publication())["offset"] == 1
    assert len(gateway.api("history", channel=channel, limit=-1)["result"]["publications"]) == 1


@pytest.mark.parametrize(
    "raw", [b"@", b"@x", b"@1 2", b"@1 e 2\n", b"@1 e x\n{}", b"@-1 e 2\n{}", b"@1 e 2 {bad\n{}", b"@reset", b"@reset x y", b""], ids=repr
)
async def test_malformed_messages_of_a_gateway_break_nothing(
    gateway: RunningGateway, store: valkey.Valkey, channel: str, raw: bytes
) -> None:
    async with client(gateway, subscribe=channel) as wire:
        store.publish(f"{gateway.prefix}:{{{channel}}}", raw)
        gateway.publish(channel, "after")
        message = await wire.publication()
        while message["data"] != "after":
            assert "offset" not in message, "only an ephemeral one may come before it"
            message = await wire.publication()
        assert message["offset"] == 1
        gateway.publish(channel, "again")
        assert (await wire.publication())["offset"] == 2
    assert "Traceback" not in gateway.log()


@pytest.mark.parametrize(
    "cookies", ['prefs={"theme":"dark"}; gateway_token=%s', "a b; gateway_token=%s; c", "x; gateway_token=%s;", 'gateway_token="%s"']
)
async def test_whatever_other_cookies_hold_a_token_among_them_counts(gateway: RunningGateway, cookies: str) -> None:
    async with await Socket.open(gateway) as raw:
        for token, status in ((gateway.token("u7"), 200), (gateway.token("u7", seconds=-9), 401), ("none of ours", 401)):
            for channel in ("own:u7", "open:1"):
                found, _, _ = await raw.request("GET", f"/history?channel={channel}", {"Cookie": cookies % token})
                assert found == status, (token, channel)
