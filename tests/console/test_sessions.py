"""A session: where its cookie is good, what forged and foreign requests get, what each role may, and how it ends in every process."""

from __future__ import annotations

import time

import pytest

from gateway.auth.admin_keys import LIVE_PREFIX, READ, AdminKeys
from gateway.console.methods import METHODS
from gateway.edges.api.methods import METHODS as API_METHODS

from ..kit.clients import client, opened
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.keys import P256, pem
from ..kit.operators import JSON, READ_KEY, WITH_CONSOLE, WRITE_KEY, log_in, send

gateway = shared_gateway("workers = 2\nevents = true\n" + WITH_CONSOLE)

LOOKS = {"history", "presence", "presence_stats", "channels", "info"}  # of the server API


@pytest.fixture(scope="module")
def other(start_gateway_once: Start, gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> RunningGateway:
    """Another machine's, from whose configuration one key was removed; it checks tokens by a public key alone."""
    file = tmp_path_factory.mktemp("keys") / "public.pem"
    file.write_text(pem(P256))
    keys = f'admin_keys = ["a key that came in its place"]\nadmin_read_keys = ["{READ_KEY}"]\nallowed_origins = ["*"]\n'
    tokens = f'[tokens]\npublic_key_file = "{file}"\n[insecure]\nclients = true\n'
    return start_gateway_once(keys + tokens, beside=gateway)


def test_a_session_is_good_in_every_process_with_its_key_and_ends_where_that_is_removed(
    gateway: RunningGateway, other: RunningGateway
) -> None:
    writer, reader = log_in(gateway), log_in(gateway, READ_KEY)
    assert {writer.status for _ in range(10)} == {200}, "each request may reach either worker"
    assert reader.request("GET", "/admin/session", gateway=other).status == 200
    assert writer.request("GET", "/admin/session", gateway=other).status == 401
    assert writer.request("POST", "/admin/api/nodes", {}, gateway=other).status == 401


async def test_a_log_out_ends_the_cookie_and_the_live_connections_in_every_process(gateway: RunningGateway, other: RunningGateway) -> None:
    operator, bystander = log_in(gateway, READ_KEY), log_in(gateway, READ_KEY)
    token = operator.call("live")["token"]
    async with opened(other) as wire:
        await wire.result("connect", token=token)
        left = operator.request("DELETE", "/admin/session")
        assert left.status == 200 and left.headers["set-cookie"].startswith("gateway_admin=; Max-Age=0; HttpOnly; SameSite=Strict")
        assert (await wire.ended())[0] == 3500
    async with opened(other) as wire:
        await wire.send({"id": 1, "connect": {"token": token}})
        assert (await wire.ended())[0] == 3500, "its token opens no connection either"
    assert {operator.status for _ in range(10)} == {401}
    assert operator.request("GET", "/admin/session", gateway=other).status == 401
    assert bystander.status == 200


def test_a_log_out_needs_what_only_the_page_knows(gateway: RunningGateway) -> None:
    operator = log_in(gateway)
    assert operator.request("DELETE", "/admin/session", without="x-gateway-csrf").status == 403
    assert operator.request("DELETE", "/admin/session", sec_fetch_site="same-site").status == 403
    assert operator.status == 200


def test_a_request_needs_the_cookie_the_value_of_the_page_and_its_origin(gateway: RunningGateway) -> None:
    operator, another = log_in(gateway), log_in(gateway)

    def status(**changes: str) -> int:
        return operator.request("POST", "/admin/api/history_remove", {"channel": "posts:1"}, **changes).status

    assert status() == status(origin=gateway.url, host=gateway.url.partition("://")[2]) == status(sec_fetch_site="same-origin") == 200
    assert status(without="cookie") == 401
    assert status(without="x-gateway-csrf") == status(x_gateway_csrf=another.csrf) == status(x_gateway_csrf="é") == 403
    assert status(origin="https://evil.example.org") == status(origin="null") == 403
    assert status(sec_fetch_site="cross-site") == status(sec_fetch_site="same-site") == 403
    assert status(without="content-type") == status(content_type="text/plain") == 415


def test_nothing_is_done_by_get(gateway: RunningGateway) -> None:
    operator = log_in(gateway)
    for method in ("GET", "HEAD", "PUT"):
        assert operator.request(method, "/admin/api/history_remove").status == 405


def test_another_hosts_cookie_of_the_same_name_does_not_hide_ours(gateway: RunningGateway) -> None:
    operator = log_in(gateway)
    both = f"gateway_admin=v1.write.of.somebody.else; x=y; gateway_admin={operator.cookie}"
    assert operator.request("GET", "/admin/session", cookie=both).status == 200


def test_a_forged_cookie_opens_nothing(gateway: RunningGateway) -> None:
    operator = log_in(gateway, READ_KEY)
    version, role, id, until, key, signature = operator.cookie.split(".")
    token = operator.call("live")["token"]
    assert len(token.split(".")) == 3
    live = token.removeprefix(LIVE_PREFIX).replace("-", ".")
    for forged in (
        f"{version}.write.{id}.{until}.{key}.{signature}",
        f"{version}.{role}.{'0' * 32}.{until}.{key}.{signature}",
        f"{version}.{role}.{id}.{int(until) + 1}.{key}.{signature}",
        f"{version}.{role}.{id}.{until}.{'0' * 16}.{signature}",
        f"{version}.{role}.{id}.{until}.{key}.{'0' * 64}",
        live,
        operator.csrf,
        "",
        "é",
    ):
        assert operator.request("GET", "/admin/session", cookie=f"gateway_admin={forged}".encode().decode("latin-1")).status == 401, forged


def test_a_session_ends_with_its_time_and_with_the_role_of_its_key() -> None:
    keys, now = AdminKeys([WRITE_KEY], [READ_KEY]), int(time.time())
    session = keys.log_in(WRITE_KEY, now + 10)
    assert session is not None
    cookie = keys.cookie(session)
    assert keys.session_of(cookie, now) == session and keys.session_of(cookie, now + 10) is None
    assert AdminKeys([READ_KEY], [WRITE_KEY]).session_of(cookie, now) is None, "the key may only look by now"
    live = keys.live_token(session, now + 300)
    found = keys.session_of_live(live)
    assert found is not None and found.until == now + 10, "no live connection outlives the session"
    assert keys.session_of_live(cookie) is None
    assert keys.log_in("\ud800", now) is None


async def test_a_live_token_that_is_over_is_asked_for_again_and_a_forged_one_is_refused(gateway: RunningGateway) -> None:
    keys, now = AdminKeys([WRITE_KEY], [READ_KEY]), int(time.time())
    session = keys.log_in(WRITE_KEY, now + 10)
    assert session is not None
    async with opened(gateway) as wire:
        assert await wire.error("connect", token=keys.live_token(session, now - 1)) == 109  # for which gateway.js asks for another
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": keys.live_token(session, now + 9)[:-1] + "x"}})
        assert (await wire.ended())[0] == 3500


def test_each_log_in_is_a_session_of_its_own(gateway: RunningGateway) -> None:
    first, second = log_in(gateway), log_in(gateway)
    assert first.cookie != second.cookie and first.csrf != second.csrf
    third = send(gateway, "POST", "/admin/session", {"key": WRITE_KEY}, JSON | {"cookie": f"gateway_admin={first.cookie}"})
    assert first.cookie not in third.headers["set-cookie"], "a session that was there before the log-in is not taken over"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_role_read_calls_what_changes_nothing_alone(name: str, reader_statuses: dict[str, int]) -> None:
    may_look = name in LOOKS or (name not in API_METHODS and METHODS[name].role == READ)
    assert reader_statuses[name] == (200 if may_look else 403)


@pytest.fixture(scope="module")
def reader_statuses(gateway: RunningGateway) -> dict[str, int]:
    """Of each method, with a request that lacks all that it needs."""
    reader = log_in(gateway, READ_KEY)
    return {name: reader.post(name).status for name in METHODS if name != "watch"} | {"watch": 200}


@pytest.mark.parametrize("key", [READ_KEY, WRITE_KEY])
def test_no_batch_hides_a_method(gateway: RunningGateway, key: str) -> None:
    assert log_in(gateway, key).post("batch", commands=[{"publish": {"channel": "posts:1", "data": 1}}]).status == 404


def test_what_a_writer_calls_is_logged_with_who_it_was(gateway: RunningGateway) -> None:
    operator = log_in(gateway)
    operator.call("publish", channel="posts:1", data="a secret of the data")
    id = operator.cookie.split(".")[2][:8]
    assert f"the console's session {id} calls publish from 127.0.0.1" in gateway.log()
    assert "a secret of the data" not in gateway.log() and operator.cookie not in gateway.log()


async def test_the_channel_of_the_console_is_open_to_nobody_else(gateway: RunningGateway, other: RunningGateway) -> None:
    channel = log_in(gateway, READ_KEY).call("live")["channel"]
    async with client(gateway, "ann") as wire:
        assert await wire.error("subscribe", channel=channel) == 103
        assert await wire.error("publish", channel=channel, data=1) == 103
        assert await wire.error("history", channel=channel, limit=10) == 103
        assert "error" in gateway.api("subscribe", channel=channel, user="ann")
    async with opened(gateway) as wire:  # not by a token of the application either
        assert (await wire.ask("connect", token=gateway.token("bob", channels=[channel])))["error"]["code"] == 103
    async with client(other, token="") as wire:  # that may do anything elsewhere
        assert await wire.error("subscribe", channel=channel) == 103
    assert gateway.api("publish", channel=channel, data=1)["error"]["code"] == 103
    assert gateway.http("GET", f"/history?channel={channel}&limit=10")[0] == 403
    assert gateway.http("GET", f"/sse?channel={channel}")[0] == 400
