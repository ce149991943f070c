"""Tokens that come again: their signature is not verified twice, and everything that may change is looked at each time."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.auth import known_tokens, tokens
from gateway.auth.claims import Claims
from gateway.auth.known_tokens import KnownTokens, token_digest
from gateway.auth.plain_tokens import plain_claims
from gateway.config import Config, Tokens
from gateway.control.revocations import Revocations
from gateway.errors import Disconnect, TokenInvalid, TokenStale
from gateway.rules.identity import Identity
from gateway.session.authentication import Authentication

from ..kit.clock import FrozenClock
from ..kit.keys import P256, KeyServer, by_secret, jwk, signed, verifier
from ..kit.tokens import SECRET, claiming


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signatures were verified."""
    seen: list[str] = []

    def counted(token: str, *rest: Any) -> Claims | None:
        seen.append(token)
        return plain_claims(token, *rest)

    monkeypatch.setattr(tokens, "plain_claims", counted)
    return seen


def test_a_signature_is_verified_once(judged: list[str]) -> None:
    checks, token = by_secret(), claiming(sub="u1", info={"n": 1})
    first = checks.connection(token)
    assert checks.connection(token) == first
    assert judged == [token]


def test_another_token_is_verified_however_alike_it_is(judged: list[str]) -> None:
    checks, token = by_secret(), claiming(sub="u1")
    checks.connection(token)
    for other in (token[:-1], token + "A", token.replace(".", "..", 1)):
        with pytest.raises(TokenInvalid):
            checks.connection(other)
    assert len(judged) == 4


def test_a_refused_token_is_not_remembered(judged: list[str]) -> None:
    checks, bad = by_secret(), claiming(sub="u1")[:-2]
    for _ in range(2):
        with pytest.raises(TokenInvalid):
            checks.connection(bad)
    assert judged == [bad, bad]


def test_a_known_subscription_token_is_no_connection_token_and_the_other_way_round() -> None:
    checks, connection, subscription = by_secret(), claiming(sub="u1"), claiming(sub="u1", channel="a")
    checks.connection(connection)
    assert checks.subscription(subscription) is checks.subscription(subscription)
    with pytest.raises(TokenInvalid, match="subscription token"):
        checks.connection(subscription)
    with pytest.raises(TokenInvalid, match="names no channel"):
        checks.subscription(connection)


@pytest.mark.parametrize("ends", [{"exp": 60}, {"expire_at": 60}, {"exp": 60, "expire_at": 600}, {"exp": 600, "expire_at": 60}])
def test_a_known_token_ends_like_any_other(ends: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    checks, token = by_secret(leeway=10), claiming(sub="u1", **{name: now + seconds for name, seconds in ends.items()})
    checks.connection(token)
    for seconds, ended in ((69, False), (71, True)):
        monkeypatch.setattr(checks._known, "_now", lambda at=now + seconds: at)
        assert (checks._find(token_digest(token)) is None) is ended


@pytest.mark.parametrize(("claim", "most"), [("nbf", 10), ("iat", 15)])
def test_a_known_token_is_not_yet_valid_where_the_clock_went_back_before_its_time(
    claim: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = int(time.time())
    checks, token = by_secret(leeway=10), claiming(sub="u1", **{claim: now})
    checks.connection(token)
    for seconds, early in ((1 - most, False), (-1 - most, True)):
        monkeypatch.setattr(checks._known, "_now", lambda at=now + seconds: at)
        assert (checks._find(token_digest(token)) is None) is early


def test_a_token_that_ended_is_refused_with_the_usual_words(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    checks, token = by_secret(), claiming(sub="u1", exp=int(now) + 2)
    checks.connection(token)
    monkeypatch.setattr(time, "time", lambda: now + 5)
    checks._known._now = time.time
    with pytest.raises(TokenStale, match="token expired"):
        checks.connection(token)


async def test_keys_that_are_fetched_again_forget_what_the_older_ones_verified(key_server: KeyServer, judged: list[str]) -> None:
    clock = FrozenClock()
    key_server.answer = json.dumps({"keys": [jwk(P256, "first")]}).encode()
    checks = verifier(clock, jwks_url=key_server.url)
    await checks.learn()
    token = signed(P256, "ES256", "first")
    checks.connection(token)
    checks.connection(token)
    assert len(judged) == 1
    key_server.answer = b'{"keys":[]}'
    clock.pass_time(60)
    await checks.learn()
    with pytest.raises(TokenInvalid):
        checks.connection(token)


def test_a_known_token_that_is_revoked_is_refused() -> None:
    revocations = Revocations(SimpleNamespace(layout=SimpleNamespace(prefix="gw")))  # type: ignore[arg-type]  # Valkey is not asked
    config = Config(tokens=Tokens(hmac_secret=SECRET))
    authentication = Authentication(config, by_secret(), revocations)
    token = claiming(sub="u1", jti="7", iat=int(time.time()))
    assert authentication.authenticate(token).user == "u1"
    revocations.add("", "7", 0.0, time.time() + 60)
    with pytest.raises(Disconnect, match="revoked"):
        authentication.authenticate(token)


def test_only_so_many_and_only_short_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_tokens, "KNOWN_MOST", 10)
    known = KnownTokens(lambda: 0.0)
    for number in range(100):
        known.add(token_digest(f"token {number}"), 0.0, 1.0, Identity(f"u{number}"))
        assert len(known) <= 10
        assert known.find(token_digest(f"token {number}"), 0.0) == Identity(f"u{number}")
    assert known.find(token_digest("token 0"), 0.0) is None
    known.add(token_digest("x" * (known_tokens.LONGEST + 1)), 0.0, 1.0, Identity("long"))
    assert known.find(token_digest("x" * (known_tokens.LONGEST + 1)), 0.0) is None
