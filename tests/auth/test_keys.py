"""The keys that tokens are checked with: secrets, a file, a URL whose server may be away; and at gateways."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import RSAAlgorithm
from websockets.exceptions import ConnectionClosed

from gateway.auth.keys import ASK_SECONDS, JWKS_BYTES
from gateway.errors import ConfigurationError, Internal, KeyUnknown, TokenInvalid

from ..kit.clients import client, opened, stream
from ..kit.clock import FrozenClock
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.keys import (
    ED448,
    ED25519,
    KOBLITZ,
    LONG_SECRET,
    OTHER_RSA_KEY,
    P256,
    P384,
    P521,
    RSA_KEY,
    SHORT_RSA_KEY,
    SIGNERS,
    KeyServer,
    base64_of,
    by_secret,
    by_url,
    jwk,
    made,
    pem,
    signed,
    verifier,
)
from ..kit.programs import forked
from ..kit.tokens import SECRET
from ..kit.waiting import until

# Algorithms and keys.


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_every_algorithm_is_checked_with_its_kind_of_key(key_file: Any, algorithm: str) -> None:
    checks = verifier(hmac_secret=LONG_SECRET, public_key_file=key_file(RSA_KEY, P256, P384, P521, ED25519))
    assert checks.connection(signed(SIGNERS[algorithm], algorithm)).user == "u1"


def test_both_edwards_curves_are_eddsa(key_file: Any) -> None:
    checks = verifier(public_key_file=key_file(ED25519, ED448))
    for key in (ED25519, ED448):
        assert checks.connection(signed(key, "EdDSA")).user == "u1"


def test_a_key_file_may_hold_several_keys_of_a_kind_and_text_between_them(key_file: Any) -> None:
    checks = verifier(public_key_file=key_file(RSA_KEY, OTHER_RSA_KEY, text="the keys of 2026\n"))
    for key in (RSA_KEY, OTHER_RSA_KEY):
        assert checks.connection(signed(key, "RS256", kid="any")).user == "u1"


def test_previous_secrets_are_still_accepted_and_no_others() -> None:
    old = "the secret before, which is long enough as well"
    checks = by_secret(previous_hmac_secrets=[old, "and one that is older still, also long enough"])
    assert checks.connection(signed(old, "HS256")).user == "u1"
    assert checks.connection(signed(SECRET, "HS256")).user == "u1"
    with pytest.raises(TokenInvalid, match="no key here made its signature"):
        checks.connection(signed(old + "!", "HS256"))


def test_a_token_signed_with_the_text_of_a_public_key_is_refused(key_file: Any) -> None:
    text = pem(RSA_KEY)
    for secrets in ({}, {"hmac_secret": SECRET}):
        checks = verifier(public_key_file=key_file(RSA_KEY), **secrets)
        for secret in (text, text.strip()):
            forged = made('{"sub":"admin"}', sign=lambda signing, secret=secret: hmac.digest(secret.encode(), signing, "sha256"))
            with pytest.raises(TokenInvalid):
                checks.connection(forged)


@pytest.mark.parametrize(
    "named", ["none", "None", "NONE", "", "hs256", "HS1", "RS256", "ES256K", 5, None, ["HS256"], {"HS256": 1}], ids=str
)
def test_a_token_never_chooses_its_algorithm(named: Any) -> None:
    checks = by_secret()
    for sign in (None, lambda text: b""):
        with pytest.raises(TokenInvalid):
            checks.connection(made('{"sub":"admin"}', {"alg": named}, sign))


def test_a_curve_checks_only_its_own_algorithm(key_file: Any) -> None:
    with pytest.raises(TokenInvalid, match="no key here"):
        verifier(public_key_file=key_file(P256)).connection(signed(P384, "ES384"))

    def sign(text: bytes) -> bytes:
        return b"".join(number.to_bytes(48) for number in decode_dss_signature(P384.sign(text, ec.ECDSA(hashes.SHA256()))))

    with pytest.raises(TokenInvalid, match="no key here"):
        verifier(public_key_file=key_file(P384)).connection(made('{"sub":"u1"}', {"alg": "ES256"}, sign))


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_the_allowed_algorithms_narrow_what_the_keys_check(key_file: Any, algorithm: str) -> None:
    checks = verifier(hmac_secret=LONG_SECRET, public_key_file=key_file(RSA_KEY, P256, ED25519), algorithms=[algorithm])
    for other in ("HS256", "HS384", "RS256", "PS256", "ES256", "EdDSA"):
        token = signed(SIGNERS[other], other)
        if other == algorithm:
            assert checks.connection(token).user == "u1"
        else:
            with pytest.raises(TokenInvalid, match="no key here"):
                checks.connection(token)


@pytest.mark.parametrize("setting", ["hmac_secret", "previous_hmac_secrets"])
def test_a_public_key_is_no_secret(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"tokens.{setting}"):
        verifier(**{setting: pem(RSA_KEY) if setting == "hmac_secret" else [pem(RSA_KEY)]})


# Keys from a URL.


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


async def test_keys_of_every_kind_are_taken_from_a_url(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY, "r"), jwk(P256, "e2"), jwk(P384, "e3"), jwk(P521, "e5"), jwk(ED25519, "d"))
    checks = by_url(key_server)
    await checks.learn()
    ids = {RSA_KEY: "r", P256: "e2", P384: "e3", P521: "e5", ED25519: "d"}
    for algorithm, key in SIGNERS.items():
        if not algorithm.startswith("HS"):
            assert checks.connection(signed(key, algorithm, ids[key])).user == "u1"
            assert checks.connection(signed(key, algorithm)).user == "u1", "a token may name no key"


async def test_a_key_that_names_its_algorithm_checks_no_other(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY, "r", alg="RS384"))
    checks = by_url(key_server)
    await checks.learn()
    checks.connection(signed(RSA_KEY, "RS384", "r"))
    for other in ("RS256", "PS384"):
        with pytest.raises(TokenInvalid):
            checks.connection(signed(RSA_KEY, other, "r"))


async def test_a_key_checks_only_tokens_that_name_it(key_server: KeyServer, clock: FrozenClock) -> None:
    key_server.hold(jwk(RSA_KEY, "one"), jwk(OTHER_RSA_KEY, "two"))
    checks = by_url(key_server, clock=clock)
    await checks.learn()
    checks.connection(signed(OTHER_RSA_KEY, "RS256", "two"))
    with pytest.raises(TokenInvalid, match="signature"):
        checks.connection(signed(OTHER_RSA_KEY, "RS256", "one"))


async def test_an_unknown_key_is_asked_for_once_in_ten_seconds(key_server: KeyServer, clock: FrozenClock) -> None:
    key_server.hold(jwk(RSA_KEY, "old"))
    checks = by_url(key_server, clock=clock)
    await checks.learn()
    key_server.hold(jwk(OTHER_RSA_KEY, "new"))
    rotated = signed(OTHER_RSA_KEY, "RS256", "new")
    for _ in range(20):
        with pytest.raises(TokenInvalid) as refused:
            checks.connection(rotated)
        assert not isinstance(refused.value, KeyUnknown), "it was asked just now"
    clock.pass_time(ASK_SECONDS)
    with pytest.raises(KeyUnknown):
        checks.connection(rotated)
    await asyncio.gather(*[checks.learn() for _ in range(20)])
    assert checks.connection(rotated).user == "u1"
    assert len(key_server.asked) == 2, "all who asked at once got the same answer"
    with pytest.raises(TokenInvalid):
        checks.connection(signed(RSA_KEY, "RS256", "old"))  # what the set holds no more is no key any more
    for number in range(20):
        with pytest.raises(TokenInvalid) as refused:
            checks.connection(signed(RSA_KEY, "RS256", f"invented{number}"))
        assert not isinstance(refused.value, KeyUnknown)


async def test_a_token_that_names_no_key_asks_for_some_only_until_there_are_any(key_server: KeyServer, clock: FrozenClock) -> None:
    """A gateway that was restarted would refuse all such tokens for good, until the key server has answered."""
    key_server.hold(jwk(OTHER_RSA_KEY, ""))
    checks = by_url(key_server, clock=clock)
    with pytest.raises(KeyUnknown):
        checks.connection(signed(OTHER_RSA_KEY, "RS256"))
    await checks.learn()
    assert checks.connection(signed(OTHER_RSA_KEY, "RS256")).user == "u1"
    clock.pass_time(ASK_SECONDS)
    with pytest.raises(TokenInvalid) as refused:
        checks.connection(signed(RSA_KEY, "RS256"))
    assert not isinstance(refused.value, KeyUnknown)


async def test_while_the_key_server_fails_its_tokens_are_refused_for_the_moment_alone(key_server: KeyServer, clock: FrozenClock) -> None:
    checks = by_url(key_server, clock=clock, hmac_secret=LONG_SECRET)
    key_server.status = 500
    await checks.learn()
    for kid in ("new", ""):
        with pytest.raises(Internal) as refused:
            checks.connection(signed(RSA_KEY, "RS256", kid))
        assert refused.value.temporary
    assert checks.connection(signed(LONG_SECRET, "HS256")).user == "u1"
    for forged in (signed(LONG_SECRET + "x", "HS256"), signed(LONG_SECRET + "x", "HS256", "new")):
        with pytest.raises(TokenInvalid):
            checks.connection(forged)
    clock.pass_time(ASK_SECONDS)
    key_server.status = 200
    key_server.hold(jwk(RSA_KEY, "new"))
    with pytest.raises(KeyUnknown):
        checks.connection(signed(RSA_KEY, "RS256", "new"))
    await checks.learn()
    assert checks.connection(signed(RSA_KEY, "RS256", "new")).user == "u1"
    with pytest.raises(TokenInvalid):
        checks.connection(signed(RSA_KEY, "RS256", "invented"))


async def test_a_token_of_a_key_that_was_made_since_the_last_answer_is_refused_for_the_moment_alone(
    key_server: KeyServer, clock: FrozenClock
) -> None:
    """Invented key ids have the key server asked, and then it is not asked for ten seconds."""
    key_server.hold(jwk(OTHER_RSA_KEY, "old"))
    checks = by_url(key_server, clock=clock)
    await checks.learn()
    rotated = signed(RSA_KEY, "RS256", "new", iat=int(time.time()) + 2)
    with pytest.raises(Internal) as refused:
        checks.connection(rotated)
    assert refused.value.temporary
    with pytest.raises(TokenInvalid):
        checks.connection(signed(RSA_KEY, "RS256", "new", iat=int(time.time()) - 60))
    key_server.hold(jwk(RSA_KEY, "new"))
    clock.pass_time(ASK_SECONDS)
    with pytest.raises(KeyUnknown):
        checks.connection(rotated)
    await checks.learn()
    assert checks.connection(rotated).user == "u1"


async def test_an_unknown_key_is_asked_for_also_beside_a_key_file(key_server: KeyServer, key_file: Any, clock: FrozenClock) -> None:
    with pytest.raises(KeyUnknown):
        by_url(key_server, clock=clock, public_key_file=key_file(RSA_KEY)).connection(signed(OTHER_RSA_KEY, "RS256", "new"))


FAILURES: dict[str, tuple[int, bytes]] = {
    "an error": (500, b"no"),
    "no such page": (404, b""),
    "garbage": (200, b"\x00\xff{"),
    "nothing": (200, b""),
    "a page for people": (200, b"<html>"),
    "JSON of another shape": (200, b'{"keys":{"a":1}}'),
    "a list of numbers": (200, b'{"keys":[1]}'),
    "300 KB": (200, b'{"keys":[]}'.ljust(300 * 1024)),
    "no HTTP": (0, b"SSH-2.0-OpenSSH_9.9\r\n"),
    "nested deep": (200, b'{"keys":[' + b'{"a":' * 40_000),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_when_keys_cannot_be_had_the_known_ones_stay(key_server: KeyServer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    key_server.hold(jwk(RSA_KEY, "r"))
    checks = by_url(key_server)
    await checks.learn()
    key_server.status, key_server.answer = FAILURES[name]
    with caplog.at_level(logging.WARNING):
        await checks._keys.learn()
    assert len(key_server.asked) == 2
    assert checks.connection(signed(RSA_KEY, "RS256", "r")).user == "u1", "the keys that are known stay"
    (record,) = caplog.records
    assert "tokens.jwks_url could not be read" in record.getMessage() and "1 keys stay" in record.getMessage()
    assert "\n" not in record.getMessage() and record.exc_info is None


async def test_a_key_server_that_is_away_is_logged_once_and_so_is_its_return(
    key_server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked every ten seconds where no key is known."""
    keys = by_url(key_server)._keys
    key_server.status = 500
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await keys.learn()
        key_server.status = 200
        key_server.hold(jwk(RSA_KEY, "r"))
        for _ in range(3):
            await keys.learn()
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "tokens.jwks_url could not be read",
        "tokens.jwks_url can be read again",
    ]


async def test_a_set_just_within_the_limit_is_read(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY, "r"))
    key_server.answer = key_server.answer.ljust(JWKS_BYTES)
    checks = by_url(key_server)
    await checks.learn()
    checks.connection(signed(RSA_KEY, "RS256", "r"))


STRANGE_KEYS: dict[str, dict[str, Any]] = {
    "a secret": {"kty": "oct", "kid": "s", "k": base64_of(LONG_SECRET.encode()).decode()},
    "a secret that names its algorithm": {"kty": "oct", "kid": "s", "alg": "HS256", "k": base64_of(LONG_SECRET.encode()).decode()},
    "a kind of the future": {"kty": "LATTICE", "kid": "s"},
    "a kind that is a number": {"kty": 5, "kid": "s"},
    "nothing": {},
    "half a key": {"kty": "RSA", "kid": "s", "n": "AQAB"},
    "not in base64": {"kty": "EC", "crv": "P-256", "kid": "s", "x": "%", "y": "é"},
    "a short RSA key": jwk(SHORT_RSA_KEY, "s"),
    "another curve": {"kty": "EC", "crv": "secp256k1", "kid": "s", "x": "AA", "y": "AA"},
    "a key for encryption": jwk(OTHER_RSA_KEY, "s", use="enc"),
    "an algorithm of encryption": jwk(OTHER_RSA_KEY, "s", alg="RSA-OAEP"),
    "an algorithm of another kind": jwk(OTHER_RSA_KEY, "s", alg="HS256"),
    "an algorithm that is a list": jwk(OTHER_RSA_KEY, "s", alg=["RS256"]),
    "a key for key agreement": {
        "kty": "OKP",
        "crv": "X25519",
        "kid": "s",
        "x": base64_of(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()).decode(),
    },
    "an algorithm that is none": jwk(OTHER_RSA_KEY, "s", alg="none"),
    "a private key": json.loads(RSAAlgorithm.to_jwk(OTHER_RSA_KEY)) | {"kid": "s"},
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", STRANGE_KEYS)
async def test_keys_that_check_no_token_are_passed_over(key_server: KeyServer, name: str) -> None:
    key_server.hold(STRANGE_KEYS[name], jwk(RSA_KEY, "r"))
    checks = by_url(key_server)
    await checks.learn()
    assert checks.connection(signed(RSA_KEY, "RS256", "r")).user == "u1"
    for token in (signed(LONG_SECRET, "HS256", "s"), signed(OTHER_RSA_KEY, "RS256", "s"), signed(SHORT_RSA_KEY, "RS256", "s")):
        with pytest.raises(TokenInvalid):
            checks.connection(token)


async def test_a_key_whose_id_is_null_has_none(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY) | {"kid": None})
    checks = by_url(key_server)
    await checks.learn()
    checks.connection(signed(RSA_KEY, "RS256", "any"))


# Keys from a URL, at gateways that ask again after a second instead of ten.


ASK = {"gateway.auth.keys.ASK_SECONDS": 1.0}


class Keyed(NamedTuple):
    server: KeyServer
    gateway: RunningGateway
    late: KeyServer  # not there when its gateway starts
    lonely: RunningGateway


def with_url(url: str) -> str:
    return f'{RULES}\n[tokens]\nhmac_secret = "{SECRET}"\njwks_url = "{url}"\n'


@pytest.fixture(scope="module", autouse=True)
def keyed(start_gateway_once: Start) -> Iterator[Keyed]:
    server, late = KeyServer(), KeyServer(begins=False)
    server.hold(jwk(RSA_KEY, "old"))
    yield Keyed(server, start_gateway_once(with_url(server.url), seconds=ASK), late, start_gateway_once(with_url(late.url), seconds=ASK))
    server.end()
    late.end()


async def by_websocket(gateway: RunningGateway, token: str) -> int:
    """0 for an admitted token, or the code of its refusal; so do the others."""
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": token}})
        try:
            return (await wire.next()).get("error", {}).get("code", 0)
        except ConnectionClosed:
            return (await wire.ended())[0]


async def by_stream(gateway: RunningGateway, token: str) -> int:
    async with stream(gateway, "chat:1", token=token) as events:
        return (await events.next()).data.get("code", 0)


async def by_history(gateway: RunningGateway, token: str) -> int:
    status, body = await asyncio.to_thread(gateway.http, "GET", "/history?channel=chat:1", None, {"Authorization": f"Bearer {token}"})
    return 0 if status == 200 else json.loads(body)["error"]["code"]


async def by_subscription(gateway: RunningGateway, token: str) -> int:
    async with client(gateway) as wire:
        await wire.send({"id": 1, "subscribe": {"channel": "ticket:1", "token": token}}, {"id": 2, "rpc": {"method": "gateway.time"}})
        answers = {answer["id"]: answer for answer in [await wire.next(), await wire.next()]}
        assert "rpc" in answers[2], "the next command is answered"
        return answers[1].get("error", {}).get("code", 0)


async def by_ticket_of_stream(gateway: RunningGateway, ticket: str) -> int:
    async with stream(gateway, "ticket:1", subscription_token=ticket) as events:
        return (await events.next()).data.get("code", 0)


async def by_ticket_of_history(gateway: RunningGateway, ticket: str) -> int:
    path = f"/history?channel=ticket:1&subscription_token={ticket}"
    status, body = await asyncio.to_thread(gateway.http, "GET", path, None, {"Authorization": f"Bearer {gateway.token()}"})
    return 0 if status == 200 else json.loads(body)["error"]["code"]


async def by_every_edge(gateway: RunningGateway, key: Any, *kids: str) -> list[int]:
    """The answers to six tokens at once, each naming its own key; of the subscription tokens last."""
    tokens = [signed(key, "RS256", kid) for kid in kids[:3]] + [signed(key, "RS256", kid, channel="ticket:1") for kid in kids[3:]]
    edges = (by_websocket, by_stream, by_history, by_subscription, by_ticket_of_stream, by_ticket_of_history)
    return await asyncio.gather(*[edge(gateway, token) for edge, token in zip(edges, tokens, strict=True)])


async def test_tokens_that_come_while_keys_are_fetched_wait_for_them(start_gateway: Start, key_server: KeyServer) -> None:
    key_server.hold(*(jwk(RSA_KEY, kid) for kid in "abcdef"))
    key_server.open.clear()
    gateway = start_gateway(with_url(key_server.url))
    await until(lambda: key_server.asked, "the gateway asks at its start")
    answers = asyncio.ensure_future(by_every_edge(gateway, RSA_KEY, *"abcdef"))
    assert await by_websocket(gateway, gateway.token()) == 0, "who needs no key of the server does not wait"
    assert not answers.done()
    key_server.open.set()
    assert await answers == [0] * 6
    assert len(key_server.asked) == 1


async def test_a_gateway_starts_without_its_key_server_and_asks_again(keyed: Keyed) -> None:
    gateway = keyed.lonely
    assert await by_websocket(gateway, gateway.token()) == 0
    line = await until(lambda: next((line for line in gateway.log().splitlines() if "jwks_url" in line), ""), "it says so")
    assert "WARNING" in line and "could not be read" in line and "0 keys stay" in line
    assert await by_every_edge(gateway, RSA_KEY, *["late"] * 6) == [100] * 6, "all may come again"
    server = keyed.late
    server.hold(jwk(RSA_KEY, "late"))  # before it may be asked
    server.begin()
    try:
        await until(lambda: server.asked and "1 keys from tokens.jwks_url" in gateway.log(), "it asks again without being told to")
        assert await by_every_edge(gateway, RSA_KEY, *["late"] * 6) == [0] * 6
        assert len(server.asked) == 1
    finally:
        server.end()


async def test_a_rotation_is_learned_from_the_first_token_and_invented_keys_cost_one_question(keyed: Keyed) -> None:
    server, gateway = keyed.server, keyed.gateway
    assert await by_every_edge(gateway, RSA_KEY, *["old"] * 6) == [0] * 6
    asked = len(server.asked)
    assert asked == 1, "once, at the start"
    server.hold(*(jwk(OTHER_RSA_KEY, kid) for kid in "abcdef"))
    await until(lambda: time.monotonic() > server.asked[0] + 1.1, "it may ask again")
    began = time.monotonic()
    assert await by_every_edge(gateway, OTHER_RSA_KEY, *"abcdef") == [0] * 6
    assert len(server.asked) == 2
    refused = [3500, 3500, 3500, 103, 103, 103]
    assert await by_every_edge(gateway, RSA_KEY, *["old"] * 6) == refused, "its key is in the set no more"
    for number in range(8):
        assert await by_every_edge(gateway, RSA_KEY, *(f"invented {number} {edge}" for edge in range(6))) == refused
    assert len(server.asked) <= 2 + (time.monotonic() - began) // 1.0
    assert await by_every_edge(gateway, OTHER_RSA_KEY, *"abcdef") == [0] * 6


# Configurations that cannot work.

BROKEN = "-----BEGIN PUBLIC KEY-----\nbm90IGEga2V5\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"algorithms": ["HS256", "ROT13"]}, "tokens.algorithms: there is no 'ROT13'"),
        ({"algorithms": ["none"]}, "tokens.algorithms: there is no 'none'"),
        ({"hmac_secret": LONG_SECRET, "algorithms": ["RS256"]}, "tokens.algorithms allows none that the configured keys check"),
        ({"jwks_url": "https://keys.example.org/jwks", "algorithms": ["HS256"]}, "tokens.algorithms allows none"),
        ({"public_key_file": "~nobody-is-called-so/key.pem"}, "key.pem cannot be used: Could not determine home directory"),
        ({"public_key_file": "FOLDER/nowhere.pem"}, "public_key_file FOLDER/nowhere.pem cannot be used"),
        ({"public_key_file": "FOLDER"}, "public_key_file FOLDER cannot be used"),
        ({"public_key_file": "FOLDER/empty.pem"}, "holds no public key"),
        ({"public_key_file": "FOLDER/broken.pem"}, "cannot be used"),
        ({"public_key_file": "FOLDER/one-broken.pem"}, "cannot be used"),
        ({"public_key_file": "FOLDER/short.pem"}, "1024 bits; 2048 are needed"),
        ({"public_key_file": "FOLDER/koblitz.pem"}, "RSA, elliptic curve or Edwards"),
        ({"jwks_url": "keys.example.org/jwks"}, "tokens.jwks_url is an http(s) URL"),
        ({"jwks_url": "file:///etc/passwd"}, "tokens.jwks_url is an http(s) URL"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_keys_that_cannot_be_used_are_reported_in_one_line(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "broken.pem").write_text(BROKEN)
    (tmp_path / "one-broken.pem").write_text(pem(P256) + BROKEN)
    (tmp_path / "short.pem").write_text(pem(SHORT_RSA_KEY))
    (tmp_path / "koblitz.pem").write_text(pem(KOBLITZ))
    settings = json.loads(json.dumps(settings).replace("FOLDER", str(tmp_path)))
    with pytest.raises(ConfigurationError) as refused:
        verifier(**settings)
    assert says.replace("FOLDER", str(tmp_path)) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("setting", ['public_key_file = "/nowhere/keys.pem"', "leeway = -1"])
def test_a_gateway_with_such_keys_does_not_start(tmp_path: Path, valkey_url: str, prefix: str, setting: str) -> None:
    settings = f'port = 0\nprefix = "{prefix}"\nvalkey_url = "{valkey_url}"\ndata_dir = "{tmp_path}"\n'
    ended = forked(tmp_path / "case", "serve", text=f'{settings}[tokens]\nhmac_secret = "{SECRET}"\n{setting}\n')()
    assert ended.status in (1, 2) and ended.out == ""
    ended.fails(ended.status, setting.split(" ")[0])


def test_the_check_of_a_configuration_looks_at_its_keys(tmp_path: Path, valkey_url: str) -> None:
    settings = f'valkey_url = "{valkey_url}"\ndata_dir = "{tmp_path}"\n[tokens]\npublic_key_file = "/nowhere/keys.pem"\n'
    ended = forked(tmp_path / "case", "check", text=settings)()
    assert "/nowhere/keys.pem" in ended.error and ended.status != 0
