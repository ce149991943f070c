"""Keys of every kind, tokens signed with them, and a server of public keys.

signed, made      a token of a library; one that no library would make
verifier          what checks tokens, by these settings
KeyServer         on a free port; ``hold`` sets its keys, ``asked`` is when it was asked
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.keys import Keys
from gateway.auth.tokens import Verifier
from gateway.config import Tokens

from ..kit.tokens import SECRET

__all__ = [
    "ED448",
    "ED25519",
    "KOBLITZ",
    "LONG_SECRET",
    "OTHER_RSA_KEY",
    "P256",
    "P384",
    "P521",
    "RSA_KEY",
    "SHORT_RSA_KEY",
    "SIGNERS",
    "KeyServer",
    "base64_of",
    "by_secret",
    "by_url",
    "jwk",
    "key_file",
    "key_server",
    "made",
    "pem",
    "signed",
    "verifier",
]


def _rsa(bits: int, *above: int) -> rsa.RSAPrivateKey:
    """Of two known primes, each so much above three quarters of its bits: to find primes takes a tenth of a second for each key."""
    p, q = ((3 << bits // 2 - 2) + number for number in above)
    public = rsa.RSAPublicNumbers(65537, p * q)
    d = rsa.rsa_recover_private_exponent(public.e, p, q)
    parts = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *parts, public).private_key(unsafe_skip_rsa_key_validation=True)


RSA_KEY, OTHER_RSA_KEY = _rsa(2048, 1037, 1697), _rsa(2048, 1937, 2087)
SHORT_RSA_KEY = _rsa(1024, 761, 1505)
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


def base64_of(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def made(claims: str, header: dict[str, Any] | None = None, sign: Callable[[bytes], bytes] | None = None) -> str:
    """A token that no library would make: the claims are text, "\udc80" to "\udcff" in it single bytes; with no ``sign``, HS256 with SECRET."""
    sign = sign or (lambda text: hmac.digest(SECRET.encode(), text, "sha256"))
    text = base64_of(json.dumps(header or {"alg": "HS256"}).encode()) + b"." + base64_of(claims.encode(errors="surrogateescape"))
    return (text + b"." + base64_of(sign(text))).decode()


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


def by_url(server: KeyServer, **settings: Any) -> Verifier:
    return verifier(jwks_url=server.url, **settings)


class KeyServer:
    """A key server on a free port. ``answer`` is its next answers' body; ``asked`` says when it was asked.

    One that does not begin yet has its port already, where connections are refused.
    """

    def __init__(self, *, begins: bool = True) -> None:
        self.asked: list[float] = []
        self.status = 200
        self.answer = b'{"keys":[]}'
        self.location = ""
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
                if outer.location:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: Any) -> None:
                """The tests' output is no place for it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        if begins:
            self.begin()

    def begin(self) -> None:
        self._server.server_activate()
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
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


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
