"""Logging in: who gets in, what the cookie is like, how often keys may be tried, and what other sites' pages cannot do."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.app import create_app
from gateway.config import Config, examine
from gateway.console.login import RIGHT_MOST, WRONG_HELD, WRONG_MOST, WRONG_MOST_IN_ALL, LoginLimit
from gateway.rules.addresses import block_of

from ..kit.clock import FrozenClock
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.operators import JSON, READ_KEY, WITH_CONSOLE, WRITE_KEY, Answer, log_in, send

gateway = shared_gateway(WITH_CONSOLE + 'trusted_proxies = ["127.0.0.1"]\nallowed_origins = ["https://app.example.org"]\n')

SHORT = "short but secret"[:15]


def _try(gateway: RunningGateway, key: str, address: str, **headers: str) -> Answer:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return send(gateway, "POST", "/admin/session", {"key": key}, {**JSON, "x-forwarded-for": address, **more})


def test_a_key_opens_a_session_of_its_role(gateway: RunningGateway) -> None:
    for key, role in ((WRITE_KEY, "write"), (READ_KEY, "read")):
        operator = log_in(gateway, key)
        shown = operator.request("GET", "/admin/session")
        assert (shown.json["role"], shown.json["csrf"]) == (role, operator.csrf)
        assert shown.headers["cache-control"] == "no-store"
    assert send(gateway, "GET", "/admin/session").status == 401


def test_the_cookie_is_for_the_console_alone_and_hidden_from_scripts(gateway: RunningGateway) -> None:
    cookie = _try(gateway, WRITE_KEY, "10.0.0.1").headers["set-cookie"]
    value, *attributes = cookie.split("; ")
    assert value.startswith("gateway_admin=v1.write.")
    # Without a path and a domain: a browser sends it to this host alone, under the folder that it sees, whatever a proxy takes away.
    assert attributes == ["Max-Age=28800", "HttpOnly", "SameSite=Strict"]


@pytest.mark.parametrize(
    "header", [{"x_forwarded_proto": "https"}, {"origin": "https://gw.example.org", "host": "gw.example.org"}], ids=str
)
def test_the_cookie_is_secure_where_the_browser_came_by_tls(gateway: RunningGateway, header: dict[str, str]) -> None:
    answer = _try(gateway, WRITE_KEY, "10.0.0.2", **header)
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_wrong_keys_are_counted_by_address_and_a_right_one_gets_in_from_elsewhere(gateway: RunningGateway) -> None:
    wrong = [_try(gateway, "not the key of this one", "2001:db8::1").status for _ in range(WRONG_MOST)]
    assert wrong == [401] * WRONG_MOST
    refused = _try(gateway, WRITE_KEY, "2001:db8::ffff:2")  # another address of the same network
    assert refused.status == 429 and 0 < int(refused.headers["retry-after"]) <= 60 and "set-cookie" not in refused.headers
    assert _try(gateway, WRITE_KEY, "2001:db8:0:1::1").status == 200
    assert "2001:db8::1 was refused" in gateway.log()
    assert "not the key" not in gateway.log() and WRITE_KEY not in gateway.log() and READ_KEY not in gateway.log()


def test_all_addresses_together_may_try_only_so_many_keys_again() -> None:
    clock = FrozenClock()
    limit = LoginLimit(clock)
    for number in range(WRONG_MOST_IN_ALL):
        assert limit.wait(f"10.0.{number}.1") == 0
        limit.count_wrong(f"10.0.{number}.1")
    assert limit.wait("10.0.0.1") == 60
    clock.pass_time(59.5)
    assert limit.wait("10.0.0.1") == 0.5
    clock.pass_time(0.5)
    assert limit.wait("10.0.0.1") == 0
    assert not limit._wrong, "what is over takes no memory"


def test_strangers_who_try_keys_on_and_on_lock_no_operator_out() -> None:
    limit = LoginLimit(FrozenClock())
    for number in range(2 * WRONG_HELD):
        limit.count_wrong(f"10.0.{number // 250}.{number % 250}")
    assert limit.wait("192.0.2.1") == 0, "it has tried no wrong key"
    assert len(limit._wrong) == WRONG_HELD


def test_log_ins_are_bounded_too_for_each_may_be_revoked() -> None:
    limit = LoginLimit(FrozenClock())
    for _ in range(RIGHT_MOST):
        assert limit.wait("10.0.0.1") == 0
        limit.count_right()
    assert limit.wait("10.0.0.1") == 60


@pytest.mark.parametrize(
    "address, block",
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a proxy's nonsense", "a proxy's nonsense"),
        ("", "-"),
    ],
)
def test_addresses_that_one_person_can_choose_from_count_as_one(address: str, block: str) -> None:
    assert block_of(address) == block


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.org"},
        {"origin": "https://app.example.org"},  # though allowed_origins lets it talk to the gateway
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
def test_a_page_of_another_site_cannot_log_its_visitor_in(gateway: RunningGateway, headers: dict[str, str]) -> None:
    answer = send(gateway, "POST", "/admin/session", {"key": WRITE_KEY}, JSON | headers)
    assert answer.status == 403 and "set-cookie" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_a_form_cannot_log_its_visitor_in(gateway: RunningGateway, kind: str) -> None:
    assert send(gateway, "POST", "/admin/session", {"key": WRITE_KEY}, {"content-type": kind}).status == 415


def test_a_page_behind_a_proxy_that_changes_the_host_logs_in_where_the_browser_reports_it(gateway: RunningGateway) -> None:
    log_in(gateway, origin="https://gw.example.org", sec_fetch_site="same-origin")


def test_a_log_in_is_small_and_json(gateway: RunningGateway) -> None:
    assert send(gateway, "POST", "/admin/session", {"key": "x" * 4096}, JSON).status == 413
    for body in (b"{", b"[]", b'{"key": 5}', b"[" * 4000):
        assert send(gateway, "POST", "/admin/session", body, JSON).status == 400


def test_the_folder_is_found_without_naming_a_host(gateway: RunningGateway) -> None:
    answer = send(gateway, "GET", "/admin", headers={"host": "evil.example.org"})
    assert (answer.status, answer.headers["location"]) == (307, "admin/")


def test_without_a_key_there_is_no_console() -> None:
    assert not [route for route in create_app(Config()).routes if route.path.startswith("/admin")]  # type: ignore[attr-defined]


def test_a_short_key_is_refused_in_a_sentence_that_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("admin_keys", "admin_read_keys"):
        monkeypatch.setenv(f"GATEWAY_{name.upper()}", SHORT)
        config, faults = examine()
        where = f"environment variable GATEWAY_{name.upper()}"
        assert config is None
        assert faults == [f"{where}: {name}: a key is shorter than 16 characters; make one with: openssl rand -hex 16"]
        assert examine(**{name: ["\ud800" * 20]}) == (None, [f"option --{name.replace('_', '-')}: {name}: a key is not text in UTF-8"])
        monkeypatch.delenv(f"GATEWAY_{name.upper()}")


def test_a_key_has_one_role_and_is_never_printed() -> None:
    with pytest.raises(ValidationError, match="it has one role only") as raised:
        Config(admin_keys=[WRITE_KEY], admin_read_keys=[WRITE_KEY])
    assert WRITE_KEY not in str(raised.value)
    assert WRITE_KEY not in repr(Config(admin_keys=[WRITE_KEY]))
    with pytest.raises(ValidationError, match="this namespace is the console's own"):
        Config(admin_keys=[WRITE_KEY], namespaces={"console": {}})
    assert Config(namespaces={"console": {}}).rules("console:live").subscribe == "user"
