"""Clients' tokens: JSON Web Tokens, checked with the keys of ``keys.py``. Source of the claims: docs/reference/tokens.md.

A token that is refused never turns its bearer into an anonymous client.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from typing import Any

import jwt
import msgspec
from jwt.types import Options
from jwt.warnings import InsecureKeyLengthWarning

from ..config import Tokens
from ..errors import Internal, KeyUnknown, TokenEarly, TokenInvalid, TokenStale
from ..rules.identity import ANONYMOUS, Grant, Identity, ServerSubscription
from ..rules.json_text import UNREADABLE
from .claims import AHEAD_SECONDS, Claims, claims_of, json_of
from .keys import Keys
from .known_tokens import KnownTokens, token_digest
from .plain_tokens import plain_claims
from .signatures import parts_of, signer
from .token_faults import NO_KEY, sentence_of

__all__ = ["SHORT_SECRET", "Verifier", "claimed_channel", "mint"]

SHORT_SECRET = 32  # bytes: what RFC 7518, 3.2 asks of an HS256 key
LONGEST_HASH = 64  # bytes: of HS512; for a shorter secret PyJWT warns with each token
TOKEN_BYTES = 16 * 1024
CHANNELS_MOST = 1000  # of one token


class Verifier:
    """Checks tokens against the configured keys, audience and issuer.

    Where the key server could not be asked, a token that may be signed with one of its keys raises Internal: its bearer may come again. So does one
    that claims to be newer than its last answer, for it is not asked again at once.
    """

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
        digest = token_digest(token)
        known = self._find(digest)
        if isinstance(known, Identity):
            return known
        claims = self._claims(token)
        if claims.channel is not None:
            raise TokenInvalid("it is a subscription token, not a connection token")
        own = _own_channels(claims) if claims.channels or claims.subs else ANONYMOUS.channels
        info = json_of(claims.info, claims.b64info)
        meta = bytes(claims.meta) or None
        identity = Identity(claims.sub or "", False, info, claims.expires_at, claims.jti, claims.iat, own, meta)
        self._known.add(digest, claims.presented_from, claims.presented_until, identity)
        return identity

    def subscription(self, token: str) -> Grant:
        """What a subscription token allows. Raises TokenInvalid, TokenStale, or KeyUnknown if ``learn`` may find its key."""
        digest = token_digest(token)
        known = self._find(digest)
        if isinstance(known, Grant):
            return known
        claims = self._claims(token)
        if not claims.channel:
            raise TokenInvalid("it names no channel")
        info = json_of(claims.info, claims.b64info)
        client = "" if claims.client is None else claims.client
        if not isinstance(client, str):
            raise TokenInvalid("its claim 'client' is no id of a connection")
        grant = Grant(claims.sub or "", claims.channel, claims.expires_at, info, claims.jti, claims.iat, claims.granted_override, client)
        self._known.add(digest, claims.presented_from, claims.presented_until, grant)
        return grant

    def _find(self, digest: bytes) -> Identity | Grant | None:
        """What the token grants, if it was verified before with the keys that there are now."""
        if self._known_by != self._keys.changes:
            self._known_by = self._keys.changes
            self._known.clear()
        return self._known.find(digest, self._settings.leeway)

    def _claims(self, token: str) -> Claims:
        if not self._keys:
            raise TokenInvalid("no tokens.hmac_secret, public_key_file or jwks_url is configured")
        if len(token) > TOKEN_BYTES:
            raise TokenInvalid(f"it is longer than {TOKEN_BYTES} bytes")
        try:
            claims = plain_claims(token, self._keys, self._settings) or claims_of(self._verified(token))
        except jwt.ExpiredSignatureError:
            raise TokenStale("token expired") from None
        except msgspec.ValidationError as error:
            raise TokenInvalid(f"a claim is not what it should be: {error}") from None
        except jwt.ImmatureSignatureError as error:
            raise TokenEarly(sentence_of(error)) from None
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise TokenInvalid(sentence_of(error)) from None
        if not isfinite(claims.expires_at) or not isfinite(claims.iat):
            raise TokenInvalid("a time in it is no number")
        if not (claims.sub or "").isprintable():
            raise TokenInvalid("the user's id holds a control character or half a surrogate pair")
        if claims.expires_at and claims.expires_at <= time.time() - self._settings.leeway:
            raise TokenStale("token expired")
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims, if one of the keys signed them."""
        signed, header, payload, signature = parts_of(token)
        algorithm, id = header.get("alg", ""), header.get("kid", "")
        fitting = self._keys.of(algorithm, id) if isinstance(algorithm, str) and isinstance(id, str) else []
        if fitting and (key := signer(signed, signature, algorithm, fitting)) is not None:
            with _no_warning(key.material):
                return self._decode(token, key.material, algorithm)
        if isinstance(algorithm, str) and isinstance(id, str) and self._keys.lacks(algorithm, id):
            if self._keys.may_ask:
                raise KeyUnknown(f"no key {id[:60]!r} is known yet")
            if self._keys.fault or _claimed_issue(payload) > self._keys.fetched_at:
                raise Internal("no key here is the token's, and tokens.jwks_url could not be read, or not since the token was issued")
        raise jwt.InvalidSignatureError if fitting else jwt.InvalidAlgorithmError(NO_KEY)

    def _decode(self, token: str, material: Any, algorithm: str) -> dict[str, Any]:
        settings = self._settings
        decode = partial(
            jwt.decode,
            token,
            material,
            algorithms=[algorithm],
            audience=settings.audience or None,
            issuer=settings.issuer or None,
            leeway=settings.leeway,
        )
        try:
            return decode(options=self._options)
        except jwt.ImmatureSignatureError:
            issued = jwt.decode(token, options={"verify_signature": False}).get("iat", 0)
            if int(issued) - AHEAD_SECONDS > time.time() + settings.leeway:
                raise
        return decode(options=self._options | {"verify_iat": False})  # raises again for "nbf"


def _own_channels(claims: Claims) -> dict[str, ServerSubscription]:
    own = {name: ServerSubscription() for name in claims.channels or ()}
    for name, given in (claims.subs or {}).items():
        own[name] = ServerSubscription(json_of(given.info, given.b64info), json_of(given.data, given.b64data), given.granted_override)
    if len(own) > CHANNELS_MOST:
        raise TokenInvalid(f"it names {len(own)} channels; at most {CHANNELS_MOST}")
    return own


class _Issue(msgspec.Struct):
    iat: float = 0


_issue = msgspec.json.Decoder(_Issue).decode


def _claimed_issue(payload: bytes) -> float:
    """When a token claims to be issued, in unix seconds, 0 for none. Nothing is verified."""
    try:
        return _issue(payload).iat
    except UNREADABLE:
        return 0


def claimed_channel(token: str) -> str:
    """The channel that a token claims to be for, "" for none. Nothing is verified: this is only for telling a bearer which token was refused."""
    try:
        claims = json.loads(parts_of(token).payload)
    except (jwt.InvalidTokenError, ValueError, RecursionError):  # a UnicodeError is a ValueError
        return ""
    channel = claims.get("channel") if isinstance(claims, dict) else None
    return channel if isinstance(channel, str) else ""


def mint(
    secret: str,
    *,
    user: str = "",
    seconds: float = 3600,
    channel: str = "",
    channels: Sequence[str] = (),
    info: Any = None,
    audience: str = "",
    issuer: str = "",
) -> str:
    """A connection token, which subscribes to ``channels``, or with ``channel`` a subscription token. ``seconds`` 0 is one that does not expire."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "iat": now}
    if seconds:
        claims["exp"] = now + int(seconds)
    for name, value in (("channel", channel), ("channels", list(channels)), ("info", info), ("aud", audience), ("iss", issuer)):
        if value not in ("", None, []):
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
