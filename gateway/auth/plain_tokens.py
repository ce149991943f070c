"""Tokens as nearly all are, verified without PyJWT's detours: it prepares the key again for each token, and reads the header twice.

What is accepted here PyJWT would accept as well. Nothing is refused here: a token that is unusual in any way, or not good, is left to PyJWT,
which judges it and finds the words. Signatures of public keys are verified by PyJWT's own algorithms.
"""

from __future__ import annotations

import time
from binascii import a2b_base64, b2a_base64
from hmac import compare_digest, digest

import msgspec
from jwt.algorithms import get_default_algorithms
from msgspec import UNSET, UnsetType

from ..config import Tokens
from ..rules.json_text import UNREADABLE, is_json
from .keys import Keys

__all__ = ["plain_payload"]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    alg: str
    typ: str = ""
    kid: str = ""


class _Registered(msgspec.Struct):
    """The claims that PyJWT checks. A claim that is null or of another type is not usual."""

    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    sub: str | UnsetType = UNSET
    jti: str | UnsetType = UNSET


PAYLOAD_BYTES = 4096  # Python refuses to read a number of more than 4,300 digits
_ALGORITHMS = get_default_algorithms()
_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}  # RFC 7518, 3.2
_header_of = msgspec.json.Decoder(_Header).decode
_registered_of = msgspec.json.Decoder(_Registered).decode
_STANDARD, _URL_SAFE = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")


def plain_payload(token: str, keys: Keys, settings: Tokens) -> bytes | None:
    """The claims of a good token, in JSON; None if PyJWT has to judge the token."""
    try:
        signed, _, signature = token.encode("ascii").rpartition(b".")
        head, _, body = signed.partition(b".")
        header, payload = _header_of(_part(head)), _part(body)
        registered, sent = _registered_of(payload), _part(signature)
        is_good = _is_in_force(registered, settings) and _is_signed(signed, sent, header, keys)
    except (*UNREADABLE, OverflowError):
        return None
    return payload if is_good and _is_readable(payload) else None


def _part(text: bytes) -> bytes:
    """What a part of a token encodes. Raises ValueError for all but the one canonical text of those bytes. Source: RFC 7515, 2."""
    data = a2b_base64(text.translate(_STANDARD) + b"==")
    if b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE) != text:
        raise ValueError("not canonical")
    return data


def _is_readable(payload: bytes) -> bool:
    """Whether any parser reads it: msgspec does not look into the claims that nobody asks for, where PyJWT's parser meets its limits."""
    return len(payload) <= PAYLOAD_BYTES and is_json(payload)


def _is_in_force(claims: _Registered, settings: Tokens) -> bool:
    now, leeway = time.time(), settings.leeway
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    return (
        (claims.exp is UNSET or int(claims.exp) > now - leeway)
        and (claims.nbf is UNSET or int(claims.nbf) <= now + leeway)
        and (claims.iat is UNSET or int(claims.iat) <= now + leeway)
        and (not settings.audience or settings.audience in audiences)
        and (not settings.issuer or settings.issuer == claims.iss)
    )


def _is_signed(signed: bytes, signature: bytes, header: _Header, keys: Keys) -> bool:
    """Whether one of the keys that fit the header made the signature."""
    fitting = keys.of(header.alg, header.kid)
    if hash := _HASHES.get(header.alg):
        return any(compare_digest(digest(key.prepared, signed, hash), signature) for key in fitting)
    algorithm = _ALGORITHMS.get(header.alg)
    return algorithm is not None and any(algorithm.verify(signed, key.prepared, signature) for key in fitting)
