"""Tokens: which keys check which algorithms, keys from a URL, and what the claims of a token do."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.exceptions import ConnectionClosed

from gateway.auth.keys import ASK_SECONDS, JWKS_BYTES, Keys
from gateway.auth.tokens import CHANNELS_MOST, Verifier
from gateway.config import Tokens
from gateway.errors import ConfigurationError, KeyUnknown, TokenInvalid, TokenStale

from ..kit.clients import client, opened, stream
from ..kit.clock import FrozenClock
from ..kit.gateways import RunningGateway, Start
from ..kit.tokens import SECRET, claiming
from ..kit.waiting import until

RSA_KEY, OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
SHORT_RSA_KEY = rsa.generate_private_key(65537, 1024)
P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
KOBLITZ = ec.generate_private_key(ec.SECP256K1())
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
LONG_SECRET = "enough bytes for HS512, of which there must be sixty-four: 0123456789"
SIGNERS: dict[str, Any] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), LONG_SECRET),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    **{"ES256": P256, "ES384": P384, "ES512": P521, "EdDSA": ED25519},
}


def pem(*private: Any) -> str:
    return "".join(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in private)


def signed(key: Any, algorithm: str, kid: str = "", **claims: Any) -> str:
    return jwt.encode({"sub": "u1"} | claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def made(claims: str, header: dict[str, Any] | None = None, sign: Callable[[bytes], bytes] | None = None) -> str:
    """A token that no library would make: the claims are text; with no ``sign``, HS256 with SECRET."""
    sign = sign or (lambda text: hmac.digest(SECRET.encode(), text, "sha256"))
    text = _base64(json.dumps(header or {"alg": "HS256"}).encode()) + b"." + _base64(claims.encode())
    return (text + b"." + _base64(sign(text))).decode()


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[..., str]:
    def write(*private: Any, text: str = "") -> str:
        file = tmp_path / "keys.pem"
        file.write_text(text + pem(*private))
        return str(file)

    return write


def verifier(clock: Callable[[], float] = time.monotonic, **settings: Any) -> Verifier:
    tokens = Tokens(**settings)
    return Verifier(tokens, Keys(tokens, clock))


def by_secret(**settings: Any) -> Verifier:
    return verifier(hmac_secret=SECRET, **settings)


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
    with pytest.raises(TokenInvalid, match="Signature verification failed"):
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


# Claims.


def test_the_audience_must_be_the_configured_one() -> None:
    checks = by_secret(audience="here")
    for good in ("here", ["there", "here"]):
        checks.connection(claiming(aud=good))
    for bad in ("there", ["there"], [], 5, [5]):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(aud=bad))
    with pytest.raises(TokenInvalid):
        checks.connection(claiming())
    by_secret().connection(claiming(aud="there"))


def test_the_issuer_must_be_the_configured_one() -> None:
    checks = by_secret(issuer="us")
    checks.connection(claiming(iss="us"))
    for bad in ({"iss": "them"}, {}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**bad))
    with pytest.raises(TokenInvalid):
        checks.connection(made('{"iss":["us"]}'))


def test_a_token_before_its_time_or_after_it_is_refused() -> None:
    now, checks = time.time(), by_secret()
    with pytest.raises(TokenStale):
        checks.connection(claiming(exp=now - 5))
    for early in ({"nbf": now + 60}, {"iat": now + 60}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**early))
    checks.connection(claiming(exp=now + 60, nbf=now - 1, iat=now - 1))


def test_the_leeway_is_for_clocks_that_differ() -> None:
    now, checks = time.time(), by_secret(leeway=30)
    for early in ({"nbf": now + 20}, {"iat": now + 20}):
        checks.connection(claiming(**early))
    for bad in ({"nbf": now + 60}, {"iat": now + 60}):
        with pytest.raises(TokenInvalid):
            checks.connection(claiming(**bad))
    with pytest.raises(TokenStale):
        checks.connection(claiming(exp=now - 40))


@pytest.mark.parametrize("claim", ["exp", "expire_at"])
def test_an_expiry_within_the_leeway_is_accepted(claim: str) -> None:
    assert by_secret(leeway=30).connection(claiming(sub="u1", **{claim: int(time.time()) - 10})).user == "u1"


def test_expire_at_counts_more_than_exp() -> None:
    now, checks = int(time.time()), by_secret()
    assert checks.connection(claiming(exp=now + 60)).expires_at == now + 60
    assert checks.connection(claiming(exp=now + 60, expire_at=now + 900)).expires_at == now + 900
    assert checks.connection(claiming(exp=now + 60, expire_at=0)).expires_at == 0
    assert checks.connection(claiming()).expires_at == 0
    for over in ({"exp": now + 60, "expire_at": now - 5}, {"exp": now - 5, "expire_at": now + 60}, {"exp": now - 5, "expire_at": 0}):
        with pytest.raises(TokenStale):
            checks.connection(claiming(**over))
    assert checks.subscription(claiming(channel="a", exp=now + 60, expire_at=0)).expires_at == 0


WRONG_CLAIMS = [
    '{"sub":5}',
    '{"sub":["u1"]}',
    '{"sub":true}',
    '{"exp":"soon"}',
    '{"exp":"99999999999"}',
    '{"exp":[]}',
    '{"exp":1e400}',
    '{"exp":NaN}',
    '{"nbf":{}}',
    '{"iat":"x"}',
    '{"iat":1e400}',
    '{"expire_at":"0"}',
    '{"expire_at":false}',
    '{"jti":5}',
    '{"channel":5}',
    '{"channels":"a"}',
    '{"channels":[1]}',
    '{"channels":{"a":1}}',
    '{"subs":["a"]}',
    '{"subs":{"a":1}}',
    '{"subs":{"a":{"info":1,"b64info":"%"}}}',
    '{"subs":{"a":{"b64data":5}}}',
    '{"b64info":5}',
    '{"b64info":"//8="}',
    '{"info":"\\ud800"}',
    '{"info":' + "1" * 5000 + "}",
    "[]",
    '"u1"',
    "null",
    "{",
    "",
]


@pytest.mark.parametrize("claims", WRONG_CLAIMS, ids=lambda text: text[:30])
def test_claims_of_the_wrong_type_are_an_invalid_token(claims: str) -> None:
    for check in (by_secret().connection, by_secret().subscription):
        with pytest.raises(TokenInvalid):
            check(made(claims))


DEEP = base64.b64encode(b"[" * 3000 + b"]" * 3000).decode()


@pytest.mark.parametrize(
    "claims",
    [
        '{"b64info":"é"}',
        f'{{"b64info":"{DEEP}"}}',
        '{"subs":{"a":{"b64data":"é"}}}',
        '{"expire_at":NaN}',
        '{"expire_at":1e400}',
        '{"sub":"\\ud800"}',
    ],
    ids=lambda text: text[:30],
)
def test_claims_that_cannot_be_used_are_an_invalid_token(claims: str) -> None:
    with pytest.raises(TokenInvalid):
        by_secret().connection(made(claims))


def test_a_token_gives_its_channels_info_data_and_overrides() -> None:
    overrides = {
        "presence": {"value": False},
        "join_leave": {"value": True},
        "force_recovery": {"value": False},
        "force_positioning": {"value": True},
    }
    subs = {
        "a": {"info": {"n": 1}, "data": [1, 2]},
        "b": {"b64info": "eyJuIjoyfQ==", "b64data": "WzNd"},
        "c": {"override": overrides},
    }
    given = by_secret().connection(claiming(channels=["d", "a"], subs=subs, info=0, meta={"m": 1})).channels
    assert {name: tuple(sub) for name, sub in given.items()} == {
        "a": (b'{"n":1}', b"[1,2]", None, 0),
        "b": (b'{"n":2}', b"[3]", None, 0),
        "c": (None, None, (False, True, None, False), 0),
        "d": (None, None, None, 0),
    }


def test_a_token_names_no_more_channels_than_a_token_may() -> None:
    by_secret().connection(claiming(channels=[f"{number:x}" for number in range(CHANNELS_MOST)]))
    with pytest.raises(TokenInvalid, match="1001 channels"):
        by_secret().connection(claiming(channels=[f"{number:x}" for number in range(CHANNELS_MOST + 1)]))


def test_a_connection_token_and_a_subscription_token_are_never_each_other() -> None:
    for channel in ("", "a"):
        with pytest.raises(TokenInvalid, match="subscription token"):
            by_secret().connection(claiming(sub="u1", channel=channel))
    for claims in ({}, {"channel": ""}, {"channel": None}, {"channels": ["a"]}):
        with pytest.raises(TokenInvalid, match="names no channel"):
            by_secret().subscription(claiming(sub="u1", **claims))


def test_a_token_is_not_read_on_past_its_longest() -> None:
    with pytest.raises(TokenInvalid, match="longer"):
        by_secret().connection(claiming(info="x" * 20000))


def test_without_any_key_every_token_is_refused() -> None:
    with pytest.raises(TokenInvalid, match="hmac_secret"):
        verifier().connection(claiming(sub="u1"))


# At a gateway.

NAMESPACE = "room"
RULES = """
[namespaces.chat]
publish = "subscriber"
join_leave = "asked"
[namespaces.ticket]
subscribe = "token"
[namespaces.room]
subscribe = "nobody"
publish = "subscriber"
history = "subscriber"
join_leave = "all"
[limits]
channels_per_client = 10
"""


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES)


async def test_the_channels_of_a_token_are_followed_from_connect_on_whatever_the_rules_say(gateway: RunningGateway, channel: str) -> None:
    bare, b64 = f"{channel}-bare", f"{channel}-b64"
    subs = {channel: {"info": {"role": "author"}, "data": {"hello": [1]}}, b64: {"b64info": "eyJuIjoyfQ==", "b64data": "WzNd"}}
    token = claiming(sub="u1", channels=[bare], subs=subs)
    async with client(gateway, token=token) as wire:
        given = wire.connected["subs"]
        assert set(given) == {channel, bare, b64, "notifications:u1"}
        assert {name: sub.get("data") for name, sub in given.items()} == {
            channel: {"hello": [1]},
            b64: [3],
            bare: None,
            "notifications:u1": None,
        }
        assert all(sub["recoverable"] and sub["epoch"] for sub in given.values())
        joined = {}
        while len(joined) < 3:
            message = (await wire.next())["push"]
            joined[message["channel"]] = message["join"]["info"].get("chan_info")
        assert joined == {channel: {"role": "author"}, b64: {"n": 2}, bare: None}
        gateway.publish(bare, "for those whom a token names")
        assert (await wire.publication())["channel"] == bare


async def test_the_channels_of_a_token_are_recovered_from_the_positions_that_connect_names(gateway: RunningGateway, channel: str) -> None:
    lost = f"{channel}-lost"
    token = claiming(sub="u2", subs={channel: {"data": 1}}, channels=[lost])
    async with client(gateway, token=token) as wire:
        seen = wire.connected["subs"][channel]
    for number in (1, 2):
        gateway.publish(channel, number)
    async with opened(gateway) as wire:
        at = {"recover": True, "epoch": seen["epoch"], "offset": seen.get("offset", 0)}
        foreign = {"recover": True, "epoch": seen["epoch"], "offset": 0}
        result = await wire.result("connect", token=token, subs={channel: at, lost: at | {"epoch": "old"}, f"{channel}-foreign": foreign})
        assert set(result["subs"]) == {channel, lost, "notifications:u2"}, "a position opens nothing that the token does not name"
        sub = result["subs"][channel]
        assert sub["recovered"] is True and sub["was_recovering"] is True and sub["data"] == 1
        got = sub.get("publications", [])
        while len(got) < 2:  # what was just published may come live instead
            got.append(await wire.publication())
        assert [(pub["offset"], pub["data"]) for pub in got] == [(1, 1), (2, 2)]
        assert result["subs"][lost]["was_recovering"] is True and "recovered" not in result["subs"][lost]


async def test_a_token_with_more_channels_than_a_client_may_have_is_refused(gateway: RunningGateway) -> None:
    names = [f"chat:{number}" for number in range(10)]  # and the user's own
    async with client(gateway, token=claiming(sub="u1", channels=names[:9])) as wire:
        assert len(wire.connected["subs"]) == 10
        assert await wire.error("subscribe", channel="chat:more") == 106
    for claims in ({"channels": names}, {"subs": {name: {} for name in names}}):
        async with opened(gateway) as wire:
            await wire.send({"id": 1, "connect": {"token": claiming(sub="u1", **claims)}})
            assert await wire.ended() == (3505, "channel limit")
    async with client(gateway, token=claiming(channels=names)) as wire:  # the anonymous have none of their own
        assert len(wire.connected["subs"]) == 10


@pytest.mark.parametrize(("name", "code"), [("nowhere:1", 102), ("", 107), ("chat:{x}", 107), ("chat:" + "x" * 300, 107)])
async def test_a_token_with_an_impossible_channel_is_refused_with_the_channels_error(gateway: RunningGateway, name: str, code: int) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": claiming(sub="u1", channels=["chat:1", name])}})
        assert (await wire.next())["error"]["code"] == code
        await wire.ended()


async def test_a_token_of_one_kind_shown_as_the_other_is_refused(gateway: RunningGateway) -> None:
    async with opened(gateway) as wire:
        await wire.send({"id": 1, "connect": {"token": gateway.token("u1", channel="ticket:1")}})
        assert await wire.ended() == (3500, "invalid token")
    async with client(gateway) as wire:
        assert await wire.error("subscribe", channel="ticket:1", token=gateway.token("u1")) == 103
        assert await wire.error("subscribe", channel="ticket:1", token=claiming(sub="u1", channels=["ticket:1"])) == 103


async def test_the_reply_to_connect_has_the_seconds_until_the_connection_ends(gateway: RunningGateway) -> None:
    now = int(time.time())
    async with client(gateway, token=claiming(sub="u1", exp=now + 60, expire_at=now + 900)) as wire:
        assert wire.connected["expires"] is True and 890 <= wire.connected["ttl"] <= 900
    async with client(gateway, token=claiming(sub="u1", exp=now + 60, expire_at=0)) as wire:
        assert "expires" not in wire.connected and "ttl" not in wire.connected


async def test_a_refresh_that_changes_the_channels_makes_the_client_come_back(gateway: RunningGateway) -> None:
    async with client(gateway, token=claiming(sub="u3", channels=["room:left"])) as wire:
        await wire.send({"id": 5, "refresh": {"token": claiming(sub="u3", channels=["room:new"])}})
        assert await wire.ended(2) == (3010, "insufficient state")


async def test_meta_reaches_no_client(gateway: RunningGateway, channel: str) -> None:
    subs: dict[str, Any] = {channel: {"info": {"seen": "chan"}}}
    meta = {"plan": "unspeakable"}
    async with (
        client(gateway, token=claiming(sub="watcher", subs=subs)) as watcher,
        client(gateway, token=claiming(sub="u1", subs=subs, info={"seen": "conn"}, meta=meta)) as wire,
    ):
        heard: list[Any] = [watcher.connected, wire.connected]
        await wire.result("publish", channel=channel, data="x")
        heard += [await wire.ask(method, channel=channel) for method in ("presence", "presence_stats")]
        heard += [await wire.ask("history", channel=channel, limit=9), await wire.ask("rpc", method="gateway.whoami")]
        heard += [
            await wire.ask("refresh", token=claiming(sub="u1", subs=subs, info={"seen": "conn"}, meta=meta, exp=int(time.time()) + 60))
        ]
        while not any(message.get("push", {}).get("pub") for message in heard):
            heard.append(await watcher.next())
        heard += [*watcher.rest, *wire.rest, gateway.api("presence", channel=channel), gateway.api("history", channel=channel, limit=9)]
    text = json.dumps(heard)
    assert "conn" in text and "chan" in text, "the others are told what they may know"
    assert "unspeakable" not in text and "unspeakable" not in gateway.log()


# Keys from a URL.


class KeyServer:
    """A key server on a free port. ``answer`` is its next answers' body; ``asked`` says when it was asked."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[float] = []
        self.status = 200
        self.answer = b'{"keys":[]}'
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(time.monotonic())
                outer.open.wait(10)
                if outer.status == 0:
                    self.wfile.write(outer.answer)  # not even HTTP
                    return
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def hold(self, *keys: dict[str, Any]) -> None:
        self.status, self.answer = 200, json.dumps({"keys": keys}).encode()

    def end(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def jwk(private: Any, kid: str = "", **more: Any) -> dict[str, Any]:
    kind = (
        RSAAlgorithm
        if isinstance(private, rsa.RSAPrivateKey)
        else ECAlgorithm
        if isinstance(private, ec.EllipticCurvePrivateKey)
        else OKPAlgorithm
    )
    return json.loads(kind.to_jwk(private.public_key())) | ({"kid": kid} if kid else {}) | more


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.end()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


def by_url(server: KeyServer, **settings: Any) -> Verifier:
    return verifier(jwks_url=server.url, **settings)


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
    with pytest.raises(TokenInvalid, match="Signature"):
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


async def test_a_token_that_names_no_key_asks_for_none(key_server: KeyServer, clock: FrozenClock) -> None:
    checks = by_url(key_server, clock=clock)
    with pytest.raises(TokenInvalid) as refused:
        checks.connection(signed(RSA_KEY, "RS256"))
    assert not isinstance(refused.value, KeyUnknown)


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
}


async def _failing(key_server: KeyServer, caplog: pytest.LogCaptureFixture, status: int, answer: bytes) -> None:
    key_server.hold(jwk(RSA_KEY, "r"))
    checks = by_url(key_server)
    await checks.learn()
    key_server.status, key_server.answer = status, answer
    with caplog.at_level(logging.WARNING):
        await checks._keys.learn()
    assert len(key_server.asked) == 2
    assert checks.connection(signed(RSA_KEY, "RS256", "r")).user == "u1", "the keys that are known stay"
    (record,) = caplog.records
    assert "tokens.jwks_url could not be read" in record.getMessage() and "1 keys stay" in record.getMessage()
    assert "\n" not in record.getMessage() and record.exc_info is None


@pytest.mark.parametrize("name", FAILURES)
async def test_when_keys_cannot_be_had_the_known_ones_stay(key_server: KeyServer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    await _failing(key_server, caplog, *FAILURES[name])


@pytest.mark.parametrize(
    ("status", "answer"), [(0, b"SSH-2.0-OpenSSH_9.9\r\n"), (200, b'{"keys":[' + b'{"a":' * 40_000)], ids=["no HTTP", "nested deep"]
)
async def test_when_no_key_server_answers_the_known_ones_stay(
    key_server: KeyServer, caplog: pytest.LogCaptureFixture, status: int, answer: bytes
) -> None:
    await _failing(key_server, caplog, status, answer)


async def test_a_set_just_within_the_limit_is_read(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY, "r"))
    key_server.answer = key_server.answer.ljust(JWKS_BYTES)
    checks = by_url(key_server)
    await checks.learn()
    checks.connection(signed(RSA_KEY, "RS256", "r"))


STRANGE_KEYS: dict[str, dict[str, Any]] = {
    "a secret": {"kty": "oct", "kid": "s", "k": _base64(LONG_SECRET.encode()).decode()},
    "a secret that names its algorithm": {"kty": "oct", "kid": "s", "alg": "HS256", "k": _base64(LONG_SECRET.encode()).decode()},
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
        "x": _base64(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()).decode(),
    },
    "a private key": json.loads(RSAAlgorithm.to_jwk(OTHER_RSA_KEY)) | {"kid": "s"},
}


async def _passed_over(key_server: KeyServer, strange: dict[str, Any]) -> None:
    key_server.hold(strange, jwk(RSA_KEY, "r"))
    checks = by_url(key_server)
    await checks.learn()
    assert checks.connection(signed(RSA_KEY, "RS256", "r")).user == "u1"
    for token in (signed(LONG_SECRET, "HS256", "s"), signed(OTHER_RSA_KEY, "RS256", "s"), signed(SHORT_RSA_KEY, "RS256", "s")):
        with pytest.raises(TokenInvalid):
            checks.connection(token)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", STRANGE_KEYS)
async def test_keys_that_check_no_token_are_passed_over(key_server: KeyServer, name: str) -> None:
    await _passed_over(key_server, STRANGE_KEYS[name])


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_key_for_no_algorithm_is_passed_over(key_server: KeyServer) -> None:
    await _passed_over(key_server, jwk(OTHER_RSA_KEY, "s", alg="none"))


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
    late_port: int  # of a key server that is not there when the gateway starts
    lonely: RunningGateway


def with_url(url: str) -> str:
    return f'{RULES}\n[tokens]\nhmac_secret = "{SECRET}"\njwks_url = "{url}"\n'


@pytest.fixture(scope="module", autouse=True)
def keyed(start_gateway_once: Start) -> Iterator[Keyed]:
    server, gone = KeyServer(), KeyServer()
    gone.end()
    server.hold(jwk(RSA_KEY, "old"))
    yield Keyed(
        server, start_gateway_once(with_url(server.url), seconds=ASK), gone.port, start_gateway_once(with_url(gone.url), seconds=ASK)
    )
    server.end()


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
    server = KeyServer(keyed.late_port)
    try:
        server.hold(jwk(RSA_KEY, "late"))
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
    assert await by_every_edge(gateway, OTHER_RSA_KEY, *"abcdef") == [0] * 6
    assert len(server.asked) == 2
    refused = [3500, 3500, 3500, 103, 103, 103]
    assert await by_every_edge(gateway, RSA_KEY, *["old"] * 6) == refused, "its key is in the set no more"
    for number in range(8):
        assert await by_every_edge(gateway, RSA_KEY, *(f"invented {number} {edge}" for edge in range(6))) == refused
    assert len(server.asked) <= 2 + (time.monotonic() - server.asked[1]) // 1.0
    assert await by_every_edge(gateway, OTHER_RSA_KEY, *"abcdef") == [0] * 6


# Configurations that cannot work.

BROKEN = "-----BEGIN PUBLIC KEY-----\nbm90IGEga2V5\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"algorithms": ["HS256", "ROT13"]}, "tokens.algorithms: there is no 'ROT13'"),
        ({"algorithms": ["none"]}, "tokens.algorithms: there is no 'none'"),
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
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'port = 0\nprefix = "{prefix}"\nvalkey_url = "{valkey_url}"\ndata_dir = "{tmp_path}"\n[tokens]\nhmac_secret = "{SECRET}"\n{setting}\n'
    )
    ended = subprocess.run([sys.executable, "-m", "gateway", "serve", "--config", str(file)], capture_output=True, text=True, timeout=20)
    assert ended.returncode in (1, 2) and ended.stdout == ""
    line = ended.stderr.strip()
    assert line and "\n" not in line and "Traceback" not in line
    assert setting.split(" ")[0] in line, line


def test_the_check_of_a_configuration_looks_at_its_keys(tmp_path: Path, valkey_url: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'valkey_url = "{valkey_url}"\ndata_dir = "{tmp_path}"\n[tokens]\npublic_key_file = "/nowhere/keys.pem"\n')
    ended = subprocess.run([sys.executable, "-m", "gateway", "check", "--config", str(file)], capture_output=True, text=True, timeout=20)
    assert "/nowhere/keys.pem" in ended.stderr and ended.returncode != 0


async def test_a_token_within_the_leeway_keeps_its_stream_for_the_rest_of_it(start_gateway: Start) -> None:
    lenient = start_gateway(f'ping_seconds = 1\npong_seconds = 60\n[tokens]\nhmac_secret = "{SECRET}"\nleeway = 60\n')
    async with stream(lenient, "posts:1", token=lenient.token(seconds=-10)) as events:
        assert 45 <= (await events.next()).data["ttl"] <= 50
        await events.until(lambda events: events.reading.comments >= 2)
        assert len(events.reading.events) == 1


async def test_a_token_within_the_leeway_keeps_its_connection_as_long_as_any_other(start_gateway: Start) -> None:
    gateway = start_gateway(f'ping_seconds = 1\n[tokens]\nhmac_secret = "{SECRET}"\nleeway = 60')
    async with client(gateway, token=claiming(sub="u1", exp=time.time() - 40)) as wire:
        await asyncio.sleep(2.5)  # in which its deadlines were looked at
        assert await wire.result("rpc", method="gateway.time")
    async with opened(gateway) as wire:
        assert (await wire.ask("connect", token=claiming(sub="u1", exp=time.time() - 61)))["error"]["code"] == 109


async def test_a_token_that_needs_a_key_right_after_an_answer_does_not_ask_again(key_server: KeyServer) -> None:
    key_server.hold(jwk(RSA_KEY, "r"))
    checks = by_url(key_server)
    await checks.learn()
    await checks.learn()
    assert len(key_server.asked) == 1
