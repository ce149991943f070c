"""An inbox as publishers, backends and clients ask for it: in Python, over the server API, over HTTP and as rpc."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from jwt.exceptions import DecodeError, InvalidSignatureError

from gateway.auth.token_faults import sentence_of
from gateway.publication import Position
from publishers import Publisher, SyncPublisher

from ...kit.channels import new_user
from ...kit.clients import client
from ...kit.gateways import API_KEY, RunningGateway
from ...kit.inboxes import NOT_A_NOTIFICATION, Box, marks
from ...kit.valkeys import OwnValkey

TEXTS = {
    **{103: "permission denied", 107: "bad request", 109: "token expired", 112: "unrecoverable position"},
    **{3500: "invalid token", 3501: "bad request"},
}


def fault(code: int, sentence: str) -> dict[str, Any]:
    """The answer for an error: the protocol's text, and the cause."""
    return {"error": {"code": code, "message": TEXTS[code], "hint": sentence}}


# Publishers.


@contextlib.asynccontextmanager
async def _publisher(own: OwnValkey, prefix: str, kind: str) -> AsyncIterator[Callable[..., Awaitable[Position | None]]]:
    if kind == "plain":
        with SyncPublisher(own.url, prefix=prefix) as plain:
            yield lambda *words, **options: asyncio.to_thread(plain.notify, *words, **options)
    else:
        async with Publisher(own.url, prefix=prefix) as publisher:
            yield publisher.notify


@pytest.mark.parametrize("kind", ["asyncio", "plain"])
async def test_publishers_notify_once_for_a_key_and_refuse_mistakes(own: OwnValkey, gateway: RunningGateway, box: Box, kind: str) -> None:
    async with _publisher(own, gateway.prefix, kind) as notify:
        first = await notify(box.user, {"id": "a", "text": "…"}, idempotency_key="k")
        assert await notify(box.user, {"id": "other"}, idempotency_key="k") == first
        assert await notify(box.user, {"id": "a", "text": "updated"}) == Position(first.epoch, 2)
        assert own.client.zcard(box.keys[2]) == 2, "without a key it is given one, so that it can be repeated"
        [only] = await box.pages(5)
        assert (only["data"], only["unread"], await box.state()) == ({"id": "a", "text": "updated"}, True, (1, 2))
        for notification in ({}, {"id": ""}, {"id": 7}, {"id": "ü" * 101}, ["id"]):
            with pytest.raises(ValueError, match=NOT_A_NOTIFICATION):
                await notify(box.user, notification)
        for nobody in ("", "a#b", "a{b}", "x" * 250, "a\nb"):
            with pytest.raises(ValueError, match=r"there is no user|has no channel of its own|the channel's name"):
                await notify(nobody, {"id": "a"})
        assert await box.state() == (1, 2)


@pytest.mark.parametrize("kind", ["asyncio", "plain"])
async def test_publishers_refuse_data_nested_deeper_than_the_api_does(
    own: OwnValkey, gateway: RunningGateway, user: str, kind: str
) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert gateway.api("notify", user=user, data={"id": "a", "deep": deep})["error"]["code"] == 107
    async with _publisher(own, gateway.prefix, kind) as notify:
        with pytest.raises(ValueError):
            await notify(user, {"id": "a", "deep": deep})


async def test_notifications_under_way_when_the_connection_broke_count_once(own: OwnValkey, gateway: RunningGateway, box: Box) -> None:
    async with Publisher(own.url, prefix=gateway.prefix) as publisher:
        assert publisher._commands is not None
        connection = await publisher._commands.call("CLIENT", "ID")
        under_way = [asyncio.ensure_future(publisher.notify(box.user, {"id": f"n{n % 10}"})) for n in range(30)]
        await asyncio.sleep(0)
        own.client.client_kill_filter(_id=connection)
        await asyncio.gather(*under_way)
    assert sorted(box.unread().items(), key=lambda mark: mark[1]) == [(f"n{n}", n + 21) for n in range(10)]
    assert await box.state() == (10, 30)


# The server API.


def test_the_server_api_notifies_one_user(gateway: RunningGateway, user: str) -> None:
    first = gateway.api("notify", user=user, data={"id": "a", "n": 1}, idempotency_key="k")["result"]
    assert first["offset"] == 1
    assert gateway.api("notify", user=user, data={"id": "a", "n": 2}, idempotency_key="k")["result"] == first
    assert gateway.api("notify", user=user, data={"id": "a", "n": 3})["result"] == first | {"offset": 2}
    [only] = listed(gateway, user)["notifications"]
    assert (only["data"], only["unread"]) == ({"id": "a", "n": 3}, True)


def test_the_server_api_notifies_several_users_each_with_an_answer_of_its_own(gateway: RunningGateway) -> None:
    first, second = new_user(), new_user()
    gateway.api("notify", user=second, data={"id": "before"})
    answers = gateway.api("notify", users=[first, "a#b", second, "{}"], data={"id": "a"})["result"]["responses"]
    assert [answer.get("result", {}).get("offset") for answer in answers] == [1, None, 2, None]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, 107, None, 107]
    assert [marks(listed(gateway, user)) for user in (first, second)] == [{"a": True}, {"a": True, "before": True}]


def test_a_batch_of_the_server_api_can_notify(gateway: RunningGateway, user: str) -> None:
    commands = [{"notify": {"user": user, "data": {"id": id}}} for id in ("a", "", "a")]
    replies = gateway.api("batch", commands=commands)["replies"]
    assert [reply.get("notify", reply.get("error"))[name] for reply, name in zip(replies, ("offset", "code", "offset"), strict=True)] == [
        1,
        107,
        2,
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"id": "a"}},
        {"users": [], "data": {"id": "a"}},
        {"user": "USER"},
        {"user": "USER", "users": ["USER"], "data": {"id": "a"}},
        {"user": "USER", "data": {}},
        {"user": "USER", "data": {"id": 7}},
        {"user": "USER", "data": {"id": "x" * 201}},
        {"user": "USER", "data": ["a"]},
        {"user": "USER", "data": None},
        {"user": ["USER"], "data": {"id": "a"}},
        {"users": "USER", "data": {"id": "a"}},
        {"user": "USER#", "data": {"id": "a"}},
        {"user": "USER}", "data": {"id": "a"}},
    ],
    ids=lambda body: json.dumps(body)[:50],
)
def test_an_invalid_notify_is_refused_and_notifies_no_user(
    gateway: RunningGateway, own: OwnValkey, user: str, body: dict[str, Any]
) -> None:
    text = json.dumps(body).replace("USER", user).encode()
    status, answer = gateway.http("POST", "/api/notify", text, {"X-API-Key": API_KEY})
    error = json.loads(answer)["error"]
    assert error.pop("hint") not in ("", "bad request")
    assert (status, error) == (200, {"code": 107, "message": "bad request"})
    assert not own.client.keys(f"*{user}*")


# Clients' requests, over HTTP and as rpc: the same answers.


def bearer(gateway: RunningGateway, user: str, **options: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.token(user, **options)}"}


def listed(gateway: RunningGateway, user: str, **query: Any) -> dict[str, Any]:
    status, answer = gateway.http("GET", f"/inbox?{urlencode(query)}", None, bearer(gateway, user))
    assert status == 200, answer
    return json.loads(answer)


Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(params=["http", "rpc"])
async def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> AsyncIterator[Ask]:
    """``ask(user, "list", limit=…)``: the answer; with ``error`` if it was refused."""

    async def over_http(user: str, method: str, /, **asked: Any) -> dict[str, Any]:
        if method == "list":
            answer = await asyncio.to_thread(gateway.http, "GET", f"/inbox?{urlencode(asked)}", None, bearer(gateway, user))
        else:
            body = json.dumps(asked).encode()
            answer = await asyncio.to_thread(gateway.http, "POST", "/inbox/read", body, bearer(gateway, user))
        return json.loads(answer[1])

    async def as_rpc(user: str, method: str, /, **asked: Any) -> dict[str, Any]:
        async with client(gateway, user) as wire:
            answer = await wire.ask("rpc", method=f"inbox.{method}", data=asked)
        return answer["rpc"]["data"] if "rpc" in answer else {"error": answer["error"]}

    yield over_http if request.param == "http" else as_rpc


async def test_clients_list_page_by_page_and_read(gateway: RunningGateway, user: str, ask: Ask) -> None:
    for number in range(5):
        gateway.api("notify", user=user, data={"id": f"n{number}", "n": number})
    first = await ask(user, "list", limit=2)
    newest = first["notifications"][0]
    assert newest == {"id": "n4", "offset": 5, "ms": newest["ms"], "unread": True, "data": {"id": "n4", "n": 4}}
    second = await ask(user, "list", limit=2, before=first["next"])
    third = await ask(user, "list", limit=2, before=second["next"])
    assert [list(marks(page)) for page in (first, second, third)] == [["n4", "n3"], ["n2", "n1"], ["n0"]]
    assert third == {"notifications": third["notifications"], "unread": 5, "change": 5, "epoch": first["epoch"], "offset": 5, "next": None}
    state = {"epoch": first["epoch"], "offset": 5}
    assert await ask(user, "read", ids=["n2"]) == state | {"unread": 4, "change": 6}
    assert await ask(user, "read", upto=f"{first['epoch']}:4") == state | {"unread": 1, "change": 7}
    assert await ask(user, "read", ids=["n4"], upto=f"{first['epoch']}:4") == state | {"unread": 1, "change": 7}
    assert await ask(user, "read", upto="another:5") == state | {"unread": 1, "change": 7}
    assert marks(await ask(user, "list")) == {"n4": True, "n3": False, "n2": False, "n1": False, "n0": False}
    assert await ask(user, "read", all=True) == state | {"unread": 0, "change": 8}


async def test_no_user_reads_anothers_inbox(gateway: RunningGateway, user: str, ask: Ask) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    for other in (user[:-1], user + "x", user.upper()):
        assert (await ask(other, "list"))["notifications"] == []
        assert (await ask(other, "read", ids=["a"]))["unread"] == 0
    assert (await ask(new_user(), "read", all=True, user=user))["error"]["code"] == 107
    assert listed(gateway, user)["unread"] == 1


@pytest.mark.parametrize("nobody", ["", "a#b", "#", "a{b}", "}", "x" * 300])
async def test_a_user_without_a_channel_has_no_inbox(gateway: RunningGateway, ask: Ask, nobody: str) -> None:
    for method, request in (("list", {}), ("read", {"all": True})):
        assert (await ask(nobody, method, **request))["error"]["code"] == 103


async def test_a_user_whose_id_leaves_no_room_for_a_namespace_connects_without_an_inbox(gateway: RunningGateway) -> None:
    async with client(gateway, "x" * 250) as wire:
        assert await wire.error("rpc", method="inbox.list") == 103


@pytest.mark.parametrize("somebody", ["a:b", "ü 🦊", "a*b", "?"])
async def test_a_user_with_any_other_name_has_an_inbox(gateway: RunningGateway, ask: Ask, somebody: str) -> None:
    somebody += new_user()
    gateway.api("notify", user=somebody, data={"id": "a"})
    assert marks(await ask(somebody, "list")) == {"a": True}
    assert (await ask(somebody, "read", all=True))["unread"] == 0


BAD_READS: list[tuple[Any, str]] = [
    ({}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"ids": []}, "ids is empty"),
    ({"all": False}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"upto": ""}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"ids": ["a"], "user": "u"}, "Object contains unknown field `user`"),
    ({"ids": "a"}, "Expected `array | null`, got `str` - at `$.ids`"),
    ({"ids": ["a", 7]}, "Expected `str`, got `int` - at `$.ids[1]`"),
    ({"ids": ["a", ""]}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"ids": ["a", "ü" * 101]}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"ids": ["a"] * 501}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"all": 1}, "Expected `bool`, got `int` - at `$.all`"),
    ({"upto": 7}, "Expected `str | null`, got `int` - at `$.upto`"),
    ({"upto": "seven"}, "'seven' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
    ({"upto": "e:-1"}, "'e:-1' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
    ({"upto": f"e:{2**53}"}, f"the offset {2**53} is past {2**53 - 1}"),
    ([], "Expected `object`, got `array`"),
    (None, "Expected `object`, got `null`"),
    ("all", "Expected `object`, got `str`"),
]


@pytest.mark.parametrize("asked, sentence", BAD_READS, ids=lambda part: json.dumps(part)[:40] if part is not None else "null")
def test_an_invalid_read_is_refused_in_words_and_changes_nothing(gateway: RunningGateway, user: str, asked: Any, sentence: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    status, answer = gateway.http("POST", "/inbox/read", json.dumps(asked).encode(), bearer(gateway, user))
    assert (status, json.loads(answer)) == (400, fault(107, sentence))
    assert listed(gateway, user)["change"] == 1


async def test_invalid_requests_as_rpc_have_the_codes_of_the_protocol(gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    async with client(gateway, user) as wire:
        for asked, _ in BAD_READS:
            answer = await wire.ask("rpc", method="inbox.read", data=asked)
            assert answer["error"] == {"code": 107, "message": "bad request"}, asked
        for asked in ({"limit": -1}, {"limit": "2"}, {"limit": 1.5}, {"before": "seven"}, {"before": 7}, {"after": "e:1"}, []):
            assert await wire.error("rpc", method="inbox.list", data=asked) == 107, asked
        assert (await wire.ask("rpc", method="inbox.list", data={"before": "another:1"}))["error"] == {
            "code": 112,
            "message": "unrecoverable position",
        }
        assert await wire.error("rpc", method="inbox.read") == 107
        assert (await wire.result("rpc", method="inbox.list"))["data"]["unread"] == 1
    async with client(gateway, token="") as anonymous:
        for method in ("inbox.list", "inbox.read"):
            assert await anonymous.error("rpc", method=method, data={"all": True} if method == "inbox.read" else {}) == 103


@pytest.mark.parametrize("body", [b"{", b"\xff", b"all", b'{"all":true}}', b"[" * 2000], ids=repr)
def test_a_body_that_is_not_json_is_400_and_changes_nothing(gateway: RunningGateway, user: str, body: bytes) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    status, answer = gateway.http("POST", "/inbox/read", body, bearer(gateway, user))
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (400, 107) and error["message"]
    assert listed(gateway, user)["change"] == 1


def test_a_body_over_the_limit_is_413_and_changes_nothing(gateway: RunningGateway, user: str, body_limit: int) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    exactly, over = (json.dumps({"ids": ["none"]}).ljust(size).encode() for size in (body_limit, body_limit + 1))
    assert gateway.http("POST", "/inbox/read", exactly, bearer(gateway, user))[0] == 200
    assert gateway.http("POST", "/inbox/read", over, bearer(gateway, user))[0] == 413
    assert listed(gateway, user)["change"] == 1


@pytest.mark.parametrize(
    "query, status, code, sentence",
    [
        ("limit=-1", 400, 107, "limit is a whole number"),
        ("limit=two", 400, 107, "limit is a whole number"),
        ("limit=²", 400, 107, "limit is a whole number"),
        ("limit=10000000000", 400, 107, "limit is a whole number"),
        ("before=seven", 400, 107, "'seven' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
        (f"before=e:{2**53}", 400, 107, f"the offset {2**53} is past {2**53 - 1}"),
        ("before=another:1", 416, 112, "the epoch is HERE now"),
        ("before=another:1&limit=0", 416, 112, "the epoch is HERE now"),
    ],
)
def test_an_invalid_list_is_refused_in_words(gateway: RunningGateway, user: str, query: str, status: int, code: int, sentence: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    path = f"/inbox?{urlencode(dict(pair.split('=') for pair in query.split('&')))}"
    given_status, answer = gateway.http("GET", path, None, bearer(gateway, user))
    assert given_status == status
    assert json.loads(answer) == fault(code, sentence.replace("HERE", epoch))


def test_a_page_before_a_position_past_the_top_is_the_first_page(gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    assert listed(gateway, user, before=f"{epoch}:1000") == listed(gateway, user)
    assert listed(gateway, user, before=f"{epoch}:1")["notifications"] == []


@pytest.mark.parametrize(
    "given, closed, status, code, sentence",
    [
        (None, False, 403, 103, "an inbox belongs to a user: there is no user"),
        (
            None,
            True,
            401,
            3501,
            'no token, and no channel that anyone may follow: send a token, or let a namespace have subscribe = "anyone"',
        ),
        ("no token", False, 401, 3500, sentence_of(DecodeError("Not enough segments"))),
        ("EXPIRED", False, 401, 109, "token expired"),
        ("FORGED", False, 401, 3500, sentence_of(InvalidSignatureError())),
    ],
)
def test_a_request_without_a_valid_token_is_refused_and_changes_nothing(
    gateway: RunningGateway,
    other_gateway: RunningGateway,
    user: str,
    given: str | None,
    closed: bool,
    status: int,
    code: int,
    sentence: str,
) -> None:
    asked = other_gateway if closed else gateway
    gateway.api("notify", user=user, data={"id": "a"})
    tokens = {"EXPIRED": gateway.token(user, seconds=-60), "FORGED": gateway.token(user)[:-4] + "AAAA"}
    headers = {} if given is None else {"Authorization": f"Bearer {tokens.get(given, given)}"}
    for method, path, body in (("GET", "/inbox", None), ("POST", "/inbox/read", b'{"all":true}')):
        given_status, answer = asked.http(method, path, body, headers)
        assert (given_status, json.loads(answer)) == (status, fault(code, sentence))
    assert listed(gateway, user)["unread"] == 1


@pytest.mark.parametrize(
    "origin, status", [("https://evil.example.org", 403), ("null", 403), ("https://app.example.org", 200), ("OWN", 200), ("", 200)]
)
def test_a_page_of_another_origin_cannot_read_with_the_users_cookie(gateway: RunningGateway, user: str, origin: str, status: int) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    headers = {"Cookie": f"gateway_token={gateway.token(user)}"}
    if origin:
        headers["Origin"] = origin.replace("OWN", gateway.url)
    given_status, answer = gateway.http("POST", "/inbox/read", b'{"all":true}', headers)
    assert given_status == status
    if status == 403:
        assert json.loads(answer) == fault(103, "allowed_origins does not list this page's origin")
    assert listed(gateway, user)["unread"] == (1 if status == 403 else 0)


def test_a_request_with_another_http_method_is_405(gateway: RunningGateway, user: str) -> None:
    assert gateway.http("POST", "/inbox", b'{"all":true}', bearer(gateway, user))[0] == 405
    assert gateway.http("GET", "/inbox/read", None, bearer(gateway, user))[0] == 405
