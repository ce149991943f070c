"""The keys that tokens are checked with: secrets, a file of public keys, a JWKS URL.

Which algorithms a token may name is fixed by the configured keys, never by the token: a secret checks HS256, HS384 and
HS512, an RSA key RS and PS, a key on a curve its ES, an Edwards key EdDSA. ``tokens.algorithms`` narrows that down. A public
key is never tried as a secret.

Keys from a URL are fetched at the start, again every REFRESH_SECONDS, and when a token names an unknown key; for tokens no
more often than every ASK_SECONDS, so that tokens with invented key ids cost the key server nothing. If a fetch fails, the known
keys stay in use.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from ..config import Tokens
from ..errors import ConfigurationError
from .key_server import fetch

__all__ = ["Key", "Keys"]

log = logging.getLogger("gateway.tokens")

REFRESH_SECONDS = 600.0
ASK_SECONDS = 10.0
FETCH_SECONDS = 5.0  # for a whole fetch: tokens that name an unknown key wait for it
JWKS_BYTES = 256 * 1024
RSA_BITS = 2048  # RFC 7518, 3.3

HMAC = frozenset({"HS256", "HS384", "HS512"})
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EDWARDS = frozenset({"EdDSA"})
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALL = HMAC | RSA | EDWARDS | frozenset(CURVES.values())

_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class Key(NamedTuple):
    """``id`` is a JWKS key id, "" for any token; ``material`` is what PyJWT takes for these algorithms: a secret is text."""

    algorithms: frozenset[str]
    material: Any
    id: str = ""


class Keys:
    """All keys of a configuration; false where there are none. ``clock`` measures seconds, from any start.

    Raises ConfigurationError for keys that cannot be used.
    """

    def __init__(self, settings: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        unknown = set(settings.algorithms) - ALL
        if unknown:
            raise ConfigurationError(f"tokens.algorithms: there is no {sorted(unknown)[0]!r}; known are {', '.join(sorted(ALL))}")
        self._allowed = frozenset(settings.algorithms) or ALL
        secrets = [secret for secret in (settings.hmac_secret, *settings.previous_hmac_secrets) if secret]
        _check_secrets("hmac_secret", [settings.hmac_secret])
        _check_secrets("previous_hmac_secrets", settings.previous_hmac_secrets)
        self._static = [Key(HMAC & self._allowed, secret) for secret in secrets]
        if settings.public_key_file:
            self._static += [Key(of & self._allowed, key) for of, key in _from_file(settings.public_key_file)]
        self._url = settings.jwks_url
        if self._url:
            _check_url(self._url)
        self._fetched: list[Key] = []
        self.changes = 0  # how often keys were fetched
        self._fetching: asyncio.Task[bool] | None = None
        self._asked = float("-inf")
        self._failed = False  # the last fetch

    @property
    def has_url(self) -> bool:
        return bool(self._url)

    def __bool__(self) -> bool:
        return bool(self._static or self._url)

    def of(self, algorithm: str, id: str) -> list[Key]:
        """The keys that a token of this header may be signed with."""
        known = (*self._static, *self._fetched)
        return [key for key in known if algorithm in key.algorithms and (not key.id or not id or key.id == id)]

    def may_learn(self, id: str) -> bool:
        """Whether a key of this id may come from the key server: it is being asked now, did not answer the last time, or was not asked within ASK_SECONDS."""
        asking = self._fetching is not None and not self._fetching.done()
        unknown = bool(id) and all(key.id != id for key in self._fetched)
        return bool(self._url) and unknown and (asking or self._failed or self._clock() - self._asked >= ASK_SECONDS)

    async def learn(self, *, for_a_token: bool = False) -> None:
        """Fetches the keys; callers that come meanwhile wait for the same answer.

        ``for_a_token``: nothing is fetched if the last fetch began within ASK_SECONDS.
        """
        if self._fetching is None or self._fetching.done():
            if for_a_token and self._clock() - self._asked < ASK_SECONDS:
                return
            self._asked = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
        await asyncio.shield(self._fetching)

    async def run(self) -> None:
        """Fetches the keys every REFRESH_SECONDS, until cancelled; for keys with a URL."""
        while True:
            await self.learn()
            await asyncio.sleep(REFRESH_SECONDS if self._fetched else ASK_SECONDS)

    async def _fetch(self) -> bool:
        try:
            found = _from_jwks(await fetch(self._url, FETCH_SECONDS, JWKS_BYTES))
        except Exception as error:  # whatever another party's server answers, the known keys stay in use
            log.warning("tokens.jwks_url could not be read: %s; %d keys stay in use", " ".join(str(error).split()), len(self._fetched))
            self._failed = True
            return False
        self._failed = False
        self._fetched = [Key(key.algorithms & self._allowed, key.material, key.id) for key in found]
        self.changes += 1
        log.debug("%d keys from tokens.jwks_url", len(found))
        return True


def _check_secrets(name: str, secrets: list[str]) -> None:
    try:
        for secret in filter(None, secrets):
            HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError as error:
        raise ConfigurationError(f"tokens.{name} cannot be used: {error}; public keys belong into tokens.public_key_file") from None


def _check_url(url: str) -> None:
    """Raises ConfigurationError for a URL that cannot be asked. A message that quoted one could show a password."""
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError("tokens.jwks_url is an http(s) URL")
    try:
        parts = urlsplit(url)
        logs_in = "@" in parts.netloc
        parts.port  # noqa: B018  # it raises for what is no number
    except ValueError:
        raise ConfigurationError("tokens.jwks_url has no valid host and port") from None
    if logs_in:
        raise ConfigurationError("tokens.jwks_url holds a login, which would not be sent; write the URL without it")


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def _from_jwks(text: bytes) -> list[Key]:
    """The keys of a JSON Web Key Set. Keys of unknown kinds are ignored, as RFC 7517, 5 asks; so are secrets, which must not be public."""
    found = []
    for each in msgspec.json.decode(text, type=_Set).keys:
        if each.get("use", "sig") != "sig" or each.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK(each, algorithm=each.get("alg") or _default_algorithm(each)).key
            algorithms = _algorithms_of(key)
        except Exception as error:  # one odd key must not hide the others
            log.debug("a key of tokens.jwks_url is not used: %s", error)
            continue
        named = each.get("alg")
        found.append(Key(algorithms & {named} if named else algorithms, key, str(each.get("kid") or "")))
    return found


def _default_algorithm(key: dict[str, Any]) -> str | None:
    return "RS256" if key.get("kty") == "RSA" else None


def _from_file(path: str) -> Iterable[tuple[frozenset[str], Any]]:
    try:
        blocks = _PEM.findall(Path(path).expanduser().read_bytes())
        keys = [load_pem_public_key(block) for block in blocks]
        if not keys:
            raise ValueError("it holds no public key in PEM")
        return [(_algorithms_of(key), key) for key in keys]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"tokens.public_key_file {path} cannot be used: {error}") from None


def _algorithms_of(key: Any) -> frozenset[str]:
    """Raises ValueError for a key of a kind that signs no token, or is too short."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits; {RSA_BITS} are needed")
        return RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return frozenset({CURVES[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return EDWARDS
    raise ValueError("a public RSA, elliptic curve or Edwards key is needed")
