"""Clients' tokens: JSON Web Tokens, checked with the keys of ``keys.py``. Source of the claims: docs/reference/tokens.md.

A token that is refused never turns its bearer into an anonymous client.
"""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite
from typing import Any

import jwt
import msgspec
from jwt.types import Options
from jwt.warnings import InsecureKeyLengthWarning

from ..config import Tokens
from ..errors import KeyUnknown, TokenInvalid, TokenStale
from ..rules.identity import Grant, Identity, Override, ServerSubscription
from ..rules.json_text import MAX_DEPTH, UNREADABLE, encode, is_json
from ..rules.protocol import OverrideRequest
from .keys import Keys
from .known_tokens import KnownTokens
from .plain_tokens import plain_payload
from .signatures import parts_of, signer
from .token_faults import NO_KEY, sentence_of

__all__ = ["SHORT_SECRET", "Verifier", "claimed_channel", "mint"]

SHORT_SECRET = 32  # bytes: what RFC 7518, 3.2 asks of an HS256 key
LONGEST_HASH = 64  # bytes: of HS512; for a shorter secret PyJWT warns with each token
TOKEN_BYTES = 16 * 1024
CHANNELS_MOST = 1000  # of one token


class _Subscription(msgspec.Struct):
    info: msgspec.Raw = msgspec.Raw()
    b64info: str = ""
    data: msgspec.Raw = msgspec.Raw()
    b64data: str = ""
    override: OverrideRequest | None = None


class _Claims(msgspec.Struct):
    """The claims that this gateway reads. PyJWT checks the registered ones."""

    sub: str | None = None
    exp: float = 0
    nbf: Any = 0  # PyJWT takes whatever int() takes
    iat: float = 0
    expire_at: float | None = None
    jti: str = ""
    info: msgspec.Raw = msgspec.Raw()
    b64info: str = ""
    meta: msgspec.Raw = msgspec.Raw()
    channel: str | None = None
    override: OverrideRequest | None = None
    channels: list[str] | None = None
    subs: dict[str, _Subscription] | None = None

    @property
    def expires_at(self) -> float:
        """Unix seconds, 0 for never: ``expire_at`` wins over ``exp``, which then limits only until when the token may be presented."""
        return self.exp if self.expire_at is None else self.expire_at

    @property
    def presented_from(self) -> float:
        """Unix seconds; the token is refused before."""
        return max(int(self.nbf), int(self.iat))

    @property
    def presented_until(self) -> float:
        """Unix seconds; the token is refused from then on."""
        return min(int(self.exp) or inf, self.expires_at or inf)


class Verifier:
    """Checks tokens against the configured keys, audience and issuer."""

    def __init__(self, settings: Tokens, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self._known = KnownTokens(time.time)
        self._known_by = keys.changes
        self._options: Options = {"verify_aud": bool(settings.audience), "verify_iss": bool(settings.issuer)}

    async def learn(self) -> None:
        """Fetches the keys again: to be called after KeyUnknown, before the same token is checked once more."""
        await self._keys.learn(for_a_token=True)

    def connection(self, token: str) -> Identity:
        """The bearer of a connection token. Raises TokenInvalid, TokenStale, or KeyUnknown if ``learn`` may find its key."""
        known = self._find(token)
        if isinstance(known, Identity):
            return known
        claims = self._claims(token)
        if claims.channel is not None:
            raise TokenInvalid("it is a subscription token, not a connection token")
        own = {name: ServerSubscription() for name in claims.channels or ()}
        for name, given in (claims.subs or {}).items():
            own[name] = ServerSubscription(_json(given.info, given.b64info), _json(given.data, given.b64data), _override(given))
        if len(own) > CHANNELS_MOST:
            raise TokenInvalid(f"it names {len(own)} channels; at most {CHANNELS_MOST}")
        info = _json(claims.info, claims.b64info)
        meta = bytes(claims.meta) or None
        identity = Identity(claims.sub or "", False, info, claims.expires_at, claims.jti, claims.iat, own, meta)
        self._known.add(token, claims.presented_from, claims.presented_until, identity)
        return identity

    def subscription(self, token: str) -> Grant:
        """What a subscription token allows. Raises TokenInvalid, TokenStale, or KeyUnknown if ``learn`` may find its key."""
        known = self._find(token)
        if isinstance(known, Grant):
            return known
        claims = self._claims(token)
        if not claims.channel:
            raise TokenInvalid("it names no channel")
        info = _json(claims.info, claims.b64info)
        grant = Grant(claims.sub or "", claims.channel, claims.expires_at, info, claims.jti, claims.iat, _override(claims))
        self._known.add(token, claims.presented_from, claims.presented_until, grant)
        return grant

    def _find(self, token: str) -> Identity | Grant | None:
        """What the token grants, if it was verified before with the keys that there are now."""
        if self._known_by != self._keys.changes:
            self._known_by = self._keys.changes
            self._known.clear()
        return self._known.find(token, self._settings.leeway)

    def _claims(self, token: str) -> _Claims:
        if not self._keys:
            raise TokenInvalid("no tokens.hmac_secret, public_key_file or jwks_url is configured")
        if len(token) > TOKEN_BYTES:
            raise TokenInvalid(f"it is longer than {TOKEN_BYTES} bytes")
        try:
            claims = self._plain_claims(token) or msgspec.convert(self._verified(token), _Claims)
        except jwt.ExpiredSignatureError:
            raise TokenStale("token expired") from None
        except msgspec.ValidationError as error:
            raise TokenInvalid(f"a claim is not what it should be: {error}") from None
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise TokenInvalid(sentence_of(error)) from None
        if not isfinite(claims.expires_at) or not isfinite(claims.iat):
            raise TokenInvalid("a time in it is no number")
        if not (claims.sub or "").isprintable():
            raise TokenInvalid("the user's id holds a control character or half a surrogate pair")
        if claims.expires_at and claims.expires_at <= time.time() - self._settings.leeway:
            raise TokenStale("token expired")
        return claims

    def _plain_claims(self, token: str) -> _Claims | None:
        """The claims of a good token that is as most are; None if PyJWT has to judge it."""
        payload = plain_payload(token, self._keys, self._settings)
        try:
            return None if payload is None else _read_claims(payload)
        except UNREADABLE:
            return None

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims, if one of the keys signed them."""
        signed, header, _, signature = parts_of(token)
        algorithm, id = header.get("alg", ""), header.get("kid", "")
        fitting = self._keys.of(algorithm, id) if isinstance(algorithm, str) and isinstance(id, str) else []
        if fitting and (key := signer(signed, signature, algorithm, fitting)) is not None:
            with _no_warning(key.material):
                return _raw_claims(self._decode(token, key.material, algorithm))
        if isinstance(id, str) and self._keys.may_learn(id):
            raise KeyUnknown(f"no key {id[:60]!r} is known yet")
        raise jwt.InvalidSignatureError if fitting else jwt.InvalidAlgorithmError(NO_KEY)

    def _decode(self, token: str, material: Any, algorithm: str) -> dict[str, Any]:
        settings = self._settings
        return jwt.decode(
            token,
            material,
            algorithms=[algorithm],
            audience=settings.audience or None,
            issuer=settings.issuer or None,
            leeway=settings.leeway,
            options=self._options,
        )


def claimed_channel(token: str) -> str:
    """The channel that a token claims to be for, "" for none. Nothing is verified: this is only for telling a bearer which token was refused."""
    try:
        claims = json.loads(parts_of(token).payload)
    except (jwt.InvalidTokenError, ValueError, RecursionError):  # a UnicodeError is a ValueError
        return ""
    channel = claims.get("channel") if isinstance(claims, dict) else None
    return channel if isinstance(channel, str) else ""


def mint(
    secret: str, *, user: str = "", seconds: float = 3600, channel: str = "", info: Any = None, audience: str = "", issuer: str = ""
) -> str:
    """A connection token, or with ``channel`` a subscription token. ``seconds`` 0 is one that does not expire."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "iat": now}
    if seconds:
        claims["exp"] = now + int(seconds)
    for name, value in (("channel", channel), ("info", info), ("aud", audience), ("iss", issuer)):
        if value not in ("", None):
            claims[name] = value
    with _no_warning(secret):
        return jwt.encode(claims, secret, algorithm="HS256")


@contextmanager
def _no_warning(key: Any) -> Iterator[None]:
    """A gateway logs once, at its start, that its secret is short; PyJWT would warn with every token."""
    if not isinstance(key, str) or len(key.encode()) >= LONGEST_HASH:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)
        yield


_claims_of = msgspec.json.Decoder(_Claims).decode
_RAW = ("info", "data", "meta")  # claims that are any JSON, and are passed on as it


def _read_claims(payload: bytes) -> _Claims:
    claims = _claims_of(payload)
    claims.info, claims.meta = _compact(claims.info), _compact(claims.meta)
    for each in (claims.subs or {}).values():
        each.info, each.data = _compact(each.info), _compact(each.data)
    return claims


def _compact(raw: msgspec.Raw) -> msgspec.Raw:
    """The same JSON as ``_raw_claims`` makes of it: on one line; nothing for null."""
    text = bytes(raw)
    return msgspec.Raw(encode(json.loads(text))) if text not in (b"", b"null") else msgspec.Raw()


def _raw_claims(claims: dict[str, Any]) -> dict[str, Any]:
    raw = {name: msgspec.Raw(_check_depth(encode(claims[name]), f"the claim {name!r}")) for name in _RAW if claims.get(name) is not None}
    claims = {name: value for name, value in claims.items() if name not in _RAW} | raw
    if isinstance(claims.get("subs"), dict):
        claims["subs"] = {name: _raw_claims(sub) if isinstance(sub, dict) else sub for name, sub in claims["subs"].items()}
    return claims


def _override(claims: _Claims | _Subscription) -> Override | None:
    return None if claims.override is None else claims.override.override


def _json(raw: msgspec.Raw, b64: str) -> bytes | None:
    """Raw JSON, or what base64 holds; None for neither."""
    if not b64:
        return bytes(raw) or None
    try:
        text = base64.b64decode(b64, validate=True)
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError, msgspec.MsgspecError):  # binascii's errors are ValueErrors
        raise TokenInvalid("a claim in base64 holds no JSON") from None
    _check_depth(text, "a claim in base64")
    return encode(value)


def _check_depth(text: bytes, what: str) -> bytes:
    """The JSON itself, which has to be nested no deeper than a publication may be: each version of Python lets a decoder go down to another depth."""
    if not is_json(text):
        raise TokenInvalid(f"{what} is nested more than {MAX_DEPTH} deep")
    return text
