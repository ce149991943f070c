"""Publishing over HTTP without the application: what is unusual goes the other way, is answered the same, and nothing comes out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, cast

import pytest

from gateway.edges.api.plans import PLANNERS, plan

from ..kit.clients import Socket
from ..kit.gateways import API_KEY, RULES, RunningGateway, Start, shared_gateway
from ..kit.scrapes import Scraped
from ..kit.topologies import Store
from ..kit.valkeys import OwnValkey
from ..kit.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.every_valkey]

LIVE = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"

gateway = shared_gateway(RULES + "[limits]\napi_bytes = 100_000\n")


def request(method: str, body: Any, *more: str) -> bytes:
    """``body`` is JSON, or bytes that may be none."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST /api/{method} HTTP/1.1", "Host: h", f"X-API-Key: {API_KEY}", f"Content-Length: {len(text)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + text


async def answers(gateway: RunningGateway, requests: Iterable[bytes], *, pipelined: bool) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    async with await Socket.open(gateway) as raw:
        if pipelined:
            await raw.send(b"".join(requests))
        for each in requests:
            if not pipelined:
                await raw.send(each)
            status, _, body = await raw.answer()
            found.append((status, json.loads(body)))
    return found


PUBLISH = {"channel": "chat:direct", "data": 1}
USUAL = [
    ("publish", PUBLISH),
    ("broadcast", {"channels": ["chat:direct", "chat:direct.2"], "data": {"n": 1}}),
    ("notify", {"user": "direct", "data": {"id": "n1"}}),
    ("notify", {"users": ["direct", "direct2"], "data": {"id": "n1"}}),
    (
        "batch",
        {
            "commands": [
                {"publish": PUBLISH},
                {"broadcast": {"channels": ["chat:direct"], "data": 2}},
                {"notify": {"user": "u", "data": {"id": "a"}}},
            ]
        },
    ),
    ("batch", {"commands": [{"publish": PUBLISH}], "parallel": True}),
    (
        "batch",
        {
            "commands": [
                {"publish": PUBLISH},
                {"publish": {**PUBLISH, "idempotency_key": "run"}},
                {"publish": {**PUBLISH, "idempotency_key": "run", "tags": {"a": "b"}}},
                {"publish": {**PUBLISH, "skip_history": True}},
                {"broadcast": {"channels": ["chat:direct", "chat:direct", "chat:direct.2"], "data": 2}},
            ]
        },
    ),
]
UNUSUAL = [
    ("publish", {**PUBLISH, "idempotencykey": "k"}),
    ("publish", {"channel": "chat:direct"}),
    ("publish", {"channel": "absent:direct", "data": 1}),
    ("publish", {"channel": "chat:{", "data": 1}),
    ("publish", b"{"),
    ("publish", b""),
    ("publish", b'{"channel":"chat:direct","data":"\\ud83d"}'),
    ("notify", {"user": "a#b", "data": {"id": "n"}}),
    ("notify", {"user": "u", "data": {}}),
    ("batch", {"commands": [{"publish": PUBLISH}, {"publish": {"channel": "absent:a", "data": 1}}, {"publish": PUBLISH}]}),
    ("batch", {"commands": [{"publish": PUBLISH}, {"history": {"channel": "chat:direct", "limit": 1}}]}),
    ("batch", {"commands": [{"publish": PUBLISH, "notify": {"user": "u", "data": {"id": "a"}}}]}),
    ("batch", {"commands": [{"publish": PUBLISH}] * 201}),
    ("batch", {"commands": []}),
    ("broadcast", {"channels": [], "data": 1}),
]


def _without_positions(answer: tuple[int, Any]) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(each) for name, each in value.items() if name not in ("offset", "epoch")} | {"?": "offset" in value}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return answer[0], strip(answer[1])


@pytest.mark.parametrize(("method", "body"), [*USUAL, *UNUSUAL])
async def test_it_is_answered_as_by_the_application(gateway: RunningGateway, method: str, body: Any) -> None:
    """``Connection: close`` sends a request to the application. From the third on, the head is one that came before."""
    one, other = request(method, body), request(method, body, "Connection: close")
    direct = await answers(gateway, [one] * 4, pipelined=False)
    (expected,) = await answers(gateway, [other], pipelined=False)
    assert [_without_positions(each) for each in direct] == [_without_positions(expected)] * 4


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/api/publish", f"X-API-Key: {API_KEY}"),
        ("/api/publish", f"Authorization: APIKEY   {API_KEY} "),
        ("/api/publish", f"Authorization: Bearer {API_KEY}"),
        (f"/api/publish?api_key={API_KEY}", ""),
        (f"/api/publish?api_key=%{ord(API_KEY[0]):x}{API_KEY[1:]}", ""),
        (f"/api/publish?api_key={API_KEY}&api_key=another", ""),
        (f"/api/publish?api_key={API_KEY}", "X-API-Key: another"),
        (f"/api/publish?api_key={API_KEY}", "X-API-Key: "),
        (f"/api/publish?{'a&' * 100}api_key={API_KEY}", ""),
        ("/api/publish", f"X-API-Key: another\r\nX-API-Key: {API_KEY}"),
        ("/api/publish", f"X-API-Key: {API_KEY}\r\nX-API-Key: another"),
        ("/api/publish", f"X-API-Key: {API_KEY}\xe9"),
        ("/api/%70ublish", f"X-API-Key: {API_KEY}"),
        ("/api/publish/", f"X-API-Key: {API_KEY}"),
        ("http://h/api/publish", f"X-API-Key: {API_KEY}"),
        ("/api/publish", f"X-API-Key: {API_KEY}\r\nOrigin: http://another.test"),
        ("/api/publish", f"X-API-Key: {API_KEY}\r\nContent-Type: text/plain; charset=utf-16\r\nContent-Encoding: gzip"),
    ],
)
async def test_every_form_of_a_head_is_answered_as_by_the_application(
    gateway: RunningGateway, target: str, headers: str, chunked: bool
) -> None:
    body = json.dumps(PUBLISH).encode()
    if chunked:
        length, sent = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    else:
        length, sent = f"Content-Length: {len(body)}", body

    async def answered(more: str, times: int) -> list[Any]:
        head = "\r\n".join(filter(None, [f"POST {target} HTTP/1.1", "Host: h", headers, length, more])).encode("latin-1")
        found = []
        async with await Socket.open(gateway) as raw:
            for _ in range(times):
                await raw.send(head + b"\r\n\r\n" + sent)
                status, fields, text = await raw.answer()
                names = {name: value for name, value in fields.items() if name not in ("date", "connection", "content-length")}
                found.append((_without_positions((status, json.loads(text))), names))
        return found

    assert await answered("", 4) == await answered("Connection: close", 1) * 4


async def test_usual_requests_are_what_a_plan_is_made_for(gateway: RunningGateway) -> None:
    assert {method for method, _ in USUAL} == set(PLANNERS)


async def test_the_answers_of_one_read_are_in_the_order_of_the_requests(gateway: RunningGateway) -> None:
    """Direct ones, one for the application that was first taken directly, and one of another kind."""
    number, requests, expected = 0, [], []
    for _ in range(8):
        for _ in range(5):
            requests.append(request("publish", {"channel": "chat:order", "data": number}))
            number += 1
        requests += [request("publish", {"channel": "absent:order", "data": 1}), request("info", {}), LIVE]
        expected += ["result"] * 5 + ["error", "result", "status"]
    found = await answers(gateway, requests, pipelined=True)
    assert [next(iter(body)) for _, body in found] == expected
    offsets = [body["result"]["offset"] for _, body in found if "offset" in body.get("result", {})]
    assert offsets == list(range(offsets[0], offsets[0] + number))
    history = (await gateway.ask("history", channel="chat:order", limit=-1))["publications"]
    assert [each["data"] for each in history] == list(range(number))


async def test_publications_of_a_batch_that_go_to_valkey_together_fail_apart(gateway: RunningGateway, store: Store) -> None:
    """Another program made the channel's idempotency keys something else: those with a key fail, as they do by themselves."""
    channel = "chat:apart"
    await gateway.ask("publish", channel=channel, data=0)
    store.set(f"{gateway.prefix}:{{{channel}}}:keys", "of another program")
    commands = [{"publish": {"channel": channel, "data": n, **({"idempotency_key": "k"} if n % 3 == 2 else {})}} for n in range(1, 7)]
    ((_, found),) = await answers(gateway, [request("batch", {"commands": commands})], pipelined=False)
    outcomes = [
        reply["publish"].get("offset", reply.get("error", {}).get("code")) if "publish" in reply else "error" for reply in found["replies"]
    ]
    assert outcomes == [2, "error", 3, 4, "error", 5]
    history = (await gateway.ask("history", channel=channel, limit=-1))["publications"]
    assert [each["data"] for each in history] == [0, 1, 3, 4, 6]


async def test_publications_to_several_channels_that_go_to_valkey_together_fail_apart(gateway: RunningGateway, store: Store) -> None:
    """Another program made one channel's idempotency keys something else."""
    await gateway.ask("publish", channel="chat:each1", data=0)
    store.set(f"{gateway.prefix}:{{chat:each1}}:keys", "of another program")
    commands = [{"publish": {"channel": f"chat:each{n % 3}", "data": n, "idempotency_key": f"k{n}"}} for n in range(6)]
    ((_, found),) = await answers(gateway, [request("batch", {"commands": commands})], pipelined=False)
    assert [reply.get("publish", {}).get("offset", "error") for reply in found["replies"]] == [1, "error", 1, 2, "error", 2]
    history = (await gateway.ask("history", channel="chat:each2", limit=-1))["publications"]
    assert [each["data"] for each in history] == [2, 5]


@pytest.mark.parametrize("size", [1, 50, 4000, 100_000], ids="{} bytes at a time".format)
async def test_requests_with_known_heads_are_in_order_wherever_the_segments_end(gateway: RunningGateway, size: int) -> None:
    channel = f"chat:known.{size}"
    each = [request("publish", {"channel": channel, "data": number, "tags": {"t": "x" * number}}) for number in range(100)]
    async with await Socket.open(gateway) as raw:
        for one in each[:3]:
            await raw.send(one)
            await raw.answer()
        rest = b"".join(each[3:])
        for start in range(0, len(rest), size):
            await raw.send(rest[start : start + size])
        offsets = [json.loads((await raw.answer())[2])["result"]["offset"] for _ in each[3:]]
    history = (await gateway.ask("history", channel=channel, limit=-1))["publications"]
    assert [publication["data"] for publication in history] == list(range(100)) and offsets == list(range(4, 101))


async def test_a_body_may_come_in_parts_and_may_be_too_large(gateway: RunningGateway) -> None:
    body = json.dumps({"channel": "chat:parts", "data": "x" * 70_000}).encode()
    head = f"POST /api/publish HTTP/1.1\r\nHost: h\r\nX-API-Key: {API_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with await Socket.open(gateway) as raw:
        await raw.send(head)
        for start in range(0, len(body), 1000):
            part = body[start : start + 1000]
            await raw.send(b"%x\r\n%b\r\n" % (len(part), part))
        await raw.send(b"0\r\n\r\n")
        assert json.loads((await raw.answer())[2])["result"]["offset"] == 1
        await raw.send(head + b"%x\r\n%b\r\n" % (100_001, b"x" * 100_001))
        assert (await raw.answer())[0] == 413


async def test_a_client_that_leaves_harms_nobody_and_is_published_for(gateway: RunningGateway) -> None:
    async with await Socket.open(gateway) as raw:
        await raw.send(b"".join(request("publish", {"channel": "chat:left", "data": number}) for number in range(20)))
    async with asyncio.timeout(5):
        while (await gateway.ask("history", channel="chat:left"))["offset"] != 20:
            await asyncio.sleep(0.01)


@pytest.mark.one_server
async def test_what_valkey_does_not_take_is_an_error_of_each(own: OwnValkey, start_gateway: Start) -> None:
    gateway = await asyncio.to_thread(start_gateway, RULES, valkey_url=own.url, seconds={"gateway.store.connection.PATIENCE_SECONDS": 0.3})
    own.client.execute_command("CONFIG", "SET", "maxmemory", "1")
    plain, transport, batch = await answers(
        gateway,
        [
            request("publish", PUBLISH),
            request("publish", PUBLISH, "X-Centrifugo-Error-Mode: transport"),
            request("batch", {"commands": [{"publish": PUBLISH}]}),
        ],
        pipelined=False,
    )
    own.client.execute_command("CONFIG", "SET", "maxmemory", "0")
    assert (plain[0], plain[1]["error"]["code"]) == (200, 100)
    assert (transport[0], transport[1]["error"]["code"]) == (500, 100)
    assert batch[1]["replies"][0]["error"]["code"] == 100


@pytest.mark.one_server
async def test_bodies_that_are_under_way_together_have_the_limit_of_one(own: OwnValkey, start_gateway: Start) -> None:
    """Valkey is silent: of ten requests of 40,000 bytes two are on their way, and the others wait in the client's socket."""
    gateway = await asyncio.to_thread(start_gateway, RULES + "[limits]\napi_bytes = 100_000\n", valkey_url=own.url)
    each = request("publish", {"channel": "chat:large", "data": "x" * 40_000})

    async def received(requests: int) -> bool:
        _, figures = await asyncio.to_thread(gateway.http, "GET", "/metrics", headers={"X-API-Key": API_KEY})
        size = Scraped.of(figures.decode()).value("gateway_received_bytes_total", source="api")
        return size == requests * len(each.partition(b"\r\n\r\n")[2])

    async with await Socket.open(gateway) as raw:
        await raw.send(each)
        await raw.answer()
        own.client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        await raw.send(each * 10)
        await eventually(lambda: received(3), "two are on their way")
        assert await received(3), "no other was read when the gateway had another turn"
        own.client.execute_command("CLIENT", "UNPAUSE")
        assert [json.loads((await raw.answer())[2])["result"]["offset"] for _ in range(10)] == list(range(2, 12))


@pytest.mark.parametrize(
    "method, body",
    [
        ("broadcast", {"channels": ["chat:x"] * 1000, "data": 1}),
        ("notify", {"users": ["u"] * 1000, "data": {"id": "a"}}),
        ("batch", {"commands": [{"publish": PUBLISH}] * 1000}),
    ],
)
async def test_a_request_that_is_too_much_for_a_plan_costs_no_more_than_to_read_it(method: str, body: Any) -> None:
    assert plan(cast(Any, None), method, json.dumps(body).encode()) is None  # without a node no rule can be looked up
