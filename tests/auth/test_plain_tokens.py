"""The short way of verifying tokens accepts nothing that PyJWT refuses, and finds the same claims."""

from __future__ import annotations

import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import tokens as tokens_module
from gateway.auth.keys import Keys
from gateway.auth.plain_tokens import plain_claims
from gateway.auth.tokens import Verifier
from gateway.config import Tokens
from gateway.errors import TokenInvalid, TokenStale

from ..kit.examples import examples
from ..kit.keys import P256, SIGNERS, base64_of, by_secret, made, pem, signed
from ..kit.tokens import SECRET, claiming

NOW = time.time()  # when the tests are collected; they may run minutes later


def is_plain(token: str, **options: Any) -> bool:
    chosen = Tokens(**({"hmac_secret": SECRET} | options))
    try:
        return plain_claims(token, Keys(chosen), chosen) is not None
    except jwt.InvalidTokenError:
        return False


def judged_by_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "plain_claims", lambda *_: None)


def outcome(verifier: Verifier, token: str) -> object:
    try:
        return verifier.connection(token)
    except (TokenInvalid, TokenStale) as error:
        return type(error), str(error)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_usual_token_of_any_algorithm_needs_no_second_judge(algorithm: str, key_file: Any) -> None:
    key = SIGNERS[algorithm]
    options = {"hmac_secret": key} if isinstance(key, str) else {"hmac_secret": "", "public_key_file": key_file(key)}
    token = signed(key, algorithm, exp=NOW + 9000, iat=NOW)
    assert is_plain(token, **options)
    head, body, signature = token.split(".")
    assert not is_plain(f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", **options)


GOOD = claiming(sub="u1")
HEAD, BODY, SIGNATURE = GOOD.split(".")
LAST = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NONE = b'{"alg":"none"}'
UNUSUAL = {
    "cut": GOOD[:-1],
    "padded": GOOD + "=",
    "not canonical": GOOD[:-1] + LAST[LAST.index(GOOD[-1]) ^ 1],
    "a line end": GOOD + "\n",
    "a space": HEAD + "." + BODY + " ." + SIGNATURE,
    "not ASCII": GOOD + "é",
    "four parts": GOOD + "." + SIGNATURE,
    "no parts": "token",
    "nothing": "",
    "no signature": f"{HEAD}.{BODY}.",
    "no algorithm": made("{}", {"typ": "JWT"}),
    "alg none": f"{base64_of(NONE).decode()}.{BODY}.",
    "an algorithm of other keys": made("{}", {"alg": "HS512"}),
    "an algorithm that is no text": made("{}", {"alg": ["HS256"]}),
    "critical extensions": made("{}", {"alg": "HS256", "crit": ["b64"], "b64": False}),
    "a key in the header": made("{}", {"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}),
    "a key id that is no text": made("{}", {"alg": "HS256", "kid": 5}),
    "another secret's": made("{}", sign=lambda text: hmac.digest(b"another secret", text, "sha256")),
    "the signature of nothing": made("{}", sign=lambda text: b""),
    **{
        claims: made(claims)
        for claims in ("[]", "null", '"u1"', '{"exp":null}', '{"sub":null}', '{"jti":null}', '{"iat":"5"}', '{"exp":"9e9"}')
    },
    **{
        claims: made(claims)
        for claims in ('{"exp":NaN}', '{"exp":1e400}', '{"nbf":1e400}', '{"exp":0}', '{"sub":"\\ud800"}', '{"exp":true}')
    },
    "a claim of no interest with a number that Python does not read": made('{"other":%s}' % ("9" * 4301)),
    "a claim of no interest that is nested deep": made('{"other":%s}' % ("[" * 300 + "]" * 300)),
    "a claim of no interest that is no UTF-8": made('{"other":"\udcff"}'),
    "a name of no interest that is no UTF-8": made('{"\udcff":1}'),
    "ended": claiming(exp=NOW - 9000),
    "not yet": claiming(nbf=NOW + 9000),
    "issued later": claiming(iat=NOW + 9000),
}


@pytest.mark.parametrize("token", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_or_bad_token_is_left_to_pyjwt(token: str) -> None:
    assert not is_plain(token)


def test_a_public_key_is_no_secret_on_the_short_way_either(key_file: Any) -> None:
    public = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert pem(P256).encode() == public
    forged = made("{}", sign=lambda text: hmac.digest(public, text, "sha256"))
    assert not is_plain(forged, hmac_secret="", public_key_file=key_file(P256))


def test_audience_and_issuer_are_checked_on_the_short_way_too() -> None:
    good = claiming(aud=["there", "here"], iss="us")
    assert is_plain(good, audience="here", issuer="us")
    assert is_plain(good)
    assert not is_plain(good, audience="elsewhere")
    assert not is_plain(good, issuer="them")
    for bad in ({"aud": "here"}, {"iss": "us"}, {"aud": 5, "iss": "us"}, {"aud": [5], "iss": "us"}, {"aud": "here", "iss": ["us"]}):
        assert not is_plain(made(json.dumps(bad)), audience="here", issuer="us")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TIMES = st.sampled_from([NOW - 100, NOW + 9000, int(NOW) - 100, int(NOW) + 9000, 0, None, "5", True, float("nan"), float("inf")])
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("exp", "nbf", "iat", "expire_at"), TIMES),
        **dict.fromkeys(("sub", "jti", "iss", "b64info", "channel"), st.sampled_from(["u1", "", "us", "eyJuIjoxfQ==", None, 5])),
        **dict.fromkeys(("info", "meta", "data"), JSON),
        "aud": st.sampled_from(["here", ["here"], [], None, 5]),
        "channels": st.just(["a"]) | JSON,
        "subs": st.dictionaries(st.sampled_from(["a", "b"]), st.fixed_dictionaries({}, optional={"info": JSON, "data": JSON})) | JSON,
        "other": JSON,
    },
)


@settings(deadline=None, max_examples=examples(300))
@given(claims=CLAIMS, spaces=st.booleans(), audience=st.sampled_from(["", "here"]))
def test_both_ways_find_the_same_in_any_token(claims: dict[str, Any], spaces: bool, audience: str) -> None:
    token = made(json.dumps(claims, separators=(", ", ": ") if spaces else (",", ":")))
    shortly = outcome(by_secret(audience=audience), token)
    with pytest.MonkeyPatch.context() as monkeypatch:
        judged_by_pyjwt(monkeypatch)
        assert shortly == outcome(by_secret(audience=audience), token)


def test_a_token_of_a_backend_whose_clock_is_a_little_ahead_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refusal would be final, and of a clock that is half a second ahead it would come now and then."""
    for pyjwt_judges in (False, True):
        if pyjwt_judges:
            judged_by_pyjwt(monkeypatch)
        now, checks = int(time.time()), by_secret()
        assert checks.connection(claiming(sub="u1", iat=now + 4)).user == "u1"
        for early in ({"iat": now + 9}, {"nbf": now + 4}, {"iat": now + 4, "nbf": now + 4}):
            with pytest.raises(TokenInvalid, match="not yet valid"):
                checks.connection(claiming(**early))


def test_what_a_token_carries_is_on_one_line_however_it_was_written() -> None:
    token = made('{"sub":"u1","info":{"n":\n1},"meta": [1,\r\n2],"subs":{"a":{"data":{"x" :1}}}}')
    assert is_plain(token)
    identity = by_secret().connection(token)
    assert (identity.info, identity.meta, identity.channels["a"].data) == (b'{"n":1}', b"[1,2]", b'{"x":1}')
