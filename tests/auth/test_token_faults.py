"""What the log and ``gateway doctor`` have about a token that is refused: what is wrong, and what to do, whatever PyJWT calls it."""

from __future__ import annotations

import time

import jwt
import pytest

from gateway.auth import plain_tokens
from gateway.auth.signatures import parts_of
from gateway.errors import TokenInvalid

from ..kit.keys import P256, by_secret, made, signed, verifier
from ..kit.tokens import claiming, token

GOOD = token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
LATER = time.time() + 9000
FAULTS = {
    "it is no JSON Web Token": ["hello", "", "a.b"],
    "its first part is no base64url, so it is no JSON Web Token, or something is before it": [f"Bearer {GOOD}", f'"{GOOD}', "%.e30.x"],
    "its second part is no base64url": [f"{HEAD}.{BODY[:-1]} .{SIGNATURE}", f"{HEAD}.é.{SIGNATURE}"],
    "its third part is no base64url, so it was cut off": [GOOD[:-2], f"{GOOD}\n", f'{GOOD}"'],
    "its first part is no JSON object": [f"e30x.{BODY}.{SIGNATURE}", f"W10.{BODY}.{SIGNATURE}"],
    "its claims are no JSON object": [made("[]"), made("{")],
    "no key here made its signature: let tokens.hmac_secret": [token(secret="x" * 40), f"{HEAD}.{BODY}."],
    "no key here is for the algorithm and key id that it names: tokens.hmac_secret is for HS256": [
        made("{}", {"alg": "RS256"}),
        made("{}", {"typ": "JWT"}),
    ],
    'its audience (claim "aud") is not tokens.audience': [claiming(aud="there", iss="us")],
    'it has no claim "aud", and tokens.audience is set': [claiming(iss="us")],
    'its issuer (claim "iss") is not tokens.issuer': [claiming(aud="here", iss="them")],
    'it has no claim "iss", and tokens.issuer is set': [claiming(aud="here")],
    'it is not yet valid (claim "nbf"): set the clocks': [claiming(nbf=LATER)],
    'it is not yet valid (claim "iat"): set the clocks': [claiming(iat=LATER)],
    'its claim "iat" is no number of seconds': [claiming(iat="x")],
    'its claim "nbf" is no number of seconds': [claiming(nbf="x")],
    'its claim "exp" is no number of seconds': [claiming(exp="x")],
    'its claim "sub" is no text: let your backend write the user\'s id as "17"': [claiming(sub=17, aud="here", iss="us")],
    'its claim "jti" is no text': [claiming(jti=17, aud="here", iss="us")],
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_each_fault_is_a_sentence_with_what_to_do(sentence: str) -> None:
    for bad in FAULTS[sentence]:
        with pytest.raises(TokenInvalid) as refused:
            by_secret(audience="here", issuer="us").connection(bad)
        assert str(refused.value).startswith(sentence), bad


@pytest.mark.parametrize(
    "bad", ["", "a", "a.b", "a.b.c.d", "=.=.=", f"{HEAD}=.{BODY}.x", f"{HEAD}===.{BODY}.{SIGNATURE}", f"{HEAD}.{BODY}=.{SIGNATURE}", "\ud800..", "W10..", "AA.."]
)  # fmt: skip
def test_a_form_that_is_refused_early_is_one_that_pyjwt_refuses(bad: str) -> None:
    with pytest.raises((jwt.DecodeError, UnicodeError)) as refused:
        parts_of(bad)
    with pytest.raises(type(refused.value)) as judged:
        jwt.get_unverified_header(bad)
    assert str(refused.value) == str(judged.value)


def test_parts_with_padding_are_read_as_pyjwt_reads_them() -> None:
    head, body, signature = made('{"sub":"u1"}', {"alg": "HS256", "kid": "k1"}).split(".")
    padded = ".".join(part + "=" * (-len(part) % 4) for part in (head, body, signature))
    assert parts_of(padded).header == jwt.get_unverified_header(padded)


def test_a_signature_that_no_key_made_is_verified_once_and_so_is_that_of_a_token_that_ended(key_file, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    verified = []
    judge = plain_tokens.signer
    monkeypatch.setattr(plain_tokens, "signer", lambda *words: (verified.append(1), judge(*words))[1])
    monkeypatch.setattr("gateway.auth.tokens.parts_of", lambda token: pytest.fail("it is judged again"))
    checks = verifier(public_key_file=key_file(P256))
    head, body, signature = signed(P256, "ES256").split(".")
    for bad in (f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", signed(P256, "ES256", exp=time.time() - 60)):
        with pytest.raises(Exception, match=r"no key here made its signature|token expired"):
            checks.connection(bad)
    assert len(verified) == 2


def test_a_bad_token_of_the_greatest_length_costs_pyjwt_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("PyJWT reads it"))
    for header in ({"alg": "HS256"}, {"alg": "HS256", "cty": "x"}, {"alg": "HS256", "x": "y" * 6000}):
        with pytest.raises(TokenInvalid, match="no key here made its signature"):
            by_secret().connection(made('{"info":"%s"}' % ("x" * 4500), header, sign=lambda text: b"x" * 32))
